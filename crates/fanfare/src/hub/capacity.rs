//! How much is taken of a bound, and the call to a publisher when there is room again.

use std::sync::atomic::Ordering;

use crate::sync::AtomicUsize;

/// A bound in events and bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// Events and bytes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

/// What is taken of a [`Bound`]: by events that a publisher has reserved room for, that wait, or that a shard
/// has in hand.
///
/// Only the sequencer reserves, under its lock, so what it reads there may since have become less, never
/// more. (A shard that registers between sequence and release gets mail without a reservation; see
/// `Releaser::release`.)
///
/// A publisher that finds no room asks to be called ([`Capacity::ask_to_be_called`]). The request is a bit of
/// the counter of events, so requests and returns of room have one order: either the publisher sees the room
/// that was given back, or the thread that gives it back sees the request.
#[derive(Default)]
pub(crate) struct Capacity {
    /// Events, and [`CALL`].
    events: AtomicUsize,
    bytes: AtomicUsize,
    /// A publisher is to be called when not more than this is taken. Relaxed, like the bytes: the counter of
    /// events publishes them.
    call_at_events: AtomicUsize,
    call_at_bytes: AtomicUsize,
}

/// The bit of the counter of events that says that a publisher is to be called.
const CALL: usize = 1 << (usize::BITS - 1);

impl Bound {
    /// Whether `more` fits beside what is taken. Anything fits where nothing is taken, so that a large event
    /// is not refused for ever.
    pub(crate) fn fits(self, taken: Amount, more: Amount) -> bool {
        let within = taken.events.saturating_add(more.events) <= self.events
            && taken.bytes.saturating_add(more.bytes) <= self.bytes;
        within || taken.events == 0
    }

    /// What may be taken at most, so that `more` fits.
    pub(crate) fn beside(self, more: Amount) -> Amount {
        Amount {
            events: self.events.saturating_sub(more.events),
            bytes: self.bytes.saturating_sub(more.bytes),
        }
    }
}

impl Amount {
    pub(crate) fn add(&mut self, other: Amount) {
        self.events += other.events;
        self.bytes += other.bytes;
    }

    #[cfg(feature = "sim")]
    pub(crate) fn subtract(&mut self, other: Amount) {
        self.events -= other.events;
        self.bytes -= other.bytes;
    }

    pub(crate) fn half(self) -> Amount {
        Amount { events: self.events / 2, bytes: self.bytes / 2 }
    }
}

impl Capacity {
    pub(crate) fn taken(&self) -> Amount {
        let events = self.events.load(Ordering::Acquire) & !CALL;
        Amount { events, bytes: self.bytes.load(Ordering::Relaxed) }
    }

    pub(crate) fn take(&self, amount: Amount) {
        self.bytes.fetch_add(amount.bytes, Ordering::Relaxed);
        self.events.fetch_add(amount.events, Ordering::Relaxed);
    }

    /// Gives room back. True where a publisher is to be called now.
    #[must_use]
    pub(crate) fn give_back(&self, amount: Amount) -> bool {
        // First the bytes: the counter of events publishes both.
        self.bytes.fetch_sub(amount.bytes, Ordering::Relaxed);
        let before = self.events.fetch_sub(amount.events, Ordering::AcqRel);
        debug_assert!(before & !CALL >= amount.events, "more is given back than was taken");
        before & CALL != 0 && self.is_call_due((before & !CALL) - amount.events)
    }

    #[cold]
    fn is_call_due(&self, events: usize) -> bool {
        // This is read behind the change of the counter of events, so that all bytes given back before it are
        // seen.
        let bytes = self.bytes.load(Ordering::Relaxed);
        let enough = events <= self.call_at_events.load(Ordering::Relaxed)
            && bytes <= self.call_at_bytes.load(Ordering::Relaxed);
        let due = enough || events == 0;
        if due {
            self.events.fetch_and(!CALL, Ordering::AcqRel);
        }
        due
    }

    /// Asks for a call when not more than `at` is taken, or nothing is. Answers what is taken now: there may
    /// be room already.
    pub(crate) fn ask_to_be_called(&self, at: Amount) -> Amount {
        self.call_at_events.store(at.events, Ordering::Relaxed);
        self.call_at_bytes.store(at.bytes, Ordering::Relaxed);
        let events = self.events.fetch_or(CALL, Ordering::AcqRel) & !CALL;
        Amount { events, bytes: self.bytes.load(Ordering::Relaxed) }
    }
}
