//! Where a baseline stops: opens streams until it refuses, and names the limit that was reached. Meant for a
//! thread per connection, which is stopped by the kernel's limits long before memory is short.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::baseline::InFull;
use crate::compare::{Wanted, all_contenders};
use crate::failure::{Failure, Outcome};
use crate::outputs::{check_writable, write_json};
use crate::report::figure;
use crate::sample::{self, Server, kernel};
use crate::sources::Sources;
use crate::sys;
use crate::target::Values;

/// How long an answer may take before it counts as refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// Refusals one after the other that are believed.
const BELIEVED: u64 = 3;
/// Descriptors of a holder's table that are not streams.
const SPARE: u64 = 64;
/// A limit is reached when so much of it is used: what is left is what the threads that look need.
const REACHED: f64 = 0.995;

/// Opens streams to a baseline until it refuses
#[derive(Args)]
pub(crate) struct Refusal {
    /// Which one
    #[arg(default_value = "threads")]
    contender: String,
    /// Streams to stop at where nothing refuses before
    #[arg(long, short = 'n', default_value_t = 40_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    most: u64,
    /// The fanfare server's binary, to see where that stops
    #[arg(long, value_name = "FILE")]
    fanfare: Option<PathBuf>,
    /// Change a setting, as in `compare`
    #[arg(long, value_name = "NAME.KEY=VALUE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Write every figure to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A limit of the kernel's, and how much of it was used when the server refused.
#[derive(Serialize)]
struct Limit {
    name: &'static str,
    used: u64,
    most: Option<u64>,
    reached: bool,
}

#[derive(Serialize)]
pub(crate) struct Stop {
    name: String,
    version_of_program: Option<String>,
    settings: String,
    settings_in_full: InFull,
    machine: String,
    /// Streams that were open at the end.
    held: u64,
    /// How a further one was refused; nothing was where it is missing.
    refused: Option<String>,
    server_user_bytes: Option<u64>,
    server_user_bytes_per_connection: Option<f64>,
    server_threads: u64,
    kernel_stack_and_table_bytes: u64,
    limits: Vec<Limit>,
}

impl Refusal {
    pub(crate) fn run(self) -> Outcome<Stop> {
        check_writable(self.json.as_deref())?;
        let wanted = Wanted { fanfare: self.fanfare.as_deref(), fanfare_axum: None, set: &self.set };
        let all = all_contenders(wanted)?;
        let names = all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>().join(", ");
        let found = all.into_iter().find(|(name, _)| *name == self.contender);
        let unknown =
            || Failure::new(format!("there is no contender `{}`; there are {names}", self.contender));
        let contender = found.ok_or_else(unknown)?.1?;
        let running = contender.start(&[])?;
        let mut load = crate::scenario::Load { server: contender.settings.dialect, ..Default::default() };
        running.aim(&mut load);
        let template = load.templates()?.subscribe;
        let mut request = Vec::new();
        template.request(None, Values { topic: "refusal", ..Values::default() }, &mut request)?;
        let target = template.address()?;
        let pid = load.server_pid.unwrap_or_default();
        let server = Server::new(pid)?;
        let (user, before) = (server.user_bytes(), kernel());

        let sources = Sources::suited_to(target, self.most as usize);
        let (held, refused, holders) = fill(target, &sources, &request, self.most);
        // Others on this machine may want a process number: look, and let go.
        let limits = limits(pid);
        let server_threads = server.threads().len() as u64;
        let (after, full) = (kernel(), server.user_bytes());
        running.stop();
        drop(holders);

        let grown = full.zip(user).map(|(after, before)| after.saturating_sub(before));
        let stop = Stop {
            name: contender.name,
            version_of_program: contender.version,
            settings_in_full: contender.settings.in_full(),
            settings: contender.settings.sentence(),
            machine: sample::machine(),
            held,
            refused,
            server_user_bytes: full,
            server_user_bytes_per_connection: grown.map(|bytes| (bytes as f64 / held.max(1) as f64).round()),
            server_threads,
            kernel_stack_and_table_bytes: after.stacks_and_tables.saturating_sub(before.stacks_and_tables),
            limits,
        };
        if let Some(path) = &self.json {
            write_json(path, &stop)?;
        }
        Ok(stop)
    }
}

/// Threads that hold streams in tables of their own, and let go of them when dropped.
struct Holders(Vec<std::sync::mpsc::Sender<()>>);

/// Opens streams one after the other. Returns how many are held, and what the first refusal said.
fn fill(target: SocketAddr, sources: &Sources, request: &[u8], most: u64) -> (u64, Option<String>, Holders) {
    let (limit, _) = sys::descriptor_limit();
    let room = limit.saturating_sub(SPARE).max(1);
    let (mut held, mut holders) = (0, Holders(Vec::new()));
    while held < most && !sys::interrupted() {
        let (report, reported) = channel();
        let (hold, held_until) = channel::<()>();
        let (sources, request) = (sources.clone(), request.to_vec());
        let (first, last) = (held, most.min(held + room));
        let holder = std::thread::Builder::new().spawn(move || {
            // Without a table of its own it holds what the one of all holds.
            let _ = sys::private_descriptor_table();
            let (streams, refused) = open(target, &sources, &request, first..last);
            let _ = report.send((streams.len() as u64, refused));
            let _ = held_until.recv();
        });
        if let Err(error) = holder {
            return (held, Some(format!("no further thread for the client: {error}")), holders);
        }
        holders.0.push(hold);
        let Ok((opened, refused)) = reported.recv() else { break };
        held += opened;
        if refused.is_some() {
            return (held, refused, holders);
        }
    }
    (held, None, holders)
}

fn open(
    target: SocketAddr,
    sources: &Sources,
    request: &[u8],
    range: std::ops::Range<u64>,
) -> (Vec<OwnedFd>, Option<String>) {
    let (mut streams, mut refusals) = (Vec::new(), 0);
    let mut first = None;
    for index in range {
        if sys::interrupted() {
            break;
        }
        match stream(target, sources.of(index as usize), request) {
            Ok(socket) => {
                refusals = 0;
                streams.push(socket);
            }
            Err(error) => {
                refusals += 1;
                let told = first.get_or_insert_with(|| error.to_string()).clone();
                if refusals == BELIEVED {
                    return (streams, Some(told));
                }
            }
        }
    }
    (streams, None)
}

/// A stream whose head has come.
fn stream(
    target: SocketAddr,
    source: Option<std::net::Ipv4Addr>,
    request: &[u8],
) -> std::io::Result<OwnedFd> {
    let (socket, _) = sys::connect(target, source, 0)?;
    let mut socket = TcpStream::from(socket);
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(request)?;
    let mut head = [0; 12];
    socket.read_exact(&mut head).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => std::io::Error::other("the server closed the connection"),
        std::io::ErrorKind::WouldBlock => std::io::Error::other("the server did not answer"),
        _ => error,
    })?;
    match head.ends_with(b" 200") {
        true => Ok(socket.into()),
        false => Err(std::io::Error::other(String::from_utf8_lossy(&head).into_owned())),
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The limit on processes and threads of this process's control group, of either version.
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let path = path.trim_end_matches('/');
        match controllers {
            "" => number(&format!("/sys/fs/cgroup{path}/pids.max")),
            "pids" => number(&format!("/sys/fs/cgroup/pids{path}/pids.max")),
            _ => None,
        }
    })
}

fn limits(pid: u32) -> Vec<Limit> {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split_whitespace().nth(3).and_then(|part| part.split_once('/')?.1.parse().ok());
    let threads: u64 = running.unwrap_or(0);
    let of_process = format!("/proc/{pid}");
    let own = fs::read_to_string(format!("{of_process}/limits")).unwrap_or_default();
    let own = |name: &str| {
        own.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let maps = fs::read(format!("{of_process}/maps")).unwrap_or_default();
    let areas = maps.iter().filter(|&&byte| byte == b'\n').count() as u64;
    // The fullest table of any thread.
    let tables = fs::read_dir(format!("{of_process}/task")).into_iter().flatten().flatten();
    let sampled =
        tables.step_by(1_000).filter_map(|task| Some(fs::read_dir(task.path().join("fd")).ok()?.count()));
    let descriptors = sampled.max().unwrap_or(0) as u64;
    let limit = |name, used: u64, most: Option<u64>| Limit {
        name,
        used,
        most,
        reached: most.is_some_and(|most| used as f64 >= most as f64 * REACHED),
    };
    vec![
        limit("kernel.pid_max", threads, number("/proc/sys/kernel/pid_max")),
        limit("kernel.threads-max", threads, number("/proc/sys/kernel/threads-max")),
        limit("vm.max_map_count", areas, number("/proc/sys/vm/max_map_count")),
        limit("pids.max of the control group", threads, group_limit()),
        limit("RLIMIT_NPROC (not for root)", threads, own("Max processes")),
        limit("RLIMIT_NOFILE, of one descriptor table", descriptors, own("Max open files")),
    ]
}

impl std::fmt::Display for Stop {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Stop { name, held, .. } = self;
        match &self.refused {
            Some(told) => writeln!(to, "{name} held {held} streams and refused the next: {told}")?,
            None => writeln!(to, "{name} held {held} streams and refused none")?,
        }
        let mebi = |bytes: u64| bytes >> 20;
        let each = figure(self.server_user_bytes_per_connection);
        writeln!(
            to,
            "its user memory: {} MiB, {each} bytes a stream; its threads: {}; kernel stacks and page tables: {} MiB more",
            self.server_user_bytes.map_or("?".to_owned(), |bytes| mebi(bytes).to_string()),
            self.server_threads,
            mebi(self.kernel_stack_and_table_bytes)
        )?;
        for limit in &self.limits {
            let most = limit.most.map_or("no limit".to_owned(), |most| format!("of {most}"));
            let reached = if limit.reached { "  <- reached" } else { "" };
            writeln!(to, "  {:<40} {} {most}{reached}", limit.name, limit.used)?;
        }
        write!(to, "{}", self.machine)
    }
}
