//! What happens when a node is lost: its subscribers come back to the others.
//!
//! A simulation in steps of 10 ms of one of the remaining nodes, which are all alike. Its share of the lost
//! subscribers arrives as the server told them to: after their `retry`, which the server spreads over 100 to
//! 150 % of its option. A connect waits in the accept queue. Where that is full, the kernel drops it, and the
//! client's kernel sends it again after 1, 2, 4 seconds and so on. A connect that is accepted costs processor
//! time for the opening and for the events that the subscriber has missed, and their bytes. Live deliveries
//! go on meanwhile. Where both want more than the node has, each gets half, as the budgets of a tick do it.

use std::collections::{BTreeMap, VecDeque};

use super::figures::Figures;
use super::plan::{Load, Node, PerNode};

/// The length of a step.
const STEP_S: f64 = 0.01;

/// The longest time that is simulated.
const MOST_S: f64 = 3600.0;

/// When a dropped connect is sent again, doubled each time: the initial timeout of TCP.
const RESEND_S: f64 = 1.0;

/// So often Linux sends a connect again (`tcp_syn_retries`). Then the client begins anew after its `retry`.
const RESENDS: usize = 6;

/// What the server and the kernel are set to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    /// `--retry`, in seconds.
    pub(super) retry_s: f64,
    /// When clients see that their node is lost: at once where its kernel closes the sockets.
    pub(super) detection_s: f64,
    /// Connects that wait to be accepted, on all cores of a node together.
    pub(super) accept_queue: f64,
}

/// What a storm does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storm {
    /// Subscribers that were lost, and that each remaining node gets.
    pub(super) lost: f64,
    pub(super) per_node: f64,
    /// Seconds from the loss until so many are back and have what they missed; `None`: not within an hour.
    pub(super) half_s: Option<f64>,
    pub(super) nearly_all_s: Option<f64>,
    pub(super) all_s: Option<f64>,
    /// The most connects that one node takes in a second.
    pub(super) connects_per_second: f64,
    /// Connects that the kernel dropped, on one node.
    pub(super) dropped: f64,
    /// The longest time that live events waited for the processor or the network, in seconds.
    pub(super) latency_s: f64,
    /// What is used of the remaining nodes afterwards, the scarcest resource.
    pub(super) used_after: f64,
}

/// Simulates the loss of one of the nodes.
pub(super) fn lose_a_node(
    load: &Load,
    nodes: f64,
    node: &Node,
    settings: &Settings,
    figures: &Figures,
) -> Storm {
    let lost = load.subscribers / nodes;
    let per_node = lost / (nodes - 1.0);
    let after = PerNode::of(load, nodes - 1.0, figures);
    let mut step = Step::new(load, nodes, node, settings, figures);
    let mut storm = Storm {
        lost,
        per_node,
        half_s: None,
        nearly_all_s: None,
        all_s: None,
        connects_per_second: 0.0,
        dropped: 0.0,
        latency_s: 0.0,
        used_after: after.share(node),
    };
    let first = settings.detection_s + settings.retry_s;
    // Each of them once, evenly over 100 to 150 % of the time.
    let spread = settings.retry_s / 2.0;
    // Connects that are sent again, by their step and by how often they were.
    let mut again: BTreeMap<usize, [f64; RESENDS + 1]> = BTreeMap::new();
    let mut window = VecDeque::new();
    for index in 0..(MOST_S / STEP_S) as usize {
        let now = index as f64 * STEP_S;
        let come = |until: f64| per_node * ((until - first) / spread).clamp(0.0, 1.0);
        let mut coming = again.remove(&index).unwrap_or_default();
        coming[0] += come(now + STEP_S) - come(now);
        let all: f64 = coming.iter().sum();
        let dropped = step.arrive(all);
        storm.dropped += dropped;
        for (tries, count) in coming.into_iter().enumerate().filter(|(_, count)| *count > 0.0) {
            let dropped = count / all * dropped;
            let (wait, tries) = match tries {
                RESENDS => (settings.retry_s * 1.25, 0),
                tries => (RESEND_S * f64::from(1_u32 << tries), tries + 1),
            };
            if dropped > 0.0 {
                again.entry(index + 1 + (wait / STEP_S) as usize).or_default()[tries] += dropped;
            }
        }
        let served = step.work(now);
        window.push_back(served);
        if window.len() > (1.0 / STEP_S) as usize {
            window.pop_front();
        }
        storm.connects_per_second = storm.connects_per_second.max(window.iter().sum());
        storm.latency_s = storm.latency_s.max(step.live_wait_s());
        let ended = now + STEP_S;
        for (share, at) in
            [(0.5, &mut storm.half_s), (0.99, &mut storm.nearly_all_s), (1.0, &mut storm.all_s)]
        {
            // What is left of one subscriber is rounding.
            if at.is_none() && step.back >= share * per_node - 1e-6 {
                *at = Some(ended);
            }
        }
        if storm.all_s.is_some() && step.is_calm() {
            break;
        }
    }
    storm
}

/// One node, from step to step.
struct Step<'load> {
    figures: &'load Figures,
    settings: &'load Settings,
    load: &'load Load,
    /// What it has in a step.
    cpu_us: f64,
    bytes: f64,
    /// What live events need in a step before anybody comes, and more for each subscriber that has.
    live: PerNode,
    per_subscriber: PerNode,
    /// Connects in the accept queue.
    waiting: f64,
    /// What live events need and have not got yet.
    late_us: f64,
    late_bytes: f64,
    back: f64,
}

impl<'load> Step<'load> {
    fn new(
        load: &'load Load,
        nodes: f64,
        node: &Node,
        settings: &'load Settings,
        figures: &'load Figures,
    ) -> Step<'load> {
        let live = PerNode::of(load, nodes, figures);
        let after = PerNode::of(load, nodes - 1.0, figures);
        let more = after.subscribers - live.subscribers;
        let per = |after: f64, before: f64| (after - before) / more;
        let per_subscriber = PerNode {
            subscribers: 1.0,
            deliveries: per(after.deliveries, live.deliveries),
            cores: per(after.cores, live.cores),
            memory_bytes: per(after.memory_bytes, live.memory_bytes),
            bits_per_second: per(after.bits_per_second, live.bits_per_second),
        };
        Step {
            figures,
            settings,
            load,
            cpu_us: node.cores * STEP_S * 1e6,
            bytes: node.bits_per_second / 8.0 * STEP_S,
            live,
            per_subscriber,
            waiting: 0.0,
            late_us: 0.0,
            late_bytes: 0.0,
            back: 0.0,
        }
    }

    /// So many connects come. Answers how many the accept queue has no room for.
    fn arrive(&mut self, count: f64) -> f64 {
        let taken = count.min((self.settings.accept_queue - self.waiting).max(0.0));
        self.waiting += taken;
        count - taken
    }

    /// One step of work. Answers how many connects it has served.
    fn work(&mut self, now: f64) -> f64 {
        self.late_us += (self.live.cores + self.back * self.per_subscriber.cores) * STEP_S * 1e6;
        let bits = self.live.bits_per_second + self.back * self.per_subscriber.bits_per_second;
        self.late_bytes += bits / 8.0 * STEP_S;
        let (cost_us, cost_bytes) = self.cost(now);
        // Live events have half of the node at least, and all that no connect needs.
        let left = |has: f64, cost: f64| (has - self.waiting * cost).max(has / 2.0);
        let live_us = self.late_us.min(left(self.cpu_us, cost_us));
        let live_bytes = self.late_bytes.min(left(self.bytes, cost_bytes));
        (self.late_us, self.late_bytes) = (self.late_us - live_us, self.late_bytes - live_bytes);
        let (us, bytes) = (self.cpu_us - live_us, self.bytes - live_bytes);
        let served = self.waiting.min(us / cost_us).min(bytes / cost_bytes);
        self.waiting -= served;
        self.back += served;
        served
    }

    /// What one subscriber that is served now costs, in processor time and bytes: its opening, and what it
    /// has missed since its node was lost.
    fn cost(&self, now: f64) -> (f64, f64) {
        let missed = now * self.load.events * self.load.audience / self.load.subscribers;
        let us = self.figures.connect_us + missed * self.figures.replayed_delivery_us;
        let wire = self.figures.wire_bytes(self.load.event_bytes);
        (us, self.figures.opening_bytes + self.figures.packet_bytes + missed * wire)
    }

    /// How long a live event that comes now waits.
    fn live_wait_s(&self) -> f64 {
        (self.late_us / self.cpu_us).max(self.late_bytes / self.bytes) * STEP_S
    }

    /// Nothing is late, and nobody waits.
    fn is_calm(&self) -> bool {
        self.waiting == 0.0 && self.live_wait_s() < STEP_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load { subscribers: 1e6, events: 1.0, event_bytes: 200.0, audience: 1e4 }
    }

    fn node(cores: f64) -> Node {
        Node { cores, memory_bytes: 64e9, bits_per_second: 1e10 }
    }

    fn settings() -> Settings {
        Settings { retry_s: 2.0, detection_s: 0.0, accept_queue: 65_536.0 }
    }

    fn storm(nodes: f64, cores: f64, settings: &Settings) -> Storm {
        lose_a_node(&load(), nodes, &node(cores), settings, &Figures::default())
    }

    /// 100,000 are lost. Each of nine nodes gets 11,111 of them over the second from 2 to 3 s, which cost
    /// 0.28 s of 16 cores: they are back as they come. Half of them came by 2.5 s.
    #[test]
    fn where_there_is_room_all_are_back_as_soon_as_they_come() {
        let storm = storm(10.0, 16.0, &settings());
        assert_eq!((storm.lost, storm.per_node.round()), (100_000.0, 11_111.0));
        let near = |at: Option<f64>, wanted: f64| at.is_some_and(|at| (at - wanted).abs() < 0.025);
        assert!(
            near(storm.half_s, 2.5) && near(storm.nearly_all_s, 2.99) && near(storm.all_s, 3.0),
            "{storm:?}"
        );
        assert!((storm.connects_per_second - 11_111.0).abs() < 2.0, "{storm:?}");
        assert_eq!((storm.dropped, storm.latency_s), (0.0, 0.0));
    }

    /// Two nodes of one core: 500,000 come to one that takes some 20,000 to 40,000 a second, because a
    /// connect costs 25 us, and live events and heartbeats take a part of the core. So it takes 13 to 26 s,
    /// and the kernel drops connects.
    #[test]
    fn where_connects_are_more_than_a_node_takes_they_wait_and_are_sent_again() {
        let storm = storm(2.0, 1.0, &settings());
        let all = storm.all_s.unwrap();
        assert!(all > 13.0 && storm.half_s.unwrap() < all && storm.dropped > 0.0, "{storm:?}");
        assert!((20_000.0..40_000.0).contains(&storm.connects_per_second), "{storm:?}");
        let roomy = self::storm(2.0, 1.0, &Settings { accept_queue: 1e9, ..settings() });
        assert_eq!(roomy.dropped, 0.0);
        // With room for all, the core is never idle: 500,000 connects of 25 us and of the events missed
        // meanwhile (0.01 a second each, so nearly none), beside 0.24 to 0.44 cores of other work.
        let all = roomy.all_s.unwrap();
        assert!((2.0 + 12.5 / 0.76..=2.0 + 12.5 / 0.56).contains(&all), "{roomy:?}");
    }

    #[test]
    fn detection_and_retry_delay_the_return_and_more_cores_never_do() {
        let base = storm(4.0, 4.0, &settings());
        let late = storm(4.0, 4.0, &Settings { detection_s: 5.0, ..settings() });
        assert!(late.half_s.unwrap() >= base.half_s.unwrap() + 4.9, "{late:?}");
        let calm = storm(4.0, 4.0, &Settings { retry_s: 20.0, ..settings() });
        assert!(calm.connects_per_second < base.connects_per_second && calm.half_s > base.half_s);
        let mut before = f64::INFINITY;
        for cores in [1.0, 2.0, 4.0, 8.0, 16.0] {
            let all = storm(2.0, cores, &settings()).all_s.unwrap();
            assert!(all <= before, "{all} after {before} with {cores} cores");
            before = all;
        }
    }

    /// A node that cannot even serve what comes live never gets through, and says so.
    #[test]
    fn an_overloaded_node_does_not_recover() {
        let load = Load { events: 100.0, ..load() };
        let storm = lose_a_node(&load, 2.0, &node(2.0), &settings(), &Figures::default());
        assert!(storm.used_after > 1.0 && storm.latency_s > 60.0, "{storm:?}");
    }
}
