//! A proxy that takes TLS off, for the fake server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A proxy that runs.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// The file with its certificate.
    pub(crate) certificate: PathBuf,
}

impl Proxy {
    /// Takes TLS for localhost and 127.0.0.1, and passes what is in it to `target`.
    pub(crate) fn start(target: SocketAddr) -> Proxy {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = super::scratch("certificate.pem");
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (socket, config) = (socket.unwrap(), config.clone());
                std::thread::spawn(move || pass(socket, &config, target));
            }
        });
        Proxy { address, certificate }
    }
}

/// Passes bytes in turns, until one side ends.
fn pass(socket: TcpStream, config: &Arc<ServerConfig>, target: SocketAddr) {
    let turn = Some(Duration::from_millis(1));
    let mut inside = TcpStream::connect(target).unwrap();
    inside.set_nodelay(true).unwrap();
    inside.set_read_timeout(turn).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(turn).unwrap();
    let mut outside = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
    let mut buffer = [0; 16 * 1024];
    loop {
        if moved(&mut outside, &mut inside, &mut buffer).is_none() {
            return;
        }
        if moved(&mut inside, &mut outside, &mut buffer).is_none() {
            outside.conn.send_close_notify();
            let _ = outside.flush();
            return;
        }
    }
}

/// Moves what is there; `None`: it is over.
fn moved(from: &mut impl Read, to: &mut impl Write, buffer: &mut [u8]) -> Option<()> {
    match from.read(buffer) {
        Ok(0) => None,
        Ok(length) => to.write_all(&buffer[..length]).and_then(|()| to.flush()).ok(),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Some(()),
        Err(_) => None,
    }
}
