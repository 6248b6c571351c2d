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
mod failure;
mod http;
mod limits;
mod provenance;
mod publish;
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
mod tls;
mod tun;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Task};
use crate::compare::Compare;
use crate::failure::{Failure, Outcome};
use crate::provenance::Provenance;
use crate::report::{Report, comparison, summary};
use crate::scenario::{Kind, Load};

/// A run that is not valid.
const NOT_VALID: u8 = 1;
/// A run that could not be started.
const NOT_STARTED: u8 = 2;
/// A run that was interrupted.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    sys::note_interrupts();
    let result = Cli::parse().command.task().and_then(|task| match task {
        Task::Scenario(kind, load) => one_run(&kind, &load),
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

fn one_run(kind: &Kind, load: &Load) -> Outcome<ExitCode> {
    let provenance = Provenance::begin();
    let mut report = scenario::run(kind, load, &secrets::url(&load.target_name()))?;
    report.provenance = Some(provenance.until_now());
    println!("{}", summary(&report));
    if let Some(path) = &load.json {
        write_json(path, &report)?;
    }
    for problem in &report.problems {
        eprintln!("fanfare-load: {problem}");
    }
    Ok(ExitCode::from(match &report {
        Report { partial: true, .. } => INTERRUPTED,
        Report { valid: true, .. } => 0,
        _ => NOT_VALID,
    }))
}

fn many_runs(compare: Compare) -> Outcome<ExitCode> {
    let result = compare.run()?;
    println!("{}\n{}; {}", comparison(&result), result.machine, result.arrangement);
    for line in result.beside_bare() {
        println!("{line}");
    }
    Ok(ExitCode::from(match (result.partial, result.valid()) {
        (true, _) => INTERRUPTED,
        (_, true) => 0,
        _ => NOT_VALID,
    }))
}

fn write_json(path: &std::path::Path, value: &impl serde::Serialize) -> Outcome<()> {
    let text = serde_json::to_string(value).map_err(|error| Failure::new(format!("JSON: {error}")))?;
    std::fs::write(path, text + "\n").map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}
