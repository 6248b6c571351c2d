//! The access log (`--access-log`): a line for each request to the control plane, and for each stream that
//! begins and ends. Threads of its own write the lines, so that a reader of the log that is slow holds up no
//! request.
//!
//! A line never has a query: tokens and signatures of URLs stand there. Clients decide how many lines there
//! are and how long a path is, so both have bounds: otherwise one of them could fill the disk.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use axum::http::Method;
use fanfare::{Closed, Connected, LifeCycle, LifeCycleEvent, Rate, RateKey, RateLimiter, Subscribed};

/// Lines that wait to be written. Further ones are left out.
const WAITING: usize = 4096;

/// Events of streams that wait to be written. Further ones are left out.
pub(crate) const STREAM_EVENTS: usize = 8192;

/// Topics and patterns of a stream that a line names.
const TOPICS: usize = 10;

/// Bytes of one text of a client, such as a path, that a line shows. What is longer ends in `...`.
const TEXT_BYTES: usize = 1024;

/// The name by which the filter of the log knows these lines.
const TARGET: &str = "fanfare::access";

/// How long the thread waits for an event before it looks whether the engine has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that was answered.
#[derive(Debug)]
pub(crate) struct Answered {
    /// `None`: its head could not be read.
    pub(crate) method: Option<Method>,
    /// Without the query. `None`: its head could not be read.
    pub(crate) path: Option<String>,
    pub(crate) status: u16,
    pub(crate) client: Option<IpAddr>,
    /// The subject of the publisher's token.
    pub(crate) subject: Option<String>,
    /// From the head of the request to the head of the answer.
    pub(crate) took: Duration,
}

/// Takes the lines of requests.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    lines: SyncSender<Answered>,
    left_out: Arc<AtomicU64>,
}

impl AccessLog {
    /// Starts the thread that writes the lines of requests, at most so many a second.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(lines_per_second: u64) -> io::Result<AccessLog> {
        let (lines, waiting) = sync_channel(WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&left_out);
        let bound = Bound::new(lines_per_second);
        thread::Builder::new()
            .name("fanfare-access".to_owned())
            .spawn(move || write(&waiting, &counted, bound))?;
        Ok(AccessLog { lines, left_out })
    }

    /// Adds a line, or counts it as left out where too many lines wait.
    pub(crate) fn add(&self, answered: Answered) {
        if self.lines.try_send(answered).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// How many lines are written.
struct Bound {
    rate: Rate,
    limiter: RateLimiter,
    /// The limiter has one bucket.
    key: RateKey,
    begun: Instant,
    /// Lines that were left out since the last line that said so.
    left_out: u64,
}

impl Bound {
    /// At most so many lines a second, and so many at once.
    #[allow(clippy::disallowed_methods, reason = "the engine's clock is not at hand")]
    fn new(lines_per_second: u64) -> Bound {
        let limiter = RateLimiter::new();
        let key = limiter.key_of_text("lines");
        let rate = Rate::new(lines_per_second, lines_per_second);
        Bound { rate, limiter, key, begun: Instant::now(), left_out: 0 }
    }

    /// Whether a line may be written now. If not, it is counted.
    fn allows(&mut self, now: Duration) -> bool {
        let is_allowed = self.limiter.take(self.key, 1, self.rate, now).is_ok();
        self.left_out += u64::from(!is_allowed);
        is_allowed
    }

    fn allows_now(&mut self) -> bool {
        self.allows(self.begun.elapsed())
    }

    /// How many lines were left out since the last call.
    fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

fn write(lines: &Receiver<Answered>, did_not_wait: &AtomicU64, mut bound: Bound) {
    while let Ok(Answered { method, path, status, client, subject, took }) = lines.recv() {
        if !bound.allows_now() {
            continue;
        }
        let client = client.map(|client| client.to_string());
        let subject = subject.map(|subject| escaped(&subject));
        let took_ms = took.as_secs_f64() * 1000.0;
        let (method, path) = (method.as_ref().map(tracing::field::display), path.as_deref().map(escaped));
        tracing::info!(target: TARGET, method, path, status, client, subject, took_ms, "request");
        match did_not_wait.swap(0, Ordering::Relaxed) + bound.take_left_out() {
            0 => {}
            count => tracing::warn!(target: TARGET, count, "lines of requests were left out"),
        }
    }
}

/// Starts the thread that writes the lines of streams, at most so many a second. It ends with the engine.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn follow_streams(mut streams: LifeCycle, lines_per_second: u64) -> io::Result<()> {
    let mut bound = Bound::new(lines_per_second);
    thread::Builder::new().name("fanfare-streams".to_owned()).spawn(move || {
        let mut connected = None;
        loop {
            let next = streams.next_wait(PATIENCE);
            if let Ok(Some(LifeCycleEvent::Subscribed(_) | LifeCycleEvent::Closed(_))) = &next {
                if !bound.allows_now() {
                    continue;
                }
                match bound.take_left_out() {
                    0 => {}
                    count => tracing::warn!(target: TARGET, count, "lines of streams were left out"),
                }
            }
            match next {
                Ok(Some(LifeCycleEvent::Connected(event))) => connected = Some(event),
                Ok(Some(LifeCycleEvent::Subscribed(event))) => begins(connected.take(), &event),
                Ok(Some(LifeCycleEvent::Closed(event))) => ends(&event),
                Ok(Some(LifeCycleEvent::Missed(missed))) => {
                    let (connected, closed) = (missed.connected, missed.closed);
                    tracing::warn!(target: TARGET, connected, closed, "lines of streams were left out");
                }
                // A later version may have further events.
                Ok(Some(_)) => {}
                Ok(None) => return,
                // Nothing has happened for a while.
                Err(_) => {}
            }
        }
    })?;
    Ok(())
}

fn begins(connected: Option<Connected>, subscribed: &Subscribed) {
    let connected = connected.filter(|connected| connected.connection == subscribed.connection);
    let peer = connected.as_ref().and_then(|connected| connected.peer);
    let peer = peer.map(|peer| peer.ip().to_canonical().to_string());
    let subject = connected.and_then(|connected| connected.subject).map(|subject| escaped(&subject));
    let names = subscribed.topics.iter().map(|topic| topic.as_str());
    let names = names.chain(subscribed.patterns.iter().map(|pattern| pattern.as_str()));
    tracing::info!(
        target: TARGET,
        connection = %subscribed.connection,
        peer,
        subject,
        topics = %quoted(names),
        topic_count = subscribed.topics.len() + subscribed.patterns.len(),
        gap = subscribed.has_gap,
        "stream begins"
    );
}

fn ends(closed: &Closed) {
    tracing::info!(
        target: TARGET,
        connection = %closed.connection,
        subject = closed.subject.as_deref().map(escaped),
        reason = closed.reason.name(),
        sent = %closed.sent,
        lasted_s = closed.lasted.as_secs_f64(),
        "stream ends"
    );
}

/// Text of clients is escaped before it goes into a line, and cut where it is long.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars().flat_map(char::escape_debug) {
        if escaped.len() >= TEXT_BYTES {
            escaped.push_str("...");
            break;
        }
        escaped.push(character);
    }
    escaped
}

/// The names of topics and patterns, each in quotation marks, because a name may have spaces in it. Names
/// that are left out are `...`.
fn quoted<'names>(names: impl Iterator<Item = &'names str>) -> String {
    let mut list = String::new();
    for (index, name) in names.enumerate() {
        if index > 0 {
            list.push(' ');
        }
        if index == TOPICS || list.len() >= TEXT_BYTES {
            list.push_str("...");
            break;
        }
        // Debug output has the same escapes as `escaped`.
        let _ = write!(list, "{name:?}");
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One client, which has no token, wrote 12.6 MiB a second with paths of 3 KB.
    #[test]
    fn lines_have_a_rate_and_those_that_are_left_out_are_counted() {
        let mut bound = Bound::new(100);
        let second = |seconds: u64| Duration::from_secs(10 + seconds);
        let allowed = |bound: &mut Bound, now| (0..1000).filter(|_| bound.allows(now)).count();
        assert_eq!(allowed(&mut bound, second(0)), 100);
        assert_eq!((bound.take_left_out(), bound.take_left_out()), (900, 0));
        assert_eq!(allowed(&mut bound, second(1)), 100);
        assert_eq!(allowed(&mut bound, second(60)), 100, "no more are saved than one second's");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(escaped("/a\nb"), "/a\\nb");
        let path = "é\u{202e}".repeat(5000);
        let line = escaped(&path);
        assert!((TEXT_BYTES..TEXT_BYTES + 20).contains(&line.len()) && line.ends_with("..."), "{line}");
        assert_eq!(escaped(&"x".repeat(TEXT_BYTES)).len(), TEXT_BYTES);
    }

    #[test]
    fn names_with_spaces_stay_apart_and_there_are_not_too_many() {
        assert_eq!(quoted(["a b", "c", "\"\n"].into_iter()), r#""a b" "c" "\"\n""#);
        let many = quoted(std::iter::repeat_n("x", 50));
        assert_eq!(many, format!("{}...", "\"x\" ".repeat(TOPICS)));
        let long = "y".repeat(256);
        assert!(quoted(std::iter::repeat_n(long.as_str(), TOPICS)).len() < TEXT_BYTES + 300);
    }
}
