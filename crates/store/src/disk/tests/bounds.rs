//! What is kept, and how large the file becomes.

use super::*;

#[test]
fn a_smaller_retention_goes_in_slices() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    for first in (1..2000).step_by(100) {
        append(&store, &records(first..first + 100));
    }
    drop(store);
    let few = Retention::default().with_age(Duration::MAX).with_events(5);
    let store = disk.open(ageless().with_retention(few)).unwrap();
    assert_eq!(store.state().records, 2000);
    let mut slices = 0;
    while store.trim(0, 50).unwrap().more {
        slices += 1;
    }
    assert!(slices > 50, "{slices}");
    let expected: Vec<u64> = (2000 - 34..=2000).collect();
    assert_eq!(numbers(&store), expected);
    store.set_limits(ageless().with_retention(few.with_events(0)));
    while store.trim(0, 50).unwrap().more {}
    assert_eq!((store.state().records, store.state().oldest, store.state().bytes), (0, 0, 0));
    drop(store);
    assert_eq!(verify_files(&disk).unwrap().records, 0);
}

/// The formula in the module's documentation.
#[test]
fn the_file_is_bounded() {
    const TOTAL: usize = 2 << 20;
    let disk = Disk::default();
    let store = disk.open(ageless().with_total_bytes(TOTAL)).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let (mut next, mut largest) = (1, 0);
    for round in 0..1500 {
        let mut group = records(next..next + random.u64(1..60));
        for record in &mut group {
            record.event = record.event.clone().with_data("x".repeat(random.usize(..400)));
        }
        next += group.len() as u64;
        append(&store, &group);
        // Appends make room themselves: the second half has no trims.
        if round < 750 && round % 10 == 0 {
            while store.trim(0, 1000).unwrap().more {}
            assert!(store.state().bytes <= TOTAL as u64);
        }
        largest = largest.max(disk.bytes());
    }
    let bound = 2 * (TOTAL / 8 * 9 + (16 << 20)) + 160 * 8;
    assert!(largest <= bound, "{largest} of {bound} bytes");
    assert!(largest <= 5 * TOTAL, "{largest} bytes");
    drop(store);
    verify_files(&disk).unwrap();
}

/// The pass over all topics took every step of a trim, an append made room for a few topics of each record,
/// and names were not charged: with events of 64 new topics the file grew without an end.
#[test]
fn the_file_is_bounded_with_events_of_many_new_topics() {
    const TOTAL: usize = 2 << 20;
    let disk = Disk::default();
    let store = disk.open(ageless().with_total_bytes(TOTAL)).unwrap();
    let (mut number, mut largest) = (0, 0);
    for round in 0..250 {
        let group: Vec<Record> = (0..8)
            .map(|_| {
                number += 1;
                let name = |topic: usize| Topic::new(format!("{number}/{topic}/{:0>200}", "")).unwrap();
                let mut event = Event::new(name(0)).with_data("x");
                for topic in 1..64 {
                    event = event.with_topic(name(topic)).unwrap();
                }
                Record { number, published_ms: number, event }
            })
            .collect();
        append(&store, &group);
        // As often as the engine has time for it beside appends.
        if round % 4 == 0 {
            store.trim(number, 1024).unwrap();
        }
        largest = largest.max(disk.bytes());
        let charged = store.writer().row.charged as usize;
        assert!(charged <= TOTAL / 8 * 9 + (1 << 20), "{charged} bytes are charged in round {round}");
    }
    // So much is noted of topics that are gone, and the names of all others are charged.
    let names = 125_000 * (160 + 210);
    let bound = 2 * (TOTAL / 8 * 9 + (16 << 20) + names);
    assert!(largest <= bound, "{largest} of {bound} bytes");
    drop(store);
    verify_files(&disk).unwrap();
}

/// Many topics that come and go: what is remembered of them is bounded, and no gap is hidden.
#[test]
fn topics_that_are_forgotten_hide_no_gap() {
    let disk = Disk::default();
    let few = Retention::default().with_age(Duration::MAX).with_events(0);
    let store = disk.open(ageless().with_retention(few)).unwrap();
    let mut number = 0;
    let topics = crate::disk::edit::EMPTY_TOPICS + 50;
    while number < topics {
        let group: Vec<Record> = (0..4000.min(topics - number))
            .map(|_| {
                number += 1;
                let event = Event::new(Topic::new(format!("once/{number}")).unwrap());
                Record { number, published_ms: 0, event }
            })
            .collect();
        store.append(&group, Durability::Commit).unwrap();
    }
    let mut rounds = 0;
    while store.trim(0, 10_000).unwrap().more || rounds < 1 {
        rounds += 1;
    }
    store.trim(0, usize::MAX).unwrap();
    assert_eq!(store.state().records, 0);
    let mut at_least = BTreeMap::new();
    for number in [1, 2, 1000, topics - 1, topics] {
        let topic = [Topic::new(format!("once/{number}")).unwrap()];
        let gone = store.read(Query::Topics(&topic), 0, Bounds::default()).unwrap().gone.newest;
        assert!(gone >= number, "{gone} of topic {number}");
        at_least.insert(number, gone);
    }
    let unknown = [Topic::new("never").unwrap()];
    let gone = store.read(Query::Topics(&unknown), 0, Bounds::default()).unwrap().gone.newest;
    assert!(gone > 0, "some were forgotten");
    drop(store);
    verify_files(&disk).unwrap();
}
