//! What one round of a fault showed.

use crate::verify::Findings;

/// What one round of a fault showed besides the deliveries of the run's own server.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Deliveries of a server that the fault started for itself.
    pub(crate) findings: Findings,
    /// One line for the report.
    pub(crate) note: String,
    pub(crate) violations: Vec<String>,
    /// What the servers logged during the round.
    pub(crate) log: String,
    /// The fault was not applied; the note says why.
    pub(crate) skipped: bool,
}

impl Outcome {
    /// An outcome with nothing but a line for the report.
    pub(crate) fn noted(note: impl Into<String>) -> Outcome {
        Outcome { note: note.into(), ..Outcome::default() }
    }
}
