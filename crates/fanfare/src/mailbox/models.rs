//! Models of everything that publishers and shards share. Loom runs each in every order of its threads'
//! steps, up to some preemptions, and lets every load see every value that the memory model allows. `cargo
//! xtask loom`.
//!
//! The hub, the mailbox and the channel for sockets are the real ones. A [`Reader`] is a shard reduced to its
//! side of the mailbox, in the order of `Shard::run`. Loom itself finds a shard that sleeps and is
//! not woken: that is a deadlock.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_io::Clock;
use fanfare_io::fd_channel::{self, SocketReceiver};
use fanfare_io::sockets::SocketOptions;
use fanfare_proto::cursor::Epoch;
use fanfare_proto::event::{Event, Topic};
use fanfare_proto::event_log::EventLog;
use fanfare_proto::frame::{Frame, WireFormat};
use fanfare_proto::limits::Limits;
use loom::thread;

use super::{Mail, Mailbox};
use crate::admission::Subscribe;
use crate::adopt::{AdoptError, AdoptRefusal};
use crate::counts::{SharedCounts, SharedTimings};
use crate::hub::{Amount, Common, Hub, PublishError, Published, ShardHandle};
use crate::inspect::Inspection;
use crate::presence::Presence;
use crate::shared_log::{SharedLog, log_of};
use crate::sync::{AtomicBool, AtomicU64, Waker, collect_wakes, lock};

/// `preemptions` is how often in one run a thread that could go on is interrupted. Most bugs need one or two;
/// each more costs several times the runs. `LOOM_MAX_PREEMPTIONS` is for all models instead.
pub(crate) fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} runs", runs.load(Ordering::Relaxed));
}

/// The hub with some shards, and what these have of it. Each shard reads these topics.
pub(crate) fn world(shards: usize, limits: Limits, topics: &[&str]) -> (Hub, Vec<Reader>, Arc<AtomicU64>) {
    let common = Common::new(log_of(Epoch::new(1), &limits, 0), shards, &limits, 0, 0);
    let topics: Vec<Topic> = topics.iter().map(|name| Topic::new(*name).unwrap()).collect();
    let (handles, readers) = (0..shards)
        .map(|shard| {
            let mailbox = common.mailbox(shard, Waker::default());
            let (sockets, adopted) = fd_channel::channel().unwrap();
            let counts = Arc::new(CachePadded::new(SharedCounts::default()));
            let timings = Arc::new(CachePadded::new(SharedTimings::default()));
            let mut log = common.shared_log(shard, Arc::clone(&mailbox));
            log.add_reader(&topics, &[]).unwrap();
            let mut reader = Reader::of(Arc::clone(&mailbox));
            (reader.adopted, reader.log) = (Some(adopted), Some(log));
            (ShardHandle { mailbox, sockets, counts, timings }, reader)
        })
        .unzip();
    let newest = common.newest();
    let presence = Arc::new(Presence::new(Duration::ZERO, &limits, 1));
    (
        Hub::new(
            common,
            Clock::start(),
            limits,
            SocketOptions::default(),
            handles,
            presence,
            crate::hub::KeptLog::default(),
        ),
        readers,
        newest,
    )
}

/// What the shards of most models read.
const READ: [&str; 5] = ["a", "b", "first", "too many", "second"];

fn world_of_one(limits: Limits) -> (Hub, Reader) {
    let (hub, mut readers, _) = world(1, limits, &READ);
    (hub, readers.remove(0))
}

fn world_of_two(limits: Limits) -> (Hub, Reader, Reader, Arc<AtomicU64>) {
    let (hub, mut readers, newest) = world(2, limits, &READ);
    let second = readers.remove(1);
    (hub, readers.remove(0), second, newest)
}

/// A shard, as far as its mailbox is concerned.
pub(crate) struct Reader {
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) log: Option<SharedLog>,
    adopted: Option<SocketReceiver>,
    pub(crate) head: u64,
    /// The topic of each event, in order.
    pub(crate) topics: Vec<String>,
}

impl Reader {
    fn of(mailbox: Arc<Mailbox>) -> Reader {
        Reader { mailbox, log: None, adopted: None, head: 0, topics: Vec::new() }
    }

    /// One without a hub.
    pub(crate) fn alone() -> Reader {
        Reader::of(Arc::new(Mailbox::new(0, Waker::default(), Arc::default())))
    }

    /// One tick: sleeps where nothing waits, then takes everything.
    pub(crate) fn tick(&mut self) -> VecDeque<Mail> {
        if self.mailbox.prepare_sleep() {
            self.mailbox.waker.wait();
        }
        self.mailbox.awake();
        self.take()
    }

    pub(crate) fn take(&mut self) -> VecDeque<Mail> {
        let mut inbox = VecDeque::new();
        self.mailbox.take(&mut inbox);
        inbox
    }

    /// Acts on an event. Like a shard's log, it insists on each, in order.
    pub(crate) fn act_on(&mut self, mail: Mail) {
        let Mail::Event(frame) = mail else { panic!("not an event") };
        self.mailbox.release_capacity(&frame);
        assert_eq!(frame.seq(), self.head + 1, "an event is missing or out of order");
        self.head = frame.seq();
        self.topics.push(frame.topics()[0].to_string());
    }

    pub(crate) fn act_on_all(&mut self, inbox: VecDeque<Mail>) {
        inbox.into_iter().for_each(|mail| self.act_on(mail));
    }

    /// Ticks until everything up to this event has come.
    pub(crate) fn read_to(&mut self, seq: u64) {
        while self.head < seq {
            let inbox = self.tick();
            self.act_on_all(inbox);
        }
    }
}

pub(crate) fn event(topic: &str) -> Event {
    Event::new(Topic::new(topic).unwrap())
}

fn frame(seq: u64) -> Arc<Frame> {
    Arc::new(Frame::encode(seq, "id", event("t"), Duration::ZERO))
}

/// As a release does it.
fn push_events(mailbox: &Mailbox, frames: Vec<Arc<Frame>>) {
    let bytes = frames.iter().map(|frame| frame.size()).sum();
    let amount = Amount { events: frames.len(), bytes };
    mailbox.reserve(amount);
    if mailbox.push_events(frames, amount) {
        mailbox.wake();
    }
}

/// Something to push that is no event.
fn push_question(mailbox: &Mailbox) {
    let question = Mail::Inspect(Box::new(Inspection::new(Vec::new()).0));
    mailbox.push(question, || Ok::<_, Infallible>(())).unwrap();
}

/// What events take.
fn amount_of<'mail>(mail: impl IntoIterator<Item = &'mail Mail>) -> Amount {
    let mut amount = Amount::default();
    for mail in mail {
        if let Mail::Event(frame) = mail {
            amount.add(Amount { events: 1, bytes: frame.size() });
        }
    }
    amount
}

/// Publishes an event, which is dropped where it is refused.
pub(crate) fn publish(hub: &Hub, topic: &str) -> Result<Published, PublishError> {
    hub.publish(event(topic)).map_err(PublishError::from)
}

// ---- Wake-ups ----

/// A shard that found nothing and sleeps is woken by a push, in every order of their steps, and also when it
/// was woken for something else just before.
#[test]
fn no_wake_up_is_lost() {
    explore(4, || {
        let mut reader = Reader::alone();
        let (one, other) = (Arc::clone(&reader.mailbox), Arc::clone(&reader.mailbox));
        let pushers = [
            thread::spawn(move || push_events(&one, vec![frame(1)])),
            thread::spawn(move || push_question(&other)),
        ];
        let (mut mail, mut ticks) = (0, 0);
        while mail < 2 {
            mail += reader.tick().len();
            ticks += 1;
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
        let wakes = reader.mailbox.waker.wakes();
        assert!(wakes <= 2, "{wakes} wakes for two pushes");
        assert!(wakes <= ticks, "{wakes} wakes, and it went to sleep {ticks} times");
    });
}

/// A wake for something else (a socket, a timer) does not take the place of the wake for a push.
#[test]
fn no_wake_up_is_lost_to_another() {
    explore(4, || {
        let mut reader = Reader::alone();
        let (mailbox, waker) = (Arc::clone(&reader.mailbox), reader.mailbox.waker.clone());
        let pusher = thread::spawn(move || {
            push_question(&mailbox);
            push_question(&mailbox);
        });
        let socket = thread::spawn(move || waker.wake());
        let mut mail = 0;
        while mail < 2 {
            mail += reader.tick().len();
        }
        pusher.join().unwrap();
        socket.join().unwrap();
    });
}

/// However much comes while a shard sleeps, it costs one write to the eventfd.
#[test]
fn a_sleeper_is_woken_once() {
    explore(4, || {
        let reader = Reader::alone();
        assert!(reader.mailbox.prepare_sleep());
        let pushers = [0, 1].map(|_| {
            let mailbox = Arc::clone(&reader.mailbox);
            thread::spawn(move || {
                push_question(&mailbox);
                push_events(&mailbox, vec![frame(1), frame(2)]);
            })
        });
        for pusher in pushers {
            pusher.join().unwrap();
        }
        assert_eq!((reader.mailbox.waker.wakes(), reader.mailbox.len()), (1, 6));
    });
}

/// A push costs no system call where the shard was woken for something else, or must not sleep because mail
/// waits.
#[test]
fn a_shard_that_is_awake_is_not_woken() {
    explore(5, || {
        let mut reader = Reader::alone();
        assert!(reader.mailbox.prepare_sleep());
        reader.mailbox.awake();
        push_question(&reader.mailbox);
        assert!(!reader.mailbox.prepare_sleep());
        let mailbox = Arc::clone(&reader.mailbox);
        let pusher = thread::spawn(move || push_events(&mailbox, vec![frame(1)]));
        reader.take();
        pusher.join().unwrap();
        assert_eq!(reader.mailbox.waker.wakes(), 0);
    });
}

/// A wake that is only collected comes after an answer, or later. Other pushes found the shard woken, and
/// woke no shard: eleven events waited until the collected wake was made.
#[test]
fn a_push_wakes_although_another_wake_is_owed() {
    explore(4, || {
        let mut reader = Reader::alone();
        let (one, other) = (Arc::clone(&reader.mailbox), Arc::clone(&reader.mailbox));
        let single = thread::spawn(move || collect_wakes(|| push_events(&one, vec![frame(1)])));
        let others = thread::spawn(move || push_question(&other));
        let mut is_answered = false;
        while !is_answered {
            is_answered = reader.tick().iter().any(|mail| matches!(mail, Mail::Inspect(_)));
        }
        single.join().unwrap();
        others.join().unwrap();
    });
}

/// A shard that holds events up is woken by a question, and not by an event, in every order of their steps.
#[test]
fn a_question_does_not_wait_for_a_hold() {
    explore(4, || {
        let mut reader = Reader::alone();
        push_events(&reader.mailbox, vec![frame(1)]);
        let (one, other) = (Arc::clone(&reader.mailbox), Arc::clone(&reader.mailbox));
        let pushers = [
            thread::spawn(move || push_events(&one, vec![frame(2)])),
            thread::spawn(move || push_question(&other)),
        ];
        let mut taken = VecDeque::new();
        while taken.is_empty() {
            if reader.mailbox.prepare_hold() {
                reader.mailbox.waker.wait();
            }
            reader.mailbox.awake();
            reader.mailbox.take_others(&mut taken);
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
        assert!(taken.len() == 1 && matches!(taken[0], Mail::Inspect(_)));
        assert!(reader.mailbox.waker.wakes() <= 1, "an event has woken it");
        // The hold is over: the events are there, in order.
        let inbox = reader.tick();
        reader.act_on_all(inbox);
        assert_eq!(reader.head, 2);
    });
}

// ---- Bounds ----

/// What waits, and what a shard has in hand, is never more than the bound, also where publishers race for the
/// last place. When all is done, all is free.
#[test]
fn a_mailbox_is_bounded() {
    explore(3, || {
        let bytes = 2 * Frame::size_at_most(&event("a"));
        let limits = Limits::default().with_mailbox_events(3).with_mailbox_bytes(bytes);
        let (hub, mut reader) = world_of_one(limits.clone());
        let publishers = ["a", "b"].map(|topic| {
            let hub = hub.clone();
            thread::spawn(move || (0..2).filter(|_| publish(&hub, topic).is_ok()).count())
        });
        // A shard takes more only when it has acted on everything.
        for _ in 0..2 {
            let mut in_hand = reader.take();
            while !in_hand.is_empty() {
                let state = lock(&reader.mailbox.state);
                let waits = amount_of(in_hand.iter().chain(&state.queue));
                drop(state);
                assert!(waits.events <= limits.mailbox_events && waits.bytes <= limits.mailbox_bytes);
                reader.act_on(in_hand.pop_front().unwrap());
            }
        }
        let accepted: usize = publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum();
        let inbox = reader.take();
        assert_eq!(reader.mailbox.capacity().taken(), amount_of(&inbox));
        reader.act_on_all(inbox);
        assert_eq!((reader.head as usize, reader.mailbox.capacity().taken()), (accepted, Amount::default()));
    });
}

/// A publisher that knows that there is room again is not refused.
#[test]
fn busy_is_said_only_where_it_is_so() {
    explore(5, || {
        let (hub, mut reader) = world_of_one(Limits::default().with_mailbox_events(1));
        publish(&hub, "first").unwrap();
        assert_eq!(publish(&hub, "too many"), Err(PublishError::Busy));
        let told = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&told);
        let shard = thread::spawn(move || {
            let inbox = reader.take();
            reader.act_on_all(inbox);
            // A subscriber has it, and tells the publisher.
            tell.store(true, Ordering::Release);
            reader
        });
        let room = told.load(Ordering::Acquire);
        let second = publish(&hub, "second");
        assert!(!room || second.is_ok(), "refused, and nothing waits");
        let mut reader = shard.join().unwrap();
        let inbox = reader.take();
        assert_eq!(inbox.len(), usize::from(second.is_ok()));
        reader.act_on_all(inbox);
        assert_eq!(reader.mailbox.capacity().taken(), Amount::default());
    });
}

// ---- Order ----

/// Two publishers, two shards: both shards have the same events in the same order without a hole.
#[test]
fn every_shard_has_the_same_order() {
    explore(3, || {
        let (hub, mut first, mut second, _) = world_of_two(Limits::default());
        let publishers = publish_one_and_two(&hub);
        first.read_to(3);
        second.read_to(3);
        assert_same_order(&first, &second);
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
}

/// The same with a thread for each shard: many more steps, so fewer interruptions.
#[test]
fn every_shard_on_its_thread_has_the_same_order() {
    explore(1, || {
        let (hub, mut first, mut second, _) = world_of_two(Limits::default());
        let publishers = publish_one_and_two(&hub);
        let first = thread::spawn(move || {
            first.read_to(3);
            first
        });
        second.read_to(3);
        assert_same_order(&first.join().unwrap(), &second);
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
}

fn publish_one_and_two(hub: &Hub) -> [thread::JoinHandle<()>; 2] {
    [vec!["a", "a"], vec!["b"]].map(|topics| {
        let hub = hub.clone();
        thread::spawn(move || {
            hub.publish_batch(&mut topics.into_iter().map(event).collect()).unwrap();
        })
    })
}

fn assert_same_order(first: &Reader, second: &Reader) {
    assert_eq!(first.topics, second.topics);
    assert!(first.topics == ["a", "a", "b"] || first.topics == ["b", "a", "a"], "{:?}", first.topics);
    let nothing = Amount::default();
    assert_eq!((first.mailbox.capacity().taken(), second.mailbox.capacity().taken()), (nothing, nothing));
}

/// A batch is accepted by every shard or by none, where one of them has less room; and it comes in one piece.
#[test]
fn a_batch_is_whole() {
    explore(3, || {
        let (hub, mut fast, mut slow, _) = world_of_two(Limits::default().with_mailbox_events(3));
        let publishers = ["a", "b"].map(|topic| {
            let hub = hub.clone();
            thread::spawn(move || {
                let mut events = vec![event(topic), event(topic)];
                let accepted = hub.publish_batch(&mut events).is_ok();
                assert_eq!(events.len(), if accepted { 0 } else { 2 }, "a refused batch is left as it was");
                usize::from(accepted)
            })
        });
        let inbox = fast.take();
        assert!(inbox.len().is_multiple_of(2), "half a batch");
        fast.act_on_all(inbox);
        let accepted: usize = publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum();
        assert_eq!((accepted, slow.mailbox.len()), (1, 2), "the slow one has room for one");
        for reader in [&mut fast, &mut slow] {
            let inbox = reader.take();
            reader.act_on_all(inbox);
            assert_eq!(reader.head as usize, 2 * accepted);
        }
        assert_eq!(fast.topics, slow.topics);
    });
}

/// A subscriber may know the number of an event from one shard, and resume at another one. There it finds
/// `newest` raised to that number, and the mail of the other shard comes to it, too.
#[test]
fn a_subscriber_that_changes_shards_finds_what_it_has_had() {
    explore(3, || {
        let (hub, mut left, mut joined, newest) = world_of_two(Limits::default());
        let publisher = thread::spawn(move || {
            publish(&hub, "a").unwrap();
            publish(&hub, "b").unwrap();
        });
        // The network between a shard's send and the other's receive.
        let had = Arc::new(AtomicU64::new(0));
        let has = Arc::clone(&had);
        let first = thread::spawn(move || {
            let inbox = left.tick();
            left.act_on_all(inbox);
            has.store(left.head, Ordering::Release);
        });
        let cursor = had.load(Ordering::Acquire);
        let from = newest.load(Ordering::Relaxed);
        assert!(from >= cursor, "the reader has had {cursor}, and the newest is {from}");
        joined.read_to(from);
        assert!(newest.load(Ordering::Relaxed) >= joined.head);
        first.join().unwrap();
        publisher.join().unwrap();
    });
}

// ---- The end ----

/// A shard ends while publishers publish: no publisher hangs, later ones are told, and no mail is kept for
/// the shard.
#[test]
fn a_shard_that_ends_is_noticed() {
    explore(3, || {
        let (hub, mut reader) = world_of_one(Limits::default());
        let publishers = ["a", "b"].map(|topic| {
            let hub = hub.clone();
            thread::spawn(move || publish(&hub, topic))
        });
        let inbox = reader.tick();
        reader.act_on_all(inbox);
        // What dropping a shard does, also when it panics.
        reader.mailbox.close();
        assert_eq!(publish(&hub, "late"), Err(PublishError::Stopped));
        for publisher in publishers {
            let published = publisher.join().unwrap();
            assert!(matches!(published, Ok(_) | Err(PublishError::Stopped)), "{published:?}");
        }
        assert_eq!(reader.mailbox.len(), 0, "mail for a shard that has ended");
    });
}

/// A caller that hands a socket to a shard that ends is told, or its mail was there before the end.
#[test]
fn a_shard_that_ends_adopts_no_socket() {
    explore(4, || {
        let (hub, mut reader) = world_of_one(Limits::default());
        let adopter = thread::spawn(move || {
            let adopt = || hub.adopt(socket(), Subscribe::to([Topic::new("a").unwrap()]), WireFormat::Plain);
            [adopt(), adopt()]
        });
        let taken = reader.take().len();
        reader.mailbox.close();
        let adopted = adopter.join().unwrap();
        assert!(refusals(&adopted).all(|refusal| matches!(refusal, AdoptRefusal::Stopped)), "{adopted:?}");
        assert!(adopted.iter().flatten().count() >= taken);
        assert_eq!(reader.mailbox.len(), 0, "mail for a shard that has ended");
    });
}

/// A thread that asks a shard that ends has an answer, or learns that there will be none.
#[test]
fn a_question_to_a_shard_that_ends_is_not_left_open() {
    explore(5, || {
        let mut reader = Reader::alone();
        let mailbox = Arc::clone(&reader.mailbox);
        let (inspection, asked) = Inspection::new(Vec::new());
        let asker = thread::spawn(move || {
            let _ = mailbox.push_within(1, Mail::Inspect(Box::new(inspection)), || Ok::<_, Infallible>(()));
        });
        for mail in reader.take() {
            let Mail::Inspect(inspection) = mail else { panic!("only a question was asked") };
            inspection.answer(Vec::new());
        }
        reader.mailbox.close();
        asker.join().unwrap();
        assert!(!matches!(asked.try_recv(), Err(TryRecvError::Empty)), "it waits for ever");
    });
}

/// A drain comes behind every event that was accepted, and none is accepted after it.
#[test]
fn a_drain_is_the_last() {
    explore(3, || {
        let (hub, mut reader) = world_of_one(Limits::default());
        let other = hub.clone();
        let publisher = thread::spawn(move || (0..2).filter(|_| publish(&other, "a").is_ok()).count());
        let engine = thread::spawn(move || {
            hub.drain(Duration::ZERO);
            publish(&hub, "late")
        });
        let (mut events, mut drained) = (0, false);
        while !drained {
            for mail in reader.tick() {
                assert!(!drained, "mail behind the drain");
                match mail {
                    Mail::Drain(_) => drained = true,
                    _ => events += 1,
                }
            }
        }
        assert_eq!(engine.join().unwrap(), Err(PublishError::Stopped));
        assert_eq!(publisher.join().unwrap(), events);
        assert_eq!(reader.mailbox.len(), 0, "mail behind the drain");
    });
}

// ---- Sockets ----

fn refusals(adopted: &[Result<(), AdoptError>]) -> impl Iterator<Item = &AdoptRefusal> {
    adopted.iter().filter_map(|adopted| adopted.as_ref().err()).map(AdoptError::reason)
}

/// In a `File`, which can say what it is.
fn socket() -> File {
    OwnedFd::from(UnixStream::pair().unwrap().0).into()
}

/// Tells sockets apart without their numbers.
fn inode(socket: &File) -> String {
    socket.metadata().unwrap().st_ino().to_string()
}

/// The socket that comes out first belongs to the mail that comes out first.
#[test]
fn sockets_come_in_the_order_of_their_mail() {
    explore(3, || {
        let (hub, mut reader) = world_of_one(Limits::default());
        let adopters = [0, 1].map(|_| {
            let hub = hub.clone();
            thread::spawn(move || {
                let socket = socket();
                let subscribe = Subscribe::to([Topic::new(inode(&socket)).unwrap()]);
                hub.adopt(socket, subscribe, WireFormat::Plain).unwrap();
            })
        });
        let adopted = reader.adopted.take().unwrap();
        let mut seen = 0;
        while seen < 2 {
            for mail in reader.tick() {
                let Mail::Adopt(adoption) = mail else { panic!("only sockets were sent") };
                let socket =
                    adopted.receive(&mut Vec::new()).unwrap().expect("a socket is there before its mail");
                assert_eq!(adoption.subscribe.topics[0].as_str(), inode(&File::from(socket)));
                seen += 1;
            }
        }
        for adopter in adopters {
            adopter.join().unwrap();
        }
    });
}

/// Of adopters that race for the last place all but one are told to come again, and their sockets are not
/// passed.
#[test]
fn sockets_are_bounded() {
    explore(4, || {
        let (hub, reader) = world_of_one(Limits::default().with_mailbox_events(1).with_mailbox_others(0));
        let adopters = [0, 1].map(|_| {
            let hub = hub.clone();
            thread::spawn(move || {
                hub.adopt(socket(), Subscribe::to([Topic::new("a").unwrap()]), WireFormat::Plain)
            })
        });
        let adopted = adopters.map(|adopter| adopter.join().unwrap());
        assert!(refusals(&adopted).all(|refusal| matches!(refusal, AdoptRefusal::Busy)), "{adopted:?}");
        assert_eq!((adopted.iter().flatten().count(), reader.mailbox.len()), (1, 1));
        let sockets = reader.adopted.unwrap();
        assert!(sockets.receive(&mut Vec::new()).unwrap().is_some());
        assert!(sockets.receive(&mut Vec::new()).unwrap().is_none());
    });
}
