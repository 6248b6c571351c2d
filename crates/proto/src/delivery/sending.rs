//! What is sent next, and what came of it. One batch is under way at a time.
//!
//! [`sweeps`] sends to members, [`replay`] to laggards, and [`heartbeats`] keeps quiet streams alive and ends
//! streams.

mod heartbeats;
mod replay;
mod sweeps;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Budgets, Delivery, StreamKey};
use crate::audience::{AudienceId, Slice, Turn};
use crate::event_log::EventLog;
use crate::frame::{Checkpoint, Frame};
use crate::frames::{FrameKey, FrameStore};
use crate::histogram::Histogram;
use crate::link::Encoding;
use crate::run::Run;
use crate::shrink::shrink_buffer;
use crate::stream::CloseReason;

/// The same bytes for each of these sockets.
#[derive(Clone, Copy, Debug)]
pub struct SendBatch<'delivery> {
    /// What to send.
    pub bytes: &'delivery [u8],
    /// To which sockets.
    pub sockets: &'delivery [i32],
}

/// A send of a batch that was not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// The position in the batch.
    pub index: usize,
    /// How many bytes the socket took: fewer than were offered.
    pub sent: usize,
    /// The connection is gone; otherwise the socket is full, and a notification follows when there is room
    /// again.
    pub is_gone: bool,
}

/// Room for heartbeats that an idle shard keeps.
const HEARTBEATS_KEPT: usize = 512;

/// What the batch under way is.
#[derive(Clone, Copy, Debug, Default)]
enum InFlight {
    #[default]
    Nothing,
    Slice(AudienceId, Slice),
    /// What was begun on the link in this slot.
    Unsent(u32),
    /// The current run, to one laggard.
    Replay(u32),
    /// Heartbeats of one kind to `sending.slots`.
    Heartbeats(HeartbeatKind),
    Ending(u32, CloseReason),
}

/// Which bytes a heartbeat is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeartbeatKind {
    pub(super) encoding: Encoding,
    pub(super) checkpoint: Checkpoint,
}

/// Buffers that are reused from batch to batch, and what is queued to be sent.
#[derive(Default)]
pub(super) struct Sending {
    in_flight: InFlight,
    /// The audience whose turn it is.
    turn: Option<Turn>,
    run: Run,
    /// Whose run that is: the audience, its first frame and the audience's head when it was filled.
    run_of: Option<(AudienceId, u64, u64)>,
    /// Sockets of the batch under way, and the slots where it is one of heartbeats.
    sockets: Vec<i32>,
    slots: Vec<u32>,
    /// Bytes that are not a run's.
    own: Vec<u8>,
    frames: Vec<Arc<Frame>>,
    keys: Vec<FrameKey>,
    failures: Vec<SendFailure>,
    /// Streams found gone in the middle of a turn, and up to which number each was given everything.
    gone: Vec<(u32, u64)>,
    /// A laggard whose unsent bytes have just gone out, and whose turn goes on.
    next_laggard: Option<u32>,
    /// Streams whose heartbeat is due, by its kind: one batch has the same bytes for all.
    heartbeats: Vec<(HeartbeatKind, VecDeque<StreamKey>)>,
    /// Streams to be ended, and why.
    endings: VecDeque<(StreamKey, CloseReason)>,
    /// What heartbeats may say: every event up to here has been handed to this shard.
    pub(super) caught_up_to: Option<u64>,
}

impl Sending {
    pub(super) fn has_work(&self) -> bool {
        !self.endings.is_empty() || self.heartbeats.iter().any(|(_, keys)| !keys.is_empty())
    }

    pub(super) fn shrink_for_idle(&mut self, store: &mut FrameStore) {
        self.run.shrink_for_idle(store);
        self.run_of = None;
        shrink_buffer(&mut self.sockets);
        shrink_buffer(&mut self.slots);
        shrink_buffer(&mut self.own);
        shrink_buffer(&mut self.frames);
        shrink_buffer(&mut self.keys);
        shrink_buffer(&mut self.failures);
        shrink_buffer(&mut self.gone);
        for (_, keys) in self.heartbeats.iter_mut().filter(|(_, keys)| keys.capacity() > HEARTBEATS_KEPT) {
            *keys = VecDeque::new();
        }
    }

    /// An audience has left: another may get its index.
    pub(super) fn forget_run(&mut self, store: &mut FrameStore) {
        self.run.clear(store);
        self.run_of = None;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.run.is_empty() && self.turn.is_none() && matches!(self.in_flight, InFlight::Nothing)
    }

    pub(super) fn endings_queued(&self) -> usize {
        self.endings.len()
    }

    pub(super) fn queue_heartbeat(&mut self, key: StreamKey, kind: HeartbeatKind) {
        match self.heartbeats.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, keys)) => keys.push_back(key),
            None => self.heartbeats.push((kind, VecDeque::from([key]))),
        }
    }

    /// Heartbeats that are queued.
    pub(super) fn heartbeats_queued(&self) -> usize {
        self.heartbeats.iter().map(|(_, keys)| keys.len()).sum()
    }

    /// Whether heartbeats are queued that may carry a cursor.
    pub(super) fn wants_caught_up_to(&self) -> bool {
        self.heartbeats.iter().any(|(kind, keys)| kind.checkpoint != Checkpoint::Off && !keys.is_empty())
    }

    pub(super) fn queue_ending(&mut self, key: StreamKey, reason: CloseReason) {
        self.endings.push_back((key, reason));
    }
}

impl Delivery {
    /// The budget of one tick.
    pub fn budget(&self) -> Budgets {
        // Each laggard that is queued now has one turn, at most: one that reads fast comes again in the next
        // tick.
        Budgets { laggards: self.budgets.laggards.min(self.laggards.ready_count()), ..self.budgets }
    }

    /// The next batch. The caller sends it and then calls [`Delivery::handle_sent`], whatever came of it.
    pub fn poll_send<'delivery>(
        &'delivery mut self,
        now: Duration,
        budget: &mut Budgets,
        log: &mut impl EventLog,
    ) -> Option<SendBatch<'delivery>> {
        assert!(matches!(self.sending.in_flight, InFlight::Nothing), "the batch before was not reported");
        self.sending.sockets.clear();
        let sweep = self.next_slice(now, budget, log);
        let in_flight = match sweep {
            Some(in_flight) => in_flight,
            None => self
                .next_replay(now, budget, log)
                .or_else(|| self.next_heartbeats(now, budget))
                .or_else(|| self.next_ending(budget, log))?,
        };
        self.sending.in_flight = in_flight;
        let bytes = match in_flight {
            InFlight::Slice(..) | InFlight::Replay(_) => self.sending.run.bytes(&self.store),
            InFlight::Unsent(link) => {
                self.unsent.get(link).map_or(&[][..], |unsent| unsent.bytes(&self.store))
            }
            InFlight::Heartbeats(_) | InFlight::Ending(..) => &self.sending.own,
            InFlight::Nothing => &[],
        };
        Some(SendBatch { bytes, sockets: &self.sending.sockets })
    }

    /// Notes how long the first frames of the run were on their way, to each of so many streams. The sum
    /// takes the mean of the first and the last one for all of them where these are in one bucket.
    fn note_lag(&mut self, frames: usize, streams: u64, now: Duration) {
        let frames = &self.sending.run.frames()[..frames];
        let (Some(&first), Some(&last)) = (frames.first(), frames.last()) else { return };
        let at = self.measured_at(now);
        let lag = |key: FrameKey| at.saturating_sub(self.store.get(key).published());
        let (longest, shortest) = (lag(first), lag(last));
        if Histogram::is_same_bucket(longest, shortest) {
            self.delivery_lag.record((longest + shortest) / 2, streams * frames.len() as u64);
        } else {
            for &key in frames {
                self.delivery_lag.record(lag(key), streams);
            }
        }
    }

    /// What came of the batch: which sends were not whole, in any order.
    pub fn handle_sent(
        &mut self,
        failures: impl IntoIterator<Item = SendFailure>,
        now: Duration,
        log: &mut impl EventLog,
    ) {
        match std::mem::take(&mut self.sending.in_flight) {
            InFlight::Nothing => unreachable!("no batch is under way"),
            InFlight::Slice(audience, slice) => self.slice_sent(audience, slice, failures, now),
            InFlight::Unsent(link) => self.unsent_sent(link, failures.into_iter().next(), now, log),
            InFlight::Replay(laggard) => self.replay_sent(laggard, failures.into_iter().next(), now, log),
            InFlight::Heartbeats(kind) => self.heartbeats_sent(kind, failures, now, log),
            InFlight::Ending(slot, reason) => {
                // If it did not fit, the client sees a broken stream and reconnects: the same, less politely.
                self.end(slot, reason, true, log);
            }
        }
        if self.sending.turn.is_none() {
            self.make_room(log);
        }
    }
}
