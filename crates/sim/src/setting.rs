//! What a story begins with: its bounds, and how bad its world is.

use std::time::Duration;

use fanfare::sim::Budgets;
use fanfare::{
    ClientLimits, Durability, FullPolicy, HeadLimits, HeartbeatForm, LaggardPolicy, Limits, LogLimits,
    Retention, RetentionRule,
};
use fanfare_proto::audience::SweepBounds;

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
    /// The last shard gets its tick only once in so many times.
    pub(crate) slowness: usize,
    /// Shards are woken for nothing, now and then.
    pub(crate) spurious: bool,
    /// Publishers use an id again.
    pub(crate) ids_repeat: bool,
    /// Some publishers take numbers first and release later, or never.
    pub(crate) reservations: bool,
    /// There are topics of users beside the few that all share.
    pub(crate) many_topics: bool,
    /// Hundreds connect at once, some time.
    pub(crate) crowd: bool,
    /// The clock may go hours forward.
    pub(crate) jumps: bool,
    /// One in so many subscribers is decided about later; zero: none.
    pub(crate) late_decisions: usize,
    /// Orders about connections come once in so many steps; zero: never.
    pub(crate) orders: usize,
    /// Some subscribers may not stay for longer than they were given.
    pub(crate) lifetimes: bool,
    /// How long a member stays without a connection.
    pub(crate) presence_linger: Duration,
    /// Room for life-cycle events; `None`: there are none.
    pub(crate) life_cycle: Option<usize>,
    /// They are read after each tick.
    pub(crate) reads_life_cycle_at_once: bool,
    /// Whether joins of topics are noted.
    pub(crate) joins: bool,
    /// How often something is published.
    pub(crate) publishers: usize,
    /// One in so many subscribers has patterns; zero: none.
    pub(crate) patterns: usize,
    /// The durable store; `None`: there is none.
    pub(crate) store: Option<StoreSetting>,
}

/// What a world with a durable store begins with.
#[derive(Clone, Debug)]
pub(crate) struct StoreSetting {
    pub(crate) durability: Durability,
    /// What the store retains: at least what memory does.
    pub(crate) limits: LogLimits,
    /// The process ends once in so many steps; zero: never.
    pub(crate) crashes: usize,
    /// The disk is full once in so many steps; zero: never.
    pub(crate) full: usize,
    /// A read fails once in so many steps; zero: never.
    pub(crate) bad_reads: usize,
    /// The store commits, and answers, once in so many moments at which it could.
    pub(crate) slowness: usize,
}

impl Setting {
    pub(crate) fn random(choices: &mut Choices) -> Setting {
        let beside = &mut choices.beside();
        let setting = Setting::without_store(choices);
        if beside.one_in(3) { setting.with_random_store(beside) } else { setting }
    }

    /// The same with a store. Memory has less than it in most of these worlds.
    fn with_random_store(self, choices: &mut Choices) -> Setting {
        let mut log = self.limits.log.clone();
        if choices.one_in(2) {
            let retention = log.retention.with_events(choices.pick(&[5, 20, 1]));
            log = LogLimits::default().with_retention(retention.with_age(choices.pick(&[3600, 2]) * SECOND));
        }
        // As for the log of a world without a store.
        if !self.ids_repeat && choices.one_in(2) {
            log = log.with_total_bytes(choices.pick(&[60_000, 400_000]));
        }
        let longer = |retention: Retention, choices: &mut Choices| {
            Retention::default()
                .with_events(retention.events.max(choices.pick(&[100_000, 100_000, 60, 10])))
                .with_bytes(retention.bytes.max(choices.pick(&[1 << 30, 1 << 30, 100_000])))
                .with_age(retention.age.max(choices.pick(&[24 * 3600, 24 * 3600, 20]) * SECOND))
        };
        let rules: Vec<RetentionRule> = log
            .rules
            .iter()
            .map(|rule| RetentionRule::new(rule.topics.clone(), longer(rule.retention, choices)))
            .collect();
        let limits = LogLimits::default()
            .with_retention(longer(log.retention, choices))
            .with_rules(rules)
            .with_total_bytes(choices.pick(&[1 << 30, 1 << 30, 1 << 30, 300_000]));
        let store = StoreSetting {
            durability: choices.pick(&[Durability::Commit, Durability::Commit, Durability::Async]),
            limits,
            crashes: choices.pick(&[40, 15, 100, 0]),
            full: choices.pick(&[0, 0, 30]),
            bad_reads: choices.pick(&[0, 0, 0, 20]),
            slowness: choices.pick(&[2, 1, 10]),
        };
        let limits = self.limits.clone().with_log(log);
        Setting { limits, reservations: false, store: Some(store), ..self }
    }

    fn without_store(choices: &mut Choices) -> Setting {
        let small = choices.one_in(2);
        let ids_repeat = choices.one_in(8);
        let limits = Limits::default()
            .with_connections(if choices.one_in(4) { 3 } else { 1000 })
            .with_clients(client_limits(choices))
            .with_when_full(choices.pick(&[FullPolicy::Unavailable, FullPolicy::EndStream, FullPolicy::Drop]))
            .with_pending(if choices.one_in(2) { choices.pick(&[2, 4, 9]) } else { 1000 })
            .with_head_time(SECOND)
            .with_undecided(choices.pick(&[1000, 3]))
            .with_decision_time(choices.pick(&[3, 1]) * SECOND)
            .with_members_lingering(choices.pick(&[1 << 16, 1 << 16, 1 << 16, 2, 0]))
            .with_announcements(choices.pick(&[1 << 16, 1 << 16, 1 << 16, 1]))
            .with_head(HeadLimits::default().with_max_bytes(choices.pick(&[16 << 10, 400])))
            .with_event_bytes(choices.pick(&[1 << 20, 1 << 20, 1 << 20, 30_000]))
            .with_batch_topics(choices.pick(&[512, 512, 3]))
            .with_patterns(choices.pick(&[10_000, 10_000, 2, 1]))
            .with_mailbox_events(choices.pick(&[512, 20, 4]))
            .with_mailbox_bytes(choices.pick(&[4 << 20, 8_000]))
            .with_mailbox_total_bytes(choices.pick(&[64 << 20, 64 << 20, 60_000]))
            .with_mailbox_others(choices.pick(&[4096, 4]))
            .with_laggard_bytes(choices.pick(&[32 << 20, 100_000, 30_000, 3_000]))
            .with_congestion_streams(choices.pick(&[1, 1, 3, 64]))
            .with_delivery_bytes(choices.pick(&[64 << 20, 64 << 20, 100_000, 3_000]))
            .with_laggard_time(choices.pick(&[30, 2]) * SECOND)
            .with_laggard_policy(choices.pick(&[LaggardPolicy::Disconnect, LaggardPolicy::Skip]))
            .with_log(log_limits(choices, ids_repeat))
            .with_heartbeat(choices.pick(&[20, 4, 1]) * SECOND)
            .with_heartbeat_min(choices.pick(&[1, 3]) * SECOND)
            .with_heartbeat_form(choices.pick(&[HeartbeatForm::Line, HeartbeatForm::Blank]))
            .with_connection_age(choices.pick(&[None, None, Some(10 * SECOND)]));
        Setting {
            shards: 1 + choices.below(3),
            limits,
            budgets: match small {
                true => small_budgets(choices),
                false => Budgets { search_steps: usize::MAX, ..Budgets::default() },
            },
            hostile: true,
            hand_over: choices.one_in(4),
            slowness: choices.pick(&[1, 1, 4, 30]),
            spurious: choices.one_in(4),
            ids_repeat,
            reservations: choices.one_in(3),
            many_topics: choices.one_in(4),
            crowd: choices.one_in(30),
            jumps: choices.one_in(4),
            publishers: choices.pick(&[20, 40, 5]),
            patterns: choices.pick(&[4, 2, 0]),
            late_decisions: choices.pick(&[0, 4, 2]),
            orders: choices.pick(&[0, 25, 4]),
            lifetimes: choices.one_in(3),
            presence_linger: choices.pick(&[5, 0, 1]) * SECOND,
            life_cycle: choices.pick(&[Some(4096), Some(4096), Some(4096), Some(6), None]),
            reads_life_cycle_at_once: !choices.one_in(3),
            joins: choices.one_in(2),
            store: None,
        }
    }

    /// One shard, and nothing is left to chance.
    #[cfg(test)]
    pub(crate) fn without_chance(limits: Limits) -> Setting {
        Setting {
            shards: 1,
            limits,
            budgets: Budgets::default(),
            hostile: false,
            hand_over: false,
            slowness: 1,
            spurious: false,
            ids_repeat: false,
            reservations: false,
            many_topics: false,
            crowd: false,
            jumps: false,
            publishers: 0,
            patterns: 0,
            late_decisions: 0,
            orders: 0,
            lifetimes: false,
            presence_linger: SECOND,
            life_cycle: Some(4096),
            reads_life_cycle_at_once: true,
            joins: false,
            store: None,
        }
    }
}

fn log_limits(choices: &mut Choices, ids_repeat: bool) -> LogLimits {
    if choices.one_in(2) {
        // Where little is lost, more is checked.
        let retention = Retention::default().with_events(10_000).with_bytes(64 << 20).with_age(3600 * SECOND);
        return LogLimits::default().with_retention(retention);
    }
    let rules = (0..choices.below(3)).map(|_| {
        RetentionRule::new(
            choices.pick(&["a", "b", "user/1*", "user/*"]).parse().expect("a pattern"),
            retention(choices),
        )
    });
    let rules = rules.collect();
    let retention = retention(choices);
    let total_bytes = choices.pick(&[64 << 20, 400_000, 60_000]);
    // Which event bore an id first is known only where events go one by one: not to make room within a batch.
    let total_bytes = if ids_repeat { 64 << 20 } else { total_bytes };
    LogLimits::default().with_retention(retention).with_rules(rules).with_total_bytes(total_bytes)
}

/// In most worlds no client has a bound. The addresses of clients are those of [`crate::desk::Place`].
fn client_limits(choices: &mut Choices) -> ClientLimits {
    let operators = choices.pick(&["", "", "2001:db8::/32", "2001:db8::/96"]);
    let clients = ClientLimits::default().with_operators(operators.parse().expect("a network"));
    if !choices.one_in(3) {
        return clients;
    }
    clients
        .with_connections_per_address(choices.pick(&[None, Some(2), Some(10)]))
        .with_connects_per_second(choices.pick(&[None, None, Some(1)]))
        .with_connect_burst(choices.pick(&[20, 3]))
        // All clients are one, or each shard's, or four of them, or each is its own.
        .with_ipv6_prefix_bits(choices.pick(&[64, 96, 126, 128]))
        .with_streams_per_subject(choices.pick(&[None, None, Some(1), Some(3)]))
}

fn retention(choices: &mut Choices) -> Retention {
    Retention::default()
        .with_events(choices.pick(&[1000, 50, 5, 0]))
        .with_bytes(choices.pick(&[1 << 20, 5_000]))
        .with_age(choices.pick(&[60, 2]) * SECOND)
}

fn small_budgets(choices: &mut Choices) -> Budgets {
    let all = Budgets::default();
    Budgets {
        marks: choices.pick(&[2, 1, all.marks]),
        sends: choices.pick(&[3, 1, 1, all.sends]),
        bytes: choices.pick(&[1 << 20, 1_000]),
        laggards: choices.pick(&[2, 1, all.laggards]),
        replayed_frames: choices.pick(&[3, 100, all.replayed_frames]),
        scan_steps: choices.pick(&[1, 60, all.scan_steps]),
        // The model does not know how long a search takes.
        search_steps: usize::MAX,
        scans: choices.pick(&[all.scans, 3, 1]),
        endings: choices.pick(&[all.endings, 3]),
        heartbeats: choices.pick(&[all.heartbeats, 100]),
        room_endings: choices.pick(&[all.room_endings, 1, 1]),
        drain_checks: choices.pick(&[all.drain_checks, 20, 7]),
        laggard_checks: choices.pick(&[all.laggard_checks, all.laggard_checks, 7, 1]),
        removals: choices.pick(&[all.removals, 3, 1]),
        states: choices.pick(&[all.states, 20, 1]),
        sweep: SweepBounds {
            frames: choices.pick(&[all.sweep.frames, 6, 1]),
            bytes: choices.pick(&[all.sweep.bytes, 1_500]),
            small_fan_out: choices.pick(&[all.sweep.small_fan_out, 2, 1]),
        },
    }
}
