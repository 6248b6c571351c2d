//! The admission of this world, and decisions that come later: tickets are kept, and used by later steps of a
//! story.
//!
//! What a request that waits is answered is judged when the answer begins: nothing before it is decided, then
//! what was decided; or 503, when its time is over, or where as many requests wait as may.

use std::net::{Ipv6Addr, SocketAddr};
use std::panic;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanfare::{Answer, Decision, DecisionTicket, Refusal, Request, Subscribe, bound_for};

use crate::client::{grant_sight, greet};
use crate::connection::Connection;
use crate::network::Net;
use crate::shared::Shared;
use crate::tally::Occurrence;
use crate::trace::trace;
use crate::wishes::{WhenDecided, Wishes};
use crate::world::World;

/// How late a decision may be missed by a shard that had its ticks in time.
const LATE: Duration = Duration::from_millis(100);

/// Which connection it is: of which shard, and its index there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) index: usize,
}

impl Place {
    /// The other end of the connection of this client: an address of documentation (RFC 3849) that names the
    /// connection.
    pub(crate) fn peer(self, client: usize) -> SocketAddr {
        let [high, low] = [(self.index >> 16) as u16, self.index as u16];
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, self.shard as u16, high, low);
        SocketAddr::from((address, client as u16))
    }

    fn of(peer: SocketAddr) -> Place {
        let SocketAddr::V6(peer) = peer else { panic!("{peer} is no address of this world") };
        let [.., shard, high, low] = peer.ip().segments();
        Place { shard: shard.into(), index: usize::from(high) << 16 | usize::from(low) }
    }
}

/// What the admission has left to the world.
#[derive(Default)]
pub(crate) struct Desk {
    tickets: Vec<Ticket>,
    /// Requests that have begun to wait since the network last noted it, and whether they are decided.
    begun: Vec<(Place, bool)>,
}

/// A ticket that is not used yet.
struct Ticket {
    ticket: DecisionTicket,
    place: Place,
    /// What its request becomes if all is well.
    subscribe: Subscribe,
    /// It was decided otherwise.
    is_for_nothing: bool,
}

pub(crate) type SharedDesk = Arc<Mutex<Desk>>;

/// A request that waits for the decision about it, or did so.
#[derive(Clone, Debug)]
pub(crate) struct Undecided {
    since: Duration,
    /// As many requests of its shard waited as may.
    was_full: bool,
    decided: Option<Decided>,
}

impl Undecided {
    /// Whether the decision is that it becomes a stream.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.decided == Some(Decided::Subscribe)
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    Subscribe,
    /// One of these statuses is the answer.
    Refused(&'static [u16]),
}

fn locked(desk: &SharedDesk) -> std::sync::MutexGuard<'_, Desk> {
    // An admission that panics on purpose does not hold it.
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Topics that a request may ask for.
pub(crate) const TOPICS_ASKED: usize = 8;

/// `GET /events`, with the switches of this world in the query.
pub(crate) fn admission(desk: SharedDesk) -> impl Fn(&Request<'_>) -> Decision + Send + Sync + 'static {
    move |request| {
        if request.path() == "/panic" {
            // This unwinds without the panic hook, which would end a fuzzer and would be kept as a failure of
            // the story.
            panic::resume_unwind(Box::new("this admission panics on purpose"));
        }
        if request.path() != "/events" || request.method() != "GET" {
            return Decision::HandOver;
        }
        let query = request.query().unwrap_or_default();
        let wishes = Wishes::of_query(query);
        let subscribe = match Subscribe::from_request_with_patterns(request, TOPICS_ASKED) {
            Ok(subscribe) if query.contains("hello&") => greet(subscribe),
            Ok(subscribe) => subscribe,
            Err(error) => return Decision::Refuse(error.into()),
        };
        let subscribe = wishes.grant(grant_sight(query, subscribe));
        if wishes.decision == WhenDecided::AtOnce {
            return Decision::Subscribe(subscribe);
        }
        let place = Place::of(request.peer().expect("every connection has an address"));
        let (later, ticket) = Decision::later();
        assert!(ticket.is_wanted(), "a ticket that was not used");
        let desk = &mut *locked(&desk);
        match wishes.decision {
            WhenDecided::BeforeTheAnswer => {
                ticket.decide(Decision::Subscribe(subscribe));
                desk.begun.push((place, true));
                later
            }
            WhenDecided::NotByTicket => {
                drop(later);
                let kept = subscribe.clone();
                desk.tickets.push(Ticket { ticket, place, subscribe: kept, is_for_nothing: true });
                Decision::Subscribe(subscribe)
            }
            _ => {
                desk.begun.push((place, false));
                desk.tickets.push(Ticket { ticket, place, subscribe, is_for_nothing: false });
                later
            }
        }
    }
}

/// The engine that made them is no more.
pub(crate) fn forget_tickets(desk: &SharedDesk) {
    let forgotten = std::mem::take(&mut *locked(desk));
    drop(forgotten);
}

impl Net {
    /// Notes which requests wait now.
    pub(crate) fn note_undecided(&mut self) {
        let desk = Arc::clone(&self.desk);
        let begun = std::mem::take(&mut locked(&desk).begun);
        for (place, is_decided) in begun {
            assert_eq!(place.shard, self.shard, "a shard asks about its own requests");
            self.shared.happened(Occurrence::DecidedLater);
            let undecided = Undecided {
                since: self.shared.now.get(),
                was_full: self.may_be_too_many(place.index),
                decided: is_decided.then_some(Decided::Subscribe),
            };
            let before = self.connections[place.index].undecided.replace(undecided);
            assert!(before.is_none(), "a request is asked about twice");
        }
    }

    /// Whether as many others may wait as may: for a decision, or decided, for their turn. Which requests the
    /// shard has read, and whose turn has come, is not known here.
    fn may_be_too_many(&self, index: usize) -> bool {
        let waits = |it: &&Connection| it.verifier.asked_at.is_some() && !it.is_answered() && !it.closed;
        let its = usize::from(waits(&&self.connections[index]));
        let others = self.connections.iter().filter(waits).count() - its;
        let is_operator = self.connections[index].accepted.is_operator;
        others >= bound_for(is_operator, self.shared.setting.limits.undecided)
    }

    /// The answer to a request that waited has begun, with these bytes: for a reason?
    pub(crate) fn judge_decided(&mut self, index: usize, bytes: &[u8]) {
        let now = self.shared.now.get();
        let limits = &self.shared.setting.limits;
        let it = &self.connections[index];
        let status = it.verifier.offered_status;
        let Some(undecided) = &it.undecided else {
            // A request that is decided at once may wait for its turn, where there is room to wait, and for
            // no longer than for a decision.
            let is_over = it.verifier.asked_at.is_some_and(|asked| now >= asked + limits.decision_time);
            let says = |problem: &str| bytes.windows(problem.len()).any(|part| part == problem.as_bytes());
            let waited_in_vain = status == Some(503)
                && ((is_over && says("too many streams begin"))
                    || (self.may_be_too_many(index) && says("/problems/too-many-undecided")));
            self.connections[index].waited_in_vain = waited_in_vain;
            self.this_tick.waited_in_vain += u64::from(waited_in_vain);
            return;
        };
        let is_over = now >= undecided.since + limits.decision_time;
        let may_have_enough = it.accepted.has_enough || limits.clients.streams_per_subject.is_some();
        let has_patterns = it.lacks_patterns(&self.shared);
        let occurrence = match (undecided.decided, status) {
            (Some(Decided::Subscribe), Some(200)) => {
                assert!(!it.told.barred, "a stream begins that was ended while it was decided about");
                return;
            }
            // There may be no room for one more stream: that is judged as for any other.
            (Some(Decided::Subscribe), Some(503)) if self.may_be_full(index) || has_patterns => return,
            // What its client or its subject has is judged as for any other.
            (Some(_), Some(429)) if may_have_enough => return,
            (Some(Decided::Refused(statuses)), Some(status)) if statuses.contains(&status) => return,
            (_, Some(503)) if is_over => Occurrence::DecisionTimedOut,
            (_, Some(503)) if undecided.was_full && now == undecided.since => Occurrence::UndecidedFull,
            (decided, status) => {
                panic!("a request that waits since {:?} gets {status:?} for {decided:?}", undecided.since)
            }
        };
        self.shared.happened(occurrence);
    }

    /// Whether the shard may have as many streams as it may hold.
    fn may_be_full(&self, index: usize) -> bool {
        let live = self.connections.iter().filter(|it| it.verifier.is_stream && !it.closed).count();
        let is_operator = self.connections[index].accepted.is_operator;
        live >= bound_for(is_operator, self.shared.setting.limits.connections)
    }

    /// A request is answered in time. `others_wait`: the shard has not taken all mail yet. `decided_waiting`:
    /// so many are decided about and wait for their turn, among them those whose admission did not put them
    /// off.
    pub(crate) fn check_undecided(
        &mut self,
        count: u64,
        decided_waiting: u64,
        others_wait: bool,
        in_time_since: Option<Duration>,
    ) {
        self.note_undecided();
        let now = self.shared.now.get();
        let at_most = self.connections.iter().filter(|it| it.may_be_undecided()).count() as u64;
        let waits = |it: &&Connection| {
            it.may_be_undecided() && it.undecided.as_ref().is_some_and(|it| it.decided.is_none())
        };
        let at_least = self.connections.iter().filter(waits).count() as u64;
        let at_most = at_most + decided_waiting;
        assert!((at_least..=at_most).contains(&count), "{count} wait, and that is {at_least} to {at_most}");
        assert!(others_wait || count == at_least, "a decision has no effect");
        let Some(late_at) = in_time_since else { return };
        let may_wait = self.shared.setting.limits.decision_time + LATE;
        for it in self.connections.iter().filter(waits) {
            let since = it.undecided.as_ref().map_or(now, |it| it.since);
            let has_waited = now.saturating_sub(since.max(late_at));
            assert!(has_waited <= may_wait, "client {} waits for a decision for {has_waited:?}", it.client);
        }
    }
}

/// What becomes of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TicketUse {
    Subscribe,
    Refuse,
    Answer,
    HandOver,
    Drop,
    /// The decision comes later again.
    PutOff,
    /// Nothing yet.
    Keep,
}

impl TicketUse {
    /// What ends the wait.
    const FINAL: [TicketUse; 8] = [
        TicketUse::Subscribe,
        TicketUse::Subscribe,
        TicketUse::Subscribe,
        TicketUse::Subscribe,
        TicketUse::Refuse,
        TicketUse::Answer,
        TicketUse::HandOver,
        TicketUse::Drop,
    ];
}

impl World {
    /// Some tickets are used: one, or all.
    pub(crate) fn decide_some(&mut self) {
        let count = locked(&self.desk).tickets.len();
        if count == 0 {
            return;
        }
        let first = self.shared.below(count);
        let last = if self.shared.one_in(4) { count } else { first + 1 };
        for _ in first..last {
            let ticket = locked(&self.desk).tickets.swap_remove(first);
            let what = match self.shared.below(10) {
                8 => TicketUse::PutOff,
                9 => TicketUse::Keep,
                other => TicketUse::FINAL[other],
            };
            self.use_ticket(ticket, what);
        }
    }

    /// All tickets are used, and nothing is put off.
    pub(crate) fn decide_all(&mut self) {
        let tickets = std::mem::take(&mut locked(&self.desk).tickets);
        for ticket in tickets {
            let what = self.shared.pick(&TicketUse::FINAL);
            self.use_ticket(ticket, what);
        }
    }

    /// All tickets are used in this way.
    #[cfg(test)]
    pub(crate) fn use_tickets(&mut self, what: TicketUse) {
        let tickets = std::mem::take(&mut locked(&self.desk).tickets);
        for ticket in tickets {
            self.use_ticket(ticket, what);
        }
    }

    fn use_ticket(&mut self, ticket: Ticket, what: TicketUse) {
        let Ticket { ticket, place, subscribe, is_for_nothing } = ticket;
        let others_wait = self.shards[place.shard].shard.snapshot().others_waiting > 0;
        let net = &mut *self.shards[place.shard].net.borrow_mut();
        let it = &mut net.connections[place.index];
        // Where the mail with another ticket's answer is still on its way, this one knows nothing yet.
        let is_wanted = !is_for_nothing && it.may_be_undecided();
        assert!(others_wait || ticket.is_wanted() == is_wanted, "whether a ticket is wanted: {is_wanted}");
        if !ticket.is_wanted() {
            self.shared.happened(Occurrence::DecidedTooLate);
        } else if it.ended {
            self.shared.happened(Occurrence::DecidedForNobody);
        }
        trace!(self.shared, "client {}'s ticket: {what:?}", it.client);
        let refused = |statuses, decision| (Decided::Refused(statuses), Some(decision));
        let (decided, decision) = match what {
            TicketUse::Subscribe => (Decided::Subscribe, Some(Decision::Subscribe(subscribe))),
            TicketUse::Refuse => refused(&[403], Decision::Refuse(Refusal::new(403, "you may not"))),
            // Where more has come behind the request, it is handed over.
            TicketUse::Answer => refused(&[418, 404, 503], Decision::Answer(Answer::new(418, "a teapot"))),
            TicketUse::HandOver => refused(&[404, 503], Decision::HandOver),
            TicketUse::Drop => (Decided::Refused(&[500]), None),
            TicketUse::PutOff => {
                let (later, again) = Decision::later();
                self.shared.happened(Occurrence::DecidedLaterAgain);
                ticket.decide(later);
                locked(&self.desk).tickets.push(Ticket { ticket: again, place, subscribe, is_for_nothing });
                return;
            }
            TicketUse::Keep => {
                locked(&self.desk).tickets.push(Ticket { ticket, place, subscribe, is_for_nothing });
                return;
            }
        };
        if let Some(undecided) = it.undecided.as_mut().filter(|_| is_wanted) {
            undecided.decided = Some(decided);
            // Where it waits for a number, it does so from now on.
            it.verifier.asked_at = Some(self.shared.now.get());
        }
        match decision {
            Some(decision) => ticket.decide(decision),
            None => {
                self.shared.happened(Occurrence::TicketDropped);
                drop(ticket);
            }
        }
    }

    /// Requests that wait for their decision.
    pub(crate) fn undecided(&self) -> u64 {
        self.shards.iter().map(|shard| shard.shard.counts().undecided).sum()
    }
}

/// A request that a drain finds undecided is closed without an answer.
pub(crate) fn note_drain(shared: &Shared, undecided: u64) {
    shared.tally.borrow_mut().add(Occurrence::DrainedUndecided, undecided);
}
