//! A server that takes part: how it is started, found to be ready, and stopped.

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::baseline::{BASELINES, Names, Settings, free_port, of_contender, scratch_of};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::failure::{Failure, Outcome};
use crate::sample::Server;
use crate::scenario::Load;
use crate::sys;

pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) settings: Settings,
    /// What the program says of its version; nothing where it says nothing.
    pub(crate) version: Option<String>,
    /// Its program is this tool, which runs the baseline of the name.
    is_baseline: bool,
    program: PathBuf,
}

const BACKENDS: [&str; 2] = ["epoll", "io-uring"];

/// The handler of `axum-sse` with a subscription in place of `Sse`.
const IN_AXUM: &str = "fanfare-axum";

/// All contenders, in the order of every table.
pub(crate) fn names() -> Vec<String> {
    let fanfare = BACKENDS.map(|backend| format!("fanfare-{backend}"));
    let others = BASELINES.into_iter().chain([IN_AXUM]).map(str::to_owned);
    fanfare.into_iter().chain(others).collect()
}

/// A contender's place among all that there are, which is its colour on every page.
pub(crate) fn place(name: &str) -> usize {
    names().iter().position(|known| known == name).unwrap_or(0)
}

/// Where the programs are that no search finds, and what differs from the shipped settings.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    /// The fanfare server.
    pub(crate) fanfare: Option<&'a Path>,
    /// The program that embeds it in axum.
    pub(crate) fanfare_axum: Option<&'a Path>,
    /// Overridden settings, each written `NAME.KEY=VALUE`.
    pub(crate) set: &'a [String],
}

/// All contenders, each with the reason where it cannot take part. It is an error if a setting is overridden
/// that does not exist.
pub(crate) fn all_contenders(wanted: Wanted<'_>) -> Outcome<Vec<(String, Outcome<Contender>)>> {
    let names = names();
    let mut overridden = Vec::new();
    for text in wanted.set {
        overridden.push(of_contender(text, &names)?);
    }
    let mut all = Vec::new();
    for name in names {
        let backend = name.strip_prefix("fanfare-").filter(|backend| BACKENDS.contains(backend));
        let mut settings = Settings::shipped(if backend.is_some() { "fanfare" } else { &name })?;
        settings.replace("{backend}", backend.unwrap_or(""));
        for (_, assignment) in overridden.iter().filter(|(of, _)| *of == name) {
            settings.set(assignment)?;
        }
        let found = match (backend, name.as_str()) {
            (Some(_), _) => given(wanted.fanfare, "--fanfare"),
            (_, IN_AXUM) => given(wanted.fanfare_axum, "--fanfare-axum"),
            _ => itself(),
        };
        let is_baseline = BASELINES.contains(&name.as_str());
        let contender = found.and_then(|program| {
            let asked = if is_baseline { settings.find()? } else { Some(program.clone()) };
            let version = settings.version(asked.as_deref());
            Ok(Contender { name: name.clone(), settings, version, is_baseline, program })
        });
        all.push((name, contender));
    }
    Ok(all)
}

/// A program that an option has to name.
fn given(program: Option<&Path>, option: &str) -> Outcome<PathBuf> {
    let program = program.ok_or_else(|| Failure::new(format!("{option} says where its binary is")))?;
    let absolute = std::path::absolute(program).ok().filter(|program| program.is_file());
    absolute.ok_or_else(|| Failure::new(format!("{} is no file", program.display())))
}

fn itself() -> Outcome<PathBuf> {
    std::env::current_exe().map_err(|error| Failure::new(format!("this program cannot find itself: {error}")))
}

/// A server that runs; it is ended when dropped.
pub(crate) struct Running {
    child: Child,
    url: String,
    publish_url: Option<String>,
    publish_headers: Vec<String>,
    connect_burst: Option<usize>,
    pipelines: bool,
}

impl Contender {
    /// Starts it on some cores (none: any) and waits until it accepts connections.
    pub(crate) fn start(&self, cores: &[usize]) -> Outcome<Running> {
        let (port, control_port) = (free_port()?, free_port()?);
        let names = Names { port, control_port, ..Names::default() };
        let mut command = self.command(&names)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A variable of the tests; the server has no option of this name.
        command.env_remove("FANFARE_BIN");
        // With its children, so that none of them outlives it.
        command.process_group(0);
        // A child begins on the cores of the thread that starts it, so that it sizes itself for them.
        let before = sys::allowed_cores();
        sys::raise_descriptor_limit();
        let failed = |error| Failure::new(format!("{} cannot be started: {error}", self.name));
        if !cores.is_empty() {
            sys::pin(0, cores).map_err(failed)?;
        }
        let spawned = command.spawn();
        if !cores.is_empty() {
            sys::pin(0, &before).map_err(failed)?;
        }
        let mut running = Running {
            child: spawned.map_err(failed)?,
            url: format!("http://127.0.0.1:{port}"),
            publish_url: self.settings.publish_url(&names)?,
            publish_headers: self.settings.publish_headers()?,
            connect_burst: self.settings.connect_burst,
            pipelines: self.settings.pipelines,
        };
        let open = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        let patience = clock::now() + 10 * SECOND;
        while !open(port) || (running.publish_url.is_some() && !open(control_port)) {
            if let Ok(Some(status)) = running.child.try_wait() {
                return Err(Failure::new(format!("{} ended at once ({status})", self.name)));
            }
            if clock::now() > patience || sys::interrupted() {
                return Err(Failure::new(format!("{} did not accept connections within 10 s", self.name)));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // Some listen before they have laid out their memory, which would count as the streams'.
        std::thread::sleep(std::time::Duration::from_millis(700));
        Ok(running)
    }
}

impl Contender {
    /// The command that starts it.
    fn command(&self, names: &Names<'_>) -> Outcome<Command> {
        let mut command = Command::new(&self.program);
        if self.is_baseline {
            command.args(["baseline", &self.name, "--with-parent", &std::process::id().to_string()]);
            command.args(["--port", &names.port.to_string()]);
            command.args(["--control-port", &names.control_port.to_string()]);
            for assignment in self.settings.overridden() {
                command.args(["--set", assignment]);
            }
            return Ok(command);
        }
        for argument in &self.settings.arguments {
            command.arg(names.fill(argument)?);
        }
        command.envs(&self.settings.environment);
        Ok(command)
    }
}

impl Running {
    /// Points a run at it.
    pub(crate) fn aim(&self, load: &mut Load) {
        load.url = Some(self.url.clone());
        load.publish_url.clone_from(&self.publish_url);
        load.publish_headers.clone_from(&self.publish_headers);
        load.connect_burst = load.connect_burst.min(self.connect_burst.unwrap_or(usize::MAX));
        if !self.pipelines {
            load.pipeline = 1;
        }
        load.server_pid = Some(self.child.id());
    }

    /// Ends it, kindly first.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let patience = clock::now() + 3 * SECOND;
        let leader = self.child.id();
        let groups = Server::new(leader).map_or_else(|_| vec![leader], Server::groups);
        let _ = sys::signal(leader, libc::SIGTERM);
        while matches!(self.child.try_wait(), Ok(None)) {
            if clock::now() > patience {
                break;
            }
            std::thread::sleep(std::time::Duration::from_nanos(10 * MILLISECOND));
        }
        // Children too: Pushpin gives them groups of their own and does not always end all.
        groups.into_iter().for_each(sys::kill_group);
        let _ = self.child.wait();
        // Most have none.
        let _ = std::fs::remove_dir_all(scratch_of(leader));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    /// Pushpin's child `condure` lived on.
    #[test]
    fn nothing_that_a_contender_started_outlives_it() {
        let mut command = Command::new("sh");
        // `-m` gives what runs in the background a group of its own, as Pushpin does.
        command.args(["-mc", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let grandchild: u32 = line.trim().parse().unwrap();
        assert!(sys::signal(grandchild, 0).is_ok());
        drop(Running {
            child,
            url: String::new(),
            publish_url: None,
            publish_headers: Vec::new(),
            connect_burst: None,
            pipelines: false,
        });
        // The process that inherits it may take its time to reap it.
        let gone = || match std::fs::read_to_string(format!("/proc/{grandchild}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let patience = clock::now() + 60 * SECOND;
        while !gone() && clock::now() < patience {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(gone());
    }

    #[test]
    fn every_contender_has_a_place_of_its_own_in_the_order_of_the_table() {
        let places: Vec<usize> =
            all_contenders(Wanted::default()).unwrap().iter().map(|(name, _)| place(name)).collect();
        assert_eq!(places, (0..places.len()).collect::<Vec<_>>());
    }
}
