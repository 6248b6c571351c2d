//! What the black-box tests share: a server under test, a raw HTTP client, and a subscriber.
//!
//! Nothing here sleeps to be in step with the server. A stream's head means that its subscription stands; the
//! order of events is total, so a *marker* published last proves what did not come before it; everything else
//! is polled with a bound ([`eventually`]). The bounds are wide: they end a test that hangs, they do not
//! judge speed.

// Each test program uses its part of this.
#![allow(dead_code, unused_imports, unused_macros)]

pub(crate) mod described;
pub(crate) mod endpoint;
pub(crate) mod file;
pub(crate) mod http;
pub(crate) mod nats;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod tokens;

use std::env;
use std::fmt;
use std::time::{Duration, Instant};

pub(crate) use http::{Connection, Response};
pub(crate) use server::{Publisher, Server};
pub(crate) use stream::{End, Event, Item, Subscriber};

/// What only the control plane answers.
pub(crate) const CONTROL_PATH: &str = "/style.css";

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The backend that a server under test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Epoll,
    IoUring,
}

impl Backend {
    /// io_uring, unless the environment says that this machine has none: `FANFARE_NO_IO_URING=1`.
    pub(crate) fn io_uring() -> Option<Backend> {
        if env::var("FANFARE_NO_IO_URING").is_ok_and(|value| value == "1") {
            println!("skipped: FANFARE_NO_IO_URING=1 says that there is no io_uring here");
            return None;
        }
        Some(Backend::IoUring)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Epoll => "epoll",
            Backend::IoUring => "io-uring",
        })
    }
}

/// Makes two tests of each function, `NAME::epoll` and `NAME::io_uring`.
macro_rules! on_both_backends {
    ($($(#[$meta:meta])* fn $name:ident($backend:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            fn scenario($backend: Backend) $body

            #[test]
            fn epoll() {
                scenario(Backend::Epoll);
            }

            #[test]
            fn io_uring() {
                if let Some(backend) = Backend::io_uring() {
                    scenario(backend);
                }
            }
        }
    )*};
}
pub(crate) use on_both_backends;

/// The clock. Tests bound their waits by it.
#[allow(clippy::disallowed_methods, reason = "tests have no clock passed to them")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Polls until `check` gives something, and panics with `what` if it does not in time.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Random numbers that repeat from their seed (xorshift*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// A seed that is new in each run, unless `FANFARE_SEED` names one. A test that uses it prints it.
pub(crate) fn seed() -> u64 {
    match env::var("FANFARE_SEED") {
        Ok(seed) => seed.parse().expect("FANFARE_SEED is a number"),
        Err(_) => {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(0) >> 32
        }
    }
}
