//! Presence in a cluster: what other servers have told of their topics.
//!
//! Each server tells the others how many subscribers its topics have, when that changes, and all of its topics
//! to a server that is new. So each server knows the sum, and has the whole history. One of them publishes the
//! events: the one with the lowest name. When a server has not shown itself for some seconds, its subscribers
//! have left.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// Servers that are to be told everything.
    newcomers: BTreeSet<String>,
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
    from: String,
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
pub(super) fn message(from: &str, topics: Vec<Entry>) -> Vec<u8> {
    serde_json::to_vec(&Message { from: from.to_owned(), topics }).unwrap_or_default()
}

impl Others {
    /// Takes in what another server has told. `most`: topics that each may have.
    pub(super) fn take_in(&mut self, payload: &[u8], own_name: &str, most: usize) {
        let Ok(Message { from, topics }) = serde_json::from_slice(payload) else {
            tracing::debug!("a message about presence cannot be read");
            return;
        };
        if from == own_name {
            return;
        }
        for Entry { topic, subscribers, joined, left, is_watched } in topics {
            let Ok(topic) = Topic::new(&topic) else { continue };
            let told = Told { subscribers, is_watched };
            let has_changed = self.set(&from, &topic, told, most);
            if has_changed || joined + left > 0 {
                let change = self.changes.entry(topic).or_default();
                change.joined += joined;
                change.left += left;
            }
        }
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

    /// Notes which other servers are there. Those of one that is gone have left; one that is new is told
    /// everything.
    pub(super) fn see(&mut self, there: &[String]) {
        let gone: Vec<String> = self.servers.keys().filter(|name| !there.contains(name)).cloned().collect();
        for name in gone {
            for (topic, told) in self.servers.remove(&name).into_iter().flatten() {
                self.count -= 1;
                self.add(&topic, Some(told), None);
                self.changes.entry(topic).or_default().left += u64::from(told.subscribers);
            }
        }
        self.newcomers.retain(|name| there.contains(name));
        for name in there {
            if !self.servers.contains_key(name) {
                self.servers.insert(name.clone(), HashMap::new());
                self.newcomers.insert(name.clone());
            }
        }
    }

    /// Whether a server has come that is to be told everything. The next call says no.
    pub(super) fn take_newcomers(&mut self) -> bool {
        !std::mem::take(&mut self.newcomers).is_empty()
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
        others.take_in(&message(from, vec![entry]), "own", 10);
    }

    #[test]
    fn the_sum_is_over_all_servers_that_are_there() {
        let mut others = Others::default();
        let there = ["x".to_owned(), "y".to_owned()];
        others.see(&there);
        assert!(others.take_newcomers() && !others.take_newcomers());
        tell(&mut others, "x", 3, 3, 0, false);
        tell(&mut others, "y", 2, 4, 2, true);
        assert_eq!((others.subscribers(&topic("a")), others.is_watched(&topic("a"))), (5, true));
        assert_eq!(others.take_changes(9), [(topic("a"), Change { joined: 7, left: 2 })]);
        // The same once more changes nothing, and what this server has told is not counted.
        tell(&mut others, "x", 3, 0, 0, false);
        tell(&mut others, "own", 9, 9, 0, false);
        assert_eq!((others.subscribers(&topic("a")), others.take_changes(9)), (5, Vec::new()));
        // One is gone.
        others.see(&there[..1]);
        assert_eq!((others.subscribers(&topic("a")), others.is_watched(&topic("a"))), (3, false));
        assert_eq!(others.take_changes(9), [(topic("a"), Change { joined: 0, left: 2 })]);
        assert!(!others.take_newcomers());
        tell(&mut others, "x", 0, 0, 3, false);
        assert_eq!((others.count, others.sums.len()), (0, 0));
        others.see(&there);
        assert!(others.take_newcomers(), "it has come back, and knows nothing");
    }

    #[test]
    fn what_a_server_tells_is_bounded_and_nonsense_is_ignored() {
        let mut others = Others::default();
        let entries =
            (0..20).map(|number| Entry::new(&topic(&number.to_string()), 1, Change::default(), false));
        others.take_in(&message("x", entries.collect()), "own", 10);
        assert_eq!((others.count, others.sums.len()), (10, 10));
        others.take_in(b"{", "own", 10);
        let nameless = Entry { topic: String::new(), ..Entry::new(&topic("a"), 1, Change::default(), false) };
        others.take_in(&message("x", vec![nameless]), "own", 99);
        assert_eq!(others.count, 10);
        others.see(&[]);
        assert_eq!((others.count, others.sums.len(), others.take_changes(99).len()), (0, 0, 10));
    }
}
