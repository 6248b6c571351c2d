//! How many nodes a load needs, and what each of them has to do.

use super::figures::Figures;

/// What is to be served.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) subscribers: f64,
    /// Events that are published in a second, over all topics.
    pub(super) events: f64,
    pub(super) event_bytes: f64,
    /// Subscribers that one event reaches.
    pub(super) audience: f64,
}

/// What a node has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) cores: f64,
    pub(super) memory_bytes: f64,
    /// In each direction.
    pub(super) bits_per_second: f64,
}

/// How much of a node may be used: in normal times, and when a node is lost.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) normal: f64,
    pub(super) after_loss: f64,
    /// At least so many nodes in a cluster, and two in any case.
    pub(super) nodes: f64,
}

/// What a node does, or what one NATS server does for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Cpu,
    Memory,
    Network,
    /// The rate of events of one JetStream stream.
    StreamRate,
    /// The network of one NATS server: each node reads every event of the stream.
    NatsNetwork,
}

/// One Fanfare cluster on one JetStream stream.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// So many clusters are needed, each with its own stream and a part of the topics.
    pub(super) clusters: f64,
    /// Of each of them.
    pub(super) load: Load,
    pub(super) nodes: f64,
    pub(super) per_node: PerNode,
    /// The share of each resource that is used, the highest first.
    pub(super) used: Vec<(Resource, f64)>,
}

/// What one node has to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PerNode {
    pub(super) subscribers: f64,
    /// Deliveries in a second.
    pub(super) deliveries: f64,
    /// Cores that are busy.
    pub(super) cores: f64,
    pub(super) memory_bytes: f64,
    pub(super) bits_per_second: f64,
}

/// NATS servers that keep a stream, over which the nodes' consumers spread.
const REPLICAS: f64 = 3.0;

/// The most clusters and nodes that are tried.
const MOST: u32 = 1_000_000;

impl Load {
    /// The load of one of so many clusters: topics and their subscribers are divided.
    fn part(&self, clusters: f64) -> Load {
        let subscribers = self.subscribers / clusters;
        let audience = self.audience.min(subscribers);
        Load { subscribers, events: self.events / clusters, audience, ..*self }
    }
}

impl PerNode {
    /// What each of so many nodes has to do.
    pub(super) fn of(load: &Load, nodes: f64, figures: &Figures) -> PerNode {
        let subscribers = load.subscribers / nodes;
        let audience = load.audience / nodes;
        let deliveries = load.events * audience;
        let per_second_us = deliveries * figures.delivery_us
            + subscribers * figures.idle_stream_us
            + load.events * (figures.event_us + figures.backplane_event_us);
        // While an event goes out to many, each of their sockets holds bytes until they are acknowledged.
        let queued = audience.min(subscribers) * figures.queued_bytes;
        let streams = subscribers * (figures.user_bytes + figures.socket_bytes);
        let wire = figures.wire_bytes(load.event_bytes);
        PerNode {
            subscribers,
            deliveries,
            cores: per_second_us / 1e6,
            memory_bytes: figures.reserved_bytes + streams + queued,
            bits_per_second: 8.0 * (deliveries * wire + load.events * wire),
        }
    }

    /// The highest share of the node that is used.
    pub(super) fn share(&self, node: &Node) -> f64 {
        self.shares(node).into_iter().map(|(_, share)| share).fold(0.0, f64::max)
    }

    fn shares(&self, node: &Node) -> [(Resource, f64); 3] {
        [
            (Resource::Cpu, self.cores / node.cores),
            (Resource::Memory, self.memory_bytes / node.memory_bytes),
            (Resource::Network, self.bits_per_second / node.bits_per_second),
        ]
    }
}

impl Plan {
    /// The smallest plan that keeps within the bounds, in normal times and when a node is lost.
    ///
    /// # Errors
    /// No number of nodes can do it.
    pub(super) fn new(load: &Load, node: &Node, bounds: &Bounds, figures: &Figures) -> Result<Plan, String> {
        let mut clusters = (load.events / (figures.stream_events * bounds.normal)).ceil().max(1.0);
        loop {
            let part = load.part(clusters);
            let nodes = nodes(&part, node, bounds, figures)?;
            let plan = Plan::of(clusters, part, nodes, node, figures);
            // More nodes read more copies of the stream. Then its topics are divided further.
            if plan.share_of(Resource::NatsNetwork) <= bounds.after_loss {
                return Ok(plan);
            }
            clusters += 1.0;
            if clusters > f64::from(MOST) {
                return Err("one event a second is more than the network of a NATS server takes".to_owned());
            }
        }
    }

    fn of(clusters: f64, load: Load, nodes: f64, node: &Node, figures: &Figures) -> Plan {
        let per_node = PerNode::of(&load, nodes, figures);
        let copies = 8.0 * load.events * figures.wire_bytes(load.event_bytes) * (nodes / REPLICAS).max(1.0);
        let mut used = Vec::from(per_node.shares(node));
        used.push((Resource::StreamRate, load.events / figures.stream_events));
        used.push((Resource::NatsNetwork, copies / node.bits_per_second));
        used.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Plan { clusters, load, nodes, per_node, used }
    }

    pub(super) fn share_of(&self, resource: Resource) -> f64 {
        self.used.iter().find(|(used, _)| *used == resource).map_or(0.0, |(_, share)| *share)
    }
}

/// The smallest number of nodes that keeps within the bounds, also when one of them is lost.
fn nodes(load: &Load, node: &Node, bounds: &Bounds, figures: &Figures) -> Result<f64, String> {
    let fits = |nodes: f64| {
        let share = |nodes: f64| PerNode::of(load, nodes, figures).share(node);
        share(nodes) <= bounds.normal && share(nodes - 1.0) <= bounds.after_loss
    };
    // What is used of a node falls with their number, so the first one that fits can be searched for.
    let (mut too_few, mut enough) = (bounds.nodes.max(2.0) - 1.0, f64::from(MOST));
    if !fits(enough) {
        return Err("no number of nodes can do it: a node without subscribers has too much to do".to_owned());
    }
    while enough - too_few > 1.0 {
        let middle = ((too_few + enough) / 2.0_f64).floor();
        *(if fits(middle) { &mut enough } else { &mut too_few }) = middle;
    }
    Ok(enough)
}

impl Resource {
    pub(super) fn name(self) -> &'static str {
        match self {
            Resource::Cpu => "CPU of a node",
            Resource::Memory => "memory of a node",
            Resource::Network => "network of a node",
            Resource::StreamRate => "rate of the JetStream stream",
            Resource::NatsNetwork => "network of a NATS server",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load { subscribers: 1e6, events: 100.0, event_bytes: 200.0, audience: 1e4 }
    }

    fn node() -> Node {
        Node { cores: 16.0, memory_bytes: 64e9, bits_per_second: 1e10 }
    }

    const BOUNDS: Bounds = Bounds { normal: 0.6, after_loss: 0.9, nodes: 2.0 };

    fn plan(load: &Load) -> Plan {
        Plan::new(load, &node(), &BOUNDS, &Figures::default()).unwrap()
    }

    /// By hand, for two nodes: 500,000 subscribers each, and of each event 5,000 deliveries. 100 events a
    /// second make 500,000 deliveries of 4.03 us, 2.015 cores; the streams take 0.2, the events 0.001065.
    /// Each stream has 4,237.2 bytes, and 5,000 of them a page. A delivery of 350 bytes is 2,800 bits.
    #[test]
    fn what_a_node_does_is_what_arithmetic_by_hand_gives() {
        let done = PerNode::of(&load(), 2.0, &Figures::default());
        assert_eq!((done.subscribers, done.deliveries), (500_000.0, 500_000.0));
        assert!((done.cores - 2.217_765).abs() < 1e-9, "{}", done.cores);
        let memory = 1_073_741_824.0 + 500_000.0 * 4_237.2 + 5_000.0 * 4_096.0;
        assert!((done.memory_bytes - memory).abs() < 1.0, "{}", done.memory_bytes);
        assert!((done.bits_per_second - 2_800.0 * 500_100.0).abs() < 1.0, "{}", done.bits_per_second);
        let plan = plan(&load());
        assert_eq!((plan.clusters, plan.nodes), (1.0, 2.0));
        // 14 % of the network, and 13.9 % of the cores.
        assert_eq!((plan.used[0].0, plan.used[1].0), (Resource::Network, Resource::Cpu));
        assert_eq!(plan.share_of(Resource::StreamRate), 100.0 / 36_600.0);
    }

    /// 10 million deliveries a second are 28 Gbps. With 60 % of 10 Gbps that is five nodes; four would use 70
    /// %. They are 40.3 cores, too, which five nodes of 16 cores have with 51 %.
    #[test]
    fn nodes_are_as_many_as_the_scarcest_resource_wants() {
        let much = Load { audience: 1e5, ..load() };
        let plan = plan(&much);
        assert_eq!(plan.nodes, 5.0);
        // Within 90 % after a loss, but over 60 % before it.
        let share = |nodes| PerNode::of(&much, nodes, &Figures::default()).share(&node());
        assert!(share(4.0) > 0.6 && share(4.0) < 0.9 && share(5.0) < 0.6);
        let memory = Node { memory_bytes: 4e9, ..node() };
        let plan = Plan::new(&load(), &memory, &BOUNDS, &Figures::default()).unwrap();
        assert_eq!((plan.used[0].0, plan.nodes), (Resource::Memory, 4.0));
        // More nodes may be wanted than are needed.
        let wanted =
            Plan::new(&load(), &node(), &Bounds { nodes: 7.0, ..BOUNDS }, &Figures::default()).unwrap();
        assert_eq!(wanted.nodes, 7.0);
        let none = Node { memory_bytes: 1e9, ..node() };
        assert!(Plan::new(&load(), &none, &BOUNDS, &Figures::default()).is_err());
    }

    /// 110,000 events a second are more than 60 % of what five streams take, and less than that of six.
    #[test]
    fn a_rate_beyond_one_stream_divides_the_topics() {
        let fast = Load { events: 110_000.0, audience: 10.0, ..load() };
        let plan = plan(&fast);
        assert_eq!(
            (plan.clusters, plan.load.events, plan.load.subscribers),
            (6.0, 110_000.0 / 6.0, 1e6 / 6.0)
        );
        // The network of the NATS servers divides it, too: 20,000 large events a second for each of many
        // nodes.
        let large = Load { events: 20_000.0, event_bytes: 10_000.0, audience: 2_000.0, ..load() };
        let plan = self::plan(&large);
        assert!(plan.clusters > 1.0 && plan.share_of(Resource::NatsNetwork) <= 0.9, "{plan:?}");
    }

    #[test]
    fn more_of_anything_never_needs_fewer_nodes() {
        let total = |load: &Load| {
            let plan = plan(load);
            plan.nodes * plan.clusters
        };
        let base = Load { subscribers: 5e6, events: 200.0, event_bytes: 500.0, audience: 5e4 };
        let mut before = [0.0; 4];
        for step in 1..40 {
            let factor = f64::from(step) / 4.0;
            let loads = [
                Load { subscribers: base.subscribers * factor.max(0.1), ..base },
                Load { events: base.events * factor, ..base },
                Load { event_bytes: base.event_bytes * factor, ..base },
                Load { audience: base.audience * factor, ..base },
            ];
            for (load, before) in loads.iter().zip(&mut before) {
                let nodes = total(load);
                assert!(nodes >= *before, "{nodes} after {before} for {load:?}");
                *before = nodes;
            }
        }
    }
}
