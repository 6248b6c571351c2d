//! The server under test, in a process of its own: it is started, stopped, killed and observed from outside.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fanfare_io::Clock;
pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// The options that every server is started with.
const OPTIONS: [&str; 6] = ["--laggard-time", "10s", "--heartbeat", "2s", "--drain", "3s"];

/// The bounds of a server, and how many bytes of each topic its log retains at least.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    options: &'static [&'static str],
    pub(crate) retained_bytes: usize,
}

/// Bounds that are so small that faults reach them.
pub(crate) const SMALL: Bounds =
    Bounds { options: &["--retain-bytes", "512KiB", "--laggard-bytes", "1MiB"], retained_bytes: 512 << 10 };

/// Bounds that no fault reaches: no event may be missing, and no subscriber is disconnected.
pub(crate) const LARGE: Bounds = Bounds {
    options: &[
        "--retain-bytes",
        "1GiB",
        "--retain-events",
        "1000000",
        "--log-bytes",
        "4GiB",
        "--laggard-bytes",
        "1GiB",
    ],
    retained_bytes: 1 << 30,
};

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) backend: String,
    pub(crate) listen: SocketAddr,
    pub(crate) shards: usize,
    pub(crate) bounds: Bounds,
    /// The RLIMIT_NOFILE of the server. `None`: that of this process.
    pub(crate) descriptors: Option<usize>,
    /// Where the server keeps its durable log. `None`: it has none.
    pub(crate) data: Option<Arc<DataDirectory>>,
    /// Further options.
    pub(crate) more: Vec<String>,
}

/// A directory for a durable log. It is removed when the last plan with it is dropped.
#[derive(Debug)]
pub(crate) struct DataDirectory(PathBuf);

impl DataDirectory {
    /// A path that is free: the server makes the directory.
    pub(crate) fn new() -> DataDirectory {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        DataDirectory(std::env::temp_dir().join(format!("fanfare-torture-{process}-{number}")))
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server. Dropping it kills the process.
pub(crate) struct Server {
    plan: Plan,
    child: Child,
    pub(crate) address: SocketAddr,
    /// The log output of all processes of this server.
    log: Arc<Mutex<String>>,
    /// How many bytes of the log [`Server::new_log_lines`] has returned.
    read: usize,
    log_reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the server and waits until it listens.
    pub(crate) fn start(plan: &Plan) -> Result<Server, String> {
        let log = Arc::new(Mutex::new(String::new()));
        let (child, address, log_reader) = spawn(plan, &log)?;
        let plan = Plan { listen: address, ..plan.clone() };
        Ok(Server { plan, child, address, log, read: 0, log_reader: Some(log_reader) })
    }

    /// Starts the server again on the same port after its process has ended.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        let (child, _, log_reader) = spawn(&self.plan, &self.log)?;
        self.child = child;
        self.log_reader = Some(log_reader);
        Ok(())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // The process may have ended; `ended` and `await_end` report that.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills the process, as a crash would, and waits until it has ended.
    ///
    /// # Errors
    /// The process had ended by itself.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let before = self.ended();
        let _ = self.child.kill();
        let status = self.child.wait().map_err(|error| error.to_string());
        self.join_log();
        let status = status?;
        match before {
            None if status.signal() == Some(Signal::KILL.as_raw()) => Ok(()),
            _ => Err(format!("the server had ended by itself when it was to be killed: {status}")),
        }
    }

    /// Waits until the process ends. `None`: it does not end in time.
    pub(crate) fn await_end(&mut self, clock: Clock, patience: Duration) -> Option<ExitStatus> {
        let deadline = clock.now() + patience;
        while clock.now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.join_log();
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// The exit status, if the process has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn join_log(&mut self) {
        if self.log_reader.take().is_some_and(|reader| reader.join().is_err()) {
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str("the thread that reads this log panicked\n");
        }
    }

    /// The lines of the log that report a panic.
    pub(crate) fn panics(&self) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.lines().filter(|line| line.contains("panicked")).map(str::to_owned).collect()
    }

    /// The log output since the last call.
    pub(crate) fn new_log_lines(&mut self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let new_log_lines = log[self.read..].to_owned();
        self.read = log.len();
        new_log_lines
    }

    /// Whether the log contains a text.
    pub(crate) fn logged(&self, text: &str) -> bool {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).contains(text)
    }

    /// How many streams the last process reported as cut. `ends` is how many of its processes were asked to
    /// stop by now.
    ///
    /// # Errors
    /// The log does not have one last line for each of them.
    pub(crate) fn cut_at_end(&self, ends: usize) -> Result<u64, String> {
        cut_at_end(&self.log.lock().unwrap_or_else(PoisonError::into_inner), ends)
    }

    /// The anonymous memory of the process in bytes: heap, stacks and tables, without the program's text and
    /// the kernel's sockets.
    pub(crate) fn memory(&self) -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended before, which `ended` has reported.
        let _ = self.kill();
    }
}

fn cut_at_end(log: &str, ends: usize) -> Result<u64, String> {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" stopped; ")).collect();
    let last = lines.last().filter(|_| lines.len() == ends);
    let cut =
        |line: &&str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix("cut=")?.parse().ok());
    last.and_then(cut)
        .ok_or_else(|| format!("the server ended {ends} times and its last words are {lines:?}"))
}

/// The program of the server, in the directory of this program.
pub(crate) fn find_program() -> Result<PathBuf, String> {
    let ours = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = ours.parent().unwrap_or(Path::new(".")).join("fanfare");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is not there: run `cargo xtask torture`, which builds it", program.display()))
}

fn spawn(plan: &Plan, log: &Arc<Mutex<String>>) -> Result<(Child, SocketAddr, JoinHandle<()>), String> {
    let mut command = match plan.descriptors {
        None => Command::new(&plan.program),
        Some(limit) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("ulimit -n {limit}; exec \"$0\" \"$@\"")).arg(&plan.program);
            shell
        }
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FANFARE_")) {
        command.env_remove(name);
    }
    let (listen, shards) = (plan.listen.to_string(), plan.shards.to_string());
    command.args(["serve", "--backend", &plan.backend, "--listen", &listen, "--shards", &shards]);
    command.args(plan.bounds.options).args(OPTIONS);
    if let Some(data) = &plan.data {
        command.arg("--data").arg(&data.0);
    }
    command.args(&plan.more);
    // The server has a process group of its own: Ctrl-C reaches only this program, which ends the server.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{}: {error}", plan.program.display()))?;

    let log_reader = child.stderr.take().map(|stderr| {
        let log = Arc::clone(log);
        thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        })
    });
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().ok_or("no standard output")?);
    let _ = stdout.read_line(&mut first);
    // All other output is discarded.
    thread::spawn(move || drop(stdout.read_to_end(&mut Vec::new())));
    let address =
        first.trim_end().split_once(" is listening on http://").and_then(|(_, text)| text.parse().ok());
    match (address, log_reader) {
        (Some(address), Some(log_reader)) => Ok((child, address, log_reader)),
        (_, log_reader) => {
            let _ = child.kill();
            let _ = child.wait();
            log_reader.map(JoinHandle::join);
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            Err(format!("the server does not start: {first:?}\n{log}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that crashed under load was taken for killed, if a kill came next.
    #[test]
    fn a_server_that_ended_by_itself_was_not_killed() {
        let server = |script: &str| {
            let plan = Plan {
                program: PathBuf::new(),
                backend: String::new(),
                listen: SocketAddr::from(([127, 0, 0, 1], 1)),
                shards: 1,
                bounds: SMALL,
                descriptors: None,
                data: None,
                more: Vec::new(),
            };
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            Server { address: plan.listen, plan, child, log: Arc::default(), read: 0, log_reader: None }
        };
        assert_eq!(server("exec sleep 600").kill(), Ok(()));
        for (script, status) in [("exit 3", "exit status: 3"), ("kill -15 $$", "signal: 15")] {
            let mut server = server(script);
            assert!(server.await_end(Clock::start(), Duration::from_secs(60)).is_some());
            let problem = server.kill().unwrap_err();
            assert!(problem.contains(status), "{problem}");
        }
    }

    /// The cuts were summed over all processes, so the cuts of one excused those of another.
    #[test]
    fn the_last_line_belongs_to_the_last_end() {
        let line = |cut| format!("12:00 INFO stopped; the cut were not sent drained=7 cut={cut} slow=2\n");
        let log = format!("started\n{}started\n{}", line(9), line(1));
        assert_eq!(cut_at_end(&log, 2), Ok(1));
        for (log, ends) in [(log.as_str(), 1), (&log, 3), ("", 1), ("it stopped; and says nothing", 1)] {
            assert!(cut_at_end(log, ends).is_err(), "{ends} ends in {log:?}");
        }
    }
}
