//! Questions about the connections of a shard: what was there all the time is in the answer, once.

use std::collections::BTreeSet;
use std::sync::mpsc::TryRecvError;

use fanfare::{ConnectionFilter, ConnectionId, sim};

use crate::connection::Connection;
use crate::tally::Occurrence;
use crate::world::World;

/// A question that is to be answered.
pub(crate) struct Listing {
    shard: usize,
    filter: ConnectionFilter,
    /// The connections that it is about and that were there when it was asked.
    there: BTreeSet<ConnectionId>,
    answer: sim::AskedForConnections,
    /// Ticks of the shard at that time.
    ticks: u64,
}

fn is_about(filter: &ConnectionFilter, it: &Connection) -> bool {
    match filter {
        ConnectionFilter::Subject(subject) => it.verifier.request.wishes.subject.as_ref() == Some(subject),
        _ => true,
    }
}

impl World {
    /// Asks a shard for its connections, unless it takes no question now.
    pub(crate) fn list(&mut self, shard: usize, filter: ConnectionFilter) {
        let Some(answer) = sim::list(&self.shared.hub(), shard, &filter, usize::MAX) else { return };
        let there = self.live(shard, &filter);
        let ticks = self.shards[shard].ticks;
        self.listing = Some(Listing { shard, filter, there, answer, ticks });
    }

    fn live(&self, shard: usize, filter: &ConnectionFilter) -> BTreeSet<ConnectionId> {
        let net = self.shards[shard].net.borrow();
        let live = net.connections.iter().filter(|it| it.is_live() && is_about(filter, it));
        live.filter_map(|it| it.id).collect()
    }

    /// Checks the answer, if it has come.
    pub(crate) fn take_listing(&mut self) {
        let Some(Listing { shard, filter, there, answer, ticks }) = self.listing.take() else { return };
        let found = match answer.try_recv() {
            Ok(found) => found,
            Err(TryRecvError::Empty) => {
                self.listing = Some(Listing { shard, filter, there, answer, ticks });
                return;
            }
            // The shard has ended.
            Err(TryRecvError::Disconnected) => return,
        };
        assert_eq!(found.next, None, "the table is small");
        let names: BTreeSet<ConnectionId> = found.connections.iter().map(|state| state.id).collect();
        assert_eq!(names.len(), found.connections.len(), "a connection is there twice");
        let stayed: BTreeSet<ConnectionId> =
            self.live(shard, &filter).intersection(&there).copied().collect();
        assert!(stayed.is_subset(&names), "{filter:?} of shard {shard}: {names:?} without {stayed:?}");
        let net = self.shards[shard].net.borrow();
        for state in &found.connections {
            let it = net.ids.get(&state.id).map(|index| net.connection(*index));
            let it = it.expect("a connection of this shard");
            assert!(is_about(&filter, it), "{filter:?} finds {state:?}");
            assert_eq!(state.peer.map(|peer| peer.port()), Some(it.client as u16), "its address");
            assert!(state.selectors >= state.topics.len() + state.patterns.len());
            assert!(state.lag.is_none_or(|lag| lag.standing <= self.shared.now.get()));
        }
        if self.shards[shard].ticks > ticks + 2 {
            self.shared.happened(Occurrence::LongListing);
        }
    }
}
