//! One NATS server process.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

use super::address::{free_address, own_host};
use super::client::{NatsClient, await_jetstream};
use super::program::{is_at_least, nats_server, version_of};
use super::{PATIENCE, wait_for};

/// How a server is started. The default has JetStream, and neither credentials nor TLS.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Whether the server has JetStream.
    pub jetstream: bool,
    /// What clients have to send.
    pub credentials: Option<NatsCredentials>,
    /// Clients have to speak TLS.
    pub tls: Option<NatsTls>,
    /// The most bytes that all streams together take on disk.
    pub max_file_store: Option<u64>,
    /// Every message is synced to the disk before it is acknowledged. Servers before 2.10 cannot do that, and
    /// start without it; [`NatsServer::syncs_always`] says so.
    pub sync_always: bool,
    /// Further lines of the configuration.
    pub more: String,
}

impl Default for NatsOptions {
    fn default() -> NatsOptions {
        NatsOptions {
            jetstream: true,
            credentials: None,
            tls: None,
            max_file_store: None,
            sync_always: false,
            more: String::new(),
        }
    }
}

/// What a client has to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsCredentials {
    /// A user with a password.
    User {
        /// The name of the user.
        name: String,
        /// Its password.
        password: String,
    },
    /// A token.
    Token(String),
}

/// Certificates for a server at the loopback address of this process. All of them are in PEM.
#[derive(Clone, Debug)]
pub struct NatsTls {
    /// The authority that signed the certificate. Clients have to trust it.
    pub authority: String,
    /// The certificate of the server.
    pub certificate: String,
    /// The key of the server.
    pub key: String,
    /// Clients have to show a certificate of the authority.
    pub asks_clients: bool,
    /// A certificate for a client, of the same authority.
    pub client_certificate: String,
    /// The key of the client.
    pub client_key: String,
}

impl NatsTls {
    /// Makes an authority, a certificate for `localhost` and for the address of the servers of this process,
    /// and a certificate for a client, which the server does not ask for.
    ///
    /// # Errors
    /// The certificates cannot be made.
    pub fn generate() -> Result<NatsTls, String> {
        let made = || {
            let mut authority = CertificateParams::new(Vec::new())?;
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
            let key = KeyPair::generate()?;
            let names = CertificateParams::new(vec!["localhost".to_owned(), own_host().to_string()])?;
            let certificate = names.signed_by(&key, &authority)?;
            let client_key = KeyPair::generate()?;
            let client =
                CertificateParams::new(vec!["client".to_owned()])?.signed_by(&client_key, &authority)?;
            Ok(NatsTls {
                authority: authority.pem(),
                certificate: certificate.pem(),
                key: key.serialize_pem(),
                asks_clients: false,
                client_certificate: client.pem(),
                client_key: client_key.serialize_pem(),
            })
        };
        made().map_err(|error: rcgen::Error| format!("a certificate: {error}"))
    }
}

/// What a server of a cluster has besides its options.
#[derive(Clone, Debug)]
pub(super) struct ClusterPart {
    pub(super) name: String,
    /// Where the other servers connect.
    pub(super) listen: SocketAddr,
    /// What other servers are told instead: nobody listens there, so that servers have only the routes of
    /// their configuration.
    pub(super) advertise: SocketAddr,
    /// Where this server connects.
    pub(super) routes: Vec<SocketAddr>,
}

/// A NATS server. Its process is killed on drop, and its directory removed.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    version: String,
    options: NatsOptions,
    name: String,
    address: SocketAddr,
    monitor: SocketAddr,
    directory: PathBuf,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts a server on a port of its own, and waits until it accepts clients and JetStream answers.
    ///
    /// # Errors
    /// There is no program ([`nats_server`]), or the server does not start; its log is in the error.
    pub fn start(options: &NatsOptions) -> Result<NatsServer, String> {
        let mut server = NatsServer::prepare("single", options, None)?;
        server.restart()?;
        Ok(server)
    }

    /// Everything but the process.
    pub(super) fn prepare(
        name: &str,
        options: &NatsOptions,
        cluster: Option<&ClusterPart>,
    ) -> Result<NatsServer, String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let program = nats_server()?;
        let version = version_of(&program)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("fanfare-nats-{}-{number}", std::process::id()));
        let server = NatsServer {
            program,
            version,
            options: options.clone(),
            name: name.to_owned(),
            address: free_address()?,
            monitor: free_address()?,
            directory,
            child: None,
        };
        // A process of this number that was killed may have left its directory.
        let _ = fs::remove_dir_all(&server.directory);
        server.write_files(cluster).map_err(|error| format!("{}: {error}", server.directory.display()))?;
        Ok(server)
    }

    fn write_files(&self, cluster: Option<&ClusterPart>) -> std::io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut text = String::new();
        let path = |name: &str| format!("{:?}", self.directory.join(name));
        let _ = writeln!(text, "server_name: {}\nlisten: \"{}\"", self.name, self.address);
        let _ = writeln!(text, "http: \"{}\"\nlog_file: {}", self.monitor, path("log"));
        if self.options.jetstream {
            let _ = writeln!(text, "jetstream {{\n  store_dir: {}", path("store"));
            if let Some(bytes) = self.options.max_file_store {
                let _ = writeln!(text, "  max_file_store: {bytes}");
            }
            if self.syncs_always() {
                let _ = writeln!(text, "  sync_interval: always");
            }
            let _ = writeln!(text, "}}");
        }
        match &self.options.credentials {
            None => {}
            Some(NatsCredentials::User { name, password }) => {
                let _ = writeln!(text, "authorization {{ user: {name:?}, password: {password:?} }}");
            }
            Some(NatsCredentials::Token(token)) => {
                let _ = writeln!(text, "authorization {{ token: {token:?} }}");
            }
        }
        if let Some(tls) = &self.options.tls {
            fs::write(self.directory.join("certificate.pem"), &tls.certificate)?;
            fs::write(self.directory.join("key.pem"), &tls.key)?;
            let (certificate, key) = (path("certificate.pem"), path("key.pem"));
            let mut more = String::new();
            if tls.asks_clients {
                fs::write(self.directory.join("authority.pem"), &tls.authority)?;
                more = format!(", ca_file: {}, verify: true", path("authority.pem"));
            }
            let _ = writeln!(text, "tls {{ cert_file: {certificate}, key_file: {key}{more} }}");
        }
        if let Some(ClusterPart { name, listen, advertise, routes }) = cluster {
            let routes: Vec<String> =
                routes.iter().map(|route| format!("\"nats-route://{route}\"")).collect();
            let _ = writeln!(
                text,
                "cluster {{\n  name: {name}, listen: \"{listen}\", advertise: \"{advertise}\", \
                 no_advertise: true\n  routes: [{}]\n}}",
                routes.join(", ")
            );
        }
        text.push_str(&self.options.more);
        File::create(self.directory.join("configuration"))?.write_all(text.as_bytes())
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the monitoring pages, such as `/jsz`.
    pub fn monitor_address(&self) -> SocketAddr {
        self.monitor
    }

    /// The URL for clients, without credentials: `nats://` or `tls://`.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "tls" } else { "nats" };
        format!("{scheme}://{}", self.address)
    }

    /// The name of the server, which JetStream gives for the leader of a stream.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of the program, such as `2.15.3`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether every message is synced to the disk before it is acknowledged: that was asked for, and the
    /// server can do it.
    pub fn syncs_always(&self) -> bool {
        self.options.sync_always && is_at_least(&self.version, 2, 10)
    }

    /// A directory of this server, which is removed on drop. Tests may put files there.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The id of the process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// A raw client with the credentials of this server. A server with TLS takes none.
    ///
    /// # Errors
    /// The server does not accept the client.
    pub fn client(&self) -> Result<NatsClient, String> {
        self.client_within(PATIENCE)
    }

    /// A raw client of a server that may be paused.
    pub(super) fn client_within(&self, patience: Duration) -> Result<NatsClient, String> {
        NatsClient::connect_within(self.address, self.options.credentials.as_ref(), patience)
    }

    /// Everything that the server has logged.
    pub fn log(&self) -> String {
        fs::read(self.directory.join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Where the process has ended before, there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// It does not run, or does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus, String> {
        self.signal(Signal::TERM);
        let child = self.child.as_mut().ok_or("the NATS server does not run")?;
        let ended = wait_for(PATIENCE, || child.try_wait().ok().flatten());
        let ended = ended.ok_or_else(|| format!("the NATS server {} does not stop", self.name))?;
        self.child = None;
        Ok(ended)
    }

    /// Stops the process without its knowledge (SIGSTOP), and waits until none of its threads runs. Its
    /// sockets stay.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        if let Some(pid) = self.pid() {
            wait_for(PATIENCE, || is_stopped(pid).then_some(()));
        }
    }

    /// Lets a paused process go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid as i32)) {
            // The process may have ended. What is asked of the server next tells that.
            let _ = kill_process(pid, signal);
        }
    }

    /// Starts the process again, on the same port with the same store, and waits until it answers. A process
    /// that runs is killed before.
    ///
    /// # Errors
    /// The server does not start; its log is in the error.
    pub fn restart(&mut self) -> Result<(), String> {
        self.spawn()?;
        self.await_ready()
    }

    /// Starts the process again without waiting for it.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&mut self) -> Result<(), String> {
        self.kill();
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.directory.join("configuration"));
        // A process group of its own: Ctrl-C reaches only the test, which ends the server.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        // A configuration that it does not understand is reported before the log begins.
        let errors = File::options().create(true).append(true).open(self.directory.join("errors"));
        command.stderr(errors.map_err(|error| error.to_string())?);
        let child = command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the server accepts clients, and JetStream answers where the server has it.
    ///
    /// # Errors
    /// It does not in time, or has ended; its log is in the error.
    pub fn await_ready(&mut self) -> Result<(), String> {
        let (address, mut status) = (self.address, None);
        let accepts = wait_for(PATIENCE, || {
            status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            status.map(|_| false).or_else(|| sends_info(address).then_some(true))
        });
        let plain = self.options.tls.is_none();
        let ready = match accepts {
            Some(true) if self.options.jetstream && plain => {
                await_jetstream(address, self.options.credentials.as_ref())
            }
            Some(true) => Ok(()),
            Some(false) => {
                Err(format!("it ended: {}", status.map(|status| status.to_string()).unwrap_or_default()))
            }
            None => Err("it accepts no clients".to_owned()),
        };
        ready.map_err(|problem| {
            let errors = fs::read_to_string(self.directory.join("errors")).unwrap_or_default();
            format!("the NATS server {}: {problem}\n{errors}{}", self.name, self.log())
        })
    }

    /// Reads a monitoring page, such as `/jsz?streams=1`. Returns the status and the body.
    ///
    /// # Errors
    /// The page cannot be read.
    pub fn monitor(&self, path: &str) -> Result<(u16, String), String> {
        let read = || {
            let mut stream = TcpStream::connect_timeout(&self.monitor, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.monitor)?;
            let mut response = String::new();
            stream.read_to_string(&mut response)?;
            Ok(response)
        };
        let response = read().map_err(|error: std::io::Error| format!("{path}: {error}"))?;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or_else(|| format!("{path}: {head:?}"))?, body.to_owned()))
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Whether all threads of a process are stopped, or it has ended.
fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    let state_of =
        |status: String| Some(status.rsplit_once(')')?.1.trim_start().starts_with(['T', 'Z', 'X']));
    let mut statuses = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("stat")));
    // A thread that has ended meanwhile has no file.
    statuses.all(|status| status.ok().and_then(state_of).unwrap_or(true))
}

/// Whether a server accepts clients: it sends INFO before anything else, also with TLS.
fn sends_info(address: SocketAddr) -> bool {
    let first = || {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok::<_, std::io::Error>(line)
    };
    first().is_ok_and(|line| line.starts_with("INFO "))
}
