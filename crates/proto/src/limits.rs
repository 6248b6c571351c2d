//! Every bound of the engine, in one place: its name, unit, default, reason, and what happens there.
//!
//! The bounds of an event's own fields are fixed where the fields are parsed, and named here too.
//! Full is an answer (a refusal, a gap, an eviction with its reason), never growth.

use std::time::Duration;

pub use crate::event::{MAX_EVENT_ID_BYTES, MAX_EVENT_TYPE_BYTES, MAX_TOPIC_BYTES, MAX_TOPICS_PER_EVENT};
use crate::frame::HeartbeatForm;
use crate::head::HeadLimits;

/// What happens to a laggard at its bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaggardPolicy {
    /// Its connection is closed; it reconnects and resumes from its last id.
    #[default]
    Disconnect,
    /// It stays, loses what the window no longer holds, and is told so by a `fanfare.gap` event.
    Skip,
}

/// The answer to a subscriber that cannot be taken now.
///
/// Browsers reconnect only after a network error or the end of a stream: any status but 200 stops
/// an `EventSource` for good. Hence the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FullPolicy {
    /// `503` with a jittered `Retry-After`: clear to libraries and proxies, final for a browser.
    #[default]
    Unavailable,
    /// `200`, a jittered `retry`, and the end of the stream: a browser comes back by itself.
    EndStream,
    /// The connection is closed without an answer: a browser comes back by itself.
    Drop,
}

/// How long and how much the log keeps. Whatever is reached first trims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Frames kept at most. Zero keeps none: every resume is a gap.
    pub frames: usize,
    /// Bytes of frames kept at most.
    pub bytes: usize,
    /// Frames older than this are dropped.
    pub age: Duration,
}

impl Default for Retention {
    /// 100,000 frames, 64 MiB, one hour: a night's reconnects for a small hub, minutes for a busy one.
    fn default() -> Retention {
        Retention { frames: 100_000, bytes: 64 << 20, age: Duration::from_secs(3600) }
    }
}

/// The bounds of one engine. `Default` is meant for production. A time of [`Duration::MAX`] is never.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections per shard. At the bound [`Limits::when_full`] answers; nobody is evicted for a newcomer.
    pub connections: usize,
    /// The answer to a subscriber that finds no room.
    pub when_full: FullPolicy,
    /// Requests per shard whose head is not complete, whose refusal is still being read, or that resume from an event
    /// which the shard does not have yet. At the bound the head that has been incomplete for the longest time is closed
    /// without an answer; where there is none, the newcomer. Bounds slow-head attacks to this many times 16 KiB.
    pub pending: usize,
    /// A request head must be complete within this time, or it is answered 408 and closed.
    pub head_time: Duration,
    /// Bytes and fields of a request head, at most 32 KiB: 431, or 414 for its first line.
    pub head: HeadLimits,
    /// Topics of one subscription: 400.
    pub topics_per_subscription: usize,
    /// Bytes of one event's data: 413 to the publisher.
    pub event_bytes: usize,
    /// Events that wait in a shard's mailbox. At the bound a publish is answered "busy" (503): together
    /// with a sweep's speed this is the latency under saturation, so it is small.
    pub mailbox_events: usize,
    /// Bytes of frames that wait in a shard's mailbox; an empty mailbox takes any one event.
    pub mailbox_bytes: usize,
    /// Sockets and inspections that wait in a shard's mailbox: `adopt` answers "busy".
    pub mailbox_others: usize,
    /// Frames that a laggard may be behind, at least one. At the bound [`Limits::laggard_policy`] applies.
    pub laggard_frames: usize,
    /// Bytes of frames that a laggard may be behind. The newest event, and one that it has begun to receive, may be larger.
    pub laggard_bytes: usize,
    /// A laggard whose socket takes no byte for this long is closed, under either policy.
    pub laggard_time: Duration,
    /// What happens to a laggard at its bound.
    pub laggard_policy: LaggardPolicy,
    /// What the log keeps for those who resume.
    pub retention: Retention,
    /// A comment is sent where nothing else was within this time, at least 100 ms. nginx and ELB cut at 60 s,
    /// some polyfills at 45 s.
    pub heartbeat: Duration,
    /// A subscription may ask for a shorter interval between heartbeats, down to this. Below it, it gets
    /// this. Some clients give up after 5 s of silence. Every heartbeat costs about as much as a delivery.
    pub heartbeat_min: Duration,
    /// `:` and a line feed, or `:` and a blank line.
    pub heartbeat_form: HeartbeatForm,
    /// Streams end between 80 and 100 % of this age, to a tenth of a second, so that load can move; `None`: never. A slow
    /// reader's ends later, with the event that it is in the middle of.
    pub connection_age: Option<Duration>,
    /// The reconnection time told to subscribers; each gets 100 to 150 % of it, so that those who were
    /// cut together do not come back together.
    pub retry: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 1_000_000,
            when_full: FullPolicy::default(),
            pending: 16_384,
            head_time: Duration::from_secs(10),
            head: HeadLimits::default(),
            topics_per_subscription: 64,
            event_bytes: 1 << 20,
            mailbox_events: 512,
            mailbox_bytes: 4 << 20,
            mailbox_others: 4096,
            laggard_frames: 16_384,
            laggard_bytes: 8 << 20,
            laggard_time: Duration::from_secs(30),
            laggard_policy: LaggardPolicy::default(),
            retention: Retention::default(),
            heartbeat: Duration::from_secs(20),
            heartbeat_min: Duration::from_secs(1),
            heartbeat_form: HeartbeatForm::Line,
            connection_age: None,
            retry: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// The time between heartbeats of a subscription that allows at most `asked` of silence (`None`: it did
    /// not ask): at least [`Limits::heartbeat_min`], at most [`Limits::heartbeat`], which is all that a
    /// longer one needs.
    pub fn heartbeat_interval(&self, asked: Option<Duration>) -> Duration {
        asked.map_or(self.heartbeat, |asked| asked.max(self.heartbeat_min).min(self.heartbeat))
    }
}

/// Members that one slice of a sweep sends to before others get their turn. At 2 to 7 us a send this
/// is about a millisecond, which is what a small topic waits beside a broadcast.
pub const SLICE_SENDS: usize = 256;

/// Audiences of at most this many members have their turns in the first half of a slice, so that a topic
/// of ten waits for half a slice of a broadcast, and very many small topics leave it the other half.
pub const SMALL_AUDIENCE: usize = 64;

/// When most connections are laggards whose sockets still take bytes, the path out is full, not the
/// readers slow: then mail waits for at most this long at a time, and publishers learn that the mailbox is
/// full, instead of everyone being evicted at once.
pub const CONGESTION_HOLD: Duration = Duration::from_millis(250);

/// A laggard whose socket has taken nothing for this long is slow by itself, whatever the path.
pub const STANDSTILL: Duration = Duration::from_secs(1);

/// Bytes of consecutive frames that one send carries. A send of 60 KB costs about four small ones and
/// carries hundreds of events; more gains little and lengthens the slice.
pub const RUN_BYTES: usize = 60 << 10;

/// Bytes that one slice offers in all, whatever its members: a slice of full runs takes about as long
/// as one of small frames.
pub const SLICE_BYTES: usize = 8 << 20;

/// Laggards that are served between two slices.
pub const LAGGARD_TURNS: usize = 64;

/// Time between two looks at all laggards for those at their bound.
pub const LAGGARD_CHECK: Duration = Duration::from_millis(250);

/// How long a refused client may take to read its answer before the socket is closed under it.
pub const LINGER: Duration = Duration::from_secs(2);

/// Pause before `accept` is tried again when descriptors or memory are used up.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Old frames are dropped at most this late, so that a quiet shard wakes once for many of them.
pub const EXPIRY_SLACK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_as_often_as_was_asked_within_the_bounds() {
        let seconds = Duration::from_secs;
        let limits = Limits { heartbeat: seconds(20), heartbeat_min: seconds(2), ..Limits::default() };
        let cases =
            [(None, 20), (Some(1), 2), (Some(2), 2), (Some(4), 4), (Some(20), 20), (Some(u64::MAX), 20)];
        for (asked, interval) in cases {
            assert_eq!(limits.heartbeat_interval(asked.map(seconds)), seconds(interval), "{asked:?}");
        }
        // A server whose own interval is below the least one keeps its own.
        let quick = Limits { heartbeat: Duration::from_millis(200), ..limits };
        assert_eq!(quick.heartbeat_interval(Some(seconds(1))), Duration::from_millis(200));
    }
}
