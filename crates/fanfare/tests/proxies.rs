//! The PROXY protocol and the client's address over real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too")]

#[path = "support/waiting.rs"]
mod waiting;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self, UnixStream};
use std::process;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use fanfare::{
    Backend, Builder, Decision, DescriptorTables, Engine, HeadLimits, Hub, Limits, Listener, Refusal,
    Request, Subscribe, TrustedProxies,
};
use waiting::wait_for_counts;

const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &str = "GET /events?topic=t HTTP/1.0\r\nHost: h\r\n\r\n";

/// What the admission was shown: the peer, the proxy, and the client's address behind 127.0.0.0/8 and
/// 192.0.2.0/24.
type Shown = (Option<SocketAddr>, Option<SocketAddr>, Option<IpAddr>);

/// Where the admission runs.
#[derive(Clone, Copy, Debug)]
enum Runs {
    OnShards,
    OnThreads,
    /// It decides later.
    Later,
}

/// An engine with a listener that expects headers from loopback, and one that does not.
struct Stage {
    engine: Engine,
    hub: Hub,
    proxied: SocketAddr,
    plain: SocketAddr,
    shown: Arc<Mutex<Vec<Shown>>>,
}

fn loopback() -> TrustedProxies {
    "127.0.0.0/8, ::1".parse().unwrap()
}

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn admission(runs: Runs, builder: Builder) -> (Builder, Arc<Mutex<Vec<Shown>>>) {
    let shown = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&shown);
    let trusted: TrustedProxies = "127.0.0.0/8, 192.0.2.0/24".parse().unwrap();
    let admit = move |request: &Request<'_>| {
        seen.lock().unwrap().push((request.peer(), request.proxy(), request.client_address(&trusted)));
        if request.path() != "/events" {
            return Decision::HandOver;
        }
        let decision = match Subscribe::from_request(request, 8) {
            Ok(subscribe) => Decision::Subscribe(subscribe),
            Err(error) => Decision::Refuse(error.into()),
        };
        if !matches!(runs, Runs::Later) {
            return decision;
        }
        let (later, ticket) = Decision::later();
        thread::spawn(move || ticket.decide(decision));
        later
    };
    let builder = match runs {
        // SAFETY: the admission uses no descriptor.
        Runs::OnShards => unsafe { builder.admission_on_shards(admit) },
        Runs::OnThreads | Runs::Later => builder.admission(admit),
    };
    (builder, shown)
}

fn stage(runs: Runs, builder: Builder) -> Stage {
    let (builder, shown) = admission(runs, builder.life_cycle(100).hand_over(true));
    let builder = builder.listen(any()).listener(Listener::tcp(any()).with_proxy_protocol(loopback()));
    let engine = builder.start().unwrap();
    let (plain, proxied) = (engine.addresses()[0], engine.addresses()[1]);
    Stage { hub: engine.hub(), engine, proxied, plain, shown }
}

fn on_each(test: impl Fn(Runs, Builder)) {
    for backend in [Backend::Epoll, Backend::Auto] {
        for tables in [DescriptorTables::Shared, DescriptorTables::Auto] {
            for runs in [Runs::OnShards, Runs::OnThreads, Runs::Later] {
                test(runs, Engine::builder().shards(2).backend(backend).descriptor_tables(tables));
            }
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn send(address: SocketAddr, pieces: &[&[u8]]) -> TcpStream {
    let mut stream = connect(address);
    for piece in pieces {
        stream.write_all(piece).unwrap();
        // The other side gets its turn. Whatever it makes of that, the result is the same.
        thread::yield_now();
    }
    stream
}

/// The head of the answer.
fn answer(stream: &mut impl Read) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {seen:?}"));
        seen.push(byte[0]);
    }
    String::from_utf8(seen).unwrap()
}

/// Everything until the end; a reset is an end, too.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    bytes
}

fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, body].concat()
}

#[test]
fn the_peer_is_the_client_that_the_proxy_names() {
    on_each(|runs, builder| {
        let stage = stage(runs, builder);
        let v4 = [203, 0, 113, 7, 127, 0, 0, 1, 0x9c, 0x40, 0, 80];
        let tlvs = [&v4[..], &[4, 0, 1, 0], &[0xe0, 1, 0], &[7; 256]].concat();
        let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[9], &[0; 16], &[0, 5, 0, 80]].concat();
        let named = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        // What the proxy says, and the client that it names. `None`: it speaks for itself.
        for (header, client) in [
            (b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n".to_vec(), Some(named("203.0.113.7:40000"))),
            (b"PROXY TCP6 2001:db8::9 ::1 5 80\r\n".to_vec(), Some(named("[2001:db8::9]:5"))),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (version_2(1, 0x11, &v4), Some(named("203.0.113.7:40000"))),
            (version_2(1, 0x11, &tlvs), Some(named("203.0.113.7:40000"))),
            (version_2(1, 0x21, &v6), Some(named("[2001:db8::9]:5"))),
            (version_2(1, 0x31, &[b'/'; 216]), Some(None)),
            (version_2(1, 0x00, &[]), None),
            (version_2(0, 0x00, &[]), None),
            (version_2(0, 0x11, &v4), None),
        ] {
            let together = [&header[..], REQUEST.as_bytes()].concat();
            let bytewise: Vec<&[u8]> = together.chunks(1).collect();
            let (first, second) = together.split_at(header.len() / 2);
            for pieces in [&[&together[..]][..], &[&header, REQUEST.as_bytes()], &[first, second], &bytewise]
            {
                let mut stream = send(stage.proxied, pieces);
                assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "), "{runs:?} {header:?}");
                let own = stream.local_addr().unwrap();
                let shown = stage.shown.lock().unwrap().pop().unwrap();
                let peer = client.unwrap_or(Some(own));
                assert_eq!(shown, (peer, client.map(|_| own), peer.map(|peer| peer.ip())));
            }
        }
        assert_eq!(stage.hub.counts().proxy_refused, 0);

        // A connection of the other listener begins with its request.
        let mut stream = send(stage.plain, &[REQUEST.as_bytes()]);
        assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "));
        let own = stream.local_addr().unwrap();
        assert_eq!(stage.shown.lock().unwrap().pop(), Some((Some(own), None, Some(own.ip()))));
        let mut stream =
            send(stage.plain, &[b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n", REQUEST.as_bytes()]);
        assert!(answer(&mut stream).starts_with("HTTP/1.1 400 "));
        assert!(stage.shown.lock().unwrap().is_empty());
    });
}

/// Also of a subscriber that waits for a number before it is one.
#[test]
fn the_life_cycle_tells_the_client() {
    for runs in [Runs::OnShards, Runs::OnThreads, Runs::Later] {
        let mut stage = stage(runs, Engine::builder().shards(1));
        let mut life_cycle = stage.engine.life_cycle().unwrap();
        for client in ["203.0.113.7:1", "[2001:db8::9]:2"] {
            let client: SocketAddr = client.parse().unwrap();
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let (ip, port) = (client.ip(), client.port());
            let header = format!("PROXY {family} {ip} {ip} {port} 80\r\n");
            // An id that the engine will not have waits for it.
            let ahead = format!("{}-{}", stage.hub.head().epoch, u64::MAX >> 2);
            let ahead = format!("GET /events?topic=t HTTP/1.0\r\nLast-Event-ID: {ahead}\r\n\r\n");
            for request in [REQUEST, &ahead] {
                let mut stream = send(stage.proxied, &[header.as_bytes(), request.as_bytes()]);
                assert!(answer(&mut stream).starts_with("HTTP/1.1 200 "));
                let peer = loop {
                    match life_cycle.next_wait(PATIENCE).unwrap().unwrap() {
                        fanfare::LifeCycleEvent::Connected(connected) => break connected.peer,
                        _ => continue,
                    }
                };
                assert_eq!(peer, Some(client), "{runs:?}");
            }
        }
    }
}

#[test]
fn what_is_handed_over_knows_its_client() {
    on_each(|runs, builder| {
        let mut stage = stage(runs, builder);
        let mut hand_over = stage.engine.hand_over().unwrap();
        let request = b"POST /other HTTP/1.0\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
        for (address, header, client) in [
            (stage.proxied, "PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n", Some("203.0.113.7:40000")),
            (stage.proxied, "PROXY UNKNOWN\r\n", None),
            (stage.plain, "", None),
        ] {
            let stream = send(address, &[&[header.as_bytes(), request].concat()]);
            let handed = hand_over.receive(Some(PATIENCE)).unwrap().unwrap();
            let own = stream.local_addr().unwrap();
            assert_eq!(handed.received, request);
            assert_eq!(handed.peer(), Some(client.map_or(own, |client| client.parse().unwrap())));
            assert_eq!(handed.proxy(), client.map(|_| own));
            assert!(!handed.is_unix() && handed.is_proxied() == client.is_some());
        }
    });
}

#[test]
fn what_is_not_believed_is_closed_without_an_answer() {
    on_each(|runs, builder| {
        let stage = stage(runs, builder);
        let too_long = version_2(1, 0x11, &[0; 521]);
        let garbage: [&[u8]; 8] = [
            REQUEST.as_bytes(),
            b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\n",
            b"PROXY TCP4 203.0.113.700 127.0.0.1 40000 80\r\n",
            b"PROXY UNKNOWN 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 01234",
            b"\r\n\r\n\0\r\nQUIT\n\x31",
            b"\x16\x03\x01",
            b"\0",
            &too_long,
        ];
        for (index, bytes) in garbage.iter().enumerate() {
            assert_eq!(rest(send(stage.proxied, &[bytes])), b"", "{runs:?} {bytes:?}");
            wait_for_counts(&stage.hub, |counts| counts.proxy_refused == index as u64 + 1);
        }
        // A header that ends before it is complete is none.
        let stream = send(stage.proxied, &[b"PROXY TCP4 203"]);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(rest(stream), b"");
        assert!(stage.shown.lock().unwrap().is_empty(), "the admission is asked about none of them");
    });
}

/// Any client can write a header; only what a proxy writes is believed.
#[test]
fn a_peer_that_is_no_proxy_is_closed() {
    on_each(|runs, builder| {
        let (builder, shown) = admission(runs, builder);
        let others: TrustedProxies = "192.0.2.0/24, unix".parse().unwrap();
        let listener = Listener::tcp(any()).with_proxy_protocol(others);
        let engine = builder.listener(listener).start().unwrap();
        let header = "PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n";
        let mut stream = connect(engine.addresses()[0]);
        // The server may have closed it already.
        let _ = stream.write_all([header, REQUEST].concat().as_bytes());
        assert_eq!(rest(stream), b"");
        wait_for_counts(&engine.hub(), |counts| counts.proxy_refused == 1);
        assert!(shown.lock().unwrap().is_empty());
    });
}

#[test]
fn a_slow_header_is_a_slow_head() {
    let limits = Limits::default().with_head_time(Duration::from_millis(200));
    on_each(|runs, builder| {
        let stage = stage(runs, builder.limits(limits.clone()));
        for pieces in
            [&[][..], &[&b"PROXY TCP4 203"[..]], &[b"PROXY UNKNOWN\r\n"], &[b"PROXY UNKNOWN\r\nGET"]]
        {
            let before = stage.hub.counts().heads_timed_out;
            rest(send(stage.proxied, pieces));
            wait_for_counts(&stage.hub, |counts| counts.heads_timed_out == before + 1);
        }
        assert!(stage.shown.lock().unwrap().is_empty());
    });
}

#[test]
fn proxies_on_unix_sockets() {
    on_each(|runs, builder| {
        let address = |name: &str| format!("fanfare/test/proxies/{}/{name}", process::id());
        let listener = |name| Listener::unix_abstract(address(name));
        let (builder, shown) = admission(runs, builder);
        let builder = builder
            .listener(listener("trusted").with_proxy_protocol(TrustedProxies::none().with_unix_sockets()))
            .listener(listener("stranger").with_proxy_protocol("0.0.0.0/0, ::/0".parse().unwrap()))
            .listener(listener("plain"));
        let _engine = builder.start().unwrap();
        let send = |name: &str, bytes: String| {
            let address = net::SocketAddr::from_abstract_name(address(name)).unwrap();
            let mut stream = UnixStream::connect_addr(&address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // The server may have closed it already.
            let _ = stream.write_all(bytes.as_bytes());
            stream
        };
        let header = "PROXY TCP4 203.0.113.7 127.0.0.1 40000 80\r\n";
        assert!(answer(&mut send("trusted", [header, REQUEST].concat())).starts_with("HTTP/1.1 200 "));
        let client: SocketAddr = "203.0.113.7:40000".parse().unwrap();
        assert_eq!(shown.lock().unwrap().pop(), Some((Some(client), None, Some(client.ip()))));

        let mut refused = Vec::new();
        // The end, or a reset.
        let _ = send("stranger", [header, REQUEST].concat()).read_to_end(&mut refused);
        assert_eq!(refused, b"");
        assert!(answer(&mut send("plain", REQUEST.to_owned())).starts_with("HTTP/1.1 200 "));
        assert_eq!(*shown.lock().unwrap(), [(None, None, None)]);
    });
}

/// nginx before a Unix socket is the usual case: the proxy has no address, and is trusted by the word `unix`.
#[test]
fn fields_of_proxies_are_read_where_these_are_trusted() {
    let name = format!("fanfare/test/fields/{}", process::id());
    let shown = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&shown);
    let trusted: TrustedProxies = "127.0.0.1, unix".parse().unwrap();
    let admit = move |request: &Request<'_>| {
        let untrusting = request.client_address(&TrustedProxies::none());
        seen.lock().unwrap().push((request.client_address(&trusted), untrusting));
        Decision::Refuse(Refusal::new(403, "no"))
    };
    let builder = Engine::builder().shards(1).admission(admit).listen(any());
    let engine = builder.listener(Listener::unix_abstract(name.as_str())).start().unwrap();
    let request =
        "GET / HTTP/1.0\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 203.0.113.7, 127.0.0.1\r\n\r\n";
    let mut tcp = send(engine.addresses()[0], &[request.as_bytes()]);
    assert!(answer(&mut tcp).starts_with("HTTP/1.1 403 "));
    let mut unix = UnixStream::connect_addr(&net::SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    unix.write_all(request.as_bytes()).unwrap();
    assert!(answer(&mut unix).starts_with("HTTP/1.1 403 "));
    let client = Some("203.0.113.7".parse().unwrap());
    let own = Some(tcp.local_addr().unwrap().ip());
    assert_eq!(*shown.lock().unwrap(), [(client, own), (client, None)]);
}

/// A message to the other server has a bound, and the client's name has to find room behind the largest head.
#[test]
fn the_largest_head_is_handed_over_with_its_client() {
    let head = HeadLimits::default().with_max_bytes(32 << 10);
    let limits = Limits::default().with_head(head);
    let mut stage = stage(Runs::OnShards, Engine::builder().shards(1).limits(limits));
    let mut hand_over = stage.engine.hand_over().unwrap();
    let begin = "POST /other HTTP/1.0\r\nHost: h\r\nContent-Length: 40000\r\nX: ";
    let head = format!("{begin}{}\r\n\r\n", "x".repeat((32 << 10) - begin.len() - 4));
    assert_eq!(head.len(), 32 << 10);
    let v6 = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff";
    let client: SocketAddr = format!("[{v6}]:65535").parse().unwrap();
    for (address, header) in
        [(stage.proxied, format!("PROXY TCP6 {v6} ::1 65535 80\r\n")), (stage.plain, String::new())]
    {
        let bytes = [header.as_bytes(), head.as_bytes(), &[b'y'; 40_000]].concat();
        let (first, second) = bytes.split_at(header.len() + head.len() - 1);
        let mut stream = send(address, &[first]);
        wait_for_counts(&stage.hub, |counts| counts.pending == 1);
        // So that the rest comes in one piece behind all that was received before.
        thread::sleep(Duration::from_millis(50));
        stream.write_all(second).unwrap();
        let handed = hand_over.receive(Some(PATIENCE)).unwrap().expect("it fits into a message");
        assert!(handed.received.len() > (32 << 10) && bytes[header.len()..].starts_with(&handed.received));
        println!("{} bytes", handed.received.len());
        let own = stream.local_addr().unwrap();
        assert_eq!(handed.peer(), Some(if header.is_empty() { own } else { client }));
        wait_for_counts(&stage.hub, |counts| counts.pending == 0);
    }
}
