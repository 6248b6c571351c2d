//! A publish on its way to a log that nodes share ([`crate::Backplane`]): the publisher's side.
//!
//! ```text
//!   Waiting --begin--> Begun --complete--> Done
//!      |                 \--the publisher leaves--> Begun: it may become visible
//!      \--the publisher leaves--> Cancelled: it is never sent
//! ```

use std::sync::Arc;

use super::line::{LinePosition, Ticket, WaitingPublishers};
use crate::backplane::{Accepted, NotAccepted};
use crate::sync::{Mutex, lock};

/// What a publisher and the backplane know of one submission.
pub(crate) struct SubmissionSlot {
    state: Mutex<State>,
    waiting: Arc<WaitingPublishers>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// What to call when it is done.
    waiter: Option<Ticket>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Waiting,
    Cancelled,
    Begun,
    Done(Result<Vec<Accepted>, NotAccepted>),
}

impl SubmissionSlot {
    pub(super) fn new(waiting: Arc<WaitingPublishers>) -> Arc<SubmissionSlot> {
        Arc::new(SubmissionSlot { state: Mutex::default(), waiting })
    }

    /// The backplane sends the events now. False: the publisher has left.
    pub(crate) fn begin(&self) -> bool {
        let mut state = lock(&self.state);
        match state.phase {
            Phase::Waiting => state.phase = Phase::Begun,
            Phase::Cancelled => return false,
            Phase::Begun | Phase::Done(_) => {}
        }
        true
    }

    pub(crate) fn has_begun(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Begun | Phase::Done(_))
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(lock(&self.state).phase, Phase::Cancelled)
    }

    pub(crate) fn complete(&self, result: Result<Vec<Accepted>, NotAccepted>) {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Cancelled | Phase::Done(_)) {
            return;
        }
        state.phase = Phase::Done(result);
        let waiter = state.waiter.take();
        drop(state);
        if let Some(ticket) = waiter {
            self.waiting.call_one(ticket);
        }
    }

    /// The publisher leaves. True: nothing was sent, and nothing will be.
    pub(super) fn cancel(&self) -> bool {
        let mut state = lock(&self.state);
        state.waiter = None;
        if matches!(state.phase, Phase::Waiting) {
            state.phase = Phase::Cancelled;
        }
        matches!(state.phase, Phase::Cancelled)
    }

    /// The result, taken; `None`: it has not come, and the publisher with this position is called when it
    /// comes.
    pub(super) fn take(&self, position: &LinePosition) -> Option<Result<Vec<Accepted>, NotAccepted>> {
        let mut state = lock(&self.state);
        if let Phase::Done(result) = &mut state.phase {
            return Some(std::mem::replace(result, Ok(Vec::new())));
        }
        state.waiter = Some(position.ticket());
        None
    }
}
