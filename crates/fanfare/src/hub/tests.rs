//! The publish path on one thread, step by step, and publishers that wait on many.

mod ready;
mod repetitions;
mod waiting;

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker as TaskWaker};
use std::thread;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_io::epoll::Epoll;
use fanfare_io::sockets::SocketOptions;
use fanfare_io::{Clock, Io, Waker, fd_channel};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::event_log::{EventLog, Read, ReadBounds, Wanted};
use fanfare_proto::frame::Frame;
use fanfare_proto::limits::{Limits, WALK_STEPS};
use fanfare_proto::log::Log;
use fanfare_proto::pattern::{Pattern, PatternTable};
use fanfare_proto::selection::Selection;

use super::{Amount, Common, Hub, Numbers, PublishError, PublishFuture, ShardHandle, Visibility};
use crate::Engine;
use crate::counts::{SharedCounts, SharedTimings};
use crate::mailbox::{Mail, Mailbox};
use crate::presence::Presence;
use crate::shared_log::{SharedLog, log_of};

/// A shard, as far as the hub is concerned.
pub(crate) struct Shard {
    pub(crate) waker: Waker,
    pub(crate) mailbox: Arc<Mailbox>,
    log: SharedLog,
    inbox: VecDeque<Mail>,
}

/// Every frame of these topics.
fn wanted(topics: &[Topic]) -> Wanted<'_> {
    Wanted { selection: Selection::of(topics, true), after: 0, incomplete_until: 0 }
}

/// A hub with shards that the test acts for. Each of them reads these topics.
pub(crate) fn hub(shards: usize, limits: Limits, read: &[&str]) -> (Hub, Vec<Shard>) {
    hub_with(log_of(Epoch::new(1), &limits, 0), shards, limits, read)
}

pub(crate) fn hub_with(log: Log, shards: usize, limits: Limits, read: &[&str]) -> (Hub, Vec<Shard>) {
    let common = Common::new(log, shards, &limits, 0, 0);
    let topics: Vec<Topic> = read.iter().map(|name| topic(name)).collect();
    let shard = |index| {
        let waker = Waker::new().unwrap();
        let mailbox = common.mailbox(index, waker.clone());
        let mut log = common.shared_log(index, Arc::clone(&mailbox));
        log.add_reader(&topics, &[]).unwrap();
        Shard { waker, mailbox, log, inbox: VecDeque::new() }
    };
    let shards: Vec<Shard> = (0..shards).map(shard).collect();
    let handles = shards.iter().map(|shard| ShardHandle {
        mailbox: Arc::clone(&shard.mailbox),
        sockets: fd_channel::channel().unwrap().0,
        counts: Arc::new(CachePadded::new(SharedCounts::default())),
        timings: Arc::new(CachePadded::new(SharedTimings::default())),
    });
    let handles = handles.collect();
    (
        Hub::new(
            common,
            Clock::start(),
            limits,
            SocketOptions::default(),
            handles,
            Arc::new(Presence::new(Duration::ZERO, &Limits::default(), 1)),
            super::KeptLog::default(),
        ),
        shards,
    )
}

fn hub_of_one(limits: Limits) -> (Hub, Shard) {
    let (hub, mut shards) = hub(1, limits, &["a", "b", "c", "d", "many", "one"]);
    (hub, shards.remove(0))
}

impl Shard {
    /// Acts on this many of the events that wait: their numbers.
    fn act_on(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            if self.inbox.is_empty() {
                self.mailbox.take(&mut self.inbox);
            }
            let Some(mail) = self.inbox.pop_front() else { break };
            let Mail::Event(frame) = mail else { panic!("only events were sent") };
            self.mailbox.release_capacity(&frame);
            numbers.push(frame.seq());
        }
        numbers
    }

    fn act_on_all(&mut self) -> Vec<u64> {
        self.act_on(usize::MAX)
    }

    fn taken(&self) -> Amount {
        self.mailbox.capacity().taken()
    }
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn event(name: &str) -> Event {
    Event::new(topic(name)).with_data("x")
}

fn events(name: &str, count: usize) -> Vec<Event> {
    vec![event(name); count]
}

fn publish(hub: &Hub, name: &str) -> Result<usize, PublishError> {
    hub.publish(event(name)).map(|published| published.count).map_err(PublishError::from)
}

/// A task's waker that counts.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll(future: &mut PublishFuture<'_>, wakes: &Arc<Wakes>) -> Poll<Result<usize, PublishError>> {
    let waker = TaskWaker::from(Arc::clone(wakes));
    let result = pin!(future).poll(&mut Context::from_waker(&waker));
    result.map(|result| result.map(|published| published.count).map_err(|interrupted| interrupted.error))
}

/// The thread of the hub has woken this task so often. It has ten seconds for it.
fn expect_wakes(wakes: &Wakes, count: usize) {
    for _ in 0..10_000 {
        if wakes.0.load(Ordering::Relaxed) >= count {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(wakes.0.load(Ordering::Relaxed), count);
}

// ---- Batches ----

/// An empty batch was a panic.
#[test]
fn a_batch_of_nothing_is_an_error() {
    let (hub, _) = hub_of_one(Limits::default());
    assert_eq!(hub.publish_batch(&mut Vec::new()), Err(PublishError::Empty));
    let interrupted = hub.publish_wait(&mut Vec::new(), Duration::ZERO).unwrap_err();
    assert_eq!((interrupted.error, interrupted.published), (PublishError::Empty, None));
}

/// An event that was refused was gone.
#[test]
fn what_is_refused_is_given_back() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(2).with_event_bytes(10));
    hub.publish_batch(&mut events("a", 2)).unwrap();
    let refused = hub.publish(event("b")).unwrap_err();
    assert_eq!((refused.error, *refused.event), (PublishError::Busy, event("b")));
    assert_eq!(shard.act_on_all(), [1, 2]);
    let long = event("b").with_data("more than ten bytes");
    let refused = hub.publish(long.clone()).unwrap_err();
    assert_eq!((refused.error, *refused.event), (PublishError::TooLarge { index: 0, limit: 10 }, long));
    let mut batch = vec![event("b"), event("c").with_data("more than ten bytes")];
    let before = batch.clone();
    assert_eq!(hub.publish_batch(&mut batch), Err(PublishError::TooLarge { index: 1, limit: 10 }));
    assert_eq!(batch, before);
    assert_eq!(publish(&hub, "b"), Ok(1));
    assert_eq!(shard.act_on_all(), [3]);
}

/// A batch that was larger than a mailbox was taken only when the mailbox was empty, so under traffic never.
#[test]
fn a_batch_that_is_larger_than_a_mailbox_is_taken_in_parts() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_events(4));
    publish(&hub, "a").unwrap();
    let mut batch = events("a", 6);
    let ids = |hub: &Hub, batch: &mut Vec<Event>| {
        let published = hub.publish_batch(batch)?;
        let number = |id: String| id.rsplit('-').next().unwrap().parse::<u64>().unwrap();
        Ok::<_, PublishError>((published.count, number(published.first), number(published.last)))
    };
    assert_eq!(ids(&hub, &mut batch), Ok((3, 2, 4)));
    assert_eq!((batch.len(), shard.taken().events), (3, 4));
    // What is left would fit into a mailbox, so it is taken whole or not at all.
    assert_eq!(ids(&hub, &mut batch), Err(PublishError::Busy));
    assert_eq!(shard.act_on(2), [1, 2]);
    assert_eq!(ids(&hub, &mut batch), Err(PublishError::Busy));
    assert_eq!(shard.act_on(1), [3]);
    assert_eq!(ids(&hub, &mut batch), Ok((3, 5, 7)));
    assert!(batch.is_empty());
    assert_eq!(shard.act_on_all(), [4, 5, 6, 7]);
    assert_eq!(shard.taken(), Amount::default());
}

/// 256 events with 64 topics each held the locks of the sequencer and of the log for 20 ms: other publishers,
/// and subscribers that came, waited for that.
#[test]
fn a_part_is_bounded_in_topics() {
    let (hub, mut shard) = hub_of_one(Limits::default().with_batch_topics(5));
    let of_two = || event("a").with_topic(topic("b")).unwrap();
    let mut batch = vec![of_two(), of_two(), event("a"), of_two()];
    assert_eq!(hub.publish_batch(&mut batch).map(|published| published.count), Ok(3));
    assert_eq!(hub.publish_batch(&mut batch).map(|published| published.count), Ok(1));
    assert_eq!(shard.act_on_all(), [1, 2, 3, 4]);
    // One event is taken, however many topics it has. A batch with as many as may be is taken whole.
    let others = ["b", "c", "d", "many", "one"];
    let of_six = others.iter().fold(event("a"), |event, name| event.with_topic(topic(name)).unwrap());
    let mut batch = vec![of_six, event("a")];
    assert_eq!(hub.publish_batch(&mut batch).map(|published| published.count), Ok(1));
    assert_eq!(hub.publish_batch(&mut events("a", 5)).map(|published| published.count), Ok(5));
    let mut waiting = vec![of_two(), of_two(), of_two()];
    assert_eq!(hub.publish_wait(&mut waiting, Duration::ZERO).map(|published| published.count), Ok(3));
    assert_eq!(shard.act_on_all(), (5..=13).collect::<Vec<_>>());
}

/// A walk through the table of patterns may take some thousand steps. A part of 512 topics held the locks for
/// 30 ms where patterns and topics were chosen for that.
#[test]
fn a_part_is_bounded_in_the_steps_of_walks() {
    let (hub, mut shards) = hub(1, Limits::default(), &[]);
    let (mut alone, mut patterns) = (PatternTable::new(), Vec::new());
    for number in 1..20 {
        let pattern = Pattern::parse(&format!("{{x}}{}b", "a".repeat(number))).unwrap().normalized();
        if alone.insert(pattern.clone(), ()).is_ok() {
            patterns.push(pattern);
        }
    }
    shards[0].log.add_reader(&[], &patterns).unwrap();
    let names: Vec<String> = (0..200).map(|number| format!("{}{number}", "a".repeat(250))).collect();
    let (mut steps, mut count) = (0, 0);
    while steps < WALK_STEPS {
        steps += alone.matching(&names[count], |_| {}).steps;
        count += 1;
    }
    assert!((2..100).contains(&count), "{count} topics in {steps} steps");
    let mut batch: Vec<Event> = names.iter().map(|name| event(name)).collect();
    assert_eq!(hub.publish_batch(&mut batch).map(|published| published.count), Ok(count));
    assert_eq!(hub.publish_batch(&mut batch).map(|published| published.count), Ok(count));
    assert_eq!(batch.len(), 200 - 2 * count);
    let rest = batch.len();
    assert_eq!(hub.publish_wait(&mut batch, Duration::ZERO).map(|published| published.count), Ok(rest));
    // Ordinary topics are not divided.
    assert_eq!(hub.publish_batch(&mut events("b", 500)).map(|published| published.count), Ok(500));
}

/// Bytes bound a part, too; and one event that is larger than the bound is taken where nothing waits.
#[test]
fn a_part_is_bounded_in_bytes() {
    let large = event("a").with_data("x".repeat(1000));
    let size = Frame::size_at_most(&large);
    let (hub, mut shard) = hub_of_one(Limits::default().with_mailbox_bytes(3 * size));
    let mut batch = vec![large.clone(); 8];
    assert_eq!(hub.publish_batch(&mut batch).unwrap().count, 3);
    assert!(shard.taken().bytes <= 3 * size);
    assert_eq!(hub.publish_batch(&mut batch), Err(PublishError::Busy));
    assert_eq!(shard.act_on_all().len(), 3);
    let mut batch = vec![event("a").with_data("x".repeat(5000)), event("a")];
    assert_eq!(hub.publish_batch(&mut batch).unwrap().count, 1);
    assert_eq!(hub.publish_batch(&mut batch), Err(PublishError::Busy));
    assert_eq!(shard.act_on_all().len(), 1);
    assert_eq!(hub.publish_batch(&mut batch).unwrap().count, 1);
}

/// Each mailbox had a bound, and all of them together had none but the number of shards.
#[test]
fn all_mailboxes_together_are_bounded() {
    let one = event("a").with_data("x".repeat(1000));
    let size = Frame::size_at_most(&one);
    let limit = 12 * size;
    let limits = Limits::default().with_mailbox_total_bytes(limit);
    let (hub, mut shards) = hub(4, limits, &["a"]);
    let total = |shards: &[Shard]| shards.iter().map(|shard| shard.taken().bytes).sum::<usize>();
    let accepted = (0..10).take_while(|_| hub.publish(one.clone()).is_ok()).count();
    assert_eq!(accepted, 3);
    assert!(total(&shards) <= limit);
    for shard in &mut shards[..3] {
        assert_eq!(shard.act_on_all().len(), 3);
    }
    // The last of them has everything still: three, and four more make seven.
    assert!(hub.publish(one.clone()).is_ok() && hub.publish(one.clone()).is_ok());
    assert_eq!(hub.publish(one.clone()).map_err(PublishError::from), Err(PublishError::Busy));
    assert!(total(&shards) <= limit);
    shards.iter_mut().for_each(|shard| drop(shard.act_on_all()));
    // A batch is cut where it would exceed the bound in all mailboxes.
    let mut batch = vec![one; 5];
    assert_eq!(hub.publish_batch(&mut batch).unwrap().count, 3);
    assert!(total(&shards) <= limit);
    shards.iter_mut().for_each(|shard| drop(shard.act_on_all()));
    // One event that exceeds it by itself is taken where nothing waits.
    let large = event("a").with_data("x".repeat(20_000));
    assert!(hub.publish(large.clone()).is_ok());
    assert!(hub.publish(large).is_err());
}

/// A publisher that waits for the bound of all mailboxes is called when other shards than its own have room
/// again, and is not overtaken by smaller events meanwhile.
#[test]
fn a_publisher_waits_for_the_bound_of_all_mailboxes() {
    let one = || event("a").with_data("x".repeat(1000));
    let limits = Limits::default().with_mailbox_total_bytes(8 * Frame::size_at_most(&one()));
    let (hub, mut shards) = hub(2, limits, &[]);
    shards[0].log.add_reader(&[topic("a")], &[]).unwrap();
    shards[1].log.add_reader(&[topic("b")], &[]).unwrap();
    assert_eq!(hub.publish_batch(&mut vec![one(); 8]).unwrap().count, 8);
    let (wakes, mut batch) = (Arc::default(), vec![event("b").with_data("x".repeat(1000)); 2]);
    let mut waits = hub.publish_async(&mut batch);
    assert!(poll(&mut waits, &wakes).is_pending());
    assert_eq!(publish(&hub, "b"), Err(PublishError::Busy));
    assert_eq!(publish(&hub, "no shard reads it"), Ok(1));
    shards[0].act_on(4);
    expect_wakes(&wakes, 1);
    assert_eq!(poll(&mut waits, &wakes), Poll::Ready(Ok(2)));
    assert_eq!(publish(&hub, "b"), Ok(1));
    assert_eq!((shards[0].act_on_all().len(), shards[1].act_on_all().len()), (4, 3));
}

// ---- Interest ----

/// A slow shard held up the whole hub, because every publisher needed room in every mailbox.
#[test]
fn a_congested_shard_holds_up_only_what_it_reads() {
    let limits = Limits::default().with_mailbox_events(2);
    let (hub, mut shards) = hub(2, limits, &[]);
    shards[0].log.add_reader(&[topic("slow"), topic("both")], &[]).unwrap();
    shards[1].log.add_reader(&[topic("fast"), topic("both")], &[]).unwrap();
    assert_eq!(hub.publish_batch(&mut events("slow", 2)).unwrap().count, 2);
    for _ in 0..5 {
        assert_eq!(publish(&hub, "slow"), Err(PublishError::Busy));
        assert_eq!(publish(&hub, "both"), Err(PublishError::Busy));
        assert_eq!(publish(&hub, "fast"), Ok(1));
        assert_eq!(publish(&hub, "no shard reads it"), Ok(1));
        assert_eq!(shards[1].act_on_all().len(), 1);
    }
    // A publisher that waits for both shards does not hold up the fast one.
    let wakes = Arc::default();
    let mut both = events("both", 1);
    let mut waits = hub.publish_async(&mut both);
    assert!(poll(&mut waits, &wakes).is_pending());
    assert_eq!(publish(&hub, "fast"), Ok(1));
    assert_eq!(shards[1].act_on_all().len(), 1);
    assert_eq!(shards[0].act_on_all(), [1, 2]);
    expect_wakes(&wakes, 1);
    assert_eq!(poll(&mut waits, &wakes), Poll::Ready(Ok(1)));
    assert_eq!((shards[0].act_on_all().len(), shards[1].act_on_all().len()), (1, 1));
}

/// A publisher that waits for two shards keeps its position for the one that has room while it waits for the
/// other, else two busy shards could keep it waiting for ever.
#[test]
fn two_busy_shards_do_not_starve_a_publisher() {
    let limits = Limits::default().with_mailbox_events(1);
    let (hub, mut shards) = hub(2, limits, &[]);
    shards[0].log.add_reader(&[topic("left"), topic("both")], &[]).unwrap();
    shards[1].log.add_reader(&[topic("right"), topic("both")], &[]).unwrap();
    publish(&hub, "left").unwrap();
    let wakes = Arc::default();
    let mut both = events("both", 1);
    let mut waits = hub.publish_async(&mut both);
    assert!(poll(&mut waits, &wakes).is_pending());
    publish(&hub, "right").unwrap();
    shards[0].act_on_all();
    expect_wakes(&wakes, 1);
    assert!(poll(&mut waits, &wakes).is_pending());
    // The left one has room: it is kept for the one that waits.
    assert_eq!(publish(&hub, "left"), Err(PublishError::Busy));
    shards[1].act_on_all();
    assert_eq!(publish(&hub, "right"), Err(PublishError::Busy));
    expect_wakes(&wakes, 2);
    assert_eq!(poll(&mut waits, &wakes), Poll::Ready(Ok(1)));
    assert_eq!(shards[0].act_on_all(), shards[1].act_on_all());
    assert_eq!((publish(&hub, "left"), publish(&hub, "right")), (Ok(1), Ok(1)));
}

/// The last subscriber leaves a congested shard: a publisher that waits for it has nothing to wait for any
/// more.
#[test]
fn a_shard_without_subscribers_is_not_waited_for() {
    let limits = Limits::default().with_mailbox_events(1);
    let (hub, mut shards) = hub(1, limits, &[]);
    shards[0].log.add_reader(&[topic("a")], &[]).unwrap();
    publish(&hub, "a").unwrap();
    let wakes = Arc::default();
    let mut batch = events("a", 1);
    let mut waits = hub.publish_async(&mut batch);
    assert!(poll(&mut waits, &wakes).is_pending());
    shards[0].log.remove_reader(&[topic("a")], &[]);
    expect_wakes(&wakes, 1);
    assert_eq!(poll(&mut waits, &wakes), Poll::Ready(Ok(1)));
    assert_eq!(shards[0].act_on_all(), [1]);
}

// ---- Sequence and release ----

/// A batch is released later: until then no shard has it, and its room is taken. A shard that registers in
/// between gets it by mail, and one that has left does not.
#[test]
fn a_batch_is_visible_when_it_is_released() {
    let (hub, mut shards) = hub(2, Limits::default(), &[]);
    shards[0].log.add_reader(&[topic("a")], &[]).unwrap();
    let batch = hub.sequence(&mut events("a", 2), Numbers::Next).unwrap();
    assert_eq!((batch.published().count, hub.head().seq), (2, 0));
    assert_eq!((shards[0].taken().events, shards[0].act_on_all()), (2, vec![]));
    assert_eq!(shards[1].log.add_reader(&[topic("a")], &[]).unwrap(), 0);
    shards[0].log.remove_reader(&[topic("a")], &[]);
    hub.release(batch);
    assert_eq!(hub.head().seq, 2);
    assert_eq!((shards[0].act_on_all(), shards[1].act_on_all()), (vec![], vec![1, 2]));
    assert_eq!((shards[0].taken(), shards[1].taken()), Default::default());
    // A shard that registers now finds it in the log.
    assert_eq!(shards[0].log.add_reader(&[topic("a")], &[]).unwrap(), 2);
    let mut frames = Vec::new();
    let bounds = ReadBounds { frames: 9, bytes: 9999, steps: 1 };
    let read = shards[0].log.read_after(&wanted(&[topic("a")]), bounds, &mut frames);
    assert_eq!(read, Ok(Read { up_to: 2, cost: 2 }));
    assert_eq!(frames.iter().map(|frame| frame.seq()).collect::<Vec<_>>(), [1, 2]);
}

/// What is sequenced and not released is bounded, as what waits is.
#[test]
fn what_is_not_released_is_bounded() {
    let limit = 4 * Frame::size_at_most(&event("a"));
    let limits = Limits::default().with_mailbox_total_bytes(limit);
    let (hub, mut shards) = hub(1, limits, &[]);
    let first = hub.sequence(&mut events("a", 3), Numbers::Next).unwrap();
    assert_eq!(hub.sequence(&mut events("a", 2), Numbers::Next).err(), Some(PublishError::Busy));
    let second = hub.sequence(&mut events("a", 1), Numbers::Next).unwrap();
    let wakes = Arc::default();
    let mut third = events("a", 2);
    let mut waits = hub.publish_async(&mut third);
    assert!(poll(&mut waits, &wakes).is_pending());
    // A shard that registers now gets all of it: that is how much more than the bound can wait.
    shards[0].log.add_reader(&[topic("a")], &[]).unwrap();
    hub.release(first);
    expect_wakes(&wakes, 1);
    drop(second);
    assert_eq!(shards[0].act_on_all(), [1, 2, 3]);
    assert_eq!(poll(&mut waits, &wakes), Poll::Ready(Ok(2)));
    // The number of the batch that was dropped is a hole.
    assert_eq!(shards[0].act_on_all(), [5, 6]);
}

/// Numbers that another log gives have holes, and ids follow them.
#[test]
fn numbers_may_come_from_outside() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    let mut batch = events("a", 3);
    let sequenced = hub.sequence(&mut batch, Numbers::Given(&[5, 6, 900])).unwrap();
    assert!(batch.is_empty());
    let published = sequenced.published().clone();
    assert!(published.first.ends_with("-5") && published.last.ends_with("-900"), "{published:?}");
    hub.release(sequenced);
    assert_eq!((hub.head().seq, shard.act_on_all()), (900, vec![5, 6, 900]));
    for wrong in [[900, 901], [901, 901], [902, 901]] {
        let mut batch = events("a", 2);
        let panics = AssertUnwindSafe(|| hub.sequence(&mut batch, Numbers::Given(&wrong)));
        assert!(catch_unwind(panics).is_err());
        assert_eq!((batch.len(), shard.taken()), (2, Amount::default()), "nothing has changed");
    }
    assert_eq!(publish(&hub, "a"), Ok(1));
    assert_eq!(shard.act_on_all(), [901]);
}

/// What the owner of a batch does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Release(usize),
    Drop(usize),
    PublishDirectly,
}

/// Two batches, one after the other, and a direct publish between or behind them, in every order of their
/// steps: events are visible in the order of their numbers, as soon as nothing older is unreleased. A batch
/// that was released behind a newer one was a panic under the log's lock, and its events were lost.
#[test]
fn batches_are_released_in_any_order_and_visible_in_one() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let ways: [fn(usize) -> Step; 2] = [Step::Release, Step::Drop];
    for order in orders {
        for (first, second) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let all = [ways[first](0), ways[second](1), Step::PublishDirectly];
            run_steps(order.map(|index| all[index]), true);
            // The direct publish has its number before the second batch has.
            run_steps(order.map(|index| all[index]), false);
        }
    }
}

fn run_steps(steps: [Step; 3], both_before: bool) {
    let (hub, mut shard) = hub_of_one(Limits::default());
    let sequence = |count| Some(hub.sequence(&mut events("a", count), Numbers::Next).unwrap());
    let mut batches = [sequence(2), if both_before { sequence(1) } else { None }];
    // The numbers of each batch, and whether they are released; `None`: it was dropped.
    let mut expected = vec![(vec![1, 2], Some(false))];
    if both_before {
        expected.push((vec![3], Some(false)));
    }
    let (wakes, mut direct) = (Arc::default(), events("b", 1));
    let mut publishing = hub.publish_async(&mut direct);
    let (mut direct_at, mut second_at, mut next) = (None, 1, expected.len() as u64 + 2);
    let (mut seen, mut is_answered) = (Vec::new(), false);
    for step in steps {
        if !both_before && matches!(step, Step::Release(1) | Step::Drop(1)) {
            second_at = expected.len();
            batches[1] = sequence(1);
            expected.push((vec![next], Some(false)));
            next += 1;
        }
        match step {
            Step::Release(batch) => {
                hub.release(batches[batch].take().unwrap());
                expected[[0, second_at][batch]].1 = Some(true);
            }
            Step::Drop(batch) => {
                batches[batch] = None;
                expected[[0, second_at][batch]].1 = None;
            }
            Step::PublishDirectly => {
                direct_at = Some(expected.len());
                expected.push((vec![next], Some(true)));
                next += 1;
            }
        }
        let blocked_at = expected.iter().position(|(_, released)| *released == Some(false));
        let visible = expected[..blocked_at.unwrap_or(expected.len())].iter();
        let visible: Vec<u64> = visible
            .filter(|(_, released)| released.is_some())
            .flat_map(|(numbers, _)| numbers.clone())
            .collect();
        if let Some(at) = direct_at
            && !is_answered
        {
            is_answered = poll(&mut publishing, &wakes).is_ready();
            let is_visible = blocked_at.is_none_or(|blocked| at < blocked);
            assert_eq!(is_answered, is_visible, "{step:?} of {steps:?}: the answer is that it is visible");
        }
        seen.extend(shard.act_on_all());
        assert_eq!(seen, visible, "{step:?} of {steps:?}");
        assert_eq!(hub.head().seq, visible.last().copied().unwrap_or(0), "{step:?} of {steps:?}");
        if blocked_at.is_some() {
            // It could not be told when its event is visible.
            assert_eq!(publish(&hub, "a"), Err(PublishError::Busy));
        }
    }
    assert_eq!(shard.taken(), Amount::default());
    assert_eq!(publish(&hub, "a"), Ok(1));
    assert_eq!(shard.act_on_all(), [next]);
}

/// A publisher whose events have their position behind a batch of a durable store is not told before they are
/// visible.
#[test]
fn a_publisher_behind_a_store_is_told_what_has_become_of_its_events() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    let late = hub.sequence(&mut events("a", 1), Numbers::Next).unwrap();
    let mut batch = events("b", 1);
    let interrupted = hub.publish_wait(&mut batch, Duration::from_millis(20)).unwrap_err();
    assert_eq!((interrupted.error, batch.len()), (PublishError::Unreleased, 0), "it is not to publish again");
    assert_eq!(interrupted.published.unwrap().count, 1);
    let (wakes, mut batch) = (Arc::default(), events("c", 1));
    let mut dropped = hub.publish_async(&mut batch);
    assert!(poll(&mut dropped, &wakes).is_pending());
    drop(dropped);
    assert_eq!((batch.len(), shard.act_on_all()), (0, vec![]));
    let mut batch = events("d", 1);
    let mut waits = hub.publish_async(&mut batch);
    assert!(poll(&mut waits, &wakes).is_pending());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| hub.publish_wait(&mut events("a", 1), Duration::MAX));
        while shard.taken().events < 5 {
            thread::yield_now();
        }
        assert_eq!(hub.release(late), Visibility::Visible);
        assert_eq!(waiting.join().unwrap().unwrap().count, 1);
    });
    expect_wakes(&wakes, 1);
    assert_eq!(poll(&mut waits, &wakes), Poll::Ready(Ok(1)));
    assert_eq!(shard.act_on_all(), [1, 2, 3, 4, 5]);
    hub.drain(Duration::ZERO);
    hub.end();
}

/// When the engine drains, what was released becomes visible, also behind what was not; the release of a
/// store that comes later answers `Never`.
#[test]
fn a_drain_does_not_wait_for_a_store() {
    let (hub, mut shard) = hub_of_one(Limits::default());
    let [late, ready] = [1, 2].map(|count| hub.sequence(&mut events("a", count), Numbers::Next).unwrap());
    assert_eq!(hub.release(ready), Visibility::Waits);
    let (wakes, mut batch) = (Arc::default(), events("b", 1));
    let mut waits = hub.publish_async(&mut batch);
    assert!(poll(&mut waits, &wakes).is_pending());
    hub.drain(Duration::ZERO);
    assert_eq!(poll(&mut waits, &wakes), Poll::Ready(Ok(1)));
    assert_eq!(hub.release(late), Visibility::Never);
    assert_eq!(shard.act_on(3), [2, 3, 4]);
    assert!(matches!(shard.inbox.pop_front(), Some(Mail::Drain(_))));
    assert_eq!((shard.act_on_all(), shard.taken()), (vec![], Amount::default()));
    hub.end();
}

/// One shard drops what is too old, for all. It sleeps, and reads nothing: it is woken where something
/// becomes too old earlier than it knows, and only then.
#[test]
fn the_shard_that_trims_is_woken_in_time() {
    let (hub, mut shards) = hub(2, Limits::default(), &[]);
    shards[1].log.add_reader(&[topic("a")], &[]).unwrap();
    let mut ios = shards.iter().map(|shard| Epoll::open(&shard.waker).unwrap()).collect::<Vec<_>>();
    let mut woken = |shard: usize| {
        let mut notifications = Vec::new();
        ios[shard].wait(Some(Duration::ZERO), &mut notifications).unwrap();
        !notifications.is_empty()
    };
    assert_eq!((shards[0].log.next_expiry(), shards[1].log.next_expiry()), (None, None));
    publish(&hub, "a").unwrap();
    assert_eq!((woken(0), woken(1)), (true, false), "the other one is not asleep");
    publish(&hub, "a").unwrap();
    assert!(!woken(0), "it knows of an earlier one");
    let expiry = shards[0].log.next_expiry().unwrap();
    assert_eq!(shards[1].log.next_expiry(), None);
    shards[0].log.trim(expiry, 10);
    shards[0].log.trim(2 * expiry, 10);
    assert_eq!(shards[0].log.next_expiry(), None);
    publish(&hub, "a").unwrap();
    assert!(woken(0), "the log was empty");
}

// ---- The end ----

/// Once, the publisher whose append panicked lost its answer, and all others waited for ever while the server
/// said that it was well.
#[test]
fn a_panic_under_the_logs_lock_ends_the_engine() {
    let engine = Engine::builder().shards(2).start().unwrap();
    let hub = engine.hub();
    // A frame that the sequencer does not know of: the next append is a mistake.
    let unknown = Arc::new(Frame::encode(100, "100", event("a"), Duration::ZERO));
    hub.inner.common.log.lock().append(vec![unknown], Duration::ZERO, &mut Vec::new());
    catch_unwind(AssertUnwindSafe(|| publish(&hub, "a"))).unwrap_err();
    assert_eq!(publish(&hub, "a"), Err(PublishError::Stopped));
    while engine.is_running() {
        thread::yield_now();
    }
    assert!(hub.counts().log_bytes > 0);
    assert!(engine.stop(Duration::ZERO).is_err());
}
