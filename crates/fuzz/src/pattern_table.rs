//! The table of patterns beside a list: after each change it gives the patterns that match a topic one by
//! one, its memory and its bounds add up, and no walk takes more than the bound.

use std::collections::BTreeMap;

use fanfare_proto::pattern::{MAX_STATES, Pattern, PatternKey, PatternTable};

/// What the lists of a table may keep of a pattern that it has refused, in bytes.
const ROOM: usize = 1 << 10;

/// The first line is a topic. Each other line is a pattern to add, or, behind a `-`, one to remove.
pub(crate) fn check(input: &[u8]) {
    let input = String::from_utf8_lossy(input);
    let mut lines = input.split('\n');
    let topic: String = lines.next().unwrap_or_default().chars().take(64).collect();
    let mut table = PatternTable::new();
    let mut list: BTreeMap<String, (Pattern, PatternKey)> = BTreeMap::new();
    for line in lines {
        let (text, removes) = line.strip_prefix('-').map_or((line, false), |text| (text, true));
        let Ok(pattern) = Pattern::parse(text) else { continue };
        let form = form(text);
        assert_eq!(table.find(&pattern), list.get(&form).map(|(_, key)| *key), "{text:?}");
        match list.remove(&form) {
            Some((_, key)) if removes => assert_eq!(table.remove(key), form),
            Some(entry) => drop(list.insert(form, entry)),
            None if removes => {}
            None => add(&mut table, &mut list, pattern, form),
        }
        table.check();
        assert_eq!(table.len(), list.len());
        matches(&table, &list, &topic);
    }
}

fn add(
    table: &mut PatternTable<String>,
    list: &mut BTreeMap<String, (Pattern, PatternKey)>,
    pattern: Pattern,
    form: String,
) {
    let (bytes, states) = (table.bytes(), table.states());
    match table.insert(pattern.clone(), form.clone()) {
        Ok(key) => drop(list.insert(form, (pattern, key))),
        Err(_) => {
            assert_eq!(table.states(), states, "a refused pattern changes nothing");
            // Lists that grew for it may keep a little room.
            assert!(table.bytes() <= bytes + ROOM, "{} bytes after {bytes}", table.bytes());
            // It has room in a table for itself, unless it is refused everywhere.
            let alone = PatternTable::new().insert(pattern.clone(), ());
            assert_eq!(alone.is_ok(), pattern.states() <= MAX_STATES, "{pattern}");
        }
    }
}

fn matches(table: &PatternTable<String>, list: &BTreeMap<String, (Pattern, PatternKey)>, topic: &str) {
    let mut found = Vec::new();
    let work = table.matching(topic, |key| found.push(table.get(key).unwrap().clone()));
    found.sort();
    let matching = list.iter().filter(|(_, (pattern, _))| pattern.matches(topic));
    assert_eq!(found, matching.map(|(form, _)| form.clone()).collect::<Vec<String>>(), "{topic:?}");
    assert!(work.states <= table.states() && table.states() <= MAX_STATES, "{work:?}");
    assert!(work.steps <= topic.len() * table.states(), "{work:?}");
}

/// A pattern without the names of its variables: `{}` or `{+}`, of neighbours one of the wider kind.
fn form(text: &str) -> String {
    let (mut form, mut rest) = (String::new(), text);
    while let Some((before, expression)) = rest.split_once('{') {
        let (name, after) = expression.split_once('}').unwrap();
        let variable = if name.starts_with('+') { "{+}" } else { "{}" };
        form += before;
        let has_neighbour = before.is_empty() && form.ends_with('}');
        if !has_neighbour {
            form += variable;
        } else if variable == "{+}" && form.ends_with("{}") {
            form.truncate(form.len() - 2);
            form += variable;
        }
        rest = after;
    }
    form + rest
}
