//! `cargo xtask fuzz`: builds the fuzzers with coverage and runs them.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use crate::{cargo, must, output_of, root, target_directory};

const PACKAGE: &str = "crates/fuzz";

/// LLVM's coverage for libFuzzer: counters at every edge, their addresses, and the operands of comparisons.
/// Stable rustc takes these flags.
const FLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 --cfg fuzzing";

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One target, on every core
    #[arg(conflicts_with = "smoke", required_unless_present = "smoke")]
    target: Option<String>,
    /// Every target for a short time, as many at once as there are cores
    #[arg(long)]
    smoke: bool,
    /// How long each target runs [default: 60 with --smoke, else 3600]
    #[arg(long, value_name = "N")]
    seconds: Option<u32>,
    /// Run the target once, with this file as its input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["smoke", "seconds"])]
    replay: Option<PathBuf>,
}

/// Runs what the options name; a find is a failure.
pub(crate) fn run(options: &Options) -> Result<ExitCode, String> {
    let targets = targets()?;
    if let Some(target) = options.target.as_ref().filter(|target| !targets.contains(target)) {
        return Err(format!("no target {target}; there are: {}", targets.join(", ")));
    }
    let program = build()?;
    if let (Some(target), Some(file)) = (&options.target, &options.replay) {
        return replay(&program, target, file);
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let queue = match &options.target {
        Some(target) => (0..cores).map(|worker| Job::new(target, Some(worker))).collect(),
        None => targets.iter().map(|target| Job::new(target, None)).collect(),
    };
    let seconds = options.seconds.unwrap_or(if options.smoke { 60 } else { 3600 });
    let finds = Campaign { program, seconds, cores, stop_at_find: !options.smoke }.run(queue)?;
    println!("{finds} finds");
    Ok(if finds == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folders of seeds, each of which belongs to a target.
fn targets() -> Result<Vec<String>, String> {
    let folder = root().join(PACKAGE).join("seeds");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

/// The folder of everything that is built, found along the way, or said.
fn workshop() -> PathBuf {
    target_directory().join("fuzz")
}

fn build() -> Result<PathBuf, String> {
    let version = output_of("rustc", &["-vV"]).ok_or("`rustc -vV` fails")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
    let arguments = ["build", "--package", "fanfare-fuzz", "--bin", "fuzz", "--features", "libfuzzer"];
    // With a --target the flags are not for build scripts and macros, which would not link.
    let mut build = cargo(arguments);
    build
        .args(["--profile", "fuzz", "--target", host, "--target-dir"])
        .arg(workshop())
        .env("RUSTFLAGS", FLAGS);
    must(&mut build)?;
    Ok(workshop().join(host).join("fuzz/fuzz"))
}

fn replay(program: &Path, target: &str, file: &Path) -> Result<ExitCode, String> {
    if !file.is_file() {
        return Err(format!("{} is no file", file.display()));
    }
    let mut once = Command::new(program);
    once.env("FANFARE_FUZZ_TARGET", target).env("RUST_BACKTRACE", "1").arg(file);
    once.arg(format!("-artifact_prefix={}/replayed-", workshop().display()));
    let status = crate::status(&mut once)?;
    println!("{target} {} {}", if status.success() { "takes" } else { "still fails with" }, file.display());
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One process of libFuzzer.
struct Job {
    target: String,
    /// Its name in the summary and that of its log.
    name: String,
}

impl Job {
    fn new(target: &str, worker: Option<usize>) -> Job {
        let name = worker.map_or_else(|| target.to_owned(), |worker| format!("{target}.{worker}"));
        Job { target: target.to_owned(), name }
    }
}

struct Campaign {
    program: PathBuf,
    seconds: u32,
    cores: usize,
    /// Whether one find ends all: the workers of one target would only find it again.
    stop_at_find: bool,
}

impl Campaign {
    /// Runs all jobs, as many at once as there are cores; says how many found something. No fuzzer outlives
    /// this.
    fn run(&self, queue: VecDeque<Job>) -> Result<usize, String> {
        let mut running = Vec::new();
        let finds = self.run_all(queue, &mut running);
        for (_, fuzzer) in &mut running {
            let _ = fuzzer.kill();
            let _ = fuzzer.wait();
        }
        finds
    }

    /// Leaves in `running` those that run when a find or an error ends it early.
    fn run_all(&self, mut queue: VecDeque<Job>, running: &mut Vec<(String, Child)>) -> Result<usize, String> {
        let (send, ended) = channel();
        let mut finds = 0;
        println!(
            "{} seconds for each; what the fuzzers say is in {}",
            self.seconds,
            workshop().join("logs").display()
        );
        println!("{:<16} {:>10} {:>17} {:>10} {:>7}", "target", "runs", "edges seen", "new inputs", "corpus");
        loop {
            while running.len() < self.cores
                && let Some(job) = queue.pop_front()
            {
                running.push((job.name.clone(), self.start(&job, send.clone())?));
            }
            if running.is_empty() {
                return Ok(finds);
            }
            let Ok((name, said)) = ended.recv() else { return Err("a fuzzer's reader is gone".to_owned()) };
            let Some(at) = running.iter().position(|(other, _)| *other == name) else { continue };
            let status = running.remove(at).1.wait().map_err(|error| error.to_string())?;
            println!("{name:<16} {}", said.line());
            if status.success() {
                if !said.coverage_works() {
                    return Err(format!("{name} saw no coverage: the flags of this command no longer work"));
                }
                continue;
            }
            finds += 1;
            said.show_find(name.split('.').next().unwrap_or(&name), &status.to_string());
            if self.stop_at_find {
                return Ok(finds);
            }
        }
    }

    /// Starts one fuzzer, and a thread that tells what it said once it has ended.
    fn start(&self, job: &Job, ended: Sender<(String, Said)>) -> Result<Child, String> {
        let package = root().join(PACKAGE);
        let corpus = folder(workshop().join("corpus").join(&job.target))?;
        folder(package.join("found"))?;
        let log = folder(workshop().join("logs"))?.join(format!("{}.txt", job.name));
        let mut log = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let dictionary = package.join("dictionaries").join(format!("{}.txt", job.target));

        let mut fuzzer = Command::new(&self.program);
        fuzzer.env("FANFARE_FUZZ_TARGET", &job.target).env("RUST_BACKTRACE", "0");
        fuzzer.arg(format!("-max_total_time={}", self.seconds)).arg("-print_final_stats=1");
        fuzzer.args(["-max_len=2048", "-timeout=10", "-rss_limit_mb=1024"]);
        // Short, because the line that tells how to replay a find repeats it.
        fuzzer.current_dir(root()).arg(format!("-artifact_prefix={PACKAGE}/found/{}-", job.target));
        if dictionary.exists() {
            fuzzer.arg(format!("-dict={}", dictionary.display()));
        }
        fuzzer.arg(corpus).arg(package.join("seeds").join(&job.target));
        fuzzer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = fuzzer.spawn().map_err(|error| format!("{} does not start: {error}", job.name))?;

        let stderr = child.stderr.take().ok_or("a fuzzer without a standard error")?;
        let name = job.name.clone();
        thread::spawn(move || {
            let mut said = Said::default();
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let _ = writeln!(log, "{line}");
                said.hear(&line);
            }
            let _ = ended.send((name, said));
        });
        Ok(child)
    }
}

fn folder(path: PathBuf) -> Result<PathBuf, String> {
    fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// What is worth keeping of a fuzzer's output.
#[derive(Debug, Default, PartialEq)]
struct Said {
    runs: String,
    new_inputs: String,
    corpus: String,
    first_edges: Option<u64>,
    last_edges: Option<u64>,
    panicked: Vec<String>,
    written_to: Option<String>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let behind = |name: &str| {
            words
                .iter()
                .position(|word| *word == name)
                .and_then(|at| words.get(at + 1))
                .map(|word| (*word).to_owned())
        };
        if line.starts_with('#')
            && let Some(edges) = behind("cov:").and_then(|edges| edges.parse().ok())
        {
            self.first_edges.get_or_insert(edges);
            self.last_edges = Some(edges);
            self.corpus = behind("corp:").unwrap_or_default();
        }
        if let Some(runs) = behind("stat::number_of_executed_units:") {
            self.runs = runs;
        }
        if let Some(new) = behind("stat::new_units_added:") {
            self.new_inputs = new;
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.written_to = Some(path.to_owned());
        }
        // A panic's message is on the lines behind this one.
        let goes_on = (1..6).contains(&self.panicked.len()) && !line.starts_with("==");
        if goes_on || line.contains("panicked at") || line.contains("ERROR: libFuzzer") {
            self.panicked.push(line.to_owned());
        }
    }

    fn coverage_works(&self) -> bool {
        self.last_edges.is_some_and(|edges| edges > 0)
    }

    fn line(&self) -> String {
        let edges = |edges: Option<u64>| edges.map_or_else(|| "?".to_owned(), |edges| edges.to_string());
        let seen = format!("{} -> {}", edges(self.first_edges), edges(self.last_edges));
        format!("{:>10} {seen:>17} {:>10} {:>7}", self.runs, self.new_inputs, self.corpus)
    }

    fn show_find(&self, target: &str, status: &str) {
        println!("found something ({status}):");
        self.panicked.iter().for_each(|line| println!("    {line}"));
        match &self.written_to {
            Some(path) => println!("replay it: cargo xtask fuzz {target} --replay {path}"),
            None => println!("it wrote no input; see its log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Said;

    #[test]
    fn a_run_and_its_find_are_read_from_what_libfuzzer_says() {
        let mut said = Said::default();
        for line in [
            "INFO: Loaded 1 modules   (5555 inline 8-bit counters)",
            "#26\tINITED cov: 595 ft: 1080 corp: 25/1207b exec/s: 0 rss: 28Mb",
            "#635050\tREDUCE cov: 981 ft: 3282 corp: 1244/108Kb lim: 755 exec/s: 18144 rss: 30Mb L: 151/648",
            "thread '<unnamed>' (1) panicked at crates/fuzz/src/decoder.rs:1:1:",
            "assertion failed",
            "==7== ERROR: libFuzzer: deadly signal",
            "artifact_prefix='found/decoder-'; Test unit written to found/decoder-crash-1",
            "stat::number_of_executed_units: 635051",
            "stat::new_units_added:          812",
        ] {
            said.hear(line);
        }
        assert_eq!((said.first_edges, said.last_edges), (Some(595), Some(981)));
        assert_eq!(
            (said.runs.as_str(), said.new_inputs.as_str(), said.corpus.as_str()),
            ("635051", "812", "1244/108Kb")
        );
        assert_eq!(said.written_to.as_deref(), Some("found/decoder-crash-1"));
        assert_eq!(said.panicked[1], "assertion failed");
        assert!(said.coverage_works() && !Said::default().coverage_works());
    }
}
