//! Whose frames go when the log as a whole is full.
//!
//! Topics stand in classes by the binary logarithm of their bytes. The oldest frame of a topic in the highest
//! class goes; the topics of a class go in rotation. So no topic loses a frame while another one is more than
//! twice its size: the shares are max-min fair within a factor of two, and one eviction costs the same
//! whatever the number of topics.

use super::topic::{RetainedFrames, TopicEntry};
use crate::slots::{NO_SLOT, Slots};

const CLASSES: usize = usize::BITS as usize;

/// The topics that have frames, in rings by their size class.
pub(super) struct SizeClasses {
    /// The topic of each class whose turn it is.
    first: [u32; CLASSES],
    /// Bit `n`: class `n` has topics.
    occupied: u64,
}

/// The class of a topic that is charged with this many bytes.
pub(super) fn class_of(charge: usize) -> u8 {
    charge.max(1).ilog2() as u8
}

impl SizeClasses {
    pub(super) fn new() -> SizeClasses {
        SizeClasses { first: [NO_SLOT; CLASSES], occupied: 0 }
    }

    /// The topic that loses its oldest frame next. The topics of its class lose frames in rotation: it is the
    /// last of them now.
    pub(super) fn next_largest(&mut self, topics: &Slots<TopicEntry>) -> Option<u32> {
        let class = self.occupied.checked_ilog2()? as usize;
        let slot = self.first[class];
        self.first[class] = retained(topics, slot).next;
        Some(slot)
    }

    /// Puts a topic that is in no class into one, as the last.
    pub(super) fn insert(&mut self, topics: &mut Slots<TopicEntry>, slot: u32, class: u8) {
        let next = match self.first[class as usize] {
            NO_SLOT => {
                self.first[class as usize] = slot;
                self.occupied |= 1 << class;
                slot
            }
            first => first,
        };
        let previous = if next == slot { slot } else { retained(topics, next).previous };
        retained_mut(topics, previous).next = slot;
        retained_mut(topics, next).previous = slot;
        let retained = retained_mut(topics, slot);
        (retained.class, retained.previous, retained.next) = (class, previous, next);
    }

    /// Takes a topic out of its class.
    pub(super) fn remove(&mut self, topics: &mut Slots<TopicEntry>, slot: u32) {
        let RetainedFrames { class, previous, next, .. } = *retained(topics, slot);
        if next == slot {
            self.first[class as usize] = NO_SLOT;
            self.occupied &= !(1 << class);
            return;
        }
        if self.first[class as usize] == slot {
            self.first[class as usize] = next;
        }
        retained_mut(topics, previous).next = next;
        retained_mut(topics, next).previous = previous;
    }

    /// Moves a topic to the class of its size, if that has changed.
    pub(super) fn update(&mut self, topics: &mut Slots<TopicEntry>, slot: u32) {
        let class = class_of(topics[slot].charge());
        if class != retained(topics, slot).class {
            self.remove(topics, slot);
            self.insert(topics, slot, class);
        }
    }

    /// Checks what must always hold; for tests.
    pub(super) fn check(&self, topics: &Slots<TopicEntry>) {
        let mut in_classes = 0;
        for class in 0..CLASSES {
            let first = self.first[class];
            assert_eq!(first != NO_SLOT, self.occupied & 1 << class != 0, "class {class} is occupied");
            let mut slot = first;
            while slot != NO_SLOT {
                let this = retained(topics, slot);
                assert_eq!((this.class as usize, class_of(topics[slot].charge()) as usize), (class, class));
                assert_eq!(retained(topics, this.next).previous, slot, "neighbours in the ring");
                in_classes += 1;
                slot = if this.next == first { NO_SLOT } else { this.next };
            }
        }
        let with_frames = topics.iter().filter(|(_, entry)| entry.retained.is_some()).count();
        assert_eq!(in_classes, with_frames, "each topic with frames is in one class");
    }
}

fn retained(topics: &Slots<TopicEntry>, slot: u32) -> &RetainedFrames {
    topics[slot].retained.as_deref().expect("a topic in a class has frames")
}

fn retained_mut(topics: &mut Slots<TopicEntry>, slot: u32) -> &mut RetainedFrames {
    topics[slot].retained.as_deref_mut().expect("a topic in a class has frames")
}
