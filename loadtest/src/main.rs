//! The judge: opens very many event streams to any SSE server, publishes on a schedule, and checks every
//! delivery. It shares no code with the engine. README.md says how to use it and what its figures mean.

#![deny(unsafe_code)]

mod ask;
mod baseline;
mod cli;
mod client;
mod clock;
mod compare;
mod cores;
mod distributed;
mod exporter;
mod failure;
mod find;
mod http;
mod limits;
mod monitor;
mod outputs;
mod provenance;
mod publish;
mod refusal;
mod report;
mod sample;
mod scenario;
mod secrets;
mod sequence;
mod sources;
mod sse;
mod stamp;
mod steer;
mod subscription;
mod sys;
mod target;
mod threshold;
mod tls;
mod tun;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Task};
use crate::compare::Compare;
use crate::failure::Outcome;
use crate::find::Find;
use crate::outputs::{Outputs, write_json};
use crate::provenance::Provenance;
use crate::report::{Report, comparison, summary};
use crate::scenario::{Kind, Load};

/// A run that is not valid, or that fails a threshold.
const NOT_VALID: u8 = 1;
/// A run that could not be started.
const NOT_STARTED: u8 = 2;
/// A run that was interrupted.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    sys::note_interrupts();
    let result = Cli::parse().command.task().and_then(|task| match task {
        Task::Scenario(kind, load, outputs) => one_run(&kind, &load, &outputs),
        Task::Find(find) => search(&find),
        Task::Compare(compare) => many_runs(*compare),
        Task::Refusal(refusal) => refusal.run().map(|stop| {
            println!("{stop}");
            ExitCode::SUCCESS
        }),
        Task::Baseline(serve) => baseline::serve(&serve).map(|()| ExitCode::SUCCESS),
        Task::Agent(agent) => agent.serve().map(|()| ExitCode::SUCCESS),
        Task::Watch(watch) => watch.serve().map(|()| ExitCode::SUCCESS),
    });
    match result {
        Ok(code) => code,
        Err(failure) => {
            for line in failure.to_string().lines() {
                eprintln!("fanfare-load: {line}");
            }
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// Prints to standard output. A reader that has gone, such as `head`, must not end the run before its files
/// are written.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn one_run(kind: &Kind, load: &Load, outputs: &Outputs) -> Outcome<ExitCode> {
    if outputs.dry_run {
        say(&scenario::requests(kind, load)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut monitor = outputs.begin(load)?;
    let provenance = Provenance::begin();
    let mut report = scenario::run_monitored(kind, load, &secrets::url(&load.target_name()), &mut monitor)?;
    report.provenance = Some(provenance.until_now());
    say(&summary(&report));
    let mut unwritten = outputs.write(&report);
    unwritten.extend(load.json.as_ref().and_then(|path| write_json(path, &report).err()));
    for failure in &unwritten {
        eprintln!("fanfare-load: {failure}");
    }
    for problem in &report.problems {
        eprintln!("fanfare-load: {problem}");
    }
    for line in report.failed_thresholds() {
        eprintln!("fanfare-load: {line}");
    }
    Ok(ExitCode::from(match &report {
        Report { partial: true, .. } => INTERRUPTED,
        Report { passed: true, .. } if unwritten.is_empty() => 0,
        _ => NOT_VALID,
    }))
}

fn search(find: &Find) -> Outcome<ExitCode> {
    let found = find.run()?;
    say(&find.summary(&found));
    if let Some(path) = find.json() {
        write_json(path, &found)?;
    }
    Ok(ExitCode::from(match (found.partial, found.held) {
        (true, _) => INTERRUPTED,
        (_, Some(_)) => 0,
        _ => NOT_VALID,
    }))
}

fn many_runs(compare: Compare) -> Outcome<ExitCode> {
    let result = compare.run()?;
    println!("{}\n{}; {}", comparison(&result), result.machine, result.arrangement);
    for line in result.versions().iter().chain(&result.beside_bare()) {
        println!("{line}");
    }
    let mut has_failed = false;
    for row in &result.rows {
        for (round, line) in row
            .rounds
            .iter()
            .enumerate()
            .flat_map(|(round, report)| report.failed_thresholds().map(move |line| (round + 1, line)))
        {
            has_failed = true;
            eprintln!("fanfare-load: {} at {}, round {round}: {line}", row.name, row.connections);
        }
    }
    Ok(ExitCode::from(match (result.partial, result.valid() && !has_failed) {
        (true, _) => INTERRUPTED,
        (_, true) => 0,
        _ => NOT_VALID,
    }))
}
