//! What the store on disk costs beside a bare loop of append and `fdatasync`, and what its life costs with
//! millions of events: opening after the end of its process, resuming, and trims beside appends.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish, machine};
use fanfare_io::Clock;
use fanfare_proto::event::{Event, EventId, Topic};
use fanfare_proto::limits::{LogLimits, Retention};
use fanfare_store::disk::Options as StoreOptions;
use fanfare_store::encoding::encode_group;
use fanfare_store::{Bounds, DiskStore, Durability, Query, Record, Store, StoreReader};

/// Events a second of the store on disk, beside a bare loop that appends the same bytes to a file and calls
/// fdatasync
#[derive(Parser)]
struct Options {
    /// Where the files are made and removed; its disk is what is measured
    #[arg(long, default_value = "store_cost.tmp")]
    directory: PathBuf,
    /// Events of a group
    #[arg(long, value_delimiter = ',', default_value = "1,10,100")]
    groups: Vec<usize>,
    /// Rounds, in which the bare loop and the store take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each turn
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Bytes of the data of an event
    #[arg(long, default_value_t = 200)]
    bytes: usize,
    /// Topics, which the events take in turns
    #[arg(long, default_value_t = 8)]
    topics: usize,
    /// Each event has an own id
    #[arg(long)]
    ids: bool,
    /// Measures the life of a store with this many events instead
    #[arg(long)]
    events: Option<u64>,
    /// Only fills the store, and ends without closing it: for the above
    #[arg(long, hide = true)]
    fill: bool,
}

const RANDOM: [u64; 3] = [1, 2, 3];

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    let directory = &options.directory;
    if options.fill {
        return fill(options);
    }
    machine::introduce("store_cost", &[]);
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory)?;
    let result = match options.events {
        Some(events) => life(options, events),
        None => rates(options),
    };
    fs::remove_dir_all(directory)?;
    result
}

/// Makes groups of events.
struct Source {
    topics: Vec<Topic>,
    data: String,
    has_ids: bool,
    next: u64,
}

impl Source {
    fn new(options: &Options, next: u64) -> Outcome<Source> {
        let topics = (0..options.topics).map(|number| Topic::new(format!("topic/{number}")));
        let letters = (0..options.bytes).map(|at| char::from(b'a' + (at * 7 % 26) as u8));
        Ok(Source {
            topics: topics.collect::<Result<_, _>>()?,
            data: letters.collect(),
            has_ids: options.ids,
            next,
        })
    }

    fn group(&mut self, events: usize) -> Outcome<Vec<Record>> {
        let mut group = Vec::with_capacity(events);
        for _ in 0..events {
            let topic = self.topics[self.next as usize % self.topics.len()].clone();
            let mut event = Event::new(topic).with_data(self.data.clone());
            if self.has_ids {
                let scattered = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                event = event.with_id(EventId::new(format!("{scattered:016x}"))?);
            }
            group.push(Record { number: self.next, published_ms: self.next, event });
            self.next += 1;
        }
        Ok(group)
    }
}

fn limits() -> LogLimits {
    let retention = Retention::default().with_events(usize::MAX).with_bytes(usize::MAX);
    LogLimits::default().with_retention(retention.with_age(Duration::MAX)).with_total_bytes(1 << 40)
}

fn open(path: &Path, limits: LogLimits) -> Outcome<DiskStore> {
    Ok(DiskStore::open(path, StoreOptions::new(limits, RANDOM).with_cache_bytes(64 << 20))?)
}

fn bare_log(path: &Path) -> Outcome<File> {
    Ok(OpenOptions::new().create(true).append(true).open(path)?)
}

fn bytes_on_disk(path: &Path) -> Outcome<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += entry?.metadata()?.blocks() * 512;
    }
    Ok(bytes)
}

/// One turn: events a second, and microseconds of each append.
fn turn(seconds: f64, mut append: impl FnMut() -> Outcome<usize>) -> Outcome<(f64, Vec<f64>)> {
    let clock = Clock::start();
    let (mut events, mut times) = (0, Vec::new());
    while clock.now().as_secs_f64() < seconds {
        let begin = clock.now();
        events += append()?;
        times.push((clock.now() - begin).as_secs_f64() * 1e6);
    }
    Ok((events as f64 / clock.now().as_secs_f64(), times))
}

fn rates(options: &Options) -> Outcome<()> {
    for group in &options.groups {
        let path = options.directory.join(format!("store-{group}"));
        let store = open(&path, limits())?;
        let log = options.directory.join(format!("bare-{group}"));
        let mut file = bare_log(&log)?;
        let mut source = Source::new(options, 1)?;
        let mut rates: [Vec<f64>; 3] = Default::default();
        let mut times: [Vec<f64>; 3] = Default::default();
        let mut shares = Vec::new();
        for _ in 0..options.rounds {
            for (at, kind) in
                [None, Some(Durability::Commit), Some(Durability::Async)].into_iter().enumerate()
            {
                let (rate, each) = turn(options.seconds, || {
                    let records = source.group(*group)?;
                    match kind {
                        Some(durability) => store.append(&records, durability)?,
                        None => {
                            file.write_all(&encode_group(&records))?;
                            file.sync_data()?;
                        }
                    }
                    Ok(records.len())
                })?;
                rates[at].push(rate);
                times[at].extend(each);
            }
            store.sync()?;
            shares.push(rates[1][rates[1].len() - 1] / rates[0][rates[0].len() - 1]);
        }
        println!("groups of {group}, {} events were stored:", store.state().records);
        for (name, (rates, times)) in
            ["bare", "store", "store, async"].into_iter().zip(rates.into_iter().zip(times))
        {
            let times = Spread::of(times);
            println!(
                "  {name:<12} {:>9.0} events a second; an append took {:.0} us, and {:.1} ms at most",
                Spread::of(rates),
                times.median,
                times.max / 1e3
            );
        }
        let per_event = bytes_on_disk(&path)? as f64 / store.state().records.max(1) as f64;
        println!("  store / bare: {:.2}; {per_event:.0} bytes on the disk for an event", Spread::of(shares));
    }
    Ok(())
}

fn fill(options: &Options) -> Outcome<()> {
    let store = open(&options.directory.join("life"), limits())?;
    let mut source = Source::new(options, 1)?;
    let events = options.events.unwrap_or(0);
    while source.next <= events {
        // The groups of 20 appends are committed together, so that it does not take all day.
        for _ in 0..19 {
            store.append(&source.group(100)?, Durability::Async)?;
        }
        store.append(&source.group(100)?, Durability::Commit)?;
    }
    // The process ends at once, and closes nothing.
    std::process::exit(0);
}

fn life(options: &Options, events: u64) -> Outcome<()> {
    let path = options.directory.join("life");
    let clock = Clock::start();
    let mut child = Command::new(std::env::current_exe()?);
    child.arg("--fill").arg("--directory").arg(&options.directory);
    child.args(["--events", &events.to_string(), "--bytes", &options.bytes.to_string()]);
    child.args(["--topics", &options.topics.to_string()]);
    if options.ids {
        child.arg("--ids");
    }
    if !child.status()?.success() {
        return Err("the store could not be filled".into());
    }
    let filled = clock.now();
    println!(
        "{events} events in {:.0} s, {:.0} a second; {} MiB on the disk",
        filled.as_secs_f64(),
        events as f64 / filled.as_secs_f64(),
        bytes_on_disk(&path)? >> 20
    );
    let begin = clock.now();
    let store = open(&path, limits())?;
    println!(
        "opening after the end of the process: {:.2} s, {:?}",
        (clock.now() - begin).as_secs_f64(),
        store.opening()
    );

    let newest = store.state().newest;
    let topic = [Topic::new("topic/3")?];
    for (name, query) in [("all", Query::All), ("a topic", Query::Topics(&topic))] {
        let times = (0..200).map(|at| {
            let begin = clock.now();
            let page = store.read(query, events / 200 * at, Bounds { records: 100, ..Bounds::default() });
            page.map(|page| ((clock.now() - begin).as_secs_f64() * 1e6, page.records.len()))
        });
        let times: Vec<(f64, usize)> = times.collect::<Result<_, _>>()?;
        let full = times.iter().filter(|(_, records)| *records == 100).count();
        println!(
            "100 records of {name} from anywhere: {:.0} us, {full} of 200 pages were full",
            Spread::of(times.iter().map(|(time, _)| *time))
        );
    }
    if options.ids {
        let mut times = Vec::new();
        for at in 0..200 {
            let mut source = Source::new(options, 1 + events / 200 * at)?;
            let record = &source.group(1)?[0];
            let begin = clock.now();
            let found = match record.event.id() {
                Some(id) => store.find(id, record.event.topics())?,
                None => None,
            };
            times.push((clock.now() - begin).as_secs_f64() * 1e6);
            assert_eq!(found.map(|found| found.number), Some(record.number));
        }
        println!("finding an own id: {:.0} us", Spread::of(times));
    }

    // Half is dropped, and as much appended, in turns.
    let kept = (events / 2) as usize / options.topics;
    store.set_limits(limits().with_retention(limits().retention.with_events(kept)));
    let mut source = Source::new(options, newest + 1)?;
    let (mut appends, mut trims, mut dropped) = (Vec::new(), Vec::new(), 0);
    let mut largest = bytes_on_disk(&path)?;
    let begin = clock.now();
    while dropped < events / 2 && clock.now() - begin < Duration::from_secs(120) {
        let from = clock.now();
        dropped += store.trim(0, 2048)?.records;
        trims.push((clock.now() - from).as_secs_f64() * 1e3);
        for _ in 0..20 {
            let group = source.group(100)?;
            let from = clock.now();
            store.append(&group, Durability::Commit)?;
            appends.push((clock.now() - from).as_secs_f64() * 1e3);
        }
        largest = largest.max(bytes_on_disk(&path)?);
    }
    let seconds = (clock.now() - begin).as_secs_f64();
    println!(
        "{dropped} events were dropped and {} appended in {seconds:.0} s, in turns; at most {} MiB on the disk",
        appends.len() * 100,
        largest >> 20
    );
    println!("  a trim of 2,048 steps: {:.1} ms", Spread::of(trims));
    println!("  an append of 100 events: {:.1} ms", Spread::of(appends));
    let begin = clock.now();
    drop(store);
    let closed = clock.now();
    open(&path, limits())?;
    println!(
        "closing: {:.2} s; opening what was closed: {:.2} s",
        (closed - begin).as_secs_f64(),
        (clock.now() - closed).as_secs_f64()
    );
    Ok(())
}
