//! Presence in a cluster: what other servers have told of their topics.
//!
//! Each server tells the others how many subscribers its topics have, when that changes, and all of its
//! topics to a server that is new. So each server knows the sum, and has the whole history. One of them
//! publishes the events: the one that was started first. When a server has not shown itself for some seconds,
//! its subscribers have left.

use std::collections::{BTreeMap, HashMap, HashSet};

use fanfare::Topic;
use serde::{Deserialize, Serialize};

use super::Change;

/// What is known of the topics of other servers.
#[derive(Debug, Default)]
pub(super) struct Others {
    servers: HashMap<String, HashMap<Topic, Told>>,
    /// The sums over all other servers.
    sums: HashMap<Topic, Sum>,
    /// Topics that the others have, counted for each of them.
    count: usize,
    /// What has changed and was not taken.
    changes: BTreeMap<Topic, Change>,
    /// Changes have found no room.
    has_missed: bool,
    /// The other servers at the last look.
    seen: HashSet<String>,
    /// A server is to be told everything.
    has_newcomers: bool,
}

/// What one server has told of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    subscribers: u32,
    is_watched: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    subscribers: usize,
    watchers: usize,
}

/// What a server tells of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    topic: String,
    /// On that server.
    subscribers: u32,
    joined: u64,
    left: u64,
    /// Someone reads the presence events of the topic there.
    is_watched: bool,
}

/// A message to all other servers.
#[derive(Debug, Serialize, Deserialize)]
struct Message {
    topics: Vec<Entry>,
}

impl Entry {
    pub(super) fn new(topic: &Topic, subscribers: usize, change: Change, is_watched: bool) -> Entry {
        Entry {
            topic: topic.to_string(),
            subscribers: u32::try_from(subscribers).unwrap_or(u32::MAX),
            joined: change.joined,
            left: change.left,
            is_watched,
        }
    }
}

/// A message with these entries.
pub(super) fn message(topics: Vec<Entry>) -> Vec<u8> {
    serde_json::to_vec(&Message { topics }).unwrap_or_default()
}

impl Others {
    /// Takes in what the server of this name has told of topics that have presence. `most`: topics that it
    /// may have, and changes that may wait.
    pub(super) fn take_in(&mut self, from: &str, payload: &[u8], most: usize, has: impl Fn(&str) -> bool) {
        let Ok(Message { topics }) = serde_json::from_slice(payload) else {
            tracing::debug!("a message about presence cannot be read");
            return;
        };
        for Entry { topic, subscribers, joined, left, is_watched } in topics {
            let Some(topic) = Topic::new(&topic).ok().filter(|topic| has(topic.as_str())) else { continue };
            let told = Told { subscribers, is_watched };
            if self.set(from, &topic, told, most) || joined > 0 || left > 0 {
                self.note_change(topic, Change { joined, left }, most);
            }
        }
    }

    fn note_change(&mut self, topic: Topic, change: Change, most: usize) {
        if self.changes.len() >= most && !self.changes.contains_key(&topic) {
            self.has_missed = true;
            return;
        }
        self.changes.entry(topic).or_default().add(change);
    }

    /// Notes what a server has told. False: it is known.
    fn set(&mut self, from: &str, topic: &Topic, told: Told, most: usize) -> bool {
        let is_empty = told.subscribers == 0 && !told.is_watched;
        let topics = match self.servers.get_mut(from) {
            Some(topics) => topics,
            None => self.servers.entry(from.to_owned()).or_default(),
        };
        let before = topics.get(topic).copied();
        if before.is_none() && (is_empty || topics.len() >= most) {
            return false;
        }
        if before == Some(told) {
            return false;
        }
        match is_empty {
            true => drop(topics.remove(topic)),
            false => drop(topics.insert(topic.clone(), told)),
        }
        self.count = self.count + usize::from(!is_empty) - usize::from(before.is_some());
        self.add(topic, before, (!is_empty).then_some(told));
        true
    }

    fn add(&mut self, topic: &Topic, before: Option<Told>, now: Option<Told>) {
        let sum = self.sums.entry(topic.clone()).or_default();
        if let Some(before) = before {
            sum.subscribers -= before.subscribers as usize;
            sum.watchers -= usize::from(before.is_watched);
        }
        if let Some(now) = now {
            sum.subscribers += now.subscribers as usize;
            sum.watchers += usize::from(now.is_watched);
        }
        if sum.subscribers == 0 && sum.watchers == 0 {
            self.sums.remove(topic);
        }
    }

    /// Notes which other servers are there. The subscribers of one that is gone have left; one that is new is
    /// to be told everything.
    pub(super) fn see(&mut self, there: &[String]) {
        let gone: Vec<String> = self.servers.keys().filter(|name| !there.contains(name)).cloned().collect();
        for name in gone {
            for (topic, told) in self.servers.remove(&name).into_iter().flatten() {
                self.count -= 1;
                self.add(&topic, Some(told), None);
                let left = Change { joined: 0, left: u64::from(told.subscribers) };
                // As many as there were topics of this server.
                self.note_change(topic, left, usize::MAX);
            }
        }
        // One that has told something before it was seen is new, too.
        self.has_newcomers |= there.iter().any(|name| !self.seen.contains(name));
        self.seen = there.iter().cloned().collect();
    }

    /// Whether all topics are to be told: a server has come, or changes have found no room. The next call
    /// says no.
    pub(super) fn take_need(&mut self) -> bool {
        std::mem::take(&mut self.has_newcomers) | std::mem::take(&mut self.has_missed)
    }

    /// What has changed since the last call, of at most so many topics.
    pub(super) fn take_changes(&mut self, most: usize) -> Vec<(Topic, Change)> {
        std::iter::from_fn(|| self.changes.pop_first()).take(most).collect()
    }

    /// Subscribers of the topic on all other servers.
    pub(super) fn subscribers(&self, topic: &Topic) -> usize {
        self.sums.get(topic).map_or(0, |sum| sum.subscribers)
    }

    /// Whether someone reads the presence events of the topic on another server.
    pub(super) fn is_watched(&self, topic: &Topic) -> bool {
        self.sums.get(topic).is_some_and(|sum| sum.watchers > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    fn tell(others: &mut Others, from: &str, subscribers: usize, joined: u64, left: u64, is_watched: bool) {
        let entry = Entry::new(&topic("a"), subscribers, Change { joined, left }, is_watched);
        others.take_in(from, &message(vec![entry]), 10, |_| true);
    }

    #[test]
    fn the_sum_is_over_all_servers_that_are_there() {
        let mut others = Others::default();
        let there = ["x".to_owned(), "y".to_owned()];
        others.see(&there);
        assert!(others.take_need() && !others.take_need());
        tell(&mut others, "x", 3, 3, 0, false);
        tell(&mut others, "y", 2, 4, 2, true);
        assert_eq!((others.subscribers(&topic("a")), others.is_watched(&topic("a"))), (5, true));
        assert_eq!(others.take_changes(9), [(topic("a"), Change { joined: 7, left: 2 })]);
        // The same once more changes nothing.
        tell(&mut others, "x", 3, 0, 0, false);
        assert_eq!((others.subscribers(&topic("a")), others.take_changes(9)), (5, Vec::new()));
        // One is gone.
        others.see(&there[..1]);
        assert_eq!((others.subscribers(&topic("a")), others.is_watched(&topic("a"))), (3, false));
        assert_eq!(others.take_changes(9), [(topic("a"), Change { joined: 0, left: 2 })]);
        assert!(!others.take_need());
        tell(&mut others, "x", 0, 0, 3, false);
        assert_eq!((others.count, others.sums.len()), (0, 0));
        others.see(&there);
        assert!(others.take_need(), "it has come back, and knows nothing");
        // One that tells something before it is seen.
        tell(&mut others, "z", 1, 1, 0, false);
        assert!(!others.take_need());
        others.see(&["x".to_owned(), "y".to_owned(), "z".to_owned()]);
        assert!(others.take_need());
    }

    #[test]
    fn what_a_server_tells_is_bounded_and_nonsense_is_ignored() {
        let mut others = Others::default();
        let entries =
            (0..20).map(|number| Entry::new(&topic(&number.to_string()), 1, Change::default(), false));
        others.take_in("x", &message(entries.collect()), 10, |topic| topic != "3");
        assert_eq!((others.count, others.sums.len(), others.changes.len()), (10, 10, 10));
        assert!(!others.sums.contains_key(&topic("3")), "it has no presence");
        let joins = |name: &str| Entry::new(&topic(name), 1, Change { joined: u64::MAX, left: 1 }, false);
        others.take_in("y", &message(vec![joins("a"), joins("0"), joins("0")]), 10, |_| true);
        assert_eq!((others.changes.len(), others.take_need()), (10, true), "the change of a finds no room");
        assert_eq!(others.changes[&topic("0")].joined, u64::MAX);
        others.see(&["x".to_owned()]);
        assert_eq!(others.count, 10);
        others.take_in("x", b"{", 10, |_| true);
        let nameless = Entry { topic: String::new(), ..Entry::new(&topic("a"), 1, Change::default(), false) };
        others.take_in("x", &message(vec![nameless]), 99, |_| true);
        assert_eq!(others.count, 10);
        assert_eq!(others.take_changes(99).len(), 11);
        others.see(&[]);
        assert_eq!((others.count, others.sums.len(), others.take_changes(99).len()), (0, 0, 10));
    }
}
