//! What the machines of a run say to each other: frames over TCP, and the handshake before them.
//!
//! A frame is its length in four bytes, the most significant one first, and a message as JSON. A listening
//! machine greets with its version and a nonce. The controller answers with its version, a nonce of its own,
//! and a proof that it has the token (HMAC-SHA256 over both nonces); then the listening machine proves the
//! same. The token itself never travels. Nothing is encrypted.
//!
//! Until the proof has been seen a frame has at most [`HANDSHAKE_BYTES`], and everything together may take
//! [`HANDSHAKE_TIME`].

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::clock::{self, nanoseconds};
use crate::failure::{Failure, Outcome};
use crate::sys;

/// Rises with each change of a message, or of what it means. The version of the program has to be the same,
/// too.
pub(super) const PROTOCOL: u32 = 4;
const TOOL: &str = "fanfare-load";

/// Before the other side has proved that it has the token.
pub(super) const HANDSHAKE_BYTES: usize = 2048;
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// Afterwards.
pub(super) const FRAME_BYTES: usize = 32 << 20;
/// Of bytes that are sent in pieces.
const PIECE: usize = 1 << 20;
/// A machine that says nothing for so long is lost. Each side says something several times a second.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// The shortest token.
const TOKEN_BYTES: usize = 16;

/// The secret that all machines of a run share.
#[derive(Clone)]
pub(crate) struct Token(Vec<u8>);

impl Token {
    /// The text itself, or with `@FILE` what a file has, without white space around it.
    ///
    /// # Errors
    /// The file cannot be read, or the token is shorter than 16 bytes.
    pub(crate) fn new(given: &str) -> Outcome<Token> {
        let text = match given.strip_prefix('@') {
            None => given.to_owned(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|error| Failure::new(format!("--token {given}: {error}")))?,
        };
        let text = text.trim();
        if text.len() < TOKEN_BYTES {
            return Err(Failure::new(format!(
                "--token: it has to have at least {TOKEN_BYTES} bytes; `openssl rand -hex 16` makes one"
            )));
        }
        Ok(Token(text.as_bytes().to_vec()))
    }

    fn mac(&self, side: Side, listener: &str, controller: &str, role: Role) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of every length"));
        mac.update(format!("{TOOL} {PROTOCOL} {side:?} {role:?} {listener} {controller}").as_bytes());
        mac
    }

    fn proof(&self, side: Side, listener: &str, controller: &str, role: Role) -> String {
        hex(&self.mac(side, listener, controller, role).finalize().into_bytes())
    }

    /// In constant time.
    fn proves(&self, proof: &str, side: Side, listener: &str, controller: &str, role: Role) -> bool {
        let Some(proof) = bytes(proof) else { return false };
        self.mac(side, listener, controller, role).verify_slice(&proof).is_ok()
    }
}

/// Whose proof it is: one cannot be sent back as the other.
#[derive(Clone, Copy, Debug)]
enum Side {
    Listener,
    Controller,
}

/// What a listening machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// It holds subscribers.
    Agent,
    /// It tells the CPU and the memory of a server.
    Watch,
}

#[derive(Serialize, Deserialize)]
struct Greeting {
    tool: String,
    protocol: u32,
    version: String,
    role: Role,
    nonce: String,
}

#[derive(Serialize, Deserialize)]
struct Hello {
    tool: String,
    protocol: u32,
    version: String,
    role: Role,
    nonce: String,
    proof: String,
}

/// A machine that takes part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) commit: String,
    /// A line for people.
    pub(crate) machine: String,
    /// The same for all processes of a machine that was started once.
    pub(crate) boot: String,
    /// That its threads may use.
    pub(crate) cores: usize,
    /// Descriptors of a thread.
    pub(crate) descriptors: u64,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Welcome { proof: String, machine: Machine },
    Refused(String),
}

/// A connection between two machines. Several threads may send; one receives.
pub(super) struct Connection {
    reading: TcpStream,
    writing: Mutex<TcpStream>,
    /// Receiving ends at Ctrl-C.
    heeds_interrupts: bool,
}

/// A message and when its first bytes were there.
pub(super) struct Received<T> {
    pub(super) message: T,
    pub(super) at: u64,
}

impl Connection {
    fn new(socket: TcpStream, heeds_interrupts: bool) -> io::Result<Connection> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(false)?;
        socket.set_write_timeout(Some(HANDSHAKE_TIME))?;
        Ok(Connection { writing: Mutex::new(socket.try_clone()?), reading: socket, heeds_interrupts })
    }

    /// Sends a message.
    pub(super) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_after(message, &[])
    }

    /// Sends a message, and right after it bytes without a meaning of their own, in pieces.
    pub(super) fn send_after(&self, message: &impl Serialize, bytes: &[Vec<u8>]) -> io::Result<()> {
        let mut frame = vec![0; 4];
        serde_json::to_writer(&mut frame, message)?;
        let length = u32::try_from(frame.len() - 4).ok().filter(|&length| length as usize <= FRAME_BYTES);
        let length = length.ok_or_else(|| {
            io::Error::other(format!("a message of {} bytes is too large to be sent", frame.len()))
        })?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let mut socket = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        socket.write_all(&frame)?;
        for piece in bytes.iter().flat_map(|bytes| bytes.chunks(PIECE)) {
            socket.write_all(&(piece.len() as u32).to_be_bytes())?;
            socket.write_all(piece)?;
        }
        Ok(())
    }

    /// The next message. Fails when nothing comes for [`SILENCE`].
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Received<T>> {
        self.receive_frame(FRAME_BYTES, None)
    }

    /// So many bytes that were sent in pieces.
    pub(super) fn receive_bytes(&self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (piece, _) = self.frame((count - bytes.len()).min(PIECE), None)?;
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn receive_frame<T: DeserializeOwned>(
        &self,
        most: usize,
        deadline: Option<u64>,
    ) -> io::Result<Received<T>> {
        let (frame, at) = self.frame(most, deadline)?;
        let message = serde_json::from_slice(&frame)
            .map_err(|error| io::Error::other(format!("it said something that has no meaning: {error}")))?;
        Ok(Received { message, at })
    }

    fn frame(&self, most: usize, deadline: Option<u64>) -> io::Result<(Vec<u8>, u64)> {
        let mut length = [0; 4];
        self.fill(&mut length, deadline)?;
        let at = clock::now();
        let length = u32::from_be_bytes(length) as usize;
        if length > most || length == 0 {
            return Err(io::Error::other(format!("it sent a frame of {length} bytes; 1 to {most} may come")));
        }
        let mut frame = vec![0; length];
        self.fill(&mut frame, deadline)?;
        Ok((frame, at))
    }

    /// Reads until a buffer is full. Without a deadline each read may take [`SILENCE`].
    fn fill(&self, mut into: &mut [u8], deadline: Option<u64>) -> io::Result<()> {
        /// Between two looks at Ctrl-C.
        const SLICE: Duration = Duration::from_millis(200);
        let patience = || clock::now() + nanoseconds(SILENCE);
        let mut until = deadline.unwrap_or_else(patience);
        while !into.is_empty() {
            let left = Duration::from_nanos(until.saturating_sub(clock::now()));
            if left.is_zero() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it said nothing in time"));
            }
            if self.heeds_interrupts && sys::interrupted() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
            }
            self.reading.set_read_timeout(Some(left.clamp(Duration::from_millis(1), SLICE)))?;
            match (&self.reading).read(into) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the connection was closed from the other side",
                    ));
                }
                Ok(read) => {
                    into = &mut into[read..];
                    until = deadline.unwrap_or_else(patience);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Ends the connection for both sides, and for a thread that receives.
    pub(super) fn close(&self) {
        let _ = self.reading.shutdown(Shutdown::Both);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A client thread has a copy of the descriptor, so closing this one would end nothing.
        self.close();
    }
}

fn versions_differ(tool: &str, protocol: u32, version: &str) -> Option<String> {
    let own = env!("CARGO_PKG_VERSION");
    if tool != TOOL {
        return Some(format!("it is not {TOOL}"));
    }
    (protocol != PROTOCOL || version != own).then(|| {
        format!(
            "it has version {} (protocol {protocol}), here it is {own} (protocol {PROTOCOL}): use the same on all machines",
            version.escape_debug().take(40).collect::<String>()
        )
    })
}

/// Connects to a machine that listens, as the controller.
///
/// # Errors
/// Nothing listens there in time, it is of another version or role, it does not know the token, or it
/// refuses. The text does not name the machine.
pub(super) fn connect(address: &str, role: Role, token: &Token) -> Outcome<(Connection, Machine)> {
    let failed = |error: io::Error| Failure::new(error.to_string());
    let addresses = address.to_socket_addrs().map_err(failed)?;
    let socket = crate::target::connect_to_one_of(addresses, HANDSHAKE_TIME)
        .map_err(|error| Failure::new(format!("cannot connect: {error}: is it started, and reachable?")))?;
    let connection = Connection::new(socket, false).map_err(failed)?;
    let deadline = clock::now() + nanoseconds(HANDSHAKE_TIME);
    let late = |error: io::Error| Failure::new(format!("no greeting of {TOOL} came: {error}"));
    let greeting: Greeting = connection.receive_frame(HANDSHAKE_BYTES, Some(deadline)).map_err(late)?.message;
    if let Some(text) = versions_differ(&greeting.tool, greeting.protocol, &greeting.version) {
        return Err(Failure::new(text));
    }
    if greeting.role != role {
        let command = if role == Role::Agent { "agent" } else { "watch" };
        return Err(Failure::new(format!("it was not started as `{TOOL} {command}`")));
    }
    let nonce = nonce()?;
    let proof = token.proof(Side::Controller, &greeting.nonce, &nonce, role);
    let hello = Hello {
        tool: TOOL.to_owned(),
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role,
        nonce: nonce.clone(),
        proof,
    };
    connection.send(&hello).map_err(failed)?;
    let answer = connection.receive_frame(HANDSHAKE_BYTES, Some(deadline));
    match answer.map_err(|error| Failure::new(format!("no answer to the token: {error}")))?.message {
        Answer::Refused(text) => {
            Err(Failure::new(format!("it refuses: {}", crate::failure::excerpt(text.as_bytes()))))
        }
        Answer::Welcome { proof, machine } => {
            match token.proves(&proof, Side::Listener, &greeting.nonce, &nonce, role) {
                true => Ok((connection, machine)),
                false => Err(Failure::new("it does not have the token")),
            }
        }
    }
}

/// The other side of [`connect`]: greets the other side, and checks its token. With `busy` a text says
/// why no controller is served now; only a controller with the token is told.
///
/// # Errors
/// The other side is late, sends something else, or does not have the token.
pub(super) fn accept(
    socket: TcpStream,
    role: Role,
    token: &Token,
    machine: Machine,
    busy: impl FnOnce() -> Option<String>,
) -> io::Result<Option<Connection>> {
    let connection = Connection::new(socket, true)?;
    let deadline = clock::now() + nanoseconds(HANDSHAKE_TIME);
    let nonce = nonce().map_err(|failure| io::Error::other(failure.to_string()))?;
    connection.send(&Greeting {
        tool: TOOL.to_owned(),
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role,
        nonce: nonce.clone(),
    })?;
    let hello: Hello = connection.receive_frame(HANDSHAKE_BYTES, Some(deadline))?.message;
    let refuse = |text: String| {
        connection.send(&Answer::Refused(text.clone()))?;
        Err(io::Error::other(text))
    };
    if let Some(text) = versions_differ(&hello.tool, hello.protocol, &hello.version) {
        return refuse(text);
    }
    if hello.role != role || !token.proves(&hello.proof, Side::Controller, &nonce, &hello.nonce, role) {
        return refuse("the token is not the one that was given here".to_owned());
    }
    if let Some(text) = busy() {
        connection.send(&Answer::Refused(text))?;
        return Ok(None);
    }
    let proof = token.proof(Side::Listener, &nonce, &hello.nonce, role);
    connection.send(&Answer::Welcome { proof, machine })?;
    Ok(Some(connection))
}

/// A number that was never used before.
fn nonce() -> Outcome<String> {
    let mut bytes = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Failure::new("the system gives no random numbers"))?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
        return None;
    }
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn token(text: &str) -> Token {
        Token::new(text).unwrap()
    }

    #[test]
    fn a_token_is_long_and_may_stand_in_a_file() {
        assert!(Token::new("too short").err().unwrap().to_string().contains("16 bytes"));
        let path = std::env::temp_dir().join(format!("fanfare-load-{}-token", std::process::id()));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let read = token(&format!("@{}", path.display()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.0, token("0123456789abcdef").0);
        assert!(Token::new("@/nowhere").err().unwrap().to_string().contains("/nowhere"));
    }

    #[test]
    fn a_proof_is_good_for_one_side_one_role_and_these_nonces() {
        let token = token("0123456789abcdef");
        let proof = token.proof(Side::Controller, "a", "b", Role::Agent);
        assert!(token.proves(&proof, Side::Controller, "a", "b", Role::Agent));
        assert!(!token.proves(&proof, Side::Listener, "a", "b", Role::Agent));
        assert!(!token.proves(&proof, Side::Controller, "a", "b", Role::Watch));
        assert!(!token.proves(&proof, Side::Controller, "b", "a", Role::Agent));
        assert!(!Token(b"fedcba9876543210".to_vec()).proves(&proof, Side::Controller, "a", "b", Role::Agent));
        for wrong in ["", "zz", "é", &proof[1..], &proof[2..]] {
            assert!(!token.proves(wrong, Side::Controller, "a", "b", Role::Agent), "{wrong}");
        }
    }

    /// A greeting of a machine that only looks like one of ours.
    #[test]
    fn a_machine_of_another_version_or_without_the_token_is_not_joined() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let machine = std::thread::spawn(move || {
            for (protocol, version) in
                [(PROTOCOL + 1, env!("CARGO_PKG_VERSION")), (PROTOCOL, env!("CARGO_PKG_VERSION"))]
            {
                let connection = Connection::new(listener.accept().unwrap().0, false).unwrap();
                let greeting = Greeting {
                    tool: TOOL.to_owned(),
                    protocol,
                    version: version.to_owned(),
                    role: Role::Agent,
                    nonce: "00".to_owned(),
                };
                connection.send(&greeting).unwrap();
                if let Ok(Received { message, .. }) = connection.receive::<Hello>() {
                    // It sends back what it was told.
                    let answer = Answer::Welcome { proof: message.proof, machine: Machine::default() };
                    connection.send(&answer).unwrap();
                }
            }
        });
        let told = || {
            let joined = connect(&address, Role::Agent, &token("0123456789abcdef"));
            joined.err().unwrap().to_string()
        };
        let (first, second) = (told(), told());
        machine.join().unwrap();
        assert!(
            first.contains(&format!("protocol {PROTOCOL}")) && first.contains("same on all machines"),
            "{first}"
        );
        assert!(second.contains("does not have the token"), "{second}");
    }
}
