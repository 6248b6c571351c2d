//! Servers that end, badly or well, and are started again on the same port.
//!
//! The log is in memory: the new process has another epoch. What it owes to those who resume is to tell them of the gap,
//! and everything that it acknowledges. What a process owes that is told to end is everything that it has acknowledged, or
//! to say how many did not take it in time. Who has an ordinary buffer and reads takes it in time: such a reader is cut only
//! where the machine does not let it read. Nobody reaches a laggard's bound here: who is disconnected as slow while megabytes
//! are still on their way to it notices that after the end has begun, and would look like one that the end cut.

use std::time::Duration;

use rustix::process::Signal;

use crate::outcome::Outcome;
use crate::run::Run;
use crate::server::{self, Plan, Server};
use crate::target::Target;
use crate::verify::{BUSY_MACHINE, Findings, StreamEnds};

/// A drain lasts 3 s here; a server that needs longer than this hangs.
const END_TIME: Duration = Duration::from_secs(15);

pub(super) fn kill(run: &mut Run) -> Result<Outcome, String> {
    let kill = |target: &mut Target, _: &Run| {
        target.ledger.note_kill();
        target.server.kill()
    };
    act(run, kill, |_, _| Ok(0))
}

pub(super) fn end(run: &mut Run) -> Result<Outcome, String> {
    let end = |target: &mut Target, run: &Run| {
        if let Some(status) = target.server.ended() {
            return Err(format!("the server had ended by itself when it was told to stop: {status}"));
        }
        target.ledger.note_stop_request();
        target.server.signal(Signal::TERM);
        match target.server.await_end(run.clock, END_TIME) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("a server that was told to stop ended with {status}")),
            None => Err(format!("a server that was told to stop runs on after {END_TIME:?}")),
        }
    };
    act(run, end, Server::cut_at_end)
}

/// Ends a server of its own some times at random moments, under load. `said_cut` is how many it said at the last of so many
/// ends that it had cut.
fn act(
    run: &mut Run,
    end: fn(&mut Target, &Run) -> Result<(), String>,
    said_cut: fn(&Server, usize) -> Result<u64, String>,
) -> Result<Outcome, String> {
    let plan = Plan { bounds: server::LARGE, ..run.plan_apart() };
    let subscribers = run.scaled(200, 60);
    let mut target = Target::start(&plan, subscribers, run.clock, &mut run.random)?;
    target.with_log(|target| end_some_times(run, target, end, said_cut))
}

fn end_some_times(
    run: &mut Run,
    target: &mut Target,
    end: fn(&mut Target, &Run) -> Result<(), String>,
    said_cut: fn(&Server, usize) -> Result<u64, String>,
) -> Result<Outcome, String> {
    let (times, subscribers) = (run.scaled(4, 1), target.readers.count);
    let mut outcome = Outcome::default();
    let mut said = 0;
    for ends in 1..=times {
        let under_load = if run.smoke { run.seconds(0.2, 0.6) } else { run.seconds(0.3, 2.5) };
        run.wait(under_load);
        let outage = target.problems.outage();
        end(target, run)?;
        let down = run.seconds(0.0, 0.3);
        run.wait(down);
        target.server.restart()?;
        drop(outage);
        target.await_streams()?;
        // Some of what the new process acknowledges comes before everyone is back, some after.
        let after = run.seconds(0.0, 0.5);
        run.wait(after);
        let found = target.settle()?;
        let cut = said_cut(&target.server, ends)?;
        said += cut;
        outcome.violations.extend(judge(&found, cut));
        outcome.findings += found;
    }
    let Findings { stream_ends: StreamEnds { cut, .. }, unhindered, late, delay_at_stop, .. } =
        outcome.findings;
    outcome.note = format!(
        "{times} times, {subscribers} subscribers, {cut} of {said} cut, {} at ease, readers at most {late:.0?} late, \
         {delay_at_stop:.0?} while it ended",
        unhindered.cut
    );
    outcome.violations.extend(target.violations());
    Ok(outcome)
}

/// What is wrong with whom one end cut.
fn judge(found: &Findings, said: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    if found.stream_ends.cut > said {
        let cut = found.stream_ends.cut;
        wrong.push(format!("{cut} subscribers were cut at an end, and the server says {said}"));
    }
    let StreamEnds { cut, missing_at_kill, .. } = found.unhindered;
    if cut > 0 && found.delay_at_stop < BUSY_MACHINE {
        wrong.push(format!("{cut} subscribers were cut at an end although they read all the time"));
    }
    if missing_at_kill > 0 && found.late < BUSY_MACHINE {
        wrong.push(format!("{missing_at_kill} subscribers had not got in time what a kill made them lose"));
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
            let cut = |cut| StreamEnds { cut, ..StreamEnds::default() };
            let (stream_ends, unhindered) = (cut(all), cut(cut_at_ease));
            let delay_at_stop = Duration::from_millis(late);
            judge(&Findings { stream_ends, unhindered, delay_at_stop, ..Findings::default() }, said).len()
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
