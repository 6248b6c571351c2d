//! The test programs of the workspace, run side by side: many of them wait more than they compute, and cargo
//! runs one after another.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{cargo, not_started};

/// A program that is silent for so long hangs. No single test is silent for a third of it on a slow machine.
const SILENCE: Duration = Duration::from_secs(300);

/// How many of the slowest programs are named at the end. They make the whole run long.
const SLOWEST: usize = 10;

/// A test program that cargo has built.
#[derive(Debug, PartialEq)]
pub(crate) struct Program {
    /// As a person knows it, such as `fanfare-server tests/resume.rs`.
    name: String,
    executable: PathBuf,
    /// Where cargo would start it: the folder of its package.
    folder: PathBuf,
}

impl Program {
    /// Whether it has the unit tests of a library.
    pub(crate) fn is_of_library(&self) -> bool {
        self.name.ends_with(" src/lib.rs")
    }
}

/// What a program did.
struct Ran {
    program: Program,
    output: String,
    /// `None`: it was silent for too long, and was killed.
    status: Option<ExitStatus>,
    took: Duration,
}

/// Builds all test programs of these packages, or of the workspace, and names them.
pub(crate) fn build(packages: &[String]) -> Result<Vec<Program>, String> {
    let mut build = of(packages);
    build.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let output = build
        .stderr(Stdio::inherit())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_started(&build, &error))?;
    if !output.status.success() {
        return Err(format!("a test program does not build: cargo ended with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(program_in).collect())
}

/// The test program that a line of cargo's messages tells of.
fn program_in(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let executable = message["executable"].as_str().filter(|_| is_test)?;
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    let source = Path::new(message["target"]["src_path"].as_str()?);
    let source = source.strip_prefix(folder).unwrap_or(source);
    let package = folder.file_name()?.to_string_lossy();
    let name = format!("{package} {}", source.display());
    Some(Program { name, executable: executable.into(), folder: folder.to_owned() })
}

/// Runs the programs with these arguments, as many at once as there are lanes. Each one's output comes in one
/// piece when it has ended, and each line of it goes to `heard`, too. Answers the names of those that failed.
pub(crate) fn run(
    programs: Vec<Program>,
    lanes: usize,
    arguments: &[&str],
    mut heard: impl FnMut(&str),
) -> Result<Vec<String>, String> {
    let (send, ended) = channel();
    let mut queue = VecDeque::from(programs);
    let mut running = 0;
    let mut failed = Vec::new();
    let mut times: Vec<(u64, String)> = Vec::new();
    loop {
        while running < lanes
            && let Some(program) = queue.pop_front()
        {
            start(program, arguments, send.clone())?;
            running += 1;
        }
        if running == 0 {
            times.sort_unstable_by(|one, other| other.cmp(one));
            for (seconds, name) in times.iter().take(SLOWEST) {
                println!("{seconds:>4} s {name}");
            }
            return Ok(failed);
        }
        let Ok(ran) = ended.recv() else { return Err("a test program's reader is gone".to_owned()) };
        running -= 1;
        let (program, seconds) = (&ran.program, ran.took.as_secs());
        println!("     Running {} ({}), {seconds} s", program.name, program.executable.display());
        times.push((seconds, program.name.clone()));
        for line in ran.output.lines() {
            println!("{line}");
            heard(line);
        }
        match ran.status {
            Some(status) if status.success() => {}
            Some(status) => {
                println!("{} ended with {status}", program.name);
                failed.push(ran.program.name);
            }
            None => {
                println!("{} was silent for {} s, and was killed", program.name, SILENCE.as_secs());
                failed.push(ran.program.name);
            }
        }
    }
}

/// Starts one program, and a thread that tells what it did once it has ended.
fn start(program: Program, arguments: &[&str], ended: Sender<Ran>) -> Result<(), String> {
    let mut command = Command::new(&program.executable);
    let failed = |error: io::Error| format!("{} does not start: {error}", program.name);
    let (output, input) = io::pipe().map_err(failed)?;
    command.args(arguments).current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
    command.stdin(Stdio::null()).stdout(input.try_clone().map_err(failed)?).stderr(input);
    #[allow(clippy::disallowed_methods, reason = "it measures how long a program takes")]
    let started = Instant::now();
    let mut child = command.spawn().map_err(failed)?;
    // It has the writing end, too, and would keep the pipe from ending.
    drop(command);
    thread::spawn(move || {
        let (send, lines) = channel();
        thread::spawn(move || read(output, &send));
        let (output, status) = watch(&mut child, &lines);
        let _ = ended.send(Ran { program, output, status, took: started.elapsed() });
    });
    Ok(())
}

fn read(output: PipeReader, lines: &Sender<String>) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
            return;
        }
    }
}

/// Gathers what a program says until it closes its output and ends, or is silent for too long.
fn watch(child: &mut Child, lines: &Receiver<String>) -> (String, Option<ExitStatus>) {
    let mut output = String::new();
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                output.push_str(&line);
                output.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => return (output, child.wait().ok()),
            // What it has left behind may keep its output open.
            Err(RecvTimeoutError::Timeout) => {
                if let Ok(Some(status)) = child.try_wait() {
                    return (output, Some(status));
                }
                let _ = child.kill();
                let _ = child.wait();
                return (output, None);
            }
        }
    }
}

/// The examples in the documentation, which cargo itself builds and runs.
pub(crate) fn of_documentation(packages: &[String]) -> Command {
    let mut tests = of(packages);
    tests.args(["--doc", "--no-fail-fast"]);
    tests
}

/// The tests of these packages, or of the workspace where none is named.
fn of(packages: &[String]) -> Command {
    let mut tests = cargo(["test"]);
    for package in packages {
        tests.args(["--package", package]);
    }
    if packages.is_empty() {
        tests.arg("--workspace");
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_known_by_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/server/Cargo.toml",
            "target":{"name":"resume","src_path":"/w/crates/server/tests/resume.rs"},
            "profile":{"test":true},"executable":"/w/target/debug/deps/resume-1"}"#
            .replace('\n', "");
        let expected = Program {
            name: "server tests/resume.rs".to_owned(),
            executable: "/w/target/debug/deps/resume-1".into(),
            folder: "/w/crates/server".into(),
        };
        assert_eq!(program_in(&line), Some(expected));
        assert_eq!(program_in(&line.replace("\"test\":true", "\"test\":false")), None);
        assert_eq!(program_in("   Compiling something"), None);
    }

    fn shell(script: &str) -> Program {
        let folder = std::env::temp_dir();
        let executable = PathBuf::from("/bin/sh");
        let name = script.to_owned();
        Program { name, executable, folder }
    }

    /// One that crashes prints no line with a count.
    #[test]
    fn a_program_that_fails_is_named_and_what_it_said_is_heard() {
        let mut heard = Vec::new();
        let ran = run(vec![shell("one")], 2, &["-c", "echo out; echo error >&2; exit 3"], |line| {
            heard.push(line.to_owned());
        });
        assert_eq!(ran, Ok(vec!["one".to_owned()]));
        assert_eq!(heard, ["out", "error"]);
        let killed = run(vec![shell("two")], 1, &["-c", "kill -9 $$"], |_| {});
        assert_eq!(killed, Ok(vec!["two".to_owned()]));
        assert_eq!(run(vec![shell("a"), shell("b"), shell("c")], 2, &["-c", "true"], |_| {}), Ok(vec![]));
    }
}
