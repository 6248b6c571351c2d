//! A server whose small descriptor tables are full.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::http::parse_head;
use crate::newcomer;
use crate::outcome::Outcome;
use crate::run::Run;
use crate::target::Target;

const DESCRIPTORS: usize = 160;
/// Newcomers. Together with the subscribers they are more than two tables can hold.
const WHOLE: usize = 300;
const INCOMPLETE: usize = 120;
const INSIDE: usize = 60;

/// Subscribers and incomplete heads fill the tables of both shards. Newcomers are answered 503 with
/// `Retry-After`, are closed (too many incomplete heads), or wait in the listener's queue. Subscribers lose
/// nothing. When the others have left, newcomers are served.
pub(super) fn apply(run: &mut Run) -> Result<Outcome, String> {
    let plan = crate::server::Plan { descriptors: Some(DESCRIPTORS), ..run.plan_apart() };
    let mut target = Target::start(&plan, INSIDE, run.clock, &mut run.random)?;
    target.with_log(|target| fill(run, target))
}

fn fill(run: &Run, target: &mut Target) -> Result<Outcome, String> {
    let address = target.server.address;
    let mut outcome = Outcome::default();

    let connect = |request: &[u8]| -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&address, newcomer::PATIENCE)?;
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
    run.wait(run.scaled(Duration::from_secs(3), Duration::from_secs(1)));

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
            other => {
                outcome.violations.push(format!("a newcomer to a full table got {other:?}, ended: {ended}"))
            }
        }
    }
    if refused + waiting == 0 {
        outcome.violations.push(format!("{served} newcomers did not fill the table"));
    }
    outcome.note = format!("{served} served, {refused} refused, {waiting} waited");
    if waiting > 0 && !target.server.logged("accepting pauses") {
        outcome.violations.push("newcomers wait, and the server's log does not say why".to_owned());
    }
    drop((whole, incomplete));
    let deadline = run.clock.now() + newcomer::PATIENCE;
    loop {
        match newcomer::connect(address) {
            Ok((head, _)) if head.status == 200 => break,
            _ if run.clock.now() < deadline => run.wait(Duration::from_millis(100)),
            last => {
                outcome.violations.push(format!("the crowd has left, and a newcomer gets {last:?}"));
                break;
            }
        }
    }
    outcome.findings += target.settle()?;
    outcome.violations.extend(target.violations());
    Ok(outcome)
}
