//! What must hold between two ticks; for tests and the simulator.

use std::collections::HashMap;

use super::{Delivery, Subscriber};
use crate::audience::AudienceId;
use crate::event::Topic;
use crate::link::LinkKey;
use crate::pattern::Pattern;
use crate::stream::Place;

impl Delivery {
    /// Goes through everything and checks what must always hold.
    ///
    /// # Panics
    /// It does not hold.
    pub fn check(&self) {
        self.store.check();
        self.laggards.check();
        self.unsent.check(&self.store);
        self.audiences.check(&self.store);
        let mut sizes: HashMap<AudienceId, (usize, usize)> = HashMap::new();
        let mut laggards = 0;
        for (slot, Subscriber { link, stream }) in &self.subscribers {
            let size = sizes.entry(stream.audience).or_default();
            match stream.place {
                Place::Member(index) => {
                    size.0 += 1;
                    let member = self.audiences.member(stream.audience, index);
                    assert_eq!(
                        (member.slot as usize, member.socket),
                        (slot, link.socket),
                        "a member's stream"
                    );
                }
                Place::Laggard(index) => {
                    size.1 += 1;
                    laggards += 1;
                    let laggard = self.laggards.get(index);
                    assert_eq!(laggard.slot as usize, slot, "a laggard's stream");
                }
            }
        }
        let empty = self.audiences.sizes().filter(|(_, members, laggards)| members + laggards == 0).count();
        assert!(empty <= self.removals.queue.len(), "audiences without a stream are to be removed");
        assert_eq!(self.audiences.len(), sizes.len() + empty, "audiences that have a stream");
        for (audience, members, laggards) in
            self.audiences.sizes().filter(|(_, members, laggards)| members + laggards > 0)
        {
            assert_eq!(sizes.get(&audience), Some(&(members, laggards)), "an audience's size");
        }
        assert_eq!(self.laggards.len(), laggards, "a laggard without a stream");
        assert!(!self.is_backlogged() || self.audiences.has_work(), "backlogged for ever");
        for link in self.unsent.links() {
            let stream = self.subscribers[link as usize].stream;
            assert!(matches!(stream.place, Place::Laggard(_)), "a sweep writes into what a link has begun");
        }
        for slot in self.stages.slots() {
            let stream = self.subscribers[slot as usize].stream;
            assert!(matches!(stream.place, Place::Laggard(_)), "a member has changes to catch up with");
        }
        let held = self.unsent.memory_bytes(&self.store);
        let may_exceed = self.upkeep.is_making_room;
        assert!(held <= self.limits.laggard_bytes || may_exceed, "links hold {held} bytes");
        assert_eq!(self.stages.bytes(), self.stages.counted_bytes(), "the bytes of changes of topics");
        let bytes = self.subscription_bytes();
        assert!(bytes <= self.limits.subscription_bytes, "subscriptions take {bytes} bytes");
        let ended: u64 = self.counts.closed.iter().sum();
        assert_eq!(self.counts.subscribed, self.subscribers.len() as u64 + ended, "every stream ends once");
    }

    /// Checks that a shard which goes to sleep has nothing to do and keeps no frame.
    ///
    /// # Panics
    /// It does not.
    pub fn check_sleep(&self) {
        assert!(!self.has_work(), "it sleeps over its work");
        assert!(self.sending.is_idle(), "an idle shard pins a run");
        assert_eq!(self.audiences.sweeps_under_way(), 0, "an idle shard pins windows");
    }

    /// The topics that this shard has registered for; for tests.
    pub fn topics_read(&self) -> impl Iterator<Item = &Topic> {
        self.audiences.topic_names()
    }

    /// The patterns that this shard has registered for; for tests.
    pub fn patterns_read(&self) -> impl Iterator<Item = &Pattern> {
        self.audiences.patterns()
    }

    /// Each laggard's socket, and whether it waits for its turn rather than for its link; for tests.
    pub fn laggard_sockets(&self) -> impl Iterator<Item = (i32, bool)> {
        let socket = |slot: u32| self.subscribers[slot as usize].link.socket;
        self.laggards.iter().map(move |(_, laggard)| (socket(laggard.slot), laggard.is_queued()))
    }

    /// The socket of the laggard on this link; for tests.
    pub fn socket_of_laggard(&self, link: LinkKey) -> Option<i32> {
        self.is_laggard(link).then(|| self.subscribers[link.slot as usize].link.socket)
    }

    /// Sockets of all streams; for tests.
    pub fn sockets(&self) -> impl Iterator<Item = i32> {
        self.subscribers.iter().map(|(_, subscriber)| subscriber.link.socket)
    }
}
