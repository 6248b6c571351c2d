//! Servers that end, badly or well, and are started again on the same port.
//!
//! The log is in memory: the new process has another epoch. What it owes to those who resume is to tell them of the gap,
//! and everything that it acknowledges.

use std::time::Duration;

use rustix::process::Signal;

use super::Saw;
use crate::arena::Arena;
use crate::field::Field;

/// A drain lasts 3 s here; a server that needs longer than this hangs.
const END_TIME: Duration = Duration::from_secs(15);

pub(super) fn kill(arena: &mut Arena) -> Result<Saw, String> {
    act(arena, |field, _| {
        field.server.kill();
        Ok(())
    })
}

pub(super) fn end(arena: &mut Arena) -> Result<Saw, String> {
    act(arena, |field, arena| {
        field.ledger.tell_to_stop();
        field.server.signal(Signal::TERM);
        match field.server.await_end(arena.clock, END_TIME) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("a server that was told to stop ended with {status}")),
            None => Err(format!("a server that was told to stop runs on after {END_TIME:?}")),
        }
    })
}

/// Ends a server of its own some times at random moments, under load.
fn act(arena: &mut Arena, end: fn(&mut Field, &Arena) -> Result<(), String>) -> Result<Saw, String> {
    let plan = arena.plan_apart();
    let subscribers = arena.scaled(200, 60);
    let mut field = Field::start(&plan, subscribers, arena.clock, &mut arena.random)?;
    let times = arena.scaled(4, 1);
    let mut saw = Saw::noted(format!("{times} times, {subscribers} subscribers"));
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
    saw.violations.extend(field.violations());
    Ok(saw)
}
