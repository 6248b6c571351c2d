//! The stack against the kernel of this machine, in a network namespace that is made for each test.
//!
//! Making one needs root and `/dev/net/tun`. Where that is refused the tests say so and count as passed,
//! unless `FANFARE_TUN_TESTS=require` is set, which makes a refusal a failure.

#![allow(clippy::disallowed_methods, reason = "the kernel at the other end has the real clock")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

use super::connection::{Ended, LARGEST_WINDOW};
use super::device::{Device, LARGEST_SEGMENT, Method, Network};
use super::outbox::Outbox;
use super::stack::{Heard, Id, Settings, Stack};
use super::sys;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
/// What a test may take on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Loses some of all packets, in both directions.
struct Loss {
    state: u64,
    percent: u64,
}

impl Loss {
    fn hits(&mut self) -> bool {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % 100 < self.percent
    }
}

struct Client {
    device: Device,
    stack: Stack,
    start: Instant,
    loss: Loss,
}

fn stack(port: u16) -> Stack {
    Stack::new(Settings {
        first_address: Ipv4Addr::new(10, 64, 0, 2),
        addresses: 3,
        server: SocketAddrV4::new(SERVER, port),
        largest_segment: LARGEST_SEGMENT,
        connections: 10,
        seed: 1,
    })
}

/// What a test is told; owned, because the packets are gone by then.
#[derive(Debug)]
struct Told {
    id: Id,
    token: u32,
    connected: bool,
    data: Vec<u8>,
    ended: Option<Ended>,
}

impl From<Heard<'_>> for Told {
    fn from(heard: Heard<'_>) -> Told {
        let Heard { id, token, connected, data, ended } = heard;
        Told { id, token, connected, data: data.to_vec(), ended }
    }
}

impl Client {
    fn new(port: u16, method: Method, percent: u64) -> io::Result<Client> {
        let network = Network { name: "test0", address: SERVER, prefix: 16 };
        let device = Device::open_by(&network, method)?;
        Ok(Client { device, stack: stack(port), start: Instant::now(), loss: Loss { state: 1, percent } })
    }

    /// With a server, whose port is known only when there is the address that comes with the device.
    fn of_server(method: Method, percent: u64) -> Client {
        let mut client = Client::new(0, method, percent).unwrap();
        client.stack = stack(serve());
        client
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Waits a little, and tells what happened.
    fn turn(&mut self) -> Vec<Told> {
        self.flush();
        self.device.wait(5).unwrap();
        let mut told = Vec::new();
        let now = self.now();
        loop {
            let more = self.device.receive().unwrap();
            for (packet, checksum) in self.device.packets() {
                if !self.loss.hits() {
                    told.extend(self.stack.handle(now, packet, checksum).map(Told::from));
                }
            }
            if !more {
                break;
            }
        }
        while let Some(heard) = self.stack.poll_timeout(now) {
            told.push(Told::from(heard));
        }
        self.stack.acknowledge();
        self.flush();
        assert!(self.start.elapsed() < PATIENCE, "{:?}", self.stack.counts());
        told
    }

    fn flush(&mut self) {
        let mut kept = Outbox::default();
        for packet in self.stack.outbox().packets() {
            if !self.loss.hits() {
                kept.push(|into| into.extend_from_slice(&packet[super::outbox::HEADROOM..]));
            }
        }
        self.stack.outbox().clear();
        self.device.send(&mut kept);
    }
}

/// Runs a test in a thread with a namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = std::thread::spawn(move || {
        sys::enter_new_network()?;
        Client::new(1, Method::Single, 0)?;
        test();
        io::Result::Ok(())
    });
    if let Err(error) = outcome.join().expect("the test itself failed") {
        let refused = matches!(
            error.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::Unsupported
        );
        let required = std::env::var_os("FANFARE_TUN_TESTS").is_some_and(|value| value == "require");
        assert!(refused && !required, "no network namespace with a TUN device can be made: {error}");
        // Past the capture of output: a test that did not run must not look like one that did.
        let line =
            format!("SKIPPED, not tested: no network namespace with a TUN device can be made: {error}\n");
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

/// A server that answers each request with as many bytes as it asks for, and then closes.
fn serve() -> u16 {
    let listener = TcpListener::bind((SERVER, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let (mut text, mut buffer) = (Vec::new(), [0; 1_000]);
                while !text.ends_with(b"\n") {
                    match stream.read(&mut buffer) {
                        Ok(length) if length > 0 => text.extend_from_slice(&buffer[..length]),
                        _ => return,
                    }
                }
                let wanted: usize = String::from_utf8(text).unwrap().trim().parse().unwrap();
                let answer: Vec<u8> = (0..wanted).map(byte).collect();
                for part in answer.chunks(700) {
                    if stream.write_all(part).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn byte(at: usize) -> u8 {
    (at * 31 % 253) as u8
}

/// Opens connections that each ask for `wanted` bytes, until all are told the end.
fn fetch(method: Method, connections: u32, wanted: usize, percent: u64) -> Client {
    let mut client = Client::of_server(method, percent);
    for token in 0..connections {
        client.stack.connect(client.now(), token, LARGEST_WINDOW).unwrap();
    }
    let mut received = vec![0; connections as usize];
    let mut ended = 0;
    while ended < connections {
        for told in client.turn() {
            if told.connected {
                let now = client.now();
                client.stack.send(now, told.id, format!("{wanted}\n").as_bytes());
            }
            for byte_read in told.data {
                let at = &mut received[told.token as usize];
                assert_eq!(byte_read, byte(*at), "byte {at} of {}", told.token);
                *at += 1;
            }
            if let Some(end) = told.ended {
                assert_eq!(end, Ended::Finished, "{}", told.token);
                assert_eq!(received[told.token as usize], wanted);
                ended += 1;
                let now = client.now();
                client.stack.close(now, told.id);
            }
        }
    }
    client
}

#[test]
fn the_kernel_sends_everything_once_and_in_order() {
    for method in [Method::Uring, Method::Single] {
        in_namespace(move || {
            let client = fetch(method, 50, 100_000, 0);
            let counts = client.stack.counts();
            assert_eq!((counts.out_of_order, client.device.refused()), (0, 0), "{counts:?}");
        });
    }
}

#[test]
fn what_is_lost_between_the_kernel_and_the_stack_is_sent_again() {
    in_namespace(|| {
        let client = fetch(Method::Uring, 20, 20_000, 5);
        let counts = client.stack.counts();
        assert!(
            counts.out_of_order + counts.duplicates + counts.repeated > 0,
            "nothing was lost: {counts:?}"
        );
    });
}

#[test]
fn a_port_where_nothing_listens_refuses() {
    in_namespace(|| {
        let mut client = Client::new(9, Method::Uring, 0).unwrap();
        client.stack.connect(client.now(), 5, LARGEST_WINDOW).unwrap();
        let told = loop {
            if let Some(told) = client.turn().pop() {
                break told;
            }
        };
        assert_eq!((told.token, told.ended), (5, Some(Ended::Refused)));
    });
}

#[test]
fn the_kernel_stops_at_a_closed_window_and_goes_on_at_an_open_one() {
    in_namespace(|| {
        let mut client = Client::of_server(Method::Uring, 0);
        let id = client.stack.connect(client.now(), 0, 10_000).unwrap();
        while !client.turn().iter().any(|told| told.connected) {}
        client.stack.stall(id);
        let now = client.now();
        client.stack.send(now, id, b"50000\n");
        // Long enough for the kernel to fill the window and to ask whether it is still closed.
        let until = Instant::now() + Duration::from_millis(700);
        while Instant::now() < until {
            assert!(client.turn().is_empty(), "nothing is told of a stream that stalls");
        }
        let (kept, ended) = client.stack.resume(id);
        assert_eq!((kept.len(), ended), (10_000, None));
        let mut received = kept;
        while received.len() < 50_000 {
            received.extend(client.turn().into_iter().flat_map(|told| told.data));
        }
        assert!(received.iter().enumerate().all(|(at, &read)| read == byte(at)));
    });
}
