//! What a publish pays for patterns: one lookup of each of a million topics in tables of patterns.

use std::process::ExitCode;

use clap::Parser;
use fanfare_bench::statistics::Spread;
use fanfare_bench::{Outcome, finish, machine};
use fanfare_io::clock::thread_cpu_time;
use fanfare_proto::event::MAX_TOPIC_BYTES;
use fanfare_proto::pattern::{Pattern, PatternTable};

/// CPU time and steps of a lookup, by the number of patterns that do not match
#[derive(Parser)]
struct Options {
    /// Topics that are looked up
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    topics: u32,
    /// Rounds over all tables
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// How many patterns of a family are in a table.
const COUNTS: [u32; 3] = [10, 1_000, 10_000];

/// Different tenants in the topics.
const TENANTS: u32 = 1_000;

/// What the patterns of a table look like, by number.
type Family = (&'static str, fn(u32) -> String);

/// None of these matches a topic.
const FAMILIES: [Family; 5] = [
    ("/tenant-N/orders/*", |number| format!("/tenant-{number}/orders/*")),
    ("/{tenant}/items/N", |number| format!("/{{tenant}}/items/old-{number}")),
    ("/{tenant}/items-N/{id}", |number| format!("/{{tenant}}/items-{number}/{{id}}")),
    ("/tenant-N/{kind}/old", |number| format!("/tenant-{number}/{{kind}}/old")),
    ("{+path}/items/N", |number| format!("{{+path}}/items/old-{number}")),
];

/// These match every topic.
const MATCHING: [&str; 10] = [
    "*",
    "/*",
    "/tenant-*",
    "{+all}",
    "/{+all}",
    "/{tenant}/items/{id}",
    "/{tenant}/{kind}/{id}",
    "/{tenant}/items/{+rest}",
    "/tenant-{number}/items/{id}",
    "{+path}/{id}",
];

struct Measured {
    name: String,
    count: u32,
    table: PatternTable<()>,
    /// CPU time of a lookup in each round, in nanoseconds.
    nanoseconds: Vec<f64>,
    steps: u64,
    most_steps: usize,
    most_states: usize,
    found: u64,
}

/// All topics in one text, so that reading them costs little.
struct Topics {
    text: String,
    ends: Vec<usize>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Outcome<()> {
    machine::introduce("patterns", &[]);
    let topics =
        Topics::new((0..options.topics).map(|number| format!("/tenant-{}/items/{number}", number % TENANTS)));
    let mut tables = vec![Measured::new("no pattern", [])?];
    for (name, family) in FAMILIES {
        for count in COUNTS {
            tables.push(Measured::new(name, (0..count).map(family))?);
        }
    }
    let matching = || MATCHING.into_iter().map(str::to_owned);
    tables.push(Measured::new("10 that match", matching())?);
    let (_, others) = FAMILIES[1];
    tables.push(Measured::new(
        "10 that match, and /{tenant}/items/N",
        matching().chain((0..9_990).map(others)),
    )?);
    for _ in 0..options.rounds {
        tables.iter_mut().for_each(|table| table.measure(&topics));
    }
    println!(
        "table | patterns | ns a lookup | steps, mean and most | states, most and bound | matches | bytes each"
    );
    for table in &tables {
        table.print(topics.ends.len());
    }
    worst(options.rounds)
}

/// The costliest topic in the costliest table that is known: each letter begins every text again.
fn worst(rounds: u32) -> Outcome<()> {
    let a = |count: u32| "a".repeat(count as usize);
    let texts = (0..10_000).map(|number| {
        let (first, second, third) = (1 + number / 400, 1 + number / 20 % 20, 1 + number % 20);
        format!("{{x}}{}{{y}}{}{{z}}{}b", a(first), a(second), a(third))
    });
    let mut table = PatternTable::new();
    let taken =
        texts.filter(|text| Pattern::parse(text).is_ok_and(|pattern| table.insert(pattern, ()).is_ok()));
    let taken = taken.count();
    let topic = a(MAX_TOPIC_BYTES as u32);
    let lookups = 200;
    let mut work = table.matching(&topic, |_| {});
    let spread = Spread::of((0..rounds).map(|_| {
        let begun = thread_cpu_time();
        (0..lookups).for_each(|_| work = table.matching(&topic, |_| {}));
        (thread_cpu_time() - begun).as_secs_f64() * 1e6 / f64::from(lookups)
    }));
    println!(
        "the costliest: {taken} of 10000 templates are taken; {} steps, {} states of {}",
        work.steps,
        work.states,
        table.states()
    );
    println!("worst_lookup_us={spread:.1}");
    Ok(())
}

impl Topics {
    fn new(topics: impl Iterator<Item = String>) -> Topics {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for topic in topics {
            text += &topic;
            ends.push(text.len());
        }
        Topics { text, ends }
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.text[begin..*end])
    }
}

impl Measured {
    fn new(name: &str, texts: impl IntoIterator<Item = String>) -> Outcome<Measured> {
        let mut table = PatternTable::new();
        for text in texts {
            table.insert(Pattern::parse(&text)?, ()).map_err(|_| format!("{text} is not taken"))?;
        }
        let count = u32::try_from(table.len())?;
        Ok(Measured {
            name: name.to_owned(),
            count,
            table,
            nanoseconds: Vec::new(),
            steps: 0,
            most_steps: 0,
            most_states: 0,
            found: 0,
        })
    }

    fn measure(&mut self, topics: &Topics) {
        (self.steps, self.found) = (0, 0);
        let begun = thread_cpu_time();
        for topic in topics.iter() {
            let work = self.table.matching(topic, |_| self.found += 1);
            self.steps += work.steps as u64;
            self.most_steps = self.most_steps.max(work.steps);
            self.most_states = self.most_states.max(work.states);
        }
        let taken = thread_cpu_time() - begun;
        self.nanoseconds.push(taken.as_secs_f64() * 1e9 / topics.ends.len() as f64);
    }

    fn print(&self, topics: usize) {
        let mean = |sum: u64| sum as f64 / topics as f64;
        println!(
            "{} | {} | {:.0} | {:.1} and {} | {} and {} | {:.1} | {}",
            self.name,
            self.count,
            Spread::of(self.nanoseconds.iter().copied()),
            mean(self.steps),
            self.most_steps,
            self.most_states,
            self.table.states(),
            mean(self.found),
            self.table.bytes() / self.table.len().max(1),
        );
    }
}
