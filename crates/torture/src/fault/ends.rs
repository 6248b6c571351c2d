//! Servers that are killed or asked to stop, and started again on the same port.
//!
//! Where the log is in memory, the new process has another epoch. It must report the gap to every subscriber
//! that resumes, and deliver everything that it acknowledges. Where the log is durable, the epoch goes on,
//! and nothing is excused: each subscriber gets everything that any of the processes has acknowledged. A
//! process that is asked to stop must deliver everything that it has acknowledged, or report how many
//! subscribers did not take it in time. A subscriber that has an ordinary receive buffer and reads takes it
//! in time, unless the machine keeps it from reading. No subscriber reaches a laggard's bound here: one that
//! is disconnected as slow while megabytes are on their way notices that only after the server has begun to
//! stop, and would count as cut.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::outcome::Outcome;
use crate::run::Run;
use crate::server::{self, DataDirectory, Plan, Server};
use crate::target::Target;
use crate::verify::{BUSY_MACHINE, Findings, StreamEnds};

/// The longest time in which a server stops. Its drain takes 3 s here.
const END_TIME: Duration = Duration::from_secs(15);

/// Where the server keeps its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    InMemory,
    Durable,
}

pub(super) fn kill(run: &mut Run, log: Log) -> Result<Outcome, String> {
    let kill = |target: &mut Target, _: &Run| {
        target.ledger.note_kill();
        target.server.kill()
    };
    act(run, log, kill, |_, _| Ok(0))
}

pub(super) fn end(run: &mut Run, log: Log) -> Result<Outcome, String> {
    let end = |target: &mut Target, run: &Run| {
        if let Some(status) = target.server.ended() {
            return Err(format!("the server had ended by itself when it was asked to stop: {status}"));
        }
        target.ledger.note_stop_request();
        target.server.signal(Signal::TERM);
        match target.server.await_end(run.clock, END_TIME) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("a server that was asked to stop ended with {status}")),
            None => Err(format!("a server that was asked to stop runs on after {END_TIME:?}")),
        }
    };
    act(run, log, end, Server::cut_at_end)
}

/// Ends a server of this fault's own several times at random moments under load. `reported_cut` gives how
/// many streams the server reported as cut at the last of so many ends.
fn act(
    run: &mut Run,
    log: Log,
    end: fn(&mut Target, &Run) -> Result<(), String>,
    reported_cut: fn(&Server, usize) -> Result<u64, String>,
) -> Result<Outcome, String> {
    let data = (log == Log::Durable).then(|| Arc::new(DataDirectory::new()));
    let plan = Plan { bounds: server::LARGE, data, ..run.plan_apart() };
    let subscribers = run.scaled(200, 60);
    let mut target = Target::start(&plan, subscribers, run.clock, &mut run.random)?;
    target.with_log(|target| end_some_times(run, target, log, end, reported_cut))
}

fn end_some_times(
    run: &mut Run,
    target: &mut Target,
    log: Log,
    end: fn(&mut Target, &Run) -> Result<(), String>,
    reported_cut: fn(&Server, usize) -> Result<u64, String>,
) -> Result<Outcome, String> {
    let (times, subscribers) = (run.scaled(4, 1), target.subscribers.count);
    let mut outcome = Outcome::default();
    let mut reported = 0;
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
        // Some events of the new process are acknowledged before every subscriber has reconnected, some
        // after.
        let after = run.seconds(0.0, 0.5);
        run.wait(after);
        let found = target.settle()?;
        let cut = reported_cut(&target.server, ends)?;
        reported += cut;
        outcome.violations.extend(judge(&found, cut));
        if log == Log::Durable {
            outcome.violations.extend(judge_durable(&found));
        }
        outcome.findings += found;
    }
    let Findings { stream_ends: StreamEnds { cut, .. }, unhindered, longest_delay, delay_at_stop, .. } =
        outcome.findings;
    outcome.note = format!(
        "{times} times, {subscribers} subscribers, {cut} of {reported} cut, {} unhindered, \
         subscribers at most {longest_delay:.0?} delayed, \
         {delay_at_stop:.0?} while it ended",
        unhindered.cut
    );
    outcome.violations.extend(target.violations());
    Ok(outcome)
}

/// The violations of one end.
fn judge(found: &Findings, reported: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    if found.stream_ends.cut > reported {
        let cut = found.stream_ends.cut;
        wrong.push(format!("{cut} subscribers were cut at an end, and the server says {reported}"));
    }
    let StreamEnds { cut, missing_at_kill, .. } = found.unhindered;
    if cut > 0 && found.delay_at_stop < BUSY_MACHINE {
        wrong.push(format!("{cut} subscribers were cut at an end although they read all the time"));
    }
    if missing_at_kill > 0 && found.longest_delay < BUSY_MACHINE {
        wrong.push(format!("{missing_at_kill} subscribers had not got in time what a kill made them lose"));
    }
    wrong
}

/// The violations of one end of a server with a durable log.
fn judge_durable(found: &Findings) -> Option<String> {
    let excused = found.lost_with_process + found.missed_in_gap;
    if found.gaps > 0 {
        return Some(format!("{} subscribers of a durable log were told of a gap", found.gaps));
    }
    (excused > 0).then(|| format!("{excused} acknowledged events went with a process whose log is durable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_log_is_excused_for_nothing() {
        assert_eq!(judge_durable(&Findings::default()), None);
        for found in [
            Findings { lost_with_process: 1, ..Findings::default() },
            Findings { missed_in_gap: 1, ..Findings::default() },
            Findings { gaps: 1, ..Findings::default() },
        ] {
            assert!(judge_durable(&found).is_some(), "{found:?}");
        }
    }

    /// A server that cut every subscriber at each end, and counted them, passed.
    #[test]
    fn only_subscribers_that_cannot_read_may_be_cut_and_are_counted() {
        let wrong = |all, cut_unhindered, reported, late| {
            let cut = |cut| StreamEnds { cut, ..StreamEnds::default() };
            let (stream_ends, unhindered) = (cut(all), cut(cut_unhindered));
            let delay_at_stop = Duration::from_millis(late);
            judge(&Findings { stream_ends, unhindered, delay_at_stop, ..Findings::default() }, reported).len()
        };
        assert_eq!(wrong(0, 0, 0, 0), 0);
        assert_eq!(wrong(3, 0, 3, 0), 0);
        assert_eq!(wrong(3, 0, 2, 0), 1);
        assert_eq!(wrong(200, 130, 200, 20), 1);
        // Where the threads of subscribers do not run, a server that cuts cannot be told from one that waited
        // in vain.
        assert_eq!(wrong(200, 130, 200, 2_000), 0);
        assert_eq!(wrong(200, 130, 199, 2_000), 1);
    }
}
