//! axum handlers that return a subscription.

mod body;
mod connection;
mod error;
mod io;
mod listener;
mod problem;
mod settle;
mod socket;
mod subscriber;
mod takeover;

pub use body::{NotTakenOver, SubscriptionBody};
pub use connection::Connection;
pub use error::Error;
pub use io::Io;
pub use listener::{HandOverListener, Listener, RouterOfConnection, WithConnection, serve};
pub use socket::Takeable;
pub use subscriber::{NewSubscription, Subscriber, SubscriberRejection, Subscription};
