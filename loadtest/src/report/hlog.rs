//! The histogram log: the latencies of each interval of a run in the format of HdrHistogram's interval logs,
//! which its tools read, add up and plot. The values are nanoseconds.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

use crate::client::Timings;
use crate::clock::{self, MILLISECOND, SECOND};
use crate::failure::{Failure, Outcome};
use crate::sys;

/// A log that is being written. What was added is in the file when the run is killed, but for the last
/// seconds.
pub(crate) struct HistogramLog {
    path: PathBuf,
    file: BufWriter<File>,
    serializer: V2DeflateSerializer,
    /// Nanoseconds since 1970 at zero of the run's clock.
    epoch_ns: u64,
}

impl HistogramLog {
    /// Creates the file and writes its head.
    pub(crate) fn create(path: &Path) -> Outcome<HistogramLog> {
        let failed = |error| Failure::new(format!("{}: {error}", path.display()));
        let file = BufWriter::new(File::create(path).map_err(failed)?);
        let calendar_ns = sys::calendar_ns();
        let epoch_ns = calendar_ns.saturating_sub(clock::now());
        let mut log =
            HistogramLog { path: path.to_owned(), file, serializer: V2DeflateSerializer::new(), epoch_ns };
        let start = calendar_ns as f64 / SECOND as f64;
        let head = format!(
            "#[fanfare-load {}: latencies in nanoseconds]\n#[Histogram log format version 1.3]\n#[StartTime: {start:.3} (seconds since epoch)]\n\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
            env!("CARGO_PKG_VERSION")
        );
        log.write(head.as_bytes())?;
        Ok(log)
    }

    fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        let failed = |error| Failure::new(format!("{}: {error}", self.path.display()));
        self.file.write_all(bytes).map_err(failed)
    }

    /// Adds an interval, with its begin and end on the run's clock. The longest latency is in milliseconds
    /// there, as in the logs of other programs.
    pub(crate) fn add(&mut self, begin: u64, end: u64, timings: &Timings) -> Outcome<()> {
        let mut bytes = Vec::new();
        self.serializer
            .serialize(timings, &mut bytes)
            .map_err(|error| Failure::new(format!("{}: {error}", self.path.display())))?;
        let seconds = |ns: u64| ns as f64 / SECOND as f64;
        let line = format!(
            "{:.3},{:.3},{:.3},{}\n",
            seconds(begin + self.epoch_ns),
            seconds(end.saturating_sub(begin)),
            timings.max() as f64 / MILLISECOND as f64,
            STANDARD.encode(&bytes)
        );
        self.write(line.as_bytes())
    }

    /// Writes what is left.
    pub(crate) fn finish(mut self) -> Outcome<()> {
        let failed = |error| Failure::new(format!("{}: {error}", self.path.display()));
        self.file.flush().map_err(failed)
    }
}
