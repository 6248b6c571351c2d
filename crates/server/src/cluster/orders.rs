//! Orders that hold on all servers of a cluster: revocations, and the ends of streams.
//!
//! A revocation is a shared value beside the stream, so a server that is away, or starts later, gets it, too.
//! The values are lists, each of the names with one hash, so that an expired entry is dropped by the next
//! change of its list. A server that learns of a new revocation bars the name, and then ends its streams. An
//! order about a topic bars nothing, and is a message: it holds for the streams that are there now.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, thread};

use fanfare::{ConnectionError, Hub, Topic};
use fanfare_access::{Revocation, Revoked};
use fanfare_backplane::NatsBackplane;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::access::Access;
use crate::clock::unix_time;
use crate::rules::CurrentRules;

/// Lists of revocations. With 20,000 entries of the longest names, one has about 60 KiB.
const LISTS: u8 = 64;

/// The beginning of the keys of these lists.
const KEY: &str = "revocations-";

/// Messages about topics whose streams end, and how long the others may take to say that they have them.
const END_TOPICS: &str = "end-topics";
const ANSWER: Duration = Duration::from_secs(1);

/// How long a start tries to read the revocations.
const READ_TIME: Duration = Duration::from_secs(10);

/// How often a list is read and written again, because another server was faster.
const TRIES: usize = 20;

/// How often an order is given again because mailboxes are full, and the time before each.
const ORDER_TRIES: usize = 300;
const PAUSE: Duration = Duration::from_millis(10);

/// The orders of a cluster.
#[derive(Debug)]
pub(crate) struct ClusterOrders {
    backplane: Arc<NatsBackplane>,
    give: Mutex<Sender<Order>>,
}

/// The form of a list that is written. One without a version has the same form.
const VERSION: u64 = 1;

/// A list, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    #[serde(default)]
    version: u64,
    revocations: Vec<Entry>,
}

/// What every version has.
#[derive(Debug, Deserialize)]
struct Versioned {
    #[serde(default)]
    version: u64,
}

impl Default for List {
    fn default() -> List {
        List { version: VERSION, revocations: Vec::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    revoked: u64,
    until: u64,
}

/// What has come from another server.
#[derive(Debug)]
enum Order {
    Revocations(Vec<Entry>),
    /// This server has given it, and has ended the streams.
    Own(Entry),
    EndTopics(Vec<Topic>),
}

impl Entry {
    fn new(revocation: &Revocation) -> Entry {
        let Revocation { revoked, revoked_unix_s, until_unix_s } = revocation;
        let (subject, token) = match revoked {
            Revoked::Subject(subject) => (Some(subject.to_string()), None),
            Revoked::TokenId(id) => (None, Some(id.to_string())),
        };
        Entry { subject, token, revoked: *revoked_unix_s, until: *until_unix_s }
    }

    fn revoked(&self) -> Option<Revoked> {
        match (&self.subject, &self.token) {
            (Some(subject), None) => Some(Revoked::Subject(subject.as_str().into())),
            (None, Some(id)) => Some(Revoked::TokenId(id.as_str().into())),
            _ => None,
        }
    }

    fn is_of(&self, other: &Entry) -> bool {
        self.subject == other.subject && self.token == other.token
    }

    /// The key of the list that it belongs to.
    fn key(&self) -> String {
        let kind = if self.subject.is_some() { "s" } else { "t" };
        let name = self.subject.as_ref().or(self.token.as_ref()).map_or("", String::as_str);
        let hash = Sha256::digest(format!("{kind}{name}"));
        format!("{KEY}{}", hash[0] % LISTS)
    }
}

impl List {
    fn read(bytes: &[u8]) -> List {
        serde_json::from_slice(bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "a list of revocations of the cluster cannot be read");
            List::default()
        })
    }

    /// A list that is to be changed. What makes no sense is replaced.
    ///
    /// # Errors
    /// A later version of this program has written it: what it has must not get lost.
    fn to_change(bytes: &[u8]) -> Result<List, String> {
        match serde_json::from_slice(bytes) {
            Ok(Versioned { version }) if version > VERSION => Err(format!(
                "a later version of this program has written the list of revocations (version {version})"
            )),
            _ => Ok(List { version: VERSION, ..List::read(bytes) }),
        }
    }

    /// Adds an entry, and drops those that are over. False: it says so already.
    fn add(&mut self, entry: &Entry, now_unix_s: u64) -> bool {
        if self
            .revocations
            .iter()
            .any(|has| has.is_of(entry) && has.revoked >= entry.revoked && has.until >= entry.until)
        {
            return false;
        }
        let until = self.revocations.iter().filter(|has| has.is_of(entry)).map(|has| has.until).max();
        self.revocations.retain(|has| has.until > now_unix_s && !has.is_of(entry));
        // A repeated revocation never ends earlier than the one before it.
        self.revocations.push(Entry { until: entry.until.max(until.unwrap_or(0)), ..entry.clone() });
        true
    }
}

/// What is barred already, by name, with the times of the revocation and of its end.
#[derive(Debug, Default)]
pub(crate) struct Barred(HashMap<Revoked, (u64, u64)>);

/// Bars what servers of the cluster have barred before this one starts: no stream of theirs may begin here.
///
/// # Errors
/// The revocations cannot be read.
pub(crate) fn bar_before_start(backplane: &NatsBackplane, access: &Access) -> Result<Barred, String> {
    let (begun, now) = (Instant::now(), unix_time().as_secs());
    let mut known = HashMap::new();
    for list in 0..LISTS {
        let key = format!("{KEY}{list}");
        let value = loop {
            match backplane.get(&key) {
                Ok(value) => break value,
                Err(error) if begun.elapsed() >= READ_TIME => {
                    return Err(format!("the revocations of the cluster cannot be read: {error}"));
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        };
        let entries = value.map(|value| List::read(&value.value).revocations).unwrap_or_default();
        for entry in entries.iter().filter(|entry| entry.until > now) {
            let Some(revoked) = entry.revoked() else { continue };
            let barred = access.take_over(revoked.clone(), entry.revoked, entry.until);
            barred.map_err(|error| format!("a revocation of the cluster does not bar here: {error}"))?;
            known.insert(revoked, (entry.revoked, entry.until));
        }
    }
    Ok(Barred(known))
}

impl ClusterOrders {
    /// Starts the thread that carries out the orders of other servers.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(crate) fn start(
        backplane: Arc<NatsBackplane>,
        hub: Hub,
        rules: CurrentRules,
        barred: Barred,
    ) -> io::Result<Arc<ClusterOrders>> {
        let (give, take) = channel();
        let work = Work { hub, rules, known: barred.0 };
        thread::Builder::new().name("fanfare-cluster".to_owned()).spawn(move || work.run(&take))?;
        let (topics, own) = (give.clone(), Mutex::new(give.clone()));
        let give = Mutex::new(give);
        let heard = backplane.on_question(END_TOPICS, move |_, payload| {
            hear_topics(payload, &topics);
            b"ok".to_vec()
        });
        heard.map_err(io::Error::other)?;
        backplane.watch(move |key, value| {
            if let (true, Some(value)) = (key.starts_with(KEY), value) {
                let order = Order::Revocations(List::read(value).revocations);
                let _ = give.lock().unwrap_or_else(PoisonError::into_inner).send(order);
            }
        });
        Ok(Arc::new(ClusterOrders { backplane, give: own }))
    }

    /// Has a revocation hold on all servers. It blocks.
    ///
    /// # Errors
    /// The others do not know of it.
    pub(crate) fn revoke(&self, revocation: &Revocation) -> Result<(), String> {
        let entry = Entry::new(revocation);
        let key = entry.key();
        // It comes back, and must not end the streams that begin with a new token meanwhile.
        let _ = self.give.lock().unwrap_or_else(PoisonError::into_inner).send(Order::Own(entry.clone()));
        for _ in 0..TRIES {
            let value = self.backplane.get(&key).map_err(|error| error.to_string())?;
            let (mut list, revision) = match &value {
                Some(value) => (List::to_change(&value.value)?, value.revision),
                None => (List::default(), 0),
            };
            if !list.add(&entry, unix_time().as_secs()) {
                return Ok(());
            }
            let text = serde_json::to_vec(&list).map_err(|error| error.to_string())?;
            if self.backplane.put(&key, text, Some(revision)).map_err(|error| error.to_string())? {
                return Ok(());
            }
        }
        Err("other servers change the same list all the time".to_owned())
    }

    /// Ends the streams that read these topics, on the other servers.
    ///
    /// # Errors
    /// The others do not learn of it.
    pub(crate) fn end_topics(&self, topics: &[&Topic]) -> Result<(), String> {
        let names: Vec<&str> = topics.iter().map(|topic| topic.as_str()).collect();
        let text = serde_json::to_vec(&names).map_err(|error| error.to_string())?;
        let mut others = self.backplane.others();
        let answers = self.backplane.ask(END_TOPICS, text, ANSWER).map_err(|error| error.to_string())?;
        others.retain(|other| answers.iter().all(|(name, _)| name != other));
        if others.is_empty() { Ok(()) } else { Err(format!("{} servers have not answered", others.len())) }
    }
}

fn hear_topics(payload: &[u8], give: &Sender<Order>) {
    let names: Vec<String> = serde_json::from_slice(payload).unwrap_or_default();
    let topics = names.iter().filter_map(|name| Topic::new(name).ok()).collect();
    // The thread ends with the server.
    let _ = give.send(Order::EndTopics(topics));
}

/// What the thread has.
struct Work {
    hub: Hub,
    rules: CurrentRules,
    /// What was carried out, by name, with the times of the revocation and of its end: a list comes again
    /// with each new connection, and the streams of a subject that has a new token by then go on.
    known: HashMap<Revoked, (u64, u64)>,
}

impl Work {
    fn run(mut self, take: &Receiver<Order>) {
        while let Ok(order) = take.recv() {
            let done = match order {
                Order::Revocations(entries) => self.take_in(&entries),
                Order::Own(entry) => {
                    self.known.extend(entry.revoked().map(|revoked| (revoked, (entry.revoked, entry.until))));
                    Ok(())
                }
                Order::EndTopics(topics) => {
                    topics.iter().try_for_each(|topic| order_patiently(|| self.hub.disconnect_topic(topic)))
                }
            };
            match done {
                Ok(()) => {}
                Err(ConnectionError::Stopped) => return,
                Err(error) => tracing::error!(%error, "streams that another server has ended may go on"),
            }
        }
    }

    fn take_in(&mut self, entries: &[Entry]) -> Result<(), ConnectionError> {
        let now = unix_time().as_secs();
        self.known.retain(|_, (_, until)| *until > now);
        let (access, mut ends) = (Arc::clone(&self.rules.get().access), HashSet::new());
        for entry in entries {
            let Some(revoked) = entry.revoked() else { continue };
            let times = (entry.revoked, entry.until);
            if entry.until <= now || self.known.get(&revoked).is_some_and(|known| *known == times) {
                continue;
            }
            let is_later = self.known.get(&revoked).is_none_or(|(before, _)| *before < entry.revoked);
            // First the bar, then the end: a client that comes back at once is refused.
            if let Err(error) = access.take_over(revoked.clone(), entry.revoked, entry.until) {
                tracing::error!(%error, "a revocation of another server does not bar here");
                continue;
            }
            self.known.insert(revoked.clone(), times);
            if is_later {
                ends.insert(revoked);
            }
        }
        if !ends.is_empty()
            && access.keeps_revocations()
            && let Err(error) = access.keep_revocations()
        {
            tracing::error!(error, "a revocation of another server holds, but a restart will forget it");
        }
        ends.iter().try_for_each(|revoked| {
            order_patiently(|| match revoked {
                Revoked::Subject(subject) => self.hub.disconnect_subject(subject),
                Revoked::TokenId(id) => self.hub.disconnect_token(id),
            })
        })
    }
}

/// Gives an order, and gives it again while a mailbox is full: given twice, it does no harm.
fn order_patiently(order: impl Fn() -> Result<(), ConnectionError>) -> Result<(), ConnectionError> {
    for _ in 0..ORDER_TRIES {
        match order() {
            Err(ConnectionError::Busy) => thread::sleep(PAUSE),
            done => return done,
        }
    }
    Err(ConnectionError::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(subject: &str, revoked: u64, until: u64) -> Entry {
        Entry { subject: Some(subject.to_owned()), token: None, revoked, until }
    }

    #[test]
    fn a_list_has_one_entry_of_each_name_and_drops_what_is_over() {
        let mut list = List::default();
        assert!(list.add(&entry("a", 10, 100), 10));
        assert!(!list.add(&entry("a", 10, 100), 10), "it is known");
        assert!(list.add(&entry("b", 11, 20), 11));
        // A later one that ends earlier.
        assert!(list.add(&entry("a", 12, 50), 12));
        assert_eq!(list.revocations, [entry("b", 11, 20), entry("a", 12, 100)]);
        assert!(list.add(&entry("c", 30, 40), 30));
        assert_eq!(list.revocations, [entry("a", 12, 100), entry("c", 30, 40)]);
        let text = serde_json::to_vec(&list).unwrap();
        assert_eq!(List::read(&text).revocations, list.revocations);
        assert!(List::read(b"nonsense").revocations.is_empty());
    }

    /// A server of an older version replaced the list, and what was revoked was let in again.
    #[test]
    fn a_list_of_a_later_version_is_not_replaced() {
        let mut list = List::default();
        assert!(list.add(&entry("a", 10, 100), 10));
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(List::to_change(text.as_bytes()).unwrap().revocations, list.revocations);
        // The first lists had no version.
        let without = text.replace("\"version\":1,", "");
        assert!(without != text);
        let read = List::to_change(without.as_bytes()).unwrap();
        assert_eq!((read.version, read.revocations), (VERSION, list.revocations));
        assert!(List::to_change(b"nonsense").unwrap().revocations.is_empty());
        for later in ["{\"version\":2}", "{\"version\":3,\"revocations\":[]}"] {
            assert!(List::to_change(later.as_bytes()).unwrap_err().contains("later version"), "{later}");
        }
    }

    #[test]
    fn a_subject_and_a_token_of_one_name_are_different() {
        let token = Entry { subject: None, token: Some("a".to_owned()), revoked: 1, until: 9 };
        assert!(!token.is_of(&entry("a", 1, 9)));
        assert_eq!(token.revoked(), Some(Revoked::TokenId("a".into())));
        assert_eq!(entry("a", 1, 9).revoked(), Some(Revoked::Subject("a".into())));
        let both = Entry { subject: Some("a".to_owned()), ..token.clone() };
        assert_eq!(both.revoked(), None);
        let key = token.key();
        assert!(key.strip_prefix(KEY).unwrap().parse::<u8>().unwrap() < LISTS, "{key}");
        assert_eq!(token.key(), key);
    }
}
