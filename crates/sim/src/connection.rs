//! One connection, seen from both ends, and what all connections of a shard have begun together.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fanfare::{CloseReason, ConnectionId, Pattern, Topic};
use fanfare_io::{Socket, Token};

use crate::client::Item;
use crate::clients::AcceptedClient;
use crate::desk::Undecided;
use crate::orders::ToldToEnd;
use crate::pieces::{Begun, PieceKind};
use crate::shared::Shared;
use crate::verifier::Verifier;

/// One connection, seen from both ends.
pub(crate) struct Connection {
    /// The number of its client.
    pub(crate) client: usize,
    pub(crate) socket: Socket,
    pub(crate) verifier: Verifier,
    /// What the client has sent and the shard has not received.
    pub(crate) inbound: VecDeque<u8>,
    /// Bytes of the request head that are still to be sent.
    pub(crate) head_left: usize,
    /// Bytes that the shard has sent, and bytes that the client has read.
    pub(crate) sent: u64,
    pub(crate) read: u64,
    /// Bytes that it takes before it is full.
    pub(crate) capacity: usize,
    /// A send was short: a notification is owed.
    pub(crate) blocked: bool,
    pub(crate) ever_blocked: bool,
    /// The last send to it was short.
    pub(crate) is_short: bool,
    /// Since when the shard has it among its laggards.
    pub(crate) lags_since: Option<Duration>,
    /// When it was last full, and when it last took a byte.
    pub(crate) blocked_at: Duration,
    pub(crate) sent_at: Duration,
    /// When the sweep began in which it last took one: that is what the shard notes.
    pub(crate) sweep_began: Duration,
    /// The client has ended its side.
    pub(crate) ended: bool,
    /// The client is gone.
    pub(crate) reset: bool,
    pub(crate) token: Option<Token>,
    pub(crate) watch_refused: bool,
    /// The shard has ended its side.
    pub(crate) finished: bool,
    /// The shard has closed it.
    pub(crate) closed: bool,
    pub(crate) closed_at: Duration,
    /// When it was closed, the shard could not know that it had room, and had begun a piece.
    pub(crate) was_unheard: bool,
    pub(crate) was_begun: bool,
    /// When it was answered, the shard may have had as many streams as it may hold.
    pub(crate) came_when_full: Option<bool>,
    /// The same for what others than the operator may have, and for its subject.
    pub(crate) came_in_reserve: bool,
    pub(crate) had_subject_enough: Option<bool>,
    pub(crate) accepted: AcceptedClient,
    pub(crate) is_touched: bool,
    /// Its name, once its socket is watched as that of a stream.
    pub(crate) id: Option<ConnectionId>,
    /// The client had left before its opening: no stream has begun.
    pub(crate) is_abandoned: bool,
    /// It waits for the decision about it, or did so.
    pub(crate) undecided: Option<Undecided>,
    /// It was decided about at once, and refused because it could not wait for its turn, or not any longer.
    pub(crate) waited_in_vain: bool,
    pub(crate) told: ToldToEnd,
    /// When its topics were last changed.
    pub(crate) changed_at: Option<Duration>,
    pub(crate) life: Life,
}

/// What was told of the life of a connection, and what is to be.
#[derive(Default)]
pub(crate) struct Life {
    pub(crate) connected: bool,
    /// How often its topics were told.
    pub(crate) subscribed: usize,
    pub(crate) closed: bool,
    /// Its topics at the beginning, and after each change.
    pub(crate) topics: Vec<(Vec<Topic>, Vec<Pattern>)>,
    /// Why it may have ended.
    pub(crate) reasons: Vec<CloseReason>,
}

impl Connection {
    pub(crate) fn new(client: usize, verifier: Verifier, capacity: usize, now: Duration) -> Connection {
        Connection {
            client,
            socket: 0,
            verifier,
            inbound: VecDeque::new(),
            head_left: 0,
            sent: 0,
            read: 0,
            capacity,
            blocked: false,
            ever_blocked: false,
            is_short: false,
            lags_since: None,
            blocked_at: now,
            sent_at: now,
            sweep_began: now,
            ended: false,
            reset: false,
            token: None,
            watch_refused: false,
            finished: false,
            closed: false,
            closed_at: Duration::ZERO,
            was_unheard: false,
            was_begun: false,
            came_when_full: None,
            came_in_reserve: false,
            had_subject_enough: None,
            accepted: AcceptedClient::default(),
            is_touched: false,
            id: None,
            is_abandoned: false,
            undecided: None,
            waited_in_vain: false,
            told: ToldToEnd::default(),
            changed_at: None,
            life: Life::default(),
        }
    }

    /// Whether it was decided that it becomes a stream.
    pub(crate) fn is_to_be_subscribed(&self) -> bool {
        self.undecided.as_ref().is_some_and(Undecided::is_subscribed)
    }

    /// Whether the decision about it may be waited for.
    pub(crate) fn may_be_undecided(&self) -> bool {
        self.undecided.is_some() && !self.is_answered() && !self.closed
    }

    /// Whether it is a stream, or was one.
    pub(crate) fn was_stream(&self) -> bool {
        self.verifier.is_stream && !self.is_abandoned
    }

    /// Whether the shard has ever heard of it, or it was turned away in its stead.
    pub(crate) fn has_arrived(&self) -> bool {
        self.socket != 0 || self.closed
    }

    /// Whether the shard has begun to answer, or tried to.
    pub(crate) fn is_answered(&self) -> bool {
        self.verifier.beginning.is_some()
    }

    /// Whether the log may have no room for its patterns.
    pub(crate) fn lacks_patterns(&self, shared: &Shared) -> bool {
        !self.verifier.request.interest.patterns.is_empty() && shared.may_lack_patterns()
    }

    /// Whether it is one of the shard's streams.
    pub(crate) fn is_live(&self) -> bool {
        self.verifier.is_stream && !self.closed
    }

    /// Whether it was a laggard that took nothing for this long, and was closed before the shard could know
    /// of any room.
    pub(crate) fn has_stalled(&self, now: Duration, time: Duration) -> bool {
        let stands = self.is_short && self.was_unheard;
        stands && self.lags_since.is_some_and(|since| now.saturating_sub(since.max(self.sent_at)) >= time)
    }

    /// Bytes that the client has not read.
    pub(crate) fn unread(&self) -> usize {
        (self.sent - self.read) as usize
    }

    pub(crate) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.unread())
    }

    /// The client reads at most `count` bytes: what it finds in them.
    pub(crate) fn read(&mut self, count: usize) -> Vec<Item> {
        self.read += count.min(self.unread()) as u64;
        self.verifier.items_until(self.read)
    }
}

/// What the connections of a shard have begun and not finished, in bytes as the shard counts them.
#[derive(Default)]
pub(crate) struct BegunBytes {
    /// Connections that have begun the frame of an event, by its number, and its size.
    frames: BTreeMap<u64, (usize, usize)>,
    /// The most connections that had begun a frame at one time of this tick of the shard.
    most: BTreeMap<u64, usize>,
    pub(crate) bytes: usize,
    /// The most that it was in this tick of the shard, with what is about to be closed.
    pub(crate) peak: usize,
}

impl BegunBytes {
    pub(crate) fn add(&mut self, begun: Option<&Begun>, size_of: impl Fn(u64) -> usize) {
        match begun.map(|begun| begun.kind) {
            Some(PieceKind::Frame(seq)) => {
                let (count, size) = self.frames.entry(seq).or_insert_with(|| (0, size_of(seq)));
                self.bytes += if *count == 0 { *size } else { 0 };
                *count += 1;
                let most = self.most.entry(seq).or_default();
                *most = (*most).max(*count);
            }
            Some(PieceKind::Own(bytes)) => self.bytes += bytes,
            Some(PieceKind::Heartbeat) | None => {}
        }
        self.peak = self.peak.max(self.bytes);
    }

    pub(crate) fn remove(&mut self, begun: Option<&Begun>) {
        match begun.map(|begun| begun.kind) {
            Some(PieceKind::Frame(seq)) => {
                let (count, size) = self.frames.get_mut(&seq).expect("a frame that was begun");
                *count -= 1;
                if *count == 0 {
                    self.bytes -= *size;
                    self.frames.remove(&seq);
                }
            }
            Some(PieceKind::Own(bytes)) => self.bytes -= bytes,
            Some(PieceKind::Heartbeat) | None => {}
        }
    }

    /// What would be less if this were not begun.
    pub(crate) fn own_part(&self, begun: Option<&Begun>) -> usize {
        match begun.map(|begun| begun.kind) {
            Some(PieceKind::Frame(seq)) => match self.frames.get(&seq) {
                Some((1, size)) => *size,
                _ => 0,
            },
            Some(PieceKind::Own(bytes)) => bytes,
            Some(PieceKind::Heartbeat) | None => 0,
        }
    }

    /// What the shard held for one of the connections that have begun this, at the least in this tick: of a
    /// frame that several have begun, its part.
    pub(crate) fn share_at_least(&self, kind: PieceKind) -> usize {
        match kind {
            PieceKind::Frame(seq) => {
                let most = self.most.get(&seq).copied().unwrap_or(1);
                self.frames.get(&seq).map_or(0, |(_, size)| size / most)
            }
            PieceKind::Own(bytes) => bytes,
            PieceKind::Heartbeat => 0,
        }
    }

    /// The size of what this is a part of.
    pub(crate) fn size(&self, kind: PieceKind) -> usize {
        match kind {
            PieceKind::Frame(seq) => self.frames.get(&seq).map_or(0, |(_, size)| *size),
            PieceKind::Own(bytes) => bytes,
            PieceKind::Heartbeat => 0,
        }
    }

    /// A tick of the shard begins.
    pub(crate) fn begin_tick(&mut self) {
        self.most = self.frames.iter().map(|(seq, (count, _))| (*seq, *count)).collect();
        self.peak = self.bytes;
    }
}
