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
use crate::contract::{Bounds, Durability, Query, State, Store};
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

#[test]
fn a_directory_is_open_once() {
    let directory = Temporary::new("lock");
    let first = open(directory.path()).unwrap();
    let second = open(directory.path()).err().unwrap();
    assert!(matches!(&second, Error::InUse { .. }), "{second}");
    assert!(matches!(verify(directory.path()), Err(Error::InUse { .. })));
    drop(first);
    open(directory.path()).unwrap();
}

#[test]
fn what_is_not_a_store_is_refused_and_stays_as_it_is() {
    let directory = Temporary::new("refused");
    let path = directory.path();
    let file = path.join("file");
    fs::write(&file, "text").unwrap();
    let error = |path: &Path| open(path).err().unwrap();
    assert!(matches!(error(&file), Error::NotADirectory { .. }));
    assert!(matches!(error(&file.join("below")), Error::NotADirectory { .. }));
    let other = error(path);
    assert!(matches!(&other, Error::NotAStore { found, .. } if found == "file"), "{other}");
    assert!(matches!(verify(path), Err(Error::NoStore { .. })));
    let nothing = path.join("nothing");
    assert!(matches!(verify(&nothing), Err(Error::NoStore { .. })) && !nothing.exists());
    let names = |path: &Path| -> Vec<String> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(path), ["file"]);

    // A database without the marker may be any other program's.
    let database = path.join("database");
    fs::create_dir(&database).unwrap();
    fs::write(database.join("log.redb"), "text").unwrap();
    assert!(matches!(error(&database), Error::NotAStore { .. }));

    let store = path.join("store");
    drop(open(&store).unwrap());
    fs::write(store.join("fanfare-store"), "fanfare-store 3\n").unwrap();
    let newer = error(&store);
    assert!(matches!(newer, Error::Newer { found: 3, supported: 2, .. }), "{newer}");
    fs::write(store.join("fanfare-store"), "fanfare-store 1\n").unwrap();
    let older = error(&store);
    assert!(matches!(older, Error::Older { found: 1, supported: 2, .. }), "{older}");
    assert!(older.to_string().contains("fanfare log export"), "{older}");
    fs::write(store.join("fanfare-store"), "something else\n").unwrap();
    assert!(matches!(error(&store), Error::NotAStore { .. }));
    fs::write(store.join("fanfare-store"), "fanfare-store 2\n").unwrap();
    drop(open(&store).unwrap());
    fs::write(store.join("log.redb"), "this is not a database, but long enough to be one ".repeat(100))
        .unwrap();
    let damaged = error(&store);
    assert!(matches!(&damaged, Error::Corrupt { place, .. } if place.contains("beginning")), "{damaged}");
}

#[test]
fn a_link_leads_to_the_same_store_and_one_without_an_end_is_refused() {
    let directory = Temporary::new("links");
    let (path, link) = (directory.path().join("store"), directory.path().join("link"));
    let store = open(&path).unwrap();
    append(&store, &records(1..=3));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(open(&link), Err(Error::InUse { .. })));
    drop(store);
    assert_eq!(numbers(&open(&link).unwrap()), [1, 2, 3]);
    let dangling = directory.path().join("dangling");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &dangling).unwrap();
    let refused = open(&dangling).err().unwrap().to_string();
    assert!(refused.contains("dangling"), "{refused}");
}

/// A file system that is mounted read-only, which is taken away at the end.
struct ReadOnlyMount(PathBuf);

impl ReadOnlyMount {
    fn new(path: PathBuf) -> Option<ReadOnlyMount> {
        fs::create_dir(&path).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "ro,size=1M", "none"]).arg(&path).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success()).then_some(ReadOnlyMount(path))
    }
}

impl Drop for ReadOnlyMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_that_is_mounted_read_only_is_refused_with_what_to_do() {
    let directory = Temporary::new("read-only");
    let Some(mount) = ReadOnlyMount::new(directory.path().join("mount")) else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    for path in [mount.0.clone(), mount.0.join("below")] {
        let refused = open(&path).err().unwrap();
        assert!(matches!(refused, Error::ReadOnly { .. }), "{refused}");
        assert!(refused.to_string().contains("mount it for writing"), "{refused}");
    }
}

/// The rights of a directory are for users other than root.
#[test]
fn a_directory_of_another_owner_is_refused_with_what_to_do() {
    let directory = Temporary::new("denied");
    let path = directory.path().join("store");
    drop(open(&path).unwrap());
    let rights = std::os::unix::fs::PermissionsExt::from_mode;
    fs::set_permissions(&path, rights(0o500)).unwrap();
    fs::set_permissions(path.join("lock"), rights(0o400)).unwrap();
    let opened = open(&path);
    fs::set_permissions(&path, rights(0o700)).unwrap();
    if std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).unwrap()) == 0 {
        println!("skipped: the rights of files do not hold for root");
        return;
    }
    let refused = opened.err().unwrap();
    assert!(matches!(refused, Error::Denied { .. }), "{refused}");
    assert!(refused.to_string().contains("give its user both rights"), "{refused}");
}

#[test]
fn a_start_that_was_cut_off_is_made_again() {
    let directory = Temporary::new("begun");
    for files in [&["lock"][..], &["lock", "fanfare-store.new"], &["lock", "log.redb.new"]] {
        let path = directory.path().join(files.len().to_string() + files[files.len() - 1]);
        fs::create_dir(&path).unwrap();
        for file in files {
            fs::write(path.join(file), "half").unwrap();
        }
        let store = open(&path).unwrap();
        assert!(store.opening().is_new);
        append(&store, &records(1..3));
    }
}

#[test]
fn system_errors_become_errors_with_advice() {
    let path = Path::new("/store");
    let error = |errno| Error::from_io("open", path, std::io::Error::from_raw_os_error(errno));
    for (errno, advice) in [
        (13, "give its user both rights"),
        (20, "is not a directory"),
        (28, "free some space"),
        (122, "free some space"),
        (30, "mount it for writing"),
        (5, "check the disk"),
    ] {
        let text = error(errno).to_string();
        assert!(text.contains(advice) && text.contains("/store"), "{text}");
    }
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_room() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    // More than the cache has room for.
    let mut large = records(1..=2000);
    for record in &mut large {
        record.event = record.event.clone().with_data("x".repeat(2000));
    }
    for group in large.chunks(100) {
        append(&store, group);
    }
    let mut next = 2001;
    for round in 0..3 {
        disk.set_capacity(Some(disk.bytes() + 20_000));
        let full = loop {
            let group = records(next..next + 100);
            match store.append(&group, Durability::Commit) {
                Ok(()) => next += 100,
                Err(error) => break error,
            }
            assert!(next < 100_000, "the disk is never full");
        };
        assert!(matches!(full, Error::Full { .. }) && full.is_passing(), "{full}");
        assert_eq!(store.state().newest, next - 1);
        assert_eq!(numbers(&store), (1..next).collect::<Vec<_>>(), "round {round}");
        disk.set_capacity(None);
        append(&store, &records(next..next + 20));
        next += 20;
    }
    assert_eq!(numbers(&store), (1..next).collect::<Vec<_>>());
    drop(store);
    assert_eq!(verify_files(&disk).unwrap().records, next - 1);
}

/// The store asks before it writes, so that the database need not be opened again.
#[test]
fn an_append_is_refused_before_the_disk_is_full_and_a_trim_is_not() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=100));
    disk.set_free_bytes(super::FREE_BYTES);
    for durability in [Durability::Commit, Durability::Async] {
        let full = store.append(&records(101..=110), durability).unwrap_err();
        assert!(matches!(&full, Error::Full { path } if path == Path::new("memory")), "{full}");
    }
    store.set_limits(ageless().with_retention(Retention::default().with_events(1)));
    while store.trim(0, 100).unwrap().more {}
    assert_eq!(store.state().records, 7);
    disk.set_free_bytes(2 * super::FREE_BYTES);
    append(&store, &records(101..=110));
    assert_eq!(store.state().records, 17);
}

/// There is not even the room to open the database again: the next append does it.
#[test]
fn a_disk_without_any_room_is_tried_again() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=100));
    store.append(&records(101..=110), Durability::Async).unwrap();
    for _ in 0..3 {
        disk.fail_every_write(Some(ENOSPC));
        let full = store.append(&records(111..=120), Durability::Commit).unwrap_err();
        assert!(matches!(&full, Error::Full { .. }), "{full}");
        let full = store.trim(0, 10).unwrap_err();
        assert!(matches!(full, Error::Full { .. }), "{full}");
    }
    disk.fail_every_write(None);
    assert_eq!((store.state().newest, store.state().synced), (110, 100));
    append(&store, &records(111..=120));
    assert_eq!(numbers(&store), (1..=120).collect::<Vec<_>>());
    drop(store);
    let store = disk.open(ageless()).unwrap();
    assert_eq!((numbers(&store).len(), &store.opening().cut), (120, &None));
}

/// The database writes also behind its commit. Whichever write finds no room, readers see the group if the
/// append has succeeded, and never after it was refused.
#[test]
fn an_append_that_finds_no_room_is_there_as_it_was_answered() {
    let mut stored_all_the_same = 0;
    for (cache, goes_on) in [(0, false), (0, true), (1 << 20, false), (1 << 20, true)] {
        for writes in 0.. {
            let disk = Disk::default();
            let store = disk.open_with_cache(ageless(), cache).unwrap();
            for first in (1..400).step_by(20) {
                append(&store, &records(first..first + 20));
            }
            store.trim(0, 100).unwrap();
            append(&store, &records(401..=420));
            match goes_on {
                true => disk.fail_writes_after(writes, ENOSPC),
                false => disk.fail_write(writes, ENOSPC),
            }
            let group = records(421..=440);
            let result = store.append(&group, Durability::Commit);
            let has_failed = disk.has_failed();
            disk.fail_every_write(None);
            let expected = match &result {
                Ok(()) => 440,
                Err(error) => {
                    assert!(error.is_passing(), "{writes} writes, {cache}, {goes_on}: {error}");
                    420
                }
            };
            stored_all_the_same += u64::from(result.is_ok() && has_failed);
            // The next call opens the database again where that has not been possible.
            store.trim(0, 1).unwrap();
            assert!(numbers(&store).into_iter().eq(1..=expected), "{writes} writes, {cache}: {result:?}");
            assert_eq!(store.state().records, expected);
            append(&store, &records(expected + 1..=expected + 10));
            drop(store);
            let store = disk.open(ageless()).unwrap();
            assert!(numbers(&store).into_iter().eq(1..=expected + 10), "{writes} writes, {cache}");
            drop(store);
            verify_files(&disk).unwrap();
            if !has_failed {
                break;
            }
        }
    }
    assert!(stored_all_the_same > 0, "no write has failed behind a commit");
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_taken_until_a_new_start() {
    for fails_sync in [false, true] {
        for after in 0..3 {
            let disk = Disk::default();
            let store = disk.open(ageless()).unwrap();
            append(&store, &records(1..=50));
            match fails_sync {
                false => disk.fail_write(after, EIO),
                true => disk.fail_sync(0, if after == 0 { EIO } else { ENOSPC }),
            }
            let failed = store.append(&records(51..=60), Durability::Commit).unwrap_err();
            assert!(matches!(failed, Error::Broken { .. }), "{failed}");
            let again = [
                store.append(&records(51..=60), Durability::Async),
                store.sync(),
                store.trim(0, 10).map(|_| ()),
            ];
            assert!(again.iter().all(|result| matches!(result, Err(Error::Broken { .. }))));
            assert_eq!((store.state().newest, store.state().records), (50, 50));
            drop(store);
            let store = disk.open(ageless()).unwrap();
            let there = numbers(&store);
            assert!(there == (1..=50).collect::<Vec<_>>() || there == (1..=60).collect::<Vec<_>>());
            let next = store.state().newest + 1;
            append(&store, &records(next..next + 1));
        }
    }
}

/// The process ends without closing the store, and what it had written is there.
fn killed(disk: &Disk, store: DiskStore) -> Disk {
    let copy = disk.copy();
    drop(store);
    copy
}

#[test]
fn asynchronous_records_that_are_lost_are_told_and_their_numbers_are_not_given_again() {
    let disk = Disk::default();
    disk.set_boot(1);
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=10));
    store.append(&records(11..=15), Durability::Async).unwrap();
    let disk = killed(&disk, store);
    // After a new start of the machine, more may be missing than is known.
    let restarted = disk.copy();
    restarted.set_boot(2);
    let cut = restarted.open(ageless()).unwrap().opening().cut.clone().unwrap();
    assert!(*cut.numbers.start() == 11 && *cut.numbers.end() > 1000, "{cut}");
    let store = disk.open(ageless()).unwrap();
    let opening = store.opening();
    assert!(opening.was_repaired && !opening.is_new);
    let cut = opening.cut.clone().unwrap();
    let bytes: usize =
        records(11..=15).iter().map(|record| crate::encoding::event_bytes(&record.event)).sum();
    assert_eq!((cut.numbers.clone(), cut.lost, cut.was_durable), (11..=15, Some((5, bytes as u64)), false));
    assert!(store.state().newest > *cut.numbers.end());
    assert_eq!(numbers(&store), (1..=10).collect::<Vec<_>>());
    // A subscriber that has seen number 12 is told of a gap.
    for query in [Query::All, Query::Topics(&[Topic::new("never seen").unwrap()])] {
        assert_eq!(store.read(query, 12, Bounds::default()).unwrap().gone.newest, 15);
    }
    assert!(matches!(store.append(&records(15..=15), Durability::Commit), Err(Error::Order { .. })));
    let next = store.state().newest + 1;
    append(&store, &records(next..next + 1));
    // A store of which nothing is lost says so, although numbers were reserved.
    append(&store, &[]);
    store.append(&records(next + 1..next + 2), Durability::Async).unwrap();
    store.sync().unwrap();
    let next = next + 1;
    let disk = killed(&disk, store);
    let store = disk.open(ageless()).unwrap();
    assert_eq!((store.opening().was_repaired, &store.opening().cut), (true, &None));
    assert!(store.state().newest > next);
}

/// The file beside the database was lost, or could not be written: the numbers of asynchronous records that
/// were seen are free all the same never.
#[test]
fn numbers_that_were_seen_are_not_given_again_whatever_the_file_of_the_newest_says() {
    for commits in [false, true] {
        let disk = Disk::default();
        disk.set_boot(1);
        let store = disk.open(ageless()).unwrap();
        append(&store, &records(1..=10));
        store.append(&records(11..=12), Durability::Async).unwrap();
        let mut before = Vec::new();
        disk.copy().damage_newest(|bytes| before = bytes.clone());
        store.append(&records(13..=15), Durability::Async).unwrap();
        if commits {
            store.sync().unwrap();
            store.append(&records(16..=20), Durability::Async).unwrap();
        }
        let seen = store.state().newest;
        // The device came off, and what was not synced is gone, and the machine goes on.
        let disk = killed(&disk, store);
        disk.damage_newest(|bytes| *bytes = before);
        let store = disk.open(ageless()).unwrap();
        assert!(store.state().newest >= seen, "{}", store.state().newest);
        let cut = store.opening().cut.clone().unwrap();
        // It is older than the database: what it says of the end is of no use.
        assert_eq!(cut.lost.is_none() && *cut.numbers.end() >= seen, commits, "{cut}");
    }
}

#[test]
fn asynchronous_records_are_refused_where_their_number_cannot_be_noted() {
    let disk = Disk::default();
    disk.set_boot(1);
    let store = disk.open(ageless()).unwrap();
    store.append(&records(1..=5), Durability::Async).unwrap();
    for (errno, is_passing) in [(30, false), (EIO, false), (ENOSPC, true)] {
        disk.fail_newest(Some(errno));
        let refused = store.append(&records(6..=9), Durability::Async).unwrap_err();
        assert_eq!(refused.is_passing(), is_passing, "{refused}");
        assert_eq!((store.state().newest, store.state().records), (5, 5));
        assert_eq!(numbers(&store), (1..=5).collect::<Vec<_>>());
    }
    disk.fail_newest(None);
    store.append(&records(6..=9), Durability::Async).unwrap();
    // A commit is in the database, so it does not need the file.
    disk.fail_newest(Some(EIO));
    append(&store, &records(10..=12));
    let disk = killed(&disk, store);
    let store = disk.open(ageless()).unwrap();
    assert_eq!((store.opening().cut.clone(), numbers(&store)), (None, (1..=12).collect()));
}

/// Numbers that an earlier asynchronous run has reserved are no lost records of a later run that commits.
#[test]
fn a_power_cut_loses_nothing_where_every_record_was_committed() {
    let disk = Disk::default();
    disk.set_boot(1);
    let store = disk.open(ageless()).unwrap();
    store.append(&records(1..=5), Durability::Async).unwrap();
    append(&store, &records(6..=10));
    let without_power = |disk: &Disk, store| {
        let disk = killed(disk, store);
        disk.set_boot(2);
        disk
    };
    let store = without_power(&disk, store).open(ageless()).unwrap();
    assert_eq!((&store.opening().cut, store.state().newest), (&None, 10));
    // The process has ended while there was a reserve.
    store.append(&records(11..=15), Durability::Async).unwrap();
    store.sync().unwrap();
    let disk = killed(&disk, store);
    let store = disk.open(ageless()).unwrap();
    let next = store.state().newest + 1;
    append(&store, &records(next..=next));
    let store = without_power(&disk, store).open(ageless()).unwrap();
    assert_eq!((&store.opening().cut, store.state().newest), (&None, next));
}

#[test]
fn committed_records_that_the_disk_has_lost_are_told() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=10));
    let old = disk.copy();
    append(&store, &records(11..=15));
    drop(store);
    // The database is an old one, and the file beside it is not.
    let mut newest = Vec::new();
    disk.damage_newest(|bytes| newest = bytes.clone());
    old.damage_newest(|bytes| *bytes = newest);
    assert!(matches!(verify_files(&old), Err(Error::Corrupt { .. })));
    let store = old.open(ageless()).unwrap();
    let cut = store.opening().cut.clone().unwrap();
    assert_eq!((cut.numbers.clone(), cut.lost.unwrap().0, cut.was_durable), (11..=15, 5, true));
    assert!(cut.to_string().contains("5 records") && cut.to_string().contains("check it"), "{cut}");
    assert_eq!((store.state().newest, store.state().records), (15, 10));
    drop(store);
    // It is told once.
    assert_eq!(old.open(ageless()).unwrap().opening().cut, None);
    verify_files(&old).unwrap();
}

/// Where the bytes of a record's data are in the file.
fn place_of(disk: &Disk, number: u64) -> Vec<usize> {
    let wanted = format!("{number:0>100}");
    let mut places = Vec::new();
    disk.damage(|bytes| {
        let found = bytes.windows(wanted.len()).enumerate().filter(|(_, part)| *part == wanted.as_bytes());
        places.extend(found.map(|(at, _)| at));
    });
    places
}

#[test]
fn a_damaged_record_in_the_middle_is_an_error_that_names_the_place() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    for first in (1..1000).step_by(50) {
        append(&store, &records(first..first + 50));
    }
    drop(store);
    let places = place_of(&disk, 420);
    assert!(!places.is_empty());
    disk.damage(|bytes| places.iter().for_each(|at| bytes[*at] ^= 1));
    let store = disk.open(ageless()).unwrap();
    let error = read_all(&store, Query::All).unwrap_err();
    assert!(error.to_string().contains("record 401: the checksum"), "{error}");
    let error = read_all(&store, Query::Topics(&[Topic::new("t/0").unwrap()])).unwrap_err();
    assert!(error.to_string().contains("record 401"), "{error}");
    // What is not damaged is read.
    let page = store.read(Query::All, 450, Bounds::default()).unwrap();
    assert_eq!(page.records[0].number, 451);
    drop(store);
    let error = verify_files(&disk).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn a_damaged_end_is_cut_and_told() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=50));
    store.trim(0, 10).unwrap();
    for first in [51, 61, 71] {
        append(&store, &records(first..first + 10));
    }
    let (disk, _) = killed_and_damaged(&disk, store, 75);
    let store = disk.open(ageless()).unwrap();
    let cut = store.opening().cut.clone().unwrap();
    let bytes: usize =
        records(71..=80).iter().map(|record| crate::encoding::event_bytes(&record.event)).sum();
    assert_eq!((cut.numbers, cut.lost, cut.was_durable), (71..=80, Some((10, bytes as u64)), true));
    assert_eq!(numbers(&store), (1..=70).collect::<Vec<_>>());
    assert_eq!(store.read(Query::All, 75, Bounds::default()).unwrap().gone.newest, 80);
    append(&store, &records(81..=81));
    drop(store);
    verify_files(&disk).unwrap();
}

/// The process ends at once. The file is closed by another one, so that the damage of this record is not a power
/// cut's.
fn killed_and_damaged(disk: &Disk, store: DiskStore, number: u64) -> (Disk, Vec<usize>) {
    let disk = killed(disk, store);
    let file = super::files::Watched::new(Files::database(&disk).unwrap(), Arc::default());
    drop(redb::Database::builder().create_with_backend(file).unwrap());
    let places = place_of(&disk, number);
    assert!(!places.is_empty());
    disk.damage(|bytes| places.iter().for_each(|at| bytes[*at] ^= 0x20));
    (disk, places)
}

/// What `salvage` gives: the numbers of the records, and the places that are damaged.
fn salvaged(disk: &Disk) -> (Vec<u64>, Vec<String>) {
    let (mut numbers, mut damaged) = (Vec::new(), Vec::new());
    let ended = salvage_files::<Error>(disk, |found| {
        match found {
            Ok(found) => {
                assert_eq!(found, record(found.number));
                numbers.push(found.number);
            }
            Err(damage) => damaged.push(damage.to_string()),
        }
        Ok(())
    });
    ended.unwrap();
    (numbers, damaged)
}

#[test]
fn damage_before_whole_records_is_refused_and_what_is_whole_is_salvaged() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=50));
    store.trim(0, 10).unwrap();
    for first in [51, 61, 71] {
        append(&store, &records(first..first + 10));
    }
    let (disk, places) = killed_and_damaged(&disk, store, 65);
    for _ in 0..2 {
        let refused = disk.open(ageless()).err().unwrap();
        let text = refused.to_string();
        assert!(matches!(refused, Error::Corrupt { .. }), "{text}");
        for part in ["begins with record 61", "from 71 to 80 behind it are whole", "fanfare log salvage"] {
            assert!(text.contains(part), "{text}");
        }
        let (numbers, damaged) = salvaged(&disk);
        assert_eq!(numbers, (1..=60).chain(71..=80).collect::<Vec<_>>());
        assert!(damaged.len() == 1 && damaged[0].contains("begins with record 61"), "{damaged:?}");
    }
    // Nothing was given up: with the right bytes everything is there.
    disk.damage(|bytes| places.iter().for_each(|at| bytes[*at] ^= 0x20));
    let store = disk.open(ageless()).unwrap();
    assert_eq!((&store.opening().cut, numbers(&store)), (&None, (1..=80).collect()));
}

/// A page of the tree is damaged, and not a group alone: what can be reached is there.
#[test]
fn salvage_gives_what_damaged_pages_have_left() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    for first in (1..1000).step_by(50) {
        append(&store, &records(first..first + 50));
    }
    drop(store);
    assert_eq!(salvaged(&disk), ((1..=1000).collect(), Vec::new()));
    let mut random = fastrand::Rng::with_seed(11);
    let mut with_rest = 0;
    for _ in 0..100 {
        let damaged = disk.copy();
        let pages = damaged.bytes() / 4096;
        // The first page says where everything is.
        let page = random.usize(1..pages);
        damaged.damage(|bytes| bytes[page * 4096..(page + 1) * 4096].fill(0xee));
        let result = salvage_files::<Error>(&damaged, |_| Ok(()));
        if result.is_err() {
            continue;
        }
        let (numbers, places) = salvaged(&damaged);
        assert!(numbers.is_sorted() && (numbers.len() == 1000 || !places.is_empty()), "page {page}");
        with_rest += u32::from(!places.is_empty() && !numbers.is_empty());
    }
    assert!(with_rest > 0);
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

/// A bit that is changed is found by the check, or changes nothing.
#[test]
fn changed_bits_are_found_wherever_they_are() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    for first in (1..300).step_by(30) {
        append(&store, &records(first..first + 30));
    }
    store.trim(0, 10).unwrap();
    append(&store, &records(301..=310));
    drop(store);
    let whole = verify_files(&disk).unwrap();
    assert_eq!(whole.records, 310);
    let mut random = fastrand::Rng::with_seed(7);
    let bits = 8 * disk.bytes();
    let mut found = 0;
    // The database panics on some of them, and says so.
    for _ in 0..400 {
        let bit = random.usize(..bits);
        let damaged = disk.copy();
        damaged.damage(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        match verify_files(&damaged) {
            Err(Error::Corrupt { .. }) => found += 1,
            Err(other) => panic!("bit {bit}: {other}"),
            Ok(verified) => {
                assert_eq!(verified, whole, "bit {bit}");
                let store = damaged.open(ageless()).unwrap();
                let read = read_all(&store, Query::All).unwrap();
                assert!(read == records(1..=310), "bit {bit}");
            }
        }
    }
    assert!(found > 100, "{found} of 400 bits");
}

#[test]
fn a_smaller_retention_goes_in_slices() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    for first in (1..2000).step_by(100) {
        append(&store, &records(first..first + 100));
    }
    drop(store);
    let few = Retention::default().with_age(Duration::MAX).with_events(5);
    let store = disk.open(ageless().with_retention(few)).unwrap();
    assert_eq!(store.state().records, 2000);
    let mut slices = 0;
    while store.trim(0, 50).unwrap().more {
        slices += 1;
    }
    assert!(slices > 50, "{slices}");
    let expected: Vec<u64> = (2000 - 34..=2000).collect();
    assert_eq!(numbers(&store), expected);
    store.set_limits(ageless().with_retention(few.with_events(0)));
    while store.trim(0, 50).unwrap().more {}
    assert_eq!((store.state().records, store.state().oldest, store.state().bytes), (0, 0, 0));
    drop(store);
    assert_eq!(verify_files(&disk).unwrap().records, 0);
}

/// The formula in the module's documentation.
#[test]
fn the_file_is_bounded() {
    const TOTAL: usize = 2 << 20;
    let disk = Disk::default();
    let store = disk.open(ageless().with_total_bytes(TOTAL)).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let (mut next, mut largest) = (1, 0);
    for round in 0..1500 {
        let mut group = records(next..next + random.u64(1..60));
        for record in &mut group {
            record.event = record.event.clone().with_data("x".repeat(random.usize(..400)));
        }
        next += group.len() as u64;
        append(&store, &group);
        // Appends make room themselves: the second half has no trims.
        if round < 750 && round % 10 == 0 {
            while store.trim(0, 1000).unwrap().more {}
            assert!(store.state().bytes <= TOTAL as u64);
        }
        largest = largest.max(disk.bytes());
    }
    let bound = 2 * (TOTAL / 8 * 9 + (16 << 20)) + 160 * 8;
    assert!(largest <= bound, "{largest} of {bound} bytes");
    assert!(largest <= 5 * TOTAL, "{largest} bytes");
    drop(store);
    verify_files(&disk).unwrap();
}

/// Once, the pass over all topics took every step of a trim, an append made room for a few topics of each record,
/// and names were not charged: with events of 64 new topics the file grew without an end.
#[test]
fn the_file_is_bounded_with_events_of_many_new_topics() {
    const TOTAL: usize = 2 << 20;
    let disk = Disk::default();
    let store = disk.open(ageless().with_total_bytes(TOTAL)).unwrap();
    let (mut number, mut largest) = (0, 0);
    for round in 0..250 {
        let group: Vec<Record> = (0..8)
            .map(|_| {
                number += 1;
                let name = |topic: usize| Topic::new(format!("{number}/{topic}/{:0>200}", "")).unwrap();
                let mut event = Event::new(name(0)).with_data("x");
                for topic in 1..64 {
                    event = event.with_topic(name(topic)).unwrap();
                }
                Record { number, published_ms: number, event }
            })
            .collect();
        append(&store, &group);
        // As often as the engine has time for it beside appends.
        if round % 4 == 0 {
            store.trim(number, 1024).unwrap();
        }
        largest = largest.max(disk.bytes());
        let charged = store.writer().row.charged as usize;
        assert!(charged <= TOTAL / 8 * 9 + (1 << 20), "{charged} bytes are charged in round {round}");
    }
    // So much is noted of topics that are gone, and the names of all others are charged.
    let names = 125_000 * (160 + 210);
    let bound = 2 * (TOTAL / 8 * 9 + (16 << 20) + names);
    assert!(largest <= bound, "{largest} of {bound} bytes");
    drop(store);
    verify_files(&disk).unwrap();
}

/// Many topics that come and go: what is remembered of them is bounded, and no gap is hidden.
#[test]
fn topics_that_are_forgotten_hide_no_gap() {
    let disk = Disk::default();
    let few = Retention::default().with_age(Duration::MAX).with_events(0);
    let store = disk.open(ageless().with_retention(few)).unwrap();
    let mut number = 0;
    let topics = super::edit::EMPTY_TOPICS + 50;
    while number < topics {
        let group: Vec<Record> = (0..4000.min(topics - number))
            .map(|_| {
                number += 1;
                let event = Event::new(Topic::new(format!("once/{number}")).unwrap());
                Record { number, published_ms: 0, event }
            })
            .collect();
        store.append(&group, Durability::Commit).unwrap();
    }
    let mut rounds = 0;
    while store.trim(0, 10_000).unwrap().more || rounds < 1 {
        rounds += 1;
    }
    store.trim(0, usize::MAX).unwrap();
    assert_eq!(store.state().records, 0);
    let mut at_least = BTreeMap::new();
    for number in [1, 2, 1000, topics - 1, topics] {
        let topic = [Topic::new(format!("once/{number}")).unwrap()];
        let gone = store.read(Query::Topics(&topic), 0, Bounds::default()).unwrap().gone.newest;
        assert!(gone >= number, "{gone} of topic {number}");
        at_least.insert(number, gone);
    }
    let unknown = [Topic::new("never").unwrap()];
    let gone = store.read(Query::Topics(&unknown), 0, Bounds::default()).unwrap().gone.newest;
    assert!(gone > 0, "some were forgotten");
    drop(store);
    verify_files(&disk).unwrap();
}

const CHILD: &str = "FANFARE_STORE_CHILD";

/// The other process of the next test: it appends, and says which number it has been acknowledged.
#[test]
#[ignore = "the next test runs this one as a process of its own, and kills it"]
fn appends_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = open(Path::new(&path)).unwrap();
    let mut next = store.state().newest + 1;
    loop {
        let group = records(next..next + 1 + next % 50);
        next += group.len() as u64;
        store
            .append(&group, if next.is_multiple_of(3) { Durability::Async } else { Durability::Commit })
            .unwrap();
        if next % 1000 < 50 {
            store.trim(0, 100).unwrap();
        }
        println!("acknowledged {}", store.state().synced);
    }
}

#[test]
fn a_process_that_is_killed_loses_nothing_that_was_acknowledged() {
    let directory = Temporary::new("killed");
    let path = directory.path().join("store");
    let mut acknowledged = 0;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["disk::tests::appends_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        for (count, line) in BufReader::new(output).lines().enumerate() {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = number.parse().unwrap();
            }
            // What it has said since then is read, too: it was acknowledged.
            if count == 100 + round * 50 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = open(&path).unwrap();
        assert!(store.opening().was_repaired && !store.opening().is_new);
        let read = read_all(&store, Query::All).unwrap();
        assert!(read.iter().any(|record| record.number == acknowledged), "{acknowledged} is lost");
        assert!(read.iter().all(|found| *found == record(found.number)));
        assert!(read.is_sorted_by_key(|record| record.number));
        if let Some(cut) = &store.opening().cut {
            assert!(!cut.was_durable && *cut.numbers.start() > acknowledged, "{cut}");
            // The machine goes on, so it is known how many there were, but for an end between a commit and the
            // note of it.
            if let Some((records, _)) = cut.lost {
                assert_eq!(records, cut.numbers.end() - cut.numbers.start() + 1, "{cut}");
            }
        }
        drop(store);
        verify(&path).unwrap();
    }
    let store = open(&path).unwrap();
    let read = read_all(&store, Query::All).unwrap();
    assert!(read.len() > 1000);
}

/// What own ids cost in a log of `FANFARE_OWN_IDS` records: where a commit or a search becomes slower with the length of
/// the log, this shows it.
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

/// Once, a server whose directory had gone acknowledged events that nobody would find.
#[test]
fn a_directory_that_was_removed_takes_no_records() {
    let directory = Temporary::new("removed");
    let (path, other) = (directory.path().join("log"), directory.path().join("other"));
    let store = open(&path).unwrap();
    append(&store, &records(1..3));
    fs::rename(&path, &other).unwrap();
    let removed = store.append(&records(3..4), Durability::Commit).unwrap_err();
    assert!(removed.to_string().contains("it was removed or replaced"), "{removed}");
    assert!(!removed.is_passing());
    drop(open(&path).unwrap());
    assert!(store.append(&records(3..4), Durability::Commit).is_err(), "another one stands in its place");
    drop(store);
    assert_eq!(numbers(&open(&other).unwrap()), [1, 2]);
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

/// The start waited for a writer for ever.
#[test]
fn a_pipe_in_place_of_a_file_holds_up_no_start() {
    for name in ["lock", "fanfare-store"] {
        let directory = Temporary::new(&format!("pipe-{name}"));
        let made = Command::new("mkfifo").arg(directory.path().join(name)).status().unwrap();
        assert!(made.success());
        assert!(open(directory.path()).is_err());
    }
}
