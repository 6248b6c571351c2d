//! What clients have of the engine, over all shards: connections by address, streams by subject, and how
//! often an address connects.
//!
//! Each table is many small ones with a lock each. A shard takes a lock for a look-up when a connection
//! comes, and when it leaves; a delivery takes none. The locks are taken alone.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use fanfare_io::Socket;
use fanfare_proto::client_limits::{ClientLimits, address_of_key};
use fanfare_proto::key_counts::{Key, KeyCounts};
use fanfare_proto::limits::COUNTED_SOCKET_BYTES;
use fanfare_proto::rates::RateKeys;

use crate::chunk_table::ChunkTable;
use crate::rate_limiter::RateLimiter;

/// Tables with a lock each.
const TABLES: usize = 32;

/// The tables.
pub(crate) struct ClientTable {
    addresses: CountTables,
    subjects: CountTables,
    connects: RateLimiter,
    keys: RateKeys,
}

/// Counts by key.
pub(crate) struct CountTables(Box<[CachePadded<Mutex<KeyCounts>>]>);

/// Where a connection is counted: it is given back when that has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountedAt(NonZeroU32);

/// Where a connection was counted, until it left.
pub(crate) struct Left {
    table: usize,
    key: Key,
}

/// A bound of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientBound {
    /// [`ClientLimits::connections_per_address`].
    Connections,
    /// [`ClientLimits::connects_per_second`].
    ConnectRate {
        /// So many whole seconds pass before the address may connect again, and less than one more.
        wait_s: u32,
    },
    /// [`ClientLimits::streams_per_subject`].
    Subject,
}

impl CountedAt {
    /// There are not so many descriptors that a slot could be larger.
    fn new(table: usize, slot: u32) -> CountedAt {
        CountedAt(NonZeroU32::MIN.saturating_add(slot * TABLES as u32 + table as u32))
    }

    fn parts(self) -> (usize, u32) {
        let number = self.0.get() - 1;
        (number as usize % TABLES, number / TABLES as u32)
    }
}

impl ClientTable {
    /// `seed` makes hashes unpredictable.
    pub(crate) fn new(seed: u64) -> ClientTable {
        ClientTable {
            addresses: CountTables::new(seed),
            subjects: CountTables::new(seed.rotate_left(7)),
            connects: RateLimiter::with_seed(seed),
            keys: RateKeys::new(seed),
        }
    }

    /// Counts a connection of an address. `None`: connections have no bound.
    pub(crate) fn enter(
        &self,
        address: IpAddr,
        limits: &ClientLimits,
    ) -> Result<Option<CountedAt>, ClientBound> {
        let Some(most) = limits.connections_per_address else { return Ok(None) };
        let key = limits.address_key(address);
        self.addresses.enter(self.keys.of(key), key, most).map(Some).ok_or(ClientBound::Connections)
    }

    /// Whether an address may connect once more now.
    pub(crate) fn connect(
        &self,
        address: IpAddr,
        limits: &ClientLimits,
        now: Duration,
    ) -> Result<(), ClientBound> {
        let Some(rate) = limits.connect_rate() else { return Ok(()) };
        let client = self.connects.key_of_address(address, limits.ipv6_prefix_bits);
        self.connects.take(client, 1, rate, now).map_err(|wait| {
            let wait_s = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
            ClientBound::ConnectRate { wait_s }
        })
    }

    /// The address that a connection is counted for; of a network of IPv6, the first one.
    pub(crate) fn address(&self, counted: CountedAt) -> Option<IpAddr> {
        self.addresses.key(counted).map(address_of_key)
    }

    /// A connection that [`ClientTable::enter`] has counted has left.
    pub(crate) fn leave(&self, counted: CountedAt) -> Left {
        self.addresses.leave(counted)
    }

    /// A connection that has left is counted again, whatever its client has by now.
    pub(crate) fn enter_again(&self, left: Left) -> CountedAt {
        self.addresses.enter_again(left)
    }

    /// Counts a stream of a subject. `None`: there are as many as may be.
    pub(crate) fn enter_subject(&self, subject: &str, most: usize) -> Option<CountedAt> {
        let key = self.keys.of_text(subject);
        self.subjects.enter(key[0], key, most)
    }

    /// A stream that [`ClientTable::enter_subject`] has counted has ended.
    pub(crate) fn leave_subject(&self, counted: CountedAt) {
        let _ = self.subjects.leave(counted);
    }

    /// Connections that are counted by address, and streams by subject.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn counted(&self) -> [usize; 2] {
        [&self.addresses, &self.subjects].map(CountTables::connections)
    }
}

impl CountTables {
    fn new(seed: u64) -> CountTables {
        let table = |index: usize| KeyCounts::new(seed.wrapping_add(index as u64));
        // Not as an array, which would be on the stack first: the stacks of the models are small.
        CountTables((0..TABLES).map(|index| CachePadded::new(Mutex::new(table(index)))).collect())
    }

    fn enter(&self, hash: u64, key: Key, most: usize) -> Option<CountedAt> {
        let table = hash as usize % TABLES;
        Some(CountedAt::new(table, lock(&self.0[table]).enter(key, most)?))
    }

    fn key(&self, counted: CountedAt) -> Option<Key> {
        let (table, slot) = counted.parts();
        lock(&self.0[table]).key(slot)
    }

    fn leave(&self, counted: CountedAt) -> Left {
        let (table, slot) = counted.parts();
        Left { table, key: lock(&self.0[table]).leave(slot) }
    }

    fn enter_again(&self, Left { table, key }: Left) -> CountedAt {
        let slot = lock(&self.0[table]).enter(key, usize::MAX).expect("there is no bound");
        CountedAt::new(table, slot)
    }

    #[cfg(any(test, feature = "sim"))]
    fn connections(&self) -> usize {
        let connections = |table: &CachePadded<Mutex<KeyCounts>>| {
            let table = lock(table);
            table.check();
            table.connections()
        };
        self.0.iter().map(connections).sum()
    }
}

/// What a panic leaves behind is whole: nothing of the caller's runs under these locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the connections of one shard are counted, by the numbers of their sockets: four bytes for each
/// number in use, and nothing where connections are not counted.
#[derive(Default)]
pub(crate) struct CountedSockets(ChunkTable<CountedAt>);

const _: () = assert!(ChunkTable::<CountedAt>::ENTRY_BYTES == COUNTED_SOCKET_BYTES);

impl CountedSockets {
    /// Notes where the connection of an open socket is counted. It is noted once.
    pub(crate) fn insert(&mut self, socket: Socket, counted: CountedAt) {
        self.0.insert(number(socket), counted);
    }

    /// Where the connection of an open socket is counted.
    pub(crate) fn get(&self, socket: Socket) -> Option<CountedAt> {
        self.0.get(number(socket)).copied()
    }

    /// Where the connection of a socket that is closed was counted.
    pub(crate) fn remove(&mut self, socket: Socket) -> Option<CountedAt> {
        self.0.remove_if(number(socket), |_| true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All sockets whose connections are counted.
    #[cfg(feature = "sim")]
    pub(crate) fn sockets(&self) -> impl Iterator<Item = Socket> {
        self.0.iter().map(|(number, _)| number as Socket)
    }
}

fn number(socket: Socket) -> u32 {
    u32::try_from(socket).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn ten_thousand_addresses_have_their_connections_and_no_more() {
        let table = ClientTable::new(1);
        let limits = ClientLimits::default().with_connections_per_address(Some(2));
        let mut counted = Vec::new();
        for number in 0..10_000 {
            let enter = || table.enter(address(number), &limits);
            counted.extend([enter(), enter()].map(|entered| entered.unwrap().unwrap()));
            assert_eq!(enter(), Err(ClientBound::Connections));
        }
        assert_eq!(table.counted(), [20_000, 0]);
        // A lower bound ends none, and lets none in.
        let lower = limits.clone().with_connections_per_address(Some(1));
        assert!(table.enter(address(1), &lower).is_err());
        counted.drain(..).for_each(|counted| _ = table.leave(counted));
        assert_eq!(table.counted(), [0, 0]);
        assert!(table.enter(address(1), &lower).is_ok());
        assert_eq!(table.enter(address(1), &ClientLimits::default()), Ok(None), "there is no bound");
    }

    /// What is counted again may be more than the client may have: it is there.
    #[test]
    fn a_connection_that_left_for_a_moment_is_counted_again() {
        let table = ClientTable::new(1);
        let limits = ClientLimits::default().with_connections_per_address(Some(1));
        let enter = || table.enter(address(1), &limits);
        let first = enter().unwrap().unwrap();
        let left = table.leave(first);
        let second = enter().unwrap().unwrap();
        let first = table.enter_again(left);
        assert_eq!((table.counted(), enter()), ([2, 0], Err(ClientBound::Connections)));
        for counted in [first, second] {
            assert!(enter().is_err());
            table.leave(counted);
        }
        assert!(table.counted() == [0, 0] && enter().is_ok());
    }

    #[test]
    fn each_address_has_a_rate_of_its_own() {
        let table = ClientTable::new(1);
        let limits = ClientLimits::default().with_connects_per_second(Some(1)).with_connect_burst(3);
        let now = Duration::from_secs(100);
        let connects = |number: u32, at: Duration| {
            (0..10).filter(|_| table.connect(address(number), &limits, at).is_ok()).count()
        };
        assert!((0..1000).all(|number| connects(number, now) == 3));
        assert_eq!(connects(7, now + Duration::from_secs(2)), 2);
        assert_eq!(table.connect(address(7), &limits, now), Err(ClientBound::ConnectRate { wait_s: 3 }));
    }

    #[test]
    fn a_subject_has_its_streams_on_all_shards_together() {
        let table = ClientTable::new(1);
        let ada = [(); 3].map(|()| table.enter_subject("ada", 2));
        assert!(ada[0] == ada[1] && ada[2].is_none());
        let bob = table.enter_subject("bob", 1);
        assert!(bob.is_some() && table.enter_subject("bob", 1).is_none());
        ada.into_iter().chain([bob]).flatten().for_each(|counted| table.leave_subject(counted));
        assert_eq!(table.counted(), [0, 0]);
    }

    #[test]
    fn a_socket_that_is_not_counted_takes_nothing() {
        let [three, four] = [3, 4].map(|place| CountedAt(NonZeroU32::new(place).unwrap()));
        let mut sockets = CountedSockets::default();
        assert_eq!(sockets.remove(7), None);
        sockets.insert(1000, three);
        sockets.insert(7, four);
        assert_eq!((sockets.remove(8), sockets.remove(1000)), (None, Some(three)));
        assert_eq!((sockets.remove(1000), sockets.remove(7)), (None, Some(four)));
        assert!(sockets.is_empty());
    }
}
