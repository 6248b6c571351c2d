//! The file that keeps revocations over a restart.
//!
//! It is written whole, beside the old one, and then takes its place, so that a crash leaves the old one or
//! the new one. Because the file is replaced, the lock that keeps a second server away is on a file beside
//! it, which stays.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use fanfare_access::{DEFAULT_MAX_REVOCATIONS, MAX_NAME_BYTES, Revocation, Revocations, Revoked};
use serde::{Deserialize, Serialize};

/// The longest file: every entry has the longest name, each byte of which is an escape of six.
const MAX_FILE_BYTES: u64 = (MOST * (MAX_NAME_BYTES * 6 + 100) + 100) as u64;

/// Entries of both kinds.
const MOST: usize = 2 * DEFAULT_MAX_REVOCATIONS;

/// The first bytes of the file.
const VERSION: u32 = 1;

/// The memory of a list of revocations, at most; with a file also of what is being written, which one write
/// at a time is.
pub(crate) fn memory_bound(has_file: bool) -> usize {
    // A copy of the list, and its text, which has grown by doubling.
    let written =
        DEFAULT_MAX_REVOCATIONS * 2 * (MAX_NAME_BYTES + size_of::<Entry>()) + 2 * MAX_FILE_BYTES as usize;
    Revocations::memory_bound(DEFAULT_MAX_REVOCATIONS) + if has_file { written } else { 0 }
}

/// The file of a server.
#[derive(Debug)]
pub(crate) struct RevocationsFile {
    path: PathBuf,
    /// The number of the last revocation that is in the file.
    written: Mutex<u64>,
    /// Locked for this server (flock(2)). The kernel gives the lock back when the process ends.
    _lock: File,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    revocations: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Box<str>>,
    revoked: u64,
    until: u64,
}

impl RevocationsFile {
    /// Locks the file, reads it into a list, and checks that it can be written. A file that is not there is
    /// an empty list.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub(crate) fn open(path: &Path, list: &Revocations, now_unix_s: u64) -> Result<RevocationsFile, String> {
        // Before anything is read: another server could write the file afterwards.
        let lock = lock(path)?;
        for Revocation { revoked, revoked_unix_s, until_unix_s } in read(path)? {
            if until_unix_s > now_unix_s {
                let full = |full| format!("{}: {full}", path.display());
                list.revoke(revoked, revoked_unix_s, until_unix_s).map_err(full)?;
            }
        }
        let file = RevocationsFile { path: path.to_owned(), written: Mutex::new(0), _lock: lock };
        let mut written = file.written.lock().unwrap_or_else(PoisonError::into_inner);
        *written = file.write(list)?;
        drop(written);
        Ok(file)
    }

    /// Writes the list, unless a write that began later than its last revocation has done it. It blocks.
    ///
    /// # Errors
    /// The file stays as it was.
    pub(crate) fn save(&self, list: &Revocations) -> Result<(), String> {
        let wanted = list.number();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written < wanted {
            *written = self.write(list)?;
        }
        Ok(())
    }

    fn write(&self, list: &Revocations) -> Result<u64, String> {
        let (number, entries) = list.list();
        let entries = entries.into_iter().map(|Revocation { revoked, revoked_unix_s, until_unix_s }| {
            let (subject, token) = match revoked {
                Revoked::Subject(name) => (Some(name), None),
                Revoked::TokenId(id) => (None, Some(id)),
            };
            Entry { subject, token, revoked: revoked_unix_s, until: until_unix_s }
        });
        let document = Document { version: VERSION, revocations: entries.collect() };
        let text = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
        self.replace(&text).map_err(|error| format!("cannot write {}: {error}", self.path.display()))?;
        Ok(number)
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let fresh = beside(&self.path, ".new");
        // Subjects are names of persons.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// Locks the file of a server until the result is dropped.
///
/// # Errors
/// Another server has the lock, or the system gives none.
fn lock(path: &Path) -> Result<File, String> {
    let lock_path = beside(path, ".lock");
    let cannot = |error: io::Error| format!("cannot lock {}: {error}", lock_path.display());
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    let file = file.map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(format!(
            "another server uses {}, and two would overwrite each other's revocations; name a file of its own \
             for each server",
            path.display()
        )),
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

/// The name of a file beside another one.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// The revocations of a file, the oldest first.
///
/// # Errors
/// What is wrong, and what to do.
pub(crate) fn read(path: &Path) -> Result<Vec<Revocation>, String> {
    let shown = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot read {shown}: {error}")),
    };
    let metadata = file.metadata().map_err(|error| format!("cannot read {shown}: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{shown} is no regular file"));
    }
    let garbage = |what: &str| {
        format!(
            "{shown} is no file of revocations of this server: {what}; restore it, or remove it, which lets in again \
             what was revoked"
        )
    };
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(garbage("it is too long"));
    }
    let document: Document = serde_json::from_slice(&text).map_err(|error| garbage(&error.to_string()))?;
    if document.version != VERSION {
        return Err(garbage("its version is another one"));
    }
    let read_entry = |entry: Entry| {
        let revoked = match (entry.subject, entry.token) {
            (Some(name), None) => Revoked::Subject(name),
            (None, Some(id)) => Revoked::TokenId(id),
            _ => return Err(garbage("an entry has either a subject or a token")),
        };
        let (Revoked::Subject(name) | Revoked::TokenId(name)) = &revoked;
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(garbage("a name in it is empty or too long"));
        }
        Ok(Revocation { revoked, revoked_unix_s: entry.revoked, until_unix_s: entry.until })
    };
    if document.revocations.len() > MOST {
        return Err(garbage("it has too many entries"));
    }
    document.revocations.into_iter().map(read_entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TestPath(PathBuf);

    impl TestPath {
        fn new(name: &str) -> TestPath {
            TestPath(std::env::temp_dir().join(format!("fanfare-revocations-{}-{name}", std::process::id())))
        }
    }

    impl Drop for TestPath {
        fn drop(&mut self) {
            for path in [&self.0, &beside(&self.0, ".lock")] {
                let _ = fs::remove_file(path);
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back_without_what_is_over() {
        let path = TestPath::new("back");
        let list = Revocations::default();
        let file = RevocationsFile::open(&path.0, &list, 0).unwrap();
        assert!(read(&path.0).unwrap().is_empty(), "the file is there from the start");
        list.revoke(Revoked::Subject("ada \"l\"".into()), 10, 100).expect("there is room");
        list.revoke(Revoked::TokenId("t1".into()), 11, 200).expect("there is room");
        file.save(&list).unwrap();
        drop(file);
        let again = Revocations::default();
        RevocationsFile::open(&path.0, &again, 50).unwrap();
        assert_eq!(again.list().1, list.list().1);
        let later = Revocations::default();
        RevocationsFile::open(&path.0, &later, 150).unwrap();
        assert_eq!(later.len(), 1);
        assert_eq!(read(&path.0).unwrap().len(), 1, "what is over is not written again");
    }

    /// Two servers with one file overwrote each other's revocations.
    #[test]
    fn a_file_has_one_server() {
        let path = TestPath::new("lock");
        let open = || RevocationsFile::open(&path.0, &Revocations::default(), 0);
        let first = open().unwrap();
        let refused = open().map(drop).unwrap_err();
        assert!(
            refused.contains("another server") && refused.contains(&*path.0.to_string_lossy()),
            "{refused}"
        );
        // It is kept while the file is replaced.
        first.write(&Revocations::default()).unwrap();
        assert!(open().is_err());
        drop(first);
        open().unwrap();
    }

    #[test]
    fn the_largest_list_fits_and_what_is_no_file_of_revocations_is_refused() {
        let path = TestPath::new("largest");
        let list = Revocations::default();
        for number in 0..DEFAULT_MAX_REVOCATIONS {
            let name = format!("{number:0>6}{}", "\u{1}".repeat(MAX_NAME_BYTES - 6));
            list.revoke(Revoked::Subject(name.into()), 1, u64::MAX).expect("there is room");
        }
        RevocationsFile::open(&path.0, &list, 0).unwrap();
        assert_eq!(read(&path.0).unwrap().len(), DEFAULT_MAX_REVOCATIONS);
        for garbage in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"version":2,"revocations":[]}"#,
            r#"{"version":1,"revocations":[{}]}"#,
            r#"{"version":1,"revocations":[{"subject":"a","token":"b","revoked":1,"until":2}]}"#,
            r#"{"version":1,"revocations":[{"subject":"","revoked":1,"until":2}]}"#,
            r#"{"version":1,"revocations":[{"subject":"a","revoked":1,"until":2,"x":1}]}"#,
            r#"{"version":1,"revocations":[]} x"#,
        ] {
            fs::write(&path.0, garbage).unwrap();
            let error = read(&path.0).unwrap_err();
            assert!(error.contains("remove it"), "{garbage}: {error}");
        }
        fs::write(&path.0, vec![b' '; MAX_FILE_BYTES as usize + 1]).unwrap();
        assert!(read(&path.0).unwrap_err().contains("too long"));
        assert!(read(Path::new("/dev/zero")).unwrap_err().contains("no regular file"));
    }
}
