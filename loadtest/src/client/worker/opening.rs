//! How a worker opens streams, and what it says when one cannot be opened.

use std::io::{self, Write};
use std::sync::atomic::Ordering;

use super::super::Phase;
use super::super::subscriber::State;
use super::transport::{Opening, Transport};
use super::{Worker, layers};
use crate::clock::{self, SECOND};
use crate::failure::{Failure, Outcome, excerpt};
use crate::http;

/// Attempts in a row to open a stream again before the server is given up.
const ATTEMPTS: u8 = 5;

impl<T: Transport> Worker<'_, T> {
    pub(super) fn connect(&mut self, index: usize) -> Outcome<()> {
        let number = self.index + index * self.plan.threads;
        let now = clock::now();
        let receive_buffer = match self.plan.stalls {
            Some((group, bytes)) if group == self.subscribers[index].group => bytes,
            _ => self.plan.receive_buffer,
        };
        let target = self.plan.subscriptions.target(number);
        let generation = self.subscribers[index].generation;
        let opening = Opening { index, generation, number, target, receive_buffer };
        let connected = match self.transport.connect(self.plan, &opening) {
            Ok(connected) => connected,
            Err(error) => return self.not_opened(index, &error),
        };
        let tls = match self.plan.subscriptions.tls_name(number) {
            // There it is the connections' that the streams share.
            Some(_) if self.plan.http2.is_some() => None,
            Some(name) => Some(Box::new(self.plan.tls.connection(name)?)),
            None => None,
        };
        let subscriber = &mut self.subscribers[index];
        if tls.is_some() {
            subscriber.rare.get_or_insert_default().tls = tls;
        }
        subscriber.started = now;
        subscriber.state = State::Connecting;
        self.opening += 1;
        self.deadlines.push_back((now + self.plan.head_timeout_ns, index as u32, generation));
        if connected { self.ask(index) } else { Ok(()) }
    }

    /// Sends the request.
    pub(super) fn ask(&mut self, index: usize) -> Outcome<()> {
        let subscriber = &mut self.subscribers[index];
        subscriber.state = State::Head;
        self.request.clear();
        let id: &[u8] = if self.plan.resume { subscriber.stream.last_id.as_bytes() } else { &[] };
        let number = self.index + index * self.plan.threads;
        self.plan.subscriptions.request(number, &subscriber.topics(), id, &mut self.request)?;
        self.recorder.observations.resumed += u64::from(!id.is_empty());
        if let Some(tls) = subscriber.rare.as_mut().and_then(|rare| rare.tls.as_mut()) {
            // It is kept until the handshake is over.
            let written = tls.writer().write_all(&self.request);
            return match written.and_then(|()| layers::flush(tls, &mut self.transport, index)) {
                Ok(()) => Ok(()),
                Err(error) => self.not_opened(index, &error),
            };
        }
        match self.transport.send(index, &self.request) {
            Ok(sent) if sent == self.request.len() => Ok(()),
            Ok(_) => Err(Failure::new(
                "the request does not fit into an empty socket buffer: is the URL very long?",
            )),
            Err(error) => self.not_opened(index, &error),
        }
    }

    /// A stream could not be opened. That ends the run, unless it was open before and there is hope.
    pub(super) fn not_opened(&mut self, index: usize, error: &io::Error) -> Outcome<()> {
        match error.raw_os_error() {
            Some(libc::EMFILE) => {
                let text = "a client thread has no descriptors left: raise the limit with `ulimit -n`, or use more --threads";
                return Err(Failure::new(text));
            }
            Some(libc::EADDRNOTAVAIL) => {
                let text = format!(
                    "no source port is left after {} streams: give more source addresses with --sources, or widen the range: sysctl -w net.ipv4.ip_local_port_range='1024 65535'",
                    self.recorder.observations.opened
                );
                return Err(Failure::new(text));
            }
            _ => {}
        }
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        if self.plan.counts_errors {
            let kind = match error.kind() {
                io::ErrorKind::Other => error.to_string(),
                kind => kind.to_string(),
            };
            self.count_failure(index, &kind);
            return Ok(());
        }
        match self.common.phase() {
            Phase::Opening if refused => {
                let text = format!(
                    "nothing listens at {}: connection refused. Is the server running, and is the URL right?",
                    self.plan.subscriptions.target(self.index + index * self.plan.threads)
                );
                return Err(self.during_opening(&text));
            }
            Phase::Opening => return Err(self.during_opening(&error.to_string())),
            Phase::Live if refused && self.subscribers[index].attempts > 0 => {
                return Err(Failure::new(format!(
                    "the server died half way: {} streams ended and connecting again is refused",
                    self.recorder.observations.ended
                )));
            }
            Phase::Live if self.subscribers[index].attempts >= ATTEMPTS => {
                return Err(Failure::new(format!(
                    "a subscriber could not come back in {ATTEMPTS} attempts: {error}"
                )));
            }
            Phase::Live => {
                self.recorder.error(error.to_string());
                self.again(index);
            }
            Phase::Over => self.close(index),
        }
        Ok(())
    }

    /// A stream was answered with something else. That ends the run before it has begun; later it is tried
    /// again, as with a server that asks for patience (429, 503).
    pub(super) fn unfit_answer(&mut self, index: usize, kind: &str, text: &str) -> Outcome<()> {
        if self.plan.counts_errors {
            self.count_failure(index, kind);
            return Ok(());
        }
        match self.common.phase() {
            Phase::Opening => return Err(self.during_opening(text)),
            Phase::Live if self.subscribers[index].attempts >= ATTEMPTS => {
                return Err(Failure::new(format!(
                    "a subscriber could not come back in {ATTEMPTS} attempts: {text}"
                )));
            }
            Phase::Live => {
                self.recorder.error(kind);
                self.again(index);
            }
            Phase::Over => self.close(index),
        }
        Ok(())
    }

    /// Counts what went wrong by its kind. The subscriber tries again later.
    fn count_failure(&mut self, index: usize, kind: &str) {
        self.recorder.error(kind);
        let phase = self.common.phase();
        let subscriber = &mut self.subscribers[index];
        if phase == Phase::Opening && subscriber.attempts == 0 {
            subscriber.rare.get_or_insert_default().has_failed = true;
            self.control.failed.fetch_add(1, Ordering::Relaxed);
        }
        if phase == Phase::Over { self.close(index) } else { self.again(index) }
    }

    /// A stream took too long to open.
    pub(super) fn late_opening(&mut self, index: usize) -> Outcome<()> {
        let subscriber = &self.subscribers[index];
        let kind = match (subscriber.state, &subscriber.head) {
            (State::Connecting, _) => "no connection in time",
            (_, None) => "no answer in time",
            (_, Some(_)) => "no whole response head in time",
        };
        let text = self.stalled_opening(index).to_string();
        match self.common.phase() {
            // The text says how far the opening had come already.
            Phase::Opening if !self.plan.counts_errors => Err(Failure::new(text)),
            _ => self.unfit_answer(index, kind, &text),
        }
    }

    fn stalled_opening(&self, index: usize) -> Failure {
        let seconds = self.plan.head_timeout_ns as f64 / SECOND as f64;
        let subscriber = &self.subscribers[index];
        let text = match (&subscriber.state, &subscriber.head) {
            (State::Connecting, _) => {
                format!("no connection within {seconds} s: is a backlog or a firewall in the way?")
            }
            (_, None) => format!("connected, but no answer within {seconds} s"),
            (_, Some(head)) => {
                format!("the response head stalls: after {seconds} s there is only `{}`", excerpt(head))
            }
        };
        self.during_opening(&text)
    }

    /// Says how far the opening had come, which tells a wrong URL from a limit that was reached.
    pub(super) fn during_opening(&self, what: &str) -> Failure {
        match self.recorder.observations.opened {
            0 => Failure::new(what),
            opened => Failure::new(format!(
                "{what} (this thread had opened {opened} streams before: is a limit reached?)"
            )),
        }
    }
}

/// Why an answer is no event stream.
pub(super) fn unfit(head: &http::Head, body: &[u8], accepts_gzip: bool) -> Option<String> {
    let after = if body.is_empty() { String::new() } else { format!("; it says `{}`", excerpt(body)) };
    if (300..400).contains(&head.status) {
        return Some(format!("the server redirects ({}) to {}: use that URL", head.status, head.location));
    }
    if head.status != 200 {
        return Some(format!("the server answered {} to the subscription, not 200{after}", head.status));
    }
    let kind = head.content_type.split(';').next().unwrap_or("").trim();
    if !kind.eq_ignore_ascii_case("text/event-stream") {
        let kind = if kind.is_empty() { "no content type" } else { kind };
        return Some(format!("the answer is {kind}, not text/event-stream{after}"));
    }
    let encoding = head.content_encoding.as_str();
    if !(matches!(encoding, "" | "identity") || accepts_gzip && matches!(encoding, "gzip" | "x-gzip")) {
        return Some(format!(
            "the stream is compressed ({encoding}) although that was not asked for: turn it off, or ask for gzip with --gzip"
        ));
    }
    None
}
