//! Several load machines: agents hold the subscribers, a controller conducts the run and publishes, and the
//! server's machine may tell what the server needs. What they see is added up as if it were one machine's.

mod agent;
mod assignment;
mod clocks;
mod controller;
mod messages;
mod protocol;
mod serve;
mod watch;

use serde::Serialize;

pub(crate) use agent::Agent;
pub(crate) use assignment::{Assignment, Own};
pub(crate) use clocks::{ClockFigures, Offset};
pub(crate) use controller::Agents;
pub(crate) use protocol::Token;
pub(crate) use watch::{ServerSample, Watch, Watched, has_machine_for_itself};

use crate::client::{self, Command, Delivered, Observations, Phase, SeenSoFar};
use crate::failure::{Failure, Outcome};

/// The subscribers of a run, wherever they are.
pub(crate) enum Crowd {
    Here(client::Crowd),
    There(Agents),
}

/// Both have the same method.
macro_rules! of_both {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $returns:ty;)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name(&self $(, $argument: $type)*) -> $returns {
            match self {
                Crowd::Here(crowd) => crowd.$name($($argument),*),
                Crowd::There(agents) => agents.$name($($argument),*),
            }
        }
    )*};
}

impl Crowd {
    of_both! {
        /// Streams that are open now.
        open() -> u64;
        /// Subscribers whose first stream could not be opened, and that have not had one since.
        failed() -> u64;
        /// Subscribers whose stream ended and is not opened again.
        over() -> u64;
        /// Bytes in the receive buffers of the streams that stalled, at the time when they read again.
        waiting() -> u64;
        /// Events so far that were cut short or changed.
        damaged() -> u64;
        /// Deliveries of this run's events so far, repeated ones not counted.
        delivered() -> u64;
        /// The same for another thread.
        delivered_reader() -> Delivered;
        /// Streams that were opened so far, reopened ones again.
        opened() -> u64;
        /// Asks every worker how many deliveries are owed to those who are there.
        ask_owed() -> ();
        /// The answer, when everybody has given it.
        owed() -> Option<u64>;
        /// Asks every worker what was seen so far.
        ask_seen() -> ();
        /// The answer, when everybody has given it.
        seen() -> Option<SeenSoFar>;
        /// How long each worker ran and waited for a core so far.
        schedule() -> Vec<(u64, u64)>;
        /// User memory of the subscribers' processes.
        own_bytes() -> u64;
        /// What an ended stream means from now on.
        enter(phase: Phase) -> ();
        /// Why the run is over before its time, if it is.
        failure() -> Option<Failure>;
    }

    /// Tells every worker.
    pub(crate) fn tell(&self, command: impl Fn() -> Command) {
        match self {
            Crowd::Here(crowd) => crowd.tell(command),
            Crowd::There(agents) => agents.tell(&command()),
        }
    }

    /// Ends the run and collects what was seen; with several machines also how each fared.
    pub(crate) fn finish(self, published: Vec<u64>) -> Outcome<(Observations, Vec<MachineFigures>)> {
        match self {
            Crowd::Here(crowd) => Ok((crowd.finish(published)?, Vec::new())),
            Crowd::There(agents) => agents.finish(),
        }
    }
}

/// A machine with subscribers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct MachineFigures {
    pub(crate) name: String,
    pub(crate) machine: String,
    pub(crate) commit: String,
    pub(crate) subscribers: u64,
    pub(crate) threads: usize,
    /// That its threads may use.
    pub(crate) cores: usize,
    /// What its threads used of them.
    pub(crate) cores_share: f64,
    /// The share of the time that the hypervisor took from them.
    pub(crate) stolen_share: Option<f64>,
    pub(crate) clock: ClockFigures,
    /// It did not say what it saw, so nothing of it is in the report.
    pub(crate) lost: bool,
}
