//! The values of one scrape. The counts of each shard are read once, and the sum over all shards is made of
//! them.

use std::fmt;
use std::sync::Arc;

use fanfare::{Counts, Hub, Limits, StoreFigures, Timings};
use fanfare_backplane::{NatsBackplane, NatsStatus};

use super::process::Process;
use crate::clock::unix_time;
use crate::cluster::settings::SharedSettings;
use crate::control::{Bodies, ControlLimits, CurrentLimits, Notices};
use crate::health::Health;
use crate::log_output;
use crate::rules::CurrentRules;
use crate::store;

/// The sources of the values.
pub(crate) struct Sources {
    pub(crate) hub: Hub,
    /// The backend and the kind of descriptor tables, as the log calls them.
    pub(crate) backend: String,
    pub(crate) tables: String,
    pub(crate) health: Arc<Health>,
    pub(crate) notices: Arc<Notices>,
    pub(crate) limits: Arc<CurrentLimits>,
    pub(crate) rules: CurrentRules,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) backplane: Option<Arc<NatsBackplane>>,
    pub(crate) shared_settings: Option<Arc<SharedSettings>>,
    /// When the server began, in seconds since 1970.
    pub(crate) started: f64,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("hub", &self.hub).finish_non_exhaustive()
    }
}

impl Sources {
    /// The time now, as [`Sources::started`] has it.
    pub(crate) fn time() -> f64 {
        unix_time().as_secs_f64()
    }
}

/// The values of one scrape.
pub(super) struct Snapshot {
    /// The sum over all shards, and what belongs to the process.
    pub(super) counts: Counts,
    pub(super) shards: Vec<Counts>,
    pub(super) shard_timings: Vec<Timings>,
    /// The sum over all shards.
    pub(super) timings: Timings,
    pub(super) limits: Arc<Limits>,
    pub(super) control_limits: ControlLimits,
    /// How much memory each part of the server takes at most.
    pub(super) memory_bounds: Vec<(&'static str, usize)>,
    pub(super) publishes_in_progress: usize,
    pub(super) publish_bytes: usize,
    pub(super) notices: Vec<(&'static str, u64)>,
    pub(super) denials: Vec<(&'static str, u64)>,
    pub(super) failures: Vec<(&'static str, u64)>,
    pub(super) log_lines_lost: u64,
    /// `None`: there is no durable log.
    pub(super) store: Option<StoreFigures>,
    /// `None`: the server shares no log.
    pub(super) shared_log: Option<NatsStatus>,
    /// Whether the topic settings in force are another server's.
    pub(super) has_settings_of_others: Option<bool>,
    /// Whether this server cannot read the topic settings of all servers.
    pub(super) are_settings_unreadable: Option<bool>,
    /// Events of the shared log that this server could not deliver.
    pub(super) feed_skipped: u64,
    pub(super) is_ready: bool,
    pub(super) process: Process,
    pub(super) started: f64,
    /// The version, the backend and the kind of descriptor tables.
    pub(super) build: [String; 3],
}

impl Snapshot {
    pub(super) fn of(sources: &Sources) -> Snapshot {
        let Sources { hub, notices, .. } = sources;
        let (limits, control_limits) = (hub.limits(), sources.limits.get());
        let shards: Vec<Counts> = hub.shard_counts().collect();
        let shard_timings: Vec<Timings> = hub.shard_timings().collect();
        let counts = sum_of(&shards, hub.counts());
        let mut timings = Timings::default();
        shard_timings.iter().for_each(|of_one| timings += *of_one);
        let mut memory_bounds = limits.memory_bounds(shards.len());
        memory_bounds.extend(control_limits.memory_bounds());
        memory_bounds.extend(sources.rules.get().access.memory_bounds());
        memory_bounds.extend(store::memory_bounds(hub));
        let (publishes_in_progress, publish_bytes) = sources.bodies.in_progress();
        Snapshot {
            counts,
            shards,
            shard_timings,
            timings,
            limits,
            control_limits,
            memory_bounds,
            publishes_in_progress,
            publish_bytes,
            notices: notices.others().collect(),
            denials: notices.denials().collect(),
            failures: notices.failures().collect(),
            log_lines_lost: log_output::lost(),
            store: hub.store_figures(),
            shared_log: sources.backplane.as_ref().map(|backplane| backplane.status()),
            has_settings_of_others: sources.shared_settings.as_ref().map(|shared| shared.are_of_others()),
            are_settings_unreadable: sources.shared_settings.as_ref().map(|shared| shared.is_unreadable()),
            feed_skipped: hub.feed_skipped(),
            is_ready: sources.health.is_ready(),
            process: Process::read(),
            started: sources.started,
            build: [env!("CARGO_PKG_VERSION").to_owned(), sources.backend.clone(), sources.tables.clone()],
        }
    }

    /// A value of each shard, by its number.
    pub(super) fn by_shard<T>(&self, value: impl Fn(&Counts) -> T) -> Vec<(String, T)> {
        self.shards.iter().enumerate().map(|(index, counts)| (index.to_string(), value(counts))).collect()
    }
}

/// The sum over these shards. `of_all` was read at another time: only what belongs to no shard is taken
/// from it.
fn sum_of(shards: &[Counts], of_all: Counts) -> Counts {
    let mut sum = Counts::default();
    shards.iter().for_each(|of_one| sum += *of_one);
    (sum.log_frames, sum.log_bytes) = (of_all.log_frames, of_all.log_bytes);
    (sum.published, sum.published_bytes) = (of_all.published, of_all.published_bytes);
    (sum.topics, sum.dropped_for_log_bytes) = (of_all.topics, of_all.dropped_for_log_bytes);
    (sum.members_left_early, sum.members_not_announced) =
        (of_all.members_left_early, of_all.members_not_announced);
    sum.joins_missed = of_all.joins_missed;
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All shards were read twice, so that a scrape had other connections in all than on its shards.
    #[test]
    fn the_sum_is_that_of_the_shards_of_the_same_scrape() {
        let with = |connections, published| {
            let mut counts = Counts::default();
            (counts.connections, counts.published) = (connections, published);
            counts
        };
        let sum = sum_of(&[with(2, 0), with(3, 0)], with(7, 9));
        assert_eq!((sum.connections, sum.published), (5, 9));
    }
}
