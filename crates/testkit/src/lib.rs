//! What the test tools of Fanfare share. It shares no code with what is under test.
//!
//! The tests of `proto` and `server`, the simulator, the fuzzers and torture read chunked bodies with the
//! strict [`chunks::ChunkReader`]. Two tools have readers of their own, because they have to be fast:
//!
//! - `loadtest` measures servers of others, so it also takes extensions, trailers, leading zeros and a
//!   bare LF.
//! - `bench` reads only the size lines of one engine, whose frames it knows.
//!
//! With the feature `nats`, the module `nats` starts real NATS servers on loopback addresses.

pub mod chunks;
#[cfg(feature = "nats")]
pub mod nats;
