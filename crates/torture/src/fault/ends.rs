//! Servers that end, badly or well, and are started again on the same port.
//!
//! The log is in memory: the new process has another epoch. What it owes to those who resume is to tell them of the gap,
//! and everything that it acknowledges. What a process owes that is told to end is everything that it has acknowledged, or
//! to say how many did not take it in time. Who has an ordinary buffer and reads takes it in time: such a reader is cut only
//! where the machine does not let it read. Nobody reaches a laggard's bound here: who is disconnected as slow while megabytes
//! are still on their way to it notices that after the end has begun, and would look like one that the end cut.

use std::time::Duration;

use rustix::process::Signal;

use super::Saw;
use crate::arena::Arena;
use crate::field::Field;
use crate::server::{self, Plan, Server};
use crate::verify::{Breaks, Findings, LATE};

/// A drain lasts 3 s here; a server that needs longer than this hangs.
const END_TIME: Duration = Duration::from_secs(15);

pub(super) fn kill(arena: &mut Arena) -> Result<Saw, String> {
    let kill = |field: &mut Field, _: &Arena| {
        field.ledger.kill();
        field.server.kill()
    };
    act(arena, kill, |_, _| Ok(0))
}

pub(super) fn end(arena: &mut Arena) -> Result<Saw, String> {
    let end = |field: &mut Field, arena: &Arena| {
        if let Some(status) = field.server.ended() {
            return Err(format!("the server had ended by itself when it was told to stop: {status}"));
        }
        field.ledger.tell_to_stop();
        field.server.signal(Signal::TERM);
        match field.server.await_end(arena.clock, END_TIME) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("a server that was told to stop ended with {status}")),
            None => Err(format!("a server that was told to stop runs on after {END_TIME:?}")),
        }
    };
    act(arena, end, Server::cut_at_end)
}

/// Ends a server of its own some times at random moments, under load. `said_cut` is how many it said at the last of so many
/// ends that it had cut.
fn act(
    arena: &mut Arena,
    end: fn(&mut Field, &Arena) -> Result<(), String>,
    said_cut: fn(&Server, usize) -> Result<u64, String>,
) -> Result<Saw, String> {
    let plan = Plan { bounds: server::LARGE, ..arena.plan_apart() };
    let subscribers = arena.scaled(200, 60);
    let mut field = Field::start(&plan, subscribers, arena.clock, &mut arena.random)?;
    field.told(|field| end_some_times(arena, field, end, said_cut))
}

fn end_some_times(
    arena: &mut Arena,
    field: &mut Field,
    end: fn(&mut Field, &Arena) -> Result<(), String>,
    said_cut: fn(&Server, usize) -> Result<u64, String>,
) -> Result<Saw, String> {
    let (times, subscribers) = (arena.scaled(4, 1), field.readers.count);
    let mut saw = Saw::default();
    let mut said = 0;
    for ends in 1..=times {
        let under_load = if arena.smoke { arena.seconds(0.2, 0.6) } else { arena.seconds(0.3, 2.5) };
        arena.wait(under_load);
        let outage = field.problems.outage();
        end(field, arena)?;
        let down = arena.seconds(0.0, 0.3);
        arena.wait(down);
        field.server.start_again()?;
        drop(outage);
        field.await_streams()?;
        // Some of what the new process acknowledges comes before everyone is back, some after.
        let after = arena.seconds(0.0, 0.5);
        arena.wait(after);
        let found = field.settle()?;
        let cut = said_cut(&field.server, ends)?;
        said += cut;
        saw.violations.extend(judge(&found, cut));
        saw.findings += found;
    }
    let Findings { breaks: Breaks { cut, .. }, at_ease, late, late_at_end, .. } = saw.findings;
    saw.note = format!(
        "{times} times, {subscribers} subscribers, {cut} of {said} cut, {} at ease, readers at most {late:.0?} late, \
         {late_at_end:.0?} while it ended",
        at_ease.cut
    );
    saw.violations.extend(field.violations());
    Ok(saw)
}

/// What is wrong with whom one end cut.
fn judge(found: &Findings, said: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    if found.breaks.cut > said {
        let cut = found.breaks.cut;
        wrong.push(format!("{cut} subscribers were cut at an end, and the server says {said}"));
    }
    let Breaks { cut, forgotten, .. } = found.at_ease;
    if cut > 0 && found.late_at_end < LATE {
        wrong.push(format!("{cut} subscribers were cut at an end although they read all the time"));
    }
    if forgotten > 0 && found.late < LATE {
        wrong.push(format!("{forgotten} subscribers had not got in time what a kill made them lose"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that cut everyone at each end, and counted them, passed.
    #[test]
    fn only_who_cannot_read_may_be_cut_and_is_counted() {
        let wrong = |all, cut_at_ease, said, late| {
            let cut = |cut| Breaks { cut, ..Breaks::default() };
            let (breaks, at_ease) = (cut(all), cut(cut_at_ease));
            let late_at_end = Duration::from_millis(late);
            judge(&Findings { breaks, at_ease, late_at_end, ..Findings::default() }, said).len()
        };
        assert_eq!(wrong(0, 0, 0, 0), 0);
        assert_eq!(wrong(3, 0, 3, 0), 0);
        assert_eq!(wrong(3, 0, 2, 0), 1);
        assert_eq!(wrong(200, 130, 200, 20), 1);
        // Readers that do not run cannot tell a server that cuts from one that waited in vain.
        assert_eq!(wrong(200, 130, 200, 2_000), 0);
        assert_eq!(wrong(200, 130, 199, 2_000), 1);
    }
}
