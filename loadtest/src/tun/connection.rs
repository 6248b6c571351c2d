//! One TCP connection from the client's side, without IO, clock or addresses.
//!
//! Inputs: [`Connection::open`], [`Connection::handle`], [`Connection::send`], [`Connection::close`],
//! [`Connection::stall`], [`Connection::resume`], and [`Connection::timed_out`] when `due_ms` is reached.
//! Outputs: segments to a [`Line`], the return values, and `due_ms` with `level`, the one timer.
//!
//! What RFC 9293 asks of an endpoint that opens actively, in these parts only: segments that arrive out of
//! order are dropped and answered with a duplicate acknowledgment, so the peer sends them again. There is no
//! congestion control, because a client sends one request; no fast retransmit of it; no urgent data; no
//! option but the maximum segment size; and no TIME-WAIT, because the table gives each connection another
//! port.

use super::packet::{Segment, flag};

/// The window that is announced; without the scale option there is no larger one.
pub(crate) const LARGEST_WINDOW: u16 = u16::MAX;
/// What a peer accepts that does not say it (RFC 9293, 3.7.1).
const DEFAULT_SEGMENT: u16 = 536;
/// A peer that accepts less than this would be sent a packet for every few bytes.
const LEAST_SEGMENT: u16 = 64;

/// The time of level 0; each further level is twice as long. Level 2 is the second of RFC 6298.
pub(super) const FIRST_TIMEOUT_MS: u32 = 250;
/// Timeouts have so many levels: from a quarter of a second to 64 seconds.
pub(super) const LEVELS: usize = 9;
const LEVEL_OF_SYN: u8 = 2;
const LAST_LEVEL: u8 = LEVELS as u8 - 1;
/// Repetitions without an answer before a connection is given up.
const REPETITIONS: u8 = 7;

/// Why a connection is over, or will send nothing more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ended {
    /// Nothing listens there.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// The peer has sent everything and has closed its half.
    Finished,
    /// The peer acknowledged nothing, however often it was repeated.
    TimedOut,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum State {
    /// No connection.
    #[default]
    Free,
    /// SYN sent.
    Connecting,
    /// Both halves are open, or the peer has closed its own.
    Open,
    /// The user has closed the connection; the rest is this module's affair.
    Closing,
}

/// How soon what arrived has to be acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Acknowledge {
    /// It has been, or there is nothing to acknowledge.
    #[default]
    Nothing,
    /// Together with what else arrives shortly (RFC 9293, 3.8.6.3).
    Soon,
    /// When what has arrived up to now is worked off: the second segment.
    Now,
}

/// What a segment brought.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Arrival<'a> {
    /// The connection is open now.
    pub(super) connected: bool,
    /// The next bytes of the stream.
    pub(super) data: &'a [u8],
    /// What came, came last.
    pub(super) ended: Option<Ended>,
    pub(super) acknowledge: Acknowledge,
    /// What else to count it as.
    pub(super) oddity: Option<Oddity>,
}

/// Segments that bring nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Oddity {
    /// It had arrived before.
    Duplicate,
    /// One before it is missing.
    OutOfOrder,
    /// It does not belong to this connection's present state.
    Unacceptable,
}

/// Where a connection's segments go, and what all of them share.
pub(super) struct Line<'a> {
    /// Takes flags, sequence, acknowledgment, window, largest segment and data.
    pub(super) out: &'a mut dyn FnMut(Outgoing<'_>),
    /// The largest segment that is accepted.
    pub(super) largest: u16,
}

/// A segment without its addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outgoing<'a> {
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    pub(super) largest: Option<u16>,
    pub(super) data: &'a [u8],
}

/// What only few connections have at a time.
#[derive(Default)]
struct Held {
    /// Sent and not acknowledged, or not sent yet: from `send_acknowledged` on.
    outgoing: Vec<u8>,
    /// Arrived while the user does not read.
    kept: Vec<u8>,
    /// Behind the last byte that the announced window allows the peer, while the user does not read. It does
    /// not move until the user reads again.
    edge: u32,
}

/// The state of one connection. `due_ms` 0 means that no timer runs.
#[derive(Default)]
pub(super) struct Connection {
    held: Option<Box<Held>>,
    /// The user's own number for the connection.
    pub(super) token: u32,
    /// The first byte of ours that the peer has not acknowledged.
    send_acknowledged: u32,
    /// Behind the last byte that was sent, the SYN and the FIN included.
    send_next: u32,
    receive_next: u32,
    pub(super) due_ms: u32,
    peer_window: u16,
    peer_largest: u16,
    /// What is announced while the user reads.
    full_window: u16,
    pub(super) state: State,
    /// How often the place in the table was used before.
    pub(super) incarnation: u8,
    /// How long the timer runs: [`FIRST_TIMEOUT_MS`] `<< level`.
    pub(super) level: u8,
    repetitions: u8,
    stalled: bool,
    peer_finished: bool,
    finish_sent: bool,
    /// What [`Acknowledge`] says about what has arrived.
    pub(super) acknowledge: Acknowledge,
}

// A million of them are 48 MB.
const _: () = assert!(size_of::<Connection>() <= 48);

#[cfg(test)]
mod tests;

/// Whether `a` is before `b` in a sequence space that wraps.
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Connection {
    /// Starts a connection in a free place.
    pub(super) fn open(&mut self, now_ms: u32, token: u32, initial: u32, window: u16, line: &mut Line<'_>) {
        debug_assert_eq!(self.state, State::Free);
        *self = Connection {
            token,
            incarnation: self.incarnation,
            state: State::Connecting,
            full_window: window,
            send_acknowledged: initial,
            send_next: initial.wrapping_add(1),
            ..Connection::default()
        };
        self.start_timer(now_ms, LEVEL_OF_SYN);
        self.send_syn(line);
    }

    /// Empties the place for the next connection, which is another incarnation.
    pub(super) fn free(&mut self) {
        *self = Connection { incarnation: self.incarnation.wrapping_add(1), ..Connection::default() };
    }

    /// Queues bytes behind those that were queued before, and sends what the peer's window allows. Nothing is
    /// sent before the connection is open, or after it was closed.
    pub(super) fn send(&mut self, now_ms: u32, bytes: &[u8], line: &mut Line<'_>) {
        if self.state != State::Open || bytes.is_empty() {
            return;
        }
        self.held.get_or_insert_default().outgoing.extend_from_slice(bytes);
        self.transmit(now_ms, line);
    }

    /// The user will neither send nor read any more. Returns whether the place is free at once.
    pub(super) fn close(&mut self, now_ms: u32, line: &mut Line<'_>) -> bool {
        match self.state {
            State::Free | State::Closing => false,
            // Nothing is known of the peer yet. If its answer comes it is reset, as that of a stranger.
            State::Connecting => true,
            State::Open => {
                self.state = State::Closing;
                let unread = self.held.as_ref().is_some_and(|held| !held.kept.is_empty());
                if unread {
                    // What was taken from the peer is thrown away, so it must not think that it was read
                    // (RFC 9293, 3.10.4, and RFC 2525, 2.17).
                    self.reset(line);
                    return true;
                }
                self.stalled = false;
                self.transmit(now_ms, line);
                false
            }
        }
    }

    /// The user stops to read: the window closes as it fills.
    pub(super) fn stall(&mut self) {
        if self.state == State::Open && !self.stalled {
            self.stalled = true;
            let edge = self.receive_next.wrapping_add(u32::from(self.full_window));
            self.held.get_or_insert_default().edge = edge;
        }
    }

    /// The user reads again: takes what has arrived meanwhile, and whether the peer has finished.
    pub(super) fn resume(&mut self, line: &mut Line<'_>) -> (Vec<u8>, Option<Ended>) {
        if self.state != State::Open || !self.stalled {
            return (Vec::new(), None);
        }
        self.stalled = false;
        let kept = self.held.as_mut().map(|held| std::mem::take(&mut held.kept)).unwrap_or_default();
        self.drop_if_empty();
        self.send_acknowledgment(line);
        (kept, self.peer_finished.then_some(Ended::Finished))
    }

    /// Takes a segment of the peer. Afterwards the place may be free, see [`Self::is_over`].
    pub(super) fn handle<'p>(
        &mut self,
        now_ms: u32,
        segment: &Segment<'p>,
        line: &mut Line<'_>,
    ) -> Arrival<'p> {
        match self.state {
            State::Free => Arrival::default(),
            State::Connecting => self.handle_answer(segment, line),
            State::Open | State::Closing => self.handle_open(now_ms, segment, line),
        }
    }

    /// The timer ran out. `Some`: the connection is given up and the place is free.
    pub(super) fn timed_out(&mut self, now_ms: u32, line: &mut Line<'_>) -> Option<Ended> {
        self.due_ms = 0;
        if self.state == State::Free {
            return None;
        }
        let lingers = self.state == State::Closing && self.send_acknowledged == self.send_next;
        if self.repetitions >= REPETITIONS || lingers {
            if self.state != State::Connecting {
                self.reset(line);
            }
            self.state = State::Free;
            return Some(Ended::TimedOut);
        }
        self.repetitions += 1;
        self.start_timer(now_ms, (self.level + 1).min(LAST_LEVEL));
        if self.state == State::Connecting {
            self.send_syn(line)
        } else {
            self.repeat(line)
        }
        None
    }

    /// Acknowledges all that has arrived.
    pub(super) fn send_acknowledgment(&mut self, line: &mut Line<'_>) {
        self.acknowledge = Acknowledge::Nothing;
        self.emit(self.send_next, flag::ACK, &[], line);
    }

    /// Tells the peer that the connection is no more.
    fn reset(&mut self, line: &mut Line<'_>) {
        self.emit(self.send_next, flag::RST | flag::ACK, &[], line);
        self.state = State::Free;
    }

    fn handle_answer<'p>(&mut self, segment: &Segment<'p>, line: &mut Line<'_>) -> Arrival<'p> {
        let unacceptable = Arrival { oddity: Some(Oddity::Unacceptable), ..Arrival::default() };
        if !segment.has(flag::ACK) || segment.acknowledgment != self.send_next {
            // An old connection's, or a forgery. With an acknowledgment it is reset, as RFC 9293, 3.10.7.3,
            // asks.
            if segment.has(flag::ACK) && !segment.has(flag::RST) {
                (line.out)(Outgoing {
                    sequence: segment.acknowledgment,
                    acknowledgment: 0,
                    flags: flag::RST,
                    window: 0,
                    largest: None,
                    data: &[],
                });
            }
            return unacceptable;
        }
        if segment.has(flag::RST) {
            self.state = State::Free;
            return Arrival { ended: Some(Ended::Refused), ..Arrival::default() };
        }
        if !segment.has(flag::SYN) {
            return unacceptable;
        }
        self.state = State::Open;
        self.send_acknowledged = segment.acknowledgment;
        self.receive_next = segment.sequence.wrapping_add(1);
        self.peer_window = segment.window;
        self.peer_largest = segment.largest.unwrap_or(DEFAULT_SEGMENT).max(LEAST_SEGMENT);
        self.stop_timer();
        // The request follows, and acknowledges it. What data the segment has, the peer sends again.
        self.acknowledge = Acknowledge::Soon;
        Arrival { connected: true, acknowledge: Acknowledge::Soon, ..Arrival::default() }
    }

    fn handle_open<'p>(&mut self, now_ms: u32, segment: &Segment<'p>, line: &mut Line<'_>) -> Arrival<'p> {
        let odd = |oddity| Arrival { oddity: Some(oddity), ..Arrival::default() };
        let offset = segment.sequence.wrapping_sub(self.receive_next);
        if segment.has(flag::RST) {
            // Only the exact number resets; any other one within the window may be a forgery, and is
            // answered, so that a true peer can repeat itself (RFC 5961, 3.2).
            if offset == 0 {
                self.state = State::Free;
                return Arrival { ended: Some(Ended::Reset), ..Arrival::default() };
            }
            if offset < u32::from(self.window()) {
                self.send_acknowledgment(line);
            }
            return odd(Oddity::Unacceptable);
        }
        if segment.has(flag::SYN) {
            // Its answer to our SYN, sent again because our acknowledgment is lost; or a forgery (RFC 5961,
            // 4.2).
            self.send_acknowledgment(line);
            return odd(Oddity::Duplicate);
        }
        if !segment.has(flag::ACK) {
            return odd(Oddity::Unacceptable);
        }
        if before(self.send_next, segment.acknowledgment) {
            self.send_acknowledgment(line);
            return odd(Oddity::Unacceptable);
        }
        if before(segment.sequence, self.receive_next) {
            let old = self.receive_next.wrapping_sub(segment.sequence);
            if old >= segment.length() {
                // Nothing new: a repetition, or a question whether the window is open. Both want an answer.
                self.take_acknowledgment(now_ms, segment, line);
                if self.state != State::Free {
                    self.send_acknowledgment(line);
                }
                return odd(Oddity::Duplicate);
            }
        } else if offset > 0 {
            self.send_acknowledgment(line);
            return odd(Oddity::OutOfOrder);
        }
        self.take_acknowledgment(now_ms, segment, line);
        if self.state == State::Free || segment.length() == 0 {
            return Arrival::default();
        }
        self.take_data(now_ms, segment, line)
    }

    /// Takes what a segment says of our bytes and of the peer's window.
    fn take_acknowledgment(&mut self, now_ms: u32, segment: &Segment<'_>, line: &mut Line<'_>) {
        if before(segment.acknowledgment, self.send_acknowledged) {
            return;
        }
        self.peer_window = segment.window;
        if self.peer_window == 0 {
            // A peer that answers may keep its window closed for as long as it likes (RFC 9293, 3.8.6.1).
            self.repetitions = 0;
        }
        let acknowledged = segment.acknowledgment.wrapping_sub(self.send_acknowledged) as usize;
        if acknowledged > 0 {
            self.send_acknowledged = segment.acknowledgment;
            self.repetitions = 0;
            self.stop_timer();
            if let Some(held) = &mut self.held {
                // The FIN is one more than there are bytes.
                held.outgoing.drain(..acknowledged.min(held.outgoing.len()));
            }
            self.drop_if_empty();
            if self.send_acknowledged == self.send_next && self.finish_sent {
                if self.peer_finished {
                    self.state = State::Free;
                    return;
                }
                // The peer's own end is outstanding, for as long as it takes but not for ever.
                self.start_timer(now_ms, LAST_LEVEL);
                return;
            }
        }
        if self.held.is_some() || self.send_acknowledged != self.send_next {
            self.transmit(now_ms, line);
        }
    }

    /// Takes data and FIN of a segment that begins at, or before, the next byte.
    fn take_data<'p>(&mut self, now_ms: u32, segment: &Segment<'p>, line: &mut Line<'_>) -> Arrival<'p> {
        let known = self.receive_next.wrapping_sub(segment.sequence) as usize;
        let new = &segment.data[known.min(segment.data.len())..];
        if self.peer_finished {
            // Nothing comes after the end.
            self.send_acknowledgment(line);
            return Arrival { oddity: Some(Oddity::Unacceptable), ..Arrival::default() };
        }
        if self.state == State::Closing && !new.is_empty() {
            // Nothing is read any more: the peer need not go on (RFC 9293, 3.6.1).
            self.reset(line);
            return Arrival::default();
        }
        let taken = new.len().min(usize::from(self.window()));
        let fits = taken == new.len();
        self.receive_next = self.receive_next.wrapping_add(taken as u32);
        let mut arrival = Arrival { data: &new[..taken], ..Arrival::default() };
        if self.stalled {
            if let Some(held) = &mut self.held {
                held.kept.extend_from_slice(arrival.data);
            }
            arrival.data = &[];
        }
        if segment.has(flag::FIN) && fits {
            self.receive_next = self.receive_next.wrapping_add(1);
            self.peer_finished = true;
            self.send_acknowledgment(line);
            if self.state == State::Closing {
                if self.finish_sent && self.send_acknowledged == self.send_next {
                    self.state = State::Free;
                } else {
                    self.transmit(now_ms, line);
                }
            } else if !self.stalled {
                arrival.ended = Some(Ended::Finished);
            }
            return arrival;
        }
        if fits {
            self.acknowledge = match self.acknowledge {
                Acknowledge::Nothing => Acknowledge::Soon,
                _ => Acknowledge::Now,
            };
            arrival.acknowledge = self.acknowledge;
        } else {
            self.send_acknowledgment(line);
        }
        arrival
    }

    /// Sends what is queued and fits into the peer's window, and behind it the FIN of a connection that is
    /// closed.
    fn transmit(&mut self, now_ms: u32, line: &mut Line<'_>) {
        let queued = self.held.as_ref().map_or(0, |held| held.outgoing.len());
        let sent = self.send_next.wrapping_sub(self.send_acknowledged) as usize;
        if !self.finish_sent {
            let allowed = queued.min(usize::from(self.peer_window));
            if allowed > sent {
                self.emit_bytes(sent, allowed, line);
                self.send_next = self.send_acknowledged.wrapping_add(allowed as u32);
            }
            if self.state == State::Closing && allowed.max(sent) == queued {
                self.emit(self.send_next, flag::FIN | flag::ACK, &[], line);
                self.send_next = self.send_next.wrapping_add(1);
                self.finish_sent = true;
            }
        }
        let outstanding = self.send_next != self.send_acknowledged || queued > 0;
        if outstanding && self.due_ms == 0 {
            self.start_timer(now_ms, 0);
        }
    }

    /// Sends all that is not acknowledged again. Into a window that is closed goes one byte, to ask whether
    /// it is still closed (RFC 9293, 3.8.6.1).
    fn repeat(&mut self, line: &mut Line<'_>) {
        let queued = self.held.as_ref().map_or(0, |held| held.outgoing.len());
        let sent = self.send_next.wrapping_sub(self.send_acknowledged) as usize;
        let bytes = sent.min(queued);
        if bytes > 0 {
            self.emit_bytes(0, bytes, line);
        } else if queued > 0 {
            self.emit_bytes(0, 1, line);
            self.send_next = self.send_next.wrapping_add(1);
        }
        if self.finish_sent {
            self.emit(self.send_next.wrapping_sub(1), flag::FIN | flag::ACK, &[], line);
        }
    }

    /// Sends queued bytes, counted from the first that is not acknowledged, in segments that the peer
    /// accepts.
    fn emit_bytes(&mut self, from: usize, to: usize, line: &mut Line<'_>) {
        let Some(held) = self.held.take() else { return };
        let largest = usize::from(self.peer_largest.min(line.largest));
        let mut at = from;
        while at < to {
            let end = to.min(at + largest);
            let sequence = self.send_acknowledged.wrapping_add(at as u32);
            self.emit_holding(sequence, flag::ACK | flag::PSH, &held.outgoing[at..end], Some(&held), line);
            at = end;
        }
        self.held = Some(held);
        self.acknowledge = Acknowledge::Nothing;
    }

    fn emit(&self, sequence: u32, flags: u8, data: &[u8], line: &mut Line<'_>) {
        self.emit_holding(sequence, flags, data, self.held.as_deref(), line);
    }

    fn emit_holding(&self, sequence: u32, flags: u8, data: &[u8], held: Option<&Held>, line: &mut Line<'_>) {
        let window = self.window_beside(held);
        let acknowledgment = self.receive_next;
        (line.out)(Outgoing { sequence, acknowledgment, flags, window, largest: None, data });
    }

    fn send_syn(&self, line: &mut Line<'_>) {
        (line.out)(Outgoing {
            sequence: self.send_acknowledged,
            acknowledgment: 0,
            flags: flag::SYN,
            window: self.full_window,
            largest: Some(line.largest),
            data: &[],
        });
    }

    /// How many bytes the peer may send from here on.
    fn window(&self) -> u16 {
        self.window_beside(self.held.as_deref())
    }

    fn window_beside(&self, held: Option<&Held>) -> u16 {
        match held {
            // At most the full one when it was set, and less since. The FIN may be one behind it.
            Some(held) if self.stalled && before(held.edge, self.receive_next) => 0,
            Some(held) if self.stalled => held.edge.wrapping_sub(self.receive_next) as u16,
            _ => self.full_window,
        }
    }

    fn drop_if_empty(&mut self) {
        if !self.stalled && self.held.as_ref().is_some_and(|held| held.outgoing.is_empty()) {
            self.held = None;
        }
    }

    fn start_timer(&mut self, now_ms: u32, level: u8) {
        self.level = level;
        // 0 is no time; a millisecond more does not matter.
        self.due_ms = now_ms.wrapping_add(FIRST_TIMEOUT_MS << level).max(1);
    }

    fn stop_timer(&mut self) {
        self.due_ms = 0;
    }

    /// Whether the place can be given to another connection.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Free
    }
}
