//! Subscribers that resume from a number which is not released here yet.

use std::time::Duration;

use fanfare_io::{Io, Socket};
use fanfare_proto::event_log::EventLog;
use fanfare_proto::limits::{AHEAD_WAIT, RESUMES};
use fanfare_proto::link::Encoding;
use fanfare_proto::log::Start;

use crate::admission::Subscribe;
use crate::orders::Name;
use crate::shard::Shard;

/// A subscriber that resumes from a number that is newer than every one here.
///
/// It may have the number from a node that was ahead of this one. An unknown number is a gap: without a wait,
/// the subscriber would learn of a loss that did not happen, and would get everything again.
pub(in crate::shard) struct Resuming {
    /// What has to be released here first.
    pub(in crate::shard) from: u64,
    /// When it is not waited for any longer.
    pub(in crate::shard) until: Duration,
    pub(in crate::shard) socket: Socket,
    subscribe: Box<Subscribe>,
    encoding: Encoding,
}

impl<I: Io> Shard<I> {
    /// Where a subscriber starts; `None`: with the next event.
    pub(super) fn start_of(&self, subscribe: &Subscribe, encoding: Encoding) -> Option<Start> {
        let id = subscribe.resume.as_ref()?;
        Some(self.links.log.resume(id, subscribe.subscription(encoding).selection()))
    }

    /// A subscriber that has a number which is not released here waits for it, within bounds.
    pub(super) fn wait_until_caught_up(
        &mut self,
        socket: Socket,
        from: u64,
        subscribe: Box<Subscribe>,
        encoding: Encoding,
        now: Duration,
    ) {
        if !self.room_to_wait() {
            self.counts.turned_away += 1;
            self.closing.push((socket, None));
            return;
        }
        let until = now.saturating_add(AHEAD_WAIT);
        self.arrivals.resuming.push_back(Resuming { from, until, socket, subscribe, encoding });
    }

    /// Begins the streams of subscribers whose number has been released. A subscriber that has waited for the whole
    /// time begins too, with a gap.
    pub(in crate::shard) fn start_caught_up_resumes(&mut self, now: Duration) {
        let newest = self.links.log.newest();
        // Each is checked once. A subscriber that goes on waiting moves to the end, so the order stays.
        for _ in 0..self.arrivals.resuming.len().min(RESUMES) {
            let Some(resuming) = self.arrivals.resuming.pop_front() else { return };
            if resuming.from > newest && now < resuming.until {
                self.arrivals.resuming.push_back(resuming);
                continue;
            }
            let Resuming { socket, subscribe, encoding, .. } = resuming;
            let start = self.start_of(&subscribe, encoding);
            if let Err(other) = self.subscribe(socket, &subscribe, encoding, start, now) {
                self.reply(socket, other, now);
            }
        }
    }

    /// Closes the connections of a subject or of a token that wait for a number.
    pub(in crate::shard) fn close_resuming_of(&mut self, name: Name) {
        let closing = &mut self.closing;
        self.arrivals.resuming.retain(|resuming| {
            let is_its = resuming.subscribe.names.have(name);
            if is_its {
                closing.push((resuming.socket, None));
            }
            !is_its
        });
    }
}
