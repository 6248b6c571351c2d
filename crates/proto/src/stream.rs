//! A stream: one subscription on a link. It costs one small record, and nothing else while it is idle.

use std::time::Duration;

use crate::audience::AudienceId;
use crate::frame::Checkpoint;

/// Tenths of a second since the shard began, the unit of a stream's times: 32 bits last 13 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deciseconds(u32);

impl Deciseconds {
    /// Never.
    pub const MAX: Deciseconds = Deciseconds(u32::MAX);

    /// Saturates: a time out of range means never.
    pub fn of(time: Duration) -> Deciseconds {
        u32::try_from(time.as_millis() / 100).map_or(Deciseconds::MAX, Deciseconds)
    }

    /// As a time since the shard began.
    pub fn time(self) -> Duration {
        Duration::from_millis(u64::from(self.0) * 100)
    }

    /// Saturates, as [`Deciseconds::of`].
    pub fn plus(self, interval: Deciseconds16) -> Deciseconds {
        Deciseconds(self.0.saturating_add(u32::from(interval.0.get())))
    }
}

/// When a stream ends by itself, to two tenths of a second, and why: the lowest bit says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndTime(u32);

impl EndTime {
    /// It does not end by itself.
    pub const NEVER: EndTime = EndTime(u32::MAX - 1);

    /// Because of its age. Rounds down; a time out of range is never.
    pub fn by_age(time: Duration) -> EndTime {
        EndTime(Deciseconds::of(time).0 & !1)
    }

    /// Because of the lifetime that it was given. Rounds down; a time out of range is never.
    pub fn by_expiry(time: Duration) -> EndTime {
        let time = Deciseconds::of(time).0 & !1;
        if time == EndTime::NEVER.0 { EndTime::NEVER } else { EndTime(time | 1) }
    }

    /// As a time since the shard began; `None`: never.
    pub fn time(self) -> Option<Duration> {
        (self != EndTime::NEVER).then(|| Deciseconds(self.0 & !1).time())
    }

    /// Why the stream ends, if its time is over.
    pub fn over(self, now: Duration) -> Option<CloseReason> {
        let is_over = self != EndTime::NEVER && self.0 & !1 <= Deciseconds::of(now).0;
        let reason = if self.0 & 1 == 0 { CloseReason::Aged } else { CloseReason::Expired };
        is_over.then_some(reason)
    }
}

/// What a stream is to its audience, and when something was or will be due.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// The audience that it belongs to.
    pub audience: AudienceId,
    /// Whether it is swept with the other members or waits with a cursor of its own.
    pub place: Place,
    /// When something was last sent to it alone; sweeps are noted in the audience.
    pub sent_at: Deciseconds,
    /// When it ends by itself.
    pub ends_at: EndTime,
    /// What it asked for.
    pub options: StreamOptions,
}

/// What a subscriber asked for and that does not depend on its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Gaps are reported in the stream.
    pub gap_events: bool,
    /// How heartbeats carry the stream's cursor, so that the id of a quiet topic does not grow old.
    pub checkpoint: Checkpoint,
    /// The longest silence before a heartbeat; `None`: the engine's interval.
    pub heartbeat: Option<Deciseconds16>,
}

impl Default for StreamOptions {
    fn default() -> StreamOptions {
        StreamOptions { gap_events: true, checkpoint: Checkpoint::Off, heartbeat: None }
    }
}

/// Tenths of a second, at least one: a subscription's own heartbeat interval, up to 109 minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deciseconds16(std::num::NonZeroU16);

impl Deciseconds16 {
    /// Rounds down to tenths; at least one tenth, at most 109 minutes.
    pub fn of(time: Duration) -> Deciseconds16 {
        let tenths = u16::try_from(time.as_millis() / 100).unwrap_or(u16::MAX);
        Deciseconds16(std::num::NonZeroU16::new(tenths).unwrap_or(std::num::NonZeroU16::MIN))
    }

    /// As a time.
    pub fn time(self) -> Duration {
        Duration::from_millis(u64::from(self.0.get()) * 100)
    }
}

/// Where a stream stands in its audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has everything, or is about to get it by the running sweep: the index among the members.
    Member(u32),
    /// Its link is full or it still replays: the index of its [`crate::laggard::Laggard`].
    Laggard(u32),
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client has closed the connection, or its own half of it, or the connection broke.
    PeerLeft,
    /// It was too slow: the log no longer had what it needed, or the memory for slow subscribers was used up.
    LaggardFull,
    /// It was too slow: its socket took nothing for too long.
    LaggardStalled,
    /// It has reached the age at which connections end.
    Aged,
    /// The end of the lifetime that it was given.
    Expired,
    /// The program asked for its end.
    Disconnected,
    /// The program asked for the end of a share of all streams, and this one was chosen.
    Shed,
    /// The engine stops, and everything was sent.
    Drained,
    /// The engine stops, and its time was over before everything was sent.
    Cut,
}

impl CloseReason {
    /// All of them, in the order of [`CloseReason::index`].
    pub const ALL: &'static [CloseReason] = &[
        CloseReason::PeerLeft,
        CloseReason::LaggardFull,
        CloseReason::LaggardStalled,
        CloseReason::Aged,
        CloseReason::Expired,
        CloseReason::Disconnected,
        CloseReason::Shed,
        CloseReason::Drained,
        CloseReason::Cut,
    ];

    /// Its index in an array of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The word for it in counts and logs.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::PeerLeft => "peer_left",
            CloseReason::LaggardFull => "laggard_full",
            CloseReason::LaggardStalled => "laggard_stalled",
            CloseReason::Aged => "aged",
            CloseReason::Expired => "expired",
            CloseReason::Disconnected => "disconnected",
            CloseReason::Shed => "shed",
            CloseReason::Drained => "drained",
            CloseReason::Cut => "cut",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An age of 14 years came round to one of weeks.
    #[test]
    fn a_time_beyond_the_counter_is_never() {
        assert_eq!(Deciseconds::of(Duration::from_millis(12_399)), Deciseconds(123));
        assert_eq!(Deciseconds::of(Duration::from_secs(14 * 365 * 24 * 3600)), Deciseconds::MAX);
        assert_eq!(Deciseconds::of(Duration::MAX), Deciseconds::MAX);
        assert_eq!(EndTime::by_age(Duration::MAX), EndTime::NEVER);
        assert_eq!(EndTime::by_expiry(Duration::MAX), EndTime::NEVER);
        assert_eq!(EndTime::NEVER.over(Duration::MAX), None);
        assert_eq!(Deciseconds16::of(Duration::MAX).time(), Duration::from_millis(6_553_500));
        assert_eq!(Deciseconds16::of(Duration::ZERO).time(), Duration::from_millis(100));
    }

    #[test]
    fn an_end_time_knows_its_reason() {
        let at = Duration::from_millis(12_345);
        for (end, reason) in
            [(EndTime::by_age(at), CloseReason::Aged), (EndTime::by_expiry(at), CloseReason::Expired)]
        {
            assert_eq!(end.over(Duration::from_millis(12_199)), None);
            assert_eq!(end.over(Duration::from_millis(12_200)), Some(reason));
        }
        let times = [EndTime::by_age(at), EndTime::by_expiry(at), EndTime::NEVER].map(EndTime::time);
        assert_eq!(times, [Some(Duration::from_millis(12_200)), Some(Duration::from_millis(12_200)), None]);
        assert!(EndTime::by_age(at) < EndTime::by_expiry(at + Duration::from_millis(200)));
    }
}
