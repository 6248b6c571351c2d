//! The choice between a descriptor table for each shard and one for the whole process.

use std::fmt;
use std::io;
use std::str::FromStr;

use crate::table;

/// Which descriptor table a shard's thread uses: that of the process, or one of its own.
///
/// With a table of its own, each shard may hold as many sockets as `RLIMIT_NOFILE` says, and accepts without
/// a lock that other threads take. The price: descriptors of other threads are not there, and their numbers
/// are other descriptors, so foreign code must not run on such a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DescriptorTables {
    /// A private table for each shard where the kernel allows it, the shared table elsewhere.
    #[default]
    Auto,
    /// A private table for each shard: needs `unshare(2)`, which Docker's default seccomp profile forbids,
    /// and `close_range(2)`.
    Private,
    /// The process's table for all shards. It works everywhere, and `RLIMIT_NOFILE` bounds all shards
    /// together.
    Shared,
}

/// A choice of tables that is known to work here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedTables {
    /// [`DescriptorTables::Private`] or [`DescriptorTables::Shared`], never [`DescriptorTables::Auto`].
    pub tables: DescriptorTables,
    /// Why `auto` had to take the shared table, and what that means: one line for the operator.
    pub fallback: Option<String>,
}

impl DescriptorTables {
    /// Decides, once per process. For private tables a thread tries to get one: a container's filter shows
    /// itself nowhere else.
    ///
    /// # Errors
    /// Private tables were asked for by name and are refused; the message says by what, and what to do.
    pub fn resolve(self) -> io::Result<ResolvedTables> {
        match self {
            Self::Shared => Ok(ResolvedTables { tables: Self::Shared, fallback: None }),
            Self::Private => match table::probe() {
                Ok(()) => Ok(ResolvedTables { tables: Self::Private, fallback: None }),
                Err(error) => Err(io::Error::new(
                    error.kind(),
                    format!(
                        "private descriptor tables cannot be used: {}; allow both system calls, or start with \
                         --descriptor-tables shared",
                        explain(&error)
                    ),
                )),
            },
            Self::Auto => Ok(match table::probe() {
                Ok(()) => ResolvedTables { tables: Self::Private, fallback: None },
                Err(error) => ResolvedTables {
                    tables: Self::Shared,
                    fallback: Some(format!(
                        "private descriptor tables cannot be used, taking one table for all shards: {}; now \
                         RLIMIT_NOFILE counts for the whole process instead of for each shard: raise it, or allow both \
                         system calls",
                        explain(&error)
                    )),
                },
            }),
        }
    }
}

/// What refused.
fn explain(error: &io::Error) -> String {
    let cause = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "a seccomp filter or security module forbids unshare(2) or close_range(2), as Docker's default profile does"
        }
        Some(libc::ENOSYS) => {
            "the kernel is older than Linux 5.9, or a seccomp filter hides unshare(2) or close_range(2)"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {cause}")
}

impl fmt::Display for DescriptorTables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Private => "private",
            Self::Shared => "shared",
        })
    }
}

impl FromStr for DescriptorTables {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "private" => Ok(Self::Private),
            "shared" => Ok(Self::Shared),
            _ => Err(format!("there are no descriptor tables {text:?}; choose auto, private or shared")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for tables in [DescriptorTables::Auto, DescriptorTables::Private, DescriptorTables::Shared] {
            assert_eq!(tables.to_string().parse(), Ok(tables));
        }
        let error = "own".parse::<DescriptorTables>().unwrap_err();
        assert!(error.contains("own") && error.contains("private"), "{error}");
    }

    #[test]
    fn resolved_is_never_auto() {
        assert_ne!(DescriptorTables::Auto.resolve().unwrap().tables, DescriptorTables::Auto);
        let shared = ResolvedTables { tables: DescriptorTables::Shared, fallback: None };
        assert_eq!(DescriptorTables::Shared.resolve().unwrap(), shared);
        assert!(!table::is_private(), "to try a private table changes nothing for the calling thread");
    }
}
