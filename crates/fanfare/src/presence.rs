//! Who is there: the members of topics, by name, over all connections and shards.
//!
//! A member joins with its first connection and leaves some time after its last one, so that a page that is loaded anew, or a
//! phone that changes networks, does not leave and join. Topics may announce both. Announcements are made on a thread of their
//! own, since a shard does not wait for room in mailboxes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::event::{Event, EventType, Topic};
use fanfare_proto::segment_map::SegmentMap;

use crate::sync::{Condvar, Mutex, lock};

/// That a connection makes somebody a member of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) topic: Topic,
    pub(crate) name: Arc<str>,
    pub(crate) announcement: Option<Arc<Announcement>>,
}

/// The types of the events that tell of a member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) join: EventType,
    pub(crate) leave: EventType,
}

/// The members of all topics.
pub(crate) struct Presence {
    state: Mutex<State>,
    changed: Condvar,
    /// How long a member stays without a connection.
    linger: Duration,
}

struct State {
    topics: SegmentMap<Topic, Members>,
    /// Members without a connection, and when they leave: in this order.
    lingering: VecDeque<(Duration, Topic, Arc<str>)>,
    /// Members that may have something to announce, each once.
    unannounced: VecDeque<(Topic, Arc<str>)>,
    ended: bool,
}

/// The members of one topic, and those that have left and are still to be announced.
#[derive(Default)]
struct Members {
    by_name: BTreeMap<Arc<str>, Member>,
    /// How many of them have left.
    left: usize,
}

#[derive(Default)]
struct Member {
    connections: usize,
    /// When it leaves, where it has no connection.
    leaves_at: Option<Duration>,
    /// It has left. It is removed when its turn among the unannounced comes.
    has_left: bool,
    announcement: Option<Arc<Announcement>>,
    /// Its joining was announced.
    is_announced: bool,
    /// It is among the unannounced.
    is_noted: bool,
}

/// Members without a connection that are kept. Of more, each leaves at once.
const LINGERING: usize = 1 << 16;

/// Members that may wait for the announcement that they joined. Of more, it is not announced that they join and leave.
const UNANNOUNCED: usize = 1 << 16;

/// Announcements that are published together.
pub(crate) const ANNOUNCEMENTS: usize = 256;

/// Members that are looked at under one hold of the lock, which shards take too.
const MEMBERS_AT_ONCE: usize = 1024;

impl Presence {
    /// `seed` is for the keys of hashes.
    pub(crate) fn new(linger: Duration, seed: u64) -> Presence {
        let state = State {
            topics: SegmentMap::new(seed),
            lingering: VecDeque::new(),
            unannounced: VecDeque::new(),
            ended: false,
        };
        Presence { state: Mutex::new(state), changed: Condvar::new(), linger }
    }

    /// A connection begins.
    pub(crate) fn join(&self, memberships: &[Membership]) {
        self.change(|state| memberships.iter().for_each(|membership| state.join(membership)));
    }

    /// A connection has ended.
    pub(crate) fn leave(&self, memberships: &[Membership], now: Duration) {
        let leaves_at = now.saturating_add(self.linger);
        self.change(|state| memberships.iter().for_each(|membership| state.leave(membership, leaves_at)));
    }

    /// Wakes the thread that makes announcements where it has to look earlier than it knows.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        let idle = (state.lingering.is_empty(), state.unannounced.is_empty());
        change(&mut state);
        let wakes = idle != (state.lingering.is_empty(), state.unannounced.is_empty());
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
    }

    /// The names of a topic's members, in alphabetical order. The lock is free between the pieces, so names that come or go
    /// meanwhile may be among them or not.
    pub(crate) fn members(&self, topic: &Topic) -> Vec<Arc<str>> {
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
    pub(crate) fn count(&self, topic: &Topic) -> usize {
        let state = lock(&self.state);
        state.topics.get(topic).map_or(0, |members| members.by_name.len() - members.left)
    }

    /// Waits for announcements, and gives at most [`ANNOUNCEMENTS`] of them. `None`: the engine has ended.
    pub(crate) fn next_announcements(&self, now: impl Fn() -> Duration) -> Option<Vec<Event>> {
        let mut state = lock(&self.state);
        loop {
            if state.ended {
                return None;
            }
            state.end_lingering(now());
            let events = state.take_announcements();
            if !events.is_empty() {
                return Some(events);
            }
            let next = match state.unannounced.is_empty() {
                true => state.lingering.front().map(|(at, ..)| at.saturating_sub(now())),
                // There is more than was looked at. The lock is free for a moment.
                false => Some(Duration::ZERO),
            };
            // A time that never comes would be too long for the operating system.
            let wait = next.unwrap_or(A_DAY).min(A_DAY);
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Does what the thread that waits for announcements does at this time, until nothing is left.
    #[cfg(feature = "sim")]
    pub(crate) fn announcements_at(&self, now: Duration) -> Vec<Event> {
        let mut state = lock(&self.state);
        let mut events = Vec::new();
        loop {
            state.end_lingering(now);
            events.extend(state.take_announcements());
            let is_due = state.lingering.front().is_some_and(|(at, ..)| *at <= now);
            if !is_due && state.unannounced.is_empty() {
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
    fn join(&mut self, membership: &Membership) {
        let Membership { topic, name, announcement } = membership;
        let members = self.topics.get_or_default(topic);
        let member = members.by_name.entry(Arc::clone(name)).or_default();
        members.left -= usize::from(std::mem::take(&mut member.has_left));
        (member.connections, member.leaves_at) = (member.connections + 1, None);
        if let Some(announcement) = announcement {
            member.announcement = Some(Arc::clone(announcement));
        }
        let is_new = member.announcement.is_some() && !member.is_announced && !member.is_noted;
        if is_new && self.unannounced.len() < UNANNOUNCED {
            member.is_noted = true;
            self.unannounced.push_back((topic.clone(), Arc::clone(name)));
        }
    }

    fn leave(&mut self, membership: &Membership, leaves_at: Duration) {
        let Membership { topic, name, .. } = membership;
        let Some(member) = self.member(topic, name) else { return };
        member.connections -= 1;
        if member.connections > 0 {
            return;
        }
        member.leaves_at = Some(leaves_at);
        if self.lingering.len() < LINGERING {
            self.lingering.push_back((leaves_at, topic.clone(), Arc::clone(name)));
        } else {
            self.end(topic, name);
        }
    }

    fn member(&mut self, topic: &Topic, name: &Arc<str>) -> Option<&mut Member> {
        self.topics.get_mut(topic)?.by_name.get_mut(name)
    }

    /// Members whose time without a connection is over leave, as many as are looked at together.
    fn end_lingering(&mut self, now: Duration) {
        for _ in 0..MEMBERS_AT_ONCE {
            let Some((at, topic, name)) = self.lingering.pop_front_if(|(at, ..)| *at <= now) else { break };
            // It may have come back meanwhile, and left again.
            let is_its = |member: &mut Member| member.connections == 0 && member.leaves_at == Some(at);
            if self.member(&topic, &name).is_some_and(is_its) {
                self.end(&topic, &name);
            }
        }
        if self.lingering.is_empty() && self.lingering.capacity() > LINGERING / 64 {
            self.lingering = VecDeque::new();
        }
    }

    /// A member has left.
    fn end(&mut self, topic: &Topic, name: &Arc<str>) {
        let Some(members) = self.topics.get_mut(topic) else { return };
        let Some(member) = members.by_name.get_mut(name) else { return };
        if !member.is_announced && !member.is_noted {
            self.remove(topic, name);
            return;
        }
        members.left += usize::from(!std::mem::replace(&mut member.has_left, true));
        if !std::mem::replace(&mut member.is_noted, true) {
            self.unannounced.push_back((topic.clone(), Arc::clone(name)));
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

    /// What is to be announced, of as many members as are looked at together. A member that has joined and left, or left and
    /// joined, since it was noted needs nothing.
    fn take_announcements(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..MEMBERS_AT_ONCE {
            if events.len() == ANNOUNCEMENTS {
                break;
            }
            let Some((topic, name)) = self.unannounced.pop_front() else { break };
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
        if self.unannounced.is_empty() && self.unannounced.capacity() > ANNOUNCEMENTS {
            self.unannounced = VecDeque::new();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(5);

    fn membership(name: &str) -> Vec<Membership> {
        let announcement =
            Announcement { join: EventType::new("join").unwrap(), leave: EventType::new("leave").unwrap() };
        let (topic, announcement) = (Topic::new("room").unwrap(), Some(Arc::new(announcement)));
        vec![Membership { topic, name: name.into(), announcement }]
    }

    fn announced(presence: &Presence, now: Duration) -> Vec<String> {
        let mut state = lock(&presence.state);
        state.end_lingering(now);
        let events = state.take_announcements();
        let text =
            |event: &Event| format!("{} {}", event.event_type().unwrap(), event.data().unwrap_or_default());
        events.iter().map(text).collect()
    }

    fn members(presence: &Presence) -> Vec<Arc<str>> {
        presence.members(&Topic::new("room").unwrap())
    }

    #[test]
    fn a_member_with_two_connections_joins_once_and_leaves_once() {
        let presence = Presence::new(LINGER, 1);
        let ada = membership("ada");
        presence.join(&ada);
        presence.join(&ada);
        assert_eq!(announced(&presence, Duration::ZERO), ["join ada"]);
        presence.leave(&ada, Duration::ZERO);
        assert!(announced(&presence, 2 * LINGER).is_empty());
        presence.leave(&ada, 2 * LINGER);
        assert_eq!(members(&presence), ["ada".into()], "it may come back");
        assert!(announced(&presence, 3 * LINGER - Duration::from_millis(1)).is_empty());
        assert_eq!(announced(&presence, 3 * LINGER), ["leave ada"]);
        assert!(members(&presence).is_empty() && lock(&presence.state).topics.is_empty());
    }

    /// A page that is loaded anew.
    #[test]
    fn a_member_that_comes_back_in_time_was_never_away() {
        let presence = Presence::new(LINGER, 1);
        let ada = membership("ada");
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
    fn who_joined_and_left_before_it_was_announced_was_not_there() {
        let presence = Presence::new(LINGER, 1);
        presence.join(&membership("ada"));
        presence.leave(&membership("ada"), Duration::ZERO);
        presence.join(&membership("bob"));
        {
            lock(&presence.state).end_lingering(LINGER);
        }
        assert_eq!(announced(&presence, LINGER), ["join bob"]);
    }

    #[test]
    fn without_an_announcement_there_are_members_and_no_events() {
        let presence = Presence::new(LINGER, 1);
        let quiet: Vec<Membership> = membership("ada")
            .into_iter()
            .map(|membership| Membership { announcement: None, ..membership })
            .collect();
        presence.join(&quiet);
        assert_eq!(members(&presence), ["ada".into()]);
        presence.leave(&quiet, Duration::ZERO);
        assert!(announced(&presence, LINGER).is_empty());
        assert!(lock(&presence.state).topics.is_empty());
    }

    #[test]
    fn very_many_that_leave_together_are_not_kept() {
        let presence = Presence::new(LINGER, 1);
        let of = |number: usize| membership(&number.to_string());
        for number in 0..LINGERING + 10 {
            presence.join(&of(number));
            announced(&presence, Duration::ZERO);
        }
        for number in 0..LINGERING + 10 {
            presence.leave(&of(number), Duration::ZERO);
        }
        assert_eq!(announced(&presence, Duration::ZERO).len(), 10);
        assert_eq!(lock(&presence.state).lingering.len(), LINGERING);
    }

    /// While nothing could be announced, each connect of one name added an entry to the queue.
    #[test]
    fn a_name_waits_for_its_announcement_once() {
        let presence = Presence::new(LINGER, 1);
        for _ in 0..100 {
            presence.join(&membership("ada"));
            presence.leave(&membership("ada"), Duration::ZERO);
            lock(&presence.state).end_lingering(2 * LINGER);
        }
        assert_eq!(lock(&presence.state).unannounced.len(), 1);
        assert_eq!((members(&presence).len(), presence.count(&Topic::new("room").unwrap())), (0, 0));
        presence.join(&membership("ada"));
        assert_eq!(presence.count(&Topic::new("room").unwrap()), 1);
        assert_eq!(announced(&presence, 2 * LINGER), ["join ada"]);
    }

    #[test]
    fn many_members_are_listed_in_order() {
        let presence = Presence::new(LINGER, 1);
        let mut names: Vec<String> = (0..3 * MEMBERS_AT_ONCE).map(|number| number.to_string()).collect();
        names.iter().for_each(|name| presence.join(&membership(name)));
        names.sort_unstable();
        let listed = members(&presence);
        assert!(listed.iter().map(|name| &**name).eq(names.iter().map(String::as_str)));
        assert_eq!(presence.count(&Topic::new("room").unwrap()), names.len());
    }
}
