//! What keys and tokens cost, measured from outside: the server's binary on one core, the client on another
//! one.
//!
//! Servers without keys and with keys take turns, round by round. Bounded: each publishing round has a time,
//! each connecting round a count, and not more than [`TOGETHER`] connections are open at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs, process, thread};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use clap::{Parser, Subcommand};
use fanfare_access::{Algorithm, RsaPadding, TokenSigner};
use fanfare_bench::machine::Cores;
use fanfare_bench::server_process::ServerProcess;
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish, machine};
use fanfare_io::{Clock, affinity};
use serde_json::json;
use socket2::SockRef;

/// Connections that are open at once where connects are counted.
const TOGETHER: usize = 250;

/// Connections that are open before memory is measured.
const FIRST: usize = 1000;

/// Connections that publish single events.
const POSTERS: usize = 32;

/// Connections that publish lines, and the events in one piece of a body.
const STREAMS: usize = 4;
const PIECE_EVENTS: usize = 500;

const EVENT: &str = r#"{"topic":"news","data":"{\"price\":12345,\"at\":\"2026-11-28T12:00:00Z\"}"}"#;

/// A secret for HS256, of a test that runs on this machine only.
const SECRET: &str = "a secret of the benchmark that has more than 32 bytes";

/// CPU time, rate and memory of a server with keys beside one without
#[derive(Parser)]
struct Options {
    /// The server's binary
    #[arg(long, default_value = "target/release/fanfare")]
    server: PathBuf,
    /// Rounds of each row
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// The backend of the server
    #[arg(long, default_value = "epoll")]
    backend: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Single POSTs over kept connections, and NDJSON; with `--own-ids` each event has an id of its own
    Publish {
        /// How long a round takes, in milliseconds
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=10_000))]
        millis: u64,
        /// Each event of NDJSON bears an own id
        #[arg(long)]
        own_ids: bool,
        /// Only a server without keys
        #[arg(long)]
        without_keys: bool,
    },
    /// Connects without a token, all with one token, each with a token of its own, and each with a token of
    /// its own that the server has verified before: so clients come back after a restart of the network
    Connect {
        /// Connects of a round
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(250..=200_000))]
        count: u32,
    },
    /// Connects about which an endpoint of `--authorize-url` decides: all with equal questions, and each with
    /// its own
    Forward {
        /// Connects of a round
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(250..=100_000))]
        count: u32,
    },
    /// Memory of idle connections: without a token, all with one, and each with a token, a subject and an id
    /// of its own
    Memory {
        /// Connections at the end
        #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(2000..=19_000))]
        count: u32,
    },
}

/// Keys, in a directory that goes with this.
struct Keys {
    directory: PathBuf,
    es256: TokenSigner,
    hs256: TokenSigner,
}

/// One kind of server or of client.
struct Row {
    name: &'static str,
    server: ServerProcess,
    authorization: Authorization,
    rates: Vec<f64>,
    micros: Vec<f64>,
}

#[derive(Clone)]
enum Authorization {
    None,
    One(String),
    /// Each connection has a token of its own, with these claims.
    Own {
        subject: bool,
        id: bool,
    },
    /// Each connection has a token of its own, and these are the tokens of every round.
    Kept(Arc<[String]>),
    /// A cookie, about which an endpoint decides.
    OneCookie,
    /// Each connection has a cookie of its own.
    OwnCookie,
}

fn main() -> ExitCode {
    let options = Options::parse();
    finish(run(&options))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("access_cost", &[]);
    println!("{} rounds, backend {}", options.rounds, options.backend);
    let cores = Cores::choose()?;
    affinity::pin(cores.client)?;
    let keys = Keys::new()?;
    match options.what {
        What::Publish { millis, own_ids, without_keys } => {
            let round = Duration::from_millis(millis);
            publish(options, &keys, cores.server, round, own_ids, without_keys)
        }
        What::Connect { count } => connect(options, &keys, cores.server, count as usize),
        What::Forward { count } => forward(options, &keys, cores.server, count as usize),
        What::Memory { count } => memory(options, &keys, cores.server, count as usize),
    }
}

impl Keys {
    fn new() -> Outcome<Keys> {
        let directory = env::temp_dir().join(format!("fanfare-access-cost-{}", process::id()));
        fs::create_dir_all(&directory)?;
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref())?;
        // An uncompressed point: the byte 4, then both coordinates (SEC 1, section 2.3.3).
        let point = pair.public_key().as_ref();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..65]));
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
        fs::write(directory.join("es256.jwk"), jwk.to_string())?;
        fs::write(directory.join("hs256"), SECRET)?;
        let es256 = TokenSigner::from_pkcs8(document.as_ref(), RsaPadding::Pkcs1)?;
        let hs256 = TokenSigner::from_secret(Algorithm::Hs256, SECRET.as_bytes())?;
        Ok(Keys { directory, es256, hs256 })
    }

    fn options(&self, name: &str) -> Vec<String> {
        let file = match name {
            "es256" => self.directory.join("es256.jwk").display().to_string(),
            _ => format!("hs256:{}", self.directory.join("hs256").display()),
        };
        ["--subscriber-keys", &file, "--publisher-keys", &file].map(str::to_owned).to_vec()
    }

    /// A token for everything, for an hour. An empty subject is none, and so is an empty id.
    #[allow(clippy::disallowed_methods, reason = "tokens expire by the wall clock")]
    fn token(&self, name: &str, subject: &str, id: &str) -> Outcome<String> {
        let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let grants = json!({ "subscribe": ["*"], "publish": ["*"] });
        let mut claims = json!({ "exp": now_unix_s + 3600, "iat": now_unix_s, "fanfare": grants });
        for (claim, value) in [("sub", subject), ("jti", id)] {
            if !value.is_empty() {
                claims[claim] = value.into();
            }
        }
        let claims = claims.as_object().ok_or("claims are an object")?;
        let signer = if name == "es256" { &self.es256 } else { &self.hs256 };
        Ok(signer.mint(claims).ok_or("the token is signed")?)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A directory that stays has no secret of anybody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Row {
    fn new(
        options: &Options,
        name: &'static str,
        server_options: &[String],
        authorization: Authorization,
        core: usize,
    ) -> Outcome<Row> {
        let backend = ["--backend".to_owned(), options.backend.clone()];
        let server = ServerProcess::start(&options.server, &[server_options, &backend].concat(), core)?;
        Ok(Row { name, server, authorization, rates: Vec::new(), micros: Vec::new() })
    }

    fn note(&mut self, count: usize, took: Duration, cpu: Duration) {
        self.rates.push(count as f64 / took.as_secs_f64());
        self.micros.push(cpu.as_secs_f64() * 1e6 / count as f64);
    }

    /// The line of the row, and its median CPU time for one.
    fn print(&self, what: &str) -> f64 {
        let (rate, micros) =
            (Spread::of(self.rates.iter().copied()), Spread::of(self.micros.iter().copied()));
        println!("{:<28} {what} a second {rate:.0}; server's CPU us each {micros:.2}", self.name);
        micros.median
    }
}

// Publishing.

fn publish(
    options: &Options,
    keys: &Keys,
    core: usize,
    round: Duration,
    own_ids: bool,
    without_keys: bool,
) -> Outcome<()> {
    let mut rows = vec![Row::new(options, "without keys", &[], Authorization::None, core)?];
    if !without_keys {
        for name in ["es256", "hs256"] {
            let authorization = Authorization::One(keys.token(name, "bench", "")?);
            rows.push(Row::new(options, name, &keys.options(name), authorization, core)?);
        }
    }
    let mut connections = Vec::new();
    for row in &rows {
        let posters = (0..POSTERS).map(|_| TcpStream::connect(row.server.address));
        connections.push(posters.collect::<Result<Vec<_>, _>>()?);
    }
    for measured in [false, true] {
        let rounds = if measured { options.rounds } else { 1 };
        for round_number in 0..rounds {
            for index in turns(rows.len(), round_number) {
                let (row, posters) = (&mut rows[index], &mut connections[index]);
                let before = row.server.cpu_time();
                let (count, took) = post_singles(posters, &row.authorization, round)?;
                if measured {
                    row.note(count, took, row.server.cpu_time() - before);
                }
            }
        }
    }
    println!("{POSTERS} kept connections, an event for each POST, {} bytes", EVENT.len());
    print_rows(&rows, "POSTs");
    rows.iter_mut().for_each(|row| (row.rates, row.micros) = Default::default());
    let mut number = 0;
    for measured in [false, true] {
        let rounds = if measured { options.rounds } else { 1 };
        for round_number in 0..rounds {
            for index in turns(rows.len(), round_number) {
                let row = &mut rows[index];
                let before = row.server.cpu_time();
                let (count, took) = post_lines(row, round, own_ids, &mut number)?;
                if measured {
                    row.note(count, took, row.server.cpu_time() - before);
                }
            }
        }
    }
    println!("{STREAMS} bodies of NDJSON, own ids: {own_ids}");
    print_rows(&rows, "events");
    Ok(())
}

/// The order of the rows in a round: each round begins with the next one, so that none is always the first.
fn turns(rows: usize, round: u32) -> impl Iterator<Item = usize> {
    (0..rows).map(move |place| (place + round as usize) % rows)
}

fn print_rows(rows: &[Row], what: &str) {
    let medians: Vec<f64> = rows.iter().map(|row| row.print(what)).collect();
    for (row, median) in rows.iter().zip(&medians).skip(1) {
        println!("{}: factor of the server's CPU {:.3}", row.name, median / medians[0]);
    }
}

fn head(method: &str, target: &str, fields: &str, authorization: Option<&str>) -> String {
    let authorization =
        authorization.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{authorization}{fields}\r\n")
}

impl Authorization {
    fn token(&self) -> Option<&str> {
        match self {
            Authorization::One(token) => Some(token),
            _ => None,
        }
    }
}

/// All connections write, then all read: so the server always has requests to serve.
fn post_singles(
    posters: &mut [TcpStream],
    authorization: &Authorization,
    round: Duration,
) -> Outcome<(usize, Duration)> {
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", EVENT.len());
    let request = head("POST", "/events", &fields, authorization.token()) + EVENT;
    let clock = Clock::start();
    let mut count = 0;
    let mut buffer = [0; 4096];
    for poster in posters.iter_mut() {
        poster.write_all(request.as_bytes())?;
    }
    while clock.now() < round {
        for poster in posters.iter_mut() {
            expect_ok(poster, &mut buffer)?;
            poster.write_all(request.as_bytes())?;
            count += 1;
        }
    }
    for poster in posters.iter_mut() {
        expect_ok(poster, &mut buffer)?;
        count += 1;
    }
    Ok((count, clock.now()))
}

/// The answers here are short: each comes in one piece.
fn expect_ok(stream: &mut TcpStream, buffer: &mut [u8]) -> Outcome<()> {
    let length = stream.read(buffer)?;
    match buffer[..length].starts_with(b"HTTP/1.1 200") {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&buffer[..length]).into_owned().into()),
    }
}

fn post_lines(row: &Row, round: Duration, own_ids: bool, number: &mut u64) -> Outcome<(usize, Duration)> {
    let fields = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n";
    let head = head("POST", "/events", fields, row.authorization.token());
    let line = format!("{EVENT}\n");
    let clock = Clock::start();
    let address = row.server.address;
    let streams: Vec<_> = (0..STREAMS)
        .map(|_| {
            let (head, line, mut next) = (head.clone(), line.clone(), *number);
            *number += 1 << 32;
            thread::spawn(move || -> Outcome<usize> {
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(head.as_bytes())?;
                let same_piece = chunk(&line.repeat(PIECE_EVENTS));
                let (mut count, mut text) = (0, String::new());
                while clock.now() < round {
                    if own_ids {
                        text.clear();
                        for _ in 0..PIECE_EVENTS {
                            next += 1;
                            text += &format!("{{\"id\":\"order-{next:012}\",{}", &line[1..]);
                        }
                        stream.write_all(&chunk(&text))?;
                    } else {
                        stream.write_all(&same_piece)?;
                    }
                    count += PIECE_EVENTS;
                }
                stream.write_all(b"0\r\n\r\n")?;
                let mut buffer = [0; 4096];
                expect_ok(&mut stream, &mut buffer)?;
                let published = format!("\"published\":{count}");
                let text = String::from_utf8_lossy(&buffer);
                if text.contains(&published) { Ok(count) } else { Err(text.into_owned().into()) }
            })
        })
        .collect();
    let mut count = 0;
    for stream in streams {
        count += stream.join().map_err(|_| "a publisher has panicked")??;
    }
    Ok((count, clock.now()))
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

// Connecting.

fn connect(options: &Options, keys: &Keys, core: usize, count: usize) -> Outcome<()> {
    let with_keys = keys.options("es256");
    let one = Authorization::One(keys.token("es256", "bench", "")?);
    let kept: Result<Arc<[String]>, _> =
        (0..count).map(|number| keys.token("es256", &format!("kept-{number:08}"), "")).collect();
    let kept = Authorization::Kept(kept?);
    let own = Authorization::Own { subject: true, id: false };
    let mut rows = [
        Row::new(options, "without a token", &[], Authorization::None, core)?,
        Row::new(options, "all with one ES256 token", &with_keys, one, core)?,
        Row::new(options, "each with its own, again", &with_keys, kept, core)?,
        Row::new(options, "each with a new ES256 token", &with_keys, own, core)?,
    ];
    connect_rounds(options, keys, &mut rows, count)
}

/// The stub of an endpoint lets everyone in. It runs on the client's core, so its work is not the server's.
fn forward(options: &Options, keys: &Keys, core: usize, count: usize) -> Outcome<()> {
    let endpoint = format!("http://{}/", start_endpoint()?);
    let publishers = keys.options("hs256").split_off(2);
    let asking = [publishers, vec!["--authorize-url".to_owned(), endpoint]].concat();
    let forgetting = [asking.clone(), ["--authorize-cache", "off"].map(str::to_owned).to_vec()].concat();
    let mut rows = [
        Row::new(options, "without an endpoint", &[], Authorization::None, core)?,
        Row::new(options, "equal, remembered for 5 s", &asking, Authorization::OneCookie, core)?,
        Row::new(options, "equal, not remembered", &forgetting, Authorization::OneCookie, core)?,
        Row::new(options, "each its own question", &asking, Authorization::OwnCookie, core)?,
    ];
    connect_rounds(options, keys, &mut rows, count)
}

/// An endpoint that answers 204 to everything, until this process ends.
fn start_endpoint() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    request.extend_from_slice(&buffer[..length]);
                    // A client asks its next question when it has the answer.
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(address)
}

/// Servers take turns, round by round.
fn connect_rounds(options: &Options, keys: &Keys, rows: &mut [Row], count: usize) -> Outcome<()> {
    let mut number = 0;
    for measured in [false, true] {
        // The first round is also the one in which the server verifies the tokens that come back.
        let rounds = if measured { options.rounds } else { 1 };
        for round_number in 0..rounds {
            for index in turns(rows.len(), round_number) {
                let row = &mut rows[index];
                let requests = subscribe_requests(&row.authorization, keys, count, &mut number)?;
                let before = row.server.cpu_time();
                let clock = Clock::start();
                let mut done = 0;
                while done < count {
                    let size = TOGETHER.min(count - done);
                    let opened = open(row, &requests, done, size)?;
                    reset(&opened)?;
                    done += size;
                }
                let took = clock.now();
                settle(&row.server);
                if measured {
                    row.note(count, took, row.server.cpu_time() - before);
                }
            }
        }
    }
    println!("rounds of {count} connects, {TOGETHER} together, each ended by a reset behind the first event");
    print_rows(rows, "connects");
    Ok(())
}

/// Waits until the server has nothing to do any more.
fn settle(server: &ServerProcess) {
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

/// One request for all, or one for each connection.
fn subscribe_requests(
    authorization: &Authorization,
    keys: &Keys,
    count: usize,
    number: &mut u64,
) -> Outcome<Vec<String>> {
    let request = |fields: &str, token: Option<&str>| head("GET", "/events?topic=news", fields, token);
    let mut each = |request: &dyn Fn(u64) -> Outcome<String>| {
        let numbers = *number + 1..=*number + count as u64;
        *number += count as u64;
        numbers.map(request).collect::<Outcome<Vec<String>>>()
    };
    match authorization {
        Authorization::None | Authorization::One(_) => Ok(vec![request("", authorization.token())]),
        Authorization::Kept(tokens) => Ok(tokens.iter().map(|token| request("", Some(token))).collect()),
        Authorization::Own { subject, id } => each(&|number| {
            let name = |is_named: bool, text: &str| {
                if is_named { format!("{text}-{number:08}") } else { String::new() }
            };
            let token = keys.token("es256", &name(*subject, "user"), &name(*id, "token"))?;
            Ok(request("", Some(&token)))
        }),
        Authorization::OneCookie => Ok(vec![request("Cookie: session=user\r\n", None)]),
        Authorization::OwnCookie => {
            each(&|number| Ok(request(&format!("Cookie: session=user-{number:08}\r\n"), None)))
        }
    }
}

/// Opens connections, sends all requests, and then reads the head of every answer.
fn open(row: &Row, requests: &[String], from: usize, count: usize) -> Outcome<Vec<TcpStream>> {
    let mut opened = Vec::with_capacity(count);
    for index in from..from + count {
        let mut stream = TcpStream::connect(row.server.address)?;
        stream.write_all(requests[index % requests.len()].as_bytes())?;
        opened.push(stream);
    }
    let mut buffer = [0; 2048];
    for stream in &mut opened {
        expect_ok(stream, &mut buffer)?;
    }
    Ok(opened)
}

// Memory.

fn memory(options: &Options, keys: &Keys, core: usize, count: usize) -> Outcome<()> {
    let with_keys = keys.options("es256");
    let one = |subject, id| keys.token("es256", subject, id).map(Authorization::One);
    let own = |subject, id| Authorization::Own { subject, id };
    let kinds: [(&'static str, &[String], Authorization); 7] = [
        ("without a token", &[], Authorization::None),
        ("one token without subject and id", &with_keys, one("", "")?),
        ("one token with a subject", &with_keys, one("bench", "")?),
        ("one token with an id", &with_keys, one("", "bench")?),
        ("each a token with a subject", &with_keys, own(true, false)),
        ("each a token with an id", &with_keys, own(false, true)),
        ("each a token with subject and id", &with_keys, own(true, true)),
    ];
    let mut figures = [const { (Vec::new(), Vec::new()) }; 7];
    let mut number = 0;
    for _ in 0..options.rounds {
        for ((name, server_options, authorization), figures) in kinds.iter().zip(&mut figures) {
            let row = Row::new(options, name, server_options, authorization.clone(), core)?;
            let requests = subscribe_requests(authorization, keys, count, &mut number)?;
            let (connection, token) = memory_of_each(&row, &requests, count)?;
            figures.0.push(connection);
            figures.1.push(token);
        }
    }
    println!("bytes in the server's user space, for each from {FIRST} to {count}");
    println!("{:<34} connection, more than without a token, token that is remembered", "");
    let first = Spread::of(figures[0].0.iter().copied()).median;
    for ((name, ..), (connections, tokens)) in kinds.iter().zip(&figures) {
        let connection = Spread::of(connections.iter().copied());
        let more = connection.median - first;
        println!("{name:<34} {connection:.1}; {more:+.1}; {:.0}", Spread::of(tokens.iter().copied()));
    }
    Ok(())
}

/// What an open connection takes, and what a token takes that the server remembers as verified. Where each
/// connection has a token of its own, all are remembered before the first connection stays open: the answer
/// to HEAD is no stream.
fn memory_of_each(row: &Row, requests: &[String], count: usize) -> Outcome<(f64, f64)> {
    let grown = |before: u64, after: u64| (after as f64 - before as f64) / (count - FIRST) as f64;
    let mut token = 0.0;
    if requests.len() > 1 {
        let heads: Vec<String> = requests.iter().map(|request| request.replacen("GET", "HEAD", 1)).collect();
        let ask = |range: Range<usize>| -> Outcome<u64> {
            for from in range.clone().step_by(TOGETHER) {
                reset(&open(row, &heads, from, TOGETHER.min(range.end - from))?)?;
            }
            Ok(bytes_at_rest(&row.server))
        };
        let before = ask(0..FIRST)?;
        token = grown(before, ask(FIRST..count)?);
    }
    let (mut opened, mut before) = (Vec::new(), 0);
    while opened.len() < count {
        if opened.len() == FIRST {
            before = bytes_at_rest(&row.server);
        }
        let end = if opened.len() < FIRST { FIRST } else { count };
        opened.extend(open(row, requests, opened.len(), TOGETHER.min(end - opened.len()))?);
    }
    let connection = grown(before, bytes_at_rest(&row.server));
    reset(&opened)?;
    Ok((connection, token))
}

/// The memory of a server that has given back what it needed for a moment only: its allocator keeps free
/// pages for a second.
fn bytes_at_rest(server: &ServerProcess) -> u64 {
    settle(server);
    let (mut least, mut same) = (u64::MAX, 0);
    for _ in 0..60 {
        thread::sleep(Duration::from_millis(500));
        let now = server.proportional_bytes();
        same = if now < least { 0 } else { same + 1 };
        least = least.min(now);
        if same == 5 {
            break;
        }
    }
    least
}

/// Makes the close of each a reset, which leaves no port waiting.
fn reset(streams: &[TcpStream]) -> Outcome<()> {
    for stream in streams {
        SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

/// Base64 with the alphabet for URLs, without padding (RFC 4648, section 5).
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let padded = [group[0], *group.get(1).unwrap_or(&0), *group.get(2).unwrap_or(&0)];
        let number = u32::from(padded[0]) << 16 | u32::from(padded[1]) << 8 | u32::from(padded[2]);
        for place in 0..=group.len() {
            text.push(char::from(DIGITS[(number >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64url;

    /// RFC 4648, section 10, without its padding.
    #[test]
    fn base64url_is_that_of_the_standard() {
        for (plain, coded) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64url(plain.as_bytes()), coded);
        }
    }
}
