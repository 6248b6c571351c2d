//! What must hold after every tick: the simulator asks, see `crate::sim`.

use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::stream::CloseReason;

use super::{Agenda, Shard};
use crate::sim::ShardSnapshot;

impl<I: Io> Shard<I> {
    pub(crate) fn awake(&self) {
        self.links.mailbox.awake();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn snapshot(&self) -> ShardSnapshot {
        let (behind, moving) = self.delivery.moving();
        ShardSnapshot {
            counts: self.counts,
            deadlines: self.arrivals.pending.deadlines(),
            resuming: self.arrivals.resuming.len(),
            has_left_resuming: self.arrivals.has_left_resuming,
            others_waiting: self.links.mailbox.others_waiting(&self.inbox) + self.agenda.len(),
            decided_waiting: self.agenda.iter().filter(|next| matches!(next, Agenda::Decided(_))).count(),
            is_marking: self.delivery.is_marking(),
            is_sweeping: self.delivery.is_sweeping(),
            is_backlogged: self.delivery.is_backlogged(),
            is_draining: self.delivery.is_draining(),
            is_making_room: self.delivery.is_making_room(),
            is_removing: self.delivery.is_removing(),
            behind,
            moving,
            memory_bytes: self.delivery.memory_bytes(),
        }
    }

    /// Connections that this shard has counted as their clients', and streams as their subjects'.
    pub(crate) fn counted(&self) -> [usize; 2] {
        [self.counted.sockets().count(), self.connections.counted()]
    }

    pub(crate) fn laggard_sockets(&self) -> impl Iterator<Item = (Socket, bool)> {
        self.delivery.laggard_sockets()
    }

    pub(crate) fn waiting_for_pages(&self) -> Vec<Socket> {
        let Some(history) = self.links.log.history_now() else { return Vec::new() };
        history.check();
        history.waiting().filter_map(|link| self.delivery.socket_of_laggard(link)).collect()
    }

    /// Pages of the durable store that are here, and pages that are under way.
    pub(crate) fn pages(&self) -> usize {
        self.links.log.history_now().map_or(0, |history| history.busy())
    }

    /// A shard that sleeps has nothing to do, and keeps no frames.
    pub(crate) fn check_sleep(&self, timeout: Option<Duration>) {
        if timeout == Some(Duration::ZERO) {
            return;
        }
        self.delivery.check_sleep();
        assert!(self.inbox.is_empty(), "it sleeps over its mail");
        assert!(self.listing.is_none(), "it sleeps over a question about connections");
        assert!(!self.arrivals.has_left_resuming, "it sleeps over streams that may begin");
        let idle = self.delivery.is_empty() && self.arrivals.pending.is_empty();
        let waits = self.accept_again_at.is_some()
            || self.delivery.is_draining()
            || !self.arrivals.resuming.is_empty()
            || self.delivery.joins_noted() > 0
            || self.arrivals.undecided.len() > 0
            || self.links.log.trims();
        assert!(!idle || waits || timeout.is_none(), "an idle shard wakes after {timeout:?}");
    }

    /// # Panics
    /// Something does not hold.
    pub(crate) fn check(&self) {
        self.delivery.check();
        self.links.log.check(self.delivery.topics_read(), self.delivery.patterns_read());
        self.check_tables();
        self.check_bounds();
        self.check_counts();
    }

    /// No socket has two roles, and none in a waiting table is forgotten.
    fn check_tables(&self) {
        let arrivals = &self.arrivals;
        let pending = arrivals.pending.iter().map(|(_, it)| it.socket);
        let resuming = arrivals.resuming.iter().map(|it| it.socket);
        let undecided = arrivals.undecided.sockets();
        let mut sockets: Vec<Socket> =
            self.delivery.sockets().chain(pending).chain(resuming).chain(undecided).collect();
        sockets.sort_unstable();
        assert!(sockets.windows(2).all(|two| two[0] != two[1]), "a socket in two tables");

        let is_open = |socket: &Socket| sockets.binary_search(socket).is_ok();
        assert!(
            self.counted.sockets().all(|socket| is_open(&socket)),
            "a closed socket is counted as its client's"
        );

        assert!(self.closing.is_empty() && self.exceptions.is_empty());
        self.connections.check(&self.delivery, self.limits.details_bytes);
        assert!(!self.stopped || sockets.is_empty(), "it stopped with sockets open");
    }

    fn check_bounds(&self) {
        let (limits, arrivals) = (&self.limits, &self.arrivals);
        assert!(self.delivery.len() <= self.most_connections, "too many connections");
        assert!(arrivals.pending.len() + arrivals.resuming.len() <= limits.pending, "too many that wait");
        arrivals.pending.check(limits.pending);
        arrivals.undecided.check(limits.undecided);
        let may_hand_over = self.links.hand_over.is_some();
        assert!(may_hand_over || arrivals.undecided.bytes() == 0, "bytes of requests that are not needed");
    }

    fn check_counts(&self) {
        let counts = &self.counts;
        let ended: u64 = CloseReason::ALL.iter().map(|reason| counts.closed_for(*reason)).sum();
        assert_eq!(counts.subscribed, self.delivery.len() as u64 + ended, "every stream ends once");
        assert_eq!(&self.links.counts.load(), counts, "what others see");
        self.links.mailbox.check(&self.inbox);
    }
}
