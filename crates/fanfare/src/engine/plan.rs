//! The beginning of a shard's thread.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use fanfare_io::{Clock, Io, Waker, affinity, table};
use fanfare_proto::cursor::Epoch;
use fanfare_proto::limits::Limits;

use super::StartError;
use crate::listeners::ShardListener;
use crate::shard::{Budgets, Links, Shard};

/// Everything a shard's thread begins with.
pub(super) struct Plan {
    pub(super) waker: Waker,
    /// Those of all shards: an admission may publish, and then its shard wakes the others.
    pub(super) wakers: Vec<Waker>,
    pub(super) listeners: Vec<ShardListener>,
    pub(super) links: Links,
    pub(super) limits: Limits,
    pub(super) epoch: Epoch,
    pub(super) seed: u64,
    pub(super) clock: Clock,
    pub(super) core: Option<usize>,
    pub(super) private_table: bool,
}

/// What a shard's thread says once: whether it has a table of its own now, and whether it runs.
struct Started {
    parted: bool,
    result: Result<(), StartError>,
}

impl Plan {
    pub(super) fn start<I: Io + 'static>(
        self,
        index: usize,
        open: fn(&Waker) -> io::Result<I>,
    ) -> Result<JoinHandle<()>, StartError> {
        let moved = self.descriptors();
        let (started, has_started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("fanfare-shard-{index}"))
            .spawn(move || self.run(open, &started))
            .map_err(|cause| StartError::new("start a shard's thread", cause))?;
        let Ok(Started { parted, result }) = has_started.recv() else {
            let cause = io::Error::other("its thread panicked");
            return Err(StartError::new("start a shard", cause));
        };
        if parted {
            // The shard owns its copies; ours would keep its listeners and channels open.
            //
            // SAFETY: the owners of these numbers moved into the shard's thread with the plan, and that
            // thread has left the table in which they were made. Here only their numbers are left, and they
            // are closed once.
            unsafe { table::close_left_behind(&moved) };
        }
        result.map(|()| thread)
    }

    /// Descriptors that move to the shard's thread, apart from the wakers, which are shared.
    fn descriptors(&self) -> Vec<RawFd> {
        let listeners = self.listeners.iter().map(|listener| listener.socket.as_raw_fd());
        let hand_over = self.links.hand_over.iter().map(AsRawFd::as_raw_fd);
        listeners.chain(hand_over).chain([self.links.adopted.as_raw_fd()]).collect()
    }

    fn run<I: Io>(self, open: fn(&Waker) -> io::Result<I>, started: &Sender<Started>) {
        let mut parted = false;
        let (result, shard) = match self.open_shard(open, &mut parted) {
            Ok(shard) => (Ok(()), Some(shard)),
            Err(error) => (Err(error), None),
        };
        // The receiver is gone only where the starting thread is gone, and with it the engine.
        let _ = started.send(Started { parted, result });
        if let Some((shard, clock)) = shard {
            shard.run(clock);
        }
    }

    fn open_shard<I: Io>(
        self,
        open: fn(&Waker) -> io::Result<I>,
        parted: &mut bool,
    ) -> Result<(Shard<I>, Clock), StartError> {
        if self.private_table {
            // SAFETY: from here on this thread runs the shard, and it owns two kinds of descriptors. The
            // descriptors of the plan stay in its table. It opens the others itself: the backend, and sockets
            // that it accepts or receives. The wakers in the plan and in the hub's mailboxes check
            // themselves. The last owner of the admission is the engine, on another thread, or the
            // announcer's thread, which waits for the shards. Which descriptors an admission may use is in
            // the contract of `Builder::admission_on_shards`. The shard starts no thread.
            unsafe { table::make_private(&self.descriptors(), &self.wakers) }
                .map_err(|cause| StartError::new("give a shard its descriptor table", cause))?;
            *parted = true;
        }
        if let Some(core) = self.core {
            affinity::pin(core)
                .map_err(|cause| StartError::new(&format!("pin a shard to core {core}"), cause))?;
        }
        let mut io = open(&self.waker).map_err(|cause| StartError::new("open the backend", cause))?;
        for listener in self.listeners {
            let ShardListener { socket, is_shared } = listener;
            let watched = if is_shared { io.listen_shared(socket) } else { io.listen(socket) };
            watched.map_err(|cause| StartError::new("watch the listener", cause))?;
        }
        let shard = Shard::new(io, self.links, self.limits, Budgets::default(), self.epoch, self.seed);
        Ok((shard, self.clock))
    }
}
