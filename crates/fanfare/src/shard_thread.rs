//! Which threads are shards.
//!
//! An [`crate::Admission`] runs on a shard's thread, and may have a [`crate::Hub`]. If it waited there for
//! room in a mailbox or for an answer, it might wait for its own shard, which does nothing meanwhile; and two
//! shards of two engines might wait for each other. So no shard's thread waits, whichever engine's it is:
//! calls that would wait refuse.

use std::cell::Cell;

thread_local! {
    static IS_SHARD: Cell<bool> = const { Cell::new(false) };
}

/// Notes that the calling thread runs a shard, from now to its end.
pub(crate) fn begin() {
    IS_SHARD.set(true);
}

/// Whether the calling thread runs a shard of any engine: then it must not wait for one.
pub(crate) fn is_current() -> bool {
    IS_SHARD.get()
}
