//! Fanfare's protocol, without IO: no socket, no clock, no randomness, no `unsafe`.
//!
//! The way of an event through this crate:
//!
//! 1. [`event`]: what a publisher sends, checked; a bad topic, id or type cannot be constructed.
//! 2. [`frame`]: the event encoded once to wire bytes, shared by every shard.
//! 3. [`log`]: the recent frames of each topic, for the whole process; [`cursor`]: where a subscriber stands
//!    in them.
//! 4. [`delivery`]: one shard's streams as a state machine. Events come in, and it names what to send to
//!    which sockets, and when it wants to be called again.
//! 5. [`audience`]: who gets an event, and the sweep that brings members from their cursor to the head;
//!    [`window`] holds what a sweep still needs, [`run`] joins frames to what one send carries.
//! 6. [`link`] and [`stream`]: what a subscriber costs; [`laggard`]: what happens to a slow one, and
//!    [`unsent`]: what was begun on its link.
//!
//! [`head`] and [`subscribe`] read the request that makes a subscriber; [`proxy_header`] and
//! [`client_address`] read what proxies say of their clients; [`client_limits`], [`key_counts`] and [`rates`]
//! are what one client may have; [`decoder`] is the other side of the wire. [`pattern`] says which topics a
//! grant is for. [`problem`] has the kinds of refusals. [`limits`] holds every bound.

#![forbid(unsafe_code)]

#[macro_use]
mod setters;

pub mod audience;
pub mod client_address;
pub mod client_limits;
pub mod cursor;
pub mod decoder;
pub mod delivery;
pub mod event;
pub mod event_log;
pub mod form;
pub mod frame;
pub mod frames;
pub mod head;
pub mod histogram;
pub mod jitter;
pub mod json;
pub mod key_counts;
pub mod laggard;
pub mod limits;
pub mod link;
pub mod log;
mod memory_bounds;
pub mod pattern;
pub mod problem;
pub mod proxy_header;
pub mod rates;
pub mod run;
pub mod segment_map;
mod segments;
pub mod selection;
pub mod share;
pub mod shrink;
mod slot_table;
pub mod slots;
pub mod stream;
pub mod subscribe;
pub mod unsent;
pub mod window;
