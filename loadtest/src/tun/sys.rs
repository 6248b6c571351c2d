//! The system calls of the TUN device, and all `unsafe` of this module: each function is a safe wrapper that
//! knows nothing of packets.

#![allow(unsafe_code)]

use std::ffi::c_ulong;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use io_uring::{IoUring, opcode, types};
use libc::__c_anonymous_ifr_ifru as Value;
use socket2::{Domain, Socket, Type};

/// From `linux/if_tun.h`; the `libc` crate has the flags only.
const TUNSETIFF: c_ulong = 0x4004_54CA;
const TUNSETOFFLOAD: c_ulong = 0x4004_54D0;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A request for the interface of a name.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an all-zero ifreq is valid: a name of no bytes, and a union of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains(['/', '\0', '%']) {
        return Err(io::Error::other(format!("`{name}` cannot be the name of an interface")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Creates the TUN interface of that name, without blocking reads. It is gone when the file is closed. With
/// `offload` each packet has a header of `virtio_net_hdr`, and the kernel leaves checksums and the splitting
/// of large segments to the reader.
pub(super) fn open_tun(name: &str, offload: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = request(name)?;
    let header = if offload { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | header) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one live ifreq.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) })?;
    if offload {
        let flags = c_ulong::from(libc::TUN_F_CSUM | libc::TUN_F_TSO4);
        // SAFETY: TUNSETOFFLOAD takes one integer.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD as _, flags) })?;
    }
    Ok(file)
}

/// What an interface is set to before it is switched on.
pub(super) struct Interface<'a> {
    pub(super) name: &'a str,
    pub(super) address: Ipv4Addr,
    /// Bits of the network that the address is in; the kernel adds the route to it.
    pub(super) prefix: u8,
    pub(super) mtu: u16,
    /// Packets that may wait to be read; further ones are lost.
    pub(super) queue: u32,
}

impl Interface<'_> {
    pub(super) fn switch_on(&self) -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        let set = |call: c_ulong, value: Value| {
            let mut request = request(self.name)?;
            request.ifr_ifru = value;
            // SAFETY: each of the calls below reads one live ifreq.
            check(unsafe { libc::ioctl(socket.as_raw_fd(), call as _, &raw const request) })
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        let mask = socket_address(Ipv4Addr::from_bits(mask));
        let up = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let mtu = libc::c_int::from(self.mtu);
        // The length of the queue has the place of the metric.
        set(libc::SIOCSIFTXQLEN as _, Value { ifru_metric: self.queue as libc::c_int })?;
        set(libc::SIOCSIFMTU as _, Value { ifru_mtu: mtu })?;
        set(libc::SIOCSIFADDR as _, Value { ifru_addr: socket_address(self.address) })?;
        set(libc::SIOCSIFNETMASK as _, Value { ifru_netmask: mask })?;
        set(libc::SIOCSIFFLAGS as _, Value { ifru_flags: up })
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let internet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: address.to_bits().to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain bytes of 16, and every sockaddr_in is a sockaddr by its family.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(internet) }
}

/// Waits until a descriptor has something to read, or so long.
#[cfg(test)]
pub(super) fn wait_readable(file: &File, milliseconds: i32) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd is read and written.
    let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    check(ready)?;
    Ok(ready > 0)
}

/// Reads and writes of one file, many in one system call.
pub(super) struct Batch {
    ring: IoUring,
    /// The results of the last call, by the place in it.
    results: Vec<i32>,
}

impl Batch {
    /// Refused where the system does not allow io_uring. It is used by the thread that makes it.
    pub(super) fn new(file: &File, most: usize) -> io::Result<Batch> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(most.next_power_of_two() as u32)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        Ok(Batch { ring, results: vec![0; most] })
    }

    /// Reads one packet into each buffer, without waiting. Returns for each the length, or the error's
    /// negative number.
    pub(super) fn read<'a>(&mut self, buffers: impl ExactSizeIterator<Item = &'a mut [u8]>) -> &[i32] {
        self.run(buffers.map(|buffer| {
            opcode::Read::new(types::Fixed(0), buffer.as_mut_ptr(), buffer.len() as u32)
                .offset(u64::MAX)
                .rw_flags(libc::RWF_NOWAIT)
                .build()
        }))
    }

    /// Writes each packet, without waiting. Returns as [`Self::read`].
    pub(super) fn write<'a>(&mut self, packets: impl ExactSizeIterator<Item = &'a [u8]>) -> &[i32] {
        self.run(packets.map(|packet| {
            opcode::Write::new(types::Fixed(0), packet.as_ptr(), packet.len() as u32)
                .offset(u64::MAX)
                .rw_flags(libc::RWF_NOWAIT)
                .build()
        }))
    }

    /// The buffers that `entries` point to are borrowed by the callers' arguments, so they live until this
    /// returns; it returns when the kernel has finished with every one.
    fn run(&mut self, entries: impl ExactSizeIterator<Item = io_uring::squeue::Entry>) -> &[i32] {
        let count = entries.len();
        assert!(count <= self.results.len(), "a batch has a bound");
        let mut queue = self.ring.submission();
        for (index, entry) in entries.enumerate() {
            // SAFETY: see above. The queue is empty before, and has as many places as there are results.
            unsafe { queue.push(&entry.user_data(index as u64)) }
                .unwrap_or_else(|_| unreachable!("the queue has a place for each"));
        }
        drop(queue);
        let mut left = count;
        while left > 0 {
            if let Err(error) = self.ring.submit_and_wait(left)
                && !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
            {
                // The kernel may still write to the buffers, so nothing here may go on.
                eprintln!("fanfare-load: io_uring: {error}");
                std::process::abort();
            }
            for done in self.ring.completion() {
                self.results[done.user_data() as usize] = done.result();
                left -= 1;
            }
        }
        &self.results[..count]
    }
}

/// Reads one packet; `None`: there is none.
pub(super) fn read_one(mut file: &File, into: &mut [u8]) -> io::Result<Option<usize>> {
    match file.read(into) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes one packet.
pub(super) fn write_one(mut file: &File, packet: &[u8]) -> io::Result<()> {
    file.write(packet).map(drop)
}

/// Enters a new network namespace with this thread, which stays in it, and switches its loopback on.
#[cfg(test)]
pub(super) fn enter_new_network() -> io::Result<()> {
    // SAFETY: unshare takes one integer; only the calling thread's view of the network changes.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    Interface { name: "lo", address: Ipv4Addr::LOCALHOST, prefix: 8, mtu: 65_535, queue: 1_000 }.switch_on()
}
