//! Gives back what a busier time needed: memory follows what is held.
//!
//! A buffer has a page or two of room when nothing is in it. A queue has room for an eighth more than it holds at most,
//! a list or a map for some times as much. Between two times that one is moved, by this or by growing, a twentieth of it
//! has come or gone.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use hashbrown::HashTable;
use slab::Slab;
use smallvec::{Array, SmallVec};

/// Room that is always kept.
const KEPT: usize = 16;

/// A buffer that is filled and emptied over and over keeps this much.
const BUFFER_BYTES: usize = 8 << 10;

/// Grows by a sixteenth, not to twice the size: what a long-lived queue takes depends little on what it held before.
pub(crate) fn push<T>(queue: &mut VecDeque<T>, value: T) {
    if queue.len() == queue.capacity() {
        queue.reserve_exact(queue.len() / 16 + 4);
    }
    queue.push_back(value);
}

/// When a buffer is not needed for a while. What is in it stays.
pub fn shrink_buffer<T>(buffer: &mut Vec<T>) {
    if buffer.is_empty() && buffer.capacity() * size_of::<T>() > BUFFER_BYTES {
        *buffer = Vec::new();
    }
}

/// After a removal.
pub(crate) fn shrink_queue<T>(queue: &mut VecDeque<T>) {
    let length = queue.len();
    if queue.capacity() > length + length / 8 + 2 * KEPT {
        queue.shrink_to(length + length / 16 + KEPT);
    }
}

/// After a removal. How large its table is it does not tell, so it is asked to shrink as its length falls to a power of
/// two; where it is small enough, that is nothing to do.
pub(crate) fn shrink_map<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.len().is_power_of_two() {
        map.shrink_to(2 * map.len().max(KEPT));
    }
}

/// After a removal: the same for a table whose entries are hashed by `hash`.
pub(crate) fn shrink_table<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if table.len().is_power_of_two() {
        table.shrink_to(2 * table.len().max(KEPT), hash);
    }
}

/// After a removal.
pub(crate) fn shrink_list<A: Array>(list: &mut SmallVec<A>) {
    if list.spilled() && (list.is_empty() || list.capacity() > 4 * list.len().max(KEPT)) {
        list.grow(2 * list.len());
    }
}

/// Now and then: keys are places, so only those behind the last that is held can go. Looks at each of these.
pub fn shrink_slab<T>(slab: &mut Slab<T>) {
    if slab.capacity() > 4 * slab.len().max(KEPT) {
        slab.shrink_to_fit();
    }
}

/// After a removal: nothing can be moved, so it can only go whole.
pub(crate) fn drop_if_empty<T>(slab: &mut Slab<T>) {
    if slab.is_empty() && slab.capacity() > 4 * KEPT {
        *slab = Slab::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a burst of small frames had left a log that is bounded by bytes, its queues were as large as ever, and so
    /// were, after a crowd of topics, its maps.
    #[test]
    fn what_shrinks_is_moved_seldom() {
        let (mut queue, mut map) = (VecDeque::new(), HashMap::new());
        for number in 0..100_000_u32 {
            push(&mut queue, number);
            map.insert(number, number);
        }
        let (mut moves, mut last) = (0, 0);
        for number in 0..99_990_u32 {
            queue.pop_front();
            map.remove(&number);
            shrink_queue(&mut queue);
            shrink_map(&mut map);
            assert!(
                queue.capacity() <= queue.len() + queue.len() / 8 + 2 * KEPT,
                "{} for {}",
                queue.capacity(),
                queue.len()
            );
            assert!(map.capacity() <= 8 * map.len().max(KEPT), "{} for {}", map.capacity(), map.len());
            moves += u32::from(std::mem::replace(&mut last, queue.capacity()) != queue.capacity());
        }
        assert!(moves < 180, "moved {moves} times");
        assert_eq!((queue.len(), map.len()), (10, 10));
    }

    #[test]
    fn what_swings_is_not_moved_to_and_fro() {
        let mut queue = VecDeque::new();
        let mut swing = |length: u32| {
            (0..length).for_each(|number| push(&mut queue, number));
            for _ in 0..length {
                queue.pop_front();
                shrink_queue(&mut queue);
            }
            queue.capacity()
        };
        swing(10_000);
        let once = swing(20);
        assert_eq!(swing(20), once);
    }

    /// Of a crowd that left, its room stayed as long as one of those who had been there before.
    #[test]
    fn a_crowd_takes_its_room_along() {
        let mut slab: Slab<u32> = (0..10_000).map(|number| (number as usize, number)).collect();
        let mut list: SmallVec<[u32; 1]> = (0..10_000).collect();
        for number in 10..10_000 {
            slab.remove(number);
            list.swap_remove(9);
            shrink_list(&mut list);
            assert!(list.capacity() <= 4 * list.len().max(KEPT), "{} for {}", list.capacity(), list.len());
        }
        shrink_slab(&mut slab);
        assert_eq!((slab.capacity(), slab.len()), (10, 10));
        assert!(slab.iter().all(|(key, number)| key == *number as usize));
        assert_eq!(slab.insert(10), 10);
        list.clear();
        shrink_list(&mut list);
        assert!(!list.spilled());
    }

    /// The last one's key is its place.
    #[test]
    fn who_came_last_keeps_its_place() {
        let mut slab: Slab<u32> = (0..1_000).map(|number| (number as usize, number)).collect();
        for number in 0..999 {
            slab.remove(number);
        }
        shrink_slab(&mut slab);
        assert_eq!((slab.len(), slab[999]), (1, 999));
    }

    #[test]
    fn only_an_empty_slab_goes() {
        let mut slab: Slab<u32> = (0..1_000).map(|number| (number, 0)).collect();
        for number in 0..999 {
            slab.remove(number);
            drop_if_empty(&mut slab);
            assert_eq!(slab.len(), 999 - number);
        }
        slab.remove(999);
        drop_if_empty(&mut slab);
        assert_eq!(slab.capacity(), 0);
    }
}
