//! What a worker does with each notification of a stream: read, judge, and come again when it ends.

use std::cmp::Reverse;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use flate2::write::GzDecoder;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Token};
use rustls::ClientConnection;

use super::super::Stage;
use super::super::observations::{DeliverySink, Place, record};
use super::super::subscriber::{NOTHING_OWED, State};
use super::opening::{flush, unfit};
use super::{OWED_AFTER, READ_BYTES, Worker, token};
use crate::clock::{self, MILLISECOND};
use crate::failure::{Failure, Outcome, excerpt};
use crate::http::{self, Step};
use crate::sse::TooLong;
use crate::sys;

/// Full reads of one stream before the others have their turn.
const FULL_READS: usize = 16;

/// Compressed bytes that are decompressed at a time: they become a megabyte at most.
const COMPRESSED_BYTES: usize = 1024;

/// Decompresses a piece of a stream, and gives what there is to `feed`. The inner error is that of the
/// compression.
fn decompress(
    gzip: &mut GzDecoder<Vec<u8>>,
    bytes: &[u8],
    feed: &mut impl FnMut(&[u8]) -> Outcome<()>,
) -> Outcome<io::Result<()>> {
    for piece in bytes.chunks(COMPRESSED_BYTES) {
        if let Err(error) = gzip.write_all(piece).and_then(|()| gzip.flush()) {
            return Ok(Err(error));
        }
        feed(gzip.get_ref())?;
        gzip.get_mut().clear();
    }
    Ok(Ok(()))
}

/// Takes what came apart: `plain` gets what is in it. True: the server has said that this was all.
fn read_tls(tls: &mut ClientConnection, bytes: &mut &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        if !bytes.is_empty() {
            tls.read_tls(bytes)?;
        }
        let state = tls.process_new_packets().map_err(|error| io::Error::other(format!("TLS: {error}")))?;
        let start = plain.len();
        plain.resize(start + state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut plain[start..])?;
        if state.peer_has_closed() || bytes.is_empty() {
            return Ok(state.peer_has_closed());
        }
    }
}

impl Worker<'_> {
    pub(super) fn notified(&mut self, event: &Event) -> Outcome<()> {
        let index = event.token().0 & 0xFFFF_FFFF;
        let Some(subscriber) = self.subscribers.get(index) else { return Ok(()) };
        if token(index, subscriber) != event.token() {
            return Ok(());
        }
        let Some(socket) = &subscriber.socket else { return Ok(()) };
        if subscriber.state == State::Connecting {
            if let Err(error) = sys::socket_error(socket) {
                return self.not_opened(index, &error);
            }
            if !event.is_writable() {
                return Ok(());
            }
            self.ask(index)?;
            if !event.is_readable() && !event.is_read_closed() {
                return Ok(());
            }
        } else if subscriber.stalled {
            let gone = event.is_error() || event.is_write_closed();
            return if gone { self.ended(index, "it was closed") } else { Ok(()) };
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.read(index, event, &mut buffer);
        self.buffer = buffer;
        result
    }

    /// Reads until there is nothing left, because what is left is not notified again.
    fn read(&mut self, index: usize, event: &Event, buffer: &mut [u8]) -> Outcome<()> {
        for _ in 0..FULL_READS {
            // The bytes of the turn before may have ended the stream.
            let subscriber = &self.subscribers[index];
            let Some(socket) = &subscriber.socket else { return Ok(()) };
            if token(index, subscriber) != event.token() {
                return Ok(());
            }
            match sys::receive(socket.as_raw_fd(), buffer) {
                Ok(0) => return self.ended(index, "it was closed"),
                Ok(length) => {
                    self.arrived(index, event.token(), &buffer[..length])?;
                    // A short read took all there was, unless the end was notified together with it.
                    if length < READ_BYTES && !event.is_read_closed() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return self.ended(index, &error.to_string()),
            }
        }
        let Some(socket) = &self.subscribers[index].socket else { return Ok(()) };
        self.poll
            .registry()
            .reregister(&mut SourceFd(&socket.as_raw_fd()), event.token(), Interest::READABLE)
            .map_err(|error| Failure::new(format!("epoll_ctl: {error}")))
    }

    /// Bytes came from a socket: of HTTP, or of TLS with HTTP in it.
    fn arrived(&mut self, index: usize, of: Token, mut bytes: &[u8]) -> Outcome<()> {
        let Some(mut tls) = self.subscribers[index].rare.as_mut().and_then(|rare| rare.tls.take()) else {
            return self.received(index, bytes);
        };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let read = read_tls(&mut tls, &mut bytes, &mut plain);
        // An alert says to the server what was wrong; whether it gets it does not matter then.
        let flushed = flush(&mut tls, &self.subscribers[index].socket);
        if let Some(rare) = &mut self.subscribers[index].rare {
            rare.tls = Some(tls);
        }
        let mut result = if plain.is_empty() { Ok(()) } else { self.received(index, &plain) };
        self.plain = plain;
        // What came may have ended the stream.
        if token(index, &self.subscribers[index]) == of && result.is_ok() {
            match read.and_then(|over| flushed.map(|()| over)) {
                Ok(false) => {}
                Ok(true) => result = self.ended(index, "it was closed"),
                Err(error) => result = self.ended(index, &error.to_string()),
            }
        }
        result
    }

    pub(super) fn received(&mut self, index: usize, bytes: &[u8]) -> Outcome<()> {
        self.recorder.observations.bytes += bytes.len() as u64;
        if self.subscribers[index].state == State::Open {
            return self.body(index, bytes);
        }
        let mut kept = self.subscribers[index].head.take();
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(bytes);
        }
        let mut text: &[u8] = kept.as_ref().map_or(bytes, |kept| kept.as_slice());
        let head = loop {
            match http::parse_head(text) {
                // Early hints and the like: the answer comes after them.
                Ok(Some(head)) if head.is_informational() => text = &text[head.length..],
                Ok(Some(head)) => break head,
                Ok(None) => {
                    self.subscribers[index].head = Some(Box::new(text.to_vec()));
                    return Ok(());
                }
                Err(failure) => {
                    return self.unfit_answer(index, "the answer is not HTTP", &failure.to_string());
                }
            }
        };
        if let Some(wrong) = unfit(&head, &text[head.length..], self.plan.accepts_gzip) {
            let kind = match head.status {
                200 => "the answer is no event stream".to_owned(),
                status => format!("status {status}"),
            };
            return self.unfit_answer(index, &kind, &wrong);
        }
        let rest = text[head.length..].to_vec();
        self.opened(index, &head);
        if rest.is_empty() { Ok(()) } else { self.body(index, &rest) }
    }

    pub(super) fn opened(&mut self, index: usize, head: &http::Head) {
        let now = clock::now();
        let subscriber = &mut self.subscribers[index];
        subscriber.state = State::Open;
        subscriber.framing = head.framing;
        if matches!(head.content_encoding.as_str(), "gzip" | "x-gzip") {
            subscriber.rare.get_or_insert_default().gzip = Some(GzDecoder::new(Vec::new()));
        }
        subscriber.stream.reopen();
        if subscriber.attempts > 0 {
            self.recorder.observations.reopened += 1;
            subscriber.attempts = 0;
        }
        if (subscriber.joins || subscriber.skips) && subscriber.owed_from == NOTHING_OWED {
            self.joining.push_back((now + OWED_AFTER, index as u32, subscriber.generation));
        }
        self.opening -= 1;
        self.control.open.fetch_add(1, Ordering::Relaxed);
        self.recorder.observations.opened += 1;
        self.control.opened.store(self.recorder.observations.opened, Ordering::Relaxed);
        self.recorder.heard(&mut self.subscribers[index], now);
        let subscriber = &self.subscribers[index];
        record(&mut self.recorder.observations.opening, now.saturating_sub(subscriber.started));
    }

    fn body(&mut self, index: usize, mut bytes: &[u8]) -> Outcome<()> {
        let now = clock::now();
        let subscriber = &mut self.subscribers[index];
        self.recorder.heard(subscriber, now);
        let mut rest = match subscriber.unfinished.take() {
            Some(rest) => *rest,
            None => std::mem::take(&mut self.scratch),
        };
        let (mut topics, mut gzip) = match subscriber.rare.as_deref_mut() {
            Some(rare) => (Some(rare.topics.as_mut_slice()), rare.gzip.as_mut()),
            None => (None, None),
        };
        let place = Place {
            topic: subscriber.topic,
            group: subscriber.group,
            joins: &mut subscriber.joins,
            skips: &mut subscriber.skips,
            owed_from: subscriber.owed_from,
            sequence: &mut subscriber.sequence,
            more: topics.take(),
            started: subscriber.started,
            event_at: &mut subscriber.event_at,
            had_heartbeat: &mut subscriber.had_heartbeat,
        };
        let mut sink = DeliverySink { recorder: &mut self.recorder, place, now };
        let over = loop {
            match subscriber.framing.step(&mut bytes) {
                Ok(Step::Body(body)) => {
                    let mut feed = |text: &[u8]| {
                        let fed = subscriber.stream.feed(text, &mut rest, self.plan.line_bytes, &mut sink);
                        fed.map_err(|TooLong { begins }| {
                            Failure::new(format!(
                                "the server sent a line, or an event, of more than {} bytes, which begins with `{}`: if it is meant so, raise --max-line",
                                self.plan.line_bytes,
                                excerpt(&begins)
                            ))
                        })
                    };
                    match &mut gzip {
                        None => feed(body)?,
                        Some(gzip) => {
                            if let Err(error) = decompress(gzip, body, &mut feed)? {
                                break Some(format!("the compressed stream is broken: {error}"));
                            }
                        }
                    }
                }
                Ok(Step::More) => break None,
                Ok(Step::End) => break Some("its body is over".to_owned()),
                Err(failure) => break Some(failure.to_string()),
            }
        };
        if rest.is_empty() {
            rest.clear();
            self.scratch = rest;
        } else {
            subscriber.unfinished = Some(Box::new(rest));
        }
        match over {
            Some(why) => self.ended(index, &why),
            None if self.leaving.is_empty() => Ok(()),
            None => {
                self.leave_if_done(index, false);
                Ok(())
            }
        }
    }

    /// A stream, or an answer that was to become one, ended without our doing.
    pub(super) fn ended(&mut self, index: usize, why: &str) -> Outcome<()> {
        let subscriber = &mut self.subscribers[index];
        if subscriber.state != State::Open {
            let got = subscriber.head.as_ref().map_or(0, |head| head.len());
            let place = if got == 0 { "before any answer" } else { "in the middle of the response head" };
            let shakes_hands = subscriber
                .rare
                .as_ref()
                .is_some_and(|rare| rare.tls.as_ref().is_some_and(|tls| tls.is_handshaking()));
            let error = io::Error::other(match () {
                () if why.starts_with("TLS") => {
                    format!("{why}; --ca names certificates to trust, and --insecure trusts every one")
                }
                () if shakes_hands => {
                    format!(
                        "the server ended the connection in the TLS handshake ({why}): does it speak TLS?"
                    )
                }
                () => format!("the server ended the connection {place} ({why})"),
            });
            return self.not_opened(index, &error);
        }
        let after_ms = clock::now().saturating_sub(subscriber.started) / MILLISECOND;
        match self.common.stage() {
            Stage::Opening if self.plan.listens => {}
            Stage::Opening => {
                return Err(self.during_opening(&format!(
                    "the server ended a stream {after_ms} ms after it was asked for, before anything was published ({why})"
                )));
            }
            Stage::Live => {}
            Stage::Over => {
                self.close(index);
                return Ok(());
            }
        }
        self.recorder.observations.ended += 1;
        if subscriber.may_end() {
            self.recorder.stream_over(subscriber);
        } else {
            self.recorder.observations.cut += 1;
            self.recorder.error(format!("a stream was cut: {why}"));
        }
        if self.plan.comes_back {
            self.again(index);
        } else {
            self.close(index);
            self.control.over.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Comes again after the time that the server, or else the browser, sets.
    pub(super) fn again(&mut self, index: usize) {
        self.close(index);
        let subscriber = &mut self.subscribers[index];
        subscriber.attempts = subscriber.attempts.saturating_add(1);
        let asked = subscriber.stream.retry_ms;
        let delay = u64::from(if asked > 0 { asked } else { self.plan.retry_ms });
        self.retries.push(Reverse((clock::now() + delay * MILLISECOND, index as u32)));
    }
}
