//! What the benchmarks share. They compare inside one run and report medians: no figure here means
//! anything without the one beside it, and no benchmark asserts on a time.
//!
//! [`engine`] starts what is measured; [`bare`] is what it is measured against; [`client`] reads what both
//! send, with the events of [`stamp`] in it, which [`paced`] publishes to a plan; [`connects`] only connects.
//! [`server_process`] is the server's binary.
//! [`machine`], [`steering`] and [`statistics`] say where it ran, keep the receive work away from the sender,
//! and reduce the figures.

pub mod bare;
pub mod client;
pub mod connects;
pub mod engine;
pub mod machine;
pub mod paced;
pub mod server_process;
pub mod stamp;
pub mod statistics;
pub mod steering;

use std::error::Error;
use std::process::ExitCode;

/// What a benchmark's `main` and its parts return.
pub type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Ends a benchmark: an error in words on standard error, and a failure's exit code.
pub fn finish(result: Outcome<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
