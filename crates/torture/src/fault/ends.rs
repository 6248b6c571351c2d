//! Servers that end, badly or well, and are started again on the same port.
//!
//! The log is in memory: the new process has another epoch. What it owes to those who resume is to tell them of the gap,
//! and everything that it acknowledges. What a process owes that is told to end is everything that it has acknowledged, or
//! to say how many did not take it in time.

use std::time::Duration;

use rustix::process::Signal;

use super::Saw;
use crate::arena::Arena;
use crate::field::Field;
use crate::server::Server;

/// A drain lasts 3 s here; a server that needs longer than this hangs.
const END_TIME: Duration = Duration::from_secs(15);

pub(super) fn kill(arena: &mut Arena) -> Result<Saw, String> {
    let kill = |field: &mut Field, _: &Arena| {
        field.server.kill();
        Ok(())
    };
    act(arena, kill, |_, _| Ok(0))
}

pub(super) fn end(arena: &mut Arena) -> Result<Saw, String> {
    let end = |field: &mut Field, arena: &Arena| {
        field.ledger.tell_to_stop();
        field.server.signal(Signal::TERM);
        match field.server.await_end(arena.clock, END_TIME) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("a server that was told to stop ended with {status}")),
            None => Err(format!("a server that was told to stop runs on after {END_TIME:?}")),
        }
    };
    act(arena, end, Server::cut)
}

/// Ends a server of its own some times at random moments, under load. `cut` says how many streams it says it cut in so many
/// ends.
fn act(
    arena: &mut Arena,
    end: fn(&mut Field, &Arena) -> Result<(), String>,
    cut: fn(&Server, usize) -> Result<u64, String>,
) -> Result<Saw, String> {
    let plan = arena.plan_apart();
    let subscribers = arena.scaled(200, 60);
    let mut field = Field::start(&plan, subscribers, arena.clock, &mut arena.random)?;
    let times = arena.scaled(4, 1);
    let mut saw = Saw::default();
    for _ in 0..times {
        let under_load = if arena.smoke { arena.seconds(0.2, 0.6) } else { arena.seconds(0.3, 2.5) };
        arena.wait(under_load);
        end(&mut field, arena)?;
        let down = arena.seconds(0.0, 0.3);
        arena.wait(down);
        field.server.start_again()?;
        field.await_streams()?;
        // Some of what the new process acknowledges comes before everyone is back, some after.
        let after = arena.seconds(0.0, 0.5);
        arena.wait(after);
        saw.findings += field.settle()?;
    }
    let (seen, said) = (saw.findings.cut, cut(&field.server, times)?);
    if seen > said {
        saw.violations.push(format!("{seen} subscribers were cut at an end, and the server says {said}"));
    }
    saw.note = format!("{times} times, {subscribers} subscribers, {seen} of at most {said} cut");
    saw.violations.extend(field.violations());
    Ok(saw)
}
