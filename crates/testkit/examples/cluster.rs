//! A cluster to try out: NATS, three servers, a publisher, and a subscriber that survives the loss of its
//! server. `cargo xtask cluster` builds the servers and runs it.
//!
//! The subscriber does what a browser does behind a load balancer: it reads a stream, and when that ends it
//! asks the next server with the id of its last event. The publisher counts, so every number has to come
//! once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fanfare_testkit::chunks::ChunkReader;
use fanfare_testkit::nats::{NatsOptions, NatsServer};

const NODES: usize = 3;
const TOPIC: &str = "demo";

/// How often a server is asked whether it is ready, and the time between.
const TRIES: u32 = 600;
const PAUSE: Duration = Duration::from_millis(50);

/// One server.
struct Node {
    name: String,
    address: SocketAddr,
    program: PathBuf,
    nats: String,
    process: Option<Child>,
}

impl Node {
    fn start(&mut self) -> Result<(), String> {
        let address = self.address.to_string();
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--listen", &address, "--admin", "off", "--log", "error", "--nats", &self.nats]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        self.process =
            Some(process.map_err(|error| format!("cannot start {}: {error}", self.program.display()))?);
        for _ in 0..TRIES {
            if ask(self.address, "GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
            {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        Err(format!("{} is not ready after {:?}", self.name, PAUSE * TRIES))
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a request, and reads until the server closes.
fn ask(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the subscriber has seen.
#[derive(Default)]
struct Seen {
    next: u64,
    missing: u64,
    doubled: u64,
    gaps: u64,
    last_id: Option<String>,
}

impl Seen {
    fn take(&mut self, number: u64) {
        if number < self.next {
            self.doubled += 1;
        } else {
            self.missing += number - self.next;
            self.next = number + 1;
        }
    }
}

/// Reads one stream until it ends.
fn read_stream(
    address: SocketAddr,
    name: &str,
    seen: &mut Seen,
    is_over: &AtomicBool,
) -> std::io::Result<()> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let resume = seen.last_id.as_ref().map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
    write!(&stream, "GET /events?topic={TOPIC} HTTP/1.1\r\nHost: localhost\r\n{resume}\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // The head.
    loop {
        line.clear();
        if retry(is_over, || reader.read_line(&mut line))? == 0 {
            return Ok(());
        }
        if line.to_ascii_lowercase().starts_with("fanfare-gap") {
            seen.gaps += 1;
        }
        if line.starts_with("HTTP/1.1") && !line.contains("200") {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
    }
    println!("  the subscriber reads at {name}");
    let (mut chunks, mut text, mut bytes) = (ChunkReader::default(), Vec::new(), [0; 4096]);
    let (mut data, mut id) = (None, None);
    loop {
        let count = retry(is_over, || reader.read(&mut bytes))?;
        if count == 0 || chunks.feed(&bytes[..count], &mut text).is_err() {
            return Ok(());
        }
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if let Some(value) = line.strip_prefix("data:") {
                data = value.trim().parse().ok();
            } else if let Some(value) = line.strip_prefix("id:") {
                id = Some(value.trim().to_owned());
            } else if line.is_empty() {
                if let Some(number) = data.take() {
                    seen.take(number);
                }
                if let Some(id) = id.take() {
                    seen.last_id = Some(id);
                }
            }
        }
    }
}

/// Reads again where nothing has come for a while.
fn retry(is_over: &AtomicBool, mut read: impl FnMut() -> std::io::Result<usize>) -> std::io::Result<usize> {
    loop {
        match read() {
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                if is_over.load(Ordering::Relaxed) {
                    return Ok(0);
                }
            }
            read => return read,
        }
    }
}

/// Publishes a number, to the next server where one does not take it. Each has an id of its own, so it is
/// there once, however often it is sent.
fn publish(addresses: &[SocketAddr], number: u64) -> bool {
    let body = format!("topic={TOPIC}&data={number}&id=number-{number}");
    for try_ in 0..20 * addresses.len() {
        let address = addresses[(number as usize + try_) % addresses.len()];
        let request = format!(
            "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        if ask(address, &request).is_ok_and(|answer| answer.starts_with("HTTP/1.1 2")) {
            return true;
        }
        thread::sleep(Duration::from_millis(100));
    }
    false
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, String> {
    let mut arguments = std::env::args().skip(1);
    let program = PathBuf::from(arguments.next().ok_or("the first argument is the program of the server")?);
    let stays = arguments.next().is_some_and(|argument| argument == "--stay");
    println!("NATS with JetStream is installed, where it is not there, and starts");
    let nats = NatsServer::start(&NatsOptions::default())?;
    let mut nodes = Vec::new();
    for index in 0..NODES {
        let address = free_address()?;
        let name = format!("server {} (http://{address}/)", index + 1);
        let (program, url) = (program.clone(), nats.url());
        let mut node = Node { name, address, program, nats: url, process: None };
        node.start()?;
        println!("  {} is ready", node.name);
        nodes.push(node);
    }
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let (published, at) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let publisher = {
        let (is_over, published, addresses) =
            (Arc::clone(&is_over), Arc::clone(&published), addresses.clone());
        thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let number = published.load(Ordering::Relaxed);
                if !publish(&addresses, number) {
                    return Err(format!("no server has taken the event {number}"));
                }
                published.store(number + 1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })
    };
    let subscriber = {
        let (is_over, at) = (Arc::clone(&is_over), Arc::clone(&at));
        thread::spawn(move || {
            // From the beginning, also where the first numbers were published before it has come.
            let mut seen = Seen { last_id: Some("earliest".to_owned()), ..Seen::default() };
            for turn in 0.. {
                let index = turn % addresses.len();
                at.store(index as u64, Ordering::Relaxed);
                let _ = read_stream(addresses[index], &names[index], &mut seen, &is_over);
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_millis(200));
            }
            seen
        })
    };
    for _ in 0..NODES {
        thread::sleep(Duration::from_secs(3));
        let index = at.load(Ordering::Relaxed) as usize;
        println!("  {} is killed", nodes[index].name);
        nodes[index].kill();
        thread::sleep(Duration::from_secs(2));
        nodes[index].start()?;
        println!("  {} is there again", nodes[index].name);
    }
    thread::sleep(Duration::from_secs(1));
    is_over.store(true, Ordering::Relaxed);
    publisher.join().map_err(|_| "the publisher has panicked")??;
    let seen = subscriber.join().map_err(|_| "the subscriber has panicked")?;
    println!(
        "{} events were published, and the subscriber has seen {}: {} are missing, {} came twice, {} gaps were told",
        published.load(Ordering::Relaxed),
        seen.next - seen.missing,
        seen.missing,
        seen.doubled,
        seen.gaps
    );
    if stays {
        println!(
            "The cluster goes on until Enter is pressed. Open two of its pages, and publish on one of them."
        );
        let _ = std::io::stdin().read_line(&mut String::new());
    }
    Ok(seen.missing == 0 && seen.doubled == 0 && seen.gaps == 0 && seen.next > 0)
}

fn free_address() -> Result<SocketAddr, String> {
    let failed = |error| format!("there is no free port: {error}");
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(failed)
}
