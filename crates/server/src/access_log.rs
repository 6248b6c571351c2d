//! The access log (`--access-log`): a line for each request to the control plane, and for each stream that
//! begins and ends. Threads of its own write the lines, so that a reader of the log that is slow holds up no
//! request.
//!
//! A line never has a query: tokens and signatures of URLs stand there.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use axum::http::Method;
use fanfare::{Closed, Connected, LifeCycle, LifeCycleEvent, Subscribed};

/// Lines that wait to be written. Further ones are left out.
const WAITING: usize = 4096;

/// Events of streams that wait to be written. Further ones are left out.
pub(crate) const STREAM_EVENTS: usize = 8192;

/// Topics and patterns of a stream that a line names.
const TOPICS: usize = 10;

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
    /// Starts the thread that writes the lines of requests.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start() -> io::Result<AccessLog> {
        let (lines, waiting) = sync_channel(WAITING);
        let left_out = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&left_out);
        thread::Builder::new().name("fanfare-access".to_owned()).spawn(move || write(&waiting, &counted))?;
        Ok(AccessLog { lines, left_out })
    }

    /// Adds a line, or counts it as left out where too many lines wait.
    pub(crate) fn add(&self, answered: Answered) {
        if self.lines.try_send(answered).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(lines: &Receiver<Answered>, left_out: &AtomicU64) {
    while let Ok(Answered { method, path, status, client, subject, took }) = lines.recv() {
        let client = client.map(|client| client.to_string());
        let subject = subject.map(|subject| escaped(&subject));
        let took_ms = took.as_secs_f64() * 1000.0;
        let (method, path) = (method.as_ref().map(tracing::field::display), path.as_deref().map(escaped));
        tracing::info!(target: TARGET, method, path, status, client, subject, took_ms, "request");
        match left_out.swap(0, Ordering::Relaxed) {
            0 => {}
            count => tracing::warn!(target: TARGET, count, "lines of requests were left out"),
        }
    }
}

/// Starts the thread that writes the lines of streams. It ends with the engine.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn follow_streams(mut streams: LifeCycle) -> io::Result<()> {
    thread::Builder::new().name("fanfare-streams".to_owned()).spawn(move || {
        let mut connected = None;
        loop {
            match streams.next_wait(PATIENCE) {
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
    let topics: Vec<String> = names.take(TOPICS).map(escaped).collect();
    tracing::info!(
        target: TARGET,
        connection = %subscribed.connection,
        peer,
        subject,
        topics = topics.join(" "),
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

/// Text of clients is escaped before it goes into a line.
fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}
