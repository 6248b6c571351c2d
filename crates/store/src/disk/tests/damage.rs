//! Files that were damaged.

use super::*;

/// Where the bytes of a record's data are in the file.
fn place_of(disk: &Disk, number: u64) -> Vec<usize> {
    let wanted = format!("{number:0>100}");
    let mut places = Vec::new();
    disk.damage(|bytes| {
        let found = bytes.windows(wanted.len()).enumerate().filter(|(_, part)| *part == wanted.as_bytes());
        places.extend(found.map(|(at, _)| at));
    });
    places
}

#[test]
fn a_damaged_record_in_the_middle_is_an_error_that_names_the_place() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    for first in (1..1000).step_by(50) {
        append(&store, &records(first..first + 50));
    }
    drop(store);
    let places = place_of(&disk, 420);
    assert!(!places.is_empty());
    disk.damage(|bytes| places.iter().for_each(|at| bytes[*at] ^= 1));
    let store = disk.open(ageless()).unwrap();
    let error = read_all(&store, Query::All).unwrap_err();
    assert!(error.to_string().contains("record 401: the checksum"), "{error}");
    let error = read_all(&store, Query::Topics(&[Topic::new("t/0").unwrap()])).unwrap_err();
    assert!(error.to_string().contains("record 401"), "{error}");
    // What is not damaged is read.
    let page = store.read(Query::All, 450, Bounds::default()).unwrap();
    assert_eq!(page.records[0].number, 451);
    drop(store);
    let error = verify_files(&disk).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn a_damaged_end_is_cut_and_told() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=50));
    store.trim(0, 10).unwrap();
    for first in [51, 61, 71] {
        append(&store, &records(first..first + 10));
    }
    let (disk, _) = killed_and_damaged(&disk, store, 75);
    let store = disk.open(ageless()).unwrap();
    let cut = store.opening().cut.clone().unwrap();
    let bytes: usize =
        records(71..=80).iter().map(|record| crate::encoding::event_bytes(&record.event)).sum();
    assert_eq!((cut.numbers, cut.lost, cut.was_durable), (71..=80, Some((10, bytes as u64)), true));
    assert_eq!(numbers(&store), (1..=70).collect::<Vec<_>>());
    assert_eq!(store.read(Query::All, 75, Bounds::default()).unwrap().gone.newest, 80);
    append(&store, &records(81..=81));
    drop(store);
    verify_files(&disk).unwrap();
}

/// The process ends at once. The file is closed by another one, so that the damage of this record is not a
/// power cut's.
fn killed_and_damaged(disk: &Disk, store: DiskStore, number: u64) -> (Disk, Vec<usize>) {
    let disk = killed(disk, store);
    let file = crate::disk::files::Watched::new(Files::database(&disk).unwrap(), Arc::default());
    drop(redb::Database::builder().create_with_backend(file).unwrap());
    let places = place_of(&disk, number);
    assert!(!places.is_empty());
    disk.damage(|bytes| places.iter().for_each(|at| bytes[*at] ^= 0x20));
    (disk, places)
}

/// What `salvage` gives: the numbers of the records, and the places that are damaged.
fn salvaged(disk: &Disk) -> (Vec<u64>, Vec<String>) {
    let (mut numbers, mut damaged) = (Vec::new(), Vec::new());
    let ended = salvage_files::<Error>(disk, |found| {
        match found {
            Ok(found) => {
                assert_eq!(found, record(found.number));
                numbers.push(found.number);
            }
            Err(damage) => damaged.push(damage.to_string()),
        }
        Ok(())
    });
    ended.unwrap();
    (numbers, damaged)
}

#[test]
fn damage_before_whole_records_is_refused_and_what_is_whole_is_salvaged() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    append(&store, &records(1..=50));
    store.trim(0, 10).unwrap();
    for first in [51, 61, 71] {
        append(&store, &records(first..first + 10));
    }
    let (disk, places) = killed_and_damaged(&disk, store, 65);
    for _ in 0..2 {
        let refused = disk.open(ageless()).err().unwrap();
        let text = refused.to_string();
        assert!(matches!(refused, Error::Corrupt { .. }), "{text}");
        for part in ["begins with record 61", "from 71 to 80 behind it are whole", "fanfare log salvage"] {
            assert!(text.contains(part), "{text}");
        }
        let (numbers, damaged) = salvaged(&disk);
        assert_eq!(numbers, (1..=60).chain(71..=80).collect::<Vec<_>>());
        assert!(damaged.len() == 1 && damaged[0].contains("begins with record 61"), "{damaged:?}");
    }
    // Nothing was given up: with the right bytes everything is there.
    disk.damage(|bytes| places.iter().for_each(|at| bytes[*at] ^= 0x20));
    let store = disk.open(ageless()).unwrap();
    assert_eq!((&store.opening().cut, numbers(&store)), (&None, (1..=80).collect()));
}

/// A page of the tree is damaged, and not a group alone: what can be reached is there.
#[test]
fn salvage_gives_what_damaged_pages_have_left() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    for first in (1..1000).step_by(50) {
        append(&store, &records(first..first + 50));
    }
    drop(store);
    assert_eq!(salvaged(&disk), ((1..=1000).collect(), Vec::new()));
    let mut random = fastrand::Rng::with_seed(11);
    let mut with_rest = 0;
    for _ in 0..100 {
        let damaged = disk.copy();
        let pages = damaged.bytes() / 4096;
        // The first page says where everything is.
        let page = random.usize(1..pages);
        damaged.damage(|bytes| bytes[page * 4096..(page + 1) * 4096].fill(0xee));
        let result = salvage_files::<Error>(&damaged, |_| Ok(()));
        if result.is_err() {
            continue;
        }
        let (numbers, places) = salvaged(&damaged);
        assert!(numbers.is_sorted() && (numbers.len() == 1000 || !places.is_empty()), "page {page}");
        with_rest += u32::from(!places.is_empty() && !numbers.is_empty());
    }
    assert!(with_rest > 0);
}

/// A bit that is changed is found by the check, or changes nothing.
#[test]
fn changed_bits_are_found_wherever_they_are() {
    let disk = Disk::default();
    let store = disk.open(ageless()).unwrap();
    for first in (1..300).step_by(30) {
        append(&store, &records(first..first + 30));
    }
    store.trim(0, 10).unwrap();
    append(&store, &records(301..=310));
    drop(store);
    let whole = verify_files(&disk).unwrap();
    assert_eq!(whole.records, 310);
    let mut random = fastrand::Rng::with_seed(7);
    let bits = 8 * disk.bytes();
    let mut found = 0;
    // The database panics on some of them, and says so.
    for _ in 0..400 {
        let bit = random.usize(..bits);
        let damaged = disk.copy();
        damaged.damage(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        match verify_files(&damaged) {
            Err(Error::Corrupt { .. }) => found += 1,
            Err(other) => panic!("bit {bit}: {other}"),
            Ok(verified) => {
                assert_eq!(verified, whole, "bit {bit}");
                let store = damaged.open(ageless()).unwrap();
                let read = read_all(&store, Query::All).unwrap();
                assert!(read == records(1..=310), "bit {bit}");
            }
        }
    }
    assert!(found > 100, "{found} of 400 bits");
}
