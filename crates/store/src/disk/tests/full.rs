//! Disks that are full or fail.

use super::*;

#[test]
fn a_full_disk_refuses_appends_until_there_is_room() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    // More than the cache has room for.
    let mut large = records(1..=2000);
    for record in &mut large {
        record.event = record.event.clone().with_data("x".repeat(2000));
    }
    for group in large.chunks(100) {
        append(&store, group);
    }
    let mut next = 2001;
    for round in 0..3 {
        disk.set_capacity(Some(disk.bytes() + 20_000));
        let full = loop {
            let group = records(next..next + 100);
            match store.append(&group, Durability::Commit) {
                Ok(()) => next += 100,
                Err(error) => break error,
            }
            assert!(next < 100_000, "the disk is never full");
        };
        assert!(matches!(full, Error::Full { .. }) && full.is_passing(), "{full}");
        assert_eq!(store.state().newest, next - 1);
        assert_eq!(numbers(&store), (1..next).collect::<Vec<_>>(), "round {round}");
        disk.set_capacity(None);
        append(&store, &records(next..next + 20));
        next += 20;
    }
    assert_eq!(numbers(&store), (1..next).collect::<Vec<_>>());
    drop(store);
    assert_eq!(verify_files(&disk).unwrap().records, next - 1);
}

/// The store asks before it writes, so that the database need not be opened again.
#[test]
fn an_append_is_refused_before_the_disk_is_full_and_a_trim_is_not() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=100));
    disk.set_free_bytes(crate::disk::FREE_BYTES);
    for durability in [Durability::Commit, Durability::Async] {
        let full = store.append(&records(101..=110), durability).unwrap_err();
        assert!(matches!(&full, Error::Full { path } if path == Path::new("memory")), "{full}");
    }
    store.set_limits(ageless().with_retention(Retention::default().with_events(1)));
    while store.trim(0, 100).unwrap().more {}
    assert_eq!(store.state().records, 7);
    disk.set_free_bytes(2 * crate::disk::FREE_BYTES);
    append(&store, &records(101..=110));
    assert_eq!(store.state().records, 17);
}

/// There is not even the room to open the database again: the next append does it.
#[test]
fn a_disk_without_any_room_is_tried_again() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=100));
    store.append(&records(101..=110), Durability::Async).unwrap();
    for _ in 0..3 {
        disk.fail_every_write(Some(ENOSPC));
        let full = store.append(&records(111..=120), Durability::Commit).unwrap_err();
        assert!(matches!(&full, Error::Full { .. }), "{full}");
        let full = store.trim(0, 10).unwrap_err();
        assert!(matches!(full, Error::Full { .. }), "{full}");
    }
    disk.fail_every_write(None);
    assert_eq!((store.state().newest, store.state().synced), (110, 100));
    append(&store, &records(111..=120));
    assert_eq!(numbers(&store), (1..=120).collect::<Vec<_>>());
    drop(store);
    let store = disk.open(ageless()).unwrap();
    assert_eq!((numbers(&store).len(), &store.opening().cut), (120, &None));
}

/// The database writes also behind its commit. Whichever write finds no room, readers see the group if the
/// append has succeeded, and never after it was refused.
#[test]
fn an_append_that_finds_no_room_is_there_as_it_was_answered() {
    let mut stored_all_the_same = 0;
    for (cache, goes_on) in [(0, false), (0, true), (1 << 20, false), (1 << 20, true)] {
        for writes in 0.. {
            let disk = Disk::default();
            let store = disk.open_with_cache(ageless(), cache).unwrap();
            for first in (1..400).step_by(20) {
                append(&store, &records(first..first + 20));
            }
            store.trim(0, 100).unwrap();
            append(&store, &records(401..=420));
            match goes_on {
                true => disk.fail_writes_after(writes, ENOSPC),
                false => disk.fail_write(writes, ENOSPC),
            }
            let group = records(421..=440);
            let result = store.append(&group, Durability::Commit);
            let has_failed = disk.has_failed();
            disk.fail_every_write(None);
            let expected = match &result {
                Ok(()) => 440,
                Err(error) => {
                    assert!(error.is_passing(), "{writes} writes, {cache}, {goes_on}: {error}");
                    420
                }
            };
            stored_all_the_same += u64::from(result.is_ok() && has_failed);
            // The next call opens the database again where that has not been possible.
            store.trim(0, 1).unwrap();
            assert!(numbers(&store).into_iter().eq(1..=expected), "{writes} writes, {cache}: {result:?}");
            assert_eq!(store.state().records, expected);
            append(&store, &records(expected + 1..=expected + 10));
            drop(store);
            let store = disk.open(ageless()).unwrap();
            assert!(numbers(&store).into_iter().eq(1..=expected + 10), "{writes} writes, {cache}");
            drop(store);
            verify_files(&disk).unwrap();
            if !has_failed {
                break;
            }
        }
    }
    assert!(stored_all_the_same > 0, "no write has failed behind a commit");
}

#[test]
fn after_a_failed_write_or_sync_nothing_is_taken_until_a_new_start() {
    for fails_sync in [false, true] {
        for after in 0..3 {
            let disk = Disk::default();
            let store = disk.open(ageless()).unwrap();
            append(&store, &records(1..=50));
            match fails_sync {
                false => disk.fail_write(after, EIO),
                true => disk.fail_sync(0, if after == 0 { EIO } else { ENOSPC }),
            }
            let failed = store.append(&records(51..=60), Durability::Commit).unwrap_err();
            assert!(matches!(failed, Error::Broken { .. }), "{failed}");
            let again = [
                store.append(&records(51..=60), Durability::Async),
                store.sync(),
                store.trim(0, 10).map(|_| ()),
            ];
            assert!(again.iter().all(|result| matches!(result, Err(Error::Broken { .. }))));
            assert_eq!((store.state().newest, store.state().records), (50, 50));
            drop(store);
            let store = disk.open(ageless()).unwrap();
            let there = numbers(&store);
            assert!(there == (1..=50).collect::<Vec<_>>() || there == (1..=60).collect::<Vec<_>>());
            let next = store.state().newest + 1;
            append(&store, &records(next..next + 1));
        }
    }
}
