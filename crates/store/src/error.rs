//! What can go wrong, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a store did not do what was asked. The message says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The numbers of a group do not rise, or are not above the store's newest one: the caller is at fault.
    Order {
        /// The number at fault.
        number: u64,
        /// The number that it has to be above.
        newest: u64,
    },
    /// Another process, or another store of this process, has the directory open.
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The path exists and is not a directory.
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory has files in it that are not a store's.
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// A file that does not belong there.
        found: String,
    },
    /// There is no store in the directory, or no directory.
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// The store was written by a newer version.
    Newer {
        /// The directory.
        path: PathBuf,
        /// The version of its format.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// The store was written by a version whose format is not read any more.
    Older {
        /// The directory.
        path: PathBuf,
        /// The version of its format.
        found: u32,
        /// The only version that can be read.
        supported: u32,
    },
    /// The process may not read or write the files.
    Denied {
        /// The file or directory.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    ReadOnly {
        /// The file or directory.
        path: PathBuf,
    },
    /// The disk, or the quota, is full. Nothing was appended. A later append may succeed.
    Full {
        /// The directory; empty where there is none.
        path: PathBuf,
    },
    /// What is stored was changed by something else than the store, or the disk has lost a part of it.
    /// Nothing is changed any more: `disk::salvage` reads what is whole.
    Corrupt {
        /// Where.
        place: String,
        /// What is wrong there.
        what: String,
    },
    /// An earlier write failed in a way after which nobody knows what is on the disk. The store takes nothing
    /// more until it is opened again.
    Broken {
        /// What had failed.
        cause: String,
    },
    /// The log is on another machine, and cannot be reached at the moment. Nothing is lost.
    Unreachable {
        /// What was to be reached, and what came instead.
        what: String,
    },
    /// Any other failure of the storage.
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file or directory; empty where there is none.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// The error for a failed system call: full, read-only and denied have errors of their own.
    pub fn from_io(action: &'static str, path: &Path, source: io::Error) -> Error {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { path },
            io::ErrorKind::ReadOnlyFilesystem => Error::ReadOnly { path },
            io::ErrorKind::PermissionDenied => Error::Denied { path },
            io::ErrorKind::NotADirectory => Error::NotADirectory { path },
            _ => Error::Io { action, path, source },
        }
    }

    /// Whether the same call may succeed later without a new start: the disk is full now, or a log on another
    /// machine cannot be reached.
    pub fn is_passing(&self) -> bool {
        matches!(self, Error::Full { .. } | Error::Unreachable { .. })
    }

    /// The same, with this path where none is known.
    #[cfg(feature = "disk")]
    pub(crate) fn at(mut self, known: &Path) -> Error {
        if let Error::Full { path }
        | Error::ReadOnly { path }
        | Error::Denied { path }
        | Error::NotADirectory { path }
        | Error::Io { path, .. } = &mut self
            && path.as_os_str().is_empty()
        {
            *path = known.to_owned();
        }
        self
    }

    #[cfg(feature = "disk")]
    pub(crate) fn corrupt(place: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Corrupt { place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Order { number, newest } => write!(
                f,
                "the record has the number {number}, which is not above {newest}; append records in the order of their numbers"
            ),
            Error::InUse { path } => write!(
                f,
                "the store in {} is in use by another process; stop that process, or give this one a directory of its own",
                path.display()
            ),
            Error::NotADirectory { path } => write!(
                f,
                "{} is not a directory; name a directory, which is created if it does not exist",
                path.display()
            ),
            Error::NotAStore { path, found } => write!(
                f,
                "the directory {} is not a store, because it contains {found:?}; name an empty directory or one that does not exist",
                path.display()
            ),
            Error::NoStore { path } => write!(
                f,
                "there is no store in {}; check the path, and whether its disk is mounted",
                path.display()
            ),
            Error::Newer { path, found, supported } => write!(
                f,
                "the store in {} has the format {found}, and this version reads formats up to {supported}; use the version that wrote it, or a newer one",
                path.display()
            ),
            Error::Older { path, found, supported } => write!(
                f,
                "the store in {} has the format {found}, and this version reads format {supported}; export it with the version that wrote it (`fanfare log export`), and import it into a new directory",
                path.display()
            ),
            Error::Denied { path } => write!(
                f,
                "this process may not read and write {}; give its user both rights, on the directory and on the files in it",
                path.display()
            ),
            Error::ReadOnly { path } => write!(
                f,
                "{} is on a file system that is mounted read-only; mount it for writing, or choose another directory",
                path.display()
            ),
            Error::Full { path } => write!(
                f,
                "the disk of the store {} is full; free some space, or set a smaller bound for the store",
                path.display()
            ),
            Error::Corrupt { place, what } => write!(
                f,
                "the store is damaged at {place}: {what}; check the disk; `fanfare log salvage` prints what is whole, for `fanfare log import` into a new directory; a copy of the directory needs `fanfare log new-epoch` before it is used"
            ),
            Error::Broken { cause } => write!(
                f,
                "an earlier write failed ({cause}), so it is not known what is on the disk; check the disk and start again"
            ),
            Error::Unreachable { what } => {
                write!(f, "the shared log cannot be reached: {what}; check its servers and the network")
            }
            Error::Io { action, path, source } => {
                write!(f, "could not {action} {}: {source}; check the disk and its mount", path.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
