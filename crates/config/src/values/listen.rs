//! Where the server listens: what `--listen` says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// One `--listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address of TCP.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// A name in the abstract namespace of Unix sockets.
    Abstract(String),
    /// All sockets that systemd has opened.
    Systemd,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        if text == "systemd" {
            return Ok(Listen::Systemd);
        }
        match text.strip_prefix("unix:").map(|path| (path, path.strip_prefix('@'))) {
            Some(("" | "@", _)) => {
                Err("write a path behind unix:, for example unix:/run/fanfare/events.sock".to_owned())
            }
            Some((_, Some(name))) => Ok(Listen::Abstract(name.to_owned())),
            Some((path, None)) => Ok(Listen::Unix(PathBuf::from(path))),
            None => text.parse().map(Listen::Tcp).map_err(|_| {
                "write an IP address and a port such as 127.0.0.1:8844, the path of a Unix socket such as \
                 unix:/run/fanfare/events.sock, or systemd"
                    .to_owned()
            }),
        }
    }
}

/// Reads the mode of a file, in octal digits as for `chmod`.
///
/// # Errors
/// It is no such mode.
pub fn mode(text: &str) -> Result<u32, String> {
    let is_octal = (1..=4).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| "write octal digits such as 660, at most 777".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listen_may_say() {
        for (text, listen) in [
            ("127.0.0.1:0", Listen::Tcp("127.0.0.1:0".parse().unwrap())),
            ("[::]:80", Listen::Tcp("[::]:80".parse().unwrap())),
            ("unix:/run/f.sock", Listen::Unix("/run/f.sock".into())),
            ("unix:relative", Listen::Unix("relative".into())),
            ("unix:@name", Listen::Abstract("name".to_owned())),
            ("systemd", Listen::Systemd),
        ] {
            assert_eq!(text.parse(), Ok(listen), "{text}");
        }
        for wrong in [
            "",
            "localhost:80",
            "127.0.0.1",
            "/run/f.sock",
            "unix",
            "unix:",
            "unix:@",
            "systemd:web",
            "Systemd",
        ] {
            let error = wrong.parse::<Listen>().unwrap_err();
            assert!(error.contains("unix:/run"), "{wrong}: {error}");
        }
    }

    #[test]
    fn modes_are_octal() {
        for (text, wanted) in
            [("660", Some(0o660)), ("0600", Some(0o600)), ("777", Some(0o777)), ("0", Some(0))]
        {
            assert_eq!(mode(text).ok(), wanted, "{text}");
        }
        for wrong in ["", "1000", "8", "0o660", "+6", "rw", "00660"] {
            assert!(mode(wrong).unwrap_err().contains("octal"), "{wrong}");
        }
    }
}
