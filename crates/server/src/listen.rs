//! Where the server listens: what `--listen` and `--listen-proxy` say.

use std::net::SocketAddr;

use fanfare::listeners::{self, ActivationError};
use fanfare::{Listener, SharedProxies};
use fanfare_config::{Listen, Settings};

/// What the server listens on, as far as its rules and its output depend on it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listening {
    /// All addresses of TCP.
    pub(crate) addresses: Vec<SocketAddr>,
    /// On a Unix socket, too.
    pub(crate) has_unix_sockets: bool,
    /// Listeners to which clients connect themselves; they come first.
    pub(crate) direct: usize,
    /// Those of them that have an address.
    pub(crate) direct_addresses: usize,
}

/// The listeners of all options. Those of `--listen-proxy` expect the PROXY protocol from these proxies.
///
/// # Errors
/// Systemd has opened no socket for this process.
pub(crate) fn listeners(
    settings: &Settings,
    proxies: &SharedProxies,
) -> Result<(Vec<Listener>, Listening), ActivationError> {
    let mut all = opened(&settings.listen, settings.unix_mode)?;
    let direct = all.len();
    let proxied = opened(&settings.listen_proxy, settings.unix_mode)?;
    all.extend(proxied.into_iter().map(|listener| listener.with_shared_proxies(proxies.clone())));
    let addresses: Vec<SocketAddr> = all.iter().filter_map(Listener::address).collect();
    let listening = Listening {
        has_unix_sockets: addresses.len() < all.len(),
        direct,
        direct_addresses: all[..direct].iter().filter_map(Listener::address).count(),
        addresses,
    };
    Ok((all, listening))
}

/// Files of Unix sockets get this mode.
fn opened(all: &[Listen], unix_mode: Option<u32>) -> Result<Vec<Listener>, ActivationError> {
    let mut listeners = Vec::new();
    for listen in all {
        match listen {
            Listen::Tcp(address) => listeners.push(Listener::tcp(*address)),
            Listen::Unix(path) => {
                let listener = Listener::unix(path);
                listeners.push(match unix_mode {
                    Some(mode) => listener.with_mode(mode),
                    None => listener,
                });
            }
            Listen::Abstract(name) => listeners.push(Listener::unix_abstract(name.as_bytes())),
            Listen::Systemd => {
                let sockets = listeners::from_systemd()?;
                listeners.extend(sockets.into_iter().map(|socket| socket.listener));
            }
        }
    }
    Ok(listeners)
}
