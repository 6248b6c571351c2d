//! The tokens of connections, and searches for the connections of a token.
//!
//! There are 16 bytes for a connection with a token, and nothing for others. A token is looked for in the whole table,
//! piece by piece, and all that were named meanwhile in one pass: revocations are rare, and an index would cost each
//! connection more than its token.

use std::collections::{HashMap, VecDeque};

use fanfare_proto::delivery::began_by;
use fanfare_proto::link::LinkKey;

use crate::orders::TokenName;

/// Connections in a chunk of the table.
const CHUNK: usize = 256;

/// Chunks that one step of a search looks at.
const CHUNKS_PER_STEP: usize = 4;

/// The tokens of a shard's connections.
#[derive(Default)]
pub(super) struct Tokens {
    chunks: Vec<Option<Box<Chunk>>>,
    /// Named since the pass began, each with the newest generation of that time: streams that began later stay.
    wanted: VecDeque<(TokenName, u32)>,
    pass: Option<Pass>,
}

struct Chunk {
    used: usize,
    slots: [Option<Entry>; CHUNK],
}

#[derive(Clone, Copy)]
struct Entry {
    token: TokenName,
    generation: u32,
}

/// A walk through the table.
struct Pass {
    wanted: HashMap<TokenName, u32>,
    next_chunk: usize,
}

fn position(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK, slot as usize % CHUNK)
}

impl Tokens {
    /// What a connection with a token takes.
    pub(super) const PLACE_BYTES: usize = size_of::<Option<Entry>>();

    /// A connection with a token has begun.
    pub(super) fn insert(&mut self, link: LinkKey, token: TokenName) {
        let (chunk, index) = position(link.slot);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk]
            .get_or_insert_with(|| Box::new(Chunk { used: 0, slots: [const { None }; CHUNK] }));
        debug_assert!(chunk.slots[index].is_none(), "a connection ends before another gets its slot");
        chunk.slots[index] = Some(Entry { token, generation: link.generation });
        chunk.used += 1;
    }

    /// A connection has ended.
    pub(super) fn remove(&mut self, link: LinkKey) {
        let (chunk, index) = position(link.slot);
        let Some(place) = self.chunks.get_mut(chunk) else { return };
        let Some(its) = place.as_mut() else { return };
        if its.slots[index].take_if(|entry| entry.generation == link.generation).is_none() {
            return;
        }
        its.used -= 1;
        if its.used == 0 {
            *place = None;
            while self.chunks.last().is_some_and(Option::is_none) {
                self.chunks.pop();
            }
        }
    }

    /// Notes that the connections of a token are to be ended. Connections that begin later are not meant.
    pub(super) fn disconnect(&mut self, token: TokenName, newest_generation: u32) {
        if !self.chunks.is_empty() {
            self.wanted.push_back((token, newest_generation));
        }
    }

    /// Whether a search is under way.
    pub(super) fn has_work(&self) -> bool {
        self.pass.is_some() || !self.wanted.is_empty()
    }

    /// One step of a search: adds the connections that are to be ended.
    pub(super) fn search(&mut self, ended: &mut VecDeque<LinkKey>) {
        if self.pass.is_none() {
            if self.wanted.is_empty() {
                return;
            }
            // The last order about a token is about the most connections.
            self.pass =
                Some(Pass { wanted: std::mem::take(&mut self.wanted).into_iter().collect(), next_chunk: 0 });
        }
        let Some(pass) = &mut self.pass else { return };
        let first = pass.next_chunk;
        let end = (first + CHUNKS_PER_STEP).min(self.chunks.len());
        for chunk in first..end {
            let Some(its) = &self.chunks[chunk] else { continue };
            for (index, entry) in its.slots.iter().enumerate() {
                let Some(Entry { token, generation }) = *entry else { continue };
                let link = LinkKey { slot: (chunk * CHUNK + index) as u32, generation };
                if pass.wanted.get(&token).is_some_and(|newest| began_by(link, *newest)) {
                    ended.push_back(link);
                }
            }
        }
        pass.next_chunk = end.max(first);
        if end >= self.chunks.len() {
            self.pass = None;
        }
    }

    /// Each connection with a token is there.
    #[cfg(feature = "sim")]
    pub(super) fn check(&self, is_there: impl Fn(LinkKey) -> bool) {
        for (number, chunk) in self.chunks.iter().enumerate() {
            let Some(chunk) = chunk else { continue };
            assert_eq!(chunk.slots.iter().flatten().count(), chunk.used);
            for (index, entry) in chunk.slots.iter().enumerate() {
                let Some(entry) = entry else { continue };
                let link = LinkKey { slot: (number * CHUNK + index) as u32, generation: entry.generation };
                assert!(is_there(link), "a token of a connection that has left");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(slot: u32, generation: u32) -> LinkKey {
        LinkKey { slot, generation }
    }

    fn search_all(tokens: &mut Tokens) -> Vec<LinkKey> {
        let mut ended = VecDeque::new();
        let mut steps = 0;
        while tokens.has_work() {
            tokens.search(&mut ended);
            steps += 1;
            assert!(steps < 1000, "a search has an end");
        }
        ended.into()
    }

    #[test]
    fn the_connections_of_a_token_are_found_and_later_ones_stay() {
        let (mut tokens, [a, b]) = (Tokens::default(), ["a", "b"].map(TokenName::of));
        for slot in 0..5_000 {
            tokens.insert(link(slot, slot + 1), if slot % 1000 == 7 { a } else { b });
        }
        tokens.disconnect(a, 4_500);
        tokens.disconnect(TokenName::of("unknown"), 5_000);
        let found = search_all(&mut tokens);
        assert_eq!(found, [7, 1007, 2007, 3007, 4007].map(|slot| link(slot, slot + 1)));
        // One that began after the order, in a slot that the search has not come to.
        tokens.disconnect(a, 5_000);
        tokens.remove(link(4_007, 4_008));
        tokens.insert(link(4_007, 5_001), a);
        assert_eq!(search_all(&mut tokens).len(), 4);
    }

    #[test]
    fn orders_that_come_during_a_pass_have_a_pass_of_their_own() {
        let (mut tokens, [a, b]) = (Tokens::default(), ["a", "b"].map(TokenName::of));
        for slot in 0..10_000 {
            tokens.insert(link(slot, slot + 1), if slot == 0 { a } else { b });
        }
        tokens.disconnect(TokenName::of("c"), 10_000);
        let mut ended = VecDeque::new();
        tokens.search(&mut ended);
        // The pass is past its slot already.
        for _ in 0..100 {
            tokens.disconnect(a, 10_000);
        }
        assert_eq!(search_all(&mut tokens), [link(0, 1)]);
    }

    #[test]
    fn a_connection_with_a_token_costs_16_bytes() {
        assert_eq!(Tokens::PLACE_BYTES, 16);
    }

    #[test]
    fn the_table_gives_its_memory_back_and_a_stale_name_removes_nothing() {
        let (mut tokens, token) = (Tokens::default(), TokenName::of("a"));
        for slot in [0, 300, 70_000] {
            tokens.insert(link(slot, 5), token);
        }
        tokens.remove(link(300, 4));
        tokens.disconnect(token, 9);
        assert_eq!(search_all(&mut tokens).len(), 3);
        for slot in [70_000, 0, 300] {
            tokens.remove(link(slot, 5));
        }
        assert!(tokens.chunks.is_empty());
        tokens.disconnect(token, 9);
        assert!(!tokens.has_work(), "there is nothing to look for");
    }
}
