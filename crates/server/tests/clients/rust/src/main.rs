//! `fanfare-client-trial CLIENT URL`: reqwest-eventsource.

use std::io::{Write, stdout};

fn main() {
    let Some(url) = std::env::args().nth(2) else {
        eprintln!("usage: fanfare-client-trial CLIENT URL");
        std::process::exit(2);
    };
    fanfare_client_trial::read(&url, |event| writeln!(stdout(), "{event}").is_ok());
}
