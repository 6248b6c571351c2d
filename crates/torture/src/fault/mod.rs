//! The faults. Each is applied to the run's target, or to a target of its own, and returns its outcome.

mod descriptors;
mod ends;
mod memory;
mod publishers;
mod slow_heads;
mod storm;

use std::time::Duration;

use clap::ValueEnum;
use ends::Log;
use rustix::process::Signal;

use crate::event::TOPICS;
use crate::http::PublishConnection;
use crate::newcomer;
use crate::outcome::Outcome;
use crate::publishers::Batch;
use crate::run::Run;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Subscribers stop reading for seconds, and continue
    Stall,
    /// A thousand clients a second connect and leave at random points
    Storm,
    /// 20,000 request heads that never end, while newcomers are timed
    SlowHeads,
    /// The descriptor tables of a server are full
    Descriptors,
    /// The kernel's memory for TCP is used up (root; machine-wide)
    Memory,
    /// The server is stopped and continued (SIGSTOP, SIGCONT)
    Freeze,
    /// The server is killed (SIGKILL) and started again
    Kill,
    /// The server is asked to stop (SIGTERM) and started again
    End,
    /// The server has a durable log, is killed (SIGKILL) and started again: nothing may be missing
    KillStored,
    /// The server has a durable log, is asked to stop (SIGTERM) and started again: nothing may be missing
    EndStored,
    /// Publishers leave in the middle of a body, or are slow
    Publishers,
    /// A burst of publishes reaches the bounds of the log and of the mailboxes
    Burst,
}

impl Fault {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Applies the fault once.
    pub(crate) fn apply(self, run: &mut Run) -> Result<Outcome, String> {
        match self {
            Fault::Stall => stall(run),
            Fault::Storm => storm::apply(run),
            Fault::SlowHeads => slow_heads::apply(run),
            Fault::Descriptors => descriptors::apply(run),
            Fault::Memory => memory::apply(run),
            Fault::Freeze => freeze(run),
            Fault::Kill => ends::kill(run, Log::InMemory),
            Fault::End => ends::end(run, Log::InMemory),
            Fault::KillStored => ends::kill(run, Log::Durable),
            Fault::EndStored => ends::end(run, Log::Durable),
            Fault::Publishers => publishers::broken_bodies(run),
            Fault::Burst => publishers::burst(run),
        }
    }

    /// Whether a subscriber that reads without a pause keeps its stream during this fault.
    pub(crate) fn keeps_streams_of_subscribers(self) -> bool {
        match self {
            Fault::Stall
            | Fault::Storm
            | Fault::SlowHeads
            | Fault::Descriptors
            | Fault::Freeze
            | Fault::Publishers => true,
            // The server ends, the kernel ends streams, or events are published faster than subscribers can
            // read.
            Fault::Memory
            | Fault::Kill
            | Fault::End
            | Fault::KillStored
            | Fault::EndStored
            | Fault::Burst => false,
        }
    }
}

fn stall(run: &mut Run) -> Result<Outcome, String> {
    let longest = run.scaled(Duration::from_secs(8), Duration::from_millis(1500));
    let share = 0.1 + 0.8 * run.random.f64();
    run.target.subscribers.stall(share, longest);
    publish_beside(run, longest);
    let mut outcome = Outcome::default();
    outcome.findings += run.target.settle()?;
    // Nothing else ends a stream during this fault, so these were over a bound.
    let cut = outcome.findings.stream_ends.reconnects - outcome.findings.unhindered.reconnects;
    outcome.note = format!("{:.0} % for up to {longest:?}, {cut} disconnected and resumed", share * 100.0);
    Ok(outcome)
}

/// Publishes steadily to one topic for this time, so much in eight seconds that the log replaces the history
/// of the topic four times: subscribers of the topic that stall for long are at a laggard's bound. The load
/// of all faults alone takes longer than a stall to replace the history of a topic.
fn publish_beside(run: &mut Run, time: Duration) {
    let topic = run.random.u32(0..TOPICS);
    let (ledger, problems) = (&run.target.ledger, &run.target.problems);
    let mut connection = PublishConnection::new(run.target.server.address);
    let deadline = run.clock.now() + time;
    while run.clock.now() < deadline && !run.stopped() {
        Batch::topic(ledger, topic, 25, 600).publish(&mut connection, ledger, problems, &run.stop);
        run.wait(Duration::from_millis(75));
    }
}

fn freeze(run: &mut Run) -> Result<Outcome, String> {
    let time = if run.smoke { run.seconds(0.5, 1.0) } else { run.seconds(1.0, 5.0) };
    run.target.server.signal(Signal::STOP);
    run.wait(time);
    run.target.server.signal(Signal::CONT);
    let mut outcome = Outcome::noted(format!("{:.1} s", time.as_secs_f64()));
    match newcomer::connect(run.target.server.address) {
        Ok((head, _)) if head.status == 200 => {}
        Ok((head, _)) => {
            outcome.violations.push(format!("after a freeze a newcomer is answered {}", head.status))
        }
        Err(error) => outcome.violations.push(format!("after a freeze a newcomer fails: {error}")),
    }
    Ok(outcome)
}
