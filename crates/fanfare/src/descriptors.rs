//! How the descriptors that a process may have are shared out: to the engine itself, and to connections.

use std::io;

use fanfare_io::{Backend, table};
use fanfare_proto::limits::Limits;

/// The `RLIMIT_NOFILE` of a process: how many descriptors each of its tables may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescriptorLimit {
    /// The soft limit before the start.
    pub found: usize,
    /// The soft limit now: higher, where [`crate::Builder::raise_descriptor_limit`] was set and the hard
    /// limit is higher.
    pub in_force: usize,
}

impl DescriptorLimit {
    pub(crate) fn determine(raise: bool) -> io::Result<DescriptorLimit> {
        let found = table::descriptor_limit()?;
        let in_force = if raise { table::raise_descriptor_limit()? } else { found };
        Ok(DescriptorLimit { found, in_force })
    }
}

/// Descriptors for what is open for a moment, such as a newcomer that is refused, and for what the program
/// opens after the start.
const SPARE: usize = 16;

/// Standard input, output and error.
const STANDARD: usize = 3;

/// What the descriptors are shared out to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// How many descriptors a table may hold.
    pub(crate) limit: usize,
    /// How many the process's table holds before the start.
    pub(crate) open: usize,
    /// Whether each shard gets a table of its own.
    pub(crate) private_tables: bool,
    /// Listeners, of each of which each shard has a descriptor.
    pub(crate) listeners: usize,
    /// Whether sockets are handed over.
    pub(crate) hand_over: bool,
    pub(crate) backend: Backend,
}

impl Budget {
    /// How many connections each of this many shards may have. Connections get all descriptors of a table but
    /// a sixteenth, or more where the engine needs more itself. Shards that share a table divide the rest of
    /// it.
    pub(crate) fn connections(&self, shards: usize) -> usize {
        let reserve = (self.limit / 16).clamp(16, 1024);
        let (needed, sharing) = if self.private_tables {
            // All wakers are in each table: an admission may publish, and then its shard wakes the others.
            (STANDARD + shards + self.moved() + self.backend(), 1)
        } else {
            (self.at_start(shards) + shards * self.backend(), shards)
        };
        self.limit.saturating_sub(reserve.max(needed + SPARE)) / sharing
    }

    /// Whether this many shards can start, and have room for a connection each.
    fn fits(&self, shards: usize) -> bool {
        self.at_start(shards) + SPARE <= self.limit && self.connections(shards) > 0
    }

    /// The descriptors in the starting thread's table when the first shard starts: for each shard a waker,
    /// the sending end of its channel, and what moves to the shard's thread; and both ends of the channel for
    /// sockets that are handed over.
    fn at_start(&self, shards: usize) -> usize {
        let hand_over = if self.hand_over { 2 } else { 0 };
        self.open + hand_over + shards * (2 + self.moved())
    }

    /// What moves to a shard's thread: its listeners, the receiving end of its channel, and a sender for
    /// sockets that are handed over.
    fn moved(&self) -> usize {
        self.listeners + 1 + usize::from(self.hand_over)
    }

    /// An epoll instance, and a ring.
    fn backend(&self) -> usize {
        if self.backend == Backend::Epoll { 1 } else { 2 }
    }

    /// Fits the limits that depend on descriptors to this many shards. Incomplete heads get a quarter of a
    /// table at most, and undecided requests another, so that slow heads alone do not fill it, nor a slow
    /// admission.
    ///
    /// # Errors
    /// A text for people: so many shards do not fit.
    pub(crate) fn share_out(&self, mut limits: Limits, shards: usize) -> Result<Limits, String> {
        if !self.fits(shards) {
            return Err(self.refusal(shards));
        }
        let sharing = if self.private_tables { 1 } else { shards };
        let quarter = (self.limit / 4 / sharing).max(1);
        limits.connections = limits.connections.min(self.connections(shards));
        limits.pending = limits.pending.min(quarter);
        limits.undecided = limits.undecided.min(quarter);
        Ok(limits)
    }

    fn refusal(&self, shards: usize) -> String {
        let Budget { limit, open, .. } = self;
        match (1..shards).rev().find(|&fewer| self.fits(fewer)) {
            Some(most) => format!(
                "RLIMIT_NOFILE of {limit} has room for {most} shards beside the {open} descriptors that are open; raise \
                 it, or start at most {most} shards"
            ),
            None => format!(
                "RLIMIT_NOFILE of {limit} leaves no connection to a shard beside the {open} descriptors that are open; \
                 raise it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limit: usize, private_tables: bool) -> Budget {
        Budget { limit, open: 10, private_tables, listeners: 1, hand_over: true, backend: Backend::IoUring }
    }

    fn connections(limit: usize, private_tables: bool, shards: usize) -> Option<usize> {
        let shared_out = budget(limit, private_tables).share_out(Limits::default(), shards);
        shared_out.map(|limits| limits.connections).ok()
    }

    /// Each shard took a reserve from its share: with small tables and many shards there was nothing left,
    /// and an engine that refused every subscriber.
    #[test]
    fn shards_that_share_a_table_share_its_reserve() {
        assert_eq!(connections(1024, false, 1), Some(960));
        assert_eq!(connections(1024, false, 4), Some(240));
    }

    /// The engine's own descriptors were not counted: 64 shards were promised 960 connections in a table of
    /// 1,024, of which they needed 460 themselves.
    #[test]
    fn what_the_engine_needs_itself_is_no_room_for_connections() {
        for private_tables in [true, false] {
            for shards in 1..100 {
                let Some(each) = connections(1024, private_tables, shards) else { continue };
                // By table: listener, receiver, sender of sockets, epoll and ring; wakers; senders to the
                // shards.
                let used =
                    if private_tables { each + 5 + shards + 3 } else { shards * (each + 5 + 1 + 1) + 2 + 10 };
                assert!(used <= 1024 - SPARE, "{shards} shards of {each} use {used}");
            }
        }
        assert_eq!(connections(1024, false, 64), Some(8));
        assert_eq!(connections(1024, true, 64), Some(936));
    }

    /// `--shards 5000` failed with "Too many open files" and nothing else.
    #[test]
    fn shards_that_do_not_fit_are_refused_with_the_number_that_does() {
        for private_tables in [true, false] {
            let budget = budget(1024, private_tables);
            let refused = budget.share_out(Limits::default(), 5000).unwrap_err();
            assert!(refused.contains("RLIMIT_NOFILE of 1024"), "{refused}");
            let (_, most) = refused.rsplit_once("start at most ").unwrap();
            let most: usize = most.trim_end_matches(" shards").parse().unwrap();
            assert!(most > 100, "{refused}");
            assert!(budget.share_out(Limits::default(), most).unwrap().connections > 0);
            assert!(budget.share_out(Limits::default(), most + 1).is_err());
        }
        let none = budget(20, true).share_out(Limits::default(), 1).unwrap_err();
        assert!(none.contains("no connection") && none.contains("raise it"), "{none}");
    }
}
