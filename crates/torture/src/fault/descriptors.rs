//! A server with a small descriptor table, filled to the brim.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Saw;
use crate::arena::Arena;
use crate::field::Field;
use crate::http::parse_head;
use crate::probe;

const DESCRIPTORS: usize = 160;
/// More than two tables hold, together with those inside.
const WHOLE: usize = 300;
const INCOMPLETE: usize = 120;
const INSIDE: usize = 60;

/// Subscribers and incomplete heads fill both shards' tables. Newcomers are answered 503 with `Retry-After`, are closed
/// (too many incomplete heads), or wait in the listener's queue; those inside lose nothing; when the crowd has left,
/// newcomers are served.
pub(super) fn act(arena: &mut Arena) -> Result<Saw, String> {
    let plan = crate::server::Plan { descriptors: Some(DESCRIPTORS), ..arena.plan_apart() };
    let mut field = Field::start(&plan, INSIDE, arena.clock, &mut arena.random)?;
    field.told(|field| fill(arena, field))
}

fn fill(arena: &Arena, field: &mut Field) -> Result<Saw, String> {
    let address = field.server.address;
    let mut saw = Saw::default();

    let connect = |request: &[u8]| -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&address, probe::PATIENCE)?;
        stream.write_all(request)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let incomplete: Vec<_> =
        (0..INCOMPLETE).filter_map(|_| connect(b"GET /events?topic=t0 HT").ok()).collect();
    let mut whole: Vec<(TcpStream, Vec<u8>)> = (0..WHOLE)
        .filter_map(|_| connect(b"GET /events?topic=probe HTTP/1.1\r\nHost: localhost\r\n\r\n").ok())
        .map(|stream| (stream, Vec::new()))
        .collect();
    arena.wait(arena.scaled(Duration::from_secs(3), Duration::from_secs(1)));

    let (mut served, mut refused, mut waiting) = (0, 0, 0);
    for (stream, received) in &mut whole {
        let mut buffer = [0; 4096];
        let ended = loop {
            match stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        match parse_head(received) {
            Ok(Some(head)) if head.status == 200 && !ended => served += 1,
            Ok(Some(head)) if head.status == 503 && head.retry_after => refused += 1,
            Ok(None) if received.is_empty() && !ended => waiting += 1,
            Ok(None) if received.is_empty() => refused += 1,
            other => saw.violations.push(format!("a newcomer to a full table got {other:?}, ended: {ended}")),
        }
    }
    if refused + waiting == 0 {
        saw.violations.push(format!("{served} newcomers did not fill the table"));
    }
    saw.note = format!("{served} served, {refused} refused, {waiting} waited");
    if waiting > 0 && !field.server.logged("accepting pauses") {
        saw.violations.push("newcomers wait, and the server's log does not say why".to_owned());
    }
    drop((whole, incomplete));
    let deadline = arena.clock.now() + probe::PATIENCE;
    loop {
        match probe::come(address) {
            Ok((head, _)) if head.status == 200 => break,
            _ if arena.clock.now() < deadline => arena.wait(Duration::from_millis(100)),
            last => {
                saw.violations.push(format!("the crowd has left, and a newcomer gets {last:?}"));
                break;
            }
        }
    }
    saw.findings += field.settle()?;
    saw.violations.extend(field.violations());
    Ok(saw)
}
