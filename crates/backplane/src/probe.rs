//! Says what is wrong where no connection to NATS comes about.

use std::error::Error;
use std::time::Duration;

use async_nats::ServerAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::options::{NatsOptions, without_password};
use crate::{ConnectError, ConnectErrorKind};

/// How long the first words of a server may take.
const PATIENCE: Duration = Duration::from_millis(700);

/// What answers at an address.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nats,
    /// Something else, which has said this.
    Other(String),
    /// It takes connections and says nothing.
    Silent,
    /// It ends connections over what a client of NATS says.
    Ends,
    /// The connection fails.
    Nothing(String),
}

/// Explains why the library could not connect.
pub(crate) async fn explain(options: &NatsOptions, error: &async_nats::ConnectError) -> ConnectError {
    use async_nats::ConnectErrorKind as Library;
    let shown = options.servers.iter().map(|url| without_password(url)).collect::<Vec<_>>().join(", ");
    let cause = causes(error);
    let is_refused = cause.to_ascii_lowercase().contains("authoriz");
    match error.kind() {
        Library::AuthorizationViolation => return credentials(&shown),
        Library::Authentication => {
            let what =
                format!("the credentials for {shown} cannot be used ({cause}); check the credentials file");
            return ConnectError::new(ConnectErrorKind::Credentials, what);
        }
        _ if is_refused => return credentials(&shown),
        _ => {}
    }
    let mut nothing = Vec::new();
    for url in &options.servers {
        let Ok(address) = url.parse::<ServerAddr>() else { continue };
        let (url, found) = (without_password(url), probe(&address).await);
        let what = match found {
            Found::Other(said) => format!(
                "{url} is no NATS server: it answers {said:?}; name the address for clients of a NATS server, whose port is 4222 by default"
            ),
            Found::Ends => format!(
                "{url} takes connections, but does not greet as a NATS server does; name the address for clients of a NATS server, whose port is 4222 by default"
            ),
            // The kernel takes connections for a server that is stopped, or has too much to do.
            Found::Silent => {
                nothing.push(format!(
                    "{url} (it takes connections and says nothing: a NATS server that hangs, or another program)"
                ));
                continue;
            }
            Found::Nats => {
                let is_tls = ["tls", "certificate", "handshake", "alert"]
                    .iter()
                    .any(|word| cause.to_ascii_lowercase().contains(word));
                let (kind, advice) = if is_tls {
                    (
                        ConnectErrorKind::Tls,
                        "check the files for TLS, and the name in the certificate of the server",
                    )
                } else {
                    (ConnectErrorKind::Unreachable, "check the log of the NATS server")
                };
                let what = format!("the connection to the NATS server at {url} fails: {cause}; {advice}");
                return ConnectError::new(kind, what);
            }
            Found::Nothing(why) => {
                nothing.push(format!("{url} ({why})"));
                continue;
            }
        };
        return ConnectError::new(ConnectErrorKind::NotNats, what);
    }
    let what = format!(
        "no NATS server answers at {}; check the addresses, and whether the server runs",
        nothing.join(", ")
    );
    ConnectError::new(ConnectErrorKind::Unreachable, what)
}

fn credentials(shown: &str) -> ConnectError {
    let what = format!(
        "the NATS server at {shown} refuses these credentials; check the user and the password in the URL, or the credentials file"
    );
    ConnectError::new(ConnectErrorKind::Credentials, what)
}

/// The error with its causes.
fn causes(error: &async_nats::ConnectError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

async fn probe(address: &ServerAddr) -> Found {
    let connect = TcpStream::connect((address.host(), address.port()));
    let mut stream = match tokio::time::timeout(PATIENCE, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Found::Nothing(error.to_string()),
        Err(_) => return Found::Nothing("no answer".to_owned()),
    };
    // A NATS server speaks first. Servers of other protocols wait, and complain about what they do not know.
    for words in [&b""[..], b"PING\r\n\r\n"] {
        if stream.write_all(words).await.is_err() {
            return Found::Ends;
        }
        let mut bytes = [0; 64];
        match tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await {
            Ok(Ok(count)) if bytes[..count].starts_with(b"INFO ") => return Found::Nats,
            Ok(Ok(count)) if count > 0 => {
                let said = String::from_utf8_lossy(&bytes[..count]);
                return Found::Other(said.lines().next().unwrap_or_default().to_owned());
            }
            // A balancer takes connections for a server that is away, and ends them at once.
            Ok(_) if words.is_empty() => {
                return Found::Nothing("the connection is closed at once".to_owned());
            }
            Ok(_) => return Found::Ends,
            Err(_) => {}
        }
    }
    Found::Silent
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as Socket};

    use super::*;

    /// What is found at a server that does this with its connection.
    fn found(serve: impl FnOnce(Socket) + Send + 'static) -> Found {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("nats://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = std::thread::spawn(move || serve(listener.accept().unwrap().0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(probe(&address));
        server.join().unwrap();
        found
    }

    /// A node that began while NATS was away behind a balancer gave up at once: what ends connections was
    /// taken for another server.
    #[test]
    fn a_balancer_without_a_server_is_no_other_server() {
        assert!(matches!(found(drop), Found::Nothing(_)));
    }

    #[test]
    fn what_speaks_tells_what_it_is() {
        let says = |words: &'static [u8]| {
            move |mut stream: Socket| {
                stream.write_all(words).unwrap();
                let _ = stream.read(&mut [0; 64]);
            }
        };
        assert_eq!(found(says(b"INFO {}\r\n")), Found::Nats);
        assert_eq!(found(says(b"SSH-2.0\r\nmore")), Found::Other("SSH-2.0".to_owned()));
        // It ends the connection over words that it does not know.
        assert_eq!(found(|mut stream| drop(stream.read(&mut [0; 64]))), Found::Ends);
        // One that hangs.
        assert_eq!(found(|mut stream| drop(stream.read_to_end(&mut Vec::new()))), Found::Silent);
    }
}
