//! Publishers that vanish, that are slow, and that are too many.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::Saw;
use crate::arena::Arena;
use crate::field::Field;
use crate::http::{Broken, Poster};
use crate::publishers::Batch;
use crate::server::{LARGE, Plan};

/// Publishers vanish in the middle of a body; others take seconds for theirs.
pub(super) fn vanish(arena: &mut Arena) -> Result<Saw, String> {
    let time = arena.scaled(Duration::from_secs(6), Duration::from_secs(1));
    let (address, clock) = (arena.field.server.address, arena.clock);
    let deadline = clock.now() + time;
    let (ledger, problems, stop) = (&arena.field.ledger, &arena.field.problems, &arena.stop);
    let (vanished, slow) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut randoms: Vec<fastrand::Rng> = (0..8).map(|_| arena.random.fork()).collect();
    let going_on = || clock.now() < deadline && !stop.load(Ordering::Relaxed);
    thread::scope(|scope| {
        for (index, random) in randoms.iter_mut().enumerate() {
            let (vanished, slow, going_on) = (&vanished, &slow, &going_on);
            scope.spawn(move || {
                while going_on() {
                    let mut poster = Poster::new(address);
                    let count = random.usize(1..=40);
                    if index % 2 == 0 {
                        let batch = match random.bool() {
                            true => Batch::array(ledger, count, 200, random),
                            false => Batch::lines(ledger, count, random),
                        };
                        cut(&batch, &mut poster, ledger, random);
                        vanished.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(random.u64(1..20)));
                    } else {
                        let batch = Batch::lines(ledger, count, random);
                        let body = batch.body();
                        let pieces = body.as_bytes().chunks(random.usize(50..400));
                        let pause = Duration::from_millis(random.u64(1..20));
                        let kind = batch.content_type();
                        match poster.post_in_pieces(kind, body.len(), pieces, pause) {
                            Ok(answer) => drop(batch.answered(&answer, ledger, problems)),
                            Err(Broken::NotConnected) => ledger.refused(batch.first, batch.count),
                            Err(Broken::Unanswered) => {
                                problems.note("a slow publisher got no answer".to_owned())
                            }
                        }
                        slow.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Ok(Saw::noted(format!("{} vanished, {} slow", vanished.into_inner(), slow.into_inner())))
}

/// Sends a part of a body and vanishes. What was not sent whole must not come: nothing of an array, of NDJSON no line
/// whose end was not sent.
fn cut(batch: &Batch, poster: &mut Poster, ledger: &crate::ledger::Ledger, random: &mut fastrand::Rng) {
    let body = batch.body();
    let sent = random.usize(0..body.len());
    let part = &body.as_bytes()[..sent];
    let whole = match batch.content_type() {
        "application/x-ndjson" => part.iter().filter(|byte| **byte == b'\n').count(),
        _ => 0,
    };
    let pieces = part.chunks((sent / 3).max(1));
    let _ = poster.post_in_pieces(batch.content_type(), body.len(), pieces, Duration::from_micros(300));
    ledger.refused(batch.first + whole as u64, batch.count - whole);
}

/// More than the arena's server delivers: its readers fall behind, are cut, come back, and are told what its small log no
/// longer has. Then so much for a server with a large log that publishers are told to wait: nothing may be missing.
pub(super) fn burst(arena: &mut Arena) -> Result<Saw, String> {
    let small = Burst {
        time: arena.scaled(Duration::from_secs(2), Duration::from_millis(300)),
        publishers: 16,
        events: 200,
        length: 100,
    };
    let mut random = arena.random.fork();
    let (acknowledged, _) = small.publish(arena, &arena.field, &mut random);
    let told = arena.field.settle()?;
    let plan = Plan { bounds: LARGE, ..arena.plan_apart() };
    let subscribers = arena.scaled(100, 60);
    let mut field = Field::start(&plan, subscribers, arena.clock, &mut arena.random)?;
    let large = Burst {
        time: arena.scaled(Duration::from_secs(15), Duration::from_millis(700)),
        publishers: arena.scaled(128, 8),
        events: 250,
        length: 1_000,
    };
    let (mut acknowledged_large, mut busy) = (0, 0);
    let mut saw = field.told(|field| {
        // Readers that are all slow and still move hold up the mail, and so the publishers.
        field.readers.slow_down(large.time);
        (acknowledged_large, busy) = large.publish(arena, field, &mut random);
        field.readers.slow_down(Duration::ZERO);
        let findings = field.settle()?;
        Ok(Saw { findings, violations: field.violations(), ..Saw::default() })
    })?;
    // A load that is scaled down may be too little for this.
    if !arena.smoke && !arena.stopped() && (busy == 0 || told.gaps == 0) {
        let what = format!("{} gaps told, {busy} answers of 503", told.gaps);
        saw.violations.push(format!("the burst did not reach its bounds: {what}"));
    }
    saw.findings += told;
    saw.note = format!("{acknowledged} and {acknowledged_large} events acknowledged, {busy} answers of 503");
    Ok(saw)
}

/// Publishers that do not pause.
struct Burst {
    /// At most; it is over once one of them is told to wait.
    time: Duration,
    publishers: usize,
    /// In each request.
    events: usize,
    /// Characters of each event.
    length: usize,
}

impl Burst {
    /// Returns how many events were acknowledged, and how many answers were 503.
    fn publish(&self, arena: &Arena, field: &Field, random: &mut fastrand::Rng) -> (u64, u64) {
        let (ledger, problems, address) = (&field.ledger, &field.problems, field.server.address);
        let busy = problems.busy.load(Ordering::Relaxed);
        let (over, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..self.publishers {
                let (over, acknowledged, mut random) = (&over, &acknowledged, random.fork());
                scope.spawn(move || {
                    let mut poster = Poster::new(address);
                    while !over.load(Ordering::Relaxed) {
                        let batch = Batch::array(ledger, self.events, self.length, &mut random);
                        if batch.publish(&mut poster, ledger, problems, over) {
                            acknowledged.fetch_add(batch.count as u64, Ordering::Relaxed);
                        }
                    }
                });
            }
            let deadline = arena.clock.now() + self.time;
            let refused = || problems.busy.load(Ordering::Relaxed) > busy;
            while arena.clock.now() < deadline && !refused() && !arena.stopped() {
                arena.wait(Duration::from_millis(100));
            }
            over.store(true, Ordering::Relaxed);
        });
        (acknowledged.into_inner(), problems.busy.load(Ordering::Relaxed) - busy)
    }
}
