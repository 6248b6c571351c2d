//! What a shard does to its network: the `Io` of the simulator.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::time::Duration;

use fanfare::sim;
use fanfare_io::{Exception, Io, Notification, Peer, Received, Socket, Token, table};

use crate::desk::Place;
use crate::network::{CutPiece, ECONNRESET, FIRST_SOCKET, Net, Network};
use crate::tally::Occurrence;
use crate::trace::trace;

const ENOSPC: i32 = 28;

impl Network {
    /// Something is published while the shard is busy.
    fn meanwhile(&self, odds: usize, what: &str) {
        if self.shared.setting.publishers > 0
            && self.shared.mishap(odds)
            && self.shared.hub.borrow().is_some()
        {
            self.shared.happened(Occurrence::PublishInSweep);
            self.shared.publish_some(what);
        }
    }
}

impl Net {
    /// The engine has ended. The kernel closes its sockets.
    pub(crate) fn end(&mut self) {
        let open: Vec<Socket> =
            self.numbers.keys().copied().filter(|number| *number < FIRST_SOCKET).collect();
        // SAFETY: `adopt` took the numbers from their owner, and the shard that had them is no more.
        unsafe { table::close_left_behind(&open) };
    }
}

impl Io for Network {
    fn listen(&mut self, _listener: OwnedFd) -> io::Result<()> {
        Ok(())
    }

    fn listen_shared(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.listen(listener)
    }

    fn resume_accept(&mut self) {
        let mut net = self.net.borrow_mut();
        assert!(net.listening, "accepting is over");
        net.accept_paused = false;
    }

    fn stop_listening(&mut self) {
        let mut net = self.net.borrow_mut();
        net.listening = false;
        while let Some(index) = net.backlog.pop_front() {
            net.connections[index].closed = true;
            net.touch(index);
        }
    }

    fn watch(&mut self, number: Socket, token: Token) -> io::Result<()> {
        let mut net = self.net.borrow_mut();
        let index = net.index_of(number);
        if self.shared.mishap(100) {
            net.connections[index].watch_refused = true;
            self.shared.happened(Occurrence::WatchRefused);
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        assert!(token.0 < Token::LIMIT);
        let other = net.connections[index].token.replace(token);
        assert_eq!(other, None, "{number} is watched twice");
        if let Some(id) = sim::connection_of(&self.shared.hub(), net.shard, token) {
            net.connections[index].id = Some(id);
            assert_eq!(net.ids.insert(id, index), None, "two connections have the name {id}");
        }
        net.changed(index);
        Ok(())
    }

    fn wait(&mut self, _timeout: Option<Duration>, notifications: &mut Vec<Notification>) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        if self.shared.mishap(20) {
            notifications.push(Notification::Woken);
        }
        let most = if self.shared.hostile.get() { 1 + self.shared.below(16) } else { 256 };
        let accepts = self.shared.mishap(2);
        while notifications.len() < most && net.is_ready() {
            let backlog = net.can_accept();
            match net.notifications.pop_front() {
                Some(notification) if !(accepts && backlog) => notifications.push(notification),
                Some(notification) => {
                    net.notifications.push_front(notification);
                    notifications.push(net.accept());
                }
                None => notifications.push(net.accept()),
            }
        }
        Ok(())
    }

    fn send_batch(
        &mut self,
        bytes: &[u8],
        sockets: impl ExactSizeIterator<Item = Socket>,
        exceptions: &mut Vec<Exception>,
    ) {
        self.send_each(sockets.map(|socket| (socket, bytes)), exceptions);
    }

    fn send_each<'bytes>(
        &mut self,
        sends: impl ExactSizeIterator<Item = (Socket, &'bytes [u8])>,
        exceptions: &mut Vec<Exception>,
    ) {
        let mut seen = BTreeSet::new();
        let first = exceptions.len();
        for (position, (socket, bytes)) in sends.enumerate() {
            assert!(seen.insert(socket), "{socket} is twice in a batch");
            self.net.borrow_mut().send(position, socket, bytes, exceptions);
        }
        // In no particular order.
        for index in first..exceptions.len() {
            let other = first + self.shared.below(exceptions.len() - first);
            exceptions.swap(index, other);
        }
        self.meanwhile(40, ", within a send");
    }

    fn receive(&mut self, number: Socket, buffer: &mut [u8]) -> Received {
        let net = &mut *self.net.borrow_mut();
        let index = net.index_of(number);
        let it = &mut net.connections[index];
        if it.reset {
            return Received::Gone(ECONNRESET);
        }
        if it.inbound.is_empty() {
            return if it.ended { Received::Ended } else { Received::Empty };
        }
        let piece = if self.shared.hostile.get() { 1 + self.shared.below(200) } else { buffer.len() };
        let count = piece.min(buffer.len()).min(it.inbound.len());
        for (to, byte) in buffer.iter_mut().zip(it.inbound.drain(..count)) {
            *to = byte;
        }
        Received::Bytes(count)
    }

    /// Clients have addresses of documentation, and the number of the client as port.
    fn peer(&self, number: Socket) -> Option<Peer> {
        let net = &mut *self.net.borrow_mut();
        let index = net.index_of(number);
        let client = net.connections[index].client;
        Some(Peer::Ip(Place { shard: net.shard, index }.peer(client)))
    }

    fn find_ended(&mut self, sockets: &[Socket], ended: &mut Vec<Socket>) {
        let net = &mut *self.net.borrow_mut();
        let has_left = |number: &&Socket| {
            let index = net.index_of(**number);
            let it = &net.connections[index];
            it.ended || it.reset
        };
        ended.extend(sockets.iter().filter(has_left));
    }

    fn finish(&mut self, number: Socket) {
        let net = &mut *self.net.borrow_mut();
        let index = net.index_of(number);
        assert!(!net.connections[index].finished, "{number} ends twice");
        net.connections[index].finished = true;
        net.touch(index);
    }

    fn adopt(&mut self, socket: OwnedFd) -> Socket {
        socket.into_raw_fd()
    }

    fn close(&mut self, sockets: &[(Socket, Option<Token>)]) {
        let net = &mut *self.net.borrow_mut();
        net.note_orders();
        for (number, token) in sockets {
            let index = net.index_of(*number);
            let unheard = net.connections[index].blocked || net.owes(*number);
            let it = &mut net.connections[index];
            assert_eq!(it.token, *token, "{number} is closed under the name by which it is watched");
            (it.closed, it.closed_at, it.was_unheard) = (true, self.shared.now.get(), unheard);
            self.shared.clients.borrow_mut().close(it.accepted);
            if let Some(begun) = it.verifier.begun.take() {
                it.was_begun = true;
                let (kind, part) = (begun.kind, net.begun.own_part(Some(&begun)));
                let size = net.begun.size(kind);
                net.begun.remove(Some(&begun));
                net.this_tick.cut_with_unsent.push(CutPiece { index, kind, size, part });
            }
            trace!(self.shared, "    client {}'s socket is closed", it.client);
            net.numbers.remove(number);
            net.touch(index);
            if *number < FIRST_SOCKET {
                // SAFETY: `adopt` took the number from its owner, and the shard that has it gives it up here.
                unsafe { table::close_left_behind(&[*number]) };
            } else {
                net.free.insert(*number);
            }
        }
    }

    fn unwatch(&mut self, number: Socket, token: Token) {
        let net = &mut *self.net.borrow_mut();
        let index = net.index_of(number);
        assert_eq!(net.connections[index].token.take(), Some(token), "{number} is released by its name");
    }
}
