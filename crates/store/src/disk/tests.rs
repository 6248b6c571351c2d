//! The store on disk, on real files and on those of [`super::power`].

mod bounds;
mod damage;
mod directories;
mod full;
mod lost;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::limits::{LogLimits, Retention};

use super::files::Files;
use super::power::Disk;
use super::verify::{salvage_files, verify, verify_files};
use super::{DiskStore, Options};
use crate::contract::{Bounds, Durability, Query, State, Store, StoreReader};
use crate::{Error, Record};

const ENOSPC: i32 = 28;

const EIO: i32 = 5;

fn ageless() -> LogLimits {
    let retention = Retention::default().with_age(Duration::MAX).with_events(usize::MAX);
    LogLimits::default().with_retention(retention.with_bytes(usize::MAX)).with_total_bytes(1 << 30)
}

fn record(number: u64) -> Record {
    let topics = [format!("t/{}", number % 7), "all".to_owned()].map(|name| Topic::new(name).unwrap());
    let [first, second] = topics;
    let event = Event::new(first).with_topic(second).unwrap().with_data(format!("{number:0>100}"));
    let event = event.with_id(EventId::new(number.to_string()).unwrap());
    Record { number, published_ms: number, event }
}

fn records(numbers: impl Iterator<Item = u64>) -> Vec<Record> {
    numbers.map(record).collect()
}

fn append(store: &DiskStore, records: &[Record]) {
    store.append(records, Durability::Commit).unwrap();
}

fn read_all(store: &DiskStore, query: Query<'_>) -> Result<Vec<Record>, Error> {
    let (mut records, mut at) = (Vec::new(), 0);
    loop {
        let page = store.read(query, at, Bounds::default())?;
        records.extend(page.records);
        at = page.up_to;
        if page.is_end {
            return Ok(records);
        }
    }
}

fn numbers(store: &DiskStore) -> Vec<u64> {
    read_all(store, Query::All).unwrap().iter().map(|record| record.number).collect()
}

/// A directory that is removed at the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Temporary {
        let path = std::env::temp_dir().join(format!("fanfare-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Temporary(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> Result<DiskStore, Error> {
    DiskStore::open(path, Options::new(ageless(), [1, 2, 3]))
}

#[test]
fn it_keeps_the_contract() {
    crate::conformance::all(&|limits| Box::new(Disk::default().open(limits).unwrap()));
    let disk = Disk::default();
    crate::conformance::it_is_the_same_after_it_is_opened_again(&|limits| {
        Box::new(disk.open(limits).unwrap())
    });
    // Asynchronous records need no write of the database once numbers are reserved: then only the file beside
    // it fails.
    for errno in [ENOSPC, EIO] {
        let disk = Disk::default();
        let store = disk.open(ageless()).unwrap();
        crate::conformance::a_failed_append_leaves_nothing_visible(&store, &|fails| {
            disk.fail_every_write(fails.then_some(errno));
            disk.fail_newest(fails.then_some(errno));
        });
    }
}

#[test]
fn everything_is_there_after_a_new_start() {
    let directory = Temporary::new("start");
    let path = directory.path().join("made/with/its/parents");
    let mut before: Option<State> = None;
    for round in 0..3 {
        let store = open(&path).unwrap();
        assert_eq!(store.opening().is_new, round == 0);
        assert_eq!((store.opening().was_repaired, &store.opening().cut), (false, &None));
        assert!(before.is_none_or(|before| before == store.state()));
        assert_eq!(numbers(&store), (1..=round * 200).collect::<Vec<_>>());
        let found = store.find(record(7).event.id().unwrap(), record(7).event.topics()).unwrap();
        assert_eq!(found, (round > 0).then(|| record(7)));
        append(&store, &records(round * 200 + 1..=round * 200 + 100));
        let group = records(round * 200 + 101..=round * 200 + 200);
        store.append(&group, Durability::Async).unwrap();
        assert_eq!((store.state().newest, store.state().synced), (round * 200 + 200, round * 200 + 100));
        before = Some(State { synced: store.state().newest, ..store.state() });
        drop(store);
    }
    let verified = verify(&path).unwrap();
    assert_eq!((verified.records, verified.topics, verified.newest), (600, 8, 600));
}

/// The index follows after 4,096 records: nothing differs before and behind that.
#[test]
fn records_are_read_and_found_while_they_move_from_the_tail_to_the_index() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    let mut next = 1;
    for _ in 0..100 {
        append(&store, &records(next..next + 100));
        next += 100;
        let one = next / 2;
        let page = store.read(Query::All, one, Bounds { records: 3, ..Bounds::default() }).unwrap();
        let read: Vec<u64> = page.records.iter().map(|record| record.number).collect();
        assert_eq!(read, (one + 1..next).take(3).collect::<Vec<_>>());
        let wanted = record(one);
        assert_eq!(store.find(wanted.event.id().unwrap(), wanted.event.topics()).unwrap(), Some(wanted));
    }
    assert_eq!(numbers(&store), (1..next).collect::<Vec<_>>());
    let of_topic = read_all(&store, Query::Topics(&[Topic::new("t/3").unwrap()])).unwrap();
    assert!(of_topic.iter().map(|record| record.number).eq((1..next).filter(|number| number % 7 == 3)));
}

/// Each publish with an own id looks for it first, and nearly always it is a new one.
#[test]
fn an_unknown_own_id_costs_the_same_in_a_long_log() {
    let disk = Disk::default();
    let store = disk.open_with_cache(ageless(), 0).unwrap();
    let topics = [Topic::new("t/1").unwrap(), Topic::new("all").unwrap()];
    let unknown = EventId::new("unknown").unwrap();
    let mut costs = Vec::new();
    for round in 0..20 {
        // Numbers that are far from each other, as after years.
        append(&store, &records((1..=100).map(|at| (round * 100 + at) << 24)));
        store.trim(0, 100).unwrap();
        let before = disk.reads();
        assert_eq!(store.find(&unknown, &topics).unwrap(), None);
        costs.push(disk.reads() - before);
    }
    assert!(costs.iter().all(|reads| *reads <= 10), "reads of the file: {costs:?}");
    let last = record(2000 << 24);
    assert_eq!(store.find(last.event.id().unwrap(), last.event.topics()).unwrap(), Some(last));
}

/// The process ends without closing the store, and what it had written is there.
fn killed(disk: &Disk, store: DiskStore) -> Disk {
    let copy = disk.copy();
    drop(store);
    copy
}

/// A copy of a directory that a process has open, as it is after an end at once.
fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn files_of(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_view_changes_nothing_and_leaves_the_report_of_a_crash() {
    let directory = Temporary::new("view");
    let (path, crashed) = (directory.path().join("open"), directory.path().join("crashed"));
    let store = open(&path).unwrap();
    append(&store, &records(1..=10));
    store.append(&records(11..=15), Durability::Async).unwrap();
    copied(&path, &crashed);
    let before = files_of(&crashed);
    let options = || Options::new(ageless(), [1, 2, 3]);
    for _ in 0..2 {
        let view = DiskStore::view(&crashed, options()).unwrap();
        assert_eq!(view.opening().cut.clone().unwrap().numbers, 11..=15);
        assert_eq!(numbers(&view), (1..=10).collect::<Vec<_>>());
        drop(view);
        assert!(files_of(&crashed) == before, "the directory has changed");
    }
    assert!(open(&crashed).unwrap().opening().cut.is_some());
    assert!(open(&crashed).unwrap().opening().cut.is_none());
    // None is made where there is none.
    let nothing = directory.path().join("nothing");
    for made in [false, true] {
        if made {
            fs::create_dir(&nothing).unwrap();
        }
        for opened in [DiskStore::view(&nothing, options()), DiskStore::open_existing(&nothing, options())] {
            let error = opened.err().unwrap();
            assert!(matches!(error, Error::NoStore { .. }), "{error}");
        }
        assert_eq!(nothing.exists(), made);
    }
    assert_eq!(files_of(&nothing).len(), 0);
}

/// A copy gives the numbers again that the store has given since: another epoch tells their ids apart.
#[test]
fn a_copy_gets_an_epoch_of_its_own() {
    let directory = Temporary::new("epoch");
    let (path, copy) = (directory.path().join("store"), directory.path().join("copy"));
    let store = open(&path).unwrap();
    append(&store, &records(1..=10));
    copied(&path, &copy);
    append(&store, &records(11..=20));
    let epoch = store.state().epoch;
    for random in [1, 5] {
        let store = open(&copy).unwrap();
        let before = store.state().epoch;
        let begun = store.begin_epoch(random).unwrap();
        assert!(begun != epoch && begun != before, "{begun}");
        assert_eq!(store.state().epoch, begun);
        drop(store);
        let store = open(&copy).unwrap();
        assert_eq!((store.state().epoch, store.state().newest), (begun, 10));
        assert!(store.find(record(7).event.id().unwrap(), record(7).event.topics()).unwrap().is_some());
    }
}

/// What own ids cost in a log of `FANFARE_OWN_IDS` records: where a commit or a search becomes slower with
/// the length of the log, this shows it.
#[test]
#[ignore = "a measurement: run it in the release profile with --nocapture"]
fn own_ids_of_a_long_log() {
    let count: u64 = std::env::var("FANFARE_OWN_IDS").map_or(10_000_000, |text| text.parse().unwrap());
    let directory = Temporary::new("own-ids");
    let store = open(directory.path()).unwrap();
    let topic = Topic::new("a").unwrap();
    let id = |number: u64| EventId::new(format!("order-{number}")).unwrap();
    let event = |number| Event::new(topic.clone()).with_id(id(number)).with_data(format!("{number:0>100}"));
    let record = |number| Record { number, published_ms: number, event: event(number) };
    let mut random = fastrand::Rng::with_seed(1);
    let mut next = 1;
    for part in 1..=5 {
        #[allow(clippy::disallowed_methods)] // It measures.
        let start = std::time::Instant::now();
        while next <= count * part / 5 {
            let group: Vec<Record> = (next..next + 256).map(record).collect();
            next += 256;
            store.append(&group, Durability::Async).unwrap();
        }
        let appended = start.elapsed();
        let finds = 2_000;
        let unknown = (0..finds).map(|number| id(u64::MAX - number));
        let known: Vec<EventId> = (0..finds).map(|_| id(random.u64(1..next))).collect();
        let [unknown, known] = [unknown.collect(), known].map(|ids| {
            #[allow(clippy::disallowed_methods)] // It measures.
            let start = std::time::Instant::now();
            let found =
                ids.iter().filter(|id| store.find(id, std::slice::from_ref(&topic)).unwrap().is_some());
            (found.count(), start.elapsed() / finds as u32)
        });
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let written =
            io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap_or_default().to_owned();
        let file = fs::metadata(directory.path().join("log.redb")).unwrap().len();
        println!(
            "{} records: the last {} took {appended:?}; find: {unknown:?} unknown, {known:?} known; \
             {written} bytes were written, the file has {file}",
            next - 1,
            count / 5
        );
    }
}

/// While others still have it: a server ends so.
#[test]
fn a_store_that_is_closed_need_not_be_checked_at_the_next_start() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..3));
    store.append(&records(3..5), Durability::Async).unwrap();
    assert!(disk.copy().open(ageless()).unwrap().opening().was_repaired);
    store.close().unwrap();
    assert!(matches!(store.append(&records(5..6), Durability::Commit), Err(Error::Broken { .. })));
    let again = disk.copy().open(ageless()).unwrap();
    assert_eq!((again.opening().was_repaired, &again.opening().cut), (false, &None));
    assert_eq!(numbers(&again), [1, 2, 3, 4]);
}
