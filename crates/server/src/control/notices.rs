//! Notices of the control plane to the operator when a bound is reached. They are counts, from which the
//! server makes a few lines of its log, however many clients there are.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fanfare_access::AccessError;

use crate::forward::Failure;
use crate::silence::Silence;

/// A kind of notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A connection was ended to make room for another, or for the answer of another.
    ConnectionEnded,
    /// A connection was closed at once: the control plane could not take it.
    ConnectionRefused,
    /// A publish was refused: too many are in progress, or they hold too much memory.
    PublishRefused,
    /// A publish was refused: its publisher has used up its rate.
    PublishRateReached,
    /// A connection was closed at once: its client has as many as it may.
    AddressRefused,
    /// A publish was ended: its body came too slowly.
    SlowPublishEnded,
    /// A request was refused: its host is not one of the server's.
    HostRefused,
    /// A publish was refused: web pages of its origin may not.
    OriginRefused,
    /// A request was refused: its token is missing, not good, or does not cover what it asks for.
    AccessDenied,
    /// A subscription was refused: the authorization endpoint says so.
    AuthorizationRefused,
    /// A subscription was refused: the authorization endpoint did not say what to do with it.
    AuthorizationFailed,
    /// A request was refused: it is authorised by a cookie, and pages of its origin may not use it.
    CookieRefused,
    /// A request was refused: too many tokens wait to be verified.
    TooManyTokens,
    /// A request was answered 500: the verification of its token has panicked.
    VerificationPanicked,
    /// A subscription was refused: too many wait for the decision about them.
    UndecidedRefused,
    /// A connection was lost: the system gave the control plane no descriptor for it.
    ConnectionLost,
    /// A subscriber on a connection that was kept open was lost: its shard could not take it.
    SubscriberLost,
    /// A connection to the admin listener was closed at once: all of its places are busy.
    AdminRefused,
    /// A request to the admin listener was refused: its host is not one of that listener's.
    AdminHostRefused,
}

/// How often each of them happened.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    counts: [AtomicU64; Notice::ALL.len()],
    /// The error of the last time.
    errors: [Mutex<Option<String>>; Notice::ALL.len()],
    /// The client of the last time, as far as it is known.
    clients: [Mutex<Option<IpAddr>>; Notice::ALL.len()],
    /// How often access was denied for each reason.
    denials: [AtomicU64; AccessError::NAMES.len()],
    /// How often the authorization endpoint gave no answer, for each reason.
    failures: [AtomicU64; Failure::NAMES.len()],
}

impl Notice {
    const ALL: [Notice; 19] = [
        Notice::ConnectionEnded,
        Notice::ConnectionRefused,
        Notice::PublishRefused,
        Notice::PublishRateReached,
        Notice::AddressRefused,
        Notice::SlowPublishEnded,
        Notice::HostRefused,
        Notice::OriginRefused,
        Notice::AccessDenied,
        Notice::AuthorizationRefused,
        Notice::AuthorizationFailed,
        Notice::CookieRefused,
        Notice::TooManyTokens,
        Notice::VerificationPanicked,
        Notice::UndecidedRefused,
        Notice::ConnectionLost,
        Notice::SubscriberLost,
        Notice::AdminRefused,
        Notice::AdminHostRefused,
    ];

    /// Whether it is counted by its reasons.
    fn has_reasons(self) -> bool {
        matches!(self, Notice::AccessDenied | Notice::AuthorizationFailed)
    }

    /// The short name, for metrics. It stays the same in later versions.
    fn name(self) -> &'static str {
        match self {
            Notice::ConnectionEnded => "control_connection_ended",
            Notice::ConnectionRefused => "control_connections_full",
            Notice::PublishRefused => "publishes_full",
            Notice::PublishRateReached => "publish_rate",
            Notice::AddressRefused => "control_address_connections",
            Notice::SlowPublishEnded => "slow_publish",
            Notice::HostRefused => "host",
            Notice::OriginRefused => "origin",
            Notice::AccessDenied => "access_denied",
            Notice::AuthorizationRefused => "authorization_refused",
            Notice::AuthorizationFailed => "authorization_failed",
            Notice::CookieRefused => "cookie_origin",
            Notice::TooManyTokens => "tokens_full",
            Notice::VerificationPanicked => "verification_panicked",
            Notice::UndecidedRefused => "undecided_full",
            Notice::ConnectionLost => "connection_lost",
            Notice::SubscriberLost => "subscriber_lost",
            Notice::AdminRefused => "admin_connections_full",
            Notice::AdminHostRefused => "admin_host",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Notice::ConnectionEnded => {
                "idle connections were closed to make room: the bound of connections that are no subscribers \
                 (--max-control-connections), or of unread answers, is reached"
            }
            Notice::ConnectionRefused => {
                "connections that are no subscribers were closed at once: the server has no room for them"
            }
            Notice::PublishRefused => {
                "publishes were refused: too many are in progress (--max-publishes, --publish-memory)"
            }
            Notice::PublishRateReached => {
                "publishes were refused because their publishers had used up their rates \
                 (--max-publish-events, --max-publish-bytes)"
            }
            Notice::AddressRefused => {
                "connections that are no subscribers were closed at once because their clients have as many \
                 as they may (--max-connections-per-address)"
            }
            Notice::SlowPublishEnded => {
                "publishes were ended because their bodies came too slowly (--publish-rate, --max-publishes)"
            }
            Notice::HostRefused => {
                "requests were refused because their Host is not a name that the server answers to (--host)"
            }
            Notice::OriginRefused => {
                "publishes were refused because pages of their origin may not publish (--cors-origin)"
            }
            Notice::AccessDenied => "requests were refused for their tokens",
            Notice::AuthorizationRefused => {
                "subscriptions were refused by the authorization endpoint (--authorize-url)"
            }
            Notice::AuthorizationFailed => {
                "subscriptions were refused because the authorization endpoint gave no answer (--authorize-url)"
            }
            Notice::CookieRefused => {
                "requests were refused because a cookie authorises them and their origin may not use it \
                 (--cors-origin)"
            }
            Notice::TooManyTokens => "requests were refused because too many tokens wait to be verified",
            Notice::VerificationPanicked => {
                "requests were answered 500 because the verification of their tokens has panicked; the message \
                 is above"
            }
            Notice::UndecidedRefused => {
                "subscriptions on kept connections were refused because too many wait for the decision about \
                 them (--max-control-connections)"
            }
            Notice::ConnectionLost => "connections did not reach the control plane",
            Notice::SubscriberLost => {
                "subscribers on kept connections were lost: their shards could not take them"
            }
            Notice::AdminRefused => {
                "connections to the admin listener were closed at once: its places are busy"
            }
            Notice::AdminHostRefused => {
                "requests to the admin listener were refused because their Host is not a name that it answers to \
                 (--admin-host)"
            }
        }
    }
}

impl Notices {
    pub(crate) fn add(&self, notice: Notice) {
        self.counts[notice as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Notices::add`], with the client. Where another thread is at it, the client is left out, so that a
    /// shard never waits.
    pub(crate) fn add_from(&self, notice: Notice, client: Option<IpAddr>) {
        if let Ok(mut last) = self.clients[notice as usize].try_lock() {
            *last = client;
        }
        self.add(notice);
    }

    /// Access was denied. As [`Notices::add_from`], so that a shard never waits.
    pub(crate) fn add_denial(&self, reason: AccessError, client: Option<IpAddr>) {
        self.denials[reason.index()].fetch_add(1, Ordering::Relaxed);
        self.add_from(Notice::AccessDenied, client);
    }

    /// The authorization endpoint gave no answer. As [`Notices::add_from`].
    pub(crate) fn add_failure(&self, failure: Failure, client: Option<IpAddr>) {
        self.failures[failure as usize].fetch_add(1, Ordering::Relaxed);
        self.add_from(Notice::AuthorizationFailed, client);
    }

    /// As [`Notices::add`], with the reason. Not for the threads of shards: it takes a lock.
    pub(super) fn add_error(&self, notice: Notice, error: &impl Display) {
        *self.errors[notice as usize].lock().unwrap_or_else(PoisonError::into_inner) =
            Some(error.to_string());
        self.add(notice);
    }

    fn error(&self, notice: Notice) -> Option<String> {
        self.errors[notice as usize].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn client(&self, notice: Notice) -> Option<String> {
        let client = self.clients[notice as usize].lock().unwrap_or_else(PoisonError::into_inner);
        client.map(|address| address.to_string())
    }

    /// How often each of them happened, by its name. Notices that are counted by their reasons are left out:
    /// [`Notices::denials`] and [`Notices::failures`] have them, so that the sum counts each request once.
    pub(crate) fn others(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let others = Notice::ALL.into_iter().filter(|notice| !notice.has_reasons());
        others.map(|notice| (notice.name(), self.count(notice)))
    }

    /// How often access was denied for each reason.
    pub(crate) fn denials(&self) -> impl Iterator<Item = (&'static str, u64)> {
        named(&AccessError::NAMES, &self.denials)
    }

    /// How often the authorization endpoint gave no answer, for each reason.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        named(&Failure::NAMES, &self.failures)
    }

    fn count(&self, notice: Notice) -> u64 {
        self.counts[notice as usize].load(Ordering::Relaxed)
    }
}

fn named(names: &[&'static str], counts: &[AtomicU64]) -> impl Iterator<Item = (&'static str, u64)> {
    names.iter().zip(counts).map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
}

/// Makes the lines: the first one at once, then one for all that happened in a while.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    silence: Silence<{ Notice::ALL.len() }>,
    reported_denials: [u64; AccessError::NAMES.len()],
    reported_failures: [u64; Failure::NAMES.len()],
}

impl Reporter {
    /// Logs what has happened since the last line. `now` is any clock's time.
    pub(crate) fn report(&mut self, notices: &Notices, now: Duration) {
        for (notice, count) in self.due(notices, now) {
            let (mut error, last_client) = (notices.error(notice), notices.client(notice));
            match notice {
                Notice::AccessDenied => {
                    let names = &AccessError::NAMES;
                    error = Some(reasons(names, &notices.denials, &mut self.reported_denials));
                }
                Notice::AuthorizationFailed => {
                    let names = &Failure::NAMES;
                    error = Some(reasons(names, &notices.failures, &mut self.reported_failures));
                }
                _ => {}
            }
            tracing::warn!(count, error, last_client, "{}", notice.text());
        }
    }

    /// Logs what has happened since the last line of each notice, however short ago that was: the server
    /// ends, and there is no later line.
    pub(crate) fn report_rest(&mut self, notices: &Notices) {
        self.silence.end();
        self.report(notices, Duration::ZERO);
    }

    pub(super) fn due(&mut self, notices: &Notices, now: Duration) -> Vec<(Notice, u64)> {
        let counts = Notice::ALL.map(|notice| notices.count(notice));
        let due = self.silence.due(counts, now).into_iter();
        due.map(|(index, count)| (Notice::ALL[index], count)).collect()
    }
}

/// The count of each reason since the last line.
fn reasons(names: &[&str], counts: &[AtomicU64], reported: &mut [u64]) -> String {
    let mut reasons = Vec::new();
    for ((name, count), reported) in names.iter().zip(counts).zip(reported) {
        let count = count.load(Ordering::Relaxed);
        if count > *reported {
            reasons.push(format!("{name}: {}", count - *reported));
            *reported = count;
        }
    }
    reasons.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notice_has_its_counter() {
        let (notices, mut reporter) = (Notices::default(), Reporter::default());
        for (index, notice) in Notice::ALL.into_iter().enumerate() {
            assert_eq!(notice as usize, index);
            notices.add(notice);
        }
        let due = reporter.due(&notices, Duration::ZERO);
        assert_eq!(due, Notice::ALL.map(|notice| (notice, 1)));
        notices.add(Notice::PublishRefused);
        assert!(reporter.due(&notices, Duration::ZERO).is_empty());
    }

    /// A request with a bad token was two refusals on the dashboard: one of them by its reason.
    #[test]
    fn each_refusal_is_counted_once() {
        let notices = Notices::default();
        notices.add_denial(AccessError::Missing, None);
        notices.add_failure(Failure::TimedOut, None);
        notices.add(Notice::HostRefused);
        let all = notices.others().chain(notices.denials()).chain(notices.failures());
        let counted: Vec<_> = all.filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("host", 1), ("missing", 1), ("timed_out", 1)]);
    }
}
