//! Laggards: connections that are not at the head, because their socket is full or they still replay.

use std::collections::VecDeque;
use std::time::Duration;

use slab::Slab;

use crate::run::Remainder;

/// A connection with a cursor of its own.
#[derive(Debug)]
pub struct Laggard {
    /// The connection's slot.
    pub slot: u32,
    /// It was given everything up to here.
    pub cursor: u64,
    /// The audience's head when it fell behind, or when it came to replay: only what came after counts
    /// against its bounds.
    pub since: u64,
    /// Begun and not finished: goes out before anything else.
    pub remainder: Option<Remainder>,
    /// When its socket last took a byte.
    pub progress_at: Duration,
    /// Was at the head before, and did not come to replay.
    fell_behind: bool,
    /// Stands in line to be served.
    in_line: bool,
}

impl Laggard {
    /// Whether it was at the head before, and its socket has taken nothing since `time`.
    pub fn at_standstill_since(&self, time: Duration) -> bool {
        self.fell_behind && self.progress_at <= time
    }

    /// The window must reach back to here. What it has begun it holds by itself, so that a frame which the window had to
    /// drop can still be finished.
    pub fn needs_after(&self) -> u64 {
        let begun = self.remainder.as_ref().and_then(Remainder::seq);
        begun.unwrap_or(self.cursor).max(self.since)
    }

    /// Whether it waits for its turn rather than for its socket.
    pub fn in_line(&self) -> bool {
        self.in_line
    }
}

/// The laggards of a shard, and the line of those that can be served.
#[derive(Default)]
pub struct Laggards {
    table: Slab<Laggard>,
    line: VecDeque<u32>,
    fallen_behind: usize,
}

impl Laggards {
    /// Adds a laggard, in line at once if it is `ready` to be served.
    pub fn insert(
        &mut self,
        slot: u32,
        cursor: u64,
        since: u64,
        remainder: Option<Remainder>,
        now: Duration,
        ready: bool,
    ) -> u32 {
        let fell_behind = cursor >= since;
        self.fallen_behind += usize::from(fell_behind);
        let laggard =
            Laggard { slot, cursor, since, remainder, progress_at: now, fell_behind, in_line: false };
        let key = self.table.insert(laggard) as u32;
        if ready {
            self.ready(key);
        }
        key
    }

    /// Puts a laggard in line: its socket has room.
    pub fn ready(&mut self, key: u32) {
        let laggard = &mut self.table[key as usize];
        if !laggard.in_line {
            laggard.in_line = true;
            self.line.push_back(key);
        }
    }

    /// The next to be served. It is out of line until [`Laggards::ready`].
    pub fn next_turn(&mut self) -> Option<u32> {
        loop {
            let key = self.line.pop_front()?;
            // A key may be of one that has left since.
            if let Some(laggard) = self.table.get_mut(key as usize)
                && laggard.in_line
            {
                laggard.in_line = false;
                return Some(key);
            }
        }
    }

    /// Whether any can be served.
    pub fn any_ready(&self) -> bool {
        !self.line.is_empty()
    }

    /// How many were at the head before, and did not come to replay.
    pub fn fallen_behind(&self) -> usize {
        self.fallen_behind
    }

    /// How many are in line.
    pub fn ready_count(&self) -> usize {
        self.line.len()
    }

    /// The laggard under this key.
    pub fn get(&self, key: u32) -> &Laggard {
        &self.table[key as usize]
    }

    /// The laggard under this key.
    pub fn get_mut(&mut self, key: u32) -> &mut Laggard {
        &mut self.table[key as usize]
    }

    /// Ends its being one.
    pub fn remove(&mut self, key: u32) -> Laggard {
        let laggard = self.table.remove(key as usize);
        self.fallen_behind -= usize::from(laggard.fell_behind);
        if self.table.is_empty() {
            // Give back what a bad hour needed.
            self.table = Slab::new();
            self.line = VecDeque::new();
        }
        laggard
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Laggard)> {
        self.table.iter().map(|(key, laggard)| (key as u32, laggard))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}
