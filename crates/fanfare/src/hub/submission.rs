//! A publish on its way to a log that nodes share ([`crate::Backplane`]): the publisher's side.
//!
//! ```text
//!   Waiting --begin--> Begun --complete--> Done
//!      |                 \--the publisher leaves--> Begun: it may become visible
//!      \--the publisher leaves--> Cancelled: it is never sent
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::line::{LinePosition, Ticket, WaitingPublishers};
use crate::backplane::{Accepted, NotAccepted};
use crate::sync::{Condvar, Mutex, lock};

/// All submissions of an engine: its end waits for those that the shared log has not answered.
#[derive(Default)]
pub(crate) struct Submissions {
    state: Mutex<Unanswered>,
    /// None is left.
    is_idle: Condvar,
}

#[derive(Default)]
struct Unanswered {
    count: usize,
    /// The highest number that was given to one of them.
    newest: u64,
    is_closed: bool,
}

/// What a publisher and the backplane know of one submission.
pub(crate) struct SubmissionSlot {
    state: Mutex<State>,
    waiting: Arc<WaitingPublishers>,
    all: Arc<Submissions>,
}

impl Submissions {
    /// A slot for one more. `None`: no more is taken.
    pub(super) fn slot(self: &Arc<Self>, waiting: &Arc<WaitingPublishers>) -> Option<Arc<SubmissionSlot>> {
        let mut state = lock(&self.state);
        if state.is_closed {
            return None;
        }
        state.count += 1;
        let (waiting, all) = (Arc::clone(waiting), Arc::clone(self));
        Some(Arc::new(SubmissionSlot { state: Mutex::default(), waiting, all }))
    }

    /// One of them is answered, or was cancelled.
    fn remove(&self, newest: u64) {
        let mut state = lock(&self.state);
        state.count -= 1;
        state.newest = state.newest.max(newest);
        if state.count == 0 {
            self.is_idle.notify_all();
        }
    }

    /// Takes no more, and waits until all are answered, at most for `patience`. The highest number that one
    /// of them was given.
    pub(super) fn close(&self, patience: Duration) -> u64 {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let newest = state.newest;
        #[cfg(not(fanfare_loom))]
        if !patience.is_zero() {
            let idle = self.is_idle.wait_timeout_while(state, patience, |state| state.count > 0);
            return idle.unwrap_or_else(std::sync::PoisonError::into_inner).0.newest;
        }
        let _ = patience;
        newest
    }
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
        let accepted = match &result {
            Ok(accepted) => accepted,
            Err(not_accepted) => &not_accepted.accepted,
        };
        let newest = accepted.iter().map(|accepted| accepted.number).max().unwrap_or(0);
        state.phase = Phase::Done(result);
        let waiter = state.waiter.take();
        drop(state);
        self.all.remove(newest);
        if let Some(ticket) = waiter {
            self.waiting.call_one(ticket);
        }
    }

    /// The publisher leaves. True: nothing was sent, and nothing will be.
    pub(super) fn cancel(&self) -> bool {
        let mut state = lock(&self.state);
        state.waiter = None;
        let is_sent = matches!(state.phase, Phase::Begun | Phase::Done(_));
        if matches!(state.phase, Phase::Waiting) {
            state.phase = Phase::Cancelled;
            drop(state);
            self.all.remove(0);
        }
        !is_sent
    }

    /// The result, taken; `None`: it has not come.
    pub(super) fn take_done(&self) -> Option<Result<Vec<Accepted>, NotAccepted>> {
        match &mut lock(&self.state).phase {
            Phase::Done(result) => Some(std::mem::replace(result, Ok(Vec::new()))),
            _ => None,
        }
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
