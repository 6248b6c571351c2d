//! One connection, segment by segment.

use std::net::Ipv4Addr;

use super::*;

const NOW: u32 = 5_000;
const OURS: u32 = 0xFFFF_FFF0;
const THEIRS: u32 = 0xFFFF_FFFA;

/// A segment that was sent, with its data.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
    window: u16,
    data: Vec<u8>,
}

/// A connection and what it has sent.
#[derive(Default)]
struct Peer {
    connection: Connection,
    sent: Vec<Sent>,
}

impl Peer {
    fn with<T>(&mut self, call: impl FnOnce(&mut Connection, &mut Line<'_>) -> T) -> T {
        let sent = &mut self.sent;
        let mut out = |outgoing: Outgoing<'_>| {
            let Outgoing { sequence, acknowledgment, flags, window, data, .. } = outgoing;
            sent.push(Sent { sequence, acknowledgment, flags, window, data: data.to_vec() });
        };
        call(&mut self.connection, &mut Line { out: &mut out, largest: 1_460 })
    }

    /// A segment of the server, its sequence number counted from its first byte, and ours likewise.
    fn arrive<'p>(&mut self, flags: u8, sequence: u32, acknowledgment: u32, data: &'p [u8]) -> Arrival<'p> {
        self.arrive_with(flags, sequence, acknowledgment, data, 1_000)
    }

    fn arrive_with<'p>(
        &mut self,
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        data: &'p [u8],
        window: u16,
    ) -> Arrival<'p> {
        let segment = Segment {
            source: (Ipv4Addr::LOCALHOST, 80),
            destination: (Ipv4Addr::LOCALHOST, 1_024),
            sequence: THEIRS.wrapping_add(sequence),
            acknowledgment: OURS.wrapping_add(acknowledgment),
            flags,
            window,
            largest: (flags & flag::SYN != 0).then_some(100),
            data,
        };
        self.with(|connection, line| connection.handle(NOW, &segment, line))
    }

    fn take(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// The only segment since the last look: its flags, and its numbers counted from the first bytes.
    fn only(&mut self) -> (u8, u32, u32) {
        let sent = self.take();
        assert_eq!(sent.len(), 1, "{sent:?}");
        let Sent { sequence, acknowledgment, flags, .. } = sent[0];
        (flags, sequence.wrapping_sub(OURS), acknowledgment.wrapping_sub(THEIRS))
    }

    fn fire(&mut self) -> Option<Ended> {
        assert_ne!(self.connection.due_ms, 0, "a timer runs");
        self.with(|connection, line| connection.timed_out(NOW, line))
    }
}

fn connecting() -> Peer {
    let mut peer = Peer::default();
    peer.with(|connection, line| connection.open(NOW, 7, OURS, 5_000, line));
    assert_eq!(peer.take()[0].flags, flag::SYN);
    peer
}

fn open() -> Peer {
    let mut peer = connecting();
    assert!(peer.arrive(flag::SYN | flag::ACK, 0, 1, b"").connected);
    assert_eq!(peer.connection.due_ms, 0, "an open connection that waits has no timer");
    assert!(peer.take().is_empty(), "the request carries the acknowledgment");
    peer
}

/// The user has closed it, and its FIN is out.
fn closing() -> Peer {
    let mut peer = open();
    assert!(!peer.with(|connection, line| connection.close(NOW, line)));
    assert_eq!(peer.only(), (flag::FIN | flag::ACK, 1, 1));
    peer
}

/// The server has closed its half.
fn half_closed() -> Peer {
    let mut peer = open();
    assert_eq!(peer.arrive(flag::FIN | flag::ACK, 1, 1, b"").ended, Some(Ended::Finished));
    assert_eq!(peer.only(), (flag::ACK, 1, 2));
    peer
}

#[test]
fn a_request_goes_in_segments_of_the_servers_size_and_window() {
    let mut peer = open();
    peer.with(|connection, line| connection.send(NOW, &[b'r'; 1_050], line));
    let sent = peer.take();
    assert_eq!(sent.iter().map(|sent| sent.data.len()).collect::<Vec<_>>(), [100; 10]);
    assert_eq!(sent[9].sequence.wrapping_sub(OURS), 901);
    // The window opens with the acknowledgment.
    peer.arrive(flag::ACK, 1, 501, b"");
    let sent = peer.take();
    assert_eq!((sent.len(), sent[0].data.len(), sent[0].sequence.wrapping_sub(OURS)), (1, 50, 1_001));
    peer.arrive(flag::ACK, 1, 1_051, b"");
    assert_eq!(peer.connection.due_ms, 0);
    assert!(peer.connection.held.is_none(), "nothing is kept of what has arrived");
}

#[test]
fn what_is_not_acknowledged_is_sent_again_and_then_given_up() {
    let mut peer = connecting();
    for _ in 0..REPETITIONS {
        assert_eq!(peer.fire(), None);
        assert_eq!(peer.only(), (flag::SYN, 0, 0u32.wrapping_sub(THEIRS)));
    }
    assert_eq!(peer.fire(), Some(Ended::TimedOut));
    assert!(peer.take().is_empty() && peer.connection.is_over());

    let mut peer = open();
    peer.with(|connection, line| connection.send(NOW, b"request", line));
    let first = peer.take();
    for _ in 0..REPETITIONS {
        assert_eq!(peer.fire(), None);
        assert_eq!(peer.take(), first);
    }
    assert_eq!(peer.connection.level, REPETITIONS, "each wait is twice as long");
    assert_eq!(peer.fire(), Some(Ended::TimedOut));
    assert_eq!(peer.take()[0].flags & flag::RST, flag::RST);
}

#[test]
fn a_closed_window_is_asked_with_one_byte_for_as_long_as_it_is_answered() {
    let mut peer = open();
    peer.arrive_with(flag::ACK, 1, 1, b"", 0);
    peer.with(|connection, line| connection.send(NOW, b"request", line));
    assert!(peer.take().is_empty());
    for _ in 0..30 {
        assert_eq!(peer.fire(), None);
        assert_eq!(peer.take()[0].data, b"r");
        peer.arrive_with(flag::ACK, 1, 1, b"", 0);
    }
    peer.arrive_with(flag::ACK, 1, 2, b"", 500);
    assert_eq!(peer.take()[0].data, b"equest");
}

#[test]
fn two_segments_want_one_acknowledgment() {
    let mut peer = open();
    peer.with(|connection, line| connection.send(NOW, b"r", line));
    peer.take();
    assert_eq!(peer.arrive(flag::ACK, 1, 2, b"one").acknowledge, Acknowledge::Soon);
    assert_eq!(peer.arrive(flag::ACK, 4, 2, b"two").acknowledge, Acknowledge::Now);
    assert!(peer.take().is_empty());
    peer.with(|connection, line| connection.send_acknowledgment(line));
    assert_eq!(peer.only(), (flag::ACK, 2, 7));
    assert_eq!(peer.connection.acknowledge, Acknowledge::Nothing);
}

#[test]
fn bytes_are_taken_once_whatever_comes_twice() {
    let mut peer = open();
    assert_eq!(peer.arrive(flag::ACK, 1, 1, b"abcdef").data, b"abcdef");
    // All of it again: the number space has wrapped by now.
    let again = peer.arrive(flag::ACK, 1, 1, b"abcdef");
    assert_eq!((again.data, again.oddity), (&b""[..], Some(Oddity::Duplicate)));
    assert_eq!(peer.only(), (flag::ACK, 1, 7));
    // A part again, and more behind it.
    assert_eq!(peer.arrive(flag::ACK, 4, 1, b"defghi").data, b"ghi");
    // A question whether it is still there, by a byte that is known.
    assert_eq!(peer.arrive(flag::ACK, 9, 1, b"").oddity, Some(Oddity::Duplicate));
    assert_eq!(peer.only(), (flag::ACK, 1, 10));
}

#[test]
fn what_is_out_of_order_is_dropped_and_answered_each_time() {
    let mut peer = open();
    for _ in 0..3 {
        let arrival = peer.arrive(flag::ACK, 4, 1, b"def");
        assert_eq!((arrival.data, arrival.oddity), (&b""[..], Some(Oddity::OutOfOrder)));
        // Three of these make the server send again what is missing.
        assert_eq!(peer.only(), (flag::ACK, 1, 1));
    }
    assert_eq!(peer.arrive(flag::ACK, 1, 1, b"abc").data, b"abc");
}

#[test]
fn a_forged_acknowledgment_changes_nothing() {
    let mut peer = open();
    assert_eq!(peer.arrive(flag::ACK, 1, 2, b"abc").data, b"", "of a byte that was not sent");
    assert_eq!(peer.only(), (flag::ACK, 1, 1));
    // An old one, with data that is new.
    peer.with(|connection, line| connection.send(NOW, b"request", line));
    peer.take();
    peer.arrive(flag::ACK, 1, 8, b"");
    assert_eq!(peer.arrive(flag::ACK, 1, 3, b"abc").data, b"abc");
    assert!(peer.arrive(0, 4, 8, b"def").data.is_empty(), "a segment without ACK is none");
}

#[test]
fn a_reset_is_believed_by_its_exact_number_in_every_state() {
    let mut peer = connecting();
    peer.arrive(flag::RST, 0, 1, b"");
    peer.arrive(flag::RST | flag::ACK, 0, 0, b"");
    assert_eq!(peer.connection.state, State::Connecting, "it is not for our SYN");
    assert_eq!(peer.arrive(flag::RST | flag::ACK, 0, 1, b"").ended, Some(Ended::Refused));
    assert!(peer.connection.is_over() && peer.take().is_empty());

    for (mut peer, next) in [(open(), 1), (closing(), 1), (half_closed(), 2)] {
        let state = peer.connection.state;
        // Within the window: the server may say it again with the right number (RFC 5961).
        peer.arrive(flag::RST, next + 10, 1, b"");
        assert_eq!(peer.only().0, flag::ACK);
        peer.arrive(flag::RST, next + 10_000, 1, b"");
        assert!(peer.take().is_empty(), "outside of the window it is not answered");
        assert_eq!(peer.connection.state, state);
        assert_eq!(peer.arrive(flag::RST, next, 1, b"").ended, Some(Ended::Reset));
        assert!(peer.connection.is_over() && peer.take().is_empty());
    }
}

#[test]
fn an_answer_to_another_syn_is_reset() {
    let mut peer = connecting();
    peer.arrive(flag::SYN | flag::ACK, 0, 5, b"");
    assert_eq!(peer.take()[0].flags, flag::RST);
    // And one that acknowledges nothing, or opens nothing, is ignored.
    peer.arrive(flag::SYN, 0, 1, b"");
    peer.arrive(flag::ACK, 0, 1, b"");
    assert_eq!(peer.connection.state, State::Connecting);
    assert!(peer.take().is_empty());
}

#[test]
fn a_syn_ack_that_comes_again_is_acknowledged_again() {
    for mut peer in [open(), closing(), half_closed()] {
        let state = peer.connection.state;
        let arrival = peer.arrive(flag::SYN | flag::ACK, 0, 1, b"");
        assert!(!arrival.connected);
        assert_eq!((peer.only().0, peer.connection.state), (flag::ACK, state));
    }
}

#[test]
fn the_server_finishes_first() {
    let mut peer = open();
    let arrival = peer.arrive(flag::FIN | flag::ACK, 1, 1, b"last");
    assert_eq!((arrival.data, arrival.ended), (&b"last"[..], Some(Ended::Finished)));
    assert_eq!(peer.only(), (flag::ACK, 1, 6));
    // Its FIN again, because the acknowledgment is lost; and data behind the end.
    peer.arrive(flag::FIN | flag::ACK, 1, 1, b"last");
    assert_eq!(peer.only(), (flag::ACK, 1, 6));
    assert_eq!(peer.arrive(flag::ACK, 6, 1, b"more").data, b"");
    peer.take();
    assert!(!peer.with(|connection, line| connection.close(NOW, line)));
    assert_eq!(peer.only(), (flag::FIN | flag::ACK, 1, 6));
    assert_eq!(peer.fire(), None);
    assert_eq!(peer.only(), (flag::FIN | flag::ACK, 1, 6), "the FIN is sent again");
    peer.arrive(flag::ACK, 6, 2, b"");
    assert!(peer.connection.is_over());
}

#[test]
fn the_user_closes_first() {
    let mut peer = closing();
    assert_eq!(peer.fire(), None);
    assert_eq!(peer.only(), (flag::FIN | flag::ACK, 1, 1));
    peer.arrive(flag::ACK, 1, 2, b"");
    assert!(!peer.connection.is_over(), "the server's end is outstanding");
    peer.arrive(flag::FIN | flag::ACK, 1, 2, b"");
    assert_eq!(peer.only(), (flag::ACK, 2, 2));
    assert!(peer.connection.is_over());

    // Both at the same time.
    let mut peer = closing();
    peer.arrive(flag::FIN | flag::ACK, 1, 1, b"");
    assert_eq!(peer.only(), (flag::ACK, 2, 2));
    peer.arrive(flag::ACK, 2, 2, b"");
    assert!(peer.connection.is_over());

    // The server says nothing more: it is not waited for without end.
    let mut peer = closing();
    peer.arrive(flag::ACK, 1, 2, b"");
    assert_eq!(peer.fire(), Some(Ended::TimedOut));
    assert_eq!(peer.take()[0].flags & flag::RST, flag::RST);
}

#[test]
fn data_for_a_user_that_has_gone_is_reset() {
    let mut peer = closing();
    assert_eq!(peer.arrive(flag::ACK, 1, 2, b"an event").data, b"");
    assert_eq!(peer.take()[0].flags & flag::RST, flag::RST);
    assert!(peer.connection.is_over());
    assert!(
        connecting().with(|connection, line| connection.close(NOW, line)),
        "nothing to say to the server"
    );
}

#[test]
fn the_fin_follows_the_request() {
    let mut peer = open();
    peer.with(|connection, line| connection.send(NOW, &[b'r'; 1_100], line));
    peer.with(|connection, line| connection.close(NOW, line));
    assert!(peer.take().iter().all(|sent| sent.flags & flag::FIN == 0), "100 bytes wait for the window");
    peer.arrive(flag::ACK, 1, 1_001, b"");
    let sent = peer.take();
    assert_eq!((sent[0].data.len(), sent[1].flags & flag::FIN), (100, flag::FIN));
}

#[test]
fn the_window_of_a_user_that_stalls_closes_and_opens_again() {
    let mut peer = open();
    peer.arrive(flag::ACK, 1, 1, &[b'a'; 1_000]);
    peer.with(|connection, _| connection.stall());
    // What was announced before is still taken: 5,000 bytes from here.
    assert_eq!(peer.arrive(flag::ACK, 1_001, 1, &[b'b'; 3_000]).data, b"");
    peer.with(|connection, line| connection.send_acknowledgment(line));
    assert_eq!(peer.take()[0].window, 2_000);
    // Only what fits, and not the FIN behind it.
    let arrival = peer.arrive(flag::FIN | flag::ACK, 4_001, 1, &[b'c'; 3_000]);
    assert_eq!(arrival.ended, None);
    let sent = peer.take();
    assert_eq!((sent[0].window, sent[0].acknowledgment.wrapping_sub(THEIRS)), (0, 6_001));
    // A question into the closed window is answered and takes nothing.
    peer.arrive(flag::ACK, 6_001, 1, b"c");
    assert_eq!(peer.only(), (flag::ACK, 1, 6_001));
    let (kept, ended) = peer.with(|connection, line| connection.resume(line));
    assert_eq!((kept.len(), ended), (5_000, None));
    assert_eq!(peer.take()[0].window, 5_000, "the server is told at once");
    assert!(peer.connection.held.is_none());
    let arrival = peer.arrive(flag::FIN | flag::ACK, 6_001, 1, &[b'c'; 1_000]);
    assert_eq!((arrival.data.len(), arrival.ended), (1_000, Some(Ended::Finished)));
}

#[test]
fn the_end_of_a_stream_that_stalls_is_told_when_it_is_read() {
    let mut peer = open();
    peer.with(|connection, _| connection.stall());
    // The whole window, and the FIN behind it: the window is then closed, and not as large as can be.
    assert_eq!(peer.arrive(flag::FIN | flag::ACK, 1, 1, &[b'a'; 5_000]), Arrival::default());
    assert_eq!(peer.take()[0].window, 0);
    let (kept, ended) = peer.with(|connection, line| connection.resume(line));
    assert_eq!((kept.len(), ended), (5_000, Some(Ended::Finished)));

    // A user that closes without having read it all resets the connection.
    let mut peer = open();
    peer.with(|connection, _| connection.stall());
    peer.arrive(flag::ACK, 1, 1, b"unread");
    peer.take();
    assert!(peer.with(|connection, line| connection.close(NOW, line)));
    assert_eq!(peer.take()[0].flags & flag::RST, flag::RST);
}

/// Any segments in any state: nothing panics, and what was taken stays a prefix of the server's stream.
#[test]
fn random_segments_never_panic() {
    let mut state = 7u64;
    let mut next = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let stream: Vec<u8> = (0..4_000u32).map(|at| (at * 7 % 251) as u8).collect();
    for _ in 0..3_000 {
        let mut peer = if next(4) == 0 { connecting() } else { open() };
        let mut read = 0;
        for _ in 0..40 {
            if peer.connection.is_over() {
                break;
            }
            match next(12) {
                0 => peer.with(|connection, line| connection.send(NOW, b"more", line)),
                1 => peer.with(|connection, _| connection.stall()),
                2 => {
                    let (kept, _) = peer.with(|connection, line| connection.resume(line));
                    assert_eq!(kept, stream[read..read + kept.len()]);
                    read += kept.len();
                }
                3 if next(4) == 0 && peer.with(|connection, line| connection.close(NOW, line)) => break,
                4 if peer.connection.due_ms != 0 => _ = peer.fire(),
                _ => {
                    let at = (read as u64 + next(40)).saturating_sub(10) as usize;
                    let length = next(60) as usize;
                    let flags = if next(3) == 0 { next(64) as u8 } else { flag::ACK };
                    let acknowledgment = 1 + next(12) as u32;
                    let data = &stream[at..at + length];
                    let window = next(3) as u16 * 20;
                    // Whatever answers the SYN, its number is that of the first byte.
                    let sequence = if peer.connection.state == State::Connecting { 0 } else { 1 + at as u32 };
                    let arrival = peer.arrive_with(flags, sequence, acknowledgment, data, window);
                    assert_eq!(arrival.data, &stream[read..read + arrival.data.len()]);
                    read += arrival.data.len();
                }
            }
        }
    }
}
