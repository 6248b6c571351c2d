//! The databases that a durable log could stand on, beside a bare loop of append and `fdatasync`. This is
//! what the store on disk was chosen by.
//!
//! Each is given the same groups and commits each group durably: one row for the group (key: the first
//! number; value: the encoded events), one small row for each topic of the group, and with `--ids` one row
//! for each event (a hash of its own id, and its number). The store on disk (`store`) runs beside them: it
//! commits the row of the group alone, and writes the small rows later, many at a time.
//!
//! # What was found
//!
//! Events a second, of 200 bytes on 8 topics, and the share of the bare loop; medians of five rounds on 2
//! cores (AMD EPYC, Linux 6.18, ext4 on a virtual disk whose `fdatasync` took about 4 ms while others used
//! it):
//!
//! | groups of | bare | redb | redb, quick repair | fjall | store |
//! |---|---|---|---|---|---|
//! | 1 | 380 | 340 (0.89) | 174 (0.46) | 376 (0.99) | 347 (0.91) |
//! | 10 | 4,094 | 3,187 (0.78) | 1,902 (0.46) | 4,512 (1.10) | 3,300 (0.81) |
//! | 100 | 30,779 | 29,077 (0.94) | 14,742 (0.48) | 34,750 (1.13) | 28,186 (0.92) |
//! | 100, own ids | 29,564 | 11,849 (0.40) | 8,631 (0.29) | 28,522 (0.96) | 27,929 (0.94) |
//!
//! The figures that follow are those of an earlier form of this program, which wrote random bytes and could
//! fill, reopen and trim; this one cannot repeat them. In two rounds `fdatasync` took 0.5 ms. There the bare
//! loop came to 172,000 events a second in groups of 100, fjall to 52,000, and redb with all rows in one
//! commit to 31,000; with own ids to 221,000, 107,000 and 37,000. The store was not measured in such a round.
//!
//! With ten million events in groups of 100, two thousand to a commit:
//!
//! | | redb | redb, quick repair | fjall |
//! |---|---|---|---|
//! | events a second | 373,000 | 460,000 | 436,000 |
//! | longest commit | 40 ms | 27 ms | 178 ms |
//! | opening after the end of the process | 3.2 s | 0.004 s | 1.3 s |
//! | ten groups from the middle | 0.13 ms | 0.32 ms | 3.8 ms |
//! | bytes on the disk for an event | 331 | 332 | 255 |
//! | dropping half and appending as much | 118 s | - | not done after 300 s |
//! | the same events with own ids | not done after 400 s | not measured | not measured |
//!
//! # The choice
//!
//! redb, because of its robustness, where its figures suffice:
//!
//! - It has a seam for its file (`StorageBackend`), on which tests cut the power at any write. fjall writes
//!   its files itself: a test can only end its process.
//! - A transaction is there as a whole or not at all, and every page has a checksum that a check reads. In
//!   fjall 3.1.13, an entry of the journal that cannot be decoded ends the reading, and the journal is cut
//!   there without an error (`journal/reader.rs`); a wrong checksum of a batch is an error.
//! - It brings two packages into the build, and fjall some twenty.
//! - Its write transactions are the only work: no thread compacts, so no append waits for one.
//!
//! What speaks against redb, and what the store does about it:
//!
//! - A commit writes all pages on the way to each changed row. So the store writes one row in a commit, and
//!   the index later.
//! - Own ids are scattered over the whole tree, so each commit changes very many of its pages. The store
//!   keeps them in buckets of neighbouring numbers, and writes many at a time.
//! - After any error of the file a database takes no more writes. So the store asks for room before it
//!   writes, and opens the database again after a full disk.
//! - The file does not become smaller, and a group takes a power of two of pages.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish, machine};
use fanfare_io::Clock;
use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::limits::{LogLimits, Retention};
use fanfare_store::disk::Options as StoreOptions;
use fanfare_store::encoding::encode_group;
use fanfare_store::{DiskStore, Durability, Record, Store};

/// Events a second that databases commit in groups, beside a bare loop that appends to a file and calls
/// fdatasync
#[derive(Parser)]
struct Options {
    /// Where the files are made and removed; its disk is what is measured
    #[arg(long, default_value = "store_engines.tmp")]
    directory: PathBuf,
    /// What takes turns
    #[arg(long, value_delimiter = ',', default_value = "bare,redb,redb-quick,fjall,store")]
    engines: Vec<Choice>,
    /// Events of a group
    #[arg(long, value_delimiter = ',', default_value = "1,10,100")]
    groups: Vec<usize>,
    /// Rounds, in which all take turns
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each turn
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Bytes of the data of an event
    #[arg(long, default_value_t = 200)]
    bytes: usize,
    /// Topics, which the events take in turns
    #[arg(long, default_value_t = 8)]
    topics: u64,
    /// Each event has an own id
    #[arg(long)]
    ids: bool,
}

#[derive(Clone, Copy, ValueEnum, Debug, PartialEq)]
enum Choice {
    /// Append and fdatasync
    Bare,
    /// redb
    Redb,
    /// redb that saves with each commit what it needs to open quickly after a crash
    RedbQuick,
    /// fjall, with PersistMode::SyncData
    Fjall,
    /// The store on disk
    Store,
}

/// What one commit gets.
struct Group {
    records: Vec<Record>,
    value: Vec<u8>,
    /// A hash of the own id, and the number.
    ids: Vec<(u64, u64)>,
    topics: u64,
}

impl Group {
    fn first(&self) -> u64 {
        self.records[0].number
    }

    fn topics(&self) -> impl Iterator<Item = u64> {
        let first = self.first();
        (0..self.topics.min(self.records.len() as u64)).map(move |at| (first + at) % self.topics)
    }
}

trait Engine {
    fn commit(&mut self, group: &Group) -> Outcome<()>;
}

struct Bare(File);

impl Engine for Bare {
    fn commit(&mut self, group: &Group) -> Outcome<()> {
        let mut bytes = group.value.clone();
        for topic in group.topics() {
            bytes.extend_from_slice(&topic.to_be_bytes());
            bytes.extend_from_slice(&group.first().to_be_bytes());
        }
        for (hash, number) in &group.ids {
            bytes.extend_from_slice(&hash.to_be_bytes());
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        self.0.write_all(&bytes)?;
        Ok(self.0.sync_data()?)
    }
}

const GROUPS: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("groups");
const TOPICS: redb::TableDefinition<'_, (u64, u64), u32> = redb::TableDefinition::new("topics");
const IDS: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("ids");

struct Redb {
    database: redb::Database,
    is_quick: bool,
}

impl Engine for Redb {
    fn commit(&mut self, group: &Group) -> Outcome<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(self.is_quick);
        {
            transaction.open_table(GROUPS)?.insert(group.first(), group.value.as_slice())?;
            let mut topics = transaction.open_table(TOPICS)?;
            for topic in group.topics() {
                topics.insert((topic, group.first()), 1)?;
            }
            if !group.ids.is_empty() {
                let mut ids = transaction.open_table(IDS)?;
                for (hash, number) in &group.ids {
                    ids.insert(*hash, *number)?;
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

struct Fjall {
    database: fjall::Database,
    groups: fjall::Keyspace,
    topics: fjall::Keyspace,
    ids: fjall::Keyspace,
}

impl Engine for Fjall {
    fn commit(&mut self, group: &Group) -> Outcome<()> {
        let mut batch = self.database.batch().durability(Some(fjall::PersistMode::SyncData));
        batch.insert(&self.groups, group.first().to_be_bytes(), group.value.as_slice());
        for topic in group.topics() {
            let key = [topic.to_be_bytes(), group.first().to_be_bytes()].concat();
            batch.insert(&self.topics, key, 1_u32.to_be_bytes());
        }
        for (hash, number) in &group.ids {
            batch.insert(&self.ids, hash.to_be_bytes(), number.to_be_bytes());
        }
        Ok(batch.commit()?)
    }
}

struct OwnStore(DiskStore);

impl Engine for OwnStore {
    fn commit(&mut self, group: &Group) -> Outcome<()> {
        Ok(self.0.append(&group.records, Durability::Commit)?)
    }
}

fn open(choice: Choice, directory: &Path) -> Outcome<Box<dyn Engine>> {
    fs::create_dir_all(directory)?;
    Ok(match choice {
        Choice::Bare => {
            Box::new(Bare(OpenOptions::new().create(true).append(true).open(directory.join("log"))?))
        }
        Choice::Redb | Choice::RedbQuick => {
            let mut builder = redb::Database::builder();
            builder.set_cache_size(64 << 20);
            let database = builder.create(directory.join("redb"))?;
            Box::new(Redb { database, is_quick: choice == Choice::RedbQuick })
        }
        Choice::Fjall => {
            let database = fjall::Database::builder(directory.join("fjall")).open()?;
            let keyspace = |name| database.keyspace(name, fjall::KeyspaceCreateOptions::default);
            let (groups, topics, ids) = (keyspace("groups")?, keyspace("topics")?, keyspace("ids")?);
            Box::new(Fjall { groups, topics, ids, database })
        }
        Choice::Store => {
            let retention = Retention::default().with_events(usize::MAX).with_bytes(usize::MAX);
            let limits = LogLimits::default().with_retention(retention.with_age(Duration::MAX));
            let options = StoreOptions::new(limits.with_total_bytes(1 << 40), [1, 2, 3]);
            Box::new(OwnStore(DiskStore::open(directory.join("store"), options.with_cache_bytes(64 << 20))?))
        }
    })
}

struct Source<'o> {
    options: &'o Options,
    data: String,
    next: u64,
}

impl Source<'_> {
    fn group(&mut self, events: usize) -> Outcome<Group> {
        let (mut records, mut ids) = (Vec::with_capacity(events), Vec::new());
        for _ in 0..events {
            let number = self.next;
            self.next += 1;
            let topic = Topic::new(format!("topic/{}", number % self.options.topics))?;
            let mut event = Event::new(topic).with_data(self.data.clone());
            if self.options.ids {
                let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                event = event.with_id(EventId::new(format!("{hash:016x}"))?);
                ids.push((hash, number));
            }
            records.push(Record { number, published_ms: number, event });
        }
        Ok(Group { value: encode_group(&records), records, ids, topics: self.options.topics })
    }
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("store_engines", &[]);
    let letters = (0..options.bytes).map(|at| char::from(b'a' + (at * 7 % 26) as u8));
    let mut source = Source { options, data: letters.collect(), next: 1 };
    let clock = Clock::start();
    for group in &options.groups {
        let directory = options.directory.join(group.to_string());
        let _ = fs::remove_dir_all(&directory);
        let mut engines = Vec::new();
        for choice in &options.engines {
            engines.push((open(*choice, &directory.join(format!("{choice:?}")))?, Vec::new(), Vec::new()));
        }
        for _ in 0..options.rounds {
            for (engine, rates, times) in &mut engines {
                let (begin, mut events) = (clock.now(), 0);
                while (clock.now() - begin).as_secs_f64() < options.seconds {
                    let group = source.group(*group)?;
                    let from = clock.now();
                    engine.commit(&group)?;
                    times.push((clock.now() - from).as_secs_f64() * 1e6);
                    events += group.records.len();
                }
                rates.push(events as f64 / (clock.now() - begin).as_secs_f64());
            }
        }
        println!("groups of {group}, own ids: {}", options.ids);
        let first = Spread::of(engines[0].1.iter().copied()).median;
        for (choice, (_, rates, times)) in options.engines.iter().zip(&engines) {
            let (rates, times) = (Spread::of(rates.iter().copied()), Spread::of(times.iter().copied()));
            println!(
                "  {:<9} {rates:.0} events a second, {:.2} of the first; a commit {:.0} us, at most {:.0} ms",
                format!("{choice:?}"),
                rates.median / first,
                times.median,
                times.max / 1e3
            );
        }
        drop(engines);
        fs::remove_dir_all(&directory)?;
    }
    Ok(fs::remove_dir_all(&options.directory)?)
}
