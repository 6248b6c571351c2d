//! The names of connections, which are their subjects and their tokens, and searches for the connections of a
//! name.
//!
//! There are 24 bytes for a connection with a subject or a token, and nothing for others. A name is looked
//! for in the whole table, piece by piece, and all that were named meanwhile in one pass: such orders are
//! rare, and an index would cost each connection more than its names.
//!
//! ```text
//!   table      [ chunk 0 | chunk 1 | chunk 2 | chunk 3 | chunk 4 | ... ]
//!   pass         its names are looked for in 0 to 2; 3 is next
//!   waiting      names of orders that came since then: the next pass looks for them
//!   found        chunks 0 and 2 have connections that are to be ended, and are marked
//! ```

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU32;

use fanfare_proto::delivery::began_by;
use fanfare_proto::limits::{NAMES_PLACE_BYTES, ORDERS_BYTES};
use fanfare_proto::link::LinkKey;

#[cfg(any(test, feature = "sim"))]
use crate::chunk_table::CHUNK;
use crate::chunk_table::ChunkTable;
use crate::client_table::CountedAt;
use crate::orders::{Name, Names, RecentOrders};

/// Chunks that one step of a search looks at.
const CHUNKS_PER_STEP: usize = 4;

/// The most names that wait for the next pass, and that a pass looks for.
const MAX_WANTED: usize = 2048;

/// The names of a shard's connections.
#[derive(Default)]
pub(super) struct NameTable {
    table: ChunkTable<Entry>,
    /// Named since the pass began.
    waiting: Wanted,
    pass: Option<Pass>,
    /// Chunks that have marked entries, or had them.
    found: BTreeSet<usize>,
    /// Chunks that searches have looked at.
    #[cfg(test)]
    looked_at: usize,
}

/// What is known of a connection with a name.
struct Entry {
    names: Names,
    /// Where it is counted among the streams of its subject.
    counted: Option<CountedAt>,
    tag: Tag,
}

/// The generation of the connection, and whether it is to be ended. Never zero, so that an entry needs no
/// word to say that it is there.
#[derive(Clone, Copy)]
struct Tag(NonZeroU32);

/// Names, each with the newest generation at the time of its last order: streams that began later stay.
type Wanted = HashMap<Name, u32, BuildHasherDefault<NameHasher>>;

/// A name is a keyed hash itself.
#[derive(Default)]
struct NameHasher(u64);

/// A walk through the table.
struct Pass {
    wanted: Wanted,
    next_chunk: usize,
    /// What comes behind it began after the pass.
    end: usize,
    /// Chunks that orders make it look at beside its steps, times [`MAX_WANTED`].
    due: usize,
}

const _: () = assert!(ChunkTable::<Entry>::ENTRY_BYTES == NAMES_PLACE_BYTES);
const _: () = assert!(LinkKey::GENERATIONS <= u32::MAX >> Tag::GENERATION);

/// A hash table has a power of two of buckets, of which at most seven eighths are used, and a byte for each.
/// While the waiting names grow, there is a smaller one.
const WANTED_BYTES: usize = (2 * MAX_WANTED).next_power_of_two() * (size_of::<(Name, u32)>() + 1);
const _: () = assert!(3 * WANTED_BYTES + RecentOrders::MAX_BYTES <= ORDERS_BYTES);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, name: u64) {
        self.0 ^= name;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Tag {
    const IS_THERE: NonZeroU32 = NonZeroU32::MIN;
    const ENDS: u32 = 2;
    const GENERATION: u32 = 2;

    fn of(link: LinkKey) -> Tag {
        Tag(Tag::IS_THERE | link.generation << Tag::GENERATION)
    }

    fn generation(self) -> u32 {
        self.0.get() >> Tag::GENERATION
    }

    /// Notes that it is to be ended.
    fn mark(&mut self) {
        self.0 |= Tag::ENDS;
    }

    /// Takes the mark away, and answers whether there was one.
    fn unmark(&mut self) -> bool {
        let was = self.0.get() & Tag::ENDS != 0;
        self.0 = Tag::IS_THERE | self.generation() << Tag::GENERATION;
        was
    }
}

impl NameTable {
    /// A connection has begun. Where it has no name, nothing is noted.
    pub(super) fn insert(&mut self, link: LinkKey, names: Names, counted: Option<CountedAt>) {
        debug_assert!(counted.is_none() || names.subject.is_some(), "streams are counted by subject");
        if !names.are_none() {
            self.table.insert(link.slot, Entry { names, counted, tag: Tag::of(link) });
        }
    }

    /// The names of a connection.
    pub(super) fn of(&self, link: LinkKey) -> Names {
        let is_its = |entry: &&Entry| entry.tag.generation() == link.generation;
        self.table.get(link.slot).filter(is_its).map_or(Names::default(), |entry| entry.names)
    }

    /// A connection has ended: where it was counted among the streams of its subject.
    pub(super) fn remove(&mut self, link: LinkKey) -> Option<CountedAt> {
        let its = self.table.remove_if(link.slot, |entry| entry.tag.generation() == link.generation);
        its?.counted
    }

    /// Notes that the connections of a name are to be ended. Connections that begin later are not meant.
    pub(super) fn disconnect(&mut self, name: Name, newest_generation: u32) {
        if self.table.is_empty() || self.waiting.insert(name, newest_generation).is_some() {
            return;
        }
        // Orders may come faster than a large table is searched. Each makes the pass look at so much more
        // that it is over before too many wait.
        if let Some(pass) = &mut self.pass {
            pass.due += pass.end;
            let chunks = pass.due / MAX_WANTED;
            pass.due %= MAX_WANTED;
            self.look_at(chunks, newest_generation);
        }
        if self.pass.is_none() && self.waiting.len() == MAX_WANTED {
            self.begin_pass();
        }
    }

    /// Whether a search is under way, or connections are to be ended.
    pub(super) fn has_work(&self) -> bool {
        self.pass.is_some() || !self.waiting.is_empty() || !self.found.is_empty()
    }

    /// One step of a search.
    pub(super) fn search(&mut self, newest_generation: u32) {
        if self.pass.is_none() && !self.waiting.is_empty() {
            self.begin_pass();
        }
        self.look_at(CHUNKS_PER_STEP, newest_generation);
    }

    fn begin_pass(&mut self) {
        let wanted = std::mem::take(&mut self.waiting);
        self.pass = Some(Pass { wanted, next_chunk: 0, end: self.table.chunks(), due: 0 });
    }

    /// Marks what the next chunks of the pass have of its names.
    fn look_at(&mut self, chunks: usize, newest_generation: u32) {
        let Some(pass) = &mut self.pass else { return };
        let first = pass.next_chunk;
        pass.next_chunk = (first + chunks).min(pass.end);
        for chunk in first..pass.next_chunk {
            for (_, entry) in self.table.chunk_mut(chunk) {
                let has_begun = |then: &u32| began_by(entry.tag.generation(), *then, newest_generation);
                let is_meant = |name| pass.wanted.get(&name).is_some_and(has_begun);
                if entry.names.iter().any(is_meant) {
                    entry.tag.mark();
                    self.found.insert(chunk);
                }
            }
        }
        #[cfg(test)]
        {
            self.looked_at += pass.next_chunk - first;
        }
        if pass.next_chunk == pass.end {
            self.pass = None;
        }
    }

    /// Adds connections that are to be ended, at most as many as a chunk has.
    pub(super) fn take_found(&mut self, ended: &mut VecDeque<LinkKey>) {
        let Some(chunk) = self.found.pop_first() else { return };
        let entries = self.table.chunk_mut(chunk);
        let marked = entries.filter_map(|(slot, entry)| entry.tag.unmark().then_some((slot, entry)));
        ended.extend(marked.map(|(slot, entry)| LinkKey { slot, generation: entry.tag.generation() }));
    }

    /// How many connections are counted among the streams of their subjects.
    #[cfg(feature = "sim")]
    pub(super) fn counted(&self) -> usize {
        self.table.iter().filter(|(_, entry)| entry.counted.is_some()).count()
    }

    /// Each connection with a name is there, and none that is to be ended is forgotten.
    #[cfg(feature = "sim")]
    pub(super) fn check(&self, is_there: impl Fn(LinkKey) -> bool) {
        for (slot, entry) in self.table.iter() {
            assert!(!entry.names.are_none(), "an entry without a name");
            let link = LinkKey { slot, generation: entry.tag.generation() };
            assert!(is_there(link), "a name of a connection that has left");
            let is_marked = entry.tag.0.get() & Tag::ENDS != 0;
            assert!(!is_marked || self.found.contains(&(slot as usize / CHUNK)), "an end is forgotten");
        }
        assert!(self.waiting.len() < MAX_WANTED, "too many names wait");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(slot: u32, generation: u32) -> LinkKey {
        LinkKey { slot, generation }
    }

    fn subject(name: &str) -> Names {
        Names { subject: Some(Name::of_subject(name)), token: None }
    }

    fn token(id: &str) -> Names {
        Names { subject: None, token: Some(Name::of_token(id)) }
    }

    /// No connection of these tables is younger.
    const NEWEST: u32 = 200_000;

    /// A table of so many connections, with generations from one on.
    fn table(count: u32, names: impl Fn(u32) -> Names) -> NameTable {
        let mut table = NameTable::default();
        (0..count).for_each(|slot| table.insert(link(slot, slot + 1), names(slot), None));
        table
    }

    fn search_all(table: &mut NameTable) -> Vec<LinkKey> {
        search_all_at(table, NEWEST)
    }

    fn search_all_at(table: &mut NameTable, newest_generation: u32) -> Vec<LinkKey> {
        let mut ended = VecDeque::new();
        let mut steps = 0;
        while table.has_work() {
            table.search(newest_generation);
            table.take_found(&mut ended);
            steps += 1;
            assert!(steps < 10_000, "a search has an end");
        }
        ended.into()
    }

    #[test]
    fn the_connections_of_a_name_are_found_and_later_ones_stay() {
        let [a, b] = [subject("a"), token("b")];
        let both = Names { subject: a.subject, token: b.token };
        let mut table = table(5_000, |slot| match slot % 1000 {
            7 => a,
            8 => b,
            9 => both,
            _ => subject("other"),
        });
        let [a, b] = [Name::of_subject("a"), Name::of_token("b")];
        table.disconnect(a, 4_500);
        table.disconnect(Name::of_subject("unknown"), 5_000);
        table.disconnect(Name::of_token("a"), 5_000);
        let its = |slots: &[u32]| slots.iter().map(|slot| link(*slot, slot + 1)).collect::<Vec<_>>();
        assert_eq!(search_all(&mut table), its(&[7, 9, 1007, 1009, 2007, 2009, 3007, 3009, 4007, 4009]));
        // Both orders mean some connections. Each of them is ended once.
        table.disconnect(a, 1_500);
        table.disconnect(b, 1_500);
        assert_eq!(search_all(&mut table), its(&[7, 8, 9, 1007, 1008, 1009]));
        // One that began after the order, in a slot that the search has not come to.
        table.disconnect(a, 5_000);
        table.remove(link(4_007, 4_008));
        table.insert(link(4_007, 5_001), subject("a"), None);
        assert_eq!(search_all(&mut table).len(), 9);
    }

    /// The newest generation is that of the last order about a name, also where generations have begun anew.
    #[test]
    fn a_name_that_is_given_again_means_what_began_meanwhile() {
        let mut table = NameTable::default();
        let last = LinkKey::GENERATIONS;
        for (slot, generation) in [(0, last - 1), (1, last), (2, 0), (3, 1)] {
            table.insert(link(slot, generation), subject("a"), None);
        }
        table.disconnect(Name::of_subject("a"), last);
        table.disconnect(Name::of_subject("a"), 0);
        assert_eq!(search_all_at(&mut table, 1), [link(0, last - 1), link(1, last), link(2, 0)]);
    }

    #[test]
    fn orders_that_come_during_a_pass_have_a_pass_of_their_own() {
        let mut table = table(10_000, |slot| if slot == 0 { token("a") } else { token("b") });
        table.disconnect(Name::of_token("c"), 10_000);
        table.search(NEWEST);
        // The pass is past its slot already. Given again, an order takes one place.
        for _ in 0..100 {
            table.disconnect(Name::of_token("a"), 10_000);
            assert_eq!(table.waiting.len(), 1);
        }
        assert_eq!(search_all(&mut table), [link(0, 1)]);
        assert_eq!(table.looked_at, 2 * 10_000_usize.div_ceil(CHUNK));
    }

    /// An operator's script that gave the same order again and again, to a million connections with the
    /// subject "guest", added a million entries to a queue with each of them.
    #[test]
    fn connections_that_are_to_be_ended_are_queued_once_and_those_that_begin_later_stay() {
        let mut table = table(1000, |_| subject("guest"));
        let (guest, mut ended) = (Name::of_subject("guest"), VecDeque::new());
        for _ in 0..100 {
            table.disconnect(guest, 1000);
            table.disconnect(Name::of_subject("unknown"), 1000);
            table.search(NEWEST);
        }
        assert_eq!((table.found.len(), table.waiting.len()), (4, 0));
        // These begin after the orders.
        (1000..1500).for_each(|slot| table.insert(link(slot, slot + 1), subject("guest"), None));
        // Some leave before their turn, and others get their slots.
        for slot in (0..1000).step_by(3) {
            table.remove(link(slot, slot + 1));
            table.insert(link(slot, slot + 2000), subject("guest"), None);
        }
        while table.has_work() {
            table.search(NEWEST);
            let before = ended.len();
            table.take_found(&mut ended);
            assert!(ended.len() - before <= CHUNK);
            // What was taken has its turn before the next search may find it again.
            ended.iter().for_each(|link| _ = table.remove(*link));
        }
        let expected = (0..1000).filter(|slot| slot % 3 != 0).map(|slot| link(slot, slot + 1));
        assert!(ended.iter().copied().eq(expected), "{} have ended", ended.len());
    }

    /// One pass serves all orders that came before it, and few wait, however many come at once.
    #[test]
    fn very_many_orders_at_once_take_little_memory_and_few_passes() {
        const ORDERS: u32 = 100_000;
        let mut table = table(8_000, |slot| subject(&slot.to_string()));
        let mut ended = VecDeque::new();
        for number in 0..ORDERS {
            table.disconnect(Name::of_subject(&number.to_string()), 8_000);
            assert!(table.waiting.len() < MAX_WANTED, "{} wait", table.waiting.len());
            // A shard takes so many orders in one tick.
            if number % 128 == 0 {
                table.search(NEWEST);
                table.take_found(&mut ended);
            }
        }
        ended.extend(search_all(&mut table));
        let found: BTreeSet<u32> = ended.iter().map(|link| link.slot).collect();
        assert_eq!((ended.len(), found.len()), (8_000, 8_000));
        // A pass is made each time that the greatest number of names waits. The steps look at some chunks
        // beside that.
        let (chunks, steps) = (8_000_usize.div_ceil(CHUNK), ORDERS as usize / 128 * CHUNKS_PER_STEP);
        let most = (ORDERS as usize / MAX_WANTED + 2) * chunks + steps;
        assert!(table.looked_at <= most, "{} chunks, not {most}", table.looked_at);
        // None of them is one of these.
        table.disconnect(Name::of_subject("unknown"), 8_000);
        assert_eq!(search_all(&mut table), []);
    }

    /// The steps of a pass through a large table take longer than it takes to name very many subjects.
    #[test]
    fn a_large_table_is_searched_faster_where_orders_come_faster() {
        const ORDERS: usize = 10_000;
        let mut table = table(100_000, |_| subject("guest"));
        for number in 0..ORDERS {
            table.disconnect(Name::of_subject(&number.to_string()), 100_000);
            assert!(table.waiting.len() < MAX_WANTED, "{} wait", table.waiting.len());
            if number % 128 == 0 {
                table.search(NEWEST);
            }
        }
        // A pass is made each time that the greatest number of names waits. The steps look at some chunks
        // beside that.
        let (chunks, steps) = (100_000_usize.div_ceil(CHUNK), ORDERS / 128 + 1);
        let most = ORDERS * chunks / MAX_WANTED + steps * CHUNKS_PER_STEP;
        assert!(table.looked_at <= most, "{} chunks, not {most}", table.looked_at);
        assert_eq!(search_all(&mut table), []);
        table.disconnect(Name::of_subject("guest"), 100_000);
        assert_eq!(search_all(&mut table).len(), 100_000);
    }

    /// Without ticks in between.
    #[test]
    fn a_burst_of_orders_finds_its_connections() {
        let mut table = table(3_000, |slot| token(&slot.to_string()));
        for number in (0..3_000).rev() {
            table.disconnect(Name::of_token(&number.to_string()), number);
            assert!(table.waiting.len() < MAX_WANTED);
        }
        // The order about each came before the connection itself.
        assert_eq!(search_all(&mut table), []);
        for number in (0..3_000).rev() {
            table.disconnect(Name::of_token(&number.to_string()), number + 1);
        }
        assert_eq!(search_all(&mut table).len(), 3_000);
    }

    #[test]
    fn the_table_gives_its_memory_back_and_a_stale_link_removes_nothing() {
        let (mut table, names) = (NameTable::default(), subject("a"));
        let clients = crate::client_table::ClientTable::new(1);
        let counted = clients.enter_subject("a", 1);
        assert!(counted.is_some());
        table.insert(link(0, 5), names, counted);
        table.insert(link(300, 5), names, None);
        table.insert(link(70_000, 5), Names::default(), None);
        assert_eq!(table.remove(link(0, 4)), None);
        table.disconnect(Name::of_subject("a"), 9);
        assert_eq!(search_all(&mut table).len(), 2);
        assert_eq!(
            [(0, 5), (300, 5), (300, 5), (70_000, 5)].map(|(slot, its)| table.remove(link(slot, its))),
            [counted, None, None, None]
        );
        assert!(table.table.is_empty());
        table.disconnect(Name::of_subject("a"), 9);
        assert!(!table.has_work(), "there is nothing to look for");
    }
}
