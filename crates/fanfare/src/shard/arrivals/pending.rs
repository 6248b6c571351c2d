//! Pending requests: sockets whose head is not complete, or that read their answer; and their deadlines.

use std::collections::VecDeque;
use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::head::HeadScanner;
use fanfare_proto::limits::{EXPIRIES, LINGER};
use fanfare_proto::link::{LinkKey, Transport};
use slab::Slab;

use super::resuming::Resuming;
use super::{Arrivals, Reply};
use crate::admission::{Refusal, Via};
use crate::shard::{Shard, SlotKey};

/// Slots for pending requests, and for their deadlines, that an empty table keeps.
const PENDING_KEPT: usize = 64;

/// A socket that is not a subscriber: its head is not complete, or it reads its answer.
pub(in crate::shard) struct Pending {
    pub(in crate::shard) socket: Socket,
    pub(in crate::shard) generation: u32,
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
            received: Vec::new(),
            scanner: HeadScanner::new(),
        }
    }
}

/// Deadlines of pending sockets. Each queue has one duration, so it is in order by itself.
#[derive(Default)]
pub(in crate::shard) struct Deadlines {
    pub(in crate::shard) heads: Deadline,
    pub(in crate::shard) lingers: Deadline,
}

/// When, and whose.
pub(in crate::shard) type Deadline = VecDeque<(Duration, LinkKey)>;

impl Arrivals {
    pub(super) fn find(&self, key: LinkKey) -> Option<&Pending> {
        self.pending.get(key.slot as usize).filter(|pending| pending.generation == key.generation)
    }

    pub(super) fn remove(&mut self, key: LinkKey) -> Socket {
        self.pending.remove(key.slot as usize).socket
    }

    /// No request is pending, so all queued deadlines are stale. Gives back what a crowd needed, also where
    /// its requests came one after the other.
    fn forget_stale_deadlines(&mut self) {
        if !self.pending.is_empty() {
            return;
        }
        let Deadlines { heads, lingers } = &mut self.deadlines;
        let room = self.pending.capacity().max(heads.capacity()).max(lingers.capacity());
        if room > PENDING_KEPT {
            self.pending = Slab::new();
            self.deadlines = Deadlines::default();
        } else {
            heads.clear();
            lingers.clear();
        }
    }

    /// Notes a deadline. Now and then it removes the deadlines of sockets that have left, so that the queue stays in
    /// proportion to the table.
    pub(super) fn note_deadline(
        &mut self,
        queue: fn(&mut Deadlines) -> &mut Deadline,
        at: Duration,
        key: LinkKey,
    ) {
        let queue = queue(&mut self.deadlines);
        if queue.len() > 2 * self.pending.len() + 1024 {
            let pending = &self.pending;
            queue.retain(|(_, key)| {
                pending.get(key.slot as usize).is_some_and(|pending| pending.generation == key.generation)
            });
        }
        queue.push_back((at, key));
    }
}

impl<I: Io> Shard<I> {
    /// Answers, ends our side, and gives the client time to read.
    pub(super) fn answer_and_linger(&mut self, socket: Socket, answer: &[u8], now: Duration) {
        // A fresh socket takes a kilobyte; one that does not is not worth waiting for.
        if self.send_own(answer, socket) != Ok(answer.len()) {
            self.closing.push((socket, None));
            return;
        }
        self.io.finish(socket);
        if let Some(key) = self.watch_pending(socket, Stage::Lingering) {
            self.arrivals.note_deadline(|all| &mut all.lingers, now + LINGER, key);
        }
    }

    pub(super) fn watch_pending(&mut self, socket: Socket, stage: Stage) -> Option<LinkKey> {
        let room = self.room_to_wait();
        let arrivals = &mut self.arrivals;
        arrivals.generation = (arrivals.generation + 1) & LinkKey::GENERATIONS;
        let (slot, generation) = (arrivals.pending.vacant_key() as u32, arrivals.generation);
        let key = LinkKey { slot, generation };
        if !room || self.io.watch(socket, SlotKey::Pending(key).token()).is_err() {
            self.counts.turned_away += 1;
            self.closing.push((socket, None));
            return None;
        }
        arrivals.pending.insert(Pending { socket, generation, stage });
        Some(key)
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
        while let Some((_, key)) = self.arrivals.deadlines.lingers.pop_front() {
            if self.arrivals.find(key).is_some() {
                self.close_pending(key);
                return true;
            }
        }
        false
    }

    /// Closes the socket whose head has been incomplete for the longest time: most heads come at once, so it
    /// is the least likely to become a subscriber. False where there is none.
    fn forget_oldest_head(&mut self) -> bool {
        while let Some((_, key)) = self.arrivals.deadlines.heads.pop_front() {
            if self.arrivals.find(key).is_some() {
                self.counts.turned_away += 1;
                self.close_pending(key);
                return true;
            }
        }
        false
    }

    pub(super) fn close_pending(&mut self, key: LinkKey) {
        let socket = self.arrivals.remove(key);
        self.closing.push((socket, Some(SlotKey::Pending(key).token())));
    }

    /// Answers requests whose head did not come in time, and closes sockets that lingered long enough.
    pub(in crate::shard) fn expire_pending(&mut self, now: Duration) {
        for _ in 0..EXPIRIES {
            let Some(key) = due(&mut self.arrivals.deadlines.heads, now) else { break };
            // A shard that is late itself may not have read what came in time.
            self.pending_ready(key, true, now);
            if self.arrivals.find(key).is_none() {
                continue;
            }
            let socket = self.arrivals.remove(key);
            self.io.unwatch(socket, SlotKey::Pending(key).token());
            self.counts.heads_timed_out += 1;
            let late = Refusal::new(408, "the request head was not complete in time");
            self.reply(socket, Reply::Refuse(late), now);
        }
        for _ in 0..EXPIRIES {
            let Some(key) = due(&mut self.arrivals.deadlines.lingers, now) else { break };
            if self.arrivals.find(key).is_some() {
                self.close_pending(key);
            }
        }
        self.arrivals.forget_stale_deadlines();
    }

    pub(in crate::shard) fn close_all_pending(&mut self) {
        while let Some(Resuming { socket, .. }) = self.arrivals.resuming.pop_front() {
            self.closing.push((socket, None));
        }
        self.close_all_undecided();
        let key = |(slot, pending): (usize, &Pending)| LinkKey {
            slot: slot as u32,
            generation: pending.generation,
        };
        let keys: Vec<LinkKey> = self.arrivals.pending.iter().map(key).collect();
        for key in keys {
            self.close_pending(key);
        }
    }
}

/// The next entry whose time has come.
pub(super) fn due(queue: &mut Deadline, now: Duration) -> Option<LinkKey> {
    let (at, key) = *queue.front()?;
    (at <= now).then(|| {
        queue.pop_front();
        key
    })
}
