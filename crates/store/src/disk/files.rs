//! The directory of a store and the files in it.
//!
//! ```text
//! fanfare-store   one line: what the directory is, and the version of its format
//! lock            locked by the process that has the store open
//! log.redb        the database: records and indexes
//! newest          which record was acknowledged last; written with each commit and never waited for
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use siphasher::sip::SipHasher13;

use super::rows::{FORMAT, seal, unseal};
use crate::Error;

const MARKER: &str = "fanfare-store";
/// The marker before it is complete.
const NEW_MARKER: &str = "fanfare-store.new";
const LOCK: &str = "lock";
const DATABASE: &str = "log.redb";
/// The database before it is complete.
const NEW_DATABASE: &str = "log.redb.new";
const NEWEST: &str = "newest";

/// The files that a store works with: real ones, or a test's.
pub(super) trait Files: Send + Sync {
    /// Opens the database's file. The one that was opened before is closed. As long as the database is not
    /// complete, each call begins an empty file.
    fn database(&self) -> Result<Box<dyn StorageBackend>, Error>;

    /// The database has its tables. A power cut before that leaves a file that is no database.
    fn complete(&self) -> Result<(), Error>;

    /// Opens the file of the newest acknowledged record.
    fn newest(&self) -> Result<Box<dyn StorageBackend>, Error>;

    /// Whether the directory still has the database's file that is open. Where somebody has removed the
    /// directory or mounted another one over it, what is written is lost with the process.
    fn is_in_place(&self) -> bool {
        true
    }

    /// Bytes that the disk has room for.
    fn free_bytes(&self) -> Option<u64>;

    /// A number for the time since the machine was started: if it is the same, everything that was written is
    /// there, synced or not. Zero: this is not known.
    fn boot(&self) -> u64;

    /// The directory, for messages.
    fn path(&self) -> &Path;
}

/// A directory that is locked.
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
    /// The device and the number of the database's file that is open.
    opened: Mutex<Option<(u64, u64)>>,
}

impl Directory {
    /// Opens or makes the directory, and locks it.
    pub(super) fn open(path: &Path) -> Result<Directory, Error> {
        let failed = |action| move |source| Error::from_io(action, path, source);
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(Error::NotADirectory { path: path.to_owned() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(failed("make the directory"))?;
                sync_directory(path.parent()).map_err(failed("make the directory"))?;
            }
            Err(error) => return Err(Error::from_io("look at", path, error)),
        }
        let is_new = check_content(path)?;
        let lock = lock(path)?;
        if is_new {
            write_marker(path).map_err(failed("begin a store in"))?;
        }
        Ok(Directory { path: path.to_owned(), _lock: lock, opened: Mutex::default() })
    }

    /// Opens a directory that is a store already, and makes none.
    pub(super) fn existing(path: &Path) -> Result<Directory, Error> {
        for file in [MARKER, DATABASE] {
            match fs::metadata(path.join(file)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::NoStore { path: path.to_owned() });
                }
                Err(error) => return Err(Error::from_io("look at", &path.join(file), error)),
            }
        }
        Directory::open(path)
    }

    pub(super) fn has_newest(&self) -> bool {
        self.path.join(NEWEST).exists()
    }

    fn open_file(&self, name: &str) -> Result<Box<dyn StorageBackend>, Error> {
        let path = self.path.join(name);
        let failed = |source| Error::from_io("open", &path, source);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed)?;
        sync_directory(Some(&self.path)).map_err(failed)?;
        if name != NEWEST {
            let opened = file.metadata().map_err(failed)?;
            *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some((opened.dev(), opened.ino()));
        }
        let backend = FileBackend::new(file).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Box::new(backend))
    }
}

impl Files for Directory {
    fn database(&self) -> Result<Box<dyn StorageBackend>, Error> {
        if self.path.join(DATABASE).exists() {
            return self.open_file(DATABASE);
        }
        let new = self.path.join(NEW_DATABASE);
        File::create(&new).map_err(|source| Error::from_io("make", &new, source))?;
        self.open_file(NEW_DATABASE)
    }

    fn complete(&self) -> Result<(), Error> {
        let (new, path) = (self.path.join(NEW_DATABASE), self.path.join(DATABASE));
        if path.exists() {
            return Ok(());
        }
        let failed = |source| Error::from_io("name", &path, source);
        fs::rename(new, &path).map_err(failed)?;
        sync_directory(Some(&self.path)).map_err(failed)
    }

    fn newest(&self) -> Result<Box<dyn StorageBackend>, Error> {
        self.open_file(NEWEST)
    }

    fn is_in_place(&self) -> bool {
        let opened = *self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |name| fs::metadata(self.path.join(name)).map(|found| (found.dev(), found.ino())).ok();
        // Another name, as long as the database is not complete.
        opened.is_none() || opened == found(DATABASE) || opened == found(NEW_DATABASE)
    }

    fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.path).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn boot(&self) -> u64 {
        let boot = fs::read("/proc/sys/kernel/random/boot_id");
        boot.map_or(0, |id| SipHasher13::new().hash(&id))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether the store is to be made. Refuses what is not a store, or a newer one.
fn check_content(path: &Path) -> Result<bool, Error> {
    let failed = |source| Error::from_io("read", path, source);
    let mut others = None;
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let own = [MARKER, NEW_MARKER, LOCK, DATABASE, NEW_DATABASE, NEWEST];
        if !own.iter().any(|own| name == *own) && name != "lost+found" {
            others = Some(name.to_string_lossy().into_owned());
        }
    }
    let not_a_store = |found: String| Error::NotAStore { path: path.to_owned(), found };
    let marker = match open_at_once(OpenOptions::new().read(true)).open(path.join(MARKER)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match others {
                Some(found) => Err(not_a_store(found)),
                // The marker is written before the database is.
                None if path.join(DATABASE).exists() => Err(not_a_store(DATABASE.to_owned())),
                None => Ok(true),
            };
        }
        Err(error) => return Err(Error::from_io("open", &path.join(MARKER), error)),
    };
    let mut text = String::new();
    let read = marker.take(64).read_to_string(&mut text);
    let version = text.trim_end().strip_prefix("fanfare-store ").and_then(|version| version.parse().ok());
    match (read, version) {
        (Ok(_), Some(found)) if found > FORMAT => {
            Err(Error::Newer { path: path.to_owned(), found, supported: FORMAT })
        }
        (Ok(_), Some(found)) if found < FORMAT => {
            Err(Error::Older { path: path.to_owned(), found, supported: FORMAT })
        }
        (Ok(_), Some(FORMAT)) => Ok(false),
        _ => Err(not_a_store(MARKER.to_owned())),
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let file = path.join(LOCK);
    let failed = |source| Error::from_io("lock", &file, source);
    let mut options = OpenOptions::new();
    let lock = open_at_once(options.write(true).create(true).truncate(false)).open(&file).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// A pipe of this name does not hold up the start for ever.
fn open_at_once(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
}

/// The marker is there as a whole or not at all.
fn write_marker(path: &Path) -> io::Result<()> {
    let mut file = File::create(path.join(NEW_MARKER))?;
    writeln!(file, "{MARKER} {FORMAT}")?;
    file.sync_all()?;
    fs::rename(path.join(NEW_MARKER), path.join(MARKER))?;
    sync_directory(Some(path))
}

fn sync_directory(path: Option<&Path>) -> io::Result<()> {
    match path {
        Some(path) if !path.as_os_str().is_empty() => File::open(path)?.sync_all(),
        _ => Ok(()),
    }
}

/// What a write of the database failed with.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: io::ErrorKind,
    pub(super) text: String,
    /// A sync failed: nobody knows what of the earlier writes is on the disk.
    pub(super) is_sync: bool,
}

/// A file of the database that notes the first failure, because the database itself says only that there was
/// one.
#[derive(Debug)]
pub(super) struct Watched {
    inside: Box<dyn StorageBackend>,
    failure: Arc<Mutex<Option<Failure>>>,
}

impl Watched {
    pub(super) fn new(inside: Box<dyn StorageBackend>, failure: Arc<Mutex<Option<Failure>>>) -> Watched {
        Watched { inside, failure }
    }

    fn note<T>(&self, is_sync: bool, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert(Failure { kind: error.kind(), text: error.to_string(), is_sync });
        }
        result
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.note(false, self.inside.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note(false, self.inside.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(false, self.inside.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note(true, self.inside.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(false, self.inside.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inside.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inside.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inside.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inside.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inside.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inside.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inside.query_lock_range(start, end)
    }
}

/// What was given to the caller, beside the database: so that the next start can say what is missing. Which
/// numbers are free does not depend on it: they are above [`StateRow::reserved`](super::rows::StateRow).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Newest {
    /// The newest record that was acknowledged as durable, and how many there ever were, with their bytes.
    pub(super) acknowledged: [u64; 3],
    /// The same of all records, with those that were not durable yet.
    pub(super) appended: [u64; 3],
    /// [`Files::boot`].
    pub(super) boot: u64,
}

const SLOT_BYTES: usize = 64;
const SLOT_KEY: &[u8] = b"newest";

impl Newest {
    /// The newer one of two slots. A slot that is damaged does not count: the file is a help and not the
    /// truth.
    pub(super) fn read(file: &dyn StorageBackend) -> Newest {
        let slots = (0..2).filter_map(|slot| {
            let mut bytes = [0; SLOT_BYTES];
            file.read((slot * SLOT_BYTES) as u64, &mut bytes).ok()?;
            let body = unseal(SLOT_KEY, &bytes[..60]).ok()?;
            let values: Vec<u64> = body
                .chunks_exact(8)
                .map(|value| value.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
                .collect();
            let [first, second] = [0, 3].map(|at| [values[at], values[at + 1], values[at + 2]]);
            Some(Newest { acknowledged: first, appended: second, boot: values[6] })
        });
        slots.max_by_key(|slot| (slot.appended[0], slot.acknowledged[0])).unwrap_or_default()
    }

    /// Writes one of the two slots.
    pub(super) fn write(&self, file: &dyn StorageBackend, slot: usize) -> io::Result<()> {
        let mut body = Vec::with_capacity(SLOT_BYTES);
        for value in self.acknowledged.iter().chain(&self.appended).chain([&self.boot]) {
            body.extend_from_slice(&value.to_le_bytes());
        }
        let mut bytes = seal(SLOT_KEY, &body);
        bytes.resize(SLOT_BYTES, 0);
        file.write((slot % 2 * SLOT_BYTES) as u64, &bytes)
    }
}
