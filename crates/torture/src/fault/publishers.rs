//! Publishers that vanish, that are slow, and that are too many.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::Saw;
use crate::arena::Arena;
use crate::http::{Broken, Poster};
use crate::publishers::Batch;

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

/// As many publishers as the mailboxes cannot take, until some are told to wait.
pub(super) fn burst(arena: &mut Arena) -> Result<Saw, String> {
    let time = arena.scaled(Duration::from_secs(8), Duration::from_millis(800));
    let threads = arena.scaled(64, 16);
    let address = arena.field.server.address;
    let (ledger, problems) = (&arena.field.ledger, &arena.field.problems);
    let busy = problems.busy.load(Ordering::Relaxed);
    let (over, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut randoms: Vec<fastrand::Rng> = (0..threads).map(|_| arena.random.fork()).collect();
    thread::scope(|scope| {
        for random in &mut randoms {
            let (over, acknowledged) = (&over, &acknowledged);
            scope.spawn(move || {
                let mut poster = Poster::new(address);
                while !over.load(Ordering::Relaxed) {
                    let batch = Batch::array(ledger, 200, 100, random);
                    if batch.publish(&mut poster, ledger, problems, over) {
                        acknowledged.fetch_add(batch.count as u64, Ordering::Relaxed);
                    }
                }
            });
        }
        arena.wait(time);
        over.store(true, Ordering::Relaxed);
    });
    let busy = problems.busy.load(Ordering::Relaxed) - busy;
    Ok(Saw::noted(format!("{} acknowledged, {busy} answers of 503", acknowledged.into_inner())))
}
