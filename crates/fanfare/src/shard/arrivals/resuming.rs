//! Subscribers that resume from a number which is not released here yet, or which is older than what is in
//! memory, so that the durable store is asked.

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::event_log::EventLog;
use fanfare_proto::limits::{AHEAD_WAIT, RESUMES, UNDECIDED_CHECK, UNDECIDED_CHECKS};
use fanfare_proto::link::Encoding;
use fanfare_proto::log::Start;

use super::Arrivals;
use crate::admission::Subscribe;
use crate::history::{ShardHistory, StoreStart};
use crate::orders::Names;
use crate::shard::Shard;
use crate::shared_log::SharedLog;

/// How long a subscriber waits for the durable store. Then it is turned away, and comes back: what is in
/// memory alone would be a loss that did not happen.
const STORE_WAIT: Duration = Duration::from_secs(10);

/// A subscriber that resumes and cannot begin yet.
///
/// Where its number is newer than every one here, it may have the number from a node that was ahead of this
/// one. An unknown number is a gap: without a wait, the subscriber would learn of a loss that did not happen,
/// and would get everything again.
pub(in crate::shard) struct Resuming {
    /// What has to come first.
    pub(in crate::shard) awaits: Awaits,
    /// When it is not waited for any longer.
    pub(in crate::shard) until: Duration,
    pub(in crate::shard) socket: Socket,
    subscribe: Box<Subscribe>,
    encoding: Encoding,
}

/// What a subscriber waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum Awaits {
    /// This number is released here.
    Number(u64),
    /// The durable store says where it starts.
    Start(u64),
}

impl<I: Io> Shard<I> {
    /// What a subscriber has to wait for that would start here by what is in memory.
    pub(super) fn awaits(
        &mut self,
        subscribe: &Subscribe,
        encoding: Encoding,
        start: Start,
    ) -> Option<Awaits> {
        if let Start::Ahead { seq, .. } = start {
            return Some(Awaits::Number(seq));
        }
        let id = subscribe.resume.as_ref()?;
        let subscription = subscribe.subscription(encoding);
        self.links.log.ask_for_start(id, start, subscription.selection()).map(Awaits::Start)
    }

    /// Where a subscriber starts; `None`: with the next event.
    pub(super) fn start_of(&self, subscribe: &Subscribe, encoding: Encoding) -> Option<Start> {
        let id = subscribe.resume.as_ref()?;
        Some(self.links.log.resume(id, subscribe.subscription(encoding).selection()))
    }

    /// A subscriber waits, within bounds.
    pub(super) fn wait_to_resume(
        &mut self,
        socket: Socket,
        awaits: Awaits,
        subscribe: Box<Subscribe>,
        encoding: Encoding,
        now: Duration,
    ) {
        // A quarter of the room stays for other requests.
        let most = self.limits.pending - self.limits.pending / 4;
        let is_crowded = self.arrivals.resuming.len() >= most;
        if is_crowded || !self.room_to_wait() {
            self.counts.turned_away += 1;
            self.closing.push((socket, None));
            self.forget_start(awaits);
            return;
        }
        let wait = match awaits {
            Awaits::Number(_) => AHEAD_WAIT,
            Awaits::Start(_) => STORE_WAIT,
        };
        let until = now.saturating_add(wait);
        self.arrivals.resuming.push_back(Resuming { awaits, until, socket, subscribe, encoding });
    }

    /// Begins the streams of subscribers whose number has been released, as far as the budget of openings
    /// goes, and one in any case: decisions may use it up in every tick. A subscriber that has waited for the
    /// whole time begins too, with a gap.
    pub(in crate::shard) fn start_caught_up_resumes(&mut self, now: Duration) {
        let (newest, mut begun) = (self.links.log.newest(), 0);
        self.arrivals.has_left_resuming = false;
        // Each is checked once. A subscriber that goes on waiting moves to the end, so the order stays.
        for _ in 0..self.arrivals.resuming.len().min(RESUMES) {
            let Some(resuming) = self.arrivals.resuming.pop_front() else { return };
            let has_come = match resuming.awaits {
                Awaits::Number(from) => from <= newest,
                Awaits::Start(ticket) => {
                    self.links.log.history_now().is_none_or(|history| history.has_start(ticket))
                }
            };
            if !has_come && now < resuming.until {
                self.arrivals.resuming.push_back(resuming);
                continue;
            }
            if self.topics_left == 0 && begun > 0 {
                self.arrivals.resuming.push_front(resuming);
                self.arrivals.has_left_resuming = true;
                return;
            }
            begun += 1;
            if !has_come
                && let Awaits::Number(number) = resuming.awaits
                && !self.links.log.was_never_given(number, resuming.until.saturating_sub(AHEAD_WAIT))
            {
                // Its number may be in a log that nodes share, and this node has not read it so far.
                self.counts.turned_away += 1;
                self.closing.push((resuming.socket, None));
                continue;
            }
            let Resuming { awaits, socket, subscribe, encoding, .. } = resuming;
            let of_store = self.forget_start(awaits);
            let start = match (awaits, &of_store) {
                (Awaits::Number(_), _) => self.start_of(&subscribe, encoding),
                (Awaits::Start(_), None) => {
                    self.counts.turned_away += 1;
                    self.closing.push((socket, None));
                    continue;
                }
                // The store cannot be read: the subscriber gets what is in memory, and learns of a gap.
                (Awaits::Start(_), Some(StoreStart { start: None, .. })) => self
                    .start_of(&subscribe, encoding)
                    .map(|start| match SharedLog::lacks_what_follows(start) {
                        true => Start::Gap { cursor: start.cursor(), from: start.from() },
                        false => start,
                    }),
                // The event with its id may have come from the shared log while the store was asked.
                (Awaits::Start(_), Some(StoreStart { start: Some(gap @ Start::Gap { .. }), .. })) => {
                    let known = self.start_of(&subscribe, encoding);
                    known.filter(|start| !SharedLog::lacks_what_follows(*start)).or(Some(*gap))
                }
                (Awaits::Start(_), Some(of_store)) => of_store.start,
            };
            // Its number has come, and memory has lost what came behind it meanwhile.
            if let (Awaits::Number(_), true, Some(start)) = (awaits, has_come, start)
                && let Some(awaits) = self.awaits(&subscribe, encoding, start)
            {
                let until = now.saturating_add(STORE_WAIT);
                self.arrivals.resuming.push_back(Resuming { awaits, until, socket, subscribe, encoding });
                continue;
            }
            let retained = of_store.and_then(|of_store| of_store.retained);
            if let Err(other) = self.subscribe(socket, &subscribe, encoding, (start, retained), now) {
                self.reply(socket, other, now);
            }
        }
        let history = self.links.log.history_now();
        let is_waited_for = !self.arrivals.resuming.is_empty();
        self.arrivals.has_left_resuming = is_waited_for && history.is_some_and(ShardHistory::has_starts);
    }

    /// Closes the sockets of subscribers that have left while they waited, a part of them at a time. Their
    /// sockets are not watched. They held the places of others, and the durable store looked for their
    /// events.
    pub(in crate::shard) fn close_resuming_of_gone(&mut self, now: Duration) {
        let Arrivals { resuming, next_resuming_check, .. } = &mut self.arrivals;
        if resuming.is_empty() {
            *next_resuming_check = None;
            return;
        }
        if now < *next_resuming_check.get_or_insert(now + UNDECIDED_CHECK) {
            return;
        }
        *next_resuming_check = Some(now + UNDECIDED_CHECK);
        let checked = resuming.len().min(UNDECIDED_CHECKS);
        let sockets: Vec<Socket> = resuming.iter().take(checked).map(|it| it.socket).collect();
        let mut ended = Vec::new();
        self.io.find_ended(&sockets, &mut ended);
        let ended: BTreeSet<Socket> = ended.into_iter().collect();
        // Subscribers that go on waiting move to the end of the queue. So their order stays, and the next
        // check looks at others.
        for _ in 0..checked {
            let Some(resuming) = self.arrivals.resuming.pop_front() else { return };
            if ended.contains(&resuming.socket) {
                self.counts.left_undecided += 1;
                self.closing.push((resuming.socket, None));
                self.forget_start(resuming.awaits);
            } else {
                self.arrivals.resuming.push_back(resuming);
            }
        }
    }

    /// Takes the answer of the durable store away, if there is one.
    pub(super) fn forget_start(&mut self, awaits: Awaits) -> Option<StoreStart> {
        let Awaits::Start(ticket) = awaits else { return None };
        self.links.log.history()?.take_start(ticket)
    }

    /// Closes the connections with such names that wait for a number.
    pub(in crate::shard) fn close_resuming(&mut self, are_meant: impl Fn(Names) -> bool) {
        let (closing, mut asked) = (&mut self.closing, Vec::new());
        self.arrivals.resuming.retain(|resuming| {
            let is_its = are_meant(resuming.subscribe.names);
            if is_its {
                closing.push((resuming.socket, None));
                asked.push(resuming.awaits);
            }
            !is_its
        });
        for awaits in asked {
            self.forget_start(awaits);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use crossbeam_utils::CachePadded;
    use fanfare_io::epoll::Epoll;
    use fanfare_io::{Waker, fd_channel};
    use fanfare_proto::cursor::{Cursor, Epoch};
    use fanfare_proto::delivery::Budgets;
    use fanfare_proto::event::Topic;
    use fanfare_proto::frame::WireFormat;
    use fanfare_proto::limits::{Limits, OPENING_TOPICS};
    use fanfare_proto::link::Transport;

    use super::*;
    use crate::admission::{Admissions, Decision, Request};
    use crate::history::HistoryQueue;
    use crate::hub::Common;
    use crate::presence::Presence;
    use crate::shard::Links;
    use crate::shared_log::log_of;

    fn epoch() -> Epoch {
        Epoch::new(1)
    }

    fn shard() -> Shard<Epoll> {
        shard_with(Limits::default(), None)
    }

    fn shard_with(limits: Limits, history: Option<Arc<HistoryQueue>>) -> Shard<Epoll> {
        let common = Common::new(log_of(epoch(), &limits, 1), 1, &limits, 1, 1);
        let waker = Waker::new().unwrap();
        let mailbox = common.mailbox(0, waker.clone());
        let links = Links {
            engine: common.engine(),
            log: common.shared_log(0, Arc::clone(&mailbox)).with_history(history),
            mailbox,
            adopted: fd_channel::channel().unwrap().1,
            hand_over: None,
            counts: Arc::new(CachePadded::default()),
            timings: Arc::new(CachePadded::default()),
            admission: Admissions::OnShards(Arc::new(|_: &Request<'_>| {
                Decision::Subscribe(Subscribe::to([]))
            })),
            congestion: common.congestion(),
            orders: common.orders(),
            presence: Arc::new(Presence::new(Duration::ZERO, &limits, 1)),
            clients: common.clients(),
            joins: None,
            life_cycle: None,
            proxies: Vec::new(),
        };
        Shard::new(Epoll::open(&waker).unwrap(), links, limits, Budgets::default(), epoch(), 1)
    }

    /// A subscriber of this many topics waits for a number that does not come.
    fn wait(shard: &mut Shard<Epoll>, topics: usize) -> UnixStream {
        wait_with(shard, topics, u64::MAX)
    }

    fn wait_with(shard: &mut Shard<Epoll>, topics: usize, seq: u64) -> UnixStream {
        let (ours, client) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = shard.io.adopt(OwnedFd::from(ours));
        let topics = (0..topics).map(|number| Topic::new(number.to_string()).unwrap());
        let id = Cursor { epoch: epoch(), seq }.to_string();
        let subscribe = Subscribe::to(topics).with_resume(id);
        let encoding = Encoding::new(Transport::Http1, WireFormat::Chunked);
        shard.reply(socket, super::super::Reply::Subscribe(Box::new(subscribe), encoding), Duration::ZERO);
        client
    }

    /// Up to 256 subscribers began in one tick, whatever their openings cost, and held up events for a tenth
    /// of a second.
    #[test]
    fn subscribers_that_have_waited_begin_as_the_budget_of_openings_allows() {
        let (mut shard, topics, waiting) = (shard(), OPENING_TOPICS / 8, 20);
        let _clients: Vec<UnixStream> = (0..waiting).map(|_| wait(&mut shard, topics)).collect();
        let tick = |shard: &mut Shard<Epoll>, now| {
            shard.tick(now, &mut Vec::new());
            let timeout = shard.timeout(now);
            (shard.delivery.len(), shard.arrivals.resuming.len(), timeout == Some(Duration::ZERO))
        };
        assert_eq!(tick(&mut shard, Duration::ZERO), (0, 20, false));
        let over = AHEAD_WAIT;
        assert_eq!(tick(&mut shard, over), (8, 12, true));
        assert_eq!(tick(&mut shard, over), (16, 4, true));
        assert_eq!(tick(&mut shard, over).0, 20);
        assert_eq!(shard.arrivals.resuming.len(), 0);
        assert!(!shard.arrivals.has_left_resuming);
    }

    /// A subscriber was told of a gap where the durable store did not answer in time, or where too many
    /// subscribers waited for it. The subscriber then lost events that were on the disk.
    #[test]
    fn a_subscriber_that_the_store_does_not_answer_is_turned_away() {
        let mut limits = Limits::default();
        limits.pending = 8;
        let mut shard = shard_with(limits, Some(HistoryQueue::new()));
        shard.links.log.begin_after_for_test(100);
        let mut clients: Vec<_> = (0..7).map(|_| wait_with(&mut shard, 1, 7)).collect();
        shard.tick(Duration::ZERO, &mut Vec::new());
        assert_eq!((shard.arrivals.resuming.len(), shard.counts.turned_away), (6, 1));
        shard.tick(STORE_WAIT, &mut Vec::new());
        assert_eq!((shard.arrivals.resuming.len(), shard.counts.turned_away), (0, 7));
        assert_eq!(shard.delivery.len(), 0);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 16]).unwrap(), 0, "it is closed without a word");
        }
    }

    /// Clients that came, asked the store and left kept their places and their questions for ten seconds.
    /// Other subscribers were turned away meanwhile.
    #[test]
    fn those_that_leave_while_they_wait_make_room() {
        let mut limits = Limits::default();
        limits.pending = 8;
        let mut shard = shard_with(limits, Some(HistoryQueue::new()));
        shard.links.log.begin_after_for_test(100);
        let mut clients: Vec<_> = (0..6).map(|_| wait_with(&mut shard, 1, 7)).collect();
        shard.tick(Duration::ZERO, &mut Vec::new());
        assert_eq!(shard.arrivals.resuming.len(), 6);
        clients.truncate(2);
        shard.tick(UNDECIDED_CHECK, &mut Vec::new());
        assert_eq!((shard.arrivals.resuming.len(), shard.counts.left_undecided), (2, 4));
        let history = shard.links.log.history_now();
        assert!(history.is_some_and(|history| history.starts_asked() == 2), "their questions are forgotten");
        clients.extend((0..3).map(|_| wait_with(&mut shard, 1, 7)));
        shard.tick(UNDECIDED_CHECK, &mut Vec::new());
        assert_eq!((shard.arrivals.resuming.len(), shard.counts.turned_away), (5, 0));
    }

    /// A drain closed subscribers that waited, and kept their questions. The answers kept the shard awake.
    #[test]
    fn a_drain_forgets_what_the_store_was_asked() {
        let mut shard = shard_with(Limits::default(), Some(HistoryQueue::new()));
        shard.links.log.begin_after_for_test(100);
        let _client = wait_with(&mut shard, 1, 7);
        shard.tick(Duration::ZERO, &mut Vec::new());
        assert!(shard.links.log.history_now().is_some_and(|history| history.starts_asked() > 0));
        shard.begin_drain(Duration::ZERO, Duration::ZERO);
        assert_eq!(shard.arrivals.resuming.len(), 0);
        assert!(shard.links.log.history_now().is_none_or(|history| history.starts_asked() == 0));
    }

    /// Decisions may use up the budget in every tick. One subscriber that has waited begins in each tick even
    /// then.
    #[test]
    fn one_that_has_waited_begins_in_any_case() {
        let mut shard = shard();
        let _clients = [wait(&mut shard, 1), wait(&mut shard, 1)];
        for begun in 1..=2 {
            shard.topics_left = 0;
            shard.start_caught_up_resumes(AHEAD_WAIT);
            assert_eq!((shard.delivery.len(), shard.arrivals.resuming.len()), (begun, 2 - begun));
            assert_eq!(shard.arrivals.has_left_resuming, begun == 1);
        }
    }
}
