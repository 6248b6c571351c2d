//! Models of decisions: the queue of the admission threads, and a ticket and its engine. See
//! `crate::mailbox::models`.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use fanfare_proto::head::HeadLimits;
use fanfare_proto::link::{LinkKey, Transport};
use loom::thread;

use super::{Admission, AdmissionThreads, Decision, Job, Refusal, Request, UndecidedAddress, Via};
use crate::mailbox::Mail;
use crate::mailbox::models::{Reader, explore};
use crate::sync::{Condvar, Mutex, lock};

/// Where a shard waits for the decision about the request in this slot. The request waits while the last one
/// lives.
fn address(shard: &Reader, slot: u32, wanted: &Arc<()>) -> UndecidedAddress {
    let key = LinkKey { slot, generation: 0 };
    UndecidedAddress { mailbox: Arc::clone(&shard.mailbox), key, wanted: Arc::downgrade(wanted) }
}

fn job(shard: &Reader, slot: u32, wanted: &Arc<()>) -> Job {
    Job {
        received: Arc::from(*b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"),
        transport: Transport::Http1,
        peer: None,
        via: Via::Direct,
        address: address(shard, slot, wanted),
    }
}

/// The slots of the requests that this mail decides, each once, and the kinds of the decisions.
fn decided(
    mail: impl IntoIterator<Item = Mail>,
    slots: &mut BTreeSet<u32>,
) -> Vec<Result<Decision, Refusal>> {
    let act_on = |mail| {
        let Mail::Decided(decided) = mail else { panic!("only decisions were sent") };
        assert!(slots.insert(decided.key.slot), "a request is decided twice");
        decided.decision
    };
    mail.into_iter().map(act_on).collect()
}

/// Threads in an admission that returns when as many are in it.
struct Together {
    count: usize,
    here: Mutex<usize>,
    all_here: Condvar,
}

impl Admission for Together {
    fn admit(&self, _: &Request<'_>) -> Decision {
        let mut here = lock(&self.here);
        *here += 1;
        while *here < self.count {
            here = self.all_here.wait(here).unwrap_or_else(PoisonError::into_inner);
        }
        self.all_here.notify_all();
        Decision::HandOver
    }
}

// ---- Threads ----

/// Requests that come together are decided side by side, though the shard wakes one thread and not two. A
/// thread that takes a request wakes the next one: otherwise the first admission would wait for ever.
#[test]
fn admission_threads_take_requests_side_by_side() {
    explore(2, || {
        let mut shard = Reader::alone();
        let wanted = Arc::new(());
        let together = Together { count: 2, here: Mutex::new(0), all_here: Condvar::new() };
        let admission: Arc<dyn Admission> = Arc::new(together);
        let threads = AdmissionThreads::start(2, 2, HeadLimits::default(), &admission).unwrap();
        for slot in 0..2 {
            assert!(threads.push(job(&shard, slot, &wanted)), "there is room");
        }
        let mut slots = BTreeSet::new();
        while slots.len() < 2 {
            decided(shard.tick(), &mut slots);
        }
        threads.end();
        assert!(!threads.push(job(&shard, 2, &wanted)), "they have ended");
    });
}

/// Two shards push while the threads come and go: each request is decided once.
#[test]
fn admission_threads_decide_each_request_once() {
    explore(2, || {
        let mut shard = Reader::alone();
        let wanted = Arc::new(());
        let admission: Arc<dyn Admission> = Arc::new(|_: &Request<'_>| Decision::HandOver);
        let threads = AdmissionThreads::start(1, 2, HeadLimits::default(), &admission).unwrap();
        let other = {
            let (threads, job) = (Arc::clone(&threads), job(&shard, 1, &wanted));
            thread::spawn(move || assert!(threads.push(job)))
        };
        assert!(threads.push(job(&shard, 0, &wanted)));
        let mut slots = BTreeSet::new();
        while slots.len() < 2 {
            decided(shard.tick(), &mut slots);
        }
        other.join().unwrap();
        threads.end();
    });
}

/// The end meets a request on its way: it is decided, dropped, or not taken, and the thread ends in each
/// case. (Loom finds a thread that does not.)
#[test]
fn admission_threads_end_while_requests_come() {
    explore(3, || {
        let mut shard = Reader::alone();
        let wanted = Arc::new(());
        let admission: Arc<dyn Admission> = Arc::new(|_: &Request<'_>| Decision::HandOver);
        let threads = AdmissionThreads::start(1, 2, HeadLimits::default(), &admission).unwrap();
        let ender = {
            let threads = Arc::clone(&threads);
            thread::spawn(move || threads.end())
        };
        let is_taken = threads.push(job(&shard, 0, &wanted));
        ender.join().unwrap();
        assert!(!threads.push(job(&shard, 1, &wanted)), "they have ended");
        let mut slots = BTreeSet::new();
        decided(shard.take(), &mut slots);
        assert!(slots.is_empty() || (is_taken && slots.contains(&0)));
    });
}

// ---- Tickets ----

/// A ticket is used, or dropped, while the engine begins to wait for it: the shard gets one decision, and is
/// woken for it.
#[test]
fn a_ticket_and_its_engine_meet_in_either_order() {
    for is_used in [true, false] {
        explore(5, move || {
            let mut shard = Reader::alone();
            let wanted = Arc::new(());
            let (Decision::Later(later), ticket) = Decision::later() else { panic!("it comes later") };
            let holder = thread::spawn(move || match is_used {
                true => ticket.decide(Decision::HandOver),
                false => drop(ticket),
            });
            later.wait_at(address(&shard, 7, &wanted));
            let mut slots = BTreeSet::new();
            let mut decisions = Vec::new();
            while decisions.is_empty() {
                decisions = decided(shard.tick(), &mut slots);
            }
            holder.join().unwrap();
            assert_eq!((decisions.len(), shard.mailbox.len()), (1, 0));
            let is_right = match &decisions[0] {
                Ok(Decision::HandOver) => is_used,
                Ok(Decision::Refuse(refusal)) => !is_used && refusal.status() == 500,
                _ => false,
            };
            assert!(is_right);
        });
    }
}

/// An admission that answers otherwise does not give its half back: the ticket decides nothing, and learns
/// that.
#[test]
fn a_ticket_of_a_request_that_is_answered_otherwise_decides_nothing() {
    explore(5, || {
        let shard = Reader::alone();
        let (Decision::Later(later), ticket) = Decision::later() else { panic!("it comes later") };
        let answers = thread::spawn(move || drop(later));
        let was_wanted = ticket.is_wanted();
        answers.join().unwrap();
        assert!(!ticket.is_wanted());
        ticket.decide(Decision::HandOver);
        assert_eq!(shard.mailbox.len(), 0, "it was wanted at first: {was_wanted}");
    });
}

/// A decision that puts off again, while the next decision is made: the shard gets that one alone.
#[test]
fn a_ticket_that_puts_off_hands_its_request_on() {
    explore(3, || {
        let mut shard = Reader::alone();
        let wanted = Arc::new(());
        let (Decision::Later(later), ticket) = Decision::later() else { panic!("it comes later") };
        later.wait_at(address(&shard, 7, &wanted));
        let (again, second) = Decision::later();
        let holders = [
            thread::spawn(move || ticket.decide(again)),
            thread::spawn(move || second.decide(Decision::HandOver)),
        ];
        let (mut slots, mut decisions) = (BTreeSet::new(), Vec::new());
        while decisions.is_empty() {
            decisions = decided(shard.tick(), &mut slots);
        }
        holders.into_iter().for_each(|holder| holder.join().unwrap());
        assert!(matches!(&decisions[..], [Ok(Decision::HandOver)]));
        assert_eq!(shard.mailbox.len(), 0);
    });
}
