//! What an idle subscriber holds: user-space memory of the engine's process, and kernel memory of the pair.
//!
//! Three processes, so that nobody's memory is counted with another's: this one, which reports; it starts
//! the engine's; and that one starts the clients'.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;
use std::{env, io};

use clap::{Parser, ValueEnum};
use fanfare::{Backend, DescriptorTables, Engine, Hub, Limits};
use fanfare_bench::client::{Discard, Plan, Reader};
use fanfare_bench::engine::patiently;
use fanfare_bench::{Outcome, finish, machine};

/// Connections of one client thread: fewer than a descriptor table holds.
const PER_TABLE: usize = 16_000;

/// Connections of one shard on average. The kernel spreads them by a hash, so some shards get more.
const PER_SHARD: usize = 17_500;

/// Memory of idle subscribers, in user space and in the kernel
#[derive(Clone, Parser)]
struct Options {
    /// Subscribers at the first measurement
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    from: u32,
    /// Subscribers at the second measurement
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(200..=1_000_000))]
    to: u32,
    /// Only this backend
    #[arg(long)]
    backend: Option<Backend>,
    /// What this process is
    #[arg(long, hide = true)]
    part: Option<Part>,
    /// Who subscribes to what
    #[arg(long, hide = true, default_value = "one")]
    topics: Topics,
    /// Where clients connect to
    #[arg(long, hide = true)]
    address: Option<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Engine,
    Clients,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Topics {
    /// All subscribe to the same topic.
    One,
    /// Each subscribes to a topic of its own.
    Each,
}

fn main() -> ExitCode {
    let options = Options::parse();
    finish(match options.part {
        None => report(&options),
        Some(Part::Engine) => run_engine(&options),
        Some(Part::Clients) => run_clients(&options),
    })
}

/// The outermost process: one run after the other.
fn report(options: &Options) -> Outcome<()> {
    let mut backends = machine::backends();
    backends.retain(|backend| options.backend.is_none_or(|only| only == *backend));
    machine::introduce("idle_memory", &backends);
    if options.from >= options.to {
        return Err("--to must be above --from".into());
    }
    println!("between {} and {} subscribers, the engine in a process of its own", options.from, options.to);
    let mut lines = Vec::new();
    for backend in backends {
        for topics in [Topics::One, Topics::Each] {
            let mut child = options.child(Part::Engine, topics)?;
            child.arg("--backend").arg(backend.to_string());
            let output = child.stderr(Stdio::inherit()).output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            if !output.status.success() {
                return Err(format!("the engine's process ended with {}", output.status).into());
            }
            for line in said.lines() {
                match line.strip_prefix("result ") {
                    Some(result) => lines.push(result.to_owned()),
                    None => println!("{line}"),
                }
            }
        }
    }
    println!();
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// The engine's process: measures itself twice.
fn run_engine(options: &Options) -> Outcome<()> {
    let backend = options.backend.unwrap_or_default();
    let shards = (options.to as usize).div_ceil(PER_SHARD);
    let limits = Limits { heartbeat: Duration::from_secs(24 * 3600), ..Limits::default() };
    let engine = Engine::builder()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .shards(shards)
        .backend(backend)
        .descriptor_tables(DescriptorTables::Auto)
        .limits(limits)
        .start()?;
    let hub = engine.hub();
    let mut child = options.child(Part::Clients, options.topics)?;
    child.arg("--address").arg(engine.addresses()[0].to_string());
    let mut clients = Clients::start(child)?;

    let empty = Memory::now();
    clients.wait()?;
    let first = Memory::at(&hub, options.from)?;
    clients.go_on()?;
    clients.wait()?;
    let second = Memory::at(&hub, options.to)?;
    let counts = hub.counts();
    clients.go_on()?;
    clients.child.wait()?;
    drop(engine);

    let more = f64::from(options.to - options.from);
    let topics = if options.topics == Topics::One { "one" } else { "each" };
    let user = second.since(&first, |memory| memory.user) / more;
    let kernel = second.since(&first, |memory| memory.slab) / more;
    println!("\n{backend}, {shards} shards, a topic for {topics}: {} audiences", counts.audiences);
    for (name, memory) in [("none", &empty), ("first", &first), ("second", &second)] {
        let [user, slab] = [memory.user, memory.slab].map(|bytes| bytes as f64 / 1048576.0);
        println!("  {name:<6} user {user:.1} MiB, slab {slab:.1} MiB");
    }
    println!("  between the two: {user:.0} bytes in user space, {kernel:.0} in the kernel for both ends");
    println!(
        "result backend={} topics={topics} user_bytes_per_subscriber={user:.0} kernel_bytes_per_pair={kernel:.0}",
        machine::key(backend)
    );
    Ok(())
}

/// The clients' process: connects, and waits to be told to go on.
fn run_clients(options: &Options) -> Outcome<()> {
    let to = options.address.ok_or("clients need an address")?;
    let own_topic = options.topics == Topics::Each;
    let mut readers: Vec<Reader<Discard>> = Vec::new();
    let mut connected = 0;
    for target in [options.from, options.to] {
        while connected < target {
            let count = (target - connected).min(PER_TABLE as u32);
            let topic = if own_topic { format!("topic-{connected}-{{}}") } else { "news".to_owned() };
            let request = format!("GET /events?topic={topic} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let (count_usize, group) = (count as usize, readers.len() as u8);
            let plan = Plan { count: count_usize, to, group, core: None, hurried: false, request };
            let reader = Reader::start(plan, Discard::default())?;
            reader.wait_connected()?;
            readers.push(reader);
            connected += count;
        }
        println!("connected");
        io::stdin().read_line(&mut String::new())?;
    }
    for reader in readers {
        reader.stop()?;
    }
    Ok(())
}

impl Options {
    /// This program again, as another part.
    fn child(&self, part: Part, topics: Topics) -> Outcome<Command> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let mut command = Command::new(env::current_exe()?);
        command.args(["--from", &self.from.to_string(), "--to", &self.to.to_string()]);
        command.args([
            "--part",
            &name(part.to_possible_value()),
            "--topics",
            &name(topics.to_possible_value()),
        ]);
        Ok(command)
    }
}

/// The process with the clients, which says when they are connected.
struct Clients {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Clients {
    fn start(mut command: Command) -> Outcome<Clients> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let says = BufReader::new(child.stdout.take().ok_or("the clients' output is not there")?);
        let hears = child.stdin.take().ok_or("the clients' input is not there")?;
        Ok(Clients { child, says, hears })
    }

    fn wait(&mut self) -> Outcome<()> {
        let mut line = String::new();
        self.says.read_line(&mut line)?;
        if line.trim() == "connected" { Ok(()) } else { Err("the clients could not connect".into()) }
    }

    fn go_on(&mut self) -> Outcome<()> {
        Ok(self.hears.write_all(b"\n")?)
    }
}

/// Memory at one moment, in bytes.
struct Memory {
    user: u64,
    slab: u64,
}

impl Memory {
    fn now() -> Memory {
        Memory { user: machine::proportional_bytes(), slab: machine::slab_bytes() }
    }

    /// Waits until all are there and at rest: their heads are read, their requests' buffers free.
    fn at(hub: &Hub, count: u32) -> Outcome<Memory> {
        patiently("all subscribers are there", || Ok(hub.counts().connections == u64::from(count)))?;
        thread::sleep(Duration::from_secs(1));
        Ok(Memory::now())
    }

    fn since(&self, earlier: &Memory, figure: fn(&Memory) -> u64) -> f64 {
        figure(self) as f64 - figure(earlier) as f64
    }
}
