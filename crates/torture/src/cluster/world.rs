//! Nodes, NATS servers, links, publishers and subscribers, and the steps of scripts on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fanfare_io::Clock;
use fanfare_testkit::nats::{Link, NatsClient, NatsCluster, NatsOptions, NatsServer};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::check::{Entry, Log, check};
use crate::cluster::publisher::{Answers, Balancer, Batch, Publishers};
use crate::cluster::records::{ALL, Ledger, TOPICS, own_id};
use crate::cluster::script::{Gaps, Nodes, Script, Servers, Step, Topology};
use crate::cluster::subscriber::Subscriber;
use crate::cluster::table::Outcome;
use crate::event;
use crate::http;
use crate::server::{self, Plan, Server};

const NODES: usize = 3;

/// The port of each node, on an address of its own.
const PORT: u16 = 8840;

/// Subscribers that stay for all scripts of a world.
const SUBSCRIBERS: usize = 36;

/// Everything recovers from a fault within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that is asked to stop has stopped within this time. Its drain takes 3 s.
const END_TIME: Duration = Duration::from_secs(20);

/// How long the load runs before the first step of a script and after the last one.
const LOAD_TIME: Duration = Duration::from_millis(400);

/// An event whose publisher got no answer may be on its way for this long after all others have arrived.
const LATE_TIME: Duration = Duration::from_millis(300);

const STREAM: &str = "FANFARE";
const FILLER: &str = "FILLER";

/// The most bytes of the store of a server with little room.
const SMALL_STORE: u64 = 24 << 20;

enum Nats {
    Single(Box<NatsServer>),
    Cluster(NatsCluster),
}

struct Node {
    /// `None` while a thread starts it.
    server: Option<Server>,
    /// Starts the server, and gives it back with what became of the start.
    starting: Option<JoinHandle<(Server, Result<(), String>)>>,
    is_up: bool,
    is_paused: bool,
}

impl Node {
    fn server(&mut self) -> Result<&mut Server, String> {
        self.await_start()?;
        self.server.as_mut().ok_or_else(|| "a node has no server".to_owned())
    }

    /// Starts the server, which does not run.
    fn begin(&mut self) -> Result<(), String> {
        self.await_start()?;
        if let Some(mut server) = self.server.take() {
            self.is_up = true;
            self.starting = Some(thread::spawn(move || {
                let started = server.restart();
                (server, started)
            }));
        }
        Ok(())
    }

    fn await_start(&mut self) -> Result<(), String> {
        let Some(starting) = self.starting.take() else { return Ok(()) };
        let (server, started) = starting.join().map_err(|_| "the thread that starts a node panicked")?;
        self.server = Some(server);
        started.inspect_err(|_| self.is_up = false)
    }
}

/// A cluster under load.
pub(super) struct World {
    topology: Topology,
    // Fields are dropped in this order: clients first, then nodes, links and NATS servers.
    publishers: Publishers,
    subscribers: Vec<Subscriber>,
    nodes: Vec<Node>,
    /// From each node to each NATS server.
    links: Vec<Vec<Link>>,
    nats: Nats,
    paused_servers: Vec<usize>,
    ledger: Arc<Ledger>,
    answers: Arc<Answers>,
    addresses: Vec<SocketAddr>,
    clock: Clock,
    random: fastrand::Rng,
    /// The settings of the stream that [`Step::Full`] has changed.
    before_full: Option<Value>,
}

impl World {
    /// Starts NATS, the nodes and the load.
    ///
    /// # Errors
    /// Something does not start.
    pub(super) fn start(topology: Topology, mut random: fastrand::Rng) -> Result<World, String> {
        let clock = Clock::start();
        let nats = match topology {
            Topology::Single => Nats::Single(Box::new(NatsServer::start(&NatsOptions::default())?)),
            Topology::Small => {
                let options = NatsOptions { max_file_store: Some(SMALL_STORE), ..NatsOptions::default() };
                Nats::Single(Box::new(NatsServer::start(&options)?))
            }
            Topology::Cluster => Nats::Cluster(NatsCluster::start(3, &NatsOptions::default())?),
        };
        let servers = nats.servers();
        println!("{topology:?}: {} NATS servers {}, {NODES} nodes", servers.len(), servers[0].version());
        let links: Vec<Vec<Link>> = (0..NODES)
            .map(|_| servers.iter().map(|server| Link::start(server.address())).collect())
            .collect::<Result<_, String>>()?;
        let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
        for (index, links) in links.iter().enumerate() {
            let server = Server::start(&plan(index, links, topology, &mut random)?)?;
            addresses.push(server.address);
            nodes.push(Node { server: Some(server), starting: None, is_up: true, is_paused: false });
        }
        let servers: Vec<SocketAddr> = nats.servers().iter().map(NatsServer::address).collect();
        let ledger = Arc::new(Ledger::new(clock));
        let answers = Arc::new(Answers::default());
        let publishers = Publishers::start(&addresses, &servers, &ledger, &answers, &mut random);
        let mut world = World {
            topology,
            publishers,
            subscribers: Vec::new(),
            nodes,
            links,
            nats,
            paused_servers: Vec::new(),
            ledger,
            answers,
            addresses,
            clock,
            random,
            before_full: None,
        };
        world.await_ready()?;
        for number in 0..SUBSCRIBERS {
            world.subscribe(number, None)?;
        }
        world.await_streams()?;
        // After this every subscriber has an id to resume from.
        let base = world.ledger.records().len();
        world.publishers.go_on();
        let settled = world.settle(base)?;
        if !settled.outcome.findings.is_good() || settled.outcome.findings.gaps > 0 {
            return Err(format!(
                "before any fault: {:?}\n{}",
                settled.outcome.findings,
                world.new_log_lines()
            ));
        }
        Ok(world)
    }

    pub(super) fn topology(&self) -> Topology {
        self.topology
    }

    /// Plays a script under load, mends what it has left, and compares all logs.
    ///
    /// # Errors
    /// A step failed, or the cluster does not recover.
    pub(super) fn play(&mut self, script: &Script) -> Result<Outcome, String> {
        self.bring_home()?;
        self.new_log_lines();
        let base = self.ledger.records().len();
        self.answers.unavailable.store(0, Ordering::Relaxed);
        self.answers.full.store(0, Ordering::Relaxed);
        self.publishers.go_on();
        thread::sleep(LOAD_TIME);
        let before: Vec<usize> = (0..self.subscribers.len()).collect();
        let begun = self.clock.now();
        let mended = script
            .steps
            .iter()
            .try_for_each(|step| self.step(*step).map_err(|problem| format!("{step:?}: {problem}")));
        let mended = mended.and_then(|()| self.mend());
        let ended = self.clock.now();
        let outcome = mended.and_then(|()| {
            thread::sleep(LOAD_TIME);
            self.settle(base)
        });
        let mut outcome = match outcome {
            Ok(outcome) => outcome,
            Err(problem) => return Err(format!("{problem}; the nodes logged:\n{}", self.new_log_lines())),
        };
        self.subscribers.truncate(SUBSCRIBERS);
        self.judge(script, &before, &mut outcome);
        outcome.measure(begun, ended);
        outcome.outcome.log = self.new_log_lines();
        Ok(outcome.outcome)
    }

    /// What is wrong by the expectations of the script.
    fn judge(&mut self, script: &Script, before: &[usize], settled: &mut Settled) {
        let outcome = &mut settled.outcome;
        let found = &outcome.findings;
        let told = |log: &Log| log.entries.iter().any(|entry| matches!(entry, Entry::Gap { .. }));
        match script.gaps {
            Gaps::None if found.gaps > 0 => {
                outcome.violations.push(format!("{} gaps were told, and none was expected", found.gaps));
            }
            Gaps::Every => {
                let untold = before.iter().filter(|&&index| !told(&settled.logs[index])).count();
                if untold > 0 {
                    outcome.violations.push(format!("{untold} subscribers were not told of the gap"));
                }
            }
            Gaps::None | Gaps::Some => {}
        }
        if script.keeps_streams() && found.ends > 0 {
            let ends = found.ends;
            outcome.violations.push(format!("{ends} streams ended, although no node has ended"));
        }
        outcome.unavailable = self.answers.unavailable.load(Ordering::Relaxed);
        outcome.full = self.answers.full.load(Ordering::Relaxed);
        if script.refuses && outcome.unavailable + outcome.full == 0 {
            outcome.violations.push("no publish was refused".to_owned());
        }
        outcome.violations.extend(self.answers.take_unexpected());
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let ended = node.server().map(|server| {
                outcome.violations.extend(server.panics());
                server.ended().map(|status| format!("node {} ended by itself: {status}", index + 1))
            });
            outcome.violations.extend(ended.unwrap_or_else(Some));
        }
        if self.publishers.has_panicked() {
            outcome.violations.push("a publisher's thread panicked".to_owned());
        }
    }

    fn new_log_lines(&mut self) -> String {
        let mut all = String::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let lines = node.server.as_mut().map(Server::new_log_lines).unwrap_or_default();
            for line in lines.lines() {
                all.push_str(&format!("node {}: {line}\n", index + 1));
            }
        }
        all
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Wait(time) => thread::sleep(Duration::from_millis(time)),
            Step::KillNode(nodes) => self.each_node(nodes, |node, _| {
                node.is_paused = false;
                if std::mem::take(&mut node.is_up) { node.server()?.kill() } else { Ok(()) }
            })?,
            Step::StopNode(nodes) => {
                self.each_node(nodes, |node, _| {
                    node.server()?.signal(Signal::TERM);
                    Ok(())
                })?;
                self.each_node(nodes, |node, clock| {
                    node.is_up = false;
                    match node.server()?.await_end(clock, END_TIME) {
                        Some(status) if status.success() => Ok(()),
                        Some(status) => Err(format!("a node that was asked to stop ended with {status}")),
                        None => Err(format!("a node that was asked to stop runs on after {END_TIME:?}")),
                    }
                })?;
            }
            Step::StartNodes => self.start_nodes()?,
            Step::BeginNodes => self.begin_nodes()?,
            Step::AwaitReady => self.await_ready()?,
            Step::AwaitUnready(node) => {
                let address = self.addresses[node];
                let unready =
                    || http::status_of(address, "/health/ready").is_some_and(|status| status == 503);
                self.wait_until("a node without NATS says that it is not ready", unready)?;
            }
            Step::PauseNode(nodes) => self.each_node(nodes, |node, _| {
                node.server()?.signal(Signal::STOP);
                node.is_paused = true;
                Ok(())
            })?,
            Step::ResumeNodes => self.each_node(Nodes::All, |node, _| {
                if std::mem::take(&mut node.is_paused) {
                    node.server()?.signal(Signal::CONT);
                }
                Ok(())
            })?,
            Step::KillNats(servers) => {
                self.resolve(servers)?.into_iter().for_each(|index| self.nats.server(index).kill())
            }
            Step::StopNats(servers) => {
                for index in self.resolve(servers)? {
                    self.nats.server(index).stop()?;
                }
            }
            Step::PauseNats(servers) => {
                for index in self.resolve(servers)? {
                    self.nats.server(index).pause();
                    self.paused_servers.push(index);
                }
            }
            Step::StartNats => self.start_nats()?,
            Step::Cut(nodes, servers, cut) => {
                let servers = self.resolve(servers)?;
                for node in indexes(nodes) {
                    servers.iter().for_each(|&server| self.links[node][server].cut(cut));
                }
            }
            Step::HealLinks => self.links.iter().flatten().for_each(Link::heal),
            Step::CutRoutes(servers, cut) => {
                for index in self.resolve(servers)? {
                    if let Nats::Cluster(cluster) = &self.nats {
                        cluster.cut_routes(index, cut);
                    }
                }
            }
            Step::HealRoutes => self.heal_routes(),
            Step::LeaderLeaves => self.ask("the leader steps down", |client| {
                client.jetstream(&format!("STREAM.LEADER.STEPDOWN.{STREAM}"), &Value::Null).map(drop)
            })?,
            Step::Quiet => self.publishers.pause(),
            Step::Load => self.publishers.go_on(),
            Step::Burst(count) => self.burst(count)?,
            Step::Foreign(count) => self.foreign(count)?,
            Step::Illegal => self.illegal()?,
            Step::Newcomers(count) => {
                for _ in 0..count {
                    let number = self.random.usize(0..SUBSCRIBERS);
                    self.subscribe(number, None)?;
                }
            }
            Step::Resumers(count) => self.resumers(count)?,
            Step::Slow => self.subscribers.iter().for_each(|subscriber| subscriber.set_slow(true)),
            Step::Fast => self.subscribers.iter().for_each(|subscriber| subscriber.set_slow(false)),
            Step::Purge(keep) => {
                self.ask("the stream is purged", |client| client.purge_stream(STREAM, keep).map(drop))?;
            }
            Step::Trim(keep) => {
                for most in [keep as i64, -1] {
                    let changes = json!({ "max_msgs": most });
                    self.ask("the stream is changed", |client| {
                        client.update_stream(STREAM, &changes).map(drop)
                    })?;
                }
            }
            Step::Recreate => {
                let mut client = self.client()?;
                let settings = client.stream_info(STREAM)?["config"].take();
                client.delete_stream(STREAM)?;
                client.create_stream(&settings)?;
            }
            Step::Full => {
                let mut client = self.client()?;
                self.before_full = Some(client.stream_info(STREAM)?["config"].take());
                client.update_stream(STREAM, &json!({ "max_msgs": 1, "discard": "new" }))?;
            }
            Step::NotFull => self.not_full()?,
            Step::FillStore => self.fill_store()?,
            // It may have been removed already.
            Step::FreeStore => drop(self.client()?.delete_stream(FILLER)),
        }
        Ok(())
    }

    /// Mends what a script has left, and waits until all is well.
    fn mend(&mut self) -> Result<(), String> {
        self.links.iter().flatten().for_each(Link::heal);
        self.heal_routes();
        self.start_nats()?;
        self.step(Step::ResumeNodes)?;
        self.start_nodes()?;
        self.not_full()?;
        if self.topology == Topology::Small {
            self.step(Step::FreeStore)?;
        }
        self.step(Step::Fast)?;
        self.await_ready()?;
        self.publishers.go_on();
        Ok(())
    }

    /// Pauses the publishers until every subscriber has everything, and compares all logs.
    fn settle(&mut self, base: usize) -> Result<Settled, String> {
        // A newcomer must not begin behind the markers.
        self.await_streams()?;
        self.publishers.pause();
        let mut balancer = Balancer::new(&self.addresses, self.random.fork());
        let never = AtomicBool::new(false);
        if !Batch::markers(&self.ledger).publish(&mut balancer, &self.ledger, &self.answers, &never) {
            let answers = self.answers.take_unexpected().join("; ");
            return Err(format!("the markers of a round's end were not acknowledged: {answers}"));
        }
        let all = || self.subscribers.iter().all(Subscriber::is_settled);
        // Those that lack something are counted below.
        let _ = self.wait_until("all subscribers have what was published last", all);
        let absent = self.subscribers.iter().filter(|subscriber| !subscriber.is_settled()).count();
        thread::sleep(LATE_TIME);
        let logs: Vec<Log> = self.subscribers.iter().map(Subscriber::take_log).collect();
        let mut findings = check(&mut self.ledger.records(), base, &logs);
        findings.absent = absent as u64;
        if absent > 0 {
            findings.example(|| format!("{absent} subscribers do not get what was published last"));
        }
        Ok(Settled { logs, outcome: Outcome { findings, ..Outcome::default() } })
    }

    fn each_node(
        &mut self,
        nodes: Nodes,
        mut act: impl FnMut(&mut Node, Clock) -> Result<(), String>,
    ) -> Result<(), String> {
        indexes(nodes).into_iter().try_for_each(|index| act(&mut self.nodes[index], self.clock))
    }

    fn begin_nodes(&mut self) -> Result<(), String> {
        self.nodes.iter_mut().filter(|node| !node.is_up).try_for_each(Node::begin)
    }

    fn start_nodes(&mut self) -> Result<(), String> {
        self.begin_nodes()?;
        self.nodes.iter_mut().try_for_each(Node::await_start)
    }

    fn start_nats(&mut self) -> Result<(), String> {
        for index in std::mem::take(&mut self.paused_servers) {
            self.nats.server(index).resume();
        }
        match &mut self.nats {
            Nats::Single(server) if server.pid().is_none() => server.restart(),
            Nats::Single(_) => Ok(()),
            Nats::Cluster(cluster) => cluster.restart(),
        }
    }

    fn heal_routes(&self) {
        if let Nats::Cluster(cluster) = &self.nats {
            (0..cluster.servers().len()).for_each(|server| cluster.heal_routes(server));
        }
    }

    fn not_full(&mut self) -> Result<(), String> {
        if let Some(settings) = self.before_full.take() {
            self.ask("the stream is not full", |client| client.update_stream(STREAM, &settings).map(drop))?;
        }
        Ok(())
    }

    fn await_ready(&self) -> Result<(), String> {
        let ready = |address: &SocketAddr| http::status_of(*address, "/health/ready") == Some(200);
        self.wait_until("all nodes are ready", || self.addresses.iter().all(ready))
    }

    /// Spreads the subscribers evenly over the nodes: those of a node that had ended have moved.
    fn bring_home(&self) -> Result<(), String> {
        let all = || self.subscribers.iter().enumerate();
        all().for_each(|(index, subscriber)| subscriber.go_to(index % NODES));
        self.wait_until("all subscribers are back at their nodes", || {
            all().all(|(index, subscriber)| subscriber.is_at(index % NODES))
        })
    }

    fn await_streams(&self) -> Result<(), String> {
        let all = || self.subscribers.iter().all(Subscriber::is_streaming);
        self.wait_until("all subscribers have a stream", all)
    }

    fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
        let deadline = self.clock.now() + PATIENCE;
        while !holds() {
            if self.clock.now() > deadline {
                return Err(format!("not within {PATIENCE:?}: {what}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The NATS servers at this moment.
    fn resolve(&self, servers: Servers) -> Result<Vec<usize>, String> {
        let Nats::Cluster(cluster) = &self.nats else { return Ok(vec![0]) };
        let running = |index: &usize| cluster.servers()[*index].pid().is_some();
        let all = 0..cluster.servers().len();
        Ok(match servers {
            Servers::One(index) => vec![index],
            Servers::All => all.collect(),
            Servers::Leader => vec![self.leader(cluster)?],
            Servers::Follower => {
                let leader = self.leader(cluster)?;
                vec![all.filter(running).find(|index| *index != leader).ok_or("no server follows")?]
            }
        })
    }

    fn leader(&self, cluster: &NatsCluster) -> Result<usize, String> {
        let mut leader = None;
        self.wait_until("the stream has a leader", || {
            leader = cluster.leader_of(STREAM);
            leader.is_some()
        })?;
        leader.ok_or_else(|| "the stream has no leader".to_owned())
    }

    fn client(&self) -> Result<NatsClient, String> {
        match &self.nats {
            Nats::Single(server) => server.client(),
            Nats::Cluster(cluster) => cluster.client(),
        }
    }

    /// Asks NATS for something until it is done: there may be no leader at the moment.
    fn ask(
        &self,
        what: &str,
        mut act: impl FnMut(&mut NatsClient) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut problem = String::new();
        let done = self.wait_until(what, || {
            let acted = self.client().and_then(|mut client| act(&mut client));
            acted.map_err(|error| problem = error).is_ok()
        });
        done.map_err(|late| format!("{late}: {problem}"))
    }

    /// Starts a subscriber. A quarter of them read all topics, and the others one to three.
    fn subscribe(&mut self, number: usize, after: Option<(usize, (usize, String))>) -> Result<(), String> {
        let (mask, after) = match after {
            Some((source, after)) => (self.subscribers[source].mask(), Some(after)),
            None if number.is_multiple_of(4) => (ALL, None),
            None => ((0..1 + number % 3).fold(0, |mask, _| mask | 1 << self.random.u32(0..TOPICS)), None),
        };
        let subscriber = Subscriber::start(&self.addresses, number % NODES, mask, after, self.clock)?;
        self.subscribers.push(subscriber);
        Ok(())
    }

    /// Subscribers of all topics resume at other nodes than those that have got the event.
    fn resumers(&mut self, count: usize) -> Result<(), String> {
        for number in 0..count {
            let source = 4 * (number % (SUBSCRIBERS / 4));
            let newest = self.subscribers[source].newest();
            let newest = newest.ok_or("a subscriber has got no event that another one can resume from")?;
            let node = self.subscribers[source].node() + 1 + number % (NODES - 1);
            self.subscribe(node, Some((source, newest)))?;
        }
        Ok(())
    }

    fn burst(&mut self, count: usize) -> Result<(), String> {
        let batch = Batch::burst(&self.ledger, count, &mut self.random);
        let mut balancer = Balancer::new(&self.addresses, self.random.fork());
        let never = AtomicBool::new(false);
        let taken = batch.publish(&mut balancer, &self.ledger, &self.answers, &never);
        if taken { Ok(()) } else { Err("a burst was not acknowledged".to_owned()) }
    }

    fn foreign(&mut self, count: usize) -> Result<(), String> {
        let mut data = String::new();
        for _ in 0..count {
            let topic = self.random.u32(0..TOPICS);
            let key = self.ledger.begin(&[1 << topic], true);
            event::render(key as u64, 1 << topic, self.random.usize(0..300), &mut data);
            let (subject, id) = (format!("fanfare.area.t{topic}"), own_id(key));
            // There may be no leader at the moment.
            self.wait_until("NATS takes an event of another program", || {
                let taken = self.client().and_then(|mut client| {
                    let headers = [("Nats-Msg-Id", id.as_str())];
                    client.publish_acked_within(&subject, &headers, data.as_bytes(), Duration::from_secs(1))
                });
                taken.is_ok()
            })?;
            self.ledger.acknowledged(key, 1);
        }
        Ok(())
    }

    /// Messages on subjects of the stream that are no events: subjects without a topic, payloads and headers
    /// that are no text, types that no event may have.
    fn illegal(&mut self) -> Result<(), String> {
        let mut client = self.client()?;
        client.publish_acked("fanfare.area.t0", &[], b"\xff\xfe no text")?;
        client.publish_acked("fanfare.area.t1", &[("Fanfare-Type", "open")], b"x")?;
        client.publish_acked("fanfare.area.t1", &[("Fanfare-Retry", "soon")], b"x")?;
        client.publish_acked("fanfare.$multi", &[("Fanfare-Topics", "no array")], b"x")?;
        for subject in ["fanfare.%41", "fanfare.area.$multi", "fanfare.area.t1%", "fanfare.area.%2F"] {
            client.publish_acked(subject, &[], b"x")?;
        }
        client.publish_acked(&format!("fanfare.{}", "x".repeat(600)), &[], b"x")?;
        client.publish_raw("fanfare.area.t3", b"NATS/1.0\r\nFanfare-Type: \xff\r\n\r\n", b"x")?;
        client.publish_raw("fanfare.area.t3", b"NATS/1.0\r\nno colon\r\n\r\n", b"x")?;
        client.flush()
    }

    /// Fills the store of the server with the messages of another stream.
    fn fill_store(&mut self) -> Result<(), String> {
        let mut client = self.client()?;
        client.create_stream(&json!({ "name": FILLER, "subjects": ["filler"] }))?;
        let payload = [b'x'; 256 << 10];
        for size in [payload.len(), 16 << 10, 1 << 10] {
            while client.publish_acked("filler", &[], &payload[..size]).is_ok() {}
        }
        Ok(())
    }
}

/// The logs of a round and what they show.
struct Settled {
    logs: Vec<Log>,
    outcome: Outcome,
}

impl Settled {
    /// Measures how long subscribers were without events.
    fn measure(&mut self, begun: Duration, ended: Duration) {
        for log in &self.logs {
            let times = log.entries.iter().filter_map(|entry| match entry {
                Entry::Event { at, .. } => Some(*at),
                _ => None,
            });
            let times: Vec<Duration> = times.collect();
            let silences = times.windows(2).filter(|pair| pair[1] > begun).map(|pair| pair[1] - pair[0]);
            self.outcome.silences.extend(silences.max());
            self.outcome.recoveries.extend(times.iter().find(|at| **at > ended).map(|at| *at - ended));
        }
    }
}

impl Nats {
    fn servers(&self) -> &[NatsServer] {
        match self {
            Nats::Single(server) => std::slice::from_ref(&**server),
            Nats::Cluster(cluster) => cluster.servers(),
        }
    }

    fn server(&mut self, index: usize) -> &mut NatsServer {
        match self {
            Nats::Single(server) => server,
            Nats::Cluster(cluster) => cluster.server(index),
        }
    }
}

fn indexes(nodes: Nodes) -> Vec<usize> {
    match nodes {
        Nodes::One(index) => vec![index],
        Nodes::All => (0..NODES).collect(),
    }
}

/// How a node is started. It has an address of its own, so that no client takes its port while it is down.
fn plan(
    index: usize,
    links: &[Link],
    topology: Topology,
    random: &mut fastrand::Rng,
) -> Result<Plan, String> {
    let host = Ipv4Addr::new(127, 78, random.u8(1..=254), random.u8(1..=254));
    let urls: Vec<String> = links.iter().map(|link| format!("nats://{}", link.address())).collect();
    let replicas = if topology == Topology::Cluster { "3" } else { "1" };
    // A stream reserves what it may keep.
    let bytes = if topology == Topology::Small { "8MiB" } else { "256MiB" };
    let urls = urls.join(",");
    let more = [
        ["--admin", "off"],
        ["--nats", &urls],
        ["--stream", STREAM],
        ["--stream-replicas", replicas],
        ["--stream-bytes", bytes],
    ];
    Ok(Plan {
        program: server::find_program()?,
        // Nodes of both kinds share a log.
        backend: if index == 1 { "io-uring" } else { "epoll" }.to_owned(),
        // A node that begins again in the same process has the port that its options name.
        listen: SocketAddr::from((host, PORT)),
        shards: 2,
        bounds: server::LARGE,
        descriptors: None,
        data: None,
        more: more.as_flattened().iter().map(|word| (*word).to_owned()).collect(),
    })
}
