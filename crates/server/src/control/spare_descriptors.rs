//! Descriptors that are kept for the admin listener, so that it is reached where all others are used up: that
//! is when its figures are needed.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Descriptors that are kept, where the process may have that many: for a probe, a scrape and a dashboard of
/// several monitors.
const MOST: u64 = 16;

/// Where the process may have fewer descriptors, this part of them is kept.
const PART: u64 = 16;

/// Open descriptors that stand for those of later connections.
///
/// A connection cannot be given the number of one of them: the number is free for a moment, in which another
/// thread of the process may take it, and then the next one is given. On the way back there is no such
/// moment.
#[derive(Clone)]
pub(crate) struct SpareDescriptors {
    held: Arc<Mutex<Vec<OwnedFd>>>,
    most: usize,
    /// What all of them are copies of. `None`: the process has too few descriptors, and there are none.
    source: Option<Arc<File>>,
}

impl SpareDescriptors {
    /// Takes them, a part of so many that the process may have.
    pub(crate) fn hold(limit: u64) -> SpareDescriptors {
        let most = MOST.min(limit / PART) as usize;
        let source = File::open("/dev/null").ok().filter(|_| most > 0).map(Arc::new);
        let spare = SpareDescriptors { held: Arc::default(), most, source };
        spare.refill();
        spare
    }

    /// Whether as many are held as are to be.
    pub(super) fn is_complete(&self) -> bool {
        self.lock().len() >= self.most || self.source.is_none()
    }

    /// Opens spare descriptors again until there are as many as there should be, or until the process has no
    /// more descriptors. Another thread may have taken the number of a descriptor that was given away.
    pub(super) fn refill(&self) {
        let Some(source) = &self.source else { return };
        let mut held = self.lock();
        while held.len() < self.most
            && let Ok(copy) = source.try_clone()
        {
            held.push(copy.into());
        }
    }

    /// Frees one, for what is opened next. False: there is none.
    pub(super) fn give_one(&self) -> bool {
        let given = self.lock().pop();
        given.is_some()
    }

    /// Closes a connection. Where a spare descriptor was given, the connection's becomes one.
    pub(super) fn take_back(&self, connection: OwnedFd) {
        let mut held = self.lock();
        let Some(source) = self.source.as_ref().filter(|_| held.len() < self.most) else { return };
        // SAFETY: both are open. The number belongs to `connection`, as before; dup3(2) closes what it meant
        // and gives it its new meaning in one step.
        let copied = unsafe { libc::dup3(source.as_raw_fd(), connection.as_raw_fd(), libc::O_CLOEXEC) };
        if copied >= 0 {
            held.push(connection);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        // Nothing panics under this lock.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_descriptor_of_a_connection_takes_the_place_of_the_one_that_was_given() {
        let spare = SpareDescriptors::hold(1024);
        let count = || spare.lock().len();
        assert_eq!(count(), MOST as usize);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (connection, _) = listener.accept().unwrap();
            client.set_nonblocking(true).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            client.set_nonblocking(false).unwrap();
            (client, OwnedFd::from(connection))
        };
        // None was given: it is closed only.
        let (mut client, connection) = connect();
        spare.take_back(connection);
        assert_eq!((count(), client.read(&mut [0]).unwrap()), (MOST as usize, 0));

        assert!(spare.give_one());
        let (mut client, connection) = connect();
        let number = connection.as_raw_fd();
        spare.take_back(connection);
        assert_eq!((count(), client.read(&mut [0]).unwrap()), (MOST as usize, 0), "it is closed, too");
        assert!(spare.lock().iter().any(|held| held.as_raw_fd() == number));
        for _ in 0..MOST {
            assert!(spare.give_one());
        }
        assert!(!spare.give_one(), "there is no other");
        assert!(!spare.is_complete());
        spare.refill();
        assert_eq!((count(), spare.is_complete()), (MOST as usize, true));
    }

    #[test]
    fn a_process_with_few_descriptors_keeps_few() {
        assert_eq!(SpareDescriptors::hold(64).lock().len(), 4);
        assert!(!SpareDescriptors::hold(8).give_one());
    }
}
