//! Requests whose admission decides later: on another thread, or when it holds a ticket.
//!
//! Their sockets are not watched. A shard notices that a client has left when it sends the answer, at the latest
//! when the time for the decision is over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::limits::{DECISIONS, EXPIRIES};
use fanfare_proto::link::{LinkKey, Transport};
use slab::Slab;

use super::pending::{Deadline, due};
use super::{Asked, Reply};
use crate::admission::{Admissions, Decided, Decision, Job, Later, Refusal, UndecidedAddress};
use crate::shard::Shard;

/// Slots for undecided requests, and for their deadlines, that an empty table keeps.
const UNDECIDED_KEPT: usize = 64;

/// Requests that wait for the decision about them.
#[derive(Default)]
pub(in crate::shard) struct UndecidedTable {
    requests: Slab<Undecided>,
    /// In the order of their times, which are one duration after their beginnings.
    pub(super) deadlines: Deadline,
    /// Decisions that have come and are not acted on yet. They do not wait among the shard's mail, where they
    /// would hold up the events behind them.
    decisions: VecDeque<Box<Decided>>,
    generation: u32,
}

struct Undecided {
    socket: Socket,
    generation: u32,
    asked: Asked,
    /// The request as it was received, where it may be handed over; else nothing.
    received: Arc<[u8]>,
    /// While this lives, [`crate::DecisionTicket::is_wanted`] says that the request waits.
    wanted: Arc<()>,
}

/// Where the decision comes from.
pub(super) enum Decider {
    /// A thread of the engine's.
    Threads,
    /// The holder of a ticket.
    Ticket(Later),
}

/// A request that begins to wait.
pub(super) struct NewUndecided {
    pub(super) decider: Decider,
    pub(super) transport: Transport,
    pub(super) asked: Asked,
    /// What the thread of the engine's needs, and what is handed over.
    pub(super) received: Arc<[u8]>,
}

impl UndecidedTable {
    pub(in crate::shard) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Bytes that they keep of their requests; for checks.
    #[cfg(feature = "sim")]
    pub(in crate::shard) fn bytes(&self) -> usize {
        self.requests.iter().map(|(_, request)| request.received.len()).sum()
    }

    /// Sockets of all of them; for checks.
    #[cfg(feature = "sim")]
    pub(in crate::shard) fn sockets(&self) -> impl Iterator<Item = Socket> {
        self.requests.iter().map(|(_, request)| request.socket)
    }

    fn get(&self, key: LinkKey) -> Option<&Undecided> {
        self.requests.get(key.slot as usize).filter(|found| found.generation == key.generation)
    }

    fn remove(&mut self, key: LinkKey) -> Option<Undecided> {
        self.get(key)?;
        Some(self.requests.remove(key.slot as usize))
    }

    pub(in crate::shard) fn note_decision(&mut self, decided: Box<Decided>) {
        self.decisions.push_back(decided);
    }

    pub(in crate::shard) fn has_decisions(&self) -> bool {
        !self.decisions.is_empty()
    }

    /// Deadlines, also those of requests that were answered; for checks.
    #[cfg(feature = "sim")]
    pub(in crate::shard) fn deadlines(&self) -> usize {
        self.deadlines.len()
    }

    /// Adds a request, and when its time is over. Now and then it removes the deadlines of requests that were
    /// decided, so that the queue stays in proportion to the table.
    fn insert(&mut self, request: Undecided, deadline: Duration) {
        let generation = request.generation;
        let slot = self.requests.insert(request) as u32;
        if self.deadlines.len() > 2 * self.requests.len() + 1024 {
            let requests = &self.requests;
            self.deadlines.retain(|(_, key)| {
                requests.get(key.slot as usize).is_some_and(|request| request.generation == key.generation)
            });
        }
        self.deadlines.push_back((deadline, LinkKey { slot, generation }));
    }

    /// No request waits, so all deadlines are stale. Gives back what a crowd needed.
    fn forget_stale_deadlines(&mut self) {
        if !self.requests.is_empty() {
            return;
        }
        self.deadlines.clear();
        if self.requests.capacity().max(self.deadlines.capacity()) > UNDECIDED_KEPT {
            self.requests = Slab::new();
            self.deadlines = Deadline::new();
        }
        if self.decisions.is_empty() && self.decisions.capacity() > UNDECIDED_KEPT {
            self.decisions = VecDeque::new();
        }
    }
}

impl<I: Io> Shard<I> {
    /// Waits for the decision about a request, within the bounds of number and time.
    pub(super) fn wait_for_decision(&mut self, socket: Socket, new: NewUndecided, now: Duration) {
        let NewUndecided { decider, transport, asked, received } = new;
        let undecided = &mut self.arrivals.undecided;
        if undecided.requests.len() >= self.limits.undecided {
            self.reply(socket, Reply::Refuse(too_many_wait()), now);
            return;
        }
        undecided.generation = (undecided.generation + 1) & LinkKey::GENERATIONS;
        let (slot, generation) = (undecided.requests.vacant_key() as u32, undecided.generation);
        let (key, wanted) = (LinkKey { slot, generation }, Arc::new(()));
        let address = UndecidedAddress {
            mailbox: Arc::clone(&self.links.mailbox),
            key,
            wanted: Arc::downgrade(&wanted),
        };
        let is_taken = match (decider, &self.links.admission) {
            (Decider::Ticket(later), _) => {
                later.wait_at(address);
                true
            }
            (Decider::Threads, Admissions::OnThreads(threads)) => {
                let peer = self.io.peer(socket);
                threads.push(Job {
                    received: Arc::clone(&received),
                    transport,
                    peer,
                    via: asked.via,
                    address,
                })
            }
            (Decider::Threads, Admissions::OnShards(_)) => unreachable!("it is asked on this shard"),
        };
        if !is_taken {
            self.reply(socket, Reply::Refuse(too_many_wait()), now);
            return;
        }
        let received = if self.links.hand_over.is_some() { received } else { Arc::from([]) };
        let deadline = now.saturating_add(self.limits.decision_time);
        undecided.insert(Undecided { socket, generation, asked, received, wanted }, deadline);
    }

    /// Acts on decisions that have come, as far as the budget of one tick goes.
    pub(in crate::shard) fn act_on_decisions(&mut self, now: Duration) {
        for _ in 0..DECISIONS {
            let Some(decided) = self.arrivals.undecided.decisions.pop_front() else { return };
            self.decided(*decided, now);
        }
    }

    /// The decision about a request has come. Where the request does not wait any more, it is dropped.
    fn decided(&mut self, decided: Decided, now: Duration) {
        let Decided { key, decision } = decided;
        if let Ok(Decision::Later(later)) = decision {
            self.decided_later_again(key, later);
            return;
        }
        let Some(undecided) = self.arrivals.undecided.remove(key) else { return };
        let Undecided { socket, asked, received, wanted, .. } = undecided;
        // Before the answer: a client that has read the answer finds that its ticket is not wanted any more.
        drop(wanted);
        let reply = self.reply_to(decision, asked, &received);
        self.reply(socket, reply, now);
        self.arrivals.undecided.forget_stale_deadlines();
    }

    /// The decision about a request is that it comes later again: the request keeps its place and its time.
    fn decided_later_again(&self, key: LinkKey, later: Later) {
        // Where the request does not wait any more, the new ticket learns it when this is dropped.
        let Some(undecided) = self.arrivals.undecided.get(key) else { return };
        let (mailbox, wanted) = (Arc::clone(&self.links.mailbox), Arc::downgrade(&undecided.wanted));
        later.wait_at(UndecidedAddress { mailbox, key, wanted });
    }

    /// Answers requests whose decision did not come in time.
    pub(in crate::shard) fn expire_undecided(&mut self, now: Duration) {
        for _ in 0..EXPIRIES {
            let Some(key) = due(&mut self.arrivals.undecided.deadlines, now) else { break };
            if let Some(Undecided { socket, wanted, .. }) = self.arrivals.undecided.remove(key) {
                drop(wanted);
                self.counts.decisions_timed_out += 1;
                let late = Refusal::new(503, "the decision about this request did not come in time");
                self.reply(socket, Reply::Refuse(late.own_header("Retry-After", "1")), now);
            }
        }
        self.arrivals.undecided.forget_stale_deadlines();
    }

    pub(in crate::shard) fn close_all_undecided(&mut self) {
        let undecided = std::mem::take(&mut self.arrivals.undecided);
        self.closing.extend(undecided.requests.into_iter().map(|(_, request)| (request.socket, None)));
        // Decisions that are on their way find none of the requests.
        self.arrivals.undecided.generation = undecided.generation;
    }
}

fn too_many_wait() -> Refusal {
    let refusal =
        Refusal::new(503, "too many requests wait for the decision about them; try again in a moment");
    refusal.own_header("Retry-After", "1")
}

#[cfg(test)]
mod tests {
    use fanfare_proto::frame::WireFormat;
    use fanfare_proto::link::Encoding;

    use super::*;
    use crate::admission::Via;

    fn request(generation: u32) -> Undecided {
        Undecided {
            socket: 0,
            generation,
            asked: Asked {
                encoding: Encoding::new(Transport::Http1, WireFormat::Chunked),
                via: Via::Direct,
                is_head: false,
                has_more: false,
            },
            received: Arc::from([]),
            wanted: Arc::new(()),
        }
    }

    /// Deadlines were forgotten when their time came, or when no request waited. Where one always waits, as
    /// with 20,000 requests a second and a database of 50 ms, the deadlines of ten seconds were kept:
    /// 200,000.
    #[test]
    fn deadlines_stay_in_proportion_to_requests_that_wait() {
        let mut table = UndecidedTable::default();
        table.insert(request(0), Duration::ZERO);
        let first = LinkKey { slot: 0, generation: 0 };
        for generation in 1..10_000 {
            table.insert(request(generation), Duration::from_millis(generation.into()));
            let (_, key) = *table.deadlines.back().unwrap();
            assert_eq!(key.generation, generation);
            assert!(table.remove(key).is_some());
            table.forget_stale_deadlines();
            assert!(table.deadlines.len() <= 2 * (table.len() + 1) + 1025, "{}", table.deadlines.len());
        }
        assert_eq!(
            table.deadlines.front(),
            Some(&(Duration::ZERO, first)),
            "it waits, so its deadline stays"
        );
        assert!(table.remove(first).is_some());
        table.forget_stale_deadlines();
        assert!(table.deadlines.is_empty());
    }
}
