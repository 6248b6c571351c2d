//! What is known of each stream, for questions about connections.

use std::time::Duration;

use super::{Delivery, Subscriber};
use crate::audience::Subscription;
use crate::link::LinkKey;
use crate::stream::Place;

/// What is known of one stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamState<'delivery> {
    /// Its link.
    pub link: LinkKey,
    /// The socket of that.
    pub socket: i32,
    /// What it reads.
    pub subscription: &'delivery Subscription,
    /// It was given every event of its topics up to this number, or knows that it is gone.
    pub cursor: u64,
    /// Where it is a laggard: how far it is behind.
    pub behind: Option<Behind>,
    /// When something was last sent to it, to a tenth of a second.
    pub sent_at: Duration,
    /// When it ends by itself, to a few tenths of a second.
    pub ends_at: Option<Duration>,
}

/// How far a laggard is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The newest number that its audience was marked with, less its cursor. Events of other topics have
    /// numbers, too.
    pub numbers: u64,
    /// When its link last took a byte.
    pub progress_at: Duration,
    /// Bytes that were begun on its link and are not sent yet.
    pub unsent_bytes: usize,
}

impl Delivery {
    /// Every stream's slot is below this. A stream keeps its slot until it ends.
    pub fn slots_end(&self) -> usize {
        self.subscribers.capacity()
    }

    /// How many slots one tick looks at to answer a question about connections.
    pub fn states_per_tick(&self) -> usize {
        self.budgets.states
    }

    /// The link in a slot, and its socket.
    pub fn link_in(&self, slot: usize) -> Option<(LinkKey, i32)> {
        let link = self.subscribers.get(slot)?.link;
        Some((LinkKey { slot: slot as u32, generation: link.generation() }, link.socket))
    }

    /// What is known of the stream of a link that is still there.
    pub fn state_of(&self, key: LinkKey) -> Option<StreamState<'_>> {
        let stream_key = self.stream_on(key)?;
        let Subscriber { link, stream } = self.find(stream_key)?;
        let (cursor, behind) = match stream.place {
            Place::Member(index) => (self.audiences.member(stream.audience, index).cursor, None),
            Place::Laggard(index) => {
                let laggard = self.laggards.get(index);
                let unsent = self.unsent.get(key.slot).map_or(0, |unsent| unsent.bytes(&self.store).len());
                let behind = Behind {
                    numbers: self.audiences.head(stream.audience).saturating_sub(laggard.cursor),
                    progress_at: laggard.progress_at,
                    unsent_bytes: unsent,
                };
                (laggard.cursor, Some(behind))
            }
        };
        Some(StreamState {
            link: key,
            socket: link.socket,
            subscription: self.audiences.subscription(stream.audience),
            cursor,
            behind,
            sent_at: self.last_sent_at(&stream).time(),
            ends_at: stream.ends_at.time(),
        })
    }
}
