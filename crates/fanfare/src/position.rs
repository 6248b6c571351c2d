//! Where the numbers of a log go on after a restart: a file.
//!
//! A number that is given twice is worse than a gap: a subscriber that had the first event with it resumes
//! behind it, and misses the second one in silence. So a position is in its file only while no engine has it.
//! An engine takes the file before it gives a number, and writes it when it gives none any more.
//!
//! ```text
//!   stop                 start                                      stop
//!    |-- the file is there --|-- no file: a crash begins a new log --|-- the file is there --
//!                            ^ renamed, read, removed: only one of several engines can have it
//! ```
//!
//! Each change is on the disk before the engine goes on, so this holds for a crash of the machine, too.

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{self, Path, PathBuf};

use fanfare_proto::cursor::Cursor;

use crate::engine::FIRST_NUMBER_LIMIT;

/// Bytes of the longest file: an epoch, a dash, a number of 20 digits and a line end are 31.
const MAX_BYTES: u64 = 31;

/// The file of [`crate::Builder::position_file`], which no engine has taken yet.
#[derive(Debug)]
pub(crate) struct PositionFile {
    path: PathBuf,
}

/// A position that one engine has, and no file.
#[derive(Debug)]
pub(crate) struct TakenPosition {
    file: PositionFile,
    /// What was in the file, until the engine may give numbers. Dropped before, it is written again.
    unused: Option<Cursor>,
}

impl PositionFile {
    /// # Errors
    /// A relative path in a working directory that does not exist any more.
    pub(crate) fn new(path: &Path) -> io::Result<PositionFile> {
        // The process may change its directory before the engine stops.
        Ok(PositionFile { path: path::absolute(path)? })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the last engine has left. `None`: there is no file.
    pub(crate) fn read(&self) -> io::Result<Option<Cursor>> {
        read(&self.path)
    }

    /// Takes the position. Behind this there is no file, also after a crash of the machine.
    pub(crate) fn take(self) -> io::Result<TakenPosition> {
        let own = self.sibling();
        let cursor = match fs::rename(&self.path, &own) {
            Ok(()) => read(&own)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // The engine writes the file when it stops. That it cannot is to be found now.
                File::create_new(&own)?;
                None
            }
            Err(error) => return Err(error),
        };
        fs::remove_file(&own)?;
        self.sync_directory()?;
        Ok(TakenPosition { file: self, unused: cursor })
    }

    /// Writes the whole file or nothing.
    fn write(&self, position: Cursor) -> io::Result<()> {
        let new = self.sibling();
        let write = || {
            let mut file = File::create_new(&new)?;
            file.write_all(format!("{position}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().inspect_err(|_| {
            // It may not even be there.
            let _ = fs::remove_file(&new);
        })?;
        self.sync_directory()
    }

    /// A path beside the file that no other process uses. Process numbers are not enough: containers with one
    /// directory may have the same.
    fn sibling(&self) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push(format!(".{:016x}", RandomState::new().hash_one(std::process::id())));
        path.into()
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        File::open(directory)?.sync_all()
    }
}

impl TakenPosition {
    /// The position where the log goes on. `None`: there was no file.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.unused
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    /// The engine may give numbers from now on, so what was in the file is old.
    pub(crate) fn used(mut self) -> TakenPosition {
        self.unused = None;
        self
    }

    /// The engine has ended, and gives no number any more.
    pub(crate) fn write(self, head: Cursor) -> io::Result<()> {
        self.file.write(head)
    }
}

impl Drop for TakenPosition {
    fn drop(&mut self) {
        if let Some(unused) = self.unused.take() {
            // The start has failed, and says why. Without the file the next one begins a new log.
            let _ = self.file.write(unused);
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Cursor>> {
    let wrong = |what: &str| {
        let text = format!("it {what}; remove it to begin a new log");
        io::Error::new(ErrorKind::InvalidData, text)
    };
    // To open a pipe could wait for ever.
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(wrong("is not a regular file")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    // Without its line end the number could be a part of a longer one.
    let line = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    let position = line.and_then(Cursor::parse).filter(|position| position.seq < FIRST_NUMBER_LIMIT);
    position.map(Some).ok_or_else(|| wrong("does not hold the id of an event in one line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start that fails behind the point where it takes the position, for want of descriptors say.
    #[test]
    fn a_position_that_was_not_used_goes_back() {
        let directory = std::env::temp_dir().join(format!("fanfare-unused-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("position");
        let file = || PositionFile::new(&path).unwrap();
        fs::write(&path, "000000abc-7\n").unwrap();
        let taken = file().take().unwrap();
        assert_eq!(taken.cursor(), Cursor::parse("000000abc-7"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        assert_eq!(file().take().unwrap().cursor(), None, "it is taken once");
        drop(taken);
        assert_eq!(fs::read_to_string(&path).unwrap(), "000000abc-7\n");

        drop(file().take().unwrap().used());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir(&directory).unwrap();
    }
}
