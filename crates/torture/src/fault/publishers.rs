//! Publishers that leave, that are slow, and that are too many.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::http::{NoAnswer, PublishConnection};
use crate::outcome::Outcome;
use crate::publishers::Batch;
use crate::run::Run;
use crate::server::{LARGE, Plan};
use crate::target::Target;

/// The share of the subscribers that do not read for a part of the burst, so that they miss what the log
/// drops.
const STALLED_SHARE: f64 = 0.3;

/// Some publishers leave in the middle of a body, others take seconds for theirs.
pub(super) fn broken_bodies(run: &mut Run) -> Result<Outcome, String> {
    let time = run.scaled(Duration::from_secs(6), Duration::from_secs(1));
    let (address, clock) = (run.target.server.address, run.clock);
    let deadline = clock.now() + time;
    let (ledger, problems, stop) = (&run.target.ledger, &run.target.problems, &run.stop);
    let (vanished, slow) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut randoms: Vec<fastrand::Rng> = (0..8).map(|_| run.random.fork()).collect();
    let going_on = || clock.now() < deadline && !stop.load(Ordering::Relaxed);
    thread::scope(|scope| {
        for (index, random) in randoms.iter_mut().enumerate() {
            let (vanished, slow, going_on) = (&vanished, &slow, &going_on);
            scope.spawn(move || {
                while going_on() {
                    let mut connection = PublishConnection::new(address);
                    let count = random.usize(1..=40);
                    if index % 2 == 0 {
                        let batch = match random.bool() {
                            true => Batch::array(ledger, count, 200, random),
                            false => Batch::lines(ledger, count, random),
                        };
                        cut(&batch, &mut connection, ledger, random);
                        vanished.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(random.u64(1..20)));
                    } else {
                        let batch = Batch::lines(ledger, count, random);
                        let body = batch.body();
                        let pieces = body.as_bytes().chunks(random.usize(50..400));
                        let pause = Duration::from_millis(random.u64(1..20));
                        let kind = batch.content_type();
                        match connection.post_in_pieces(kind, body.len(), pieces, pause) {
                            Ok(answer) => drop(batch.answered(&answer, ledger, problems)),
                            Err(NoAnswer::NotConnected) => ledger.refused(batch.first, batch.count),
                            Err(NoAnswer::Unanswered) => {
                                problems.note("a slow publisher got no answer".to_owned())
                            }
                        }
                        slow.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    Ok(Outcome::noted(format!("{} vanished, {} slow", vanished.into_inner(), slow.into_inner())))
}

/// Sends a part of a body and leaves. Events that were not sent completely must not be delivered: no event of
/// an array, and no line of NDJSON whose end was not sent.
fn cut(
    batch: &Batch,
    connection: &mut PublishConnection,
    ledger: &crate::ledger::Ledger,
    random: &mut fastrand::Rng,
) {
    let body = batch.body();
    let sent = random.usize(0..body.len());
    let part = &body.as_bytes()[..sent];
    let whole = match batch.content_type() {
        "application/x-ndjson" => part.iter().filter(|byte| **byte == b'\n').count(),
        _ => 0,
    };
    let pieces = part.chunks((sent / 3).max(1));
    let _ = connection.post_in_pieces(batch.content_type(), body.len(), pieces, Duration::from_micros(300));
    ledger.refused(batch.first + whole as u64, batch.count - whole);
}

/// First more events than the run's server can deliver: subscribers fall behind, are disconnected, resume,
/// and get a gap for what the small log has dropped. Then so many events for a server with a large log that
/// publishers are refused for lack of room: no event may be missing.
pub(super) fn burst(run: &mut Run) -> Result<Outcome, String> {
    let small = Burst {
        time: run.scaled(Duration::from_secs(2), Duration::from_millis(300)),
        publishers: 16,
        events: 200,
        // So large that also a busy machine replaces the whole log in this time.
        length: 400,
    };
    let mut random = run.random.fork();
    // A machine that is fast enough may let every subscriber keep pace, and then no gap is reported.
    run.target.subscribers.stall(STALLED_SHARE, 2 * small.time);
    let (acknowledged, _) = small.publish(run, &run.target, &mut random);
    let small_findings = run.target.settle()?;
    let plan = Plan { bounds: LARGE, ..run.plan_apart() };
    let subscribers = run.scaled(100, 60);
    let mut target = Target::start(&plan, subscribers, run.clock, &mut run.random)?;
    let large = Burst {
        time: run.scaled(Duration::from_secs(15), Duration::from_millis(700)),
        publishers: run.scaled(128, 8),
        events: 250,
        length: 1_000,
    };
    let (mut acknowledged_large, mut busy) = (0, 0);
    let mut outcome = target.with_log(|target| {
        // Where all subscribers are slow and still read, mail waits for them, and so do publishers.
        target.subscribers.slow_down(large.time);
        (acknowledged_large, busy) = large.publish(run, target, &mut random);
        target.subscribers.slow_down(Duration::ZERO);
        let findings = target.settle()?;
        Ok(Outcome { findings, violations: target.violations(), ..Outcome::default() })
    })?;
    // A load that is scaled down may be too small for this.
    if !run.smoke && !run.stopped() && (busy == 0 || small_findings.gaps == 0) {
        let what = format!("{} gaps, {busy} answers of 503", small_findings.gaps);
        outcome.violations.push(format!("the burst did not reach its bounds: {what}"));
    }
    outcome.findings += small_findings;
    outcome.note =
        format!("{acknowledged} and {acknowledged_large} events acknowledged, {busy} answers of 503");
    Ok(outcome)
}

/// Publishers that do not pause.
struct Burst {
    /// The longest time. The burst is over when the first publisher is refused.
    time: Duration,
    publishers: usize,
    /// Events of each request.
    events: usize,
    /// Characters of each event.
    length: usize,
}

impl Burst {
    /// Returns how many events were acknowledged, and how many answers were 503.
    fn publish(&self, run: &Run, target: &Target, random: &mut fastrand::Rng) -> (u64, u64) {
        let (ledger, problems, address) = (&target.ledger, &target.problems, target.server.address);
        let busy = problems.busy.load(Ordering::Relaxed);
        let (over, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..self.publishers {
                let (over, acknowledged, mut random) = (&over, &acknowledged, random.fork());
                scope.spawn(move || {
                    let mut connection = PublishConnection::new(address);
                    while !over.load(Ordering::Relaxed) {
                        let batch = Batch::array(ledger, self.events, self.length, &mut random);
                        if batch.publish(&mut connection, ledger, problems, over) {
                            acknowledged.fetch_add(batch.count as u64, Ordering::Relaxed);
                        }
                    }
                });
            }
            let deadline = run.clock.now() + self.time;
            let refused = || problems.busy.load(Ordering::Relaxed) > busy;
            while run.clock.now() < deadline && !refused() && !run.stopped() {
                run.wait(Duration::from_millis(100));
            }
            over.store(true, Ordering::Relaxed);
        });
        (acknowledged.into_inner(), problems.busy.load(Ordering::Relaxed) - busy)
    }
}
