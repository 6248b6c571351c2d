//! The server's binary as a process of its own, for what is measured from outside.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use fanfare_io::affinity;

use crate::Outcome;

/// How long a server may take to listen.
const STARTS: u32 = 500;

/// A server on one core. It is killed on drop.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl ServerProcess {
    /// Starts this binary with one shard, everything on this core.
    ///
    /// # Errors
    /// It cannot be started, or does not listen within five seconds.
    pub fn start(binary: &Path, options: &[String], core: usize) -> Outcome<ServerProcess> {
        // The port is free at this moment. Another program that takes it first makes the start fail.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(binary);
        command.args(["--listen", &address.to_string(), "--shards", "1"]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A process begins on the cores of the thread that starts it.
        let started = thread::spawn(move || {
            affinity::pin(core)?;
            command.spawn()
        });
        let child = started.join().map_err(|_| "the thread that starts the server has panicked")??;
        let server = ServerProcess { child, address };
        for _ in 0..STARTS {
            if TcpStream::connect(address).is_ok() {
                return Ok(server);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("{} does not listen on {address}", binary.display()).into())
    }

    /// What all of its threads have used so far.
    pub fn cpu_time(&self) -> Duration {
        /// The kernel's encoding of a process's scheduler clock (`CPUCLOCK_SCHED`).
        const PROCESS_SCHED: libc::clockid_t = 2;
        let id = (!(self.child.id() as libc::clockid_t) << 3) | PROCESS_SCHED;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid timespec to write to; for a process that is gone the call fails.
        unsafe { libc::clock_gettime(id, &mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// Its share of resident memory, in bytes: what only it maps, and its part of what others map too.
    pub fn proportional_bytes(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Where it has ended, both fail, and there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
