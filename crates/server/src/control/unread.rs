//! Whether a request's body has been read when it is answered.
//!
//! The HTTP library throws an unread body away if it happens to be there already, and closes the connection
//! if not. So that a client is told, and the same thing happens each time, the answer to a request whose body
//! was not read to its end says that the connection ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Whether there is more of the body.
pub(super) type Unread = Arc<AtomicBool>;

/// A body that keeps note.
pub(super) struct Watched {
    body: Incoming,
    unread: Unread,
}

impl Watched {
    pub(super) fn new(body: Incoming) -> (Watched, Unread) {
        let unread = Arc::new(AtomicBool::new(!body.is_end_stream()));
        (Watched { body, unread: Arc::clone(&unread) }, unread)
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.unread.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
