//! Where the numbers of a log go on after a restart: a file.

use std::path::{Path, PathBuf};
use std::{fs, io};

use fanfare_proto::cursor::Cursor;

/// The file of [`crate::Builder::position_file`]. While an engine runs, it is not there: a crash must not
/// leave an old number behind, which would be given a second time.
#[derive(Debug)]
pub(crate) struct PositionFile {
    path: PathBuf,
}

impl PositionFile {
    pub(crate) fn new(path: PathBuf) -> PositionFile {
        PositionFile { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the last engine has left. `None`: there is no file.
    pub(crate) fn read(&self) -> io::Result<Option<Cursor>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let position = Cursor::parse(text.trim_end()).ok_or_else(|| {
            let text = "it does not hold the id of an event; remove it to begin a new log";
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        Ok(Some(position))
    }

    /// The engine has taken the position.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The engine has ended, and gives out no number any more.
    pub(crate) fn write(&self, head: Cursor) -> io::Result<()> {
        // A file that is written in part would be an error at the next start.
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        fs::write(&temporary, format!("{head}\n"))?;
        fs::rename(&temporary, &self.path)
    }
}
