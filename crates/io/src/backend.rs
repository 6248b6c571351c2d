//! The choice between the two ways to talk to the kernel.

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::uring::{self, ProbeError};

/// By which calls of the kernel a shard sends. Both accept and wait with epoll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring where the kernel allows it, epoll elsewhere.
    #[default]
    Auto,
    /// A `send` for each socket. It works everywhere.
    Epoll,
    /// io_uring: many sends in one system call. It needs Linux 6.1, and containers often forbid it.
    IoUring,
}

/// A backend that is known to work here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// [`Backend::Epoll`] or [`Backend::IoUring`], never [`Backend::Auto`].
    pub backend: Backend,
    /// Why `auto` had to take epoll: one line for the operator.
    pub fallback: Option<String>,
}

impl Backend {
    /// Decides, once per process. For io_uring it sets up a ring with the flags that will be used, asks
    /// for the operations and tries one: a container's filter shows itself nowhere else.
    ///
    /// # Errors
    /// io_uring was asked for by name and is refused; the message says by what, and what to do.
    pub fn resolve(self) -> io::Result<Resolved> {
        match self {
            Self::Epoll => Ok(Resolved { backend: Self::Epoll, fallback: None }),
            Self::IoUring => match uring::probe() {
                Ok(()) => Ok(Resolved { backend: Self::IoUring, fallback: None }),
                Err(refused) => Err(io::Error::new(
                    refused.error.kind(),
                    format!("io_uring cannot be used: {}; or start with --backend epoll", explain(&refused)),
                )),
            },
            Self::Auto => Ok(match uring::probe() {
                Ok(()) => Resolved { backend: Self::IoUring, fallback: None },
                Err(refused) => Resolved {
                    backend: Self::Epoll,
                    fallback: Some(format!("io_uring cannot be used, taking epoll: {}", explain(&refused))),
                },
            }),
        }
    }
}

/// Which call was refused, by what, and what would change it.
fn explain(ProbeError { call, error }: &ProbeError) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match uring_disabled().as_deref() {
            Some("2") => "sysctl kernel.io_uring_disabled is 2; set it to 0",
            Some("1") => {
                "sysctl kernel.io_uring_disabled is 1; set it to 0, or add the user to kernel.io_uring_group"
            }
            _ => {
                "a seccomp filter or security module forbids it; allow io_uring_setup, io_uring_enter and \
                  io_uring_register in the container's profile"
            }
        },
        Some(libc::ENOSYS) => {
            "the kernel was built without it or a seccomp filter hides it; allow io_uring_setup, \
             io_uring_enter and io_uring_register in the container's profile"
        }
        Some(libc::EINVAL) => "the kernel is too old; Linux 6.1 or newer is needed",
        Some(libc::ENOMEM | libc::EAGAIN) => {
            "not enough memory, or RLIMIT_MEMLOCK is too low; raise `ulimit -l`"
        }
        Some(libc::EMFILE | libc::ENFILE) => "no descriptor is free; raise RLIMIT_NOFILE",
        _ => return format!("{call}: {error}"),
    };
    format!("{call}: {error}: {advice}")
}

/// The sysctl's value, `None` on kernels before 6.6, which do not have it.
fn uring_disabled() -> Option<String> {
    let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(value.trim().to_owned())
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Epoll => "epoll",
            Self::IoUring => "io-uring",
        })
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "epoll" => Ok(Self::Epoll),
            "io-uring" => Ok(Self::IoUring),
            _ => Err(format!("there is no backend {text:?}; choose auto, epoll or io-uring")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for backend in [Backend::Auto, Backend::Epoll, Backend::IoUring] {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        assert_eq!(Backend::default(), Backend::Auto);
        let error = "kqueue".parse::<Backend>().unwrap_err();
        assert!(error.contains("kqueue") && error.contains("io-uring"), "{error}");
    }

    #[test]
    fn resolved_is_never_auto() {
        assert_ne!(Backend::Auto.resolve().unwrap().backend, Backend::Auto);
        let resolved = Backend::Epoll.resolve().unwrap();
        assert_eq!(resolved, Resolved { backend: Backend::Epoll, fallback: None });
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        for (errno, advice) in [
            (libc::ENOSYS, "profile"),
            (libc::EINVAL, "6.1"),
            (libc::ENOMEM, "ulimit"),
            (libc::EMFILE, "NOFILE"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            let text = explain(&ProbeError { call: "io_uring_setup", error });
            assert!(text.starts_with("io_uring_setup: ") && text.contains(advice), "{text}");
        }
    }
}
