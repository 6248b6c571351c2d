//! What the owner of an engine learns when a shard has panicked. This file has one test: it looks for the
//! shard's epoll instance in a descriptor table that other tests would share.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use fanfare::{
    Backend, Decision, DescriptorTables, Engine, PublishError, Request, StopError, StopFuture, Subscribe,
};
use fanfare::{Event, Topic};

/// Puts another file in the place of the epoll instance of the calling shard. The shard can serve no
/// connection without it, and so it panics.
fn break_this_shard() {
    let mut broken = 0;
    for entry in fs::read_dir("/proc/thread-self/fd").unwrap().flatten() {
        let is_epoll =
            fs::read_link(entry.path()).is_ok_and(|target| target.ends_with("anon_inode:[eventpoll]"));
        if is_epoll {
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            let null = File::open("/dev/null").unwrap();
            // SAFETY: the backend owns the number, and only waits with it and closes it, which any file
            // allows.
            assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), number) }, number);
            broken += 1;
        }
    }
    assert_eq!(broken, 1, "the epoll instance of one shard");
}

fn end_of(stop: StopFuture) -> Result<(), StopError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(stop)
}

/// A panic in a drain ended a server as if all were well.
#[test]
fn the_owner_of_an_engine_learns_of_a_panic() {
    let admission = |request: &Request<'_>| {
        if request.path() == "/break" {
            break_this_shard();
        }
        Decision::Subscribe(Subscribe::to([Topic::new("a").unwrap()]))
    };
    for backend in [Backend::Epoll, Backend::Auto] {
        for tables in [DescriptorTables::Private, DescriptorTables::Shared] {
            let position = std::env::temp_dir().join(format!("fanfare-broken-{}", std::process::id()));
            let engine = Engine::builder().shards(1).backend(backend).descriptor_tables(tables);
            let engine = engine.position_file(&position);
            // SAFETY: the descriptors that the admission uses are those of the calling thread.
            let engine = unsafe { engine.admission_on_shards(admission) };
            let engine = engine.listen("127.0.0.1:0".parse().unwrap()).start().unwrap();
            let mut streams: Vec<TcpStream> =
                (0..3).map(|_| TcpStream::connect(engine.addresses()[0]).unwrap()).collect();
            for stream in &mut streams[..2] {
                stream.write_all(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
                stream.read_exact(&mut [0; 12]).unwrap();
            }
            streams[2].write_all(b"GET /break HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            for stream in &mut streams {
                // Its end, or a reset: the shard is gone, and so are all connections that it had.
                let _ = stream.read_to_end(&mut Vec::new());
            }
            let event = || Event::new(Topic::new("a").unwrap()).with_data("late");
            // The shard closes its mailbox after its sockets.
            while engine.hub().publish(event()).map_err(|refused| refused.error) != Err(PublishError::Stopped)
            {
                std::thread::yield_now();
            }
            match tables {
                DescriptorTables::Private => assert!(engine.stop(Duration::ZERO).is_err()),
                _ => assert_eq!(end_of(engine.stop_async(Duration::ZERO)), Err(StopError::ShardPanicked)),
            }
            // The drop of the engine, behind the stop, wrote it.
            assert!(!position.exists(), "a panic is a crash, and leaves no position");
        }
    }
}
