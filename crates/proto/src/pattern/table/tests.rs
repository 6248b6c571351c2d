//! The table beside a list of patterns, and what it costs at the worst.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::event::MAX_TOPIC_BYTES;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

fn table_of(texts: impl IntoIterator<Item = String>) -> PatternTable<()> {
    let mut table = PatternTable::new();
    for text in texts {
        table.insert(pattern(&text), ()).unwrap();
    }
    table.check();
    table
}

fn found<V>(table: &PatternTable<V>, topic: &str) -> Vec<String> {
    let mut found = Vec::new();
    let work = table.matching(topic, |key| found.push(table.pattern(key).unwrap().to_string()));
    assert!(work.states <= table.states(), "{} states of {}", work.states, table.states());
    assert!(work.steps <= topic.len() * table.states(), "{} steps", work.steps);
    found.sort();
    found
}

#[test]
fn a_table_finds_what_matches_and_forgets_what_is_removed() {
    let mut table = PatternTable::new();
    let texts = ["a*", "a/{id}", "a/{user}/x", "{+all}", "*", "a/b", "a/b*", "a/{id}.json", "%41{x}"];
    let keys: Vec<PatternKey> =
        texts.iter().map(|text| table.insert(pattern(text), *text).unwrap()).collect();
    table.check();
    assert_eq!(found(&table, "a/b"), ["*", "a*", "a/b", "a/b*", "a/{id}", "{+all}"]);
    assert_eq!(found(&table, "a/b/x"), ["*", "a*", "a/b*", "a/{user}/x", "{+all}"]);
    assert_eq!(found(&table, "a/b.json"), ["*", "a*", "a/b*", "a/{id}", "a/{id}.json", "{+all}"]);
    assert_eq!(found(&table, "%41"), ["%41{x}", "*", "{+all}"]);
    assert_eq!(found(&table, "%4"), ["*"]);
    assert_eq!(table.find(&pattern("a/{another}/x")), Some(keys[2]));
    assert_eq!(table.find(&pattern("a/{+user}/x")), None);
    assert_eq!(table.find(&pattern("a")), None);
    *table.get_mut(keys[0]).unwrap() = "changed";
    assert_eq!((table.get(keys[0]), table.len()), (Some(&"changed"), 9));
    for (at, key) in keys.iter().enumerate().rev() {
        table.remove(*key);
        table.check();
        assert_eq!(table.find(&pattern(texts[at])), None);
    }
    assert_eq!((table.len(), table.bytes(), table.states()), (0, 0, 0));
    assert_eq!(table.matching("a", |_| panic!("nothing is there")), Work::default());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab/.]{1,3}[*]?",
        1 => Just("*".to_owned()),
        8 => "([ab/. %ä]{0,2}|%41)[{][+]?x[}]([ab/.]{0,2}|%41)([{][+]?y[}][ab/.]{0,2})?([{][+]?z[}])?",
    ]
}

proptest! {
    #[test]
    fn a_table_is_what_a_list_of_patterns_is(
        changes in prop::collection::vec((text(), any::<bool>()), 1..40),
        topics in prop::collection::vec("([ab/. %ä]|%41){1,9}", 1..8),
    ) {
        let mut table = PatternTable::new();
        let mut list: BTreeMap<Pattern, PatternKey> = BTreeMap::new();
        for (text, removes) in changes {
            if removes && !list.is_empty() {
                let at = text.len() * 7 % list.len();
                let (removed, key) = list.iter().nth(at).map(|(text, key)| (text.clone(), *key)).unwrap();
                list.remove(&removed);
                prop_assert_eq!(table.remove(key), removed);
            } else if let Ok(pattern) = Pattern::parse(&text) {
                let pattern = pattern.normalized();
                prop_assert_eq!(table.find(&pattern), list.get(&pattern).copied());
                list.entry(pattern)
                    .or_insert_with_key(|pattern| table.insert(pattern.clone(), pattern.clone()).unwrap());
            }
            table.check();
            prop_assert_eq!(table.len(), list.len());
            for topic in &topics {
                let expected: Vec<String> = list
                    .keys().filter(|pattern| pattern.matches(topic)).map(Pattern::to_string).collect();
                prop_assert_eq!(found(&table, topic), expected, "{}", topic);
            }
        }
    }
}

/// The mean and the most steps of these topics, and the most states.
fn work_of(table: &PatternTable<()>, topics: impl Iterator<Item = String>) -> (usize, Work) {
    let (mut steps, mut count, mut most) = (0, 0, Work::default());
    for topic in topics {
        let work = table.matching(&topic, |_| {});
        (steps, count) = (steps + work.steps, count + 1);
        most = Work { steps: most.steps.max(work.steps), states: most.states.max(work.states) };
    }
    (steps / count, most)
}

/// A name, and the patterns by number.
type Family = (&'static str, fn(usize) -> String);

/// A step is a byte of the topic at one state, so the cost of a walk depends on the topic: not on how many
/// other topics there are, because the table does not know them, and not on how many patterns do not match.
#[test]
fn ten_thousand_patterns_cost_a_million_topics_no_more_steps_than_a_few_do() {
    // `fanfare-patterns` of the benchmarks looks up a million topics for each family.
    let topics =
        || (0..1_000_000).step_by(47).map(|number| format!("/tenant-{}/items/{number}", number % 1_000));
    let families: [Family; 5] = [
        ("prefixes", |number| format!("/tenant-{number}/orders/*")),
        ("templates with one beginning", |number| format!("/{{tenant}}/items/N{number}")),
        ("templates with one beginning, and a variable behind", |number| {
            format!("/{{tenant}}/items-{number}/{{id}}")
        }),
        ("templates with different beginnings", |number| format!("/tenant-{number}/{{kind}}/old")),
        ("reserved variables with one beginning", |number| format!("/{{+path}}/items/N{number}")),
    ];
    for (name, family) in families {
        let few = work_of(&table_of((0..10).map(family)), topics().step_by(10));
        let table = table_of((0..10_000).map(family));
        let (mean, most) = work_of(&table, topics());
        println!(
            "{name}: {mean} steps in the mean, {} at most, {} states at most of {}; {} bytes a pattern",
            most.steps,
            most.states,
            table.states(),
            table.bytes() / 10_000,
        );
        assert!(most.steps <= 2 * 27 && most.states <= 3, "{name}: {most:?}");
        assert!(most.steps <= few.1.steps + 4, "{name}: a few patterns take {few:?}");
        assert!(table.bytes() < 10_000 * 700, "{name}: {} bytes", table.bytes());
    }
}

/// Templates that are made to explode: every beginning of the topic leads to several states, and these to
/// more. Without the bound the third family has 2^12 states in a topic of 24 bytes, and the first has
/// thousands.
#[test]
fn no_table_of_templates_costs_more_than_its_bound() {
    let a = |count: usize| "a".repeat(count);
    let families: [(&str, Vec<String>); 8] = [
        (
            "a letter, twice",
            (0..10_000).map(|n| format!("{{+x}}{}{{+y}}{}b", a(1 + n / 100), a(1 + n % 100))).collect(),
        ),
        (
            "a letter, three times",
            (0..10_000)
                .map(|n| format!("{{x}}{}{{y}}{}{{z}}{}b", a(1 + n / 400), a(1 + n / 20 % 20), a(1 + n % 20)))
                .collect(),
        ),
        (
            "a variable or its value in each part",
            (0..4_096_u32)
                .map(|n| {
                    let part = |at: u32| match n >> at & 1 {
                        0 => "/a".to_owned(),
                        _ => format!("/{{v{at}}}"),
                    };
                    (0..12).map(part).collect()
                })
                .collect(),
        ),
        ("long ends", (0..10_000).map(|n| format!("{{+x}}{}{n}", a(25))).collect()),
        ("delimiters", (0..10_000).map(|n| format!("{{+x}}{}{n}", "/".repeat(25))).collect()),
        ("many variables", (0..15).map(|n| (0..=n).map(|at| format!("{{+v{at}}}a")).collect()).collect()),
        ("variables behind different texts", (0..10_000).map(|n| format!("{{name}}-{n}-{{rest}}")).collect()),
        ("dots", (0..10_000).map(|n| format!("{{a}}.{{b}}.{{c{n}}}.{n}")).collect()),
    ];
    let topics = [
        a(MAX_TOPIC_BYTES),
        "/a".repeat(128),
        "/".repeat(MAX_TOPIC_BYTES),
        "a-1-2-3-4-5".repeat(23),
        "a.".repeat(128),
        a(100) + "b",
    ];
    for (name, texts) in families {
        let (mut table, mut list, mut refused) = (PatternTable::new(), Vec::new(), 0);
        for text in texts {
            let pattern = pattern(&text);
            if table.find(&pattern).is_some() {
                continue;
            }
            match table.insert(pattern.clone(), ()) {
                Ok(_) => list.push(pattern),
                Err(TooMuchWork) => refused += 1,
            }
        }
        table.check();
        assert_eq!(table.len(), list.len());
        let mut most = Work::default();
        for topic in &topics {
            let work = table.matching(topic, |_| {});
            most = Work { steps: most.steps.max(work.steps), states: most.states.max(work.states) };
            // A list of thousands takes long, so some of it is enough.
            let part = list.len().div_ceil(200);
            let expected: Vec<_> =
                list.iter().step_by(part).filter(|pattern| pattern.matches(topic)).collect();
            let found = found(&table, topic);
            assert!(expected.iter().all(|pattern| found.iter().any(|text| text == pattern.as_str())));
            assert!(part > 1 || found.len() == expected.len(), "{name}, {topic}: {found:?}");
        }
        println!("{name}: {} taken, {refused} refused, {most:?} of {}", list.len(), table.states());
        assert!(!list.is_empty());
        assert!(most.states <= table.states() && table.states() <= MAX_STATES, "{name}: {most:?}");
        assert!(most.steps <= MAX_STATES * MAX_TOPIC_BYTES, "{name}: {most:?}");
    }
}

/// A pattern that is refused leaves nothing behind, and one that is removed makes room.
#[test]
fn a_refused_pattern_changes_nothing_and_a_removed_one_makes_room() {
    let mut table = PatternTable::new();
    let text = |number: usize| format!("/x/{{a}}-{number}-{{b}}");
    let keys: Vec<PatternKey> =
        (0..1_000).map_while(|number| table.insert(pattern(&text(number)), ()).ok()).collect();
    assert!((MAX_STATES - 8..MAX_STATES).contains(&keys.len()), "{} of them", keys.len());
    let (bytes, states) = (table.bytes(), table.states());
    assert_eq!(table.insert(pattern(&text(keys.len())), ()), Err(TooMuchWork));
    table.check();
    assert_eq!((table.bytes(), table.states(), table.len()), (bytes, states, keys.len()));
    // What does not begin with the part that is full has room.
    table.insert(pattern("/orders/{id}"), ()).unwrap();
    table.insert(pattern("/orders/*"), ()).unwrap();
    table.remove(keys[7]);
    table.insert(pattern(&text(keys.len())), ()).unwrap();
    table.check();
}

#[test]
fn a_pattern_knows_how_many_states_it_needs() {
    for (text, states) in [
        ("a", 1),
        ("a*", 1),
        ("/orders/{id}", 2),
        ("/{a}/{b}/{c}", 2),
        ("{+path}", 2),
        ("{+path}/new", 2),
        ("{+path}/as-long-as-one-likes/{id}", 8),
        ("{+path}new", 4),
        ("{name}.{type}", 3),
        ("{name}{+rest}", 2),
    ] {
        assert_eq!(pattern(text).states(), states, "{text}");
    }
    let explosive: String = (0..20).map(|n| format!("{{+v{n}}}aa")).collect();
    assert!(pattern(&explosive).states() > MAX_STATES);
    assert_eq!(PatternTable::new().insert(pattern(&explosive), ()), Err(TooMuchWork));
}
