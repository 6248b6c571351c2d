//! The numbers of events after a restart, by a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use fanfare::{Cursor, Decision, Engine, Event, Refusal, Request, StopError, Subscribe, Topic, testing};

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
    fs::write(&file, "000000000-7\n").unwrap();
    let failed = Engine::builder().listen(taken.local_addr().unwrap()).position_file(&file).start();
    assert!(failed.is_err());
    assert_eq!(start(&file).hub().head().to_string(), "000000000-7");
    assert_eq!(fs::read_to_string(&file).unwrap(), "000000000-7\n");
}

/// With both, an engine would begin with the same number after each crash.
#[test]
fn a_log_goes_on_by_a_file_or_by_the_caller() {
    let directory = Directory::new("both");
    let file = directory.0.join("position");
    let engine = Engine::builder().begin_after(Cursor::parse("000000001-1")).position_file(&file);
    let error = engine.start().err().unwrap().to_string();
    assert!(error.contains("begin after 000000001-1") && error.contains("position file"), "{error}");
}

/// What is no position stops the start, and says what to do.
#[test]
fn what_is_no_position_is_not_used() {
    let directory = Directory::new("garbage");
    let file = directory.0.join("position");
    let start = || Engine::builder().position_file(&file).start().err().map(|error| error.to_string());
    let zeros = "0".repeat(1 << 20);
    for garbage in [
        &b""[..],
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        // Perhaps a part of a higher number.
        b"000000abc-10",
        b"000000abc-10\n000000abc-11\n",
        b"000000abc-9223372036854775808\n",
        zeros.as_bytes(),
    ] {
        fs::write(&file, garbage).unwrap();
        let error = start().expect("it is garbage");
        assert!(error.contains(file.to_str().unwrap()) && error.contains("remove it"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), garbage, "it stays for the operator");
    }
    fs::remove_file(&file).unwrap();
    for other in [Path::new("/dev/zero"), &directory.0] {
        std::os::unix::fs::symlink(other, &file).unwrap();
        let error = start().expect("it is no file");
        assert!(error.contains("regular file") && error.contains("remove it"), "{error}");
        fs::remove_file(&file).unwrap();
    }
    let error = Engine::builder().position_file(directory.0.join("gone/position")).start().err().unwrap();
    assert!(error.to_string().contains("gone/position"), "{error}");
    assert_eq!(start(), None, "without a file the log begins anew");
}

/// An old and a new process of one service start at once: two engines that go on with one log would give each
/// number twice. The position was read first and removed much later.
#[test]
fn one_of_many_engines_takes_the_position() {
    let directory = Directory::new("many");
    let file = directory.0.join("position");
    fs::write(&file, "000000abc-7\n").unwrap();
    let together = Barrier::new(4);
    let engines: Vec<Engine> = thread::scope(|scope| {
        let starts: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    start(&file)
                })
            })
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let heads: Vec<String> = engines.iter().map(|engine| engine.hub().head().to_string()).collect();
    assert_eq!(heads.iter().filter(|head| *head == "000000abc-7").count(), 1, "{heads:?}");
    drop(engines);
    assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 1, "the file, and nothing else");
}

/// A subscriber was taken while the file was still there: an admission that published gave a number that the
/// next engine would have given again after a crash.
#[test]
fn no_number_is_given_while_the_file_is_there() {
    let directory = Directory::new("early");
    let file = directory.0.join("position");
    for _ in 0..8 {
        fs::write(&file, "000000abc-7\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut early = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        early.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let seen = Arc::new(Mutex::new(None));
        let (sees, path) = (Arc::clone(&seen), file.clone());
        let admission = move |_: &Request<'_>| {
            *sees.lock().unwrap() = Some(path.exists());
            Decision::Refuse(Refusal::new(403, "no"))
        };
        // SAFETY: the tables are shared.
        let builder = unsafe { Engine::builder().shards(8).admission_on_shards(admission) };
        let engine = builder.listener(listener).position_file(&file).start().unwrap();
        early.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(*seen.lock().unwrap(), Some(false));
        engine.stop(Duration::ZERO).unwrap();
    }
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
