//! Verified tokens that are remembered by their hash, so that a reconnect does not verify a signature again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};

use crate::verifier::Verified;

/// The table is in parts with a lock each, so that shards rarely wait for each other.
const PARTS: usize = 16;
/// What an entry costs besides its texts: its place in the map and in the queue, and the `Arc`.
const ENTRY_BYTES: usize = 224;
/// How many old entries an insertion looks at, to drop the expired ones.
const CLEAN_PER_INSERT: usize = 2;

/// The bounds of the memory of verified tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// The tokens that are remembered at most. Zero remembers none.
    pub tokens: usize,
    /// About the bytes that they may occupy together.
    pub bytes: usize,
}

impl Default for MemoryLimits {
    /// 200,000 tokens, 128 MiB: twice the connections of a large server, with grants of their own.
    fn default() -> MemoryLimits {
        MemoryLimits { tokens: 200_000, bytes: 128 << 20 }
    }
}

/// The hash of a token.
pub(crate) type TokenHash = [u8; 32];

/// A memory of verified tokens. Only tokens with a right signature get in, so a stranger cannot fill it.
///
/// A lock is held for one look-up or one insertion, and never while a signature is verified. When a part is
/// full, its oldest entry goes.
#[derive(Debug)]
pub(crate) struct TokenMemory {
    parts: [Mutex<Part>; PARTS],
    limits: MemoryLimits,
}

#[derive(Debug, Default)]
struct Part {
    entries: HashMap<TokenHash, Entry>,
    /// The keys of all entries, oldest first.
    order: VecDeque<TokenHash>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    verified: Arc<Verified>,
    /// The generation of the keys that the token was verified with.
    generation: u64,
    bytes: usize,
}

impl TokenMemory {
    pub(crate) fn new(limits: MemoryLimits) -> TokenMemory {
        TokenMemory { parts: std::array::from_fn(|_| Mutex::default()), limits }
    }

    pub(crate) fn hash(token: &str) -> TokenHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        hash
    }

    /// What the token with this hash says, if it was verified with the keys of this generation.
    pub(crate) fn get(&self, hash: &TokenHash, generation: u64) -> Option<Arc<Verified>> {
        let part = self.part(hash);
        part.entries
            .get(hash)
            .filter(|entry| entry.generation == generation)
            .map(|entry| entry.verified.clone())
    }

    /// Remembers a verified token.
    pub(crate) fn put(&self, hash: TokenHash, generation: u64, verified: &Arc<Verified>, now_unix_s: u64) {
        let most_tokens = self.limits.tokens.div_ceil(PARTS);
        let most_bytes = self.limits.bytes / PARTS;
        let bytes = ENTRY_BYTES + verified.bytes();
        if self.limits.tokens == 0 || bytes > most_bytes {
            return;
        }
        let mut part = self.part(&hash);
        part.drop_expired(now_unix_s);
        if let Some(entry) = part.entries.get_mut(&hash) {
            let before = std::mem::replace(&mut entry.bytes, bytes);
            entry.verified = verified.clone();
            entry.generation = generation;
            part.bytes = part.bytes - before + bytes;
        } else {
            part.entries.insert(hash, Entry { verified: verified.clone(), generation, bytes });
            part.order.push_back(hash);
            part.bytes += bytes;
        }
        while part.entries.len() > most_tokens || part.bytes > most_bytes {
            part.drop_oldest();
        }
    }

    /// The tokens that are remembered, and about the bytes that they occupy.
    pub(crate) fn size(&self) -> (usize, usize) {
        let sizes = self.parts.iter().map(|part| {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            (part.entries.len(), part.bytes)
        });
        sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }

    fn part(&self, hash: &TokenHash) -> MutexGuard<'_, Part> {
        self.parts[usize::from(hash[0]) % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn drop_expired(&mut self, now_unix_s: u64) {
        for _ in 0..CLEAN_PER_INSERT {
            let Some(oldest) = self.order.front().and_then(|hash| self.entries.get(hash)) else { return };
            if oldest.verified.expires_unix_s().is_none_or(|expires| now_unix_s < expires) {
                return;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let entry = self.order.pop_front().and_then(|hash| self.entries.remove(&hash));
        self.bytes -= entry.map_or(0, |entry| entry.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::Grants;

    fn verified(expires_unix_s: u64) -> Arc<Verified> {
        Arc::new(Verified::for_url(None, expires_unix_s, Arc::new(Grants::default())))
    }

    /// Hashes of one part, so that its bounds are met.
    fn hash(number: u8) -> TokenHash {
        let mut hash = [0; 32];
        hash[31] = number;
        hash
    }

    #[test]
    fn the_oldest_entry_goes_when_the_memory_is_full() {
        let memory = TokenMemory::new(MemoryLimits { tokens: 3 * PARTS, bytes: 1 << 20 });
        for number in 0..5 {
            memory.put(hash(number), 1, &verified(100), 0);
        }
        assert_eq!(memory.size().0, 3);
        assert!(memory.get(&hash(1), 1).is_none());
        assert!(memory.get(&hash(2), 1).is_some());
    }

    #[test]
    fn the_bytes_are_bounded_and_counted_back() {
        let one = ENTRY_BYTES + verified(100).bytes();
        let memory = TokenMemory::new(MemoryLimits { tokens: 1000, bytes: 2 * one * PARTS });
        for number in 0..50 {
            memory.put(hash(number), 1, &verified(100), 0);
        }
        assert_eq!(memory.size(), (2, 2 * one));
        memory.put(hash(49), 2, &verified(100), 0);
        assert_eq!(memory.size(), (2, 2 * one), "another generation replaces the entry");
        assert!(memory.get(&hash(49), 1).is_none());
        assert!(memory.get(&hash(49), 2).is_some());
    }

    #[test]
    fn expired_entries_go_with_later_insertions() {
        let memory = TokenMemory::new(MemoryLimits::default());
        memory.put(hash(1), 1, &verified(10), 0);
        memory.put(hash(2), 1, &verified(10), 0);
        memory.put(hash(3), 1, &verified(100), 10);
        assert_eq!(memory.size().0, 1);
    }

    #[test]
    fn a_memory_of_no_tokens_remembers_none() {
        let memory = TokenMemory::new(MemoryLimits { tokens: 0, bytes: 1 << 20 });
        memory.put(hash(1), 1, &verified(10), 0);
        assert_eq!(memory.size(), (0, 0));
    }
}
