//! Publishers behind a load balancer: each request goes to any node.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fanfare_testkit::nats::NatsClient;
use serde_json::{Value, json};

use crate::cluster::records::{Ledger, TOPICS, own_id, topic, topics};
use crate::event::{self, MARKER};
use crate::http::{Answer, NoAnswer, PublishConnection};

/// The average pause of a publisher between two requests.
const PAUSE: Duration = Duration::from_millis(40);

/// The pause of a publisher that was refused or could not connect.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A cluster that has recovered accepts a publish within this time.
const PATIENCE: Duration = Duration::from_secs(90);

/// How publishers publish. Each kind has one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One event with an own id, repeated at other nodes until it is acknowledged.
    Safe,
    /// The same with an array of several events.
    SafeBatch,
    /// One event without an own id, sent once.
    Once,
    /// The same with an array of several events.
    OnceBatch,
}

const KINDS: [Kind; 4] = [Kind::Safe, Kind::SafeBatch, Kind::Once, Kind::OnceBatch];

/// The pause between two events of the other NATS program.
const PULSE: Duration = Duration::from_millis(12);

/// How long the other NATS program waits for an acknowledgement before it publishes the event again.
const PULSE_TIME: Duration = Duration::from_millis(700);

/// What publishers observed.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// How many answers were 503 and 507.
    pub(super) unavailable: AtomicU64,
    pub(super) full: AtomicU64,
    /// Answers that are wrong.
    unexpected: Mutex<Vec<String>>,
}

impl Answers {
    fn note(&self, problem: String) {
        let mut all = self.unexpected.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < 8 {
            all.push(problem);
        }
    }

    /// The wrong answers since the last call.
    pub(super) fn take_unexpected(&self) -> Vec<String> {
        std::mem::take(&mut self.unexpected.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The publishers of the steady load.
pub(super) struct Publishers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    nodes: Vec<SocketAddr>,
    servers: Vec<SocketAddr>,
    /// Each publisher holds its lock while it publishes. The last one is of the other NATS program.
    work: [Mutex<()>; KINDS.len() + 1],
    pause: AtomicBool,
    stop: AtomicBool,
    ledger: Arc<Ledger>,
    answers: Arc<Answers>,
}

impl Publishers {
    /// Starts publishers that publish to nodes, and one that publishes to NATS servers. They are paused.
    pub(super) fn start(
        nodes: &[SocketAddr],
        servers: &[SocketAddr],
        ledger: &Arc<Ledger>,
        answers: &Arc<Answers>,
        random: &mut fastrand::Rng,
    ) -> Publishers {
        let shared = Arc::new(Shared {
            nodes: nodes.to_vec(),
            servers: servers.to_vec(),
            work: Default::default(),
            pause: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            ledger: Arc::clone(ledger),
            answers: Arc::clone(answers),
        });
        let spawn = |(index, kind)| {
            let (shared, random) = (Arc::clone(&shared), random.fork());
            thread::spawn(move || shared.publish_steadily(index, kind, random))
        };
        let mut threads: Vec<_> = KINDS.into_iter().enumerate().map(spawn).collect();
        let pulse = Arc::clone(&shared);
        threads.push(thread::spawn(move || pulse.publish_as_other_program()));
        Publishers { shared, threads }
    }

    /// Pauses the load. On the return, no request is in progress.
    pub(super) fn pause(&self) {
        self.shared.pause.store(true, Ordering::Relaxed);
        for work in &self.shared.work {
            drop(work.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Begins the load, or goes on with it.
    pub(super) fn go_on(&self) {
        self.shared.pause.store(false, Ordering::Relaxed);
    }

    /// Whether a thread has ended, which means that it panicked.
    pub(super) fn has_panicked(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a publisher's thread panicked");
            }
        }
    }
}

impl Shared {
    fn publish_steadily(&self, index: usize, kind: Kind, mut random: fastrand::Rng) {
        let mut balancer = Balancer::new(&self.nodes, random.fork());
        while !self.stop.load(Ordering::Relaxed) {
            let working = self.work[index].lock().unwrap_or_else(PoisonError::into_inner);
            if !self.pause.load(Ordering::Relaxed) {
                let batch = Batch::random(kind, &self.ledger, &mut random);
                batch.publish(&mut balancer, &self.ledger, &self.answers, &self.stop);
            }
            drop(working);
            thread::sleep(PAUSE.mul_f64(2.0 * random.f64()));
        }
    }
}

impl Shared {
    /// Another NATS program publishes to one topic after the other, at a steady pace. It does not depend on
    /// the nodes, so that it shows when a node delivers again.
    fn publish_as_other_program(&self) {
        let (mut client, mut next, mut server) = (None, 0, 0);
        let mut data = String::new();
        while !self.stop.load(Ordering::Relaxed) {
            let working = self.work[KINDS.len()].lock().unwrap_or_else(PoisonError::into_inner);
            if !self.pause.load(Ordering::Relaxed) {
                let (mask, topic) = (1 << next, topic(next));
                next = (next + 1) % TOPICS;
                let key = self.ledger.begin(&[mask], true);
                event::render(key as u64, mask, 20, &mut data);
                let (subject, id) = (format!("fanfare.{}", topic.replace('/', ".")), own_id(key));
                let deadline = self.ledger.now() + PATIENCE;
                while !self.stop.load(Ordering::Relaxed) {
                    let taken = self.connected(&mut client, server).and_then(|client| {
                        client.publish_acked_within(
                            &subject,
                            &[("Nats-Msg-Id", &id)],
                            data.as_bytes(),
                            PULSE_TIME,
                        )
                    });
                    match taken {
                        Ok(_) => {
                            self.ledger.acknowledged(key, 1);
                            break;
                        }
                        Err(problem) if self.ledger.now() > deadline => {
                            self.answers.note(format!("NATS takes no event within {PATIENCE:?}: {problem}"));
                            break;
                        }
                        Err(_) => {
                            client = None;
                            server += 1;
                            thread::sleep(PULSE);
                        }
                    }
                }
            }
            drop(working);
            thread::sleep(PULSE);
        }
    }

    fn connected<'client>(
        &self,
        client: &'client mut Option<NatsClient>,
        server: usize,
    ) -> Result<&'client mut NatsClient, String> {
        if client.is_none() {
            let address = self.servers[server % self.servers.len()];
            *client = Some(NatsClient::connect_within(address, None, PULSE_TIME)?);
        }
        client.as_mut().ok_or_else(|| "there is no client".to_owned())
    }
}

/// The kept connections of a publisher to all nodes.
pub(super) struct Balancer {
    connections: Vec<PublishConnection>,
    next: usize,
}

impl Balancer {
    pub(super) fn new(nodes: &[SocketAddr], mut random: fastrand::Rng) -> Balancer {
        let connections = nodes.iter().map(|&node| PublishConnection::new(node)).collect();
        Balancer { connections, next: random.usize(0..nodes.len()) }
    }

    fn post(&mut self, body: &str) -> Result<Answer, NoAnswer> {
        self.next = (self.next + 1) % self.connections.len();
        self.connections[self.next].post("application/json", body.as_bytes())
    }
}

/// Events of one request, with consecutive keys.
pub(super) struct Batch {
    first: usize,
    count: usize,
    has_own_ids: bool,
    body: String,
}

impl Batch {
    fn random(kind: Kind, ledger: &Ledger, random: &mut fastrand::Rng) -> Batch {
        let (has_own_ids, count) = match kind {
            Kind::Safe => (true, 1),
            Kind::SafeBatch => (true, random.usize(2..=12)),
            Kind::Once => (false, 1),
            Kind::OnceBatch => (false, random.usize(2..=12)),
        };
        let masks: Vec<u32> = (0..count).map(|_| some_topics(random)).collect();
        Batch::new(ledger, &masks, has_own_ids, None, |_| random.usize(0..600))
    }

    /// So many events with own ids.
    pub(super) fn burst(ledger: &Ledger, count: usize, random: &mut fastrand::Rng) -> Batch {
        let masks: Vec<u32> = (0..count).map(|_| some_topics(random)).collect();
        Batch::new(ledger, &masks, true, None, |_| random.usize(0..600))
    }

    /// A marker for each topic. They have own ids.
    pub(super) fn markers(ledger: &Ledger) -> Batch {
        let masks: Vec<u32> = (0..TOPICS).map(|topic| 1 << topic).collect();
        Batch::new(ledger, &masks, true, Some(MARKER), |_| 0)
    }

    fn new(
        ledger: &Ledger,
        masks: &[u32],
        has_own_ids: bool,
        kind: Option<&str>,
        mut length: impl FnMut(usize) -> usize,
    ) -> Batch {
        let first = ledger.begin(masks, has_own_ids);
        let mut data = String::new();
        let event = |(index, &mask): (usize, &u32)| {
            let key = first + index;
            event::render(key as u64, mask, length(index), &mut data);
            let names: Vec<String> = topics(mask).collect();
            let mut event = json!({ "topic": names, "data": data });
            if has_own_ids {
                event["id"] = json!(own_id(key));
            }
            if let Some(kind) = kind {
                event["type"] = json!(kind);
            }
            event
        };
        let events: Vec<Value> = masks.iter().enumerate().map(event).collect();
        let body = if let [event] = &events[..] { event.to_string() } else { json!(events).to_string() };
        Batch { first, count: masks.len(), has_own_ids, body }
    }

    /// Publishes the batch. With own ids that is repeated at other nodes until it is acknowledged. Returns
    /// whether it was.
    pub(super) fn publish(
        &self,
        balancer: &mut Balancer,
        ledger: &Ledger,
        answers: &Answers,
        stop: &AtomicBool,
    ) -> bool {
        if !self.has_own_ids {
            return self.publish_once(balancer, ledger, answers);
        }
        let deadline = ledger.now() + PATIENCE;
        let mut last = String::new();
        while !stop.load(Ordering::Relaxed) {
            if ledger.now() > deadline {
                answers.note(format!("{} events were not taken within {PATIENCE:?}: {last}", self.count));
                return false;
            }
            match balancer.post(&self.body) {
                Ok(answer) if answer.status == 200 => {
                    if self.acknowledges_all(&answer) {
                        ledger.acknowledged(self.first, self.count);
                        return true;
                    }
                    answers.note(format!("{} events were answered {}", self.count, answer.body));
                    return false;
                }
                Ok(answer) => {
                    last = format!("{} {}", answer.status, answer.body);
                    note_refusal(&answer, answers);
                }
                Err(problem) => last = format!("{problem:?}"),
            }
            thread::sleep(RETRY_PAUSE);
        }
        false
    }

    /// Whether an answer of 200 names all events, each as new or as a duplicate.
    fn acknowledges_all(&self, answer: &Answer) -> bool {
        let id = |name: &str, key: usize| answer.body[name] == own_id(key);
        if self.count == 1 {
            return id("id", self.first);
        }
        let number = |name: &str| answer.body[name].as_u64().unwrap_or(0);
        number("published") + number("duplicates") == self.count as u64
            && id("first", self.first)
            && id("last", self.first + self.count - 1)
    }

    fn publish_once(&self, balancer: &mut Balancer, ledger: &Ledger, answers: &Answers) -> bool {
        let answer = match balancer.post(&self.body) {
            Ok(answer) => answer,
            Err(NoAnswer::NotConnected) => {
                ledger.refused(self.first, self.count);
                return false;
            }
            // The batch may have been published, or a part of it.
            Err(NoAnswer::Unanswered) => return false,
        };
        let text = |name: &str| answer.body[name].as_str().unwrap_or_default();
        let (count, first, last) = match (self.count, answer.status) {
            (1, 200) => (1, text("id"), text("id")),
            _ => (answer.body["published"].as_u64().unwrap_or(0) as usize, text("first"), text("last")),
        };
        if count > self.count || (answer.status == 200 && count != self.count) {
            answers.note(format!("{} events were answered {} {}", self.count, answer.status, answer.body));
            return false;
        }
        if count > 0
            && let Err(problem) = ledger.acknowledged_as(self.first, count, first, last)
        {
            answers.note(problem);
        }
        if answer.status != 200 {
            note_refusal(&answer, answers);
            // Only a publisher that may repeat its request knows that nothing was published.
            if answer.retry_after || answer.status == 507 {
                ledger.refused(self.first + count, self.count - count);
            }
        }
        count == self.count
    }
}

fn note_refusal(answer: &Answer, answers: &Answers) {
    match answer.status {
        503 => drop(answers.unavailable.fetch_add(1, Ordering::Relaxed)),
        507 => drop(answers.full.fetch_add(1, Ordering::Relaxed)),
        status => answers.note(format!("a publish was answered {status} {}", answer.body)),
    }
}

/// A random set of topics: mostly one, sometimes two.
fn some_topics(random: &mut fastrand::Rng) -> u32 {
    let mut mask = 1 << random.u32(0..TOPICS);
    if random.u32(0..8) == 0 {
        mask |= 1 << random.u32(0..TOPICS);
    }
    mask
}
