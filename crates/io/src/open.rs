//! The sockets that a backend owns.

use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd};

use fixedbitset::FixedBitSet;

use crate::contract::{Peer, Socket};
use crate::sockets::peer;

/// One bit for each number. What is left when the backend goes is closed with it: a shard that panicked in a
/// shared descriptor table left its clients waiting on sockets that no shard served.
#[derive(Debug, Default)]
pub(crate) struct OpenSockets(FixedBitSet);

impl OpenSockets {
    pub(crate) fn add(&mut self, socket: OwnedFd) -> Socket {
        let number = socket.into_raw_fd();
        self.0.grow_and_insert(number as usize);
        number
    }

    /// The other end of a connection.
    pub(crate) fn peer(&self, socket: Socket) -> Option<Peer> {
        assert!(self.0.contains(socket as usize), "{socket} is not this backend's");
        // SAFETY: the set owns the descriptor, and keeps it open during the borrow.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        peer(socket)
    }

    pub(crate) fn close(&mut self, socket: Socket) {
        assert!(self.0.contains(socket as usize), "{socket} is not this backend's to close");
        self.0.remove(socket as usize);
        close(socket);
    }
}

impl Drop for OpenSockets {
    fn drop(&mut self) {
        for number in self.0.ones() {
            close(number as Socket);
        }
    }
}

fn close(socket: Socket) {
    // SAFETY: the set owned the descriptor and gives it up here. Linux frees the number even if it reports an
    // error, so there is nothing to retry.
    unsafe { libc::close(socket) };
}
