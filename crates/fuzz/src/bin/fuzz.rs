//! libFuzzer over the target that `FANFARE_FUZZ_TARGET` names; started by `cargo xtask fuzz`.

#![no_main]

use std::sync::LazyLock;

use fanfare_fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FANFARE_FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| {
        eprintln!("FANFARE_FUZZ_TARGET={name}: no such target; use cargo xtask fuzz");
        std::process::exit(2)
    })
});

fuzz_target!(|input: &[u8]| (TARGET.check)(input));
