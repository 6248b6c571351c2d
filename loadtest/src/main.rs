//! The load test for any SSE server. See README.md: it is not written yet.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("fanfare-load: not written yet; see loadtest/README.md");
    ExitCode::FAILURE
}
