//! The wall clock: the times in tokens are those of the world, and not those of the engine's own clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since the Unix epoch. To read it takes no descriptor.
#[allow(
    clippy::disallowed_methods,
    reason = "tokens expire by the wall clock, which the engine does not have"
)]
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
