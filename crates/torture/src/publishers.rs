//! Publishers: a steady mixed load on threads of their own, and single batches for faults.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;

use crate::event::{self, MARKER, TOPICS};
use crate::http::{Answer, NoAnswer, PublishConnection};
use crate::ledger::Ledger;

const THREADS: usize = 4;

/// The average pause of a publisher between two requests.
const PAUSE: Duration = Duration::from_millis(40);

/// The pause of a publisher that was refused or could not connect.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A running server accepts a publish within this time.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(60) };

/// The publishers of the steady load.
pub(crate) struct Publishers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Each publisher holds its lock while it publishes. Holding all of them pauses the load.
    work: [Mutex<()>; THREADS],
    /// Publishers must not begin a request, and must not repeat one that was refused.
    pause: AtomicBool,
    stop: AtomicBool,
    /// Publishers that have got an answer.
    served: AtomicUsize,
    ledger: Arc<Ledger>,
    problems: Arc<Problems>,
}

/// What publishers observed.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// How many answers were 503.
    pub(crate) busy: AtomicU64,
    /// Answers that are wrong, and answers that are missing.
    pub(crate) unexpected: Mutex<Vec<String>>,
    /// Beginnings and ends of outages. The number is odd during an outage: the server stops, or TCP has no
    /// memory, and publishes may remain unanswered.
    outages: AtomicU64,
}

impl Problems {
    /// Begins an outage, which ends when the returned value is dropped.
    pub(crate) fn outage(self: &Arc<Problems>) -> Outage {
        self.outages.fetch_add(1, Ordering::AcqRel);
        Outage { problems: Arc::clone(self) }
    }

    pub(crate) fn note(&self, problem: String) {
        let mut odd = self.unexpected.lock().unwrap_or_else(PoisonError::into_inner);
        if odd.len() < 8 {
            odd.push(problem);
        }
    }
}

/// A time in which publishes may remain unanswered.
pub(crate) struct Outage {
    problems: Arc<Problems>,
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.problems.outages.fetch_add(1, Ordering::AcqRel);
    }
}

impl Publishers {
    pub(crate) fn start(
        address: SocketAddr,
        ledger: &Arc<Ledger>,
        problems: &Arc<Problems>,
        random: &mut fastrand::Rng,
    ) -> Publishers {
        let shared = Arc::new(Shared {
            work: Default::default(),
            pause: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            served: AtomicUsize::new(0),
            ledger: Arc::clone(ledger),
            problems: Arc::clone(problems),
        });
        let spawn = |index| {
            let (shared, mut random) = (Arc::clone(&shared), random.fork());
            thread::spawn(move || shared.publish_steadily(index, address, &mut random))
        };
        let threads = (0..THREADS).map(spawn).collect();
        Publishers { shared, threads }
    }

    /// Waits until every publisher has published. After that they keep their connections, so a server without
    /// room for new connections still serves them.
    ///
    /// # Errors
    /// Some publisher got no answer in time.
    pub(crate) fn await_connections(&self) -> Result<(), String> {
        let deadline = self.shared.ledger.now() + PATIENCE;
        loop {
            match self.shared.served.load(Ordering::Relaxed) {
                THREADS => return Ok(()),
                some if self.shared.ledger.now() > deadline => {
                    return Err(format!("{some} of {THREADS} publishers have published within {PATIENCE:?}"));
                }
                _ => thread::sleep(RETRY_PAUSE),
            }
        }
    }

    /// Calls `act` while the load is paused.
    pub(crate) fn paused<T>(&self, act: impl FnOnce() -> T) -> T {
        self.shared.pause.store(true, Ordering::Relaxed);
        let all = self.shared.work.each_ref().map(|work| work.lock().unwrap_or_else(PoisonError::into_inner));
        let done = act();
        self.shared.pause.store(false, Ordering::Relaxed);
        drop(all);
        done
    }

    /// Threads that ended too early, which means that they panicked.
    pub(crate) fn violations(&self) -> Vec<String> {
        let count = self.threads.iter().filter(|thread| thread.is_finished()).count();
        if count > 0 { vec![format!("{count} publishers' threads panicked")] } else { Vec::new() }
    }
}

impl Drop for Publishers {
    fn drop(&mut self) {
        self.shared.pause.store(true, Ordering::Relaxed);
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a publisher's thread panicked");
            }
        }
    }
}

impl Shared {
    fn publish_steadily(&self, index: usize, address: SocketAddr, random: &mut fastrand::Rng) {
        let (mut connection, mut served) = (PublishConnection::new(address), false);
        while !self.stop.load(Ordering::Relaxed) {
            {
                let _working = self.work[index].lock().unwrap_or_else(PoisonError::into_inner);
                let batch = Batch::mixed(&self.ledger, random);
                let taken = batch.publish(&mut connection, &self.ledger, &self.problems, &self.pause);
                if taken && !served {
                    served = true;
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
            }
            thread::sleep(PAUSE.mul_f64(2.0 * random.f64()));
        }
    }
}

/// Events of one request, with consecutive keys.
pub(crate) struct Batch {
    pub(crate) first: u64,
    pub(crate) count: usize,
    pub(crate) lines: Vec<String>,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    One,
    Array,
    Lines,
}

impl Batch {
    /// A batch of the steady load: mostly one event, sometimes several; mostly small, sometimes large.
    fn mixed(ledger: &Ledger, random: &mut fastrand::Rng) -> Batch {
        let (count, form) = match random.u32(0..10) {
            0 => (random.usize(2..=32), Form::Array),
            1 => (random.usize(2..=32), Form::Lines),
            _ => (1, Form::One),
        };
        // Several large events at once would exceed the small bound of laggards before a subscriber can read
        // them.
        let largest = if count == 1 && random.u32(0..50) == 0 { 60_000 } else { 1_200 };
        Batch::new(ledger, count, form, None, |_| (some_topics(random), random.usize(0..largest)))
    }

    /// A JSON array of `count` events on random topics, each with this many characters.
    pub(crate) fn array(ledger: &Ledger, count: usize, length: usize, random: &mut fastrand::Rng) -> Batch {
        Batch::new(ledger, count, Form::Array, None, |_| (some_topics(random), length))
    }

    /// A JSON array of `count` events on one topic, each with this many characters.
    pub(crate) fn topic(ledger: &Ledger, topic: u32, count: usize, length: usize) -> Batch {
        Batch::new(ledger, count, Form::Array, None, |_| (1 << topic, length))
    }

    /// NDJSON with one small event on each line.
    pub(crate) fn lines(ledger: &Ledger, count: usize, random: &mut fastrand::Rng) -> Batch {
        Batch::new(ledger, count, Form::Lines, None, |_| (some_topics(random), random.usize(0..500)))
    }

    /// A marker for each topic.
    pub(crate) fn markers(ledger: &Ledger) -> Batch {
        Batch::new(ledger, TOPICS as usize, Form::Array, Some(MARKER), |index| (1 << index, 0))
    }

    fn new(
        ledger: &Ledger,
        count: usize,
        form: Form,
        kind: Option<&str>,
        mut draw: impl FnMut(usize) -> (u32, usize),
    ) -> Batch {
        let drawn: Vec<(u32, usize)> = (0..count).map(&mut draw).collect();
        let size = |&(mask, length)| (mask, event::log_bytes(mask, length));
        let first = ledger.begin(&drawn.iter().map(size).collect::<Vec<_>>());
        let mut data = String::new();
        let line = |(index, &(mask, length)): (usize, &(u32, usize))| {
            event::render(first + index as u64, mask, length, &mut data);
            let topics: Vec<String> = event::topics(mask).collect();
            let mut event = json!({ "topic": topics, "data": data });
            if let Some(kind) = kind {
                event["type"] = json!(kind);
            }
            event.to_string()
        };
        let lines = drawn.iter().enumerate().map(line).collect();
        Batch { first, count, lines, form }
    }

    pub(crate) fn content_type(&self) -> &'static str {
        match self.form {
            Form::Lines => "application/x-ndjson",
            Form::One | Form::Array => "application/json",
        }
    }

    pub(crate) fn body(&self) -> String {
        match self.form {
            Form::One => self.lines[0].clone(),
            Form::Array => format!("[{}]", self.lines.join(",")),
            Form::Lines => self.lines.join("\n"),
        }
    }

    /// Publishes the batch. Repeats that while the answer is 503 or no connection can be made, until `stop`
    /// or for at most [`PATIENCE`]. Returns whether the batch was acknowledged.
    pub(crate) fn publish(
        &self,
        connection: &mut PublishConnection,
        ledger: &Ledger,
        problems: &Problems,
        stop: &AtomicBool,
    ) -> bool {
        let body = self.body();
        let deadline = ledger.now() + PATIENCE;
        while !stop.load(Ordering::Relaxed) {
            if ledger.now() > deadline {
                problems.note(format!("no server or no room for {} events within {PATIENCE:?}", self.count));
                break;
            }
            let outages = problems.outages.load(Ordering::Acquire);
            match connection.post(self.content_type(), body.as_bytes()) {
                Ok(answer) if answer.status == 503 && answer.body["published"].as_u64().unwrap_or(0) == 0 => {
                    problems.busy.fetch_add(1, Ordering::Relaxed);
                    if !answer.retry_after {
                        problems.note("a 503 without Retry-After".to_owned());
                    }
                    thread::sleep(RETRY_PAUSE);
                }
                Ok(answer) => {
                    connection.answered_in = Some(outages);
                    return self.answered(&answer, ledger, problems);
                }
                Err(NoAnswer::NotConnected) => thread::sleep(RETRY_PAUSE),
                // The batch may have been published, or not.
                Err(NoAnswer::Unanswered) => {
                    // A connection that was made before an outage may have lost its other end during it.
                    let seen = connection.answered_in.replace(outages).unwrap_or(outages);
                    let all = [seen, problems.outages.load(Ordering::Acquire)];
                    if outages.is_multiple_of(2) && all == [outages; 2] {
                        problems.note(format!(
                            "{} events were not answered at {:.1?}",
                            self.count,
                            ledger.now()
                        ));
                    }
                    return false;
                }
            }
        }
        ledger.refused(self.first, self.count);
        false
    }

    /// Notes an answer in the ledger. Returns whether the whole batch was acknowledged.
    pub(crate) fn answered(&self, answer: &Answer, ledger: &Ledger, problems: &Problems) -> bool {
        let text = |name: &str| answer.body[name].as_str().unwrap_or_default().to_owned();
        let (count, first, last) = match (&self.form, answer.status) {
            (Form::One, 200) => (1, text("id"), text("id")),
            _ => (answer.body["published"].as_u64().unwrap_or(0) as usize, text("first"), text("last")),
        };
        if count > 0
            && let Err(problem) = ledger.acknowledged(self.first, count.min(self.count), &first, &last)
        {
            problems.note(problem);
        }
        let rest = self.count.saturating_sub(count);
        ledger.refused(self.first + count as u64, rest);
        // An answer of 200 means that every event was published.
        if !matches!(answer.status, 200 | 503) || (answer.status == 200 && count != self.count) {
            problems.note(format!("{} events were answered {}: {}", self.count, answer.status, answer.body));
        }
        rest == 0
    }
}

/// A random set of topics: mostly one, sometimes several.
fn some_topics(random: &mut fastrand::Rng) -> u32 {
    let mut mask = 1 << random.u32(0..TOPICS);
    while random.u32(0..5) == 0 {
        mask |= 1 << random.u32(0..TOPICS);
    }
    mask
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use fanfare_io::Clock;
    use socket2::{Domain, Socket, Type};

    use super::*;

    /// Accepts a connection, answers its first request with this text, and closes it.
    fn answer(listener: &TcpListener, answer: &str) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
    }

    /// Publishes one event to a server that answers with this text.
    fn publish(
        listener: &TcpListener,
        text: &str,
        connection: &mut PublishConnection,
        problems: &Problems,
    ) -> bool {
        let ledger = Ledger::new(Clock::start(), 0);
        let batch = Batch::new(&ledger, 1, Form::One, None, |_| (1, 10));
        thread::scope(|scope| {
            scope.spawn(|| answer(listener, text));
            batch.publish(connection, &ledger, problems, &AtomicBool::new(false))
        })
    }

    /// Unanswered events may be missing, so a server that never answered passed.
    #[test]
    fn a_publish_without_an_answer_is_odd_except_in_an_outage() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let problems = Arc::new(Problems::default());
        let noted = || problems.unexpected.lock().unwrap().len();
        let outage = problems.outage();
        assert!(!publish(&listener, "", &mut PublishConnection::new(address), &problems));
        assert_eq!(noted(), 0);
        drop(outage);
        assert!(!publish(&listener, "", &mut PublishConnection::new(address), &problems));
        assert_eq!(noted(), 1);
    }

    /// A server that had crashed, or accepted nothing any more, stopped the whole run.
    #[test]
    fn a_publish_that_is_never_taken_comes_to_an_end() {
        // No process listens on this port, and no other process can take it.
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let unused_address = bound.local_addr().unwrap().as_socket().unwrap();
        let (ledger, problems) = (Ledger::new(Clock::start(), 0), Problems::default());
        let batch = Batch::new(&ledger, 1, Form::One, None, |_| (1, 10));
        let never = AtomicBool::new(false);
        assert!(!batch.publish(&mut PublishConnection::new(unused_address), &ledger, &problems, &never));
        assert_eq!(problems.unexpected.lock().unwrap().len(), 1);
    }

    /// An answer that reported fewer events than were sent passed.
    #[test]
    fn a_part_is_not_published_with_200() {
        let (ledger, problems) = (Ledger::new(Clock::start(), 0), Problems::default());
        let batch = Batch::new(&ledger, 2, Form::Lines, None, |_| (1, 10));
        let answer = |status, body| Answer { status, retry_after: true, body };
        let part = json!({ "published": 1, "first": "a-1", "last": "a-1" });
        assert!(!batch.answered(&answer(503, part.clone()), &ledger, &problems));
        assert!(problems.unexpected.lock().unwrap().is_empty());
        assert!(!batch.answered(&answer(200, part), &ledger, &problems));
        assert_eq!(problems.unexpected.lock().unwrap().len(), 1);
    }

    /// The server closes idle connections after a while, and when it stops. A request on such a connection
    /// was counted as unanswered.
    #[test]
    fn a_kept_connection_that_was_closed_is_not_used_again() {
        const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"id\":\"a-1\"}";
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let problems = Problems::default();
        let mut connection = PublishConnection::new(listener.local_addr().unwrap());
        for _ in 0..2 {
            assert!(publish(&listener, OK, &mut connection, &problems));
        }
        assert!(problems.unexpected.lock().unwrap().is_empty());
    }
}
