//! What a power cut or the end of the process may cost.

use super::*;

#[test]
fn asynchronous_records_that_are_lost_are_told_and_their_numbers_are_not_given_again() {
    let disk = Disk::default();
    disk.set_boot(1);
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=10));
    store.append(&records(11..=15), Durability::Async).unwrap();
    let disk = killed(&disk, store);
    // After a new start of the machine, more may be missing than is known.
    let restarted = disk.copy();
    restarted.set_boot(2);
    let cut = restarted.open(ageless()).unwrap().opening().cut.clone().unwrap();
    assert!(*cut.numbers.start() == 11 && *cut.numbers.end() > 1000, "{cut}");
    let store = disk.open(ageless()).unwrap();
    let opening = store.opening();
    assert!(opening.was_repaired && !opening.is_new);
    let cut = opening.cut.clone().unwrap();
    let bytes: usize =
        records(11..=15).iter().map(|record| crate::encoding::event_bytes(&record.event)).sum();
    assert_eq!((cut.numbers.clone(), cut.lost, cut.was_durable), (11..=15, Some((5, bytes as u64)), false));
    assert!(store.state().newest > *cut.numbers.end());
    assert_eq!(numbers(&store), (1..=10).collect::<Vec<_>>());
    // A subscriber that has seen number 12 is told of a gap.
    for query in [Query::All, Query::Topics(&[Topic::new("never seen").unwrap()])] {
        assert_eq!(store.read(query, 12, Bounds::default()).unwrap().gone.newest, 15);
    }
    assert!(matches!(store.append(&records(15..=15), Durability::Commit), Err(Error::Order { .. })));
    let next = store.state().newest + 1;
    append(&store, &records(next..next + 1));
    // A store of which nothing is lost says so, although numbers were reserved.
    append(&store, &[]);
    store.append(&records(next + 1..next + 2), Durability::Async).unwrap();
    store.sync().unwrap();
    let next = next + 1;
    let disk = killed(&disk, store);
    let store = disk.open(ageless()).unwrap();
    assert_eq!((store.opening().was_repaired, &store.opening().cut), (true, &None));
    assert!(store.state().newest > next);
}

/// The file beside the database was lost, or could not be written: the numbers of asynchronous records that
/// were seen are free all the same never.
#[test]
fn numbers_that_were_seen_are_not_given_again_whatever_the_file_of_the_newest_says() {
    for commits in [false, true] {
        let disk = Disk::default();
        disk.set_boot(1);
        let store = disk.open(ageless()).unwrap();
        append(&store, &records(1..=10));
        store.append(&records(11..=12), Durability::Async).unwrap();
        let mut before = Vec::new();
        disk.copy().damage_newest(|bytes| before = bytes.clone());
        store.append(&records(13..=15), Durability::Async).unwrap();
        if commits {
            store.sync().unwrap();
            store.append(&records(16..=20), Durability::Async).unwrap();
        }
        let seen = store.state().newest;
        // The device came off, and what was not synced is gone, and the machine goes on.
        let disk = killed(&disk, store);
        disk.damage_newest(|bytes| *bytes = before);
        let store = disk.open(ageless()).unwrap();
        assert!(store.state().newest >= seen, "{}", store.state().newest);
        let cut = store.opening().cut.clone().unwrap();
        // It is older than the database: what it says of the end is of no use.
        assert_eq!(cut.lost.is_none() && *cut.numbers.end() >= seen, commits, "{cut}");
    }
}

#[test]
fn asynchronous_records_are_refused_where_their_number_cannot_be_noted() {
    let disk = Disk::default();
    disk.set_boot(1);
    let store = disk.open(ageless()).unwrap();
    store.append(&records(1..=5), Durability::Async).unwrap();
    for (errno, is_passing) in [(30, false), (EIO, false), (ENOSPC, true)] {
        disk.fail_newest(Some(errno));
        let refused = store.append(&records(6..=9), Durability::Async).unwrap_err();
        assert_eq!(refused.is_passing(), is_passing, "{refused}");
        assert_eq!((store.state().newest, store.state().records), (5, 5));
        assert_eq!(numbers(&store), (1..=5).collect::<Vec<_>>());
    }
    disk.fail_newest(None);
    store.append(&records(6..=9), Durability::Async).unwrap();
    // A commit is in the database, so it does not need the file.
    disk.fail_newest(Some(EIO));
    append(&store, &records(10..=12));
    let disk = killed(&disk, store);
    let store = disk.open(ageless()).unwrap();
    assert_eq!((store.opening().cut.clone(), numbers(&store)), (None, (1..=12).collect()));
}

/// Numbers that an earlier asynchronous run has reserved are no lost records of a later run that commits.
#[test]
fn a_power_cut_loses_nothing_where_every_record_was_committed() {
    let disk = Disk::default();
    disk.set_boot(1);
    let store = disk.open(ageless()).unwrap();
    store.append(&records(1..=5), Durability::Async).unwrap();
    append(&store, &records(6..=10));
    let without_power = |disk: &Disk, store| {
        let disk = killed(disk, store);
        disk.set_boot(2);
        disk
    };
    let store = without_power(&disk, store).open(ageless()).unwrap();
    assert_eq!((&store.opening().cut, store.state().newest), (&None, 10));
    // The process has ended while there was a reserve.
    store.append(&records(11..=15), Durability::Async).unwrap();
    store.sync().unwrap();
    let disk = killed(&disk, store);
    let store = disk.open(ageless()).unwrap();
    let next = store.state().newest + 1;
    append(&store, &records(next..=next));
    let store = without_power(&disk, store).open(ageless()).unwrap();
    assert_eq!((&store.opening().cut, store.state().newest), (&None, next));
}

#[test]
fn committed_records_that_the_disk_has_lost_are_told() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=10));
    let old = disk.copy();
    append(&store, &records(11..=15));
    drop(store);
    // The database is an old one, and the file beside it is not.
    let mut newest = Vec::new();
    disk.damage_newest(|bytes| newest = bytes.clone());
    old.damage_newest(|bytes| *bytes = newest);
    assert!(matches!(verify_files(&old), Err(Error::Corrupt { .. })));
    let store = old.open(ageless()).unwrap();
    let cut = store.opening().cut.clone().unwrap();
    assert_eq!((cut.numbers.clone(), cut.lost.unwrap().0, cut.was_durable), (11..=15, 5, true));
    assert!(cut.to_string().contains("5 records") && cut.to_string().contains("check it"), "{cut}");
    assert_eq!((store.state().newest, store.state().records), (15, 10));
    drop(store);
    // It is told once.
    assert_eq!(old.open(ageless()).unwrap().opening().cut, None);
    verify_files(&old).unwrap();
}

const CHILD: &str = "FANFARE_STORE_CHILD";

/// The other process of the next test: it appends, and says which number it has been acknowledged.
#[test]
#[ignore = "the next test runs this one as a process of its own, and kills it"]
fn appends_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = open(Path::new(&path)).unwrap();
    let mut next = store.state().newest + 1;
    loop {
        let group = records(next..next + 1 + next % 50);
        next += group.len() as u64;
        store
            .append(&group, if next.is_multiple_of(3) { Durability::Async } else { Durability::Commit })
            .unwrap();
        if next % 1000 < 50 {
            store.trim(0, 100).unwrap();
        }
        println!("acknowledged {}", store.state().synced);
    }
}

#[test]
fn a_process_that_is_killed_loses_nothing_that_was_acknowledged() {
    let directory = Temporary::new("killed");
    let path = directory.path().join("store");
    let mut acknowledged = 0;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["disk::tests::lost::appends_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        for (count, line) in BufReader::new(output).lines().enumerate() {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = number.parse().unwrap();
            }
            // What it has said since then is read, too: it was acknowledged.
            if count == 100 + round * 50 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = open(&path).unwrap();
        assert!(store.opening().was_repaired && !store.opening().is_new);
        let read = read_all(&store, Query::All).unwrap();
        assert!(read.iter().any(|record| record.number == acknowledged), "{acknowledged} is lost");
        assert!(read.iter().all(|found| *found == record(found.number)));
        assert!(read.is_sorted_by_key(|record| record.number));
        if let Some(cut) = &store.opening().cut {
            assert!(!cut.was_durable && *cut.numbers.start() > acknowledged, "{cut}");
            // The machine goes on, so it is known how many there were, but for an end between a commit and
            // the note of it.
            if let Some((records, _)) = cut.lost {
                assert_eq!(records, cut.numbers.end() - cut.numbers.start() + 1, "{cut}");
            }
        }
        drop(store);
        verify(&path).unwrap();
    }
    let store = open(&path).unwrap();
    let read = read_all(&store, Query::All).unwrap();
    assert!(read.len() > 1000);
}
