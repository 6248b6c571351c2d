//! Pending requests: sockets whose head is not complete, or that read their answer; and their deadlines.

use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::head::HeadScanner;
use fanfare_proto::limits::{EXPIRIES, LINGER};
use fanfare_proto::link::{LinkKey, Transport};
use fanfare_proto::problem::ProblemKind;

use super::Reply;
use super::clients::Counting;
use super::resuming::Resuming;
use crate::admission::{Refusal, Via};
use crate::shard::{Shard, SlotKey};

/// A socket that is not a subscriber: its head is not complete, or it reads its answer.
pub(in crate::shard) struct Pending {
    pub(in crate::shard) socket: Socket,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    /// Its head is not complete.
    Receiving(Receiving),
    /// The answer is out; what still comes is thrown away, so that the close does not reset the
    /// connection under the answer (RFC 9112, section 9.6).
    Lingering,
}

/// A head that is being received.
pub(super) struct Receiving {
    /// How bytes travel over the socket: its listener's.
    pub(super) transport: Transport,
    pub(super) via: Via,
    /// A header of the PROXY protocol comes before it, and is not complete.
    pub(super) expects_proxy_header: bool,
    /// Whether it is counted as its client's.
    pub(super) counting: Counting,
    /// What has come of the head.
    pub(super) received: Vec<u8>,
    pub(super) scanner: HeadScanner,
}

impl Receiving {
    /// Nothing has come yet.
    pub(super) fn new(transport: Transport) -> Receiving {
        Receiving {
            transport,
            via: Via::Direct,
            expects_proxy_header: false,
            counting: Counting::Done,
            received: Vec::new(),
            scanner: HeadScanner::new(),
        }
    }
}

/// The queues of deadlines: of heads that are not complete, of answers that are being read, and of the
/// operator's heads where room is scarce.
pub(super) const HEADS: usize = 0;
const LINGERS: usize = 1;
pub(super) const OPERATOR_HEADS: usize = 2;
pub(super) const QUEUES: usize = 3;

impl<I: Io> Shard<I> {
    /// Answers, ends our side, and gives the client time to read.
    pub(super) fn answer_and_linger(&mut self, socket: Socket, answer: &[u8], now: Duration) {
        // A fresh socket takes a kilobyte; one that does not is not worth waiting for.
        if self.send_own(answer, socket) != Ok(answer.len()) {
            self.closing.push((socket, None));
            return;
        }
        self.io.finish(socket);
        self.watch_pending(socket, Stage::Lingering, LINGERS, now + LINGER);
    }

    pub(super) fn watch_pending(&mut self, socket: Socket, stage: Stage, queue: usize, deadline: Duration) {
        let room = self.room_to_wait();
        let key = self.arrivals.pending.next_key();
        if !room || self.io.watch_incoming(socket, SlotKey::Pending(key).token()).is_err() {
            self.counts.turned_away += 1;
            self.closing.push((socket, None));
            return;
        }
        self.arrivals.pending.insert(key, Pending { socket, stage }, queue, deadline);
    }

    /// Whether one more may wait: at the bound an answer that is being read makes room, or else the oldest
    /// head.
    pub(super) fn room_to_wait(&mut self) -> bool {
        self.arrivals.pending.len() + self.arrivals.resuming.len() < self.limits.pending
            || self.close_oldest_answered()
            || self.forget_oldest_head()
    }

    /// Closes the socket whose answer has been there to be read for the longest time.
    fn close_oldest_answered(&mut self) -> bool {
        let Some(key) = self.arrivals.pending.take_oldest(LINGERS) else { return false };
        self.close_pending(key);
        true
    }

    /// Closes the socket whose head has been incomplete for the longest time: most heads come at once, so it
    /// is the least likely to become a subscriber. The operator's go last. False where there is none.
    fn forget_oldest_head(&mut self) -> bool {
        let pending = &mut self.arrivals.pending;
        let oldest = pending.take_oldest(HEADS).or_else(|| pending.take_oldest(OPERATOR_HEADS));
        let Some(key) = oldest else { return false };
        self.counts.turned_away += 1;
        self.close_pending(key);
        true
    }

    pub(super) fn close_pending(&mut self, key: LinkKey) {
        if let Some(Pending { socket, .. }) = self.arrivals.pending.remove(key) {
            self.closing.push((socket, Some(SlotKey::Pending(key).token())));
        }
    }

    /// Answers requests whose head did not come in time, and closes sockets that lingered long enough.
    pub(in crate::shard) fn expire_pending(&mut self, now: Duration) {
        for _ in 0..EXPIRIES {
            let pending = &mut self.arrivals.pending;
            let due = pending.take_due(OPERATOR_HEADS, now).or_else(|| pending.take_due(HEADS, now));
            let Some(key) = due else { break };
            // A shard that is late itself may not have read what came in time.
            self.pending_ready(key, true, now);
            let Some(Pending { socket, .. }) = self.arrivals.pending.remove(key) else { continue };
            self.io.unwatch(socket, SlotKey::Pending(key).token());
            self.counts.heads_timed_out += 1;
            let late = Refusal::of(ProblemKind::HeadTimeout, "the request head was not complete in time");
            self.reply(socket, Reply::Refuse(late), now);
        }
        for _ in 0..EXPIRIES {
            let Some(key) = self.arrivals.pending.take_due(LINGERS, now) else { break };
            self.close_pending(key);
        }
        self.arrivals.pending.give_back();
    }

    /// Heads that are not complete have at most this time from now on.
    pub(in crate::shard) fn shorten_head_time(&mut self, now: Duration) {
        let deadline = now.saturating_add(self.limits.head_time);
        for queue in [HEADS, OPERATOR_HEADS] {
            self.arrivals.pending.at_most(queue, deadline);
        }
    }

    pub(in crate::shard) fn close_all_pending(&mut self) {
        while let Some(Resuming { socket, awaits, .. }) = self.arrivals.resuming.pop_front() {
            self.forget_start(awaits);
            self.closing.push((socket, None));
        }
        self.close_all_undecided();
        let keys: Vec<LinkKey> = self.arrivals.pending.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.close_pending(key);
        }
    }
}
