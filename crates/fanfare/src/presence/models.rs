//! Models of members: connections of several shards, and the thread that announces. See
//! `crate::mailbox::models`.

use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::event::{Event, EventType, Topic};
use fanfare_proto::limits::Limits;
use loom::thread;

use super::{Announcement, Member, Presence};
use crate::mailbox::models::explore;
use crate::sync::{Condvar, Mutex, lock};

fn room() -> Topic {
    Topic::new("room").unwrap()
}

fn member(name: &str) -> [Member; 1] {
    let kind = |name| EventType::new(name).unwrap();
    let announcement = Some(Arc::new(Announcement { join: kind("join"), leave: kind("leave") }));
    [Member { topic: room(), name: name.into(), announcement }]
}

/// What the thread that announces has taken.
#[derive(Default)]
struct Announced {
    texts: Mutex<Vec<String>>,
    more: Condvar,
}

impl Announced {
    fn run(&self, presence: &Presence) {
        while let Some(events) = presence.next_announcements(|| Duration::ZERO) {
            let text = |event: Event| format!("{} {}", event.event_type().unwrap(), event.data().unwrap());
            lock(&self.texts).extend(events.into_iter().map(text));
            self.more.notify_all();
        }
    }

    fn wait_for(&self, count: usize) -> Vec<String> {
        let mut texts = lock(&self.texts);
        while texts.len() < count {
            texts = self.more.wait(texts).unwrap();
        }
        texts.clone()
    }
}

/// Members join and leave on two shards, and the thread that announces them may sleep at each step: it is
/// woken for each, and announces each once. Loom's waits have no time, so a wake-up that is lost is a
/// deadlock.
#[test]
fn members_of_two_shards_are_announced_once() {
    explore(2, || {
        let presence = Arc::new(Presence::new(Duration::ZERO, &Limits::default(), 1));
        let announced = Arc::<Announced>::default();
        let announcer = {
            let (presence, announced) = (Arc::clone(&presence), Arc::clone(&announced));
            thread::spawn(move || announced.run(&presence))
        };
        let other = {
            let presence = Arc::clone(&presence);
            thread::spawn(move || presence.join(&member("bob")))
        };
        presence.join(&member("ada"));
        let mut texts = announced.wait_for(2);
        texts.sort_unstable();
        assert_eq!(texts, ["join ada", "join bob"]);
        other.join().unwrap();
        presence.leave(&member("ada"), Duration::ZERO);
        assert_eq!(announced.wait_for(3)[2], "leave ada");
        presence.end();
        announcer.join().unwrap();
        assert_eq!(lock(&announced.texts).len(), 3);
    });
}

/// One name has connections on two shards, which end while a reader asks: it is a member while one of them is
/// there, and its joining and leaving are announced in pairs.
#[test]
fn a_member_of_two_shards_leaves_with_its_last_connection() {
    explore(3, || {
        let presence = Arc::new(Presence::new(Duration::ZERO, &Limits::default(), 1));
        let announced = Arc::<Announced>::default();
        let announcer = {
            let (presence, announced) = (Arc::clone(&presence), Arc::clone(&announced));
            thread::spawn(move || announced.run(&presence))
        };
        presence.join(&member("ada"));
        let other = {
            let presence = Arc::clone(&presence);
            thread::spawn(move || {
                presence.join(&member("ada"));
                presence.leave(&member("ada"), Duration::ZERO);
            })
        };
        assert_eq!(presence.count(&room(), Duration::ZERO), 1);
        other.join().unwrap();
        assert_eq!(presence.members(&room(), Duration::ZERO), ["ada".into()]);
        presence.leave(&member("ada"), Duration::ZERO);
        assert_eq!(presence.count(&room(), Duration::ZERO), 0);
        presence.end();
        announcer.join().unwrap();
        let texts = lock(&announced.texts).clone();
        let joined: Vec<String> = vec!["join ada".to_owned()];
        let both: Vec<String> = vec!["join ada".to_owned(), "leave ada".to_owned()];
        assert!(texts.is_empty() || texts == joined || texts == both, "{texts:?}");
    });
}
