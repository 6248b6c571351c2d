//! What an accepted connection and the requests on it know of each other.
//!
//! A subscription needs no help to find its connection at the end: see [`crate::takeover`]. But a request has
//! to be refused at once where nothing could take its socket over, and it has to wait until what was answered
//! before has left. For that it finds its connection in one of two ways: in its extensions, where
//! `ConnectInfo<Connection>` or a [`Connection`] was put; or by the task. `axum::serve` and hyper read a
//! request, call the service, and write the answer in one task for each connection, and each task has its own
//! id. A wrong answer here could not send a stream to a wrong client; where two connections were read in one
//! task, there is no answer.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task;

use crate::takeover::give_back_spare_room;

/// A connection that a listener of this crate has accepted. It knows the address of the client.
///
/// It is a connect info of axum: `app.into_make_service_with_connect_info::<Connection>()`.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    peer: Option<SocketAddr>,
    answered: Mutex<Answered>,
}

/// Whether bytes of answers wait for the socket.
#[derive(Default)]
struct Answered {
    unsent: bool,
    waiting: Option<Waker>,
}

impl Connection {
    pub(crate) fn new(peer: Option<SocketAddr>) -> Connection {
        Connection { shared: Arc::new(Shared { peer, answered: Mutex::default() }) }
    }

    /// The address of the client. Behind a proxy that speaks the PROXY protocol to the engine in front, it is
    /// the client's that the proxy has named. `None`: the client came by a Unix socket, its proxy has named
    /// no address, or it had left before the connection was made.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.shared.peer
    }

    /// Notes that bytes are being written, and that hyper may have more of them.
    pub(crate) fn writes(&self) {
        lock(&self.shared.answered).unsent = true;
    }

    /// Notes that everything is written.
    pub(crate) fn has_written(&self) {
        let mut answered = lock(&self.shared.answered);
        answered.unsent = false;
        let waiting = answered.waiting.take();
        drop(answered);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Waits until what was answered before has been written.
    pub(crate) async fn wait_until_written(&self) {
        poll_fn(|context| self.poll_written(context)).await;
    }

    fn poll_written(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut answered = lock(&self.shared.answered);
        if !answered.unsent {
            return Poll::Ready(());
        }
        answered.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}

type ByTask = HashMap<task::Id, Vec<Connection>>;

/// The connections that tasks have read, in parts so that threads seldom meet.
static TASKS: LazyLock<[Mutex<ByTask>; 16]> = LazyLock::new(Default::default);

/// Chooses the part.
static RANDOM: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The task that last read a connection. It is left on drop.
#[derive(Default)]
pub(crate) struct Reader(Option<task::Id>);

impl Reader {
    /// Notes that the current task reads the connection.
    pub(crate) fn note(&mut self, connection: &Connection) {
        let current = task::try_id();
        if self.0 == current {
            return;
        }
        self.leave(connection);
        if let Some(id) = current {
            part_of(id).entry(id).or_default().push(connection.clone());
        }
        self.0 = current;
    }

    pub(crate) fn leave(&mut self, connection: &Connection) {
        let Some(id) = self.0.take() else { return };
        let mut part = part_of(id);
        if let Some(connections) = part.get_mut(&id) {
            connections.retain(|other| !Arc::ptr_eq(&other.shared, &connection.shared));
            if connections.is_empty() {
                part.remove(&id);
                give_back_spare_room(&mut part);
            }
        }
    }
}

/// The connection that the current task reads; `None`: it reads none, or several.
pub(crate) fn of_current_task() -> Option<Connection> {
    let id = task::try_id()?;
    match part_of(id).get(&id)?.as_slice() {
        [connection] => Some(connection.clone()),
        _ => None,
    }
}

fn part_of(id: task::Id) -> MutexGuard<'static, ByTask> {
    lock(&TASKS[RANDOM.hash_one(id) as usize % TASKS.len()])
}

/// What is behind these locks is whole after each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_reads_two_connections_has_none() {
        tokio::spawn(async {
            let (one, other) = (Connection::new(None), Connection::new(None));
            let (mut of_one, mut of_other) = (Reader::default(), Reader::default());
            assert!(of_current_task().is_none());
            of_one.note(&one);
            of_one.note(&one);
            assert!(Arc::ptr_eq(&of_current_task().unwrap().shared, &one.shared));
            of_other.note(&other);
            assert!(of_current_task().is_none());
            of_one.leave(&one);
            assert!(Arc::ptr_eq(&of_current_task().unwrap().shared, &other.shared));
            of_other.leave(&other);
            assert!(of_current_task().is_none());
        })
        .await
        .unwrap();
    }

    /// A connection that was first read in one task may be served in another.
    #[tokio::test]
    async fn a_connection_moves_with_its_reader() {
        let connection = Connection::new(None);
        let mut reader = Reader::default();
        let (connection, mut reader) = tokio::spawn(async move {
            reader.note(&connection);
            (connection, reader)
        })
        .await
        .unwrap();
        tokio::spawn(async move {
            assert!(of_current_task().is_none());
            reader.note(&connection);
            assert!(of_current_task().is_some());
            let elsewhere = tokio::spawn(async { of_current_task().is_none() });
            assert!(elsewhere.await.unwrap());
        })
        .await
        .unwrap();
    }
}
