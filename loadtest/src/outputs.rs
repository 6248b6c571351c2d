//! What becomes of the figures of a run beside the terminal: files, and the metrics endpoint.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::exporter::Exporter;
use crate::failure::{Failure, Outcome};
use crate::monitor::{Monitor, Wants};
use crate::report::{Earlier, HistogramLog, Report, csv, junit, junit_before, run_page};
use crate::scenario::{Load, OUTPUT};

/// Where the figures of one run go. They are beside the settings, because they do not change what is
/// measured.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = OUTPUT)]
pub(crate) struct Outputs {
    /// Write a page with the figures and plots, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the time series, a line for each second: open streams, events, deliveries, latency
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the latencies of each second as a log of HdrHistogram, which its tools read and add up
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// Write the verdict and the thresholds as JUnit's XML for a build server
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Serve the figures so far at http://ADDRESS/metrics for Prometheus while the run lasts
    #[arg(long, value_name = "ADDRESS")]
    prometheus: Option<SocketAddr>,
    /// Compare with the result of an earlier run, a file that --json wrote
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Print the requests that would be sent, with everything that is secret in them, and start nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl Outputs {
    /// Everything that is to see the run from its start. Files are created now, so that a wrong name ends the
    /// run before it has begun.
    pub(crate) fn begin(&self, load: &Load) -> Outcome<Monitor> {
        self.each_has_its_own(load)?;
        // Before any file is emptied: it may be one that is written at the end.
        let earlier = self.against.as_deref().map(Earlier::read).transpose()?;
        check_writable(load.json.as_deref())?;
        for path in [&self.html, &self.csv].into_iter().flatten() {
            write(path, "")?;
        }
        if let Some(path) = &self.junit {
            write(path, &junit_before())?;
        }
        Ok(Monitor::new(Wants {
            earlier,
            log: self.hlog.as_deref().map(HistogramLog::create).transpose()?,
            exporter: self.prometheus.map(Exporter::start).transpose()?,
            keeps_percentiles: self.csv.is_some() || self.html.is_some(),
            shows_line: Wants::on_terminal(load.quiet),
        }))
    }

    /// Two results in one file would leave one of them.
    fn each_has_its_own(&self, load: &Load) -> Outcome<()> {
        let named = [
            ("--json", &load.json),
            ("--html", &self.html),
            ("--csv", &self.csv),
            ("--hlog", &self.hlog),
            ("--junit", &self.junit),
        ];
        let named = named.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)));
        // A device, such as /dev/null, takes whatever comes.
        let is_file = |path: &Path| std::fs::metadata(path).map_or(true, |found| found.is_file());
        let mut known: Vec<(&str, &Path)> = Vec::new();
        for (option, path) in named.filter(|(_, path)| is_file(path)) {
            if let Some((other, _)) = known.iter().find(|(_, known)| *known == path) {
                return Err(Failure::new(format!(
                    "{other} and {option} name the same file: {}",
                    path.display()
                )));
            }
            known.push((option, path));
        }
        Ok(())
    }

    /// Writes the files of a run that is over. One that cannot be written does not keep the others from it;
    /// all reasons are returned.
    pub(crate) fn write(&self, report: &Report) -> Vec<Failure> {
        let mut failures = Vec::new();
        for (path, text) in
            [(&self.html, run_page as fn(&Report) -> String), (&self.csv, csv), (&self.junit, junit)]
        {
            if let Some(path) = path {
                failures.extend(write(path, &text(report)).err());
            }
        }
        failures
    }
}

/// Fails where a file cannot be written, before the run whose result it is to have. What it holds is left
/// alone, since it may be the earlier result of `--against`.
pub(crate) fn check_writable(path: Option<&Path>) -> Outcome<()> {
    let Some(path) = path else { return Ok(()) };
    let failed = |error| Failure::new(format!("{}: {error}", path.display()));
    let is_new = !path.exists();
    if !is_new && !path.is_file() {
        // A pipe would be at its end when this closes it.
        return Ok(());
    }
    OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
    if is_new { std::fs::remove_file(path).map_err(failed) } else { Ok(()) }
}

/// Writes what is known so far as JSON. A pipe or a terminal gets the result only.
pub(crate) fn write_so_far(path: &Path, value: &impl Serialize) -> Outcome<()> {
    if path.is_file() || !path.exists() { write_json(path, value) } else { Ok(()) }
}

/// Writes a result as JSON.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Outcome<()> {
    let text = serde_json::to_string(value).map_err(|error| Failure::new(format!("JSON: {error}")))?;
    write(path, &(text + "\n"))
}

fn write(path: &Path, text: &str) -> Outcome<()> {
    std::fs::write(path, text).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}
