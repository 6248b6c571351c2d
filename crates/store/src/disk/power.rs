//! Power cuts: the store on files that lose, reorder and tear what was not synced.
//!
//! Each seed is one story: appends, syncs and trims until the power is cut at a random write, then what a
//! disk may have of the writes since the last sync, and then the store is opened and compared with what it
//! had acknowledged. `FANFARE_POWER_CUTS` says how many seeds there are, and `FANFARE_POWER_CUT_SEED` begins
//! with another one.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::limits::{LogLimits, Retention};
use redb::StorageBackend;

use super::files::Files;
use super::verify::verify_files;
use super::{DiskStore, Options};
use crate::contract::{Bounds, Durability, Query, Store, StoreReader};
use crate::{Error, Record};

const SECTOR: usize = 512;

/// Files in memory that know what was synced.
#[derive(Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    files: [SimFile; 2],
    /// Writes and syncs until the power is cut.
    power_left: Option<u64>,
    /// Bytes that both files may take.
    capacity: Option<usize>,
    /// Writes until one fails with this error.
    failing_write: Option<(u64, i32)>,
    failing_sync: Option<(u64, i32)>,
    failing_writes: Option<i32>,
    failing_writes_after: Option<(u64, i32)>,
    failing_newest: Option<i32>,
    reads: u64,
    free_bytes: Option<u64>,
    is_complete: bool,
    boot: u64,
}

#[derive(Default)]
struct SimFile {
    synced: Vec<u8>,
    current: Vec<u8>,
    writes: Vec<Change>,
}

enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Length(length) => bytes.resize(*length as usize, 0),
            Change::Write(offset, data) => {
                let range = *offset as usize..*offset as usize + data.len();
                if bytes.len() < range.end {
                    bytes.resize(range.end, 0);
                }
                bytes[range].copy_from_slice(data);
            }
        }
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    file: usize,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self, limits: LogLimits) -> Result<DiskStore, Error> {
        self.open_with_cache(limits, 1 << 20)
    }

    pub(super) fn open_with_cache(&self, limits: LogLimits, bytes: usize) -> Result<DiskStore, Error> {
        let options = Options::new(limits, [1, 2, 3]).with_cache_bytes(bytes);
        DiskStore::open_files(Box::new(self.clone()), options)
    }

    pub(super) fn cut_power_after(&self, writes: u64) {
        self.content().power_left = Some(writes);
    }

    pub(super) fn set_capacity(&self, bytes: Option<usize>) {
        self.content().capacity = bytes;
    }

    pub(super) fn set_free_bytes(&self, bytes: u64) {
        self.content().free_bytes = Some(bytes);
    }

    pub(super) fn fail_write(&self, after: u64, errno: i32) {
        self.content().failing_write = Some((after, errno));
    }

    pub(super) fn fail_sync(&self, after: u64, errno: i32) {
        self.content().failing_sync = Some((after, errno));
    }

    /// All writes fail, or none from here on.
    pub(super) fn fail_every_write(&self, errno: Option<i32>) {
        let mut content = self.content();
        content.failing_writes = errno;
        (content.failing_write, content.failing_writes_after) = (None, None);
    }

    /// This many writes succeed, and all later ones fail.
    pub(super) fn fail_writes_after(&self, writes: u64, errno: i32) {
        self.content().failing_writes_after = Some((writes, errno));
    }

    /// Writes of the file of the newest record fail.
    pub(super) fn fail_newest(&self, errno: Option<i32>) {
        self.content().failing_newest = errno;
    }

    /// How often the files were read.
    pub(super) fn reads(&self) -> u64 {
        self.content().reads
    }

    /// Whether a write has failed that was to fail.
    pub(super) fn has_failed(&self) -> bool {
        let content = self.content();
        content.failing_write.is_none() && content.failing_writes_after.is_none()
    }

    pub(super) fn bytes(&self) -> usize {
        self.content().files[0].current.len()
    }

    /// Changes the database's bytes, as something else than the store does.
    pub(super) fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content();
        let file = &mut content.files[0];
        change(&mut file.current);
        file.synced = file.current.clone();
        file.writes.clear();
    }

    /// The same for the file of the newest record.
    pub(super) fn damage_newest(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content();
        let file = &mut content.files[1];
        change(&mut file.current);
        file.synced = file.current.clone();
        file.writes.clear();
    }

    /// What the machine says of its start.
    pub(super) fn set_boot(&self, boot: u64) {
        self.content().boot = boot;
    }

    /// A copy of what is in the files now.
    pub(super) fn copy(&self) -> Disk {
        let copy = Disk::default();
        copy.content().is_complete = true;
        copy.content().boot = self.content().boot;
        for (from, to) in self.content().files.iter().zip(&mut copy.content().files) {
            to.current = from.current.clone();
            to.synced = from.current.clone();
        }
        copy
    }

    /// The power is back: each sector has what some number of its writes has left.
    fn restore(&self, random: &mut fastrand::Rng) {
        let mut content = self.content();
        content.power_left = None;
        content.boot += 1;
        for file in &mut content.files {
            let writes = std::mem::take(&mut file.writes);
            let chance = [0.0, 0.1, 0.5, 0.9, 1.0][random.usize(..5)];
            let mut lengths = vec![file.synced.len() as u64];
            let mut sectors: BTreeMap<usize, Vec<(usize, &[u8])>> = BTreeMap::new();
            let mut longest = file.synced.len() as u64;
            for write in &writes {
                match write {
                    Change::Length(length) => lengths.push(*length),
                    Change::Write(offset, data) => {
                        let (mut at, mut rest) = (*offset as usize, data.as_slice());
                        longest = longest.max(offset + data.len() as u64);
                        while !rest.is_empty() {
                            let count = rest.len().min(SECTOR - at % SECTOR);
                            let (part, behind) = rest.split_at(count);
                            sectors.entry(at / SECTOR).or_default().push((at, part));
                            (at, rest) = (at + count, behind);
                        }
                    }
                }
            }
            lengths.push(longest);
            let length = lengths[random.usize(..lengths.len())] as usize;
            let mut bytes = std::mem::take(&mut file.synced);
            bytes.resize(length.max(bytes.len()), 0);
            for parts in sectors.values() {
                let kept = match random.f64() < chance {
                    true => parts.len(),
                    false => random.usize(..parts.len()),
                };
                for (at, part) in &parts[..kept] {
                    // What is behind the end of the file is lost.
                    let end = (at + part.len()).min(bytes.len());
                    if *at < end {
                        bytes[*at..end].copy_from_slice(&part[..end - at]);
                    }
                }
            }
            bytes.truncate(length.max(1));
            if length == 0 {
                bytes.clear();
            }
            file.current = bytes.clone();
            file.synced = bytes;
        }
    }
}

impl Files for Disk {
    fn database(&self) -> Result<Box<dyn StorageBackend>, Error> {
        let mut content = self.content();
        if !content.is_complete {
            content.files[0] = SimFile::default();
        }
        Ok(Box::new(Handle { disk: self.clone(), file: 0 }))
    }

    fn complete(&self) -> Result<(), Error> {
        let mut content = self.content();
        let power = content.power();
        content.is_complete |= power.is_ok();
        power.map_err(|source| Error::from_io("name", self.path(), source))
    }

    fn newest(&self) -> Result<Box<dyn StorageBackend>, Error> {
        Ok(Box::new(Handle { disk: self.clone(), file: 1 }))
    }

    fn free_bytes(&self) -> Option<u64> {
        self.content().free_bytes
    }

    fn boot(&self) -> u64 {
        self.content().boot
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}

impl Content {
    /// Whether there is still power for one more write.
    fn power(&mut self) -> io::Result<()> {
        match &mut self.power_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is cut")),
            Some(left) => {
                *left -= 1;
                if *left == 0 { Err(io::Error::other("the power is cut")) } else { Ok(()) }
            }
        }
    }

    fn check_capacity(&self, file: usize, length: usize) -> io::Result<()> {
        let others = self.files[1 - file].current.len();
        let is_growth = length > self.files[file].current.len();
        match self.capacity {
            Some(capacity) if is_growth && others + length > capacity => {
                Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()))
            }
            _ => Ok(()),
        }
    }
}

fn due(fault: &mut Option<(u64, i32)>) -> io::Result<()> {
    match fault {
        Some((0, errno)) => {
            let error = io::Error::from_raw_os_error(*errno);
            *fault = None;
            Err(error)
        }
        Some((left, _)) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.content().files[self.file].current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut content = self.disk.content();
        content.reads += 1;
        let bytes = &content.files[self.file].current;
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut content = self.disk.content();
        content.power()?;
        content.check_capacity(self.file, length as usize)?;
        let file = &mut content.files[self.file];
        let change = Change::Length(length);
        change.apply(&mut file.current);
        file.writes.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.disk.content();
        content.power()?;
        due(&mut content.failing_sync)?;
        let SimFile { synced, writes, .. } = &mut content.files[self.file];
        for write in writes.drain(..) {
            write.apply(synced);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.disk.content();
        content.power()?;
        if self.file == 0 {
            due(&mut content.failing_write)?;
            let errno = content.failing_writes_after.map(|(_, errno)| errno);
            if due(&mut content.failing_writes_after).is_err() {
                content.failing_writes = errno;
            }
            if let Some(errno) = content.failing_writes {
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        if let Some(errno) = content.failing_newest.filter(|_| self.file == 1) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let end = offset as usize + data.len();
        content.check_capacity(self.file, end)?;
        let file = &mut content.files[self.file];
        let change = Change::Write(offset, data.to_vec());
        change.apply(&mut file.current);
        file.writes.push(change);
        Ok(())
    }
}

/// What a story has done.
#[derive(Default)]
struct Story {
    /// Everything that an append was called with.
    tried: Vec<Record>,
    /// The newest number that was acknowledged as durable, and the newest one that was appended at all.
    durable: u64,
    appended: u64,
    /// Numbers whose append has failed.
    next: u64,
    failed: Vec<u64>,
}

const TOPICS: [&str; 4] = ["a", "b", "users/7", "all"];

impl Story {
    fn record(&mut self, random: &mut fastrand::Rng) -> Record {
        self.next += 1 + random.u64(..2);
        let mut event = Event::new(Topic::new(TOPICS[random.usize(..3)]).unwrap());
        if random.bool() {
            event = event.with_topic(Topic::new("all").unwrap()).unwrap();
        }
        if random.bool() {
            event = event.with_id(EventId::new(self.next.to_string()).unwrap());
        }
        let bytes = [10, 200, 3000][random.usize(..3)];
        event = event.with_data(format!("{} {}", self.next, "x".repeat(random.usize(..bytes))));
        Record { number: self.next, published_ms: self.next, event }
    }

    /// Works until the power is cut.
    fn work(&mut self, store: &DiskStore, is_trimmed: bool, random: &mut fastrand::Rng) {
        for _ in 0..200 {
            let result = match random.u8(..10) {
                0 if is_trimmed => store.trim(0, 1 + random.usize(..100)).map(|_| ()),
                1 => store.sync(),
                kind => {
                    let durability = if kind < 5 { Durability::Async } else { Durability::Commit };
                    let group: Vec<Record> =
                        (0..1 + random.usize(..12)).map(|_| self.record(random)).collect();
                    self.tried.extend(group.iter().cloned());
                    let result = store.append(&group, durability);
                    match &result {
                        Ok(()) => self.appended = self.next,
                        Err(_) => self.failed.extend(group.iter().map(|record| record.number)),
                    }
                    result
                }
            };
            if let Err(error) = result {
                // The database has failed, or the file of the newest record.
                assert!(matches!(error, Error::Broken { .. } | Error::Io { .. }), "{error}");
                return;
            }
            self.durable = store.state().synced;
        }
    }

    /// Compares what is there with what was acknowledged.
    fn compare(&mut self, store: &DiskStore, is_trimmed: bool, seed: u64) {
        let (mut records, mut at, mut gone) = (Vec::new(), 0, 0);
        loop {
            let page = store.read(Query::All, at, Bounds::default()).unwrap();
            records.extend(page.records);
            gone = gone.max(page.gone.newest);
            at = page.up_to;
            if page.is_end {
                break;
            }
        }
        let found: BTreeMap<u64, &Record> = records.iter().map(|record| (record.number, record)).collect();
        assert_eq!(found.len(), records.len(), "seed {seed}: each record comes once");
        assert!(records.is_sorted_by_key(|record| record.number), "seed {seed}: the records are in order");
        let tried: BTreeMap<u64, &Record> = self.tried.iter().map(|record| (record.number, record)).collect();
        for record in &records {
            assert_eq!(tried.get(&record.number), Some(&record), "seed {seed}: a record is as it was");
        }
        for record in &self.tried {
            if found.contains_key(&record.number) || self.failed.contains(&record.number) {
                continue;
            }
            let number = record.number;
            assert!(number > self.durable || is_trimmed, "seed {seed}: the acknowledged {number} is lost");
            assert!(number <= gone, "seed {seed}: the record {number} is missing and no gap is told");
        }
        if let Some(cut) = &store.opening().cut {
            assert!(!cut.was_durable && *cut.numbers.start() > self.durable, "seed {seed}: {cut}");
            for record in &records {
                assert!(!cut.numbers.contains(&record.number), "seed {seed}: {cut}");
            }
        }
        let newest = store.state().newest;
        assert!(newest >= self.appended, "seed {seed}: the number {} may be given again", self.appended);
        for (number, record) in &found {
            let Some(id) = record.event.id() else { continue };
            let same = store.find(id, record.event.topics()).unwrap();
            assert_eq!(same.map(|record| record.number), Some(*number), "seed {seed}");
        }
        self.next = self.next.max(newest);
        // From here on the store may lose nothing of what it has shown.
        self.tried = records;
        self.failed.clear();
        self.durable = self.tried.last().map_or(self.durable, |record| record.number.max(self.durable));
    }
}

fn tell(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = Disk::default();
    disk.content().boot = 1;
    let is_trimmed = random.bool();
    let events = if is_trimmed { 1 + random.usize(..60) } else { usize::MAX };
    let retention = Retention::default().with_events(events).with_age(Duration::MAX);
    let mut limits = LogLimits::default().with_retention(retention.with_bytes(usize::MAX));
    limits.total_bytes = if is_trimmed && random.bool() { 50_000 } else { 1 << 30 };
    let mut story = Story::default();
    for round in 0..4 {
        // A cut while the store is opened, too.
        disk.cut_power_after(1 + random.u64(..if round == 3 { 40 } else { 1500 }));
        let opened = disk.open(limits.clone());
        if let Ok(store) = &opened {
            if round > 0 {
                story.compare(store, is_trimmed, seed);
            }
            story.work(store, is_trimmed, &mut random);
        }
        disk.restore_after(opened.ok(), &mut random);
    }
    let store = disk.open(limits).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    story.compare(&store, is_trimmed, seed);
    drop(store);
    verify_files(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

impl Disk {
    /// The power is off before the store is closed, and comes back behind it.
    fn restore_after(&self, store: Option<DiskStore>, random: &mut fastrand::Rng) {
        self.content().power_left = Some(0);
        drop(store);
        self.restore(random);
    }
}

#[test]
fn no_acknowledged_record_is_lost_by_a_power_cut() {
    let number = |name: &str, other| env::var(name).map_or(other, |text| text.parse().unwrap());
    let (first, count) = (number("FANFARE_POWER_CUT_SEED", 1), number("FANFARE_POWER_CUTS", 200));
    for seed in first..first + count {
        tell(seed);
    }
}
