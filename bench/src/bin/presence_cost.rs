//! What presence costs a storm of connects, measured from outside: the server's binary on one core, the
//! client on another one.
//!
//! Servers with and without presence take turns, round by round. Bounded: a round has a count of connects,
//! and not more than [`TOGETHER`] connections are open at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanfare_bench::machine::Cores;
use fanfare_bench::server_process::ServerProcess;
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish, machine};
use fanfare_io::{Clock, affinity};
use socket2::SockRef;

/// Connections that are open at once.
const TOGETHER: usize = 250;

/// Different topics, where each connection does not have the same one.
const TOPICS: usize = 1000;

/// CPU time of a server with presence beside one without, for connects that end at once
#[derive(Parser)]
struct Options {
    /// The server's binary
    #[arg(long, default_value = "target/release/fanfare")]
    server: PathBuf,
    /// Rounds of each row
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Connects of a round
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=200_000))]
    count: u32,
    /// The backend of the server
    #[arg(long, default_value = "epoll")]
    backend: String,
}

struct Row {
    name: &'static str,
    server: ServerProcess,
    /// Reads the events of presence, which come once a second. What it does not read stays in the socket.
    _watcher: Option<TcpStream>,
    micros: Vec<f64>,
    rates: Vec<f64>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("presence_cost", &[]);
    let Options { rounds, count, backend, .. } = options;
    println!("{rounds} rounds of {count} connects, {TOGETHER} together, backend {backend}");
    let cores = Cores::choose()?;
    affinity::pin(cores.client)?;
    for (title, topics) in [("all of one topic", 1), ("of a thousand topics", TOPICS)] {
        measure(options, cores.server, title, topics)?;
    }
    Ok(())
}

fn measure(options: &Options, core: usize, title: &str, topics: usize) -> Outcome<()> {
    let start = |name, presence: &[&str], is_watched: bool| -> Outcome<Row> {
        let own = ["--admin", "off", "--backend", &options.backend];
        let arguments: Vec<String> = own.iter().chain(presence).map(|text| (*text).to_owned()).collect();
        let server = ServerProcess::start(&options.server, &arguments, core)?;
        let watch = || subscribe(&server, "topic=presence/t0&topic=presence/t1");
        let watcher = is_watched.then(watch).transpose()?;
        Ok(Row { name, server, _watcher: watcher, micros: Vec::new(), rates: Vec::new() })
    };
    let mut rows = [
        start("without presence", &[], false)?,
        start("with presence", &["--presence", "*"], false)?,
        start("with presence that is read", &["--presence", "*"], true)?,
    ];
    let requests: Vec<String> = (0..topics).map(|number| request(&format!("topic=t{number}"))).collect();
    for round in 0..=options.rounds {
        for place in 0..3 {
            let row = &mut rows[(place + round as usize) % 3];
            let (before, clock) = (row.server.cpu_time(), Clock::start());
            storm(&row.server, &requests, options.count as usize)?;
            let took = clock.now();
            settle(&row.server);
            let cpu = row.server.cpu_time() - before;
            // The first round is not counted.
            if round > 0 {
                row.micros.push(cpu.as_secs_f64() * 1e6 / f64::from(options.count));
                row.rates.push(f64::from(options.count) / took.as_secs_f64());
            }
        }
    }
    println!("connects {title}");
    let spread = |values: &[f64]| Spread::of(values.iter().copied());
    for row in &rows {
        let (micros, rates) = (spread(&row.micros), spread(&row.rates));
        println!("{:<28} connects a second {rates:.0}; server's CPU us each {micros:.2}", row.name);
    }
    for row in &rows[1..] {
        // Of the same round each, so that what the machine does meanwhile is in both.
        let factors = row.micros.iter().zip(&rows[0].micros).map(|(with, without)| with / without);
        println!("{}: factor of the server's CPU {:.3}", row.name, Spread::of(factors));
    }
    Ok(())
}

fn request(query: &str) -> String {
    format!("GET /events?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
}

fn subscribe(server: &ServerProcess, query: &str) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(server.address)?;
    stream.write_all(request(query).as_bytes())?;
    expect_ok(&mut stream)?;
    Ok(stream)
}

/// Connects, and ends each connection by a reset behind the head of the answer.
fn storm(server: &ServerProcess, requests: &[String], count: usize) -> Outcome<()> {
    let mut opened = Vec::with_capacity(TOGETHER);
    for first in (0..count).step_by(TOGETHER) {
        for number in first..count.min(first + TOGETHER) {
            let mut stream = TcpStream::connect(server.address)?;
            stream.write_all(requests[number % requests.len()].as_bytes())?;
            opened.push(stream);
        }
        for stream in &mut opened {
            expect_ok(stream)?;
            // No port waits for a minute.
            SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
        }
        opened.clear();
    }
    Ok(())
}

fn expect_ok(stream: &mut TcpStream) -> Outcome<()> {
    let mut buffer = [0; 2048];
    let mut received = 0;
    while !buffer[..received].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer[received..])? {
            0 => return Err("the server ends before the end of its head".into()),
            count => received += count,
        }
    }
    if buffer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    Err(format!("a subscription was answered {:?}", String::from_utf8_lossy(&buffer[..received])).into())
}

/// Waits until the server has nothing to do any more, also for presence, which has its turn once a second.
fn settle(server: &ServerProcess) {
    thread::sleep(Duration::from_millis(1100));
    let mut before = server.cpu_time();
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(20));
        let now = server.cpu_time();
        if now - before < Duration::from_micros(200) {
            return;
        }
        before = now;
    }
}
