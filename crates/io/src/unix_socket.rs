//! Listening on Unix sockets, and the files that these have in the file system.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{self, Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::errors::annotate;

/// Bytes of the longest path: a `sockaddr_un` has 108, and the last is zero (unix(7)).
const MAX_PATH_BYTES: usize = 107;

/// How often the lock of a directory is tried, and how long the pauses between are: five seconds in all.
const LOCK_TRIES: u32 = 5000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// The file of a Unix socket. Dropped, it removes the file, unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    name: FileName,
}

/// Tells a file from others that had its path. Its number alone is not enough, because file systems use
/// numbers again.
#[derive(Debug, PartialEq, Eq)]
struct FileName {
    device: u64,
    number: u64,
    created: Option<SystemTime>,
}

impl FileName {
    fn of(metadata: &Metadata) -> FileName {
        FileName { device: metadata.dev(), number: metadata.ino(), created: metadata.created().ok() }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|metadata| FileName::of(&metadata) == self.name) {
            // Where it cannot be removed, the next start finds that no server listens on it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on a Unix socket with this path, and gives its file this mode, before a client can connect.
///
/// A socket file that is there already is removed where no server listens on it: the one that made it was
/// killed. One process at a time does this in a directory, under a lock of the directory (`flock(2)`) that is
/// held for a moment.
///
/// Nothing of [`crate::sockets::SocketOptions`] applies: those of TCP do not exist, and an accepted Unix
/// socket has the kernel's send buffer (`net.core.wmem_default`), whatever its listener has.
///
/// # Errors
/// The message names the path. `AddrInUse`: a server listens there. `AlreadyExists`: there is a file that is
/// no socket of this kind. `ResourceBusy`: another process has held the lock of the directory for five
/// seconds.
pub fn listen(path: &Path, mode: Option<u32>, backlog: u32) -> io::Result<(OwnedFd, SocketFile)> {
    let explain = |error: io::Error| annotate(&error, format_args!("cannot listen on {}", path.display()));
    listen_at(path, mode, backlog).map_err(explain)
}

fn listen_at(path: &Path, mode: Option<u32>, backlog: u32) -> io::Result<(OwnedFd, SocketFile)> {
    let invalid = |text: String| Err(io::Error::new(ErrorKind::InvalidInput, text));
    let length = path.as_os_str().len();
    if length == 0 || path.as_os_str().as_bytes().contains(&0) {
        return invalid("it is no path".to_owned());
    }
    if length > MAX_PATH_BYTES {
        return invalid(format!(
            "the path of a socket has at most {MAX_PATH_BYTES} bytes, and this has {length}"
        ));
    }
    if let Some(mode) = mode.filter(|mode| *mode > 0o777) {
        return invalid(format!("a socket has no mode {mode:o}; the largest is 777"));
    }
    // The program may change its directory before the file is removed.
    let absolute = path::absolute(path)?;
    let _lock = lock_directory(absolute.parent().unwrap_or(&absolute))?;
    remove_stale(path)?;
    let address = SockAddr::unix(path)?;
    let socket = new_socket()?;
    socket.bind(&address)?;
    let name = FileName::of(&fs::symlink_metadata(&absolute)?);
    let file = SocketFile { path: absolute, name };
    if let Some(mode) = mode {
        // No client can connect before `listen`, so none comes in under the mode that the umask left.
        fs::set_permissions(&file.path, Permissions::from_mode(mode))?;
    }
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok((socket.into(), file))
}

/// Listens on a name in the abstract namespace (unix(7)): it has no file and no mode, belongs to the network
/// namespace, and every user there can connect. It is free again when the last descriptor of the listener is
/// closed.
///
/// # Errors
/// The message names the name. `AddrInUse`: it is taken. `InvalidInput`: it is empty or has more than 107
/// bytes.
pub fn listen_abstract(name: &[u8], backlog: u32) -> io::Result<OwnedFd> {
    let explain = |error: io::Error| {
        let name = name.escape_ascii();
        annotate(&error, format_args!("cannot listen on the abstract name {name}"))
    };
    let listen = || {
        if name.is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is empty"));
        }
        if name.len() > MAX_PATH_BYTES {
            let text = format!("it has more than {MAX_PATH_BYTES} bytes");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let socket = new_socket()?;
        // A zero byte at the beginning says that it is no path.
        let address = [&[0], name].concat();
        socket.bind(&SockAddr::unix(OsStr::from_bytes(&address))?)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    };
    listen().map_err(explain)
}

fn new_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
}

/// Two servers that start at the same moment would both find a stale file, and the second would remove the
/// file of the first, which would then wait in silence.
fn lock_directory(directory: &Path) -> io::Result<Option<File>> {
    let opened = match File::open(directory) {
        Ok(opened) => opened,
        // It may be writable without being readable.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
        Err(error) => return Err(error),
    };
    for _ in 0..LOCK_TRIES {
        match opened.try_lock() {
            Ok(()) => return Ok(Some(opened)),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            // Some network file systems have no locks.
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
    let busy = format!("another process has locked {} for too long", directory.display());
    Err(io::Error::new(ErrorKind::ResourceBusy, busy))
}

/// Removes the file of a socket on which no server listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match new_socket()?.connect(&SockAddr::unix(path)?) {
        // Its queue is full: it is slow, and it is there.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a socket of another type"));
        }
        Err(error) => return Err(annotate(&error, "there is a socket, and it cannot be tried")),
        Ok(()) => {}
    }
    Err(io::Error::new(ErrorKind::AddrInUse, "a server listens there"))
}
