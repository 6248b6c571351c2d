//! What a subscriber costs: one small record in a slab, and nothing else while it is idle.

use crate::audience::AudienceId;

/// A tenth of a second since the shard began, the unit of a connection's times: 32 bits last 13 years.
pub type Tenths = u32;

/// One accepted subscriber socket.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Its socket.
    pub socket: i32,
    /// Distinguishes this connection from others that had the same slot: part of its token.
    pub generation: u32,
    /// The audience it belongs to.
    pub audience: AudienceId,
    /// Whether it is swept with the others or waits with its own cursor.
    pub place: Place,
    /// When something was last sent to it alone; sweeps are noted in the audience.
    pub sent_at: Tenths,
    /// Whether gaps are told in its stream.
    pub gap_notice: bool,
    /// When its stream ends because of its age.
    pub ends_at: Tenths,
}

/// Where a connection stands in its audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Up to date, or about to be by the running sweep: the index among the members.
    Member(u32),
    /// Its socket is full or it still replays: the key of its [`crate::laggard::Laggard`].
    Laggard(u32),
}

/// Why a connection was ended from our side, or found ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Farewell {
    /// The peer closed, half-closed or reset.
    PeerLeft,
    /// A laggard at its bound in frames or bytes.
    LaggardFull,
    /// A laggard whose socket took nothing for too long.
    LaggardStalled,
    /// Its age limit.
    Aged,
    /// The engine drains; everything was sent.
    Drained,
    /// The drain was over before everything was sent.
    Cut,
}

impl Farewell {
    /// All of them, in the order of [`Farewell::index`].
    pub const ALL: [Farewell; 6] = [
        Farewell::PeerLeft,
        Farewell::LaggardFull,
        Farewell::LaggardStalled,
        Farewell::Aged,
        Farewell::Drained,
        Farewell::Cut,
    ];

    /// Its place in an array of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The word for it in counts and logs.
    pub fn name(self) -> &'static str {
        match self {
            Farewell::PeerLeft => "peer_left",
            Farewell::LaggardFull => "laggard_full",
            Farewell::LaggardStalled => "laggard_stalled",
            Farewell::Aged => "aged",
            Farewell::Drained => "drained",
            Farewell::Cut => "cut",
        }
    }
}
