//! A subscription about which the endpoint is asked, and what its answer makes of it.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use fanfare::{Decision, DecisionTicket, InvalidHeader, ProblemKind, Refusal, Subscribe};
use fanfare_access::{AccessError, Verified};
use tokio::sync::oneshot;

use super::answer::{Answer, Grant, every_topic};
use super::question::Question;
use super::settled::Settled;
use super::{Forward, Waiter};
use crate::access::Access;
use crate::control::{Notice, Notices};
use crate::rules::CurrentRules;
use crate::turns::TurnOf;

/// A subscription that no token and no signed URL lets in. [`Asking::ask`] asks about it.
pub(crate) struct Asking {
    pub(crate) forward: Arc<Forward>,
    pub(crate) question: Question,
    pub(crate) subscription: UndecidedSubscription,
}

/// A subscription that an endpoint, or the verification of its token, decides about.
pub(crate) struct UndecidedSubscription {
    /// What is decided is decided by those of that moment.
    pub(crate) rules: CurrentRules,
    pub(crate) notices: Arc<Notices>,
    pub(crate) subscribe: Subscribe,
    /// Fields that each answer to this request has.
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) of: TurnOf,
    /// The memory that it takes, about.
    pub(crate) bytes: usize,
}

/// Where the decision goes.
pub(crate) enum To {
    /// To the shard of the request.
    Shard(DecisionTicket),
    /// To a task of the control plane.
    Task(oneshot::Sender<Decision>),
}

impl To {
    /// Whether the client still waits.
    pub(crate) fn is_wanted(&self) -> bool {
        match self {
            To::Shard(ticket) => ticket.is_wanted(),
            To::Task(task) => !task.is_closed(),
        }
    }

    pub(crate) fn decide(self, decision: Decision) {
        match self {
            To::Shard(ticket) => ticket.decide(decision),
            // Its client may have left.
            To::Task(task) => drop(task.send(decision)),
        }
    }
}

struct Waiting {
    /// The endpoint that is asked. Its threads end although requests wait for it.
    asked: Weak<Forward>,
    subscription: UndecidedSubscription,
    to: To,
}

impl Asking {
    pub(crate) fn ask(self, to: To) {
        let Asking { forward, question, subscription } = self;
        let bytes = subscription.bytes;
        let asked = Arc::downgrade(&forward);
        forward.ask(question, Waiting { asked, subscription, to }, bytes);
    }
}

impl Waiter for Waiting {
    fn is_wanted(&self) -> bool {
        self.to.is_wanted()
    }

    fn accepts(&self, settled: &Settled) -> bool {
        match &settled.answer {
            Answer::Granted(grant) => !self.subscription.rules.get().access.bars(&verified(grant, settled)),
            Answer::Refused(..) | Answer::Failed(_) => true,
        }
    }

    fn decide(self, settled: &Settled) {
        let decision = self.subscription.decide(&self.asked, settled);
        self.to.decide(decision);
    }
}

impl UndecidedSubscription {
    fn decide(self, asked: &Weak<Forward>, settled: &Settled) -> Decision {
        let UndecidedSubscription { rules, notices, subscribe, fields, of: TurnOf { client, .. }, .. } = self;
        let access = Arc::clone(&rules.get().access);
        // A reload may have named another endpoint while the answer was on its way, because this one is not
        // to be believed any more.
        let is_asked_still =
            access.forward().is_some_and(|now| std::ptr::eq(Arc::as_ptr(now), asked.as_ptr()));
        if !is_asked_still {
            return with_fields(access.has_changed().map(Err), &fields);
        }
        let judged = match &settled.answer {
            Answer::Granted(grant) => admit(&access, &notices, grant, settled, subscribe, client),
            Answer::Refused(status, challenge) => {
                notices.add_from(Notice::AuthorizationRefused, client);
                let reason = format!("the authorization endpoint answered {status}");
                let kind = match status {
                    401 => ProblemKind::AuthorizationRequired,
                    _ => ProblemKind::AuthorizationDenied,
                };
                let refusal = Refusal::of(kind, access.explain("this subscription is not allowed", reason));
                match status {
                    401 => refusal.with_header("WWW-Authenticate", challenge.as_deref().unwrap_or("Bearer")),
                    _ => Ok(refusal),
                }
                .map(Err)
            }
            Answer::Failed(failure) => {
                notices.add_failure(*failure, client);
                let detail = "the server cannot find out now whether this subscription is allowed";
                access
                    .try_again(ProblemKind::AuthorizationUnavailable, access.explain(detail, failure))
                    .map(Err)
            }
        };
        with_fields(judged, &fields)
    }
}

fn admit(
    access: &Access,
    notices: &Notices,
    grant: &Grant,
    settled: &Settled,
    subscribe: Subscribe,
    client: Option<IpAddr>,
) -> Result<Result<Subscribe, Refusal>, InvalidHeader> {
    let verified = verified(grant, settled);
    if access.bars(&verified) {
        // The endpoint has answered before it could know that. The client's next question is a new one.
        notices.add_denial(AccessError::Revoked, client);
        let detail = access.explain("this subscription was ended", AccessError::Revoked);
        return access.try_again(ProblemKind::SubscriptionEnded, detail).map(Err);
    }
    match access.admit_verified(&verified, subscribe) {
        Ok(subscribe) if grant.private => Ok(Ok(subscribe)),
        Ok(subscribe) => Ok(Ok(subscribe.with_private_events(false))),
        Err(denial) => {
            notices.add_denial(denial.reason, client);
            denial.refusal().map(Err)
        }
    }
}

/// The answer as what a token would say.
fn verified(grant: &Grant, settled: &Settled) -> Verified {
    let topics = grant.topics.clone().unwrap_or_else(every_topic);
    Verified::by_service(grant.subject.as_ref(), settled.asked_unix_s, grant.expires_unix_s, topics)
}

/// A decision with the fields that each answer to its request has.
pub(crate) fn with_fields(
    judged: Result<Result<Subscribe, Refusal>, InvalidHeader>,
    fields: &[(&'static str, String)],
) -> Decision {
    let mut fields = fields.iter().map(|(name, value)| (*name, value.as_str()));
    let decided = judged.and_then(|judged| match judged {
        Ok(subscribe) => {
            let subscribe = fields.try_fold(subscribe, |head, (name, value)| head.with_header(name, value));
            subscribe.map(Decision::Subscribe)
        }
        Err(refusal) => {
            let refusal = fields.try_fold(refusal, |head, (name, value)| head.with_header(name, value));
            refusal.map(Decision::Refuse)
        }
    });
    // A field echoes the origin.
    decided.unwrap_or_else(|invalid| {
        Decision::Refuse(Refusal::of(ProblemKind::MalformedRequest, invalid.to_string()))
    })
}
