//! Scenarios: what is asked of a server, and how the answer is judged.

mod conductor;
mod judge;
mod look;
mod options;
mod run;

pub(crate) use options::{Churn, Idle, Kind, Load, Mixed, Saturate, Slow, Storm, read};
pub(crate) use run::{check, run};
