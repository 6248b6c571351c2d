//! What a controller tells an agent, and what an agent tells a controller.

use serde::{Deserialize, Serialize};

use super::assignment::Assignment;
use super::clocks::Translation;
use crate::client::{Command, Crowd, Observations, SeenSoFar};
use crate::cores::Cores;

/// From the controller.
#[derive(Serialize, Deserialize)]
pub(super) enum Order {
    /// The agent's time is wanted. `asked` is the controller's and comes back.
    Ping {
        series: bool,
        asked: u64,
    },
    /// How arrivals are translated from now on.
    Clock(Translation),
    /// Further URLs, or values, of the subscribers; before the assignment.
    Urls(Vec<String>),
    Values(Vec<String>),
    /// What the run is. The agent checks its limits and answers with [`Reply::Ready`] or [`Reply::Refused`].
    Assignment(Box<Assignment>),
    /// The streams are to be opened. The run began at this time of the controller.
    Begin {
        start: u64,
    },
    /// Topics and how many events of them were published so far, where that has changed.
    Published(Vec<(u32, u64)>),
    /// To the threads. The number comes back when they were told.
    Tell {
        number: u64,
        told: Told,
    },
    /// The threads' processor time and the like are wanted.
    Sample {
        number: u64,
    },
    /// The run is over. The agent answers with [`Reply::Observed`].
    Finish,
    /// The controller needs nothing any more.
    Bye,
}

/// What all threads of all agents are told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// Streams that end are opened again.
    Live,
    /// Nothing matters any more.
    Over,
    Window {
        begins: bool,
    },
    Stall {
        group: u8,
        stalled: bool,
    },
    CutAll,
    Return,
    Admit {
        subscribers: u64,
    },
    Churn {
        per_second: f64,
    },
    /// The answer is a [`Reply::Owed`].
    Owed,
    /// The answer is a [`Reply::Seen`].
    Seen,
}

impl Told {
    /// `None`: agents hear of it in another way.
    pub(super) fn of(command: &Command) -> Option<Told> {
        Some(match *command {
            Command::Window { begins } => Told::Window { begins },
            Command::Stall { group, stalled } => Told::Stall { group, stalled },
            Command::CutAll => Told::CutAll,
            Command::Return => Told::Return,
            Command::Churn { per_second } => Told::Churn { per_second },
            Command::Admit { subscribers } => Told::Admit { subscribers },
            Command::Owed => Told::Owed,
            Command::Seen => Told::Seen,
            Command::Finish { .. } => return None,
        })
    }
}

/// From an agent.
#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    Pong {
        series: bool,
        asked: u64,
        received: u64,
        answered: u64,
    },
    /// Nothing stands in the way; what may become a limit.
    Ready {
        notes: Vec<String>,
    },
    /// The assignment cannot be followed; a line for each reason.
    Refused(String),
    /// When something has changed, and several times a second.
    Progress(Progress),
    /// The run cannot go on.
    Failed(String),
    /// The threads were told.
    Heard {
        number: u64,
    },
    Owed {
        number: u64,
        deliveries: u64,
    },
    Seen {
        number: u64,
        seen: SeenSoFar,
    },
    Sample {
        number: u64,
        sample: Sample,
    },
    /// There is nothing that it could have seen.
    Unobserved(String),
    /// The last answer. So many bytes of spreads follow for each topic.
    Observed {
        observations: Box<Observations>,
        spreads: Vec<u64>,
    },
}

/// Counters of an agent's threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) open: u64,
    pub(super) opened: u64,
    pub(super) failed: u64,
    pub(super) over: u64,
    pub(super) delivered: u64,
    pub(super) damaged: u64,
    pub(super) waiting: u64,
}

impl Progress {
    pub(super) fn of(crowd: &Crowd) -> Progress {
        Progress {
            // First: a stream that opens between the two is open with the next progress.
            open: crowd.open(),
            opened: crowd.opened(),
            failed: crowd.failed(),
            over: crowd.over(),
            delivered: crowd.delivered(),
            damaged: crowd.damaged(),
            waiting: crowd.waiting(),
        }
    }
}

/// How an agent fares.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sample {
    /// Of each thread: nanoseconds that it ran, and that it waited for a core.
    pub(super) schedule: Vec<(u64, u64)>,
    pub(super) own_bytes: u64,
    pub(super) cores: Cores,
}
