//! Audiences: all streams of a shard with the same subscription, and the sweeps that serve them.
//!
//! An event marks the audiences of its topics; it never touches a stream. A *sweep* then visits the members
//! and brings each from its cursor to the head, in slices, so that audiences can take turns. Events that
//! arrive meanwhile are picked up, in the same write, by the members not yet reached; the others get them in
//! the next pass.
//!
//! The order of calls: [`Audiences::begin_marking`] and [`Audiences::mark`] mark; [`Audiences::next_turn`]
//! names whose turn it is; [`Audiences::slice`] gives members that need the same frames, the caller sends
//! these to them and reports [`Audiences::advance`], then takes out those whose link was full
//! ([`Audiences::leave`]); [`Audiences::end_turn`] puts the audience back into its queue when it is not done.

mod marking;
mod subscription;
mod sweep;
mod table;

pub use subscription::Subscription;
pub use sweep::{Slice, Step, Turn};
pub use table::{Audiences, SweepBounds, TopicAudiences, Unread};

/// An audience's index in the table. Valid until its last stream has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AudienceId(pub(crate) u32);

/// A stream that is at, or on its way to, the head.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The socket to send to.
    pub socket: i32,
    /// The stream's slot.
    pub slot: u32,
    /// It has everything up to here. This may be beyond the newest event that its audience was marked with: a
    /// subscriber that comes from the log has what the log had.
    pub cursor: u64,
}

#[cfg(test)]
mod tests;
