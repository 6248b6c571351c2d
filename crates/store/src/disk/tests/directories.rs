//! Directories that can be used, and those that cannot.

use super::*;

#[test]
fn a_directory_is_open_once() {
    let directory = Temporary::new("lock");
    let first = open(directory.path()).unwrap();
    let second = open(directory.path()).err().unwrap();
    assert!(matches!(&second, Error::InUse { .. }), "{second}");
    assert!(matches!(verify(directory.path()), Err(Error::InUse { .. })));
    drop(first);
    open(directory.path()).unwrap();
}

#[test]
fn what_is_not_a_store_is_refused_and_stays_as_it_is() {
    let directory = Temporary::new("refused");
    let path = directory.path();
    let file = path.join("file");
    fs::write(&file, "text").unwrap();
    let error = |path: &Path| open(path).err().unwrap();
    assert!(matches!(error(&file), Error::NotADirectory { .. }));
    assert!(matches!(error(&file.join("below")), Error::NotADirectory { .. }));
    let other = error(path);
    assert!(matches!(&other, Error::NotAStore { found, .. } if found == "file"), "{other}");
    assert!(matches!(verify(path), Err(Error::NoStore { .. })));
    let nothing = path.join("nothing");
    assert!(matches!(verify(&nothing), Err(Error::NoStore { .. })) && !nothing.exists());
    let names = |path: &Path| -> Vec<String> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(path), ["file"]);

    // A database without the marker may be any other program's.
    let database = path.join("database");
    fs::create_dir(&database).unwrap();
    fs::write(database.join("log.redb"), "text").unwrap();
    assert!(matches!(error(&database), Error::NotAStore { .. }));

    let store = path.join("store");
    drop(open(&store).unwrap());
    fs::write(store.join("fanfare-store"), "fanfare-store 3\n").unwrap();
    let newer = error(&store);
    assert!(matches!(newer, Error::Newer { found: 3, supported: 2, .. }), "{newer}");
    fs::write(store.join("fanfare-store"), "fanfare-store 1\n").unwrap();
    let older = error(&store);
    assert!(matches!(older, Error::Older { found: 1, supported: 2, .. }), "{older}");
    assert!(older.to_string().contains("fanfare log export"), "{older}");
    fs::write(store.join("fanfare-store"), "something else\n").unwrap();
    assert!(matches!(error(&store), Error::NotAStore { .. }));
    fs::write(store.join("fanfare-store"), "fanfare-store 2\n").unwrap();
    drop(open(&store).unwrap());
    fs::write(store.join("log.redb"), "this is not a database, but long enough to be one ".repeat(100))
        .unwrap();
    let damaged = error(&store);
    assert!(matches!(&damaged, Error::Corrupt { place, .. } if place.contains("beginning")), "{damaged}");
}

#[test]
fn a_link_leads_to_the_same_store_and_one_without_an_end_is_refused() {
    let directory = Temporary::new("links");
    let (path, link) = (directory.path().join("store"), directory.path().join("link"));
    let store = open(&path).unwrap();
    append(&store, &records(1..=3));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(open(&link), Err(Error::InUse { .. })));
    drop(store);
    assert_eq!(numbers(&open(&link).unwrap()), [1, 2, 3]);
    let dangling = directory.path().join("dangling");
    std::os::unix::fs::symlink(directory.path().join("nowhere"), &dangling).unwrap();
    let refused = open(&dangling).err().unwrap().to_string();
    assert!(refused.contains("dangling"), "{refused}");
}

/// A file system that is mounted read-only, which is taken away at the end.
struct ReadOnlyMount(PathBuf);

impl ReadOnlyMount {
    fn new(path: PathBuf) -> Option<ReadOnlyMount> {
        fs::create_dir(&path).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "ro,size=1M", "none"]).arg(&path).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success()).then_some(ReadOnlyMount(path))
    }
}

impl Drop for ReadOnlyMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_that_is_mounted_read_only_is_refused_with_what_to_do() {
    let directory = Temporary::new("read-only");
    let Some(mount) = ReadOnlyMount::new(directory.path().join("mount")) else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    for path in [mount.0.clone(), mount.0.join("below")] {
        let refused = open(&path).err().unwrap();
        assert!(matches!(refused, Error::ReadOnly { .. }), "{refused}");
        assert!(refused.to_string().contains("mount it for writing"), "{refused}");
    }
}

/// The rights of a directory are for users other than root.
#[test]
fn a_directory_of_another_owner_is_refused_with_what_to_do() {
    let directory = Temporary::new("denied");
    let path = directory.path().join("store");
    drop(open(&path).unwrap());
    let rights = std::os::unix::fs::PermissionsExt::from_mode;
    fs::set_permissions(&path, rights(0o500)).unwrap();
    fs::set_permissions(path.join("lock"), rights(0o400)).unwrap();
    let opened = open(&path);
    fs::set_permissions(&path, rights(0o700)).unwrap();
    if std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).unwrap()) == 0 {
        println!("skipped: the rights of files do not hold for root");
        return;
    }
    let refused = opened.err().unwrap();
    assert!(matches!(refused, Error::Denied { .. }), "{refused}");
    assert!(refused.to_string().contains("give its user both rights"), "{refused}");
}

#[test]
fn a_start_that_was_cut_off_is_made_again() {
    let directory = Temporary::new("begun");
    for files in [&["lock"][..], &["lock", "fanfare-store.new"], &["lock", "log.redb.new"]] {
        let path = directory.path().join(files.len().to_string() + files[files.len() - 1]);
        fs::create_dir(&path).unwrap();
        for file in files {
            fs::write(path.join(file), "half").unwrap();
        }
        let store = open(&path).unwrap();
        assert!(store.opening().is_new);
        append(&store, &records(1..3));
    }
}

#[test]
fn system_errors_become_errors_with_advice() {
    let path = Path::new("/store");
    let error = |errno| Error::from_io("open", path, std::io::Error::from_raw_os_error(errno));
    for (errno, advice) in [
        (13, "give its user both rights"),
        (20, "is not a directory"),
        (28, "free some space"),
        (122, "free some space"),
        (30, "mount it for writing"),
        (5, "check the disk"),
    ] {
        let text = error(errno).to_string();
        assert!(text.contains(advice) && text.contains("/store"), "{text}");
    }
}

/// A server whose directory was removed acknowledged events that were gone after a restart.
#[test]
fn a_directory_that_was_removed_takes_no_records() {
    let directory = Temporary::new("removed");
    let (path, other) = (directory.path().join("log"), directory.path().join("other"));
    let store = open(&path).unwrap();
    append(&store, &records(1..3));
    fs::rename(&path, &other).unwrap();
    let removed = store.append(&records(3..4), Durability::Commit).unwrap_err();
    assert!(removed.to_string().contains("it was removed or replaced"), "{removed}");
    assert!(!removed.is_passing());
    drop(open(&path).unwrap());
    assert!(store.append(&records(3..4), Durability::Commit).is_err(), "another one stands in its place");
    drop(store);
    assert_eq!(numbers(&open(&other).unwrap()), [1, 2]);
}

/// The start waited for a writer for ever.
#[test]
fn a_pipe_in_place_of_a_file_holds_up_no_start() {
    for name in ["lock", "fanfare-store"] {
        let directory = Temporary::new(&format!("pipe-{name}"));
        let made = Command::new("mkfifo").arg(directory.path().join(name)).status().unwrap();
        assert!(made.success());
        assert!(open(directory.path()).is_err());
    }
}
