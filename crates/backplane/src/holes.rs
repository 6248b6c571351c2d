//! Numbers without a message in the middle of the stream.
//!
//! A message may be deleted alone, and a change of the leader may leave numbers out. A hole of this kind
//! looks like the end of what the stream has dropped from its beginning, so a reader that finds one asks
//! where the stream begins. The answer holds for good: numbers are never given again, and where the stream
//! still began before the hole after the leader had no message there, the stream had not dropped what is not
//! there. So each hole is asked about once. An answer from before the read would not do: the stream may have
//! dropped events since.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::sync::lock;

/// Holes that are remembered.
const MOST_HOLES: usize = 1 << 14;

/// Behind the first number, and before the second one, there is no message.
pub(crate) type Hole = (u64, u64);

/// Holes that were never part of what the stream has dropped.
#[derive(Default)]
pub(crate) struct Holes {
    known: Mutex<HashSet<Hole>>,
}

impl Holes {
    pub(crate) fn knows_all(&self, holes: &[Hole]) -> bool {
        let known = lock(&self.known);
        holes.iter().all(|hole| known.contains(hole))
    }

    /// After these holes were read, everything up to the number `gone` was dropped.
    pub(crate) fn note(&self, holes: &[Hole], gone: u64) {
        let mut known = lock(&self.known);
        for hole in holes.iter().filter(|(after, _)| gone <= *after) {
            if known.len() == MOST_HOLES {
                known.clear();
            }
            known.insert(*hole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_known_where_the_stream_begins_before_it() {
        let holes = Holes::default();
        assert!(holes.knows_all(&[]));
        assert!(!holes.knows_all(&[(4, 6)]));
        holes.note(&[(2, 4), (4, 6), (9, 20)], 4);
        assert!(holes.knows_all(&[(4, 6), (9, 20)]));
        assert!(!holes.knows_all(&[(2, 4)]));
        assert!(!holes.knows_all(&[(4, 7)]));
        assert!(!holes.knows_all(&[(9, 20), (21, 23)]));
        let many: Vec<Hole> =
            (100..).step_by(2).take(MOST_HOLES).map(|number| (number, number + 2)).collect();
        holes.note(&many, 0);
        assert!(holes.known.lock().unwrap().len() <= MOST_HOLES);
        assert!(holes.knows_all(&many[many.len() - 2..]));
    }
}
