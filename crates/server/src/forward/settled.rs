//! An answer, and when its question was asked.

use super::answer::Answer;

/// An answer with the time of its question.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) answer: Answer,
    /// Before the question was sent: what was revoked since then is not known to the endpoint's answer.
    pub(crate) asked_unix_s: u64,
}
