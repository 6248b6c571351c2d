//! Looks at the stream after each new connection, and once a second: where it begins and ends, and whether it
//! is still the same one.

use std::sync::Arc;
use std::time::Duration;

use fanfare::{Feed, LogBreak};
use tokio::time::Instant;

use crate::api::{ApiError, StreamInfo, code};
use crate::epoch;
use crate::feeder::{BreaksOff, went_back};
use crate::shared::Shared;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long something has to be so before it is believed: a server that has just become the leader may not
/// know all that the one before knew.
const BELIEF: Duration = Duration::from_secs(3);

/// After so long without an answer over a connection that seems to work, another one is made.
const MUTE: Duration = Duration::from_secs(3);

/// How often a connection without answers is kept, because much comes over it.
const MOST_DOUBTS: u64 = 3;

pub(crate) struct Watcher {
    shared: Arc<Shared>,
    /// Since when the stream is not there.
    missing: Option<Instant>,
    /// Since when the stream ends before what this node has.
    short: Option<Instant>,
    /// The last answer, or the beginning of the connection, or the last doubt about it.
    answered: Instant,
    /// What had come over the connection then, in bytes.
    heard: u64,
    generation: u64,
    turn: u64,
    /// How often the connection was kept without an answer, because much has come over it.
    doubts: u64,
}

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>) -> Watcher {
        let generation = shared.link.connects();
        Watcher {
            shared,
            missing: None,
            short: None,
            answered: Instant::now(),
            heard: 0,
            generation,
            turn: 0,
            doubts: 0,
        }
    }

    /// Runs until the end.
    pub(crate) async fn run(mut self) {
        let _guard =
            BreaksOff { shared: Arc::clone(&self.shared), what: "the task that looks at the stream" };
        while !self.shared.has_ended() && !self.shared.is_broken() {
            match self.shared.link.generation() {
                None => {
                    self.shared.set_live(false);
                    (self.missing, self.short, self.answered) = (None, None, Instant::now());
                }
                Some(generation) => {
                    if generation != self.generation {
                        self.generation = generation;
                        self.heard = self.shared.link.received_bytes();
                        (self.missing, self.short, self.answered) = (None, None, Instant::now());
                    }
                    self.look(generation).await;
                }
            }
            self.rest().await;
        }
    }

    /// Waits for the next look: a second, or until the connection changes, or one is wanted.
    async fn rest(&self) {
        let begin = Instant::now();
        while begin.elapsed() < INTERVAL
            && self.shared.link.generation().is_none_or(|generation| generation == self.generation)
        {
            let link = &self.shared.link;
            tokio::select! {
                () = self.shared.check_now.notified() => return,
                () = link.changed() => {}
            }
            // A lost connection is told at once.
            self.shared.evaluate();
        }
    }

    async fn look(&mut self, generation: u64) {
        // Before the question: events may come while it is answered.
        let delivered = self.shared.delivered();
        let asked = self.shared.with_feed(Feed::now);
        match self.shared.api.stream_info(PATIENCE).await {
            Ok(info) => {
                (self.missing, self.answered, self.doubts) = (None, Instant::now(), 0);
                self.shared.note_look(true);
                self.heard = self.shared.link.received_bytes();
                self.take(&info, generation, delivered).await;
                if let Some(asked) = asked
                    && self.short.is_none()
                {
                    self.shared.with_feed(|feed| feed.note_end(asked, info.last));
                }
            }
            Err(ApiError::Refused { code: code::STREAM_NOT_FOUND, .. }) => {
                self.answered = Instant::now();
                self.shared.set_live(false);
                if self.missing.get_or_insert_with(Instant::now).elapsed() >= BELIEF {
                    let what = format!("the stream {} was deleted", self.shared.options.stream);
                    self.shared.break_off(LogBreak::NewEpoch(what));
                }
            }
            Err(error) => {
                self.shared.link.note_error(format!("the stream cannot be looked at: {error}"));
                self.shared.note_look(false);
                if self.answered.elapsed() >= MUTE {
                    let link = &self.shared.link;
                    self.doubts += 1;
                    // Where only the way to the server is cut, events may come for a long time.
                    if !link.is_busy_since(self.heard) || self.doubts > MOST_DOUBTS {
                        link.reconnect().await;
                    }
                    (self.answered, self.heard) = (Instant::now(), link.received_bytes());
                }
            }
        }
    }

    async fn take(&mut self, info: &StreamInfo, generation: u64, delivered: u64) {
        if !self.shared.is_same_stream(info) {
            return;
        }
        if info.last < delivered {
            if self.short.get_or_insert_with(Instant::now).elapsed() >= BELIEF {
                let what = format!("the stream ends at {}, and had {delivered}", info.last);
                went_back(&self.shared, &what).await;
            }
        } else {
            self.short = None;
        }
        self.shared.note_settings(info);
        self.shared.note_info(info, generation);
        self.turn += 1;
        if self.turn % 2 == 1 {
            self.look_at_epoch().await;
        }
    }

    async fn look_at_epoch(&self) {
        let shared = &self.shared;
        match epoch::current(&shared.bucket, &shared.created, PATIENCE).await {
            Ok(Some(epoch)) if epoch == shared.epoch => {}
            Ok(Some(epoch)) => {
                let what =
                    format!("another node has found that NATS has lost events, and the epoch is {epoch} now");
                shared.break_off(LogBreak::NewEpoch(what));
            }
            // The bucket was deleted, or the key.
            Ok(None) | Err(ApiError::Refused { code: code::STREAM_NOT_FOUND, .. }) => {
                let _ = self.restore_epoch().await;
            }
            Err(error) => shared.link.note_error(format!("the epoch cannot be looked at: {error}")),
        }
    }

    async fn restore_epoch(&self) -> Result<(), ApiError> {
        let shared = &self.shared;
        let replicas = shared.options.replicas as u64;
        shared.bucket.create(replicas, PATIENCE).await?;
        epoch::restore(&shared.bucket, &shared.created, shared.epoch, PATIENCE).await
    }
}
