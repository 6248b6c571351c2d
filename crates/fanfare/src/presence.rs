//! The members of each topic: names, over all connections and shards.
//!
//! A member joins with its first connection and leaves some time after its last one, so that a page that is
//! loaded anew, or a phone that changes networks, does not leave and join. Topics may announce both.
//! Announcements are made on a thread of their own ([`announcer`]), since a shard does not wait for room in
//! mailboxes. That thread may wait for long. So each reader of members, too, lets those leave whose time is
//! over.

mod announcer;
mod member;
#[cfg(test)]
#[cfg(fanfare_loom)]
mod models;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fanfare_proto::event::{Event, Topic};
use fanfare_proto::limits::{Limits, MEMBER_BYTES};
use fanfare_proto::segment_map::SegmentMap;

use crate::sync::{Condvar, Mutex, MutexGuard, lock, thread};
pub(crate) use announcer::Announcer;
use member::Announcement;
pub use member::Member;

/// The members of all topics.
pub(crate) struct Presence {
    state: Mutex<State>,
    changed: Condvar,
    /// How long a member stays without a connection.
    linger: Duration,
}

/// Its tables grow by one node or one segment at a time, because shards wait for its lock.
struct State {
    topics: SegmentMap<Topic, Members>,
    /// Members without a connection, by the time when they leave.
    lingering: BTreeMap<LeaveAt, (Topic, Arc<str>)>,
    /// Members that may have something to announce, each once, in the order of these numbers.
    unannounced: BTreeMap<u64, (Topic, Arc<str>)>,
    /// The newest number in either of them.
    number: u64,
    /// [`Limits::members_lingering`].
    lingering_most: usize,
    /// [`Limits::announcements`].
    unannounced_most: usize,
    counts: PresenceCounts,
    ended: bool,
}

/// When a member without a connection leaves. The number tells apart members that leave at the same time.
type LeaveAt = (Duration, u64);

/// What was not done as it was asked for, because of a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PresenceCounts {
    /// Members that left before their time.
    pub(crate) left_early: u64,
    /// Announcements that were not made.
    pub(crate) not_announced: u64,
}

/// The members of one topic, and members that have left and are still to be announced.
#[derive(Default)]
struct Members {
    by_name: BTreeMap<Arc<str>, MemberState>,
    /// How many of them have left.
    left: usize,
}

#[derive(Default)]
struct MemberState {
    connections: usize,
    /// Its place among the lingering members, where it has no connection.
    leaves_at: Option<LeaveAt>,
    /// It has left. It is removed when its turn among the unannounced comes.
    has_left: bool,
    announcement: Option<Arc<Announcement>>,
    /// Its joining was announced.
    is_announced: bool,
    /// It is among the unannounced.
    is_noted: bool,
}

/// A node of a `BTreeMap` has room for eleven entries, and is half full where there are several of them.
const _: () = assert!(
    11 * size_of::<(Arc<str>, MemberState)>()
        + 3 * size_of::<(Topic, Members)>()
        + 3 * size_of::<(LeaveAt, (Topic, Arc<str>))>()
        + 3 * size_of::<(u64, (Topic, Arc<str>))>()
        + size_of::<Member>()
        + 4 * size_of::<usize>()
        <= MEMBER_BYTES
);

/// Announcements that are published together.
pub(crate) const ANNOUNCEMENTS: usize = 256;

/// Members that are looked at under one hold of the lock, which shards take too.
const MEMBERS_AT_ONCE: usize = if cfg!(fanfare_loom) { 1 } else { 1024 };

impl Presence {
    /// `seed` is for the keys of hashes.
    pub(crate) fn new(linger: Duration, limits: &Limits, seed: u64) -> Presence {
        let state = State {
            topics: SegmentMap::new(seed),
            lingering: BTreeMap::new(),
            unannounced: BTreeMap::new(),
            number: 0,
            lingering_most: limits.members_lingering,
            unannounced_most: limits.announcements,
            counts: PresenceCounts::default(),
            ended: false,
        };
        Presence { state: Mutex::new(state), changed: Condvar::new(), linger }
    }

    /// A connection begins.
    pub(crate) fn join(&self, members: &[Member]) {
        self.change(|state| members.iter().for_each(|member| state.join(member)));
    }

    /// A connection has ended.
    pub(crate) fn leave(&self, members: &[Member], now: Duration) {
        let leaves_at = now.saturating_add(self.linger);
        self.change(|state| members.iter().for_each(|member| state.leave(member, now, leaves_at)));
    }

    /// Changes the state, and wakes the thread that makes announcements where it sleeps for longer than it
    /// may now: there is something to announce, or a time at which it has to look.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = lock(&self.state);
        let idle = (state.lingering.is_empty(), state.unannounced.is_empty());
        let result = change(&mut state);
        let begins = (idle.0 && !state.lingering.is_empty()) || (idle.1 && !state.unannounced.is_empty());
        drop(state);
        if begins {
            self.changed.notify_one();
        }
        result
    }

    /// Lets every member leave whose time is over at this moment.
    fn end_lingering(&self, now: Duration) {
        while self.change(|state| state.end_lingering(now)) {}
    }

    /// The names of a topic's members, in alphabetical order. The lock is free between the pieces, so names
    /// that come or go meanwhile may be among them or not.
    pub(crate) fn members(&self, topic: &Topic, now: Duration) -> Vec<Arc<str>> {
        self.end_lingering(now);
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut last: Option<Arc<str>> = None;
        loop {
            let state = lock(&self.state);
            let Some(members) = state.topics.get(topic) else { return names };
            let after = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let piece = members.by_name.range::<Arc<str>, _>((after, Bound::Unbounded)).take(MEMBERS_AT_ONCE);
            let mut seen = 0;
            let mut newest = None;
            for (name, member) in piece {
                (seen, newest) = (seen + 1, Some(name));
                if !member.has_left {
                    names.push(Arc::clone(name));
                }
            }
            if seen < MEMBERS_AT_ONCE {
                return names;
            }
            last = newest.map(Arc::clone);
        }
    }

    /// How many members a topic has.
    pub(crate) fn count(&self, topic: &Topic, now: Duration) -> usize {
        self.end_lingering(now);
        let state = lock(&self.state);
        state.topics.get(topic).map_or(0, |members| members.by_name.len() - members.left)
    }

    /// What was not done because of a bound.
    pub(crate) fn counts(&self) -> PresenceCounts {
        lock(&self.state).counts
    }

    /// Announcements were taken that are not published.
    pub(crate) fn count_not_announced(&self, count: usize) {
        lock(&self.state).counts.not_announced += count as u64;
    }

    /// Waits for announcements, and gives at most [`ANNOUNCEMENTS`] of them. `None`: the engine has ended.
    pub(crate) fn next_announcements(&self, now: impl Fn() -> Duration) -> Option<Vec<Event>> {
        let mut state = lock(&self.state);
        while !state.ended {
            let has_more = state.end_lingering(now());
            let events = state.take_announcements();
            if !events.is_empty() {
                return Some(events);
            }
            state = match has_more || !state.unannounced.is_empty() {
                true => self.free_for_a_moment(state),
                false => {
                    let next = state.lingering.keys().next().map(|(at, _)| at.saturating_sub(now()));
                    // A time that never comes would be too long for the operating system.
                    let wait = next.unwrap_or(A_DAY).min(A_DAY);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        None
    }

    /// Lets other threads have the lock, where there is more to look at than may be under one hold of it.
    fn free_for_a_moment<'state>(
        &'state self,
        state: MutexGuard<'state, State>,
    ) -> MutexGuard<'state, State> {
        drop(state);
        thread::yield_now();
        lock(&self.state)
    }

    /// Does what the thread that waits for announcements does at this time, until nothing is left.
    #[cfg(feature = "sim")]
    pub(crate) fn announcements_at(&self, now: Duration) -> Vec<Event> {
        let mut state = lock(&self.state);
        let mut events = Vec::new();
        loop {
            let has_more = state.end_lingering(now);
            events.extend(state.take_announcements());
            if !has_more && state.unannounced.is_empty() {
                return events;
            }
        }
    }

    /// Ends the thread that waits for announcements.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);

impl State {
    fn join(&mut self, member: &Member) {
        let Member { topic, name, announcement } = member;
        let members = self.topics.get_or_default(topic);
        let member = members.by_name.entry(Arc::clone(name)).or_default();
        members.left -= usize::from(std::mem::take(&mut member.has_left));
        member.connections += 1;
        if let Some(leaves_at) = member.leaves_at.take() {
            self.lingering.remove(&leaves_at);
        }
        if let Some(announcement) = announcement {
            member.announcement = Some(Arc::clone(announcement));
        }
        if member.announcement.is_none() || member.is_announced || member.is_noted {
            return;
        }
        if self.unannounced.len() < self.unannounced_most {
            member.is_noted = true;
            self.number += 1;
            self.unannounced.insert(self.number, (topic.clone(), Arc::clone(name)));
        } else {
            self.counts.not_announced += 1;
        }
    }

    fn leave(&mut self, member: &Member, now: Duration, leaves_at: Duration) {
        let Member { topic, name, .. } = member;
        self.number += 1;
        let leaves_at = (leaves_at, self.number);
        let Some(member) = self.member(topic, name) else { return };
        member.connections -= 1;
        if member.connections > 0 {
            return;
        }
        member.leaves_at = Some(leaves_at);
        self.lingering.insert(leaves_at, (topic.clone(), Arc::clone(name)));
        if self.lingering.len() > self.lingering_most {
            // The member that would leave first has had most of its time.
            let Some(((at, _), (topic, name))) = self.lingering.pop_first() else { return };
            self.counts.left_early += u64::from(at > now);
            self.end(&topic, &name);
        }
    }

    fn member(&mut self, topic: &Topic, name: &Arc<str>) -> Option<&mut MemberState> {
        self.topics.get_mut(topic)?.by_name.get_mut(name)
    }

    /// Members whose time without a connection is over leave, as many as are looked at together. Says whether
    /// there may be more.
    fn end_lingering(&mut self, now: Duration) -> bool {
        for _ in 0..MEMBERS_AT_ONCE {
            let Some(first) = self.lingering.first_entry().filter(|first| first.key().0 <= now) else {
                return false;
            };
            let (topic, name) = first.remove();
            self.end(&topic, &name);
        }
        true
    }

    /// A member has left.
    fn end(&mut self, topic: &Topic, name: &Arc<str>) {
        let Some(members) = self.topics.get_mut(topic) else { return };
        let Some(member) = members.by_name.get_mut(name) else { return };
        member.leaves_at = None;
        if !member.is_announced && !member.is_noted {
            self.remove(topic, name);
            return;
        }
        members.left += usize::from(!std::mem::replace(&mut member.has_left, true));
        if !std::mem::replace(&mut member.is_noted, true) {
            self.number += 1;
            self.unannounced.insert(self.number, (topic.clone(), Arc::clone(name)));
        }
    }

    fn remove(&mut self, topic: &Topic, name: &Arc<str>) {
        let Some(members) = self.topics.get_mut(topic) else { return };
        if let Some(member) = members.by_name.remove(name) {
            members.left -= usize::from(member.has_left);
        }
        if members.by_name.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// What is to be announced, of as many members as are looked at together. A member that has joined and
    /// left, or left and joined, since it was noted needs nothing.
    fn take_announcements(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..MEMBERS_AT_ONCE {
            if events.len() == ANNOUNCEMENTS {
                break;
            }
            let Some((_, (topic, name))) = self.unannounced.pop_first() else { break };
            let Some(member) = self.member(&topic, &name) else { continue };
            member.is_noted = false;
            let (has_left, was_announced) = (member.has_left, member.is_announced);
            member.is_announced = !has_left;
            let announcement = member.announcement.clone();
            if has_left {
                self.remove(&topic, &name);
            }
            let kind = match announcement {
                Some(announcement) if !has_left && !was_announced => announcement.join.clone(),
                Some(announcement) if has_left && was_announced => announcement.leave.clone(),
                _ => continue,
            };
            events.push(Event::new(topic).with_type(kind).with_data(&*name));
        }
        events
    }
}

#[cfg(test)]
#[cfg(not(fanfare_loom))]
mod tests {
    use fanfare_proto::event::EventType;

    use super::*;

    const LINGER: Duration = Duration::from_secs(5);

    fn member(name: &str) -> Vec<Member> {
        let announcement =
            Announcement { join: EventType::new("join").unwrap(), leave: EventType::new("leave").unwrap() };
        let (topic, announcement) = (Topic::new("room").unwrap(), Some(Arc::new(announcement)));
        vec![Member { topic, name: name.into(), announcement }]
    }

    fn room() -> Topic {
        Topic::new("room").unwrap()
    }

    fn presence_of(limits: &Limits) -> Presence {
        Presence::new(LINGER, limits, 1)
    }

    fn announced(presence: &Presence, now: Duration) -> Vec<String> {
        let mut state = lock(&presence.state);
        state.end_lingering(now);
        let events = state.take_announcements();
        let text =
            |event: &Event| format!("{} {}", event.event_type().unwrap(), event.data().unwrap_or_default());
        events.iter().map(text).collect()
    }

    fn members(presence: &Presence, now: Duration) -> Vec<Arc<str>> {
        let names = presence.members(&room(), now);
        assert_eq!(presence.count(&room(), now), names.len());
        names
    }

    #[test]
    fn a_member_with_two_connections_joins_once_and_leaves_once() {
        let presence = presence_of(&Limits::default());
        let ada = member("ada");
        presence.join(&ada);
        presence.join(&ada);
        assert_eq!(announced(&presence, Duration::ZERO), ["join ada"]);
        presence.leave(&ada, Duration::ZERO);
        assert!(announced(&presence, 2 * LINGER).is_empty());
        presence.leave(&ada, 2 * LINGER);
        assert_eq!(members(&presence, 2 * LINGER), ["ada".into()], "it may come back");
        assert!(announced(&presence, 3 * LINGER - Duration::from_millis(1)).is_empty());
        assert_eq!(announced(&presence, 3 * LINGER), ["leave ada"]);
        assert!(members(&presence, 3 * LINGER).is_empty() && lock(&presence.state).topics.is_empty());
    }

    /// A page that is loaded anew.
    #[test]
    fn a_member_that_comes_back_in_time_was_never_away() {
        let presence = presence_of(&Limits::default());
        let ada = member("ada");
        presence.join(&ada);
        assert_eq!(announced(&presence, Duration::ZERO), ["join ada"]);
        for round in 1..10 {
            presence.leave(&ada, round * LINGER);
            presence.join(&ada);
            assert!(announced(&presence, round * LINGER).is_empty());
        }
        presence.leave(&ada, 10 * LINGER);
        assert_eq!(announced(&presence, 11 * LINGER), ["leave ada"]);
        assert!(lock(&presence.state).lingering.is_empty());
    }

    #[test]
    fn a_member_that_left_before_its_announcement_is_not_announced() {
        let presence = presence_of(&Limits::default());
        presence.join(&member("ada"));
        presence.leave(&member("ada"), Duration::ZERO);
        presence.join(&member("bob"));
        {
            lock(&presence.state).end_lingering(LINGER);
        }
        assert_eq!(announced(&presence, LINGER), ["join bob"]);
    }

    #[test]
    fn without_an_announcement_there_are_members_and_no_events() {
        let presence = presence_of(&Limits::default());
        let quiet: Vec<Member> =
            member("ada").into_iter().map(|member| Member { announcement: None, ..member }).collect();
        presence.join(&quiet);
        assert_eq!(members(&presence, Duration::ZERO), ["ada".into()]);
        presence.leave(&quiet, Duration::ZERO);
        assert!(announced(&presence, LINGER).is_empty());
        assert!(lock(&presence.state).topics.is_empty());
    }

    /// At the bound, a member whose connection ended left at once: with 20 pages a second that were loaded
    /// anew, and an hour to come back in, each of them left and joined. Now the member leaves that has been
    /// away for the longest time, and that is counted.
    #[test]
    fn at_the_bound_the_member_leaves_that_has_lingered_for_the_longest_time() {
        let presence = presence_of(&Limits::default().with_members_lingering(3));
        let names = ["ada", "bob", "cyd", "dan", "eve"];
        names.iter().for_each(|name| presence.join(&member(name)));
        assert_eq!(announced(&presence, Duration::ZERO).len(), names.len());
        let second = Duration::from_secs(1);
        for (at, name) in (1..).zip(names) {
            presence.leave(&member(name), at * second);
        }
        assert_eq!(members(&presence, 5 * second), ["cyd".into(), "dan".into(), "eve".into()]);
        assert_eq!(presence.counts(), PresenceCounts { left_early: 2, not_announced: 0 });
        assert_eq!(announced(&presence, 5 * second), ["leave ada", "leave bob"]);
        // The time of these three is over, so they do not leave early.
        presence.join(&member("zoe"));
        presence.leave(&member("zoe"), 100 * second);
        assert_eq!((presence.counts().left_early, lock(&presence.state).lingering.len()), (2, 3));
        assert_eq!(members(&presence, 100 * second), ["zoe".into()]);
    }

    /// An entry of a member that had come back stayed in the queue until its time, and counted: after enough
    /// pages that were loaded anew, every member left at once.
    #[test]
    fn a_member_that_comes_back_gives_its_place_among_the_lingering_back() {
        let presence = presence_of(&Limits::default().with_members_lingering(2));
        for name in ["ada", "bob"] {
            presence.join(&member(name));
        }
        for _ in 0..100 {
            presence.leave(&member("ada"), Duration::ZERO);
            presence.join(&member("ada"));
            assert!(lock(&presence.state).lingering.is_empty());
        }
        presence.leave(&member("bob"), Duration::ZERO);
        assert_eq!(members(&presence, Duration::ZERO).len(), 2);
        assert_eq!(presence.counts(), PresenceCounts::default());
    }

    /// Beyond the bound it was not counted that members came without an announcement.
    #[test]
    fn an_announcement_that_finds_no_room_is_counted() {
        let presence = presence_of(&Limits::default().with_announcements(2));
        for name in ["ada", "bob", "cyd", "dan"] {
            presence.join(&member(name));
        }
        assert_eq!(presence.counts(), PresenceCounts { left_early: 0, not_announced: 2 });
        assert_eq!(announced(&presence, Duration::ZERO), ["join ada", "join bob"]);
        // A member that was announced is announced when it leaves, whatever waits.
        for name in ["eve", "fay"] {
            presence.join(&member(name));
        }
        for name in ["ada", "bob", "cyd"] {
            presence.leave(&member(name), Duration::ZERO);
        }
        assert_eq!(announced(&presence, LINGER), ["join eve", "join fay", "leave ada", "leave bob"]);
        assert_eq!(presence.counts().not_announced, 2);
    }

    /// Members whose time was over stayed while the thread that announces members waited for room in a
    /// mailbox: a congested shard made the members of every topic wrong for minutes.
    #[test]
    fn readers_see_no_member_whose_time_is_over_while_nothing_is_announced() {
        let presence = presence_of(&Limits::default());
        let names: Vec<String> = (0..3 * MEMBERS_AT_ONCE).map(|number| format!("{number:04}")).collect();
        names.iter().for_each(|name| presence.join(&member(name)));
        while !announced(&presence, Duration::ZERO).is_empty() {}
        for (millis, name) in (0..).zip(&names) {
            presence.leave(&member(name), Duration::from_millis(millis));
        }
        let kept = |now: Duration| members(&presence, now).len();
        assert_eq!(kept(LINGER - Duration::from_millis(1)), names.len());
        assert_eq!(kept(LINGER + Duration::from_millis(99)), names.len() - 100);
        assert_eq!(presence.count(&room(), 10 * LINGER), 0, "the whole crowd has left");
        // They are announced when that is possible.
        let mut leaving = 0;
        while let events = announced(&presence, 10 * LINGER).len()
            && events > 0
        {
            leaving += events;
        }
        assert_eq!(leaving, names.len());
    }

    /// While nothing could be announced, each connect of one name added an entry to the queue.
    #[test]
    fn a_name_waits_for_its_announcement_once() {
        let presence = presence_of(&Limits::default());
        for _ in 0..100 {
            presence.join(&member("ada"));
            presence.leave(&member("ada"), Duration::ZERO);
            lock(&presence.state).end_lingering(2 * LINGER);
        }
        assert_eq!(lock(&presence.state).unannounced.len(), 1);
        assert_eq!(members(&presence, Duration::ZERO).len(), 0);
        presence.join(&member("ada"));
        assert_eq!(members(&presence, Duration::ZERO).len(), 1);
        assert_eq!(announced(&presence, 2 * LINGER), ["join ada"]);
    }

    #[test]
    fn many_members_are_listed_in_order() {
        let presence = presence_of(&Limits::default());
        let mut names: Vec<String> = (0..3 * MEMBERS_AT_ONCE).map(|number| number.to_string()).collect();
        names.iter().for_each(|name| presence.join(&member(name)));
        names.sort_unstable();
        let listed = members(&presence, Duration::ZERO);
        assert!(listed.iter().map(|name| &**name).eq(names.iter().map(String::as_str)));
    }
}
