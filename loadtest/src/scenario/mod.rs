//! Scenarios: what is asked of a server, and how the answer is judged.

mod conditions;
mod conductor;
mod file;
mod judge;
mod options;
mod run;
mod snapshot;

pub(crate) use file::read;
pub(crate) use options::{Churn, Idle, Kind, Load, Mixed, Saturate, Slow, Storm};
pub(crate) use run::{check, run};
