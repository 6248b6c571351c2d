//! `fanfare log`: looks into the directory of a durable log, and copies it as text.
//!
//! The directory must not be in use: a running server has it for itself.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use fanfare::{Durability, Event, EventId, EventType, LogLimits, Retry, Store, StoreReader, Topic};
use fanfare_store::disk::Options;
use fanfare_store::{Bounds, DiskStore, Query, Record, disk};
use serde::{Deserialize, Serialize};

use crate::store::random;

/// Records that an import appends at a time.
const GROUP: usize = 1000;

/// The longest line of an import, in bytes.
const MAX_LINE: u64 = 256 << 20;

#[derive(Subcommand)]
pub(crate) enum LogCommand {
    /// Print what is in the log: one line for each event
    List(Selected),
    /// Print one event as JSON
    Show {
        /// Directory of the log
        directory: PathBuf,
        /// The number behind the dash of the event's id
        number: u64,
    },
    /// Read everything and check it, also what no event needs any more
    Verify {
        /// Directory of the log
        directory: PathBuf,
    },
    /// Print events as JSON, one on each line, as `import` reads them
    Export(Selected),
    /// Add events from the standard input, in the form of `export`, after the events of the log
    Import {
        /// Directory of the log; it is made where it does not exist
        directory: PathBuf,
    },
    /// Make the files as small as they can be
    Compact {
        /// Directory of the log
        directory: PathBuf,
    },
}

/// Which events of a log.
#[derive(Args)]
pub(crate) struct Selected {
    /// Directory of the log
    directory: PathBuf,
    /// Only events of this topic; may be given several times
    #[arg(long = "topic", value_name = "TOPIC", value_parser = topic)]
    topics: Vec<Topic>,
    /// Only events with a higher number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    max: Option<u64>,
}

fn topic(text: &str) -> Result<Topic, String> {
    Topic::new(text).map_err(|error| error.to_string())
}

/// An event on a line.
#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Line {
    number: u64,
    /// Milliseconds since 1970.
    published_ms: u64,
    topics: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// Milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    private: bool,
}

impl Line {
    fn of(record: &Record) -> Line {
        let event = &record.event;
        Line {
            number: record.number,
            published_ms: record.published_ms,
            topics: event.topics().iter().map(|topic| topic.as_str().to_owned()).collect(),
            id: event.id().map(|id| id.as_str().to_owned()),
            kind: event.event_type().map(|kind| kind.as_str().to_owned()),
            data: event.data().map(str::to_owned),
            retry: event.retry().map(Retry::millis),
            private: event.is_private(),
        }
    }

    fn record(self) -> Result<Record, String> {
        let text = |error: fanfare::InvalidEvent| error.to_string();
        let mut topics = self.topics.iter().map(|name| Topic::new(name).map_err(text));
        let first = topics.next().ok_or("there is no topic")??;
        let mut event = Event::new(first);
        for topic in topics {
            event = event.with_topic(topic?).map_err(text)?;
        }
        if let Some(id) = &self.id {
            event = event.with_id(EventId::new(id).map_err(text)?);
        }
        if let Some(kind) = &self.kind {
            event = event.with_type(EventType::new(kind).map_err(text)?);
        }
        if let Some(data) = self.data {
            event = event.with_data(data);
        }
        if let Some(retry) = self.retry {
            event = event.with_retry(Retry::from_millis(retry));
        }
        if self.number == 0 {
            return Err("the number is zero".to_owned());
        }
        let event = event.with_private(self.private);
        Ok(Record { number: self.number, published_ms: self.published_ms, event })
    }
}

pub(crate) fn run(command: LogCommand) -> Result<(), Box<dyn Error>> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match command {
        LogCommand::List(selected) => {
            for_each(&selected, |record| {
                let event = &record.event;
                let topics: Vec<String> =
                    event.topics().iter().map(|topic| format!("{:?}", topic.as_str())).collect();
                let bytes = event.data().map_or(0, str::len);
                let time = humantime::format_rfc3339_millis(
                    std::time::UNIX_EPOCH + std::time::Duration::from_millis(record.published_ms),
                );
                let (number, topics) = (record.number, topics.join(" "));
                write!(out, "{number}\t{time}\t{bytes} bytes\t{topics}")?;
                if let Some(id) = event.id() {
                    write!(out, "\tid {:?}", id.as_str())?;
                }
                writeln!(out)
            })?;
        }
        LogCommand::Export(selected) => for_each(&selected, |record| {
            serde_json::to_writer(&mut out, &Line::of(record))?;
            writeln!(out)
        })?,
        LogCommand::Show { directory, number } => {
            let store = open_existing(&directory)?;
            let bounds = Bounds { records: 1, ..Bounds::default() };
            let page = store.read(Query::All, number.saturating_sub(1), bounds)?;
            let Some(record) = page.records.iter().find(|record| record.number == number) else {
                return Err(format!("there is no event with the number {number}").into());
            };
            serde_json::to_writer_pretty(&mut out, &Line::of(record))?;
            writeln!(out)?;
        }
        LogCommand::Verify { directory } => {
            let verified = disk::verify(&directory)?;
            let size = ByteSize::b(verified.bytes);
            let (events, topics) = (verified.records, verified.topics);
            writeln!(out, "{events} events, {size}, {topics} topics: all of it is whole")?;
        }
        LogCommand::Import { directory } => {
            let count = import(&directory, io::stdin().lock())?;
            writeln!(out, "{count} events were added")?;
        }
        LogCommand::Compact { directory } => {
            let store = open_existing(&directory)?;
            let size = || disk_size(&directory).map(ByteSize::b);
            let before = size()?;
            store.compact()?;
            drop(store);
            writeln!(out, "{before} before, {} now", size()?)?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Nothing is dropped here, whatever its age: that is for the server, which knows the retention.
fn open(directory: &Path) -> Result<DiskStore, String> {
    let limits = LogLimits::default().with_total_bytes(usize::MAX >> 8);
    DiskStore::open(directory, Options::new(limits, random())).map_err(|error| error.to_string())
}

/// The same, and a wrong path makes no new log.
fn open_existing(directory: &Path) -> Result<DiskStore, String> {
    if !directory.exists() {
        return Err(format!("there is no directory {}", directory.display()));
    }
    open(directory)
}

/// The bytes of all files of a directory.
fn disk_size(directory: &Path) -> io::Result<u64> {
    let files = std::fs::read_dir(directory)?;
    files.map(|file| Ok(file?.metadata()?.len())).sum()
}

/// Gives each of the selected events, in order.
fn for_each(
    selected: &Selected,
    mut each: impl FnMut(&Record) -> io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let store = open_existing(&selected.directory)?;
    let query = if selected.topics.is_empty() { Query::All } else { Query::Topics(&selected.topics) };
    let (mut after, mut left) = (selected.after, selected.max.unwrap_or(u64::MAX));
    loop {
        let page = store.read(query, after, Bounds::default())?;
        for record in &page.records {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            each(record)?;
        }
        if page.is_end {
            return Ok(());
        }
        after = page.up_to;
    }
}

/// Adds the events of these lines to the end of the log. An event keeps its number where that is higher than
/// the last one; otherwise it gets the next number.
fn import(directory: &Path, mut lines: impl BufRead) -> Result<u64, Box<dyn Error>> {
    let store = open(directory)?;
    let mut newest = store.state().newest;
    let (mut group, mut count) = (VecDeque::with_capacity(GROUP), 0);
    for number in 1_u64.. {
        let mut line = String::new();
        let read = io::Read::take(&mut lines, MAX_LINE).read_line(&mut line)?;
        let is_end = read == 0;
        if read as u64 == MAX_LINE {
            return Err(
                format!("line {number} has more than {MAX_LINE} bytes; {count} events were added").into()
            );
        }
        if !is_end && !line.trim().is_empty() {
            let parsed = serde_json::from_str::<Line>(&line).map_err(|error| error.to_string());
            let mut record = parsed
                .and_then(Line::record)
                .map_err(|error| format!("line {number}: {error}; {count} events were added"))?;
            newest = record.number.max(newest + 1);
            record.number = newest;
            group.push_back(record);
        }
        if group.len() == GROUP || (is_end && !group.is_empty()) {
            store.append(group.make_contiguous(), Durability::Commit)?;
            count += group.len() as u64;
            group.clear();
        }
        if is_end {
            break;
        }
    }
    Ok(count)
}
