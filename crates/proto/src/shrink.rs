//! Returns memory that a busier time needed: what is allocated follows what is held.
//!
//! A queue has room for an eighth more than it holds, a list for some times as much, and a buffer
//! that is empty has a page or two. Between two moves of the same queue, a twentieth of it has come or
//! gone.

use std::collections::VecDeque;

use slab::Slab;
use smallvec::{Array, SmallVec};

/// Room that is always kept.
const KEPT: usize = 16;

/// A buffer that is filled and emptied over and over keeps this much.
const BUFFER_BYTES: usize = 8 << 10;

/// Appends to a queue, which grows by a sixteenth and not to twice its size: a queue that lives for long
/// takes about what it holds. The first entry gets room for one, because many queues never hold more.
pub(crate) fn push<T>(queue: &mut VecDeque<T>, value: T) {
    if queue.len() == queue.capacity() {
        queue.reserve_exact(if queue.is_empty() { 1 } else { queue.len() / 16 + 4 });
    }
    queue.push_back(value);
}

/// The same for a list. Where memory is counted, a list that doubles looks as if thousands of entries came at
/// once.
pub(crate) fn push_to_list<T>(list: &mut Vec<T>, value: T) {
    if list.len() == list.capacity() {
        list.reserve_exact(if list.is_empty() { 1 } else { list.len() / 16 + 4 });
    }
    list.push(value);
}

/// Frees a large buffer that is empty. One that is not empty stays as it is.
pub fn shrink_buffer<T>(buffer: &mut Vec<T>) {
    if buffer.is_empty() && buffer.capacity() * size_of::<T>() > BUFFER_BYTES {
        *buffer = Vec::new();
    }
}

/// Shrinks a queue after a removal, if it has much more room than it needs.
pub(crate) fn shrink_queue<T>(queue: &mut VecDeque<T>) {
    let length = queue.len();
    if queue.capacity() > length + length / 8 + 2 * KEPT {
        queue.shrink_to(length + length / 16 + KEPT);
    }
}

/// Shrinks a list after a removal, if it has much more room than it needs.
pub(crate) fn shrink_list<A: Array>(list: &mut SmallVec<A>) {
    if list.spilled() && (list.is_empty() || list.capacity() > 4 * list.len().max(KEPT)) {
        list.grow(2 * list.len());
    }
}

/// Shrinks a slab that has much more room than it needs. Only the room behind its last entry can go, because
/// keys are indexes. Call it now and then: it checks each free index at the end.
pub fn shrink_slab<T>(slab: &mut Slab<T>) {
    if slab.capacity() > 4 * slab.len().max(KEPT) {
        slab.shrink_to_fit();
    }
}

/// Frees a slab after a removal if it is empty. Entries cannot move, so otherwise it stays as it is.
pub(crate) fn drop_if_empty<T>(slab: &mut Slab<T>) {
    if slab.is_empty() && slab.capacity() > 4 * KEPT {
        *slab = Slab::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, the queues of a log that is bounded by bytes stayed large after a burst of small frames.
    #[test]
    fn queues_shrink_in_few_moves() {
        let mut queue = VecDeque::new();
        for number in 0..100_000_u32 {
            push(&mut queue, number);
        }
        let (mut moves, mut last) = (0, 0);
        for _ in 0..99_990 {
            queue.pop_front();
            shrink_queue(&mut queue);
            assert!(
                queue.capacity() <= queue.len() + queue.len() / 8 + 2 * KEPT,
                "{} for {}",
                queue.capacity(),
                queue.len()
            );
            moves += u32::from(std::mem::replace(&mut last, queue.capacity()) != queue.capacity());
        }
        assert!(moves < 180, "moved {moves} times");
        assert_eq!(queue.len(), 10);
    }

    #[test]
    fn a_queue_whose_length_swings_is_not_moved_each_time() {
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

    /// Once, the room of a crowd that had left stayed for as long as one entry from before the crowd did.
    #[test]
    fn the_room_of_a_crowd_goes_with_it() {
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

    /// An entry's key is its index, so the last entry holds the slab's room.
    #[test]
    fn the_last_entry_keeps_its_place() {
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
