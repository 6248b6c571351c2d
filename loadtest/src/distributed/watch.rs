//! On the server's machine: what the server needs and what its cores do, for a controller elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::protocol::{self, Connection, Role, Token};
use super::serve::{self, Listen};
use crate::cores::Cores;
use crate::failure::{Failure, Outcome};
use crate::sample::{self, Cpu, Kernel, Server};
use crate::sys;

/// Tell a controller the CPU and the memory of a server on this machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct Watch {
    /// The server's process; its children are included
    pid: u32,
    #[command(flatten)]
    listen: Listen,
}

/// From the controller.
#[derive(Serialize, Deserialize)]
enum Question {
    Sample {
        only_cpu: bool,
    },
    Bye,
    /// Nothing is wanted but to be heard.
    Here,
}

/// What the server's machine says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ServerSample {
    pub(crate) user: Option<u64>,
    pub(crate) kernel: Option<Kernel>,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) cores: Cores,
}

impl ServerSample {
    /// Of this machine.
    pub(crate) fn at(server: Option<Server>, only_cpu: bool) -> ServerSample {
        ServerSample {
            cpu: server.and_then(|server| server.cpu().ok()),
            cores: Cores::now(),
            user: server.filter(|_| !only_cpu).and_then(Server::user_bytes),
            kernel: (!only_cpu).then(sample::kernel),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Seen {
    sample: ServerSample,
    /// Why the memory is left out.
    memory_refusal: Option<String>,
}

impl Watch {
    /// Serves controllers until Ctrl-C.
    ///
    /// # Errors
    /// There is no such process, or the address cannot be listened on.
    pub(crate) fn serve(&self) -> Outcome<()> {
        let server =
            Server::new(self.pid).map_err(|_| Failure::new(format!("there is no process {}", self.pid)))?;
        let cores = sys::allowed_cores().len();
        serve::serve(&self.listen, Role::Watch, cores, move |connection| {
            answer(&connection, server).map_err(|error| Failure::new(format!("it is gone: {error}")))
        })
    }
}

fn answer(connection: &Connection, server: Server) -> std::io::Result<()> {
    loop {
        match connection.receive::<Question>()?.message {
            Question::Bye => return Ok(()),
            Question::Here => {}
            Question::Sample { only_cpu } => {
                let memory_refusal = if only_cpu { None } else { server.memory_refusal() };
                connection
                    .send(&Seen { sample: ServerSample::at(Some(server), only_cpu), memory_refusal })?;
            }
        }
    }
}

/// The server that a run is against, for the controller.
#[derive(Clone)]
pub(crate) enum Watched {
    /// On this machine.
    Here(Server),
    /// On a machine with `fanfare-load watch`.
    There(Arc<Remote>),
}

/// A connection to `fanfare-load watch`.
pub(crate) struct Remote {
    name: String,
    boot: String,
    connection: Connection,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failure: Option<Failure>,
}

impl Watched {
    /// Joins the machine of the server.
    ///
    /// # Errors
    /// It cannot be joined; the text names it.
    pub(crate) fn join(name: &str, token: &Token) -> Outcome<Watched> {
        let failed = |failure| Failure::new(format!("--server-watch {name}: {failure}"));
        let (connection, machine) = protocol::connect(name, Role::Watch, token).map_err(failed)?;
        let remote = Arc::new(Remote {
            name: name.to_owned(),
            boot: machine.boot,
            connection,
            state: Mutex::default(),
        });
        let here = Arc::downgrade(&remote);
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || {
                loop {
                    std::thread::sleep(protocol::SILENCE / 4);
                    let Some(remote) = here.upgrade() else { return };
                    if remote.connection.send(&Question::Here).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| Failure::new(format!("a thread cannot be started: {error}")))?;
        Ok(Watched::There(remote))
    }

    /// What the server and its machine say now.
    pub(crate) fn sample(&self, only_cpu: bool) -> ServerSample {
        match self {
            Watched::Here(server) => ServerSample::at(Some(*server), only_cpu),
            Watched::There(remote) => remote.sample(only_cpu).map(|seen| seen.sample).unwrap_or_default(),
        }
    }

    /// Why its memory cannot be told, where that is so.
    pub(crate) fn memory_refusal(&self) -> Option<String> {
        match self {
            Watched::Here(server) => server.memory_refusal(),
            Watched::There(remote) => remote.sample(false)?.memory_refusal,
        }
    }

    /// Why nothing can be told any more.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match self {
            Watched::Here(_) => None,
            Watched::There(remote) => {
                remote.state.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
            }
        }
    }

    /// The process, where it is on this machine.
    pub(crate) fn here(&self) -> Option<Server> {
        match self {
            Watched::Here(server) => Some(*server),
            Watched::There(_) => None,
        }
    }

    /// Of the server's machine where that is another one, the name that it has until it is started again.
    pub(crate) fn boot(&self) -> Option<&str> {
        match self {
            Watched::Here(_) => None,
            Watched::There(remote) => Some(&remote.boot),
        }
    }
}

impl Remote {
    fn sample(&self, only_cpu: bool) -> Option<Seen> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failure.is_some() {
            return None;
        }
        let asked = self.connection.send(&Question::Sample { only_cpu });
        match asked.and_then(|()| self.connection.receive::<Seen>()) {
            Ok(seen) => Some(seen.message),
            Err(error) => {
                let text = format!("--server-watch {}: it is lost: {error}", self.name);
                state.failure = Some(Failure::new(text));
                None
            }
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.connection.send(&Question::Bye);
    }
}

/// Whether nothing of a run but the server is on the server's machine: what that machine does is the
/// server's.
pub(crate) fn has_machine_for_itself(watched: Option<&Watched>, agents: Option<&super::Agents>) -> bool {
    let Some(boot) = watched.and_then(Watched::boot) else { return false };
    !boot.is_empty() && boot != serve::boot() && agents.is_none_or(|agents| !agents.any_on(boot))
}
