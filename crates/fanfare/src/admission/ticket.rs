//! Decisions that come later.

use std::fmt;
use std::sync::{Arc, Weak};

use fanfare_proto::link::LinkKey;
use fanfare_proto::problem::ProblemKind;

use super::{Decision, Refusal};
use crate::mailbox::{Mail, Mailbox};
use crate::sync::{Mutex, lock};

/// The right to decide about one request: see [`Decision::later`]. When it is dropped without a decision, the
/// request is answered 500.
#[must_use = "a ticket that is dropped refuses the request"]
pub struct DecisionTicket {
    /// Taken when the decision is made.
    to: Option<To>,
}

enum To {
    /// The engine waits for this request.
    Shard(UndecidedAddress),
    /// The admission made the ticket, and has perhaps not answered yet.
    Pledge(Arc<Pledge>),
}

/// What [`Decision::later`] gives back to the engine.
#[must_use = "an admission gives it back in its decision"]
pub struct Later {
    pledge: Arc<Pledge>,
}

/// Where a ticket and the engine meet: either may come first.
struct Pledge(Mutex<PledgeState>);

enum PledgeState {
    /// Neither has come.
    Open,
    /// The engine waits for the decision.
    Awaited(UndecidedAddress),
    /// The decision waits for the engine.
    Decided(Box<Decision>),
    /// The decision was made and fetched, or the admission did not give its [`Later`] back.
    Closed,
}

/// Where the decision about a request goes.
#[derive(Clone)]
pub(crate) struct UndecidedAddress {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) key: LinkKey,
    /// Dead once the request has been answered.
    pub(crate) wanted: Weak<()>,
}

/// A decision on its way to the shard that waits for it.
pub(crate) struct Decided {
    pub(crate) key: LinkKey,
    /// The decision, which is not one that comes later, or the answer to a request at which the admission
    /// panicked.
    pub(crate) decision: Result<Decision, Refusal>,
}

pub(super) fn later() -> (Later, DecisionTicket) {
    let pledge = Arc::new(Pledge(Mutex::new(PledgeState::Open)));
    (Later { pledge: Arc::clone(&pledge) }, DecisionTicket { to: Some(To::Pledge(pledge)) })
}

impl DecisionTicket {
    /// A ticket for a request for which a shard waits.
    pub(crate) fn of(address: UndecidedAddress) -> DecisionTicket {
        DecisionTicket { to: Some(To::Shard(address)) }
    }

    /// Decides, on any thread. Where the request has been answered meanwhile, because its time was over or
    /// the engine drains, the decision is dropped. The decision may again be one that comes later: the time
    /// goes on.
    ///
    /// On a shard's thread of another engine that has private descriptor tables, the shard of this request
    /// cannot be woken: there the decision is dropped, and the request is answered when its time is over.
    pub fn decide(mut self, decision: Decision) {
        if let Some(to) = self.to.take() {
            to.decide(Ok(decision));
        }
    }

    /// The answer to a request at which the admission panicked.
    pub(crate) fn refuse_after_panic(mut self, refusal: Refusal) {
        if let Some(to) = self.to.take() {
            to.decide(Err(refusal));
        }
    }

    /// Whether the request still waits for its decision: an admission need not ask its database for a request
    /// whose time is over.
    pub fn is_wanted(&self) -> bool {
        match &self.to {
            None => false,
            Some(To::Shard(address)) => address.is_wanted(),
            Some(To::Pledge(pledge)) => match &*lock(&pledge.0) {
                PledgeState::Open => true,
                PledgeState::Awaited(address) => address.is_wanted(),
                PledgeState::Decided(_) | PledgeState::Closed => false,
            },
        }
    }
}

impl Drop for DecisionTicket {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            let undecided =
                Refusal::of(ProblemKind::DecisionFailed, "the server did not decide about this request");
            to.decide(Ok(Decision::Refuse(undecided)));
        }
    }
}

impl To {
    fn decide(self, decision: Result<Decision, Refusal>) {
        match self {
            To::Shard(address) => address.send(decision),
            To::Pledge(pledge) => {
                let decision = decision.unwrap_or_else(Decision::Refuse);
                let mut state = lock(&pledge.0);
                // What is taken out is used, or dropped, without the lock.
                let address = match std::mem::replace(&mut *state, PledgeState::Closed) {
                    PledgeState::Open => {
                        *state = PledgeState::Decided(Box::new(decision));
                        return;
                    }
                    PledgeState::Awaited(address) => Some(address),
                    PledgeState::Decided(_) | PledgeState::Closed => None,
                };
                drop(state);
                if let Some(address) = address {
                    address.send(Ok(decision));
                }
            }
        }
    }
}

impl Later {
    /// The engine waits for the decision from now on. One that was made before comes as mail, too.
    pub(crate) fn wait_at(self, address: UndecidedAddress) {
        if let Some((address, decision)) = self.meet(address) {
            address.send(Ok(decision));
        }
    }

    /// Leaves the address here, or gives it back with the decision that was made already.
    fn meet(self, address: UndecidedAddress) -> Option<(UndecidedAddress, Decision)> {
        let mut state = lock(&self.pledge.0);
        match std::mem::replace(&mut *state, PledgeState::Closed) {
            PledgeState::Open => {
                *state = PledgeState::Awaited(address);
                None
            }
            PledgeState::Decided(decision) => Some((address, *decision)),
            PledgeState::Awaited(_) | PledgeState::Closed => {
                unreachable!("the engine waits once for each pledge")
            }
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let mut state = lock(&self.pledge.0);
        // The admission did not give it back: the request was answered otherwise.
        if matches!(*state, PledgeState::Open | PledgeState::Decided(_)) {
            let unwanted = std::mem::replace(&mut *state, PledgeState::Closed);
            drop(state);
            drop(unwanted);
        }
    }
}

impl UndecidedAddress {
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.strong_count() > 0
    }

    /// Sends the decision to the shard, or leaves the address where the decision is to come later.
    ///
    /// A decision that puts off again does not go by way of the shard. If it did, the last decision would be
    /// mail only after the shard had taken the mail before it, and an order that was given meanwhile
    /// (`Hub::disconnect_subject`) would come before a decision that is older than itself.
    fn send(mut self, mut decision: Result<Decision, Refusal>) {
        while let Ok(Decision::Later(later)) = decision {
            let Some((address, next)) = later.meet(self) else { return };
            (self, decision) = (address, Ok(next));
        }
        // A shard has at most `Limits::undecided` requests that wait, and each gets one decision.
        if self.is_wanted() && self.mailbox.is_in_reach() {
            let mail = Mail::Decided(Box::new(Decided { key: self.key, decision }));
            let _ = self.mailbox.push(mail, || Ok::<_, ()>(()));
        }
    }
}

impl fmt::Debug for DecisionTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionTicket").field("is_wanted", &self.is_wanted()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}
