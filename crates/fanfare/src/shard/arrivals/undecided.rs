//! Requests whose admission decides later: on another thread, or when it holds a ticket.
//!
//! Their sockets are not watched. A shard asks now and then which clients have left: their requests wait no
//! longer, so that they do not take the room of others, and their tickets are not wanted any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::client_limits::bound_for;
use fanfare_proto::limits::{EXPIRIES, UNDECIDED_CHECK, UNDECIDED_CHECKS};
use fanfare_proto::link::{LinkKey, Transport};
use fanfare_proto::problem::ProblemKind;

use super::deadline_table::DeadlineTable;
use super::{Asked, Reply};
use crate::admission::{Admissions, Decided, Decision, Job, Later, Refusal, Subscribe, UndecidedAddress};
use crate::shard::{Agenda, Shard};

/// Requests that wait for the decision about them.
#[derive(Default)]
pub(in crate::shard) struct UndecidedTable {
    requests: DeadlineTable<Undecided, 1>,
    /// When it is asked again which clients have left, and from which slot on.
    next_check: Option<Duration>,
    next_checked: usize,
}

struct Undecided {
    socket: Socket,
    /// It is decided, and waits for its turn.
    is_decided: bool,
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
    /// It is decided, and waits for its turn on the shard's agenda.
    Turn(Box<Subscribe>),
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

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        let check = self.next_check.filter(|_| !self.requests.is_empty());
        [self.requests.next_deadline(), check].into_iter().flatten().min()
    }

    /// For checks: see [`DeadlineTable::check`].
    #[cfg(feature = "sim")]
    pub(in crate::shard) fn check(&self, bound: usize) {
        self.requests.check(bound);
    }

    /// Gives back what a crowd needed.
    fn give_back(&mut self) {
        self.requests.give_back();
    }
}

impl<I: Io> Shard<I> {
    /// Waits for the decision about a request, within the bounds of number and time.
    pub(super) fn wait_for_decision(&mut self, socket: Socket, new: NewUndecided, now: Duration) {
        let NewUndecided { decider, transport, asked, received } = new;
        let undecided = &mut self.arrivals.undecided;
        if undecided.requests.len() >= bound_for(asked.is_operator, self.limits.undecided) {
            self.counts.refused_undecided += 1;
            self.reply(socket, Reply::Refuse(too_many_wait()), now);
            return;
        }
        let (key, wanted) = (undecided.requests.next_key(), Arc::new(()));
        let is_decided = matches!(decider, Decider::Turn(_));
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
            (Decider::Turn(subscribe), _) => {
                let decision = Ok(Decision::Subscribe(*subscribe));
                self.agenda.push_back(Agenda::Decided(Box::new(Decided { key, decision })));
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
            self.counts.refused_undecided += 1;
            self.reply(socket, Reply::Refuse(too_many_wait()), now);
            return;
        }
        let received = if self.links.hand_over.is_some() { received } else { Arc::from([]) };
        let deadline = now.saturating_add(self.limits.decision_time);
        undecided.requests.insert(
            key,
            Undecided { socket, is_decided, asked, received, wanted },
            0,
            deadline,
        );
    }

    /// The decision about a request has come. Where the request does not wait any more, it is dropped.
    pub(in crate::shard) fn decided(&mut self, decided: Decided, now: Duration) {
        let Decided { key, decision } = decided;
        let Some(undecided) = self.arrivals.undecided.requests.remove(key) else { return };
        let Undecided { socket, asked, received, wanted, .. } = undecided;
        // Before the answer: a client that has read the answer finds that its ticket is not wanted any more.
        drop(wanted);
        let reply = match self.reply_to(decision, asked, &received) {
            // Its client comes back, and is decided about anew.
            Reply::Subscribe(subscribe, _) if self.connections.is_ended_since(&subscribe, asked.start) => {
                Reply::Close
            }
            reply => reply,
        };
        self.reply(socket, reply, now);
        self.arrivals.undecided.give_back();
    }

    /// Closes requests whose clients have left, a part of the table at a time.
    pub(in crate::shard) fn close_undecided_of_gone(&mut self, now: Duration) {
        let table = &mut self.arrivals.undecided;
        if table.requests.is_empty() {
            table.next_check = None;
            return;
        }
        if now < *table.next_check.get_or_insert(now + UNDECIDED_CHECK) {
            return;
        }
        table.next_check = Some(now + UNDECIDED_CHECK);
        let (its, next) = table.requests.in_slots(table.next_checked, UNDECIDED_CHECKS);
        let (keys, sockets): (Vec<LinkKey>, Vec<Socket>) =
            its.map(|(key, request)| (key, request.socket)).unzip();
        table.next_checked = next;
        let mut ended = Vec::new();
        self.io.find_ended(&sockets, &mut ended);
        if ended.is_empty() {
            return;
        }
        let ended: BTreeSet<Socket> = ended.into_iter().collect();
        for (key, _) in keys.into_iter().zip(&sockets).filter(|(_, socket)| ended.contains(socket)) {
            if let Some(gone) = self.arrivals.undecided.requests.remove(key) {
                self.counts.left_undecided += 1;
                self.closing.push((gone.socket, None));
            }
        }
        self.arrivals.undecided.give_back();
    }

    /// Answers requests whose decision, or turn, did not come in time.
    pub(in crate::shard) fn expire_undecided(&mut self, now: Duration) {
        for _ in 0..EXPIRIES {
            let Some(key) = self.arrivals.undecided.requests.take_due(0, now) else { break };
            if let Some(request) = self.arrivals.undecided.requests.remove(key) {
                let Undecided { socket, is_decided, wanted, .. } = request;
                drop(wanted);
                self.counts.decisions_timed_out += 1;
                let late = match is_decided {
                    true => {
                        Refusal::of(ProblemKind::ServerBusy, "too many streams begin; try again in a moment")
                    }
                    false => {
                        let detail = "the decision about this request did not come in time";
                        Refusal::of(ProblemKind::DecisionLate, detail)
                    }
                };
                self.reply(socket, Reply::Refuse(late.own_header("Retry-After", "1")), now);
            }
        }
        self.arrivals.undecided.give_back();
    }

    /// Requests that wait have at most this time from now on.
    pub(in crate::shard) fn shorten_decision_time(&mut self, now: Duration) {
        self.arrivals.undecided.requests.at_most(0, now.saturating_add(self.limits.decision_time));
    }

    pub(in crate::shard) fn close_all_undecided(&mut self) {
        // Decisions that are on their way find none of the requests.
        let undecided = self.arrivals.undecided.requests.remove_all();
        self.closing.extend(undecided.map(|request| (request.socket, None)));
    }
}

fn too_many_wait() -> Refusal {
    let refusal = Refusal::of(
        ProblemKind::TooManyUndecided,
        "too many requests wait for the decision about them; try again in a moment",
    );
    refusal.own_header("Retry-After", "1")
}
