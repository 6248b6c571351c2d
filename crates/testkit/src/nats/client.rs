//! A raw client of NATS: the text protocol over a blocking socket.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::NatsCredentials;
use super::{PATIENCE, wait_for};

/// The subscription for replies.
const REPLIES: u64 = 1;

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsMessage {
    /// Its subject.
    pub subject: String,
    /// The subject for a reply, if the publisher asks for one.
    pub reply: Option<String>,
    /// The status of the header block, such as `503` where no program answers a request.
    pub status: Option<u16>,
    /// The headers, in their order.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The answer of JetStream to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The name of the stream.
    pub stream: String,
    /// The number of the message in the stream.
    pub seq: u64,
    /// The stream had a message with this `Nats-Msg-Id` already.
    pub duplicate: bool,
}

/// A connection of a NATS program. It speaks no TLS.
#[derive(Debug)]
pub struct NatsClient {
    stream: BufReader<TcpStream>,
    info: Value,
    inbox: String,
    requests: u64,
    next_subscription: u64,
    /// Messages of subscriptions, which arrived while a reply was awaited.
    arrived: VecDeque<(u64, NatsMessage)>,
    /// What was read of an operation before the time was over.
    partial: Vec<u8>,
}

impl NatsClient {
    /// Connects to a server that asks for no credentials.
    ///
    /// # Errors
    /// The server cannot be reached, or its answer is not that of a NATS server.
    pub fn connect(address: SocketAddr) -> Result<NatsClient, String> {
        NatsClient::connect_as(address, None)
    }

    /// Connects with credentials.
    ///
    /// # Errors
    /// As with [`NatsClient::connect`], or the server refuses the credentials.
    pub fn connect_as(
        address: SocketAddr,
        credentials: Option<&NatsCredentials>,
    ) -> Result<NatsClient, String> {
        NatsClient::connect_within(address, credentials, PATIENCE)
    }

    /// As [`NatsClient::connect_as`], with a time for each step: a paused server takes connections.
    ///
    /// # Errors
    /// As with [`NatsClient::connect_as`].
    pub fn connect_within(
        address: SocketAddr,
        credentials: Option<&NatsCredentials>,
        patience: Duration,
    ) -> Result<NatsClient, String> {
        let stream = TcpStream::connect_timeout(&address, patience).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut client = NatsClient {
            stream: BufReader::new(stream),
            info: Value::Null,
            inbox: String::new(),
            requests: 0,
            next_subscription: REPLIES + 1,
            arrived: VecDeque::new(),
            partial: Vec::new(),
        };
        let first = client.line(patience)?.ok_or("the server sends no INFO")?;
        let info = first.strip_prefix("INFO ").and_then(|text| serde_json::from_str(text).ok());
        client.info = info.ok_or_else(|| format!("the server begins with {first:?}, not with INFO"))?;
        let mut options = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1,
            "lang": "rust", "version": "0", "name": "fanfare-testkit",
        });
        match credentials {
            None => {}
            Some(NatsCredentials::User { name, password }) => {
                options["user"] = name.as_str().into();
                options["pass"] = password.as_str().into();
            }
            Some(NatsCredentials::Token(token)) => options["auth_token"] = token.as_str().into(),
        }
        // The number that the server gave to this connection makes the inbox unique.
        client.inbox = format!(
            "_INBOX.{}.{}",
            client.info["server_id"].as_str().unwrap_or("x"),
            client.info["client_id"]
        );
        let (inbox, options) = (client.inbox.clone(), options.to_string());
        client.send(format!("CONNECT {options}\r\nSUB {inbox}.* {REPLIES}\r\nPING\r\n").as_bytes())?;
        client.await_pong(patience)?;
        Ok(client)
    }

    /// The INFO of the server.
    pub fn info(&self) -> &Value {
        &self.info
    }

    /// The version of the server.
    pub fn server_version(&self) -> &str {
        self.info["version"].as_str().unwrap_or_default()
    }

    /// Publishes a message without an acknowledgement.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn publish(&mut self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Result<(), String> {
        self.publish_with_reply(subject, None, headers, payload)
    }

    /// Publishes a message with this header block as it is. It begins with `NATS/1.0` and a line end, and
    /// ends with an empty line; the server reads no more of it.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn publish_raw(&mut self, subject: &str, block: &[u8], payload: &[u8]) -> Result<(), String> {
        let head = format!("HPUB {subject} {} {}\r\n", block.len(), block.len() + payload.len());
        self.send(&[head.as_bytes(), block, payload, b"\r\n"].concat())
    }

    /// Waits until the server has taken everything that was published.
    ///
    /// # Errors
    /// The connection is broken, or the server reports an error.
    pub fn flush(&mut self) -> Result<(), String> {
        self.send(b"PING\r\n")?;
        self.await_pong(PATIENCE)
    }

    /// Publishes to a stream and waits for the acknowledgement.
    ///
    /// # Errors
    /// The connection is broken, no stream takes the subject, or the stream refuses the message.
    pub fn publish_acked(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<Acknowledgement, String> {
        self.publish_acked_within(subject, headers, payload, PATIENCE)
    }

    /// As [`NatsClient::publish_acked`], with a time for the acknowledgement. Without one in time the stream
    /// may have the message.
    ///
    /// # Errors
    /// As with [`NatsClient::publish_acked`].
    pub fn publish_acked_within(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
        patience: Duration,
    ) -> Result<Acknowledgement, String> {
        let message = self.request_with(subject, headers, payload, patience)?;
        let answer = json_answer(subject, &message)?;
        match (answer["stream"].as_str(), answer["seq"].as_u64()) {
            (Some(stream), Some(seq)) => Ok(Acknowledgement {
                stream: stream.to_owned(),
                seq,
                duplicate: answer["duplicate"].as_bool().unwrap_or(false),
            }),
            _ => Err(format!("{subject}: JetStream answered {answer}")),
        }
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// The connection is broken, no program answers requests on the subject, or there is no reply in time.
    pub fn request(
        &mut self,
        subject: &str,
        payload: &[u8],
        patience: Duration,
    ) -> Result<NatsMessage, String> {
        self.request_with(subject, &[], payload, patience)
    }

    /// Calls the API of JetStream: `$JS.API.` and this subject. Returns the answer.
    ///
    /// # Errors
    /// As with [`NatsClient::request`], or the answer has an error.
    pub fn jetstream(&mut self, subject: &str, request: &Value) -> Result<Value, String> {
        self.jetstream_within(subject, request, PATIENCE)
    }

    /// As [`NatsClient::jetstream`], with a time for the answer. While a leader is elected there is none.
    ///
    /// # Errors
    /// As with [`NatsClient::jetstream`].
    pub fn jetstream_within(
        &mut self,
        subject: &str,
        request: &Value,
        patience: Duration,
    ) -> Result<Value, String> {
        let payload = if request.is_null() { String::new() } else { request.to_string() };
        let message = self.request(&format!("$JS.API.{subject}"), payload.as_bytes(), patience)?;
        json_answer(subject, &message)
    }

    /// Creates a stream from its configuration, which has at least `name` and `subjects`. Where nothing else
    /// is said, it is stored in files.
    ///
    /// # Errors
    /// As with [`NatsClient::jetstream`].
    pub fn create_stream(&mut self, configuration: &Value) -> Result<Value, String> {
        let mut whole = json!({ "retention": "limits", "storage": "file", "num_replicas": 1 });
        for (key, value) in configuration.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        let name = whole["name"].as_str().unwrap_or_default().to_owned();
        self.jetstream(&format!("STREAM.CREATE.{name}"), &whole)
    }

    /// Changes the settings of a stream. What `changes` does not name stays as it is.
    ///
    /// # Errors
    /// As with [`NatsClient::jetstream`].
    pub fn update_stream(&mut self, name: &str, changes: &Value) -> Result<Value, String> {
        let mut whole = self.stream_info(name)?["config"].take();
        for (key, value) in changes.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        self.jetstream(&format!("STREAM.UPDATE.{name}"), &whole)
    }

    /// The settings, the state and the cluster of a stream.
    ///
    /// # Errors
    /// As with [`NatsClient::jetstream`].
    pub fn stream_info(&mut self, name: &str) -> Result<Value, String> {
        self.jetstream(&format!("STREAM.INFO.{name}"), &Value::Null)
    }

    /// Deletes a stream.
    ///
    /// # Errors
    /// As with [`NatsClient::jetstream`].
    pub fn delete_stream(&mut self, name: &str) -> Result<(), String> {
        self.jetstream(&format!("STREAM.DELETE.{name}"), &Value::Null).map(|_| ())
    }

    /// Removes all messages of a stream but the newest `keep`. Returns how many were removed.
    ///
    /// # Errors
    /// As with [`NatsClient::jetstream`].
    pub fn purge_stream(&mut self, name: &str, keep: u64) -> Result<u64, String> {
        let request = if keep == 0 { Value::Null } else { json!({ "keep": keep }) };
        let answer = self.jetstream(&format!("STREAM.PURGE.{name}"), &request)?;
        Ok(answer["purged"].as_u64().unwrap_or(0))
    }

    /// Subscribes to a subject. Returns the number of the subscription.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn subscribe(&mut self, subject: &str) -> Result<u64, String> {
        let number = self.next_subscription;
        self.next_subscription += 1;
        self.send(format!("SUB {subject} {number}\r\n").as_bytes())?;
        self.flush()?;
        Ok(number)
    }

    /// The next message of a subscription. `None`: there is none in time.
    ///
    /// # Errors
    /// The connection is broken, or the server reports an error.
    pub fn next(&mut self, subscription: u64, patience: Duration) -> Result<Option<NatsMessage>, String> {
        loop {
            if let Some(place) = self.arrived.iter().position(|(number, _)| *number == subscription) {
                return Ok(self.arrived.remove(place).map(|(_, message)| message));
            }
            let Some(operation) = self.operation(patience)? else { return Ok(None) };
            self.keep(operation);
        }
    }

    fn request_with(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
        patience: Duration,
    ) -> Result<NatsMessage, String> {
        self.requests += 1;
        let reply = format!("{}.{}", self.inbox, self.requests);
        self.publish_with_reply(subject, Some(&reply), headers, payload)?;
        loop {
            match self.operation(patience)? {
                Some(Operation::Message(REPLIES, message)) if message.subject == reply => {
                    if message.status == Some(503) {
                        return Err(format!("no program answers requests on {subject}"));
                    }
                    return Ok(message);
                }
                // The reply to an earlier request, which was given up.
                Some(Operation::Message(REPLIES, _)) => {}
                Some(other) => self.keep(other),
                None => return Err(format!("no reply to a request on {subject} within {patience:?}")),
            }
        }
    }

    fn publish_with_reply(
        &mut self,
        subject: &str,
        reply: Option<&str>,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Result<(), String> {
        let mut block = String::new();
        if !headers.is_empty() {
            block.push_str("NATS/1.0\r\n");
            headers.iter().for_each(|(name, value)| block.push_str(&format!("{name}: {value}\r\n")));
            block.push_str("\r\n");
        }
        let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
        let head = match block.len() {
            0 => format!("PUB {subject} {reply}{}\r\n", payload.len()),
            length => format!("HPUB {subject} {reply}{length} {}\r\n", length + payload.len()),
        };
        self.send(&[head.as_bytes(), block.as_bytes(), payload, b"\r\n"].concat())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream
            .get_mut()
            .write_all(bytes)
            .map_err(|error| format!("the connection to NATS broke: {error}"))
    }

    fn await_pong(&mut self, patience: Duration) -> Result<(), String> {
        loop {
            match self.operation(patience)? {
                Some(Operation::Pong) => return Ok(()),
                Some(other) => self.keep(other),
                None => return Err(format!("the server answers no PING within {patience:?}")),
            }
        }
    }

    fn keep(&mut self, operation: Operation) {
        match operation {
            Operation::Message(subscription, message) => self.arrived.push_back((subscription, message)),
            Operation::Info(info) => self.info = info,
            Operation::Pong => {}
        }
    }

    /// The next operation of the server, other than PING, which is answered.
    fn operation(&mut self, patience: Duration) -> Result<Option<Operation>, String> {
        loop {
            let Some(line) = self.line(patience)? else { return Ok(None) };
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                "PING" => self.send(b"PONG\r\n")?,
                "PONG" => return Ok(Some(Operation::Pong)),
                "+OK" => {}
                "INFO" => return Ok(Some(Operation::Info(serde_json::from_str(rest).unwrap_or_default()))),
                "MSG" | "HMSG" => {
                    let (subscription, message) = self.message(word == "HMSG", rest)?;
                    return Ok(Some(Operation::Message(subscription, message)));
                }
                "-ERR" => return Err(format!("the NATS server reports {rest}")),
                _ => return Err(format!("the NATS server sends {line:?}")),
            }
        }
    }

    fn message(&mut self, has_headers: bool, line: &str) -> Result<(u64, NatsMessage), String> {
        let odd = || format!("the NATS server announces a message with {line:?}");
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let sizes = if has_headers { 2 } else { 1 };
        let (front, lengths) = words.split_at_checked(words.len().wrapping_sub(sizes)).ok_or_else(odd)?;
        let number = |text: &str| text.parse::<usize>().map_err(|_| odd());
        let whole = number(lengths[sizes - 1])?;
        let head = if has_headers { number(lengths[0])? } else { 0 };
        let (subject, subscription, reply) = match *front {
            [subject, subscription] => (subject, subscription, None),
            [subject, subscription, reply] => (subject, subscription, Some(reply.to_owned())),
            _ => return Err(odd()),
        };
        let mut body = vec![0; whole + 2];
        self.wait_at_most(PATIENCE)?;
        self.stream.read_exact(&mut body).map_err(|error| format!("a message broke off: {error}"))?;
        body.truncate(whole);
        let payload = body.split_off(head.min(whole));
        let block = String::from_utf8_lossy(&body);
        let mut lines = block.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
        let message = NatsMessage { subject: subject.to_owned(), reply, status, headers, payload };
        Ok((number(subscription)? as u64, message))
    }

    /// A line without its end. `None`: it is not complete in time; a later call returns it.
    fn line(&mut self, patience: Duration) -> Result<Option<String>, String> {
        self.wait_at_most(patience)?;
        match self.stream.read_until(b'\n', &mut self.partial) {
            Ok(_) if self.partial.ends_with(b"\n") => {
                let line = std::mem::take(&mut self.partial);
                Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
            }
            Ok(_) => Err("the NATS server closed the connection".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(format!("the connection to NATS broke: {error}")),
        }
    }

    fn wait_at_most(&mut self, patience: Duration) -> Result<(), String> {
        let patience = patience.max(Duration::from_millis(1));
        self.stream.get_ref().set_read_timeout(Some(patience)).map_err(|error| error.to_string())
    }
}

/// What a server sends.
enum Operation {
    Message(u64, NatsMessage),
    Info(Value),
    Pong,
}

/// The JSON of an answer of JetStream that reports no error.
fn json_answer(subject: &str, message: &NatsMessage) -> Result<Value, String> {
    let answer: Value = serde_json::from_slice(&message.payload)
        .map_err(|error| format!("{subject}: an answer of JetStream is no JSON: {error}"))?;
    match &answer["error"] {
        Value::Null => Ok(answer),
        error => Err(format!("{subject}: JetStream answered {error}")),
    }
}

/// Waits until JetStream answers at this address.
pub(super) fn await_jetstream(
    address: SocketAddr,
    credentials: Option<&NatsCredentials>,
) -> Result<(), String> {
    let mut problem = String::new();
    let ready = wait_for(PATIENCE, || {
        let asked = NatsClient::connect_as(address, credentials).and_then(|mut client| {
            let message = client.request("$JS.API.INFO", b"", Duration::from_secs(2))?;
            json_answer("INFO", &message)
        });
        asked.map(|_| ()).map_err(|error| problem = error).ok()
    });
    ready.ok_or_else(|| format!("JetStream does not answer at {address}: {problem}"))
}
