//! Errors of the engine as answers.

use std::fmt;

use axum::response::{IntoResponse, Response};
use fanfare::{
    Interrupted, InvalidEvent, InvalidSubject, NotPublished, ProblemKind, PublishError, SubscribeError,
};
use http::StatusCode;

use crate::problem;

/// What a handler that publishes or subscribes fails with, for the operator `?`. It answers as
/// `application/problem+json`, with a reason.
///
/// ```
/// # use axum::extract::State;
/// # use fanfare::{Event, Hub, Topic};
/// async fn say(State(hub): State<Hub>, text: String) -> Result<(), fanfare_axum::Error> {
///     hub.publish(Event::new(Topic::new("news")?).with_data(text))?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Nothing was published, or not everything. 503 with `Retry-After` where another try may succeed
    /// (`Busy`, `Stopped`), 413 for too much data, 400 for an id that is the hub's own and for no event at
    /// all.
    Publish(PublishError),
    /// A topic, an id or an event's type is not a valid one: 400.
    Event(InvalidEvent),
    /// A subject or a member's name is too long: 400.
    Subject(InvalidSubject),
    /// The query of a subscriber is wrong: 400.
    Subscribe(SubscribeError),
}

impl Error {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        problem::status(self.problem())
    }

    /// The kind of the answer.
    pub fn problem(&self) -> ProblemKind {
        match self {
            Error::Publish(error) => error.problem(),
            Error::Event(_) => ProblemKind::InvalidEvent,
            Error::Subject(_) => ProblemKind::InvalidParameter,
            Error::Subscribe(error) => error.problem(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = problem::response(self.problem(), &self.to_string());
        if matches!(self, Error::Publish(PublishError::Unreleased | PublishError::Undecided)) {
            // A second try would publish the events twice.
            response.headers_mut().remove(http::header::RETRY_AFTER);
        }
        response
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Publish(error) => error.fmt(f),
            Error::Event(error) => error.fmt(f),
            Error::Subject(error) => error.fmt(f),
            Error::Subscribe(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Publish(error) => Some(error),
            Error::Event(error) => Some(error),
            Error::Subject(error) => Some(error),
            Error::Subscribe(error) => Some(error),
        }
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Error {
        Error::Publish(error)
    }
}

impl From<NotPublished> for Error {
    fn from(error: NotPublished) -> Error {
        Error::Publish(error.error)
    }
}

impl From<Interrupted> for Error {
    fn from(error: Interrupted) -> Error {
        Error::Publish(error.error)
    }
}

impl From<InvalidEvent> for Error {
    fn from(error: InvalidEvent) -> Error {
        Error::Event(error)
    }
}

impl From<InvalidSubject> for Error {
    fn from(error: InvalidSubject) -> Error {
        Error::Subject(error)
    }
}

impl From<SubscribeError> for Error {
    fn from(error: SubscribeError) -> Error {
        Error::Subscribe(error)
    }
}
