//! Scenarios: what is asked of a server, and how the answer is judged.

mod conditions;
mod conductor;
mod dry_run;
mod figures;
mod file;
mod kind;
mod machines;
mod options;
mod run;
mod snapshot;
mod stages;
mod verdict;

pub(crate) use dry_run::requests;
pub(crate) use file::read;
pub(crate) use kind::{Churn, Idle, Kind, Listen, Mixed, Saturate, Slow, Storm, Topics};
pub(crate) use options::{Load, OUTPUT};
pub(crate) use run::{check, groups, run, run_monitored, topic_names};
