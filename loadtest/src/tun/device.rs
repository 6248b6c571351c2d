//! A TUN device: the packets that the kernel routes to a network of addresses, read and written in batches.
//!
//! [`Device::receive`] until it has nothing more, each packet by [`Device::packets`]; [`Device::send`] for
//! what is to leave. It exists in the network namespace of the thread that opens it, and until it is dropped.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};

use super::outbox::{HEADROOM, Outbox};
use super::packet::Checksum;
use super::sys::{self, Batch, Interface};

/// Packets that are read or written in one system call.
const BATCH: usize = 256;
/// Of a packet, as of a network card of 1,500 bytes; the kernel hands over several packets of one connection
/// as one.
const MTU: u16 = 1_500;
/// Bytes of a segment that fit into a packet.
pub(crate) const LARGEST_SEGMENT: u16 = MTU - 40;
/// Packets that may wait to be read; further ones are lost. The kernel's table of them has at most 4 MiB.
const QUEUE: u32 = 524_288;
/// The most that one read brings: the largest IPv4 packet and its header. The odd number of cache lines
/// between the buffers keeps their beginnings from sharing a few lines of the cache.
const BUFFER: usize = 65_535 + HEADROOM + 55;
const _: () = assert!(BUFFER.is_multiple_of(64) && BUFFER / 64 % 2 == 1);
/// The flag of `virtio_net_hdr` for a checksum that is left out.
const NEEDS_CHECKSUM: u8 = 1;

/// How packets are read and written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Method {
    /// Many by one system call.
    Uring,
    /// One by one: where io_uring is refused, and in a test.
    #[cfg_attr(not(test), expect(dead_code))]
    Single,
}

/// What a device is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct Network<'a> {
    pub(crate) name: &'a str,
    /// The machine's own address in the network; all others are the device's.
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
}

/// An open device.
pub(crate) struct Device {
    file: File,
    batch: Option<Batch>,
    buffers: Box<[u8]>,
    /// Bytes in each buffer after the last [`Self::receive`].
    lengths: Vec<usize>,
    /// Reads of the next system call: as many as the last ones needed.
    wanted: usize,
    /// Packets that the kernel did not take.
    refused: u64,
}

impl Device {
    /// Creates the interface and switches it on. Needs the right to administer the network.
    pub(crate) fn open(network: &Network<'_>) -> io::Result<Device> {
        Device::open_by(network, Method::Uring)
    }

    /// The same, and says how packets are to be read and written.
    pub(super) fn open_by(network: &Network<'_>, method: Method) -> io::Result<Device> {
        let file = sys::open_tun(network.name, true)?;
        let &Network { name, address, prefix } = network;
        Interface { name, address, prefix, mtu: MTU, queue: QUEUE }.switch_on()?;
        let batch = match method {
            Method::Uring => Batch::new(&file, BATCH).ok(),
            Method::Single => None,
        };
        let buffers = vec![0; BUFFER * BATCH].into_boxed_slice();
        Ok(Device { file, batch, buffers, lengths: Vec::with_capacity(BATCH), wanted: 8, refused: 0 })
    }

    /// Packets that the kernel did not take: lost, as on a network.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Reads the packets that are there, as many as a batch has. Returns whether there may be more.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        self.lengths.clear();
        let Some(batch) = &mut self.batch else { return self.receive_singly() };
        let results = batch.read(self.buffers.chunks_exact_mut(BUFFER).take(self.wanted));
        for &result in results {
            match result {
                // They complete in order, and one that finds nothing is not followed by one that does.
                0.. => self.lengths.push(result as usize),
                _ if -result == libc::EAGAIN || -result == libc::EINTR => self.lengths.push(0),
                _ => return Err(io::Error::from_raw_os_error(-result)),
            }
        }
        let got = self.lengths.iter().filter(|&&length| length > 0).count();
        let full = got == self.wanted;
        self.wanted = if full { self.wanted * 2 } else { got + got / 4 + 2 }.clamp(8, BATCH);
        Ok(full)
    }

    fn receive_singly(&mut self) -> io::Result<bool> {
        for buffer in self.buffers.chunks_exact_mut(BUFFER) {
            match sys::read_one(&self.file, buffer)? {
                Some(length) => self.lengths.push(length),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What the last [`Self::receive`] brought.
    pub(crate) fn packets(&self) -> impl Iterator<Item = (&[u8], Checksum)> {
        let buffers = self.buffers.chunks_exact(BUFFER);
        buffers.zip(&self.lengths).filter(|&(_, &length)| length > HEADROOM).map(|(buffer, &length)| {
            let checksum =
                if buffer[0] & NEEDS_CHECKSUM != 0 { Checksum::LeftOut } else { Checksum::Present };
            (&buffer[HEADROOM..length], checksum)
        })
    }

    /// Writes all packets and empties the outbox. A packet that the kernel does not take is lost, as on a
    /// network.
    pub(crate) fn send(&mut self, outbox: &mut Outbox) {
        match &mut self.batch {
            None => {
                for packet in outbox.packets() {
                    self.refused += u64::from(sys::write_one(&self.file, packet).is_err());
                }
            }
            Some(batch) => {
                let mut from = 0;
                while from < outbox.len() {
                    let to = outbox.len().min(from + BATCH);
                    let results = batch.write(outbox.packets_between(from, to));
                    self.refused += results.iter().filter(|&&result| result < 0).count() as u64;
                    from = to;
                }
            }
        }
        outbox.clear();
    }

    /// The descriptor, for a loop that waits for several things.
    pub(crate) fn number(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Waits until there is something to read, or so long.
    #[cfg(test)]
    pub(super) fn wait(&self, milliseconds: i32) -> io::Result<bool> {
        sys::wait_readable(&self.file, milliseconds)
    }
}
