//! What must hold after every tick: the simulator asks, see `crate::sim`.

use std::collections::HashMap;
use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::audience::AudienceId;
use fanfare_proto::connection::{Connection, Farewell, Place};

use super::{Budgets, Shard};
use crate::sim::Look;

impl<I: Io> Shard<I> {
    pub(crate) fn set_budgets(&mut self, budgets: Budgets) {
        self.budgets = budgets;
    }

    pub(crate) fn awake(&self) {
        self.links.mailbox.awake();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn look(&self) -> Look {
        Look {
            counts: self.counts,
            head: self.log.head(),
            dropped: self.log.head() - self.log.len() as u64,
            topics: self.log.extents().count(),
            topics_read: self.audiences.topics(),
            own_ids: self.log.own_ids(),
            laggards_in_line: self.laggards.ready_count(),
            deadlines: self.upkeep.deadlines.heads.len() + self.upkeep.deadlines.lingers.len(),
            resuming: self.resuming.len(),
            sweeping: self.audiences.dirty(),
            draining: self.drain.is_some(),
        }
    }

    pub(crate) fn laggards_in_line(&self) -> impl Iterator<Item = (Socket, bool)> {
        let socket = |slot: u32| self.connections[slot as usize].socket;
        self.laggards.iter().map(move |(_, laggard)| (socket(laggard.slot), laggard.in_line()))
    }

    /// Who sleeps has nothing to do, and keeps nobody's frames.
    pub(crate) fn check_sleep(&self, timeout: Option<Duration>) {
        if timeout == Some(Duration::ZERO) {
            return;
        }
        assert!(!self.audiences.dirty() && !self.laggards.any_ready(), "it sleeps over its work");
        assert!(self.inbox.is_empty(), "it sleeps over its mail");
        assert!(self.scratch.run.is_empty(), "an idle shard pins no frames");
        let idle = self.connections.is_empty() && self.pending.is_empty() && self.log.is_empty();
        let waits = self.accept_again_at.is_some() || self.drain.is_some();
        assert!(!idle || waits || timeout.is_none(), "an idle shard wakes after {timeout:?}");
    }

    /// # Panics
    /// Something does not hold.
    pub(crate) fn check(&self, now: Duration) {
        self.audiences.check();
        self.log.check();
        assert_eq!(self.log.holds(), self.audiences.reads(), "the log's readers are the audiences");
        self.check_connections();
        self.check_tables();
        self.check_bounds(now);
        self.check_counts();
    }

    /// Every connection stands where its audience, or its laggard, says; and nobody stands there besides.
    fn check_connections(&self) {
        let mut sizes: HashMap<AudienceId, (usize, usize)> = HashMap::new();
        let (mut laggards, mut fallen_behind) = (0, 0);
        for (slot, connection) in &self.connections {
            let size = sizes.entry(connection.audience).or_default();
            match connection.place {
                Place::Member(index) => {
                    size.0 += 1;
                    let member = self.audiences.member(connection.audience, index);
                    assert_eq!((member.slot as usize, member.socket), (slot, connection.socket), "a member");
                }
                Place::Laggard(key) => {
                    size.1 += 1;
                    laggards += 1;
                    fallen_behind += usize::from(self.check_laggard(slot, connection, key));
                }
            }
        }
        assert_eq!(self.audiences.len(), sizes.len(), "audiences that somebody is in");
        for (audience, members, laggards) in self.audiences.sizes() {
            assert_eq!(sizes.get(&audience), Some(&(members, laggards)), "an audience's size");
        }
        assert_eq!(self.laggards.len(), laggards, "a laggard without a connection");
        assert_eq!(self.laggards.fallen_behind(), fallen_behind);
    }

    /// Says whether it fell behind, rather than came to replay.
    fn check_laggard(&self, slot: usize, connection: &Connection, key: u32) -> bool {
        let laggard = self.laggards.get(key);
        assert_eq!(laggard.slot as usize, slot, "a laggard's connection");
        assert!(laggard.cursor <= self.log.head(), "ahead of the log");
        let audience_head = self.audiences.head(connection.audience);
        assert!(laggard.since <= audience_head.max(self.log.head()));
        assert!(laggard.remainder.as_ref().is_none_or(|rest| !rest.bytes().is_empty()), "nothing remains");
        laggard.at_standstill_since(Duration::MAX)
    }

    /// No socket has two roles, and nobody in a waiting table is forgotten.
    fn check_tables(&self) {
        let connections = self.connections.iter().map(|(_, it)| it.socket);
        let pending = self.pending.iter().map(|(_, it)| it.socket);
        let resuming = self.resuming.iter().map(|it| it.socket);
        let mut sockets: Vec<Socket> = connections.chain(pending).chain(resuming).collect();
        sockets.sort_unstable();
        assert!(sockets.windows(2).all(|two| two[0] != two[1]), "a socket in two tables");

        let deadlines = &self.upkeep.deadlines;
        for (slot, pending) in &self.pending {
            let is_its = |(_, other, generation): &&(Duration, usize, u32)| {
                (*other, *generation) == (slot, pending.generation)
            };
            let known = deadlines.heads.iter().chain(&deadlines.lingers).any(|entry| is_its(&entry));
            assert!(known, "a request without a deadline");
        }
        assert!(self.resuming.iter().all(|it| it.from > self.log.head()), "a reader waits for what is here");
        assert!(self.scratch.closing.is_empty() && self.scratch.gone.is_empty());
        assert!(self.scratch.exceptions.is_empty());
        assert!(!self.audiences.crowded() || self.audiences.dirty(), "crowded for ever");
        assert!(!self.stopped || sockets.is_empty(), "it stopped with sockets open");
    }

    fn check_bounds(&self, now: Duration) {
        let limits = &self.limits;
        assert!(self.connections.len() <= limits.connections, "too many connections");
        assert!(self.pending.len() + self.resuming.len() <= limits.pending, "too many who wait");
        assert!(self.log.len() <= limits.log.retention.events, "the log has too many frames");
        assert!(self.log.bytes() <= limits.log.retention.bytes, "the log has too many bytes");
        assert!(self.log.next_expiry().is_none_or(|at| at > now), "the log has frames that are too old");
        let stale = self.upkeep.deadlines.heads.len().max(self.upkeep.deadlines.lingers.len());
        assert!(stale <= 2 * limits.pending + 1026, "too many deadlines");
    }

    fn check_counts(&self) {
        let counts = &self.counts;
        let ended: u64 = Farewell::ALL.iter().map(|reason| counts.farewell(*reason)).sum();
        assert_eq!(counts.subscribed, self.connections.len() as u64 + ended, "every stream ends once");
        assert_eq!(counts.laggards, self.laggards.len() as u64);
        assert_eq!(counts.events, self.log.head(), "every event is counted");
        assert_eq!(&self.links.counts.load(), counts, "what others see");
        self.links.mailbox.check(&self.inbox);
    }
}
