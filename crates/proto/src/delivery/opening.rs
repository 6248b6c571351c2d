//! The beginning of a stream.

use std::time::Duration;

use super::{Delivery, Subscriber};
use crate::audience::{AudienceId, Member, Subscription};
use crate::event_log::{EventLog, NoRoomForPatterns, ReadBounds};
use crate::frame::gap_event;
use crate::laggard::NewLaggard;
use crate::link::{Link, LinkKey};
use crate::log::Start;
use crate::stream::{Deciseconds, Place, Stream, StreamOptions};
use crate::unsent::Unsent;

/// A subscription that has its audience. It becomes a stream with [`Delivery::begin`], or ends
/// with [`Delivery::abandon`].
#[must_use]
pub struct Opened {
    audience: AudienceId,
    /// The stream has everything up to here, or cannot get it any more.
    pub cursor: u64,
    /// Some events up to here may be gone; what is left of those after the cursor comes. At most the cursor:
    /// none is.
    pub incomplete_until: u64,
    /// Events are missing that the subscriber did not ask to be without.
    pub gap: bool,
    /// The subscriber resumes.
    resumes: bool,
    /// Nothing for the subscriber is between its cursor and this number, which is at most the newest.
    nothing_until: u64,
}

/// What a stream begins with.
pub struct NewStream {
    /// The name that was reserved for its link.
    pub link: LinkKey,
    /// The link's socket.
    pub socket: i32,
    /// What the subscriber asked for.
    pub options: StreamOptions,
    /// How long the stream may last, whatever its age may be; `None`: there is no such limit.
    pub lifetime: Option<Duration>,
    /// The rest of its opening bytes, where the socket did not take all of them.
    pub unsent: Option<Unsent>,
}

impl Delivery {
    /// The name that the link of the next stream will have.
    pub fn reserve(&mut self) -> LinkKey {
        self.generation = (self.generation + 1) & LinkKey::GENERATIONS;
        LinkKey { slot: self.subscribers.vacant_key() as u32, generation: self.generation }
    }

    /// Gives a subscription its audience. `start` is where it resumes, as the log said; `None`: with the next
    /// event. From here on no event of its topics passes by.
    ///
    /// # Errors
    /// The log, or this shard, cannot take its patterns. Nothing has changed.
    pub fn open(
        &mut self,
        subscription: Subscription,
        start: Option<Start>,
        log: &mut impl EventLog,
    ) -> Result<Opened, NoRoomForPatterns> {
        let (audience, newest) = self.audience_of(subscription, log)?;
        let Some(start) = start else {
            let cursor = newest;
            let (incomplete_until, nothing_until) = (cursor, cursor);
            let (gap, resumes) = (false, false);
            return Ok(Opened { audience, cursor, incomplete_until, gap, resumes, nothing_until });
        };
        let (mut cursor, incomplete_until) = (start.from(), start.cursor());
        if cursor < incomplete_until {
            // Where nothing is left between the two, the stream goes on behind the gap.
            let wanted = self.audiences.subscription(audience).wanted_after(cursor, incomplete_until);
            let next = log.first_after(&wanted, &mut self.budgets.search_steps.clone());
            if next.nothing_up_to(incomplete_until) == incomplete_until {
                cursor = incomplete_until;
            }
        }
        let mut nothing_until = cursor;
        if cursor < self.audiences.head(audience) {
            // A subscriber of quiet topics has everything, though its number is old. It is a member at once:
            // as a laggard it would read from the log what comes next, and a log that keeps little may have
            // lost it by then.
            let wanted = self.audiences.subscription(audience).wanted_after(cursor, incomplete_until);
            let mut first = Vec::new();
            let bounds = ReadBounds { frames: 1, bytes: 0, steps: self.budgets.scan_steps };
            if let Ok(read) = log.read_after(&wanted, bounds, &mut first)
                && first.is_empty()
            {
                nothing_until = read.up_to;
            }
        }
        let (gap, resumes) = (start.is_gap(), true);
        Ok(Opened { audience, cursor, incomplete_until, gap, resumes, nothing_until })
    }

    /// The event that reports the gap of a subscription: between the event `asked` and the next one from
    /// which on all are there, something may be missing.
    pub fn opening_gap_event(&self, opened: &Opened, asked: &str, log: &impl EventLog, out: &mut Vec<u8>) {
        let subscription = self.audiences.subscription(opened.audience);
        let wanted = subscription.wanted_after(opened.incomplete_until, 0);
        let next = log.first_after(&wanted, &mut self.budgets.search_steps.clone()).frame();
        gap_event(asked, self.cursor(opened.cursor), next.as_deref(), subscription.encoding(), out);
    }

    /// Begins a link on a watched socket, under the name that was reserved, with its stream.
    pub fn begin(&mut self, opened: Opened, new: NewStream, now: Duration, log: &mut impl EventLog) {
        let NewStream { link: key, socket, options, lifetime, unsent } = new;
        let Opened { audience, cursor, incomplete_until, gap, resumes, nothing_until } = opened;
        let slot = key.slot;
        // It has everything up to where nothing is for it.
        let cursor = cursor.max(nothing_until);
        // Every event after the audience's head comes by mail, so a subscriber that has everything up to
        // there need not replay.
        let is_up_to_date = cursor >= incomplete_until && cursor >= self.audiences.head(audience);
        let place = if (resumes && !is_up_to_date) || unsent.is_some() {
            self.audiences.add_laggard(audience);
            let ready = unsent.is_none();
            if let Some(unsent) = unsent {
                self.unsent.insert(slot, unsent);
            }
            let new = NewLaggard { slot, cursor, incomplete_until, fell_behind: !resumes, ready };
            Place::Laggard(self.laggards.insert(new, now))
        } else {
            Place::Member(self.audiences.join(audience, Member { socket, slot, cursor }))
        };
        let sent_at = Deciseconds::of(now);
        let ends_at = self.end_time(lifetime, now);
        let link = Link::new(socket, key, self.audiences.subscription(audience).encoding().transport);
        let stream = Stream { audience, place, sent_at, ends_at, options };
        let inserted = self.subscribers.insert(Subscriber { link, stream });
        assert_eq!(inserted, slot as usize, "the name was reserved for this stream");
        self.counts.subscribed += 1;
        if let Some(joins) = &mut self.joins {
            joins.begun(self.audiences.subscription(audience));
        }
        self.counts.gaps += u64::from(gap);
        self.begin_upkeep(self.key_of(slot), options, now);
        self.make_room(log);
    }

    /// Takes back the registration of a subscription whose socket is gone already.
    pub fn abandon(&mut self, opened: Opened, log: &mut impl EventLog) {
        self.left(opened.audience, log);
    }
}
