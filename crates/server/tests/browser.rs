//! A real browser, once for each backend: the demo page (connect, publish, lose the server, resume), and what
//! pages of other origins can and cannot do, the demo page with tokens and signed URLs, and the dashboard.
//!
//! A scenario is a file of `browser/`. `run.mjs` there starts and kills the servers itself; this file only
//! makes it a test. Set `FANFARE_SCREENSHOTS` to a folder to see how the demo page looked at the end.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const HINT: &str = "run: cargo xtask test (it installs chromium and the node packages)";

// `cargo xtask test --no-browser` leaves out what is named `browser_on_...`.

#[test]
fn browser_on_epoll() {
    drive("demo", "epoll");
}

#[test]
fn browser_on_io_uring() {
    drive("demo", "io-uring");
}

#[test]
fn browser_on_epoll_with_pages_of_other_origins() {
    drive("origins", "epoll");
}

#[test]
fn browser_on_io_uring_with_pages_of_other_origins() {
    drive("origins", "io-uring");
}

#[test]
fn browser_on_epoll_with_a_token() {
    drive("token", "epoll");
}

#[test]
fn browser_on_io_uring_with_a_token() {
    drive("token", "io-uring");
}

#[test]
fn browser_on_epoll_with_the_dashboard() {
    drive("dashboard", "epoll");
}

#[test]
fn browser_on_io_uring_with_the_dashboard() {
    drive("dashboard", "io-uring");
}

/// A missing browser is a failure, never a silent pass: `cargo xtask test --no-browser` leaves these tests
/// out.
fn drive(scenario: &str, backend: &str) {
    // Two browsers at once: with more of them, a small machine is too slow for the waits of a scenario.
    static BROWSERS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
    let browser = &BROWSERS[usize::from(backend == "epoll")];
    let _browser = browser.lock().unwrap_or_else(PoisonError::into_inner);

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
    let chromium = env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    assert!(Path::new(&chromium).exists(), "there is no browser at {chromium}; {HINT}");
    assert!(folder.join("node_modules/playwright-core").exists(), "the node packages are missing; {HINT}");

    let run = Command::new("node")
        .arg(folder.join("run.mjs"))
        .args(["--server", env!("CARGO_BIN_EXE_fanfare"), "--backend", backend, "--scenario", scenario])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("node does not start: {error}; {HINT}"));
    assert!(
        run.status.success(),
        "the scenario {scenario} failed on {backend} ({}):\n{}{}",
        run.status,
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
}
