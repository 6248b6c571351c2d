//! The faults. Each is done to the arena's field, or to a field of its own, and says what it saw besides deliveries.

mod crowd;
mod descriptors;
mod ends;
mod memory;
mod publishers;
mod slow_heads;

use std::time::Duration;

use clap::ValueEnum;
use rustix::process::Signal;

use crate::arena::Arena;
use crate::probe;
use crate::verify::Findings;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Readers do not read for seconds, and go on
    Stall,
    /// A thousand clients a second connect and vanish at random points
    Storm,
    /// 20,000 request heads that never end, beside honest newcomers
    SlowHeads,
    /// A server's descriptor table fills
    Descriptors,
    /// The kernel's memory for TCP is used up (root; machine-wide)
    Memory,
    /// The server is stopped and continued (SIGSTOP, SIGCONT)
    Freeze,
    /// The server is killed (SIGKILL) and started again
    Kill,
    /// The server is told to end (SIGTERM) and started again
    End,
    /// Publishers vanish in the middle of a body, or are slow
    Publishers,
    /// A burst of publishes reaches the bound of the mailboxes
    Burst,
}

/// What a fault saw besides the deliveries on the arena's field.
#[derive(Default)]
pub(crate) struct Saw {
    /// Deliveries on a field of the fault's own.
    pub(crate) findings: Findings,
    /// For the reader of the report.
    pub(crate) note: String,
    pub(crate) violations: Vec<String>,
    /// What the servers logged meanwhile.
    pub(crate) log: String,
    /// It was not done, for this reason.
    pub(crate) skipped: bool,
}

impl Saw {
    fn noted(note: impl Into<String>) -> Saw {
        Saw { note: note.into(), ..Saw::default() }
    }
}

impl Fault {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Does it once.
    pub(crate) fn act(self, arena: &mut Arena) -> Result<Saw, String> {
        match self {
            Fault::Stall => stall(arena),
            Fault::Storm => crowd::storm(arena),
            Fault::SlowHeads => slow_heads::act(arena),
            Fault::Descriptors => descriptors::act(arena),
            Fault::Memory => memory::act(arena),
            Fault::Freeze => freeze(arena),
            Fault::Kill => ends::kill(arena),
            Fault::End => ends::end(arena),
            Fault::Publishers => publishers::vanish(arena),
            Fault::Burst => publishers::burst(arena),
        }
    }

    /// Whether whoever reads as fast as events come keeps its stream.
    pub(crate) fn spares_who_reads(self) -> bool {
        match self {
            Fault::Stall
            | Fault::Storm
            | Fault::SlowHeads
            | Fault::Descriptors
            | Fault::Freeze
            | Fault::Publishers => true,
            // The server ends, the kernel ends streams, or events come faster than anybody reads.
            Fault::Memory | Fault::Kill | Fault::End | Fault::Burst => false,
        }
    }
}

fn stall(arena: &mut Arena) -> Result<Saw, String> {
    let longest = arena.scaled(Duration::from_secs(8), Duration::from_millis(1500));
    let share = 0.1 + 0.8 * arena.random.f64();
    arena.field.readers.stall(share, longest);
    arena.wait(longest);
    let mut saw = Saw::default();
    saw.findings += arena.field.settle()?;
    // Nothing else ends a stream meanwhile: these were over a bound.
    let cut = saw.findings.breaks.reconnects - saw.findings.at_ease.reconnects;
    saw.note = format!("{:.0} % for up to {longest:?}, {cut} cut and resumed", share * 100.0);
    Ok(saw)
}

fn freeze(arena: &mut Arena) -> Result<Saw, String> {
    let time = if arena.smoke { arena.seconds(0.5, 1.0) } else { arena.seconds(1.0, 5.0) };
    arena.field.server.signal(Signal::STOP);
    arena.wait(time);
    arena.field.server.signal(Signal::CONT);
    let mut saw = Saw::noted(format!("{:.1} s", time.as_secs_f64()));
    match probe::come(arena.field.server.address) {
        Ok((head, _)) if head.status == 200 => {}
        Ok((head, _)) => {
            saw.violations.push(format!("after a freeze a newcomer is answered {}", head.status))
        }
        Err(error) => saw.violations.push(format!("after a freeze a newcomer fails: {error}")),
    }
    Ok(saw)
}
