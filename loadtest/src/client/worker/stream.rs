//! What a worker does with what a stream brings: judge it, and come again when it ends.

use std::cmp::Reverse;
use std::io;
use std::sync::atomic::Ordering;

use flate2::write::MultiGzDecoder;

use super::super::Phase;
use super::super::observations::{DeliverySink, Place, record};
use super::super::subscriber::{Account, NOTHING_OWED, State};
use super::layers::decompress;
use super::opening::unfit;
use super::transport::Transport;
use super::{OWED_AFTER, Worker};
use crate::clock::{self, MILLISECOND};
use crate::failure::{Failure, Outcome, excerpt};
use crate::http::{self, Step};
use crate::sse::TooLong;

impl<T: Transport> Worker<'_, T> {
    /// Bytes of HTTP came.
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
            subscriber.rare.get_or_insert_default().gzip = Some(MultiGzDecoder::new(Vec::new()));
        }
        subscriber.stream.reopen();
        if let Some(rare) = subscriber.rare.as_mut().filter(|rare| rare.has_failed) {
            rare.has_failed = false;
            self.control.failed.fetch_sub(1, Ordering::Relaxed);
            if self.common.phase() != Phase::Opening {
                // It was not there when events were published, so it could not get them.
                subscriber.begin_anew();
            }
        } else if subscriber.attempts > 0 {
            self.recorder.observations.reopened += 1;
        }
        subscriber.attempts = 0;
        if subscriber.accounts().any(|account| account.waits() && *account.owed_from == NOTHING_OWED) {
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
        let (others, mut gzip) = match subscriber.rare.as_deref_mut() {
            Some(rare) => (rare.topics.as_mut_slice(), rare.gzip.as_mut()),
            None => (&mut [][..], None),
        };
        let place = Place {
            first: Account {
                topic: subscriber.topic,
                sequence: &mut subscriber.sequence,
                joins: &mut subscriber.joins,
                skips: &mut subscriber.skips,
                owed_from: &mut subscriber.owed_from,
            },
            others,
            group: subscriber.group,
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
        match self.common.phase() {
            Phase::Opening if self.plan.listens => {}
            Phase::Opening => {
                return Err(self.during_opening(&format!(
                    "the server ended a stream {after_ms} ms after it was asked for, before anything was published ({why})"
                )));
            }
            Phase::Live => {}
            Phase::Over => {
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
