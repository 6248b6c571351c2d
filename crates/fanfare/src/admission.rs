//! The embedder's decision on each request head: whether it subscribes, and to which topics.
//!
//! [`request`] is what an admission is shown, [`subscribe`] and [`answer`] are what it decides, [`ticket`] is
//! a decision that comes later, and [`threads`] are the threads on which admissions run.

mod answer;
#[cfg(test)]
#[cfg(fanfare_loom)]
mod models;
mod request;
mod subscribe;
mod threads;
mod ticket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fanfare_proto::problem::ProblemKind;

pub use answer::{Answer, InvalidHeader, Refusal};
pub use request::Request;
pub(crate) use request::Via;
pub use subscribe::{InvalidSubject, Subscribe};
pub(crate) use subscribe::{Selectors, WrongTopics};
pub(crate) use threads::{AdmissionThreads, Job};
pub(crate) use ticket::{Decided, UndecidedAddress};
pub use ticket::{DecisionTicket, Later};

/// Decides what a request becomes. A closure `Fn(&Request) -> Decision` is one.
///
/// An engine that was given one with [`crate::Builder::admission`] calls it on threads of its own
/// ([`crate::Builder::admission_threads`]), never on a shard's thread. It may log, lock, publish, use
/// channels, files and runtimes, and block: while it blocks, other requests wait for the other threads, and
/// streams wait for nothing. A request without a decision within [`crate::Limits::decision_time`] is answered
/// 503. An admission that has to wait for others, such as a database, should not block: see
/// [`Decision::later`].
///
/// [`crate::Builder::admission_on_shards`] saves the way to another thread, and asks for a promise.
///
/// A panic in it is an answer to one request: 500, and [`crate::Counts::admission_panics`] counts it. The
/// engine serves on and calls it again, so state that its calls share must bear a panic, as behind a mutex
/// that is poisoned.
pub trait Admission: Send + Sync + 'static {
    /// Called once for each complete and well-formed request head.
    fn admit(&self, request: &Request<'_>) -> Decision;
}

impl<F> Admission for F
where
    F: Fn(&Request<'_>) -> Decision + Send + Sync + 'static,
{
    fn admit(&self, request: &Request<'_>) -> Decision {
        self(request)
    }
}

/// Where admissions run.
#[derive(Clone)]
pub(crate) enum Admissions {
    /// On the thread of the shard that received the request.
    OnShards(Arc<dyn Admission>),
    OnThreads(Arc<AdmissionThreads>),
}

/// What the admission decides, or the refusal of a request at which it panicked.
pub(crate) fn decide(admission: &dyn Admission, request: &Request<'_>) -> Result<Decision, Refusal> {
    // `AssertUnwindSafe` holds, because a panic leaves nothing half changed that is used afterwards. The call
    // borrows the request, which has no interior mutability, and the admission, whose documentation says that
    // it is called again. The shard's own state is not in its reach. If it publishes, a panic inside the hub
    // leaves the hub whole: the hub's locks are used after a poisoning for the same reason.
    let decided = catch_unwind(AssertUnwindSafe(|| admission.admit(request)));
    decided.map_err(|payload| {
        // The payload is the embedder's, too: its drop may panic.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(another);
        }
        Refusal::of(
            ProblemKind::DecisionFailed,
            "the server failed to decide about this request; its standard error says why",
        )
    })
}

/// What a request becomes.
#[derive(Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "a decision is made, moved a few times, and gone")]
pub enum Decision {
    /// The request becomes a stream.
    Subscribe(Subscribe),
    /// An answer with a reason, then the end of the connection.
    Refuse(Refusal),
    /// A whole answer, then the end of the connection: for a health check, say, that the engine answers
    /// itself. Where another request has come behind this one already, and [`crate::Builder::hand_over`] was
    /// set, the socket is handed over instead, so that both are answered.
    Answer(Answer),
    /// For another server in the process: the socket and what was received go to
    /// [`crate::Engine::hand_over`]. Where [`crate::Builder::hand_over`] was not set, or what it gave was
    /// dropped, the answer is 404.
    HandOver,
    /// The decision comes later: see [`Decision::later`].
    Later(Later),
}

impl Decision {
    /// A decision that comes later, from any thread or task: give the first part back from
    /// [`Admission::admit`], and use the second one to decide.
    ///
    /// The request waits meanwhile, without a thread: it costs its socket and its head. It is answered 503
    /// when [`crate::Limits::decision_time`] is over, or at once where [`crate::Limits::undecided`] requests
    /// of its shard wait already, and 500 when the ticket is dropped.
    ///
    /// ```
    /// use fanfare::{Decision, Engine, Refusal, Request, Subscribe};
    ///
    /// # fn knows(session: &[u8]) -> bool { true }
    /// # fn main() -> Result<(), fanfare::StartError> {
    /// let engine = Engine::builder().admission(|request: &Request<'_>| {
    ///     let session = request.header("cookie").unwrap_or_default().to_vec();
    ///     let subscribe = Subscribe::from_request(request, 8);
    ///     let (later, ticket) = Decision::later();
    ///     // A task of a runtime does as well as a thread.
    ///     std::thread::spawn(move || match subscribe {
    ///         Ok(subscribe) if knows(&session) => ticket.decide(Decision::Subscribe(subscribe)),
    ///         Ok(_) => ticket.decide(Decision::Refuse(Refusal::new(401, "sign in first"))),
    ///         Err(error) => ticket.decide(Decision::Refuse(error.into())),
    ///     });
    ///     later
    /// });
    /// # Ok(()) }
    /// ```
    pub fn later() -> (Decision, DecisionTicket) {
        let (later, ticket) = ticket::later();
        (Decision::Later(later), ticket)
    }
}

impl From<Subscribe> for Decision {
    fn from(subscribe: Subscribe) -> Decision {
        Decision::Subscribe(subscribe)
    }
}

impl From<Refusal> for Decision {
    fn from(refusal: Refusal) -> Decision {
        Decision::Refuse(refusal)
    }
}

impl From<Answer> for Decision {
    fn from(answer: Answer) -> Decision {
        Decision::Answer(answer)
    }
}

/// For `Subscribe::from_request(request, 8).into()`: an error is a [`Refusal`] with its status and its
/// reason.
impl<E: Into<Refusal>> From<Result<Subscribe, E>> for Decision {
    fn from(result: Result<Subscribe, E>) -> Decision {
        match result {
            Ok(subscribe) => Decision::Subscribe(subscribe),
            Err(error) => Decision::Refuse(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text from outside, such as an origin that is echoed, made a builder panic, and with it the shard.
    #[test]
    fn a_field_that_would_write_into_the_head_is_an_error() {
        let subscribe = || Subscribe::to([]);
        let refusal = || Refusal::new(400, "");
        let named = |name: &str| name.to_owned();
        for (name, value, error) in [
            ("", "a", InvalidHeader::Name { name: named("") }),
            ("X:", "a", InvalidHeader::Name { name: named("X:") }),
            ("X\r\nSet-Cookie", "a", InvalidHeader::Name { name: named("X\r\nSet-Cookie") }),
            ("X", "a\r\nSet-Cookie: b", InvalidHeader::Value { name: named("X") }),
            ("X", "a\nb", InvalidHeader::Value { name: named("X") }),
            ("X", "a\0", InvalidHeader::Value { name: named("X") }),
            ("X", "\x7f", InvalidHeader::Value { name: named("X") }),
            ("content-length", "0", InvalidHeader::Reserved { name: named("content-length") }),
            ("Transfer-Encoding", "identity", InvalidHeader::Reserved { name: named("Transfer-Encoding") }),
        ] {
            assert_eq!(subscribe().with_header(name, value).unwrap_err(), error);
            assert_eq!(refusal().with_header(name, value).unwrap_err(), error);
            assert!(!error.to_string().contains(char::is_control), "the text fits a log line: {error}");
        }
        let good = subscribe().with_header("X-A", "").unwrap().with_header("Vary", "a\tb, \u{e4}").unwrap();
        assert_eq!(good.headers, "X-A: \r\nVary: a\tb, \u{e4}\r\n");
        let good = refusal().with_header("X-A", "1").unwrap();
        assert_eq!(good.headers().collect::<Vec<_>>(), [("X-A", "1")]);
    }
}
