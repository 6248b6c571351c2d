//! What a story begins with: its bounds, and how bad its world is.

use std::time::Duration;

use fanfare::sim::Budgets;
use fanfare::{FullPolicy, HeadLimits, HeartbeatForm, LaggardPolicy, Limits, LogLimits, Retention};

use crate::choices::Choices;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) shards: usize,
    pub(crate) limits: Limits,
    pub(crate) budgets: Budgets,
    pub(crate) hostile: bool,
    /// Requests that are no subscriptions are handed over, to a channel that takes none.
    pub(crate) hand_over: bool,
    /// The last shard gets its turn only once in so many times.
    pub(crate) slowness: usize,
    /// Shards are woken for nothing, now and then.
    pub(crate) spurious: bool,
    /// Publishers use an id again.
    pub(crate) ids_repeat: bool,
    /// Hundreds connect at once, some time.
    pub(crate) storm: bool,
    /// The clock may go hours forward.
    pub(crate) jumps: bool,
    /// How often something is published.
    pub(crate) publishers: usize,
}

impl Setting {
    pub(crate) fn random(choices: &mut Choices) -> Setting {
        let small = choices.one_in(2);
        let mut retention = Retention {
            events: choices.pick(&[1000, 50, 5, 0]),
            bytes: choices.pick(&[1 << 20, 5_000]),
            age: choices.pick(&[60, 2]) * SECOND,
        };
        if choices.one_in(2) {
            // Where little is lost, more is checked.
            retention = Retention { events: 10_000, bytes: 64 << 20, age: 3600 * SECOND };
        }
        let limits = Limits {
            connections: if choices.one_in(4) { 3 } else { 1000 },
            when_full: choices.pick(&[FullPolicy::Unavailable, FullPolicy::EndStream, FullPolicy::Drop]),
            pending: if choices.one_in(5) { 2 } else { 1000 },
            head_time: SECOND,
            head: HeadLimits { max_bytes: choices.pick(&[16 << 10, 400]), ..HeadLimits::default() },
            event_bytes: choices.pick(&[1 << 20, 1 << 20, 1 << 20, 30_000]),
            mailbox_events: choices.pick(&[512, 20, 4]),
            mailbox_bytes: choices.pick(&[4 << 20, 8_000]),
            mailbox_others: choices.pick(&[4096, 4]),
            laggard_frames: choices.pick(&[100, 20, 4]),
            laggard_bytes: choices.pick(&[1 << 20, 30_000, 3_000]),
            laggard_time: choices.pick(&[30, 2]) * SECOND,
            laggard_policy: choices.pick(&[LaggardPolicy::Disconnect, LaggardPolicy::Skip]),
            log: LogLimits { retention, ..LogLimits::default() },
            heartbeat: choices.pick(&[20, 4, 1]) * SECOND,
            heartbeat_form: choices.pick(&[HeartbeatForm::Line, HeartbeatForm::Blank]),
            connection_age: choices.pick(&[None, None, Some(10 * SECOND)]),
            ..Limits::default()
        };
        let budgets = match small {
            false => Budgets::default(),
            true => Budgets {
                marks: choices.pick(&[2, 1, 4096]),
                sends: choices.pick(&[3, 1, 1, 256]),
                bytes: choices.pick(&[1 << 20, 1_000]),
                laggards: choices.pick(&[2, 1, 64]),
            },
        };
        Setting {
            shards: 1 + choices.below(3),
            limits,
            budgets,
            hostile: true,
            hand_over: choices.one_in(4),
            slowness: choices.pick(&[1, 1, 4, 30]),
            spurious: choices.one_in(4),
            ids_repeat: choices.one_in(8),
            storm: choices.one_in(30),
            jumps: choices.one_in(4),
            publishers: choices.pick(&[20, 40, 5]),
        }
    }

    /// One shard, and nothing is left to chance.
    #[cfg(test)]
    pub(crate) fn calm(limits: Limits) -> Setting {
        Setting {
            shards: 1,
            limits,
            budgets: Budgets::default(),
            hostile: false,
            hand_over: false,
            slowness: 1,
            spurious: false,
            ids_repeat: false,
            storm: false,
            jumps: false,
            publishers: 0,
        }
    }
}
