//! The end of an engine, and why it is not a good one.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

#[cfg(doc)]
use crate::Engine;

/// The end of an engine: see [`Engine::stop_async`]. Any executor may poll it.
///
/// The engine stops also when this is dropped: the drain has begun, and a thread of its own waits for it.
#[derive(Debug)]
pub struct StopFuture {
    shared: Arc<Mutex<Shared>>,
}

/// An engine that did not end as it should: see [`Engine::stop`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopError {
    /// A shard has panicked, now or before: its streams broke. Its standard error says why.
    ShardPanicked,
    /// The calling thread is a shard, which cannot wait for itself. The end has begun.
    OnShard,
    /// The engine has ended well, and the file of [`crate::Builder::position_file`] could not be written: the
    /// next engine begins a new log.
    Position {
        /// Which file, and why.
        reason: String,
    },
}

#[derive(Debug, Default)]
struct Shared {
    result: Option<Result<(), StopError>>,
    waker: Option<Waker>,
}

impl StopFuture {
    /// The end has been reached.
    pub(crate) fn ready(result: Result<(), StopError>) -> StopFuture {
        StopFuture { shared: Arc::new(Mutex::new(Shared { result: Some(result), waker: None })) }
    }

    /// Waits for the end on a thread of its own; on the calling one where no thread can be started.
    pub(crate) fn wait<T: Send + 'static>(value: T, join: fn(T) -> Result<(), StopError>) -> StopFuture {
        let shared = Arc::<Mutex<Shared>>::default();
        // Not in the closure itself, because that is lost where no thread can be started.
        let value = Arc::new(Mutex::new(Some(value)));
        let (to_join, ended) = (Arc::clone(&value), Arc::clone(&shared));
        let thread = thread::Builder::new().name("fanfare-stop".to_owned());
        let started = thread.spawn(move || {
            let value = lock(&to_join).take();
            if let Some(value) = value {
                finish(&ended, join(value));
            }
        });
        if started.is_err() {
            let value = lock(&value).take();
            if let Some(value) = value {
                finish(&shared, join(value));
            }
        }
        StopFuture { shared }
    }
}

impl Future for StopFuture {
    type Output = Result<(), StopError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut shared = lock(&self.shared);
        match &shared.result {
            Some(result) => Poll::Ready(result.clone()),
            None => {
                shared.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn finish(shared: &Mutex<Shared>, result: Result<(), StopError>) {
    let mut shared = lock(shared);
    shared.result = Some(result);
    let waker = shared.waker.take();
    drop(shared);
    // Without the lock: it may run any code.
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// What is behind these locks is whole after each step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StopError {
    pub(crate) fn position(path: &Path, error: &io::Error) -> StopError {
        StopError::Position { reason: format!("{}: {error}", path.display()) }
    }
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopError::ShardPanicked => {
                f.write_str("a shard has panicked, and its streams broke; its standard error says why")
            }
            StopError::OnShard => f.write_str("a shard's thread cannot wait for the end of the shards"),
            StopError::Position { reason } => write!(f, "the position was not kept: {reason}"),
        }
    }
}

impl std::error::Error for StopError {}
