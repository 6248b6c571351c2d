//! The body of a response whose stream the engine writes.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Sleep;

use crate::takeover::{self, Key};

/// How long hyper may hold the response without writing its head. It writes the head in the same moment in
/// which it asks the body for the first time. A layer that collects the body, or that makes another head for
/// it, never does.
const PATIENCE: Duration = Duration::from_secs(5);

/// A body that never has a byte. Its head is what makes the engine take the socket over; when that has
/// happened, the body ends, and with it the connection for hyper.
#[derive(Debug)]
pub struct SubscriptionBody {
    key: Key,
    progress: Arc<Progress>,
    impatience: Option<Pin<Box<Sleep>>>,
}

/// A response whose head never reached a connection that the engine could take over.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotTakenOver;

/// What became of a response; the body and the connection share it.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The head has not come.
    #[default]
    Waits,
    /// The connection has the head.
    Taken,
    /// The socket belongs to the engine, or has its whole answer.
    Ended,
    /// The same, and hyper must not read another request from this connection.
    Cut,
}

impl SubscriptionBody {
    pub(crate) fn new(key: Key, progress: Arc<Progress>) -> SubscriptionBody {
        SubscriptionBody { key, progress, impatience: None }
    }
}

impl http_body::Body for SubscriptionBody {
    type Data = Bytes;
    type Error = NotTakenOver;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, NotTakenOver>>> {
        match self.progress.poll(context) {
            Phase::Ended => Poll::Ready(None),
            Phase::Cut => Poll::Ready(Some(Err(NotTakenOver))),
            Phase::Taken => {
                self.impatience = None;
                Poll::Pending
            }
            Phase::Waits => {
                let impatience =
                    self.impatience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
                std::task::ready!(impatience.as_mut().poll(context));
                tracing::error!(
                    "a subscription was not begun: a layer collects the body of the response, or has made \
                     another head for it"
                );
                Poll::Ready(Some(Err(NotTakenOver)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.progress.phase() == Phase::Ended
    }
}

impl Drop for SubscriptionBody {
    fn drop(&mut self) {
        // A head that comes without its body is an ordinary one.
        takeover::forget(self.key);
    }
}

impl Progress {
    pub(crate) fn set(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = phase;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn phase(&self) -> Phase {
        self.lock().phase
    }

    fn poll(&self, context: &mut Context<'_>) -> Phase {
        let mut state = self.lock();
        state.waker = Some(context.waker().clone());
        state.phase
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for NotTakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the engine does not write this stream, or has taken the connection over")
    }
}

impl std::error::Error for NotTakenOver {}
