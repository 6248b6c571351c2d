//! Scenarios: what is asked of a server, and how the answer is judged.

mod conditions;
mod conductor;
mod dry_run;
mod figures;
mod file;
mod machines;
mod options;
mod run;
mod snapshot;
mod stages;
mod verdict;

pub(crate) use dry_run::requests;
pub(crate) use file::read;
pub(crate) use options::{Churn, Idle, Kind, Listen, Load, Mixed, OUTPUT, Saturate, Slow, Storm, Topics};
pub(crate) use run::{check, groups, run, run_watched, topic_names};
