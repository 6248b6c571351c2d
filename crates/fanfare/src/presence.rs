//! Who is there: the members of topics, by name, over all connections and shards.
//!
//! A member joins with its first connection and leaves some time after its last one, so that a page that is loaded anew, or a
//! phone that changes networks, does not leave and join. Topics may announce both. Announcements are made on a thread of their
//! own, since a shard does not wait for room in mailboxes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::event::{Event, EventType, Topic};

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

#[derive(Default)]
struct State {
    topics: HashMap<Topic, BTreeMap<Arc<str>, Member>>,
    /// Members without a connection, and when they leave: in this order.
    lingering: VecDeque<(Duration, Topic, Arc<str>)>,
    /// Members that may have something to announce.
    unannounced: VecDeque<(Topic, Arc<str>)>,
    ended: bool,
}

struct Member {
    connections: usize,
    /// When it leaves, where it has no connection.
    leaves_at: Option<Duration>,
    /// It has left, and that is still to be announced.
    has_left: bool,
    announcement: Option<Arc<Announcement>>,
    /// Its joining was announced.
    is_announced: bool,
}

/// Members without a connection that are kept. Of more, each leaves at once.
const LINGERING: usize = 1 << 16;

/// Announcements that are published together.
pub(crate) const ANNOUNCEMENTS: usize = 256;

impl Presence {
    pub(crate) fn new(linger: Duration) -> Presence {
        Presence { state: Mutex::default(), changed: Condvar::new(), linger }
    }

    /// A connection begins.
    pub(crate) fn join(&self, memberships: &[Membership]) {
        let mut state = lock(&self.state);
        for Membership { topic, name, announcement } in memberships {
            let member = state.topics.entry(topic.clone()).or_default().entry(Arc::clone(name));
            let member = member.or_insert_with(|| Member {
                connections: 0,
                leaves_at: None,
                has_left: false,
                announcement: None,
                is_announced: false,
            });
            (member.connections, member.leaves_at, member.has_left) = (member.connections + 1, None, false);
            if let Some(announcement) = announcement {
                member.announcement = Some(Arc::clone(announcement));
            }
            if member.announcement.is_some() && !member.is_announced {
                state.unannounced.push_back((topic.clone(), Arc::clone(name)));
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A connection has ended.
    pub(crate) fn leave(&self, memberships: &[Membership], now: Duration) {
        let mut state = lock(&self.state);
        for Membership { topic, name, .. } in memberships {
            let may_linger = state.lingering.len() < LINGERING;
            let member = state.topics.get_mut(topic).and_then(|members| members.get_mut(name));
            let Some(member) = member else { continue };
            member.connections -= 1;
            if member.connections == 0 {
                let leaves_at = if may_linger { now.saturating_add(self.linger) } else { now };
                member.leaves_at = Some(leaves_at);
                if may_linger {
                    state.lingering.push_back((leaves_at, topic.clone(), Arc::clone(name)));
                } else {
                    state.end(topic, name);
                }
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The names of a topic's members, in alphabetical order.
    pub(crate) fn members(&self, topic: &Topic) -> Vec<Arc<str>> {
        let state = lock(&self.state);
        let members = state.topics.get(topic).into_iter().flatten();
        members.filter(|(_, member)| !member.has_left).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// How many members a topic has.
    pub(crate) fn count(&self, topic: &Topic) -> usize {
        let state = lock(&self.state);
        let members = state.topics.get(topic).into_iter().flatten();
        members.filter(|(_, member)| !member.has_left).count()
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
            let next = state.lingering.front().map(|(at, ..)| at.saturating_sub(now()));
            // A time that never comes would be too long for the operating system.
            let wait = next.unwrap_or(A_DAY).min(A_DAY);
            let waited = self.changed.wait_timeout(state, wait);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Does what the thread that waits for announcements does at this time, once.
    #[cfg(feature = "sim")]
    pub(crate) fn announcements_at(&self, now: Duration) -> Vec<Event> {
        let mut state = lock(&self.state);
        state.end_lingering(now);
        state.take_announcements()
    }

    /// Ends the thread that waits for announcements.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);

impl State {
    /// Members whose time without a connection is over leave.
    fn end_lingering(&mut self, now: Duration) {
        while self.lingering.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((at, topic, name)) = self.lingering.pop_front() else { return };
            let member = self.topics.get(&topic).and_then(|members| members.get(&name));
            // It may have come back meanwhile, and left again.
            if member.is_some_and(|member| member.connections == 0 && member.leaves_at == Some(at)) {
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
        let Some(member) = members.get_mut(name) else { return };
        if member.is_announced {
            member.has_left = true;
            self.unannounced.push_back((topic.clone(), Arc::clone(name)));
        } else {
            self.remove(topic, name);
        }
    }

    fn remove(&mut self, topic: &Topic, name: &Arc<str>) {
        if let Some(members) = self.topics.get_mut(topic) {
            members.remove(name);
            if members.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// What is to be announced. A member that has joined and left, or left and joined, since it was noted needs nothing.
    fn take_announcements(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < ANNOUNCEMENTS {
            let Some((topic, name)) = self.unannounced.pop_front() else { break };
            let member = self.topics.get_mut(&topic).and_then(|members| members.get_mut(&name));
            let Some(member) = member else { continue };
            let Some(announcement) = member.announcement.clone() else { continue };
            let kind = match (member.has_left, member.is_announced) {
                (false, false) => {
                    member.is_announced = true;
                    announcement.join.clone()
                }
                (true, true) => {
                    self.remove(&topic, &name);
                    announcement.leave.clone()
                }
                (false, true) | (true, false) => continue,
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
        let presence = Presence::new(LINGER);
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
        let presence = Presence::new(LINGER);
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
        let presence = Presence::new(LINGER);
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
        let presence = Presence::new(LINGER);
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
        let presence = Presence::new(LINGER);
        let of = |number: usize| membership(&number.to_string());
        for number in 0..LINGERING + 10 {
            presence.join(&of(number));
        }
        while !announced(&presence, Duration::ZERO).is_empty() {}
        for number in 0..LINGERING + 10 {
            presence.leave(&of(number), Duration::ZERO);
        }
        assert_eq!(announced(&presence, Duration::ZERO).len(), 10);
        assert_eq!(lock(&presence.state).lingering.len(), LINGERING);
    }
}
