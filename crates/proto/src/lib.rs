//! Fanfare's protocol, without IO: no socket, no clock, no randomness, no `unsafe`.
//!
//! The way of an event through this crate:
//!
//! 1. [`event`]: what a publisher sends, checked; a bad topic, id or type cannot be constructed.
//! 2. [`frame`]: the event encoded once to wire bytes, shared by every shard.
//! 3. [`log`]: the bounded, ordered recent frames; [`cursor`]: where a reader stands in them.
//! 4. [`audience`]: who gets it, and the sweep that brings members from their cursor to the head;
//!    [`window`] holds what a sweep still needs, [`run`] joins frames to what one send carries.
//! 5. [`connection`] and [`laggard`]: what a subscriber costs, and what happens to a slow one.
//!
//! [`head`] and [`subscribe`] read the request that makes a subscriber; [`decoder`] is the other side
//! of the wire. [`limits`] holds every bound.

#![forbid(unsafe_code)]

pub mod audience;
pub mod cursor;
pub mod decoder;
pub mod delivery;
pub mod event;
pub mod event_log;
pub mod form;
pub mod frame;
pub mod frames;
pub mod head;
pub mod jitter;
pub mod json;
pub mod laggard;
pub mod limits;
pub mod link;
pub mod log;
pub mod run;
pub mod shrink;
pub mod stream;
pub mod subscribe;
pub mod window;
