//! The comparison of all subscribers' logs with what was published, and with each other.

use std::collections::HashMap;
use std::time::Duration;

use crate::cluster::records::{Fate, Record, own_id};
use crate::ledger::split_id;

/// An entry of a subscriber's log.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A stream began. `resumed`: the request had a last event id.
    Began { at: Duration, resumed: bool },
    /// The stream ended, for any reason.
    Ended,
    /// A gap event.
    Gap { at: Duration },
    /// An event.
    Event { key: usize, mask: u32, id: String, at: Duration },
    /// Something that no server may send.
    Damage(String),
}

/// One subscriber's log of a round.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) mask: u32,
    pub(super) entries: Vec<Entry>,
    /// The subscriber began this round with the id of this event, which another subscriber of the same topics
    /// had got.
    pub(super) resumed_after: Option<usize>,
}

/// What a round has shown.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) published: u64,
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    /// Correct deliveries.
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) disordered: u64,
    pub(super) damaged: u64,
    /// Gaps that subscribers were told of.
    pub(super) gaps: u64,
    /// Subscribers that were told of no gap.
    pub(super) without_gap: u64,
    /// Acknowledged events that a gap includes.
    pub(super) missed_in_gap: u64,
    /// Streams that ended.
    pub(super) ends: u64,
    /// Subscribers that lack what was published last.
    pub(super) absent: u64,
    /// Descriptions of the first violations.
    pub(super) examples: Vec<String>,
}

impl Findings {
    const EXAMPLES: usize = 8;

    pub(super) fn is_good(&self) -> bool {
        self.lost + self.doubled + self.disordered + self.damaged + self.absent == 0
    }

    pub(super) fn example(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < Findings::EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// The order of all events of a round: one in which every subscriber has got its events.
struct Order {
    ranks: HashMap<usize, usize>,
    /// Events that are in a circle: subscribers have got them in different orders.
    circular: Vec<usize>,
}

impl Order {
    fn of(logs: &[Log]) -> Order {
        let mut after: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut before: HashMap<usize, usize> = HashMap::new();
        for log in logs {
            let mut last = None;
            for key in first_sights(log) {
                before.entry(key).or_insert(0);
                if let Some(last) = last.replace(key) {
                    after.entry(last).or_default().push(key);
                    *before.entry(key).or_insert(0) += 1;
                }
            }
        }
        let mut ready: Vec<usize> =
            before.iter().filter(|(_, count)| **count == 0).map(|(&key, _)| key).collect();
        let mut ranks = HashMap::new();
        while let Some(key) = ready.pop() {
            ranks.insert(key, ranks.len());
            for next in after.remove(&key).unwrap_or_default() {
                let left = before.entry(next).or_insert(1);
                *left -= 1;
                if *left == 0 {
                    ready.push(next);
                }
            }
        }
        let mut circular: Vec<usize> = before.into_keys().filter(|key| !ranks.contains_key(key)).collect();
        circular.sort_unstable();
        Order { ranks, circular }
    }

    fn rank(&self, key: usize) -> Option<usize> {
        self.ranks.get(&key).copied()
    }
}

/// The events of a log, each at the place where it came first.
fn first_sights(log: &Log) -> impl Iterator<Item = usize> {
    let mut seen = std::collections::HashSet::new();
    log.entries.iter().filter_map(move |entry| match entry {
        Entry::Event { key, .. } if seen.insert(*key) => Some(*key),
        _ => None,
    })
}

/// Compares the logs of a round with the records, of which those from `base` on belong to the round, and with
/// each other. Records that came are marked.
pub(super) fn check(records: &mut [Record], base: usize, logs: &[Log]) -> Findings {
    let mut found = Findings::default();
    for record in &records[base..] {
        found.published += 1;
        match record.fate {
            Fate::Open => found.unknown += 1,
            Fate::Refused => found.refused += 1,
            Fate::Acknowledged(_) => found.acknowledged += 1,
        }
    }
    let order = Order::of(logs);
    found.disordered += order.circular.len() as u64;
    if !order.circular.is_empty() {
        found.example(|| {
            let first = &order.circular[..order.circular.len().min(8)];
            format!("subscribers have got these events in different orders: {first:?}")
        });
    }
    let mut came = vec![false; records.len()];
    let mut ids = HashMap::new();
    for log in logs {
        check_events(records, base, log, &order, &mut came, &mut ids, &mut found);
    }
    for log in logs {
        check_missing(records, base, log, &order, &came, &mut found);
    }
    for (record, came) in records.iter_mut().zip(came) {
        record.came |= came;
    }
    found
}

/// Checks each event that came.
fn check_events(
    records: &[Record],
    base: usize,
    log: &Log,
    order: &Order,
    came: &mut [bool],
    ids: &mut HashMap<usize, String>,
    found: &mut Findings,
) {
    let mut seen = std::collections::HashSet::new();
    let mut last: Option<(&str, u64)> = None;
    let start = log.resumed_after.and_then(|key| order.rank(key));
    let mut gaps = 0;
    for entry in &log.entries {
        match entry {
            Entry::Began { .. } => {}
            Entry::Ended => found.ends += 1,
            Entry::Gap { .. } => gaps += 1,
            Entry::Damage(text) => {
                found.damaged += 1;
                found.example(|| text.clone());
            }
            Entry::Event { key, mask, id, .. } => {
                let Some(record) = records.get(*key) else {
                    found.damaged += 1;
                    found.example(|| format!("event {key} came and was never published"));
                    continue;
                };
                came[*key] = true;
                let is_old = *key < base && (record.came || record.fate != Fate::Open);
                let is_before_start =
                    start.is_some_and(|start| order.rank(*key).is_none_or(|own| own <= start));
                if !seen.insert(*key) || is_old || is_before_start {
                    found.doubled += 1;
                    found.example(|| {
                        format!("event {key} ({id}) came again, or from an earlier time: {record:?}")
                    });
                    continue;
                }
                let wrong = wrong_id(record, *key, id).or_else(|| {
                    let first = ids.entry(*key).or_insert_with(|| id.clone());
                    (first != id).then(|| format!("other subscribers have got it with the id {first}"))
                });
                let wrong = wrong.or_else(|| {
                    (record.mask != *mask || log.mask & mask == 0).then(|| {
                        format!("its topics are {:x}, and the subscriber's {:x}", record.mask, log.mask)
                    })
                });
                let wrong =
                    wrong.or_else(|| (record.fate == Fate::Refused).then(|| "it was refused".to_owned()));
                if let Some(wrong) = wrong {
                    found.damaged += 1;
                    found.example(|| {
                        format!("event {key} came with the id {id} and topics {mask:x}: {wrong}")
                    });
                    continue;
                }
                if let Some((epoch, number)) = split_id(id) {
                    if last.is_some_and(|(before, reached)| before == epoch && reached >= number) {
                        found.disordered += 1;
                        found.example(|| format!("event {key} has the id {id} and came behind {last:?}"));
                    }
                    last = Some((epoch, number));
                }
                found.delivered += 1;
            }
        }
    }
    found.gaps += gaps;
    found.without_gap += u64::from(gaps == 0);
}

/// What is wrong with the id of an event.
fn wrong_id(record: &Record, key: usize, id: &str) -> Option<String> {
    if record.has_own_id {
        return (id != own_id(key)).then(|| "its own id is another one".to_owned());
    }
    let Some((epoch, number)) = split_id(id) else {
        return Some("the id is none of the server's".to_owned());
    };
    let Fate::Acknowledged(Some((of, from, to))) = &record.fate else { return None };
    (of != epoch || number < *from || number > *to)
        .then(|| format!("it was acknowledged as {of}-{from} to {to}"))
}

/// Checks that nothing is missing.
fn check_missing(
    records: &[Record],
    base: usize,
    log: &Log,
    order: &Order,
    came: &[bool],
    found: &mut Findings,
) {
    let seen: std::collections::HashSet<usize> = first_sights(log).collect();
    let (mut fresh_since, mut gaps) = (None, Vec::new());
    let mut last_rank = None;
    for entry in &log.entries {
        match entry {
            Entry::Began { at, resumed: false } => fresh_since = Some(*at),
            // The gap, the rank of the event before it, and that of the one behind it.
            Entry::Gap { at } => gaps.push((*at, last_rank, None)),
            Entry::Event { key, .. } => {
                last_rank = order.rank(*key);
                let open = gaps.iter_mut().filter(|(.., behind)| behind.is_none());
                open.for_each(|(.., behind)| *behind = last_rank);
            }
            _ => {}
        }
    }
    let start = log.resumed_after.and_then(|key| order.rank(key));
    for (key, record) in records.iter().enumerate() {
        let is_due = match record.fate {
            Fate::Acknowledged(_) => key >= base,
            // Another subscriber has got it.
            Fate::Open => came[key],
            Fate::Refused => false,
        };
        let rank = order.rank(key);
        let was_there = fresh_since.is_none_or(|since| record.begun >= since)
            && start.is_none_or(|start| rank.is_none_or(|own| own > start));
        if !is_due || !was_there || record.mask & log.mask == 0 || seen.contains(&key) {
            continue;
        }
        let in_gap = gaps.iter().any(|&(at, before, behind)| match rank {
            Some(rank) => {
                before.is_none_or(|before| before < rank) && behind.is_none_or(|behind| rank < behind)
            }
            None => record.begun < at,
        });
        if in_gap {
            found.missed_in_gap += 1;
        } else {
            found.lost += 1;
            found.example(|| {
                let others = if came[key] { "others have got it" } else { "no subscriber has got it" };
                format!("event {key} never came, {others}: {record:?}, topics {:x}", log.mask)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn record(fate: Fate) -> Record {
        Record { mask: 1, has_own_id: false, begun: SECOND, fate, came: false }
    }

    /// Acknowledged events with the numbers from 1 on.
    fn acknowledged(count: u64) -> Vec<Record> {
        (1..=count).map(|seq| record(Fate::Acknowledged(Some(("e".to_owned(), seq, seq))))).collect()
    }

    fn event(key: usize) -> Entry {
        Entry::Event { key, mask: 1, id: format!("e-{}", key + 1), at: 2 * SECOND }
    }

    fn log(entries: impl IntoIterator<Item = Entry>) -> Log {
        Log { mask: 1, entries: entries.into_iter().collect(), resumed_after: None }
    }

    /// Delivered, lost, doubled, disordered, damaged.
    fn summary(records: &mut [Record], logs: &[Log]) -> [u64; 5] {
        let found = check(records, 0, logs);
        [found.delivered, found.lost, found.doubled, found.disordered, found.damaged]
    }

    #[test]
    fn every_kind_of_violation_is_seen() {
        let all = || (0..4).map(event);
        assert_eq!(summary(&mut acknowledged(4), &[log(all()), log(all())]), [8, 0, 0, 0, 0]);
        assert_eq!(summary(&mut acknowledged(4), &[log(all()), log(all().skip(1))]), [7, 1, 0, 0, 0]);
        assert_eq!(summary(&mut acknowledged(4), &[log(all().chain([event(1)]))]), [4, 0, 1, 0, 0]);
        assert_eq!(summary(&mut acknowledged(4), &[log([1, 0, 2, 3].map(event))]), [4, 0, 0, 1, 0]);
        let renumbered = Entry::Event { key: 3, mask: 1, id: "e-5".to_owned(), at: SECOND };
        assert_eq!(summary(&mut acknowledged(4), &[log(all().take(3).chain([renumbered]))]), [3, 0, 0, 0, 1]);
        let foreign = Entry::Event { key: 3, mask: 2, id: "e-4".to_owned(), at: SECOND };
        assert_eq!(summary(&mut acknowledged(4), &[log(all().take(3).chain([foreign]))]), [3, 0, 0, 0, 1]);
        assert_eq!(summary(&mut acknowledged(3), &[log(all())]), [3, 0, 0, 0, 1]);
        let damage = Entry::Damage("cut".to_owned());
        assert_eq!(summary(&mut acknowledged(4), &[log(all().chain([damage]))]), [4, 0, 0, 0, 1]);
    }

    #[test]
    fn own_ids_have_one_order_on_all_nodes() {
        let mut records: Vec<Record> =
            (0..3).map(|_| Record { has_own_id: true, ..record(Fate::Acknowledged(None)) }).collect();
        let event = |key| Entry::Event { key, mask: 1, id: own_id(key), at: SECOND };
        let (one, other) = (log([0, 1, 2].map(event)), log([0, 2, 1].map(event)));
        assert_eq!(summary(&mut records.clone(), &[one.clone(), one.clone()]), [6, 0, 0, 0, 0]);
        assert_eq!(summary(&mut records.clone(), &[one.clone(), other]), [6, 0, 0, 2, 0]);
        let renamed = Entry::Event { key: 2, mask: 1, id: own_id(7), at: SECOND };
        assert_eq!(summary(&mut records, &[one, log([event(0), event(1), renamed])]), [5, 0, 0, 0, 1]);
    }

    #[test]
    fn two_nodes_that_give_one_event_two_ids_are_found() {
        let mut records = vec![record(Fate::Open)];
        let came = |id: &str| log([Entry::Event { key: 0, mask: 1, id: id.to_owned(), at: SECOND }]);
        assert_eq!(summary(&mut records.clone(), &[came("e-1"), came("e-1")]), [2, 0, 0, 0, 0]);
        assert_eq!(summary(&mut records, &[came("e-1"), came("e-2")]), [1, 0, 0, 0, 1]);
    }

    #[test]
    fn unknown_events_come_to_all_or_none_and_refused_ones_to_none() {
        let records = vec![record(Fate::Open), record(Fate::Refused)];
        assert_eq!(summary(&mut records.clone(), &[log([]), log([])]), [0, 0, 0, 0, 0]);
        assert_eq!(summary(&mut records.clone(), &[log([event(0)]), log([])]), [1, 1, 0, 0, 0]);
        assert_eq!(summary(&mut records.clone(), &[log([event(1)])]), [0, 0, 0, 0, 1]);
        // An unknown event may come in a later round, and an event of an earlier round may not.
        let mut later = [records, acknowledged(1)].concat();
        later[1] = record(Fate::Acknowledged(None));
        let found = check(&mut later, 2, &[log([event(0), event(1)])]);
        assert_eq!((found.delivered, found.doubled, found.lost), (1, 1, 1));
        assert!(later[0].came);
    }

    #[test]
    fn a_gap_excuses_what_lies_in_it_and_nothing_else() {
        let gap = || Entry::Gap { at: 3 * SECOND };
        let whole = || log((0..5).map(event));
        let excused = |entries: Vec<Entry>| {
            let found = check(&mut acknowledged(5), 0, &[whole(), log(entries)]);
            (found.missed_in_gap, found.lost, found.gaps, found.without_gap)
        };
        assert_eq!(excused(vec![event(0), gap(), event(3), event(4)]), (2, 0, 1, 1));
        assert_eq!(excused(vec![event(0), gap(), event(2), event(4)]), (1, 1, 1, 1));
        assert_eq!(excused(vec![gap()]), (5, 0, 1, 1));
        // No subscriber has got them: what was sent before the gap may be in it.
        let found = check(&mut acknowledged(2), 0, &[log([gap()])]);
        assert_eq!((found.missed_in_gap, found.lost), (2, 0));
        let found = check(&mut acknowledged(2), 0, &[log([Entry::Gap { at: SECOND / 2 }])]);
        assert_eq!((found.missed_in_gap, found.lost), (0, 2));
    }

    #[test]
    fn a_subscriber_gets_what_was_sent_after_it_began_or_behind_its_id() {
        let began = |at| Entry::Began { at, resumed: false };
        assert_eq!(summary(&mut acknowledged(1), &[log([began(2 * SECOND)])]), [0, 0, 0, 0, 0]);
        assert_eq!(summary(&mut acknowledged(1), &[log([began(SECOND)])]), [0, 1, 0, 0, 0]);
        let resumed =
            |entries: &[usize]| Log { resumed_after: Some(1), ..log(entries.iter().map(|&key| event(key))) };
        let whole = log((0..4).map(event));
        assert_eq!(summary(&mut acknowledged(4), &[whole.clone(), resumed(&[2, 3])]), [6, 0, 0, 0, 0]);
        assert_eq!(summary(&mut acknowledged(4), &[whole.clone(), resumed(&[3])]), [5, 1, 0, 0, 0]);
        assert_eq!(summary(&mut acknowledged(4), &[whole, resumed(&[1, 2, 3])]), [6, 0, 1, 0, 0]);
    }
}
