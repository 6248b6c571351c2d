//! Hostile HTTP over real sockets: every case of the tables in `hostile/` has its answer, on both backends.
//!
//! A case is sent in one piece, byte by byte, and on a connection that the control plane has already. While a
//! family runs a witness listens on the topics `allowed` and `forbidden`: it gets each event that a case says
//! it delivers, and no other, so nothing smuggled has had an effect. Then the server has to serve, with as
//! many sockets as at the start.

#[path = "hostile/exchange.rs"]
mod exchange;
#[path = "hostile/expect.rs"]
mod expect;
mod support;
#[path = "hostile/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use exchange::{Way, run};
use expect::Item;
use support::{Backend, Server, eventually, on_both_backends};
use table::{Case, Step, cases};

/// Cases that run at the same time.
const THREADS: usize = 4;

/// The tables and their tests.
macro_rules! families {
    ($($name:ident)*) => {
        const FAMILIES: &[(&str, &str)] =
            &[$((stringify!($name), include_str!(concat!("hostile/", stringify!($name), ".txt")))),*];

        on_both_backends! {
            $(fn $name(backend) {
                run_family(backend, stringify!($name));
            })*
        }
    };
}

families! { bodies chunks fields framing hosts lines methods paths pipelines protocols sizes topics }

#[test]
fn the_tables_hold_at_least_300_cases_and_each_has_a_name_of_its_own() {
    let document = include_str!("../../../docs/TESTING.md");
    let mut names = BTreeSet::new();
    for (family, text) in FAMILIES {
        let cases = cases(family, text);
        let row = format!("| `{family}` | {} |", cases.len());
        assert!(document.contains(&row), "docs/TESTING.md has another count than {row}");
        for case in cases {
            assert!(names.insert(case.name.clone()), "{family} has a second {:?}", case.name);
        }
    }
    let sum = format!("\n{} requests", names.len());
    assert!(document.contains(&sum), "docs/TESTING.md has another sum than {sum:?}");
    assert!(names.len() >= 300, "{} cases", names.len());
}

fn run_family(backend: Backend, family: &str) {
    let (_, text) = FAMILIES.iter().find(|(name, _)| *name == family).expect("the family has a table");
    let cases = cases(family, text);
    let server = Server::start(backend);
    let sockets = server.sockets();
    let mut witness = server.subscribe("topic=allowed&topic=forbidden");

    let failures = run_all(&server, &cases);
    assert!(failures.is_empty(), "{} failed:\n\n{}\n", failures.len(), failures.join("\n\n"));

    server.publish("allowed", "the end");
    let mut seen = BTreeMap::new();
    loop {
        let event = witness.event();
        if event.data == "the end" {
            break;
        }
        *seen.entry(event.data).or_insert(0) += 1;
    }
    assert_eq!(seen, delivered_by(&cases), "the left was delivered, the right was to be");
    server.expect_health();
    drop(witness);
    eventually("the server holds as many sockets as at the start", || {
        (server.sockets() == sockets).then_some(())
    });
    for topic in server.topics() {
        assert_eq!((&topic["subscribers"], &topic["laggards"]), (&0.into(), &0.into()), "{topic}");
    }
}

fn ways(case: &Case) -> &'static [Way] {
    if case.once { &[Way::Whole] } else { &[Way::Whole, Way::ByteByByte, Way::Kept] }
}

/// Runs each case in each of its ways, and gives what went wrong.
fn run_all(server: &Server, cases: &[Case]) -> Vec<String> {
    let all: Vec<(&Case, Way)> =
        cases.iter().flat_map(|case| ways(case).iter().map(move |way| (case, *way))).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((case, way)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = run(server, case, *way) {
                        failures.lock().expect("no panic holds it").push(failure);
                    }
                }
            });
        }
    });
    failures.into_inner().expect("no panic holds it")
}

/// How often the witness has to get what.
fn delivered_by(cases: &[Case]) -> BTreeMap<String, usize> {
    let mut expected = BTreeMap::new();
    for case in cases {
        let items = case.steps.iter().filter_map(|step| match step {
            Step::Expect(items) => Some(items),
            _ => None,
        });
        for item in items.flatten() {
            if let Item::Delivers(data) = item {
                *expected.entry(data.clone()).or_insert(0) += ways(case).len();
            }
        }
    }
    expected
}
