//! The TCP client of this program, over a TUN device for each worker.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::Worker;
use super::transport::{Opening, Transport, Turn};
use crate::client::{Control, Plan};
use crate::clock;
use crate::failure::Outcome;
use crate::tun::{Counts, Device, Ended, Heard, Id, LARGEST_SEGMENT, LARGEST_WINDOW, Settings, Stack};

const WAKER: Token = Token(usize::MAX);
const DEVICE: Token = Token(0);
/// Batches of packets before commands and times have their turn.
const BATCHES: usize = 16;

/// The device of a worker, and the connections over it.
pub(super) struct Tun {
    poll: Poll,
    events: Events,
    /// Absent while a turn works off what it has read.
    device: Option<Device>,
    stack: Stack,
    /// The connections, by the place of their subscriber.
    ids: Vec<Option<Id>>,
    /// The device may have more packets, which will not be notified.
    more: bool,
    window: u16,
}

impl Transport for Tun {
    fn new(index: usize, plan: &Plan, control: &Control, subscribers: usize) -> io::Result<Tun> {
        let network = plan.tun.as_ref().ok_or_else(|| io::Error::other("no TUN device is named"))?;
        let SocketAddr::V4(server) = plan.subscriptions.target(0) else {
            return Err(io::Error::other("--tun needs a server with an IPv4 address"));
        };
        let part = network.part(index, plan.threads);
        let device = Device::open(&part.network())
            .map_err(|error| io::Error::other(format!("the TUN device {}: {error}", part.name)))?;
        let poll = Poll::new()?;
        poll.registry().register(&mut SourceFd(&control.waker.number()), WAKER, Interest::READABLE)?;
        poll.registry().register(&mut SourceFd(&device.number()), DEVICE, Interest::READABLE)?;
        let window = match plan.receive_buffer {
            0 => LARGEST_WINDOW,
            bytes => u16::try_from(bytes).unwrap_or(LARGEST_WINDOW),
        };
        let stack = Stack::new(Settings {
            first_address: part.first_address,
            addresses: part.addresses,
            server,
            largest_segment: LARGEST_SEGMENT,
            connections: subscribers,
            seed: u64::from(plan.run) << 16 | index as u64,
        });
        let ids = vec![None; subscribers];
        let events = Events::with_capacity(8);
        Ok(Tun { poll, events, device: Some(device), stack, ids, more: false, window })
    }

    fn turn(worker: &mut Worker<'_, Tun>, mut patience: Option<Duration>) -> io::Result<Turn> {
        let now = clock::now();
        worker.transport.flush();
        let Tun { poll, events, stack, more, .. } = &mut worker.transport;
        if let Some(due) = stack.next_timeout(now) {
            let left = Duration::from_nanos(due.saturating_sub(now));
            patience = Some(patience.map_or(left, |patience| patience.min(left)));
        }
        if *more {
            patience = Some(Duration::ZERO);
        }
        let waited = poll.poll(events, patience);
        let woken = clock::now();
        let told = events.iter().any(|event| event.token() == WAKER);
        if told {
            worker.control.waker.clear();
        }
        let busy = worker.take_packets()? || told;
        while let Some(heard) = worker.transport.stack.poll_timeout(woken) {
            worker.heard(&heard);
        }
        worker.transport.flush();
        waited.map(|()| Turn { woken, busy, told })
    }

    fn connect(&mut self, _: &Plan, opening: &Opening) -> io::Result<bool> {
        let window = match opening.receive_buffer {
            0 => self.window,
            bytes => u16::try_from(bytes).unwrap_or(LARGEST_WINDOW),
        };
        let id = self.stack.connect(clock::now(), opening.index as u32, window);
        self.ids[opening.index] = Some(id.ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))?);
        Ok(false)
    }

    fn send(&mut self, index: usize, bytes: &[u8]) -> io::Result<usize> {
        if let Some(id) = self.ids[index] {
            self.stack.send(clock::now(), id, bytes);
        }
        Ok(bytes.len())
    }

    fn close(&mut self, index: usize) {
        if let Some(id) = self.ids[index].take() {
            self.stack.close(clock::now(), id);
        }
    }

    fn has(&self, index: usize) -> bool {
        self.ids[index].is_some()
    }

    fn stall(&mut self, index: usize) {
        if let Some(id) = self.ids[index] {
            self.stack.stall(id);
        }
    }

    fn read_again(worker: &mut Worker<'_, Tun>, index: usize) -> io::Result<u64> {
        let Some(id) = worker.transport.ids[index] else { return Ok(0) };
        let (kept, ended) = worker.transport.stack.resume(id);
        let waited = kept.len() as u64;
        worker.heard(&Heard { id, token: index as u32, connected: false, data: &kept, ended });
        Ok(waited)
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let Counts { duplicates, out_of_order, repeated, ignored, .. } = self.stack.counts();
        let refused = self.device.as_ref().map_or(0, Device::refused);
        vec![
            ("segments arrived again at the TUN device", duplicates),
            ("segments arrived out of order at the TUN device", out_of_order),
            ("segments were sent again over the TUN device", repeated),
            ("packets at the TUN device were damaged or none of this run's", ignored),
            ("packets of the TUN device were not taken by the kernel", refused),
        ]
    }
}

impl Tun {
    fn flush(&mut self) {
        if let Some(device) = &mut self.device
            && !self.stack.outbox().is_empty()
        {
            device.send(self.stack.outbox());
        }
    }
}

impl Worker<'_, Tun> {
    /// Works off the packets that have arrived. Returns whether there were any.
    fn take_packets(&mut self) -> io::Result<bool> {
        let mut any = false;
        for _ in 0..BATCHES {
            let Some(mut device) = self.transport.device.take() else { return Ok(any) };
            let received = device.receive();
            let now = clock::now();
            for (packet, checksum) in device.packets() {
                any = true;
                if let Some(heard) = self.transport.stack.handle(now, packet, checksum) {
                    self.heard(&heard);
                }
            }
            self.transport.device = Some(device);
            self.transport.stack.acknowledge();
            self.transport.flush();
            self.transport.more = received?;
            if !self.transport.more {
                break;
            }
        }
        Ok(any)
    }

    fn heard(&mut self, heard: &Heard<'_>) {
        if let Err(failure) = self.try_hear(heard) {
            self.common.fail(failure);
        }
    }

    fn try_hear(&mut self, heard: &Heard<'_>) -> Outcome<()> {
        let index = heard.token as usize;
        let current = |worker: &Self| worker.transport.ids[index] == Some(heard.id);
        if current(self) && heard.connected {
            self.ask(index)?;
        }
        if current(self) && !heard.data.is_empty() {
            self.arrived(index, heard.data)?;
        }
        match heard.ended {
            Some(ended) if current(self) => self.connection_over(index, ended),
            _ => Ok(()),
        }
    }

    fn connection_over(&mut self, index: usize, ended: Ended) -> Outcome<()> {
        match ended {
            Ended::Refused => self.not_opened(index, &io::ErrorKind::ConnectionRefused.into()),
            Ended::Finished => self.ended(index, "it was closed"),
            Ended::Reset => self.ended(index, "it was reset"),
            Ended::TimedOut => self.ended(index, "nothing was acknowledged any more"),
        }
    }
}
