//! The limit of descriptors, which belongs to the whole process: this file has one test, so that no other one
//! runs in its process.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use fanfare::Engine;

/// The soft and the hard limit.
fn limits() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    (limit.rlim_cur, limit.rlim_max)
}

/// Each engine raised the limit unasked. A program that used `select(2)`, or whose children closed every
/// possible descriptor before they did anything else, was no longer the same when it embedded an engine.
#[test]
fn an_engine_raises_the_limit_of_its_process_only_where_it_is_told_to() {
    let (_, hard) = limits();
    let soft = hard.min(500) - 100;
    let lowered = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `lowered` is only read.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &lowered) }, 0);
    let found = soft as usize;

    let engine = Engine::builder().shards(1).start().unwrap();
    assert_eq!(limits(), (soft, hard));
    let limit = engine.descriptor_limit();
    assert_eq!((limit.found, limit.in_force), (found, found));
    assert!(engine.hub().limits().connections < found, "the bound fits the limit that is in force");
    drop(engine);

    let engine = Engine::builder().shards(1).raise_descriptor_limit(true).start().unwrap();
    assert_eq!(limits(), (hard, hard));
    let limit = engine.descriptor_limit();
    assert_eq!((limit.found, limit.in_force), (found, hard as usize));
}
