//! The numbers of events after a restart, by a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use fanfare::{Cursor, Engine, Event, StopError, Subscribe, Topic, testing};

const PATIENCE: Duration = Duration::from_secs(10);

/// A directory of this test alone, which is removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("fanfare-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn event(data: &str) -> Event {
    Event::new(Topic::new("a").unwrap()).with_data(data)
}

fn start(file: &PathBuf) -> Engine {
    Engine::builder().shards(1).position_file(file).start().unwrap()
}

#[test]
fn a_subscriber_resumes_after_a_restart_and_not_after_a_crash() {
    let directory = Directory::new("position");
    let file = directory.0.join("position");
    let engine = start(&file);
    let id = engine.hub().publish(event("before")).unwrap().last;
    engine.stop(Duration::ZERO).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), id);

    let engine = start(&file);
    let hub = engine.hub();
    assert!(!file.exists(), "a crash must leave no file");
    hub.publish(event("after")).unwrap();
    let again = || Subscribe::to([Topic::new("a").unwrap()]).with_resume(id.as_str());
    let mut client = testing::adopt(&hub, again()).unwrap();
    assert_eq!(client.header("fanfare-gap"), None);
    assert_eq!(client.next_wait(PATIENCE).unwrap().unwrap().data(), "after");
    // After a crash, too, there is no file: nothing has stopped this engine.
    let crashed = engine;

    let engine = start(&file);
    let client = testing::adopt(&engine.hub(), again()).unwrap();
    assert_eq!(client.header("fanfare-gap"), Some("true"));
    // An engine that is dropped stops, too.
    drop(engine);
    assert!(file.exists());
    drop(crashed);
}

#[test]
fn a_start_that_fails_leaves_the_file() {
    let directory = Directory::new("failed-start");
    let file = directory.0.join("position");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    fs::write(&file, "000000000-7").unwrap();
    let failed = Engine::builder().listen(taken.local_addr().unwrap()).position_file(&file).start();
    assert!(failed.is_err());
    let engine = Engine::builder().begin_after(Cursor::parse("000000001-1")).position_file(&file);
    assert_eq!(engine.start().unwrap().hub().head().to_string(), "000000000-7", "the file counts first");

    fs::write(&file, "nonsense").unwrap();
    let error = Engine::builder().position_file(&file).start().err().unwrap().to_string();
    assert!(error.contains("position") && error.contains("remove it"), "{error}");
    assert!(file.exists());
    fs::remove_file(&file).unwrap();
    let engine = Engine::builder().begin_after(Cursor::parse("000000001-1")).position_file(&file);
    assert_eq!(engine.start().unwrap().hub().head().to_string(), "000000001-1");
}

#[test]
fn a_position_that_cannot_be_written_is_told() {
    let directory = Directory::new("unwritten");
    let gone = directory.0.join("gone");
    fs::create_dir(&gone).unwrap();
    let engine = start(&gone.join("position"));
    fs::remove_dir(&gone).unwrap();
    let error = engine.stop(Duration::ZERO).unwrap_err();
    assert!(matches!(&error, StopError::Position { reason } if reason.contains("gone")), "{error}");
}
