//! Revocations: tokens that are barred before they expire.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::MAX_NAME_BYTES;
use crate::verifier::Verified;

/// The most revocations of each kind, of subjects and of tokens, by default. Each occupies at most about 600
/// bytes.
pub const DEFAULT_MAX_REVOCATIONS: usize = 10_000;

/// What a revocation bars.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// All tokens of a subject (`sub`) that were issued up to the moment of the revocation, and all without
    /// `iat`. The clock of an issuer may be ahead by the leeway of the verifier
    /// ([`crate::TokenRules::leeway_s`]), so a token is barred, too, whose `iat` is up to so much later. One
    /// with a later `iat` is good.
    Subject(Box<str>),
    /// The token with this id (`jti`).
    TokenId(Box<str>),
}

/// An entry of a list of revocations, to be kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What is barred.
    pub revoked: Revoked,
    /// When it was revoked, in seconds since the Unix epoch: [`Revocations::revoke`] takes it as
    /// `now_unix_s`.
    pub revoked_unix_s: u64,
    /// Until when it is barred.
    pub until_unix_s: u64,
}

/// A bounded list of revocations. Many threads may use it at once.
///
/// An entry stays until the time that its caller gives, which is the latest `exp` of the tokens that it is to
/// bar. When the list is full, the next revocation is refused, and no older one is given up for it: a service
/// that bars the token of each logout must not let in again whom an operator has barred. So subjects and
/// tokens have a bound each, too.
#[derive(Debug)]
pub struct Revocations {
    inner: RwLock<Inner>,
    /// The number of entries, so that an empty list costs one load.
    len: AtomicUsize,
    /// Of each kind.
    most: usize,
}

/// The list has as many revocations of this kind as it may: see [`Revocations::revoke`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevocationsFull {
    /// How many it has.
    pub most: usize,
}

impl fmt::Display for RevocationsFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of this kind are revoked already; revoke until the tokens expire, and not longer",
            self.most
        )
    }
}

impl std::error::Error for RevocationsFull {}

#[derive(Debug, Default)]
struct Inner {
    /// By the kind of the name, and then by the name alone: a question about a token needs no copy of its
    /// names.
    entries: [HashMap<Arc<str>, Entry>; 2],
    /// What was revoked, oldest first, by the number of the revocation.
    order: BTreeMap<u64, (Kind, Arc<str>)>,
    /// When each ends, with its number.
    ends: BTreeSet<(u64, u64)>,
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Subject,
    TokenId,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    revoked_unix_s: u64,
    until_unix_s: u64,
}

impl Default for Revocations {
    /// An empty list of at most [`DEFAULT_MAX_REVOCATIONS`] of each kind.
    fn default() -> Revocations {
        Revocations::new(DEFAULT_MAX_REVOCATIONS)
    }
}

impl Revocations {
    /// The memory of a list of at most `most` entries of each kind, about, in bytes: each name has
    /// [`MAX_NAME_BYTES`], and tables have grown by doubling.
    pub const fn memory_bound(most: usize) -> usize {
        /// The two counts of an `Arc`, and what the allocator adds to it.
        const SHARED: usize = 32;
        const IN_TABLES: usize = 2
            * (size_of::<(Arc<str>, Entry)>()
                + size_of::<(u64, (Kind, Arc<str>))>()
                + size_of::<(u64, u64)>());
        2 * most * (MAX_NAME_BYTES + SHARED + IN_TABLES)
    }

    /// An empty list of at most `most` entries of each kind.
    pub fn new(most: usize) -> Revocations {
        Revocations { inner: RwLock::default(), len: AtomicUsize::new(0), most }
    }

    /// Revokes until `until_unix_s`, the latest `exp` of the tokens that are to be barred. A repeated
    /// revocation never ends earlier than the one before it. One that would be over already bars nothing.
    ///
    /// # Errors
    /// [`RevocationsFull`]: nothing has changed.
    pub fn revoke(
        &self,
        revoked: Revoked,
        now_unix_s: u64,
        until_unix_s: u64,
    ) -> Result<(), RevocationsFull> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.forget_old(now_unix_s);
        let result = inner.revoke(revoked, now_unix_s, until_unix_s, self.most);
        self.len.store(inner.order.len(), Ordering::Release);
        result
    }

    /// Whether a token is barred now.
    pub fn bars(&self, token: &Verified, now_unix_s: u64) -> bool {
        if self.len.load(Ordering::Acquire) == 0 {
            return false;
        }
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let entry =
            |kind, name: &str| inner.entry(kind, name).filter(|entry| now_unix_s < entry.until_unix_s);
        let was_issued_before =
            |entry: &Entry| token.issued_from_unix_s().is_none_or(|issued| issued <= entry.revoked_unix_s);
        token.token_id().is_some_and(|id| entry(Kind::TokenId, id).is_some())
            || token
                .subject()
                .is_some_and(|subject| entry(Kind::Subject, subject).is_some_and(was_issued_before))
    }

    /// All entries in the order of their revocations, the oldest first, and a number that rises with each
    /// revocation.
    pub fn list(&self) -> (u64, Vec<Revocation>) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let entries = inner.order.values().filter_map(|(kind, name)| {
            let Entry { revoked_unix_s, until_unix_s, .. } = *inner.entry(*kind, name)?;
            let revoked = match kind {
                Kind::Subject => Revoked::Subject((**name).into()),
                Kind::TokenId => Revoked::TokenId((**name).into()),
            };
            Some(Revocation { revoked, revoked_unix_s, until_unix_s })
        });
        (inner.next, entries.collect())
    }

    /// A number that rises with each revocation.
    pub fn number(&self) -> u64 {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).next
    }

    /// The revocations in the list.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn revoke(
        &mut self,
        revoked: Revoked,
        now_unix_s: u64,
        until_unix_s: u64,
        most: usize,
    ) -> Result<(), RevocationsFull> {
        let (kind, name): (Kind, Arc<str>) = match revoked {
            Revoked::Subject(name) => (Kind::Subject, name.into()),
            Revoked::TokenId(id) => (Kind::TokenId, id.into()),
        };
        let before = self.entry(kind, &name).copied();
        let until_unix_s = before.map_or(until_unix_s, |before| before.until_unix_s.max(until_unix_s));
        if until_unix_s <= now_unix_s {
            return Ok(());
        }
        match before {
            Some(before) => {
                self.order.remove(&before.number);
                self.ends.remove(&(before.until_unix_s, before.number));
            }
            None if self.entries[kind as usize].len() >= most => return Err(RevocationsFull { most }),
            None => {}
        }
        let number = self.next;
        self.next += 1;
        let revoked_unix_s = before.map_or(now_unix_s, |before| before.revoked_unix_s.max(now_unix_s));
        self.order.insert(number, (kind, Arc::clone(&name)));
        self.ends.insert((until_unix_s, number));
        self.entries[kind as usize].insert(name, Entry { number, revoked_unix_s, until_unix_s });
        Ok(())
    }

    fn entry(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.entries[kind as usize].get(name)
    }

    /// Drops the entries whose time is over.
    fn forget_old(&mut self, now_unix_s: u64) {
        while let Some((until_unix_s, number)) = self.ends.first().copied()
            && until_unix_s <= now_unix_s
        {
            self.ends.remove(&(until_unix_s, number));
            if let Some((kind, name)) = self.order.remove(&number) {
                self.entries[kind as usize].remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::grants::Grants;

    fn subject(name: &str) -> Revoked {
        Revoked::Subject(name.into())
    }

    fn token(name: &str) -> Verified {
        Verified::for_url(Some(name), 1_000, Arc::new(Grants::default()))
    }

    fn revoke(list: &Revocations, name: &str, now: u64, until: u64) {
        list.revoke(subject(name), now, until).expect("there is room");
    }

    /// A full list dropped its oldest revocation for a new one. So a user who caused many revocations, for
    /// example by logging out again and again, made an older one end before its time.
    #[test]
    fn a_full_list_refuses_and_gives_no_revocation_up() {
        let list = Revocations::new(2);
        for name in ["a", "b", "a"] {
            revoke(&list, name, 0, 100);
        }
        assert_eq!(list.revoke(subject("c"), 0, 100), Err(RevocationsFull { most: 2 }));
        assert!(list.bars(&token("a"), 50) && list.bars(&token("b"), 50) && !list.bars(&token("c"), 50));
        // The other kind has a bound of its own, and one that is there may be given again.
        for id in ["1", "2"] {
            assert_eq!(list.revoke(Revoked::TokenId(id.into()), 0, 100), Ok(()));
        }
        assert_eq!(list.revoke(Revoked::TokenId("3".into()), 0, 100), Err(RevocationsFull { most: 2 }));
        revoke(&list, "b", 10, 300);
        assert_eq!(list.len(), 4);
        // What is over makes room, whatever is older.
        revoke(&list, "c", 100, 200);
        assert!(!list.bars(&token("a"), 150) && list.bars(&token("b"), 150) && list.bars(&token("c"), 150));
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn a_revocation_that_is_over_already_takes_no_room() {
        let list = Revocations::new(2);
        for number in 0..10 {
            revoke(&list, &number.to_string(), 50, 1);
        }
        assert!(list.is_empty());
    }

    #[test]
    fn repeated_revocations_of_one_subject_do_not_grow_the_list() {
        let list = Revocations::new(10);
        for at in 0..1_000 {
            revoke(&list, "a", 0, 100 + at);
        }
        let inner = list.inner.read().unwrap();
        let [subjects, tokens] = inner.entries.each_ref().map(HashMap::len);
        assert_eq!((subjects, tokens, inner.order.len(), inner.ends.len()), (1, 0, 1, 1));
    }

    #[test]
    fn a_list_that_is_read_back_bars_the_same() {
        let list = Revocations::new(10);
        for (name, at, until) in [("a", 5, 100), ("b", 6, 100), ("a", 7, 90)] {
            revoke(&list, name, at, until);
        }
        let (number, entries) = list.list();
        assert_eq!((number, list.number()), (3, 3));
        let names: Vec<&Revoked> = entries.iter().map(|entry| &entry.revoked).collect();
        assert_eq!(names, [&subject("b"), &subject("a")]);
        let again = Revocations::new(10);
        for Revocation { revoked, revoked_unix_s, until_unix_s } in entries.clone() {
            again.revoke(revoked, revoked_unix_s, until_unix_s).expect("there is room");
        }
        assert_eq!(again.list().1, entries);
    }

    #[test]
    fn a_revocation_ends_with_the_tokens_that_it_bars() {
        let list = Revocations::new(10);
        revoke(&list, "a", 0, 100);
        revoke(&list, "b", 100, 200);
        assert_eq!(list.len(), 1, "the revocation of a is over");
        revoke(&list, "b", 150, 160);
        revoke(&list, "c", 190, 300);
        assert!(list.bars(&token("b"), 199), "a later revocation does not shorten an earlier one");
        assert!(!list.bars(&token("b"), 200));
    }
}
