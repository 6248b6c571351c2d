//! From a socket to a subscriber: receive the request head, ask for admission, begin the stream. Here are all
//! sockets that are not streams yet, or never will be. [`pending`] are requests whose head or answer is not
//! complete, [`undecided`] are requests whose admission decides later, [`resuming`] are subscribers that wait
//! for a number, [`opening`] begins streams, [`proxied`] reads what a proxy says before a request, and
//! [`clients`] counts what each client has. [`deadline_table`] holds requests that wait, and finds those
//! whose time is over.
//!
//! After an accept the request is usually there already, so a head is tried before the socket is watched,
//! from the shard's one buffer. Only heads that come in pieces get memory of their own.

mod clients;
mod deadline_table;
mod opening;
mod pending;
mod proxied;
mod resuming;
mod undecided;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use fanfare_io::{Io, Received, Socket};
use fanfare_proto::head::RequestHead;
use fanfare_proto::limits::{AHEAD_POLL, FullPolicy, RECEIVE_BYTES};
use fanfare_proto::link::{Encoding, LinkKey, Transport};
use fanfare_proto::problem::ProblemKind;

use super::{Shard, SlotKey};
use crate::admission::{self, Admissions, Decision, Refusal, Request, Subscribe, Via, WrongTopics};
use crate::client_table::ClientBound;
use crate::hand_over;
use crate::mailbox::Adoption;
use crate::orders::DecisionStart;
use crate::response;
use clients::{Counting, NoRoom};
use deadline_table::DeadlineTable;
use pending::{Pending, QUEUES, Receiving, Stage};
pub(crate) use proxied::peer_address;
use resuming::Resuming;
use undecided::{Decider, NewUndecided, UndecidedTable};

/// Buffers of what a client sends behind its last answer that are thrown away at once: 256 KiB.
const LINGERING_READS: usize = 8;

/// Sockets that are not streams.
#[derive(Default)]
pub(super) struct Arrivals {
    pub(super) pending: DeadlineTable<Pending, QUEUES>,
    /// Subscribers that resume from a number that is not released here yet, in the order in which they came.
    pub(super) resuming: VecDeque<Resuming>,
    /// The last tick has left some of them for the next one that need not wait any longer.
    pub(super) has_left_resuming: bool,
    /// When the shard looks again for subscribers that have left while they waited to resume.
    pub(super) next_resuming_check: Option<Duration>,
    pub(super) undecided: UndecidedTable,
}

impl Arrivals {
    /// Requests whose head is not complete, or whose answer is still being read.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// When something of an arrival is due next.
    pub(super) fn next_timeout(&self, now: Duration) -> Option<Duration> {
        let timers = [
            self.pending.next_deadline(),
            self.undecided.next_timeout(),
            // Nothing wakes this shard when a number is released in which it has no interest.
            (!self.resuming.is_empty()).then_some(now + AHEAD_POLL),
        ];
        timers.into_iter().flatten().min()
    }
}

/// What came of receiving a piece of a head.
enum Progress {
    Incomplete,
    Closed,
    Answer(Reply),
}

enum Reply {
    Subscribe(Box<Subscribe>, Encoding),
    Refuse(Refusal),
    /// This, whole, then the end.
    Answer(Vec<u8>),
    /// Hand over, with this message: everything received, and the client of a proxy.
    HandOver(Vec<u8>),
    /// The decision comes later.
    Undecided(Box<NewUndecided>),
    /// Close without an answer.
    Close,
}

/// The method of a request, as far as an answer depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Head,
    Other,
}

/// What an answer depends on besides the decision.
#[derive(Clone, Copy)]
struct Asked {
    encoding: Encoding,
    via: Via,
    /// It may use the reserve.
    is_operator: bool,
    /// A bound of its client.
    refused_by: Option<ClientBound>,
    method: Method,
    /// Another request may have come behind this one.
    has_more: bool,
    /// When the decision about it began.
    start: DecisionStart,
}

impl<I: Io> Shard<I> {
    pub(super) fn accepted(&mut self, socket: Socket, listener: usize, transport: Transport, now: Duration) {
        self.counts.accepted += 1;
        if self.delivery.is_draining() {
            self.closing.push((socket, None));
            return;
        }
        let mut receiving = Receiving::new(transport);
        if let Some(Some(trusted)) = self.links.proxies.get(listener) {
            if !self.may_write_proxy_header(socket, trusted) {
                self.counts.proxy_refused += 1;
                self.closing.push((socket, None));
                return;
            }
            receiving.expects_proxy_header = true;
        } else {
            receiving.counting = self.count_connection(socket, Via::Direct, now);
        }
        match self.receive_head(socket, &mut receiving, now) {
            Progress::Closed => self.closing.push((socket, None)),
            Progress::Answer(reply) => self.reply(socket, reply, now),
            Progress::Incomplete if self.is_turned_away(receiving.counting, self.arrivals.pending.len()) => {
                self.closing.push((socket, None));
            }
            Progress::Incomplete => {
                let deadline = now.saturating_add(self.limits.head_time);
                let queue = self.queue_of_head(socket, &receiving);
                self.watch_pending(socket, Stage::Receiving(receiving), queue, deadline);
            }
        }
    }

    /// A pending socket has something to receive. A stale notification is ignored.
    pub(super) fn pending_ready(&mut self, key: LinkKey, readable: bool, now: Duration) {
        let Some(pending) = self.arrivals.pending.get_mut(key).filter(|_| readable) else { return };
        let socket = pending.socket;
        // What the header of a proxy has told of the client just now.
        let mut counting = Counting::Done;
        let progress = match std::mem::replace(&mut pending.stage, Stage::Lingering) {
            Stage::Lingering => self.discard_behind_answer(socket),
            Stage::Receiving(mut receiving) => {
                let expected_header = receiving.expects_proxy_header;
                let progress = self.receive_head(socket, &mut receiving, now);
                if expected_header {
                    counting = receiving.counting;
                }
                if let Some(pending) = self.arrivals.pending.get_mut(key) {
                    pending.stage = Stage::Receiving(receiving);
                }
                progress
            }
        };
        match progress {
            Progress::Incomplete => {
                let others = self.arrivals.pending.len().saturating_sub(1);
                if self.is_turned_away(counting, others) {
                    self.close_pending(key);
                }
            }
            Progress::Closed => self.close_pending(key),
            Progress::Answer(reply) => {
                self.arrivals.pending.remove(key);
                self.io.unwatch(socket, SlotKey::Pending(key).token());
                self.reply(socket, reply, now);
            }
        }
    }

    /// Receives until the head is complete, wrong, or nothing more is there.
    fn receive_head(&mut self, socket: Socket, receiving: &mut Receiving, now: Duration) -> Progress {
        let mut buffer = std::mem::take(&mut self.received);
        let progress = loop {
            // Where a client is to be named, its name has to fit behind what is handed over.
            let may_be_proxied = receiving.expects_proxy_header || receiving.via != Via::Direct;
            let room = if may_be_proxied { RECEIVE_BYTES - hand_over::CLIENT_BYTES } else { RECEIVE_BYTES };
            let mut fresh = match self.io.receive(socket, &mut buffer[..room]) {
                Received::Bytes(count) => &buffer[..count],
                Received::Empty => break Progress::Incomplete,
                Received::Ended | Received::Gone(_) => break Progress::Closed,
            };
            if receiving.expects_proxy_header {
                match receiving.take_proxy_header(fresh) {
                    Ok(false) => continue,
                    Ok(true) => {
                        receiving.counting = self.count_connection(socket, receiving.via, now);
                        if receiving.received.is_empty() {
                            continue;
                        }
                        fresh = &[];
                    }
                    Err(_) => {
                        self.counts.proxy_refused += 1;
                        break Progress::Closed;
                    }
                }
            }
            let Receiving { transport, via, counting, received, scanner, .. } = receiving;
            let bytes = if received.is_empty() {
                fresh
            } else {
                received.extend_from_slice(fresh);
                received.as_slice()
            };
            let answer = match scanner.parse(bytes, &self.limits.head) {
                Ok(None) => None,
                Ok(Some((head, length))) => {
                    if let Counting::AtRequest = counting {
                        *counting = self.count_at_request(socket, *via, &head, now);
                    }
                    Some(self.decide(socket, &head, (*transport, *via, *counting), bytes, length))
                }
                Err(error) => Some(Reply::Refuse(Refusal::of(error.problem(), error.to_string()))),
            };
            if let Some(reply) = answer {
                break Progress::Answer(reply);
            }
            if received.is_empty() {
                received.extend_from_slice(fresh);
            }
        };
        self.received = buffer;
        progress
    }

    /// What is kept of a request whose head has this length until its decision: what came behind the head
    /// only where that may be handed over.
    fn kept(&self, received: &[u8], length: usize) -> Arc<[u8]> {
        let end = if self.links.hand_over.is_some() { received.len() } else { length };
        received[..end].into()
    }

    /// What becomes of a request whose head has this length. More may have come behind it.
    fn decide(
        &mut self,
        socket: Socket,
        head: &RequestHead<'_>,
        (transport, via, counting): (Transport, Via, Counting),
        received: &[u8],
        length: usize,
    ) -> Reply {
        let refused_by = match counting {
            Counting::Refused(bound) => Some(bound),
            Counting::Done | Counting::AtRequest => None,
        };
        // An answer that is a stream needs what the admission says of the stream's head. All others come
        // without it.
        if let Some(bound) = refused_by
            && self.limits.when_full != FullPolicy::EndStream
        {
            return self.refuse_or_close(NoRoom::Client(bound));
        }
        let mut asked = Asked {
            encoding: Encoding::new(transport, head.wire_format()),
            via,
            is_operator: self.may_need_reserve() && self.is_from_operator(socket, via, head),
            refused_by,
            method: match head.method() {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                _ => Method::Other,
            },
            has_more: has_more(&received[length..]),
            start: self.links.orders.now(),
        };
        match &self.links.admission {
            Admissions::OnThreads(_) => {
                // By the time of the decision there may be less room.
                asked.is_operator = self.is_from_operator(socket, via, head);
                let (decider, received) = (Decider::Threads, self.kept(received, length));
                Reply::Undecided(Box::new(NewUndecided { decider, transport, asked, received }))
            }
            Admissions::OnShards(admission) => {
                let io = &self.io;
                let peer = || io.peer(socket);
                let decision =
                    admission::decide(&**admission, &Request::with_peer(head, transport, via, &peer));
                let may_wait = match &decision {
                    Ok(Decision::Later(_)) => true,
                    // It may wait for a number, or for its turn.
                    Ok(Decision::Subscribe(subscribe)) => {
                        subscribe.resume.is_some() || self.topics_left == 0 || !self.agenda.is_empty()
                    }
                    _ => false,
                };
                if may_wait {
                    asked.is_operator = self.is_from_operator(socket, via, head);
                }
                match self.reply_to(decision, asked, received) {
                    // It waits where others wait for their turn, behind them.
                    Reply::Subscribe(subscribe, _) if self.topics_left == 0 || !self.agenda.is_empty() => {
                        let (decider, received) = (Decider::Turn(subscribe), [].into());
                        Reply::Undecided(Box::new(NewUndecided { decider, transport, asked, received }))
                    }
                    reply => reply,
                }
            }
        }
    }

    /// What a decision is to the request that it is about.
    fn reply_to(&mut self, decision: Result<Decision, Refusal>, asked: Asked, received: &[u8]) -> Reply {
        let can_hand_over = self.links.hand_over.is_some();
        if let (Some(bound), Ok(Decision::HandOver)) = (asked.refused_by, &decision) {
            return self.refuse_or_close(NoRoom::Client(bound));
        }
        match decision {
            Ok(Decision::Subscribe(mut subscribe)) => {
                subscribe.via = asked.via;
                subscribe.is_operator = asked.is_operator;
                subscribe.refused_by = asked.refused_by;
                self.subscription_reply(subscribe, asked)
            }
            Ok(Decision::Refuse(refusal)) => Reply::Refuse(refusal),
            Ok(Decision::Answer(_)) if can_hand_over && asked.has_more => {
                Reply::HandOver(hand_over::message(received, asked.via))
            }
            Ok(Decision::Answer(answer)) => {
                self.counts.answered += 1;
                Reply::Answer(response::answer(&answer, asked.method == Method::Head, self.date))
            }
            Ok(Decision::HandOver) if can_hand_over => {
                Reply::HandOver(hand_over::message(received, asked.via))
            }
            Ok(Decision::HandOver) => Reply::Refuse(nothing_here()),
            Ok(Decision::Later(later)) => {
                let received = if can_hand_over { received.into() } else { Arc::from([]) };
                let transport = asked.encoding.transport;
                let decider = Decider::Ticket(later);
                Reply::Undecided(Box::new(NewUndecided { decider, transport, asked, received }))
            }
            Err(panicked) => {
                self.counts.admission_panics += 1;
                Reply::Refuse(panicked)
            }
        }
    }

    /// A stream for a GET; for a HEAD what a GET would be answered, without the stream (RFC 9110, section
    /// 9.3.2).
    fn subscription_reply(&mut self, mut subscribe: Subscribe, asked: Asked) -> Reply {
        let limit = self.limits.topics_per_subscription;
        let patterns = subscribe.patterns().len();
        if let Err(wrong) = WrongTopics::check(&mut subscribe.topics, patterns, limit) {
            return Reply::Refuse(Refusal::of(wrong.problem(), wrong.to_string()));
        }
        match asked.method {
            Method::Get => Reply::Subscribe(Box::new(subscribe), asked.encoding),
            Method::Head => {
                self.counts.answered += 1;
                let mut bytes = Vec::new();
                response::stream_head(&subscribe, asked.encoding, false, self.date, &mut bytes);
                Reply::Answer(bytes)
            }
            Method::Other => {
                let detail = "a stream of events is the answer to a GET request only";
                let wrong = Refusal::of(ProblemKind::MethodNotAllowed, detail);
                Reply::Refuse(wrong.own_header("Allow", "GET, HEAD"))
            }
        }
    }

    /// Throws away what a client sends behind its last answer. Unread bytes would turn the end of the
    /// connection into a reset, which may take the answer away from its client. A client that sends more at
    /// once than these reads take is closed.
    fn discard_behind_answer(&mut self, socket: Socket) -> Progress {
        for _ in 0..LINGERING_READS {
            match self.io.receive(socket, &mut self.received) {
                Received::Bytes(_) => {}
                Received::Empty => return Progress::Incomplete,
                Received::Ended | Received::Gone(_) => return Progress::Closed,
            }
        }
        Progress::Closed
    }

    /// Acts on a reply to a socket that is not watched.
    fn reply(&mut self, socket: Socket, reply: Reply, now: Duration) {
        match reply {
            Reply::Subscribe(subscribe, encoding) => {
                let start = self.start_of(&subscribe, encoding);
                let awaits = start.and_then(|start| self.awaits(&subscribe, encoding, start));
                // Any client can ask for a number that will not come: such subscribers may not take the room
                // of other requests. Without a wait they begin with a gap. One that asks the durable store,
                // or whose number may be in a log that nodes share, comes back instead: it would lose what it
                // can have.
                let may_wait = self.arrivals.resuming.len() < (self.limits.pending / 4).max(1);
                let comes_back = |awaits: &resuming::Awaits| {
                    matches!(awaits, resuming::Awaits::Start(_)) || self.links.log.is_shared()
                };
                let awaits = awaits.filter(|awaits| may_wait || comes_back(awaits));
                if let Some(awaits) = awaits {
                    // The search for where it starts was made, and will be made again.
                    self.charge_opening(&subscribe, start);
                    self.wait_to_resume(socket, awaits, subscribe, encoding, now);
                } else if let Err(other) = self.subscribe(socket, &subscribe, encoding, (start, None), now) {
                    self.reply(socket, other, now);
                }
            }
            Reply::Refuse(refusal) => {
                self.counts.refused += 1;
                self.answer_and_linger(socket, &response::refusal(&refusal, self.date), now);
            }
            Reply::Answer(bytes) => self.answer_and_linger(socket, &bytes, now),
            Reply::HandOver(bytes) => {
                let Some(to) = &self.links.hand_over else {
                    unreachable!("without a receiver, it is refused")
                };
                // Before the other server counts it.
                let left = self.counted.remove(socket).map(|counted| self.links.clients.leave(counted));
                let refusal = match to.send_raw(socket, &bytes).map_err(|error| error.kind()) {
                    Ok(()) => {
                        self.counts.handed_over += 1;
                        self.closing.push((socket, None));
                        return;
                    }
                    Err(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => nothing_here(),
                    Err(_) => {
                        let detail = "the control plane is busy; try again in a moment";
                        let busy = Refusal::of(ProblemKind::ServerBusy, detail);
                        busy.own_header("Retry-After", "1")
                    }
                };
                // It is its client's until the answer has been read, as any other.
                if let Some(left) = left {
                    self.counted.insert(socket, self.links.clients.enter_again(left));
                }
                self.reply(socket, Reply::Refuse(refusal), now);
            }
            Reply::Undecided(new) => self.wait_for_decision(socket, *new, now),
            Reply::Close => self.closing.push((socket, None)),
        }
    }

    pub(super) fn adopt(&mut self, adoption: Adoption, now: Duration) {
        let mut nothing = Vec::new();
        // Where the socket did not arrive (our table was full), the kernel has closed it.
        let Ok(Some(socket)) = self.links.adopted.receive(&mut nothing) else {
            self.counts.turned_away += 1;
            return;
        };
        let socket = self.io.adopt(socket);
        let Adoption { mut subscribe, encoding } = adoption;
        let is_ended =
            subscribe.decided_since.is_some_and(|start| self.connections.is_ended_since(&subscribe, start));
        self.count_adopted(socket, &mut subscribe);
        let reply = match self.delivery.is_draining() || is_ended {
            false => Reply::Subscribe(Box::new(subscribe), encoding),
            true => Reply::Close,
        };
        self.reply(socket, reply, now);
    }
}

/// Whether another request may stand here. A line end behind a request is none: old clients send one (RFC
/// 9112, section 2.2).
fn has_more(behind: &[u8]) -> bool {
    behind.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
}

/// The answer to a request that is no subscription, where the engine hands none over.
fn nothing_here() -> Refusal {
    Refusal::of(ProblemKind::NotFound, "nothing is served at this path")
}
