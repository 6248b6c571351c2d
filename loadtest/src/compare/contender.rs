//! A server that takes part: how it is started, found to be ready, and stopped.

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use clap::ValueEnum;

use crate::baseline::{Baseline, free_port, scratch_of};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::failure::{Failure, Outcome};
use crate::sample::Server;
use crate::scenario::Load;
use crate::sys;
use crate::target::Dialect;

pub(super) struct Contender {
    pub(super) name: String,
    pub(super) dialect: Dialect,
    pub(super) settings: String,
    pub(super) cannot: String,
    /// The baseline that it is; none is fanfare itself.
    baseline: Option<Baseline>,
    program: std::path::PathBuf,
    /// With `{port}` and `{control}` in them.
    arguments: Vec<String>,
}

const BACKENDS: [&str; 2] = ["epoll", "io-uring"];

/// The handler of `tokio` with a subscription in place of `Sse`.
const IN_AXUM: &str = "fanfare-axum";

/// A contender's place among all that there are, which is its colour on every page.
pub(crate) fn place(name: &str) -> usize {
    let own = BACKENDS.iter().position(|backend| name.strip_prefix("fanfare-") == Some(*backend));
    let others = || Baseline::value_variants().iter().position(|baseline| baseline.name() == name);
    let in_axum = || (name == IN_AXUM).then(|| BACKENDS.len() + Baseline::value_variants().len());
    own.or_else(|| Some(others()? + BACKENDS.len())).or_else(in_axum).unwrap_or(0)
}

/// Everybody who could take part, and why not where that is so. `options` are more options of the fanfare
/// server, `in_axum` is the program that embeds it in axum; `bare` gets so many threads.
pub(super) fn all_contenders(
    fanfare: Option<&Path>,
    in_axum: Option<&Path>,
    options: Option<&str>,
    bare_threads: u16,
) -> Vec<(String, Outcome<Contender>)> {
    let mut all = Vec::new();
    let options = options.unwrap_or("");
    for backend in BACKENDS {
        let name = format!("fanfare-{backend}");
        let found = match fanfare {
            Some(program) if program.is_file() => Ok(Contender {
                name: name.clone(),
                dialect: Dialect::Fanfare,
                settings: match options {
                    "" => format!("--backend {backend}, otherwise as shipped: a shard per core it may use"),
                    options => format!("--backend {backend} {options}, otherwise as shipped"),
                },
                cannot: String::new(),
                baseline: None,
                program: program.to_owned(),
                arguments: ["serve", "--listen", "127.0.0.1:{port}", "--backend", backend]
                    .into_iter()
                    .chain(options.split_whitespace())
                    .map(str::to_owned)
                    .collect(),
            }),
            Some(program) => Err(Failure::new(format!("{} is no file", program.display()))),
            None => Err(Failure::new("--fanfare says where its binary is")),
        };
        all.push((name, found));
    }
    let own = std::env::current_exe();
    for &baseline in Baseline::value_variants() {
        let found = baseline.available().and_then(|()| {
            let program = own
                .as_ref()
                .map_err(|error| Failure::new(format!("this program cannot find itself: {error}")))?;
            let threads = if baseline == Baseline::Bare { bare_threads } else { 1 }.to_string();
            let ours = std::process::id().to_string();
            let mut arguments = vec!["baseline", baseline.name(), "--port", "{port}", "--with-parent", &ours];
            match baseline {
                Baseline::Pushpin => arguments.extend(["--control-port", "{control}"]),
                Baseline::Bare => arguments.extend(["--threads", &threads]),
                _ => {}
            }
            Ok(Contender {
                name: baseline.name().to_owned(),
                dialect: baseline.dialect(),
                settings: match threads.as_str() {
                    "1" => baseline.settings().to_owned(),
                    threads => {
                        format!("{}; {threads} such threads, a descriptor table each", baseline.settings())
                    }
                },
                cannot: baseline.cannot().to_owned(),
                baseline: Some(baseline),
                program: program.clone(),
                arguments: arguments.into_iter().map(str::to_owned).collect(),
            })
        });
        all.push((baseline.name().to_owned(), found));
    }
    let found = match in_axum {
        Some(program) if program.is_file() => Ok(Contender {
            name: IN_AXUM.to_owned(),
            dialect: Dialect::Plain,
            settings: "the handler of `tokio`, which returns a subscription in place of `Sse`; multi-threaded runtime with a \
                       thread per core it may use, and a shard for each; TCP_NODELAY"
                .to_owned(),
            cannot: String::new(),
            baseline: None,
            program: program.to_owned(),
            arguments: vec!["127.0.0.1:{port}".to_owned()],
        }),
        Some(program) => Err(Failure::new(format!("{} is no file", program.display()))),
        None => Err(Failure::new("--fanfare-axum says where its binary is")),
    };
    all.push((IN_AXUM.to_owned(), found));
    all
}

/// A server that runs; it is ended when dropped.
pub(super) struct Running {
    child: Child,
    url: String,
    publish_url: Option<String>,
    publish_headers: Vec<String>,
    connect_burst: Option<usize>,
    pipelines: bool,
}

impl Contender {
    pub(super) fn has_topics(&self) -> bool {
        self.baseline.is_none_or(Baseline::has_topics)
    }

    /// Starts it on some cores (none: any) and waits until it accepts connections.
    pub(super) fn start(&self, cores: &[usize]) -> Outcome<Running> {
        let (port, control_port) = (free_port()?, free_port()?);
        let arguments = self.arguments.iter().map(|text| {
            text.replace("{port}", &port.to_string()).replace("{control}", &control_port.to_string())
        });
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
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
            publish_url: self.baseline.and_then(|baseline| baseline.publish_url(control_port)),
            publish_headers: self.baseline.map(Baseline::publish_headers).unwrap_or_default(),
            connect_burst: self.baseline.and_then(Baseline::connect_burst),
            pipelines: self.baseline.is_none_or(Baseline::pipelines),
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

impl Running {
    /// Points a run at it.
    pub(super) fn aim(&self, load: &mut Load) {
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
    pub(super) fn stop(self) {
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
        // Whoever inherits it may take its time to reap it.
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
            all_contenders(None, None, None, 1).iter().map(|(name, _)| place(name)).collect();
        assert_eq!(places, (0..places.len()).collect::<Vec<_>>());
    }
}
