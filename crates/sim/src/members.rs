//! The members of topics: those with a connection, and those whose last one ended a moment ago.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fanfare::{EventType, Topic, sim};

use crate::client::topic;
use crate::tally::Occurrence;
use crate::trace::trace;
use crate::wishes::{Member, TOPICS_WITH_MEMBERS};
use crate::world::World;

/// Since when a member has had no connection; `None`: it has one.
type Absent = Option<Duration>;

impl World {
    /// The hub's members are those that the network knows, and each of them is announced that is to be. At
    /// the bounds, members leave early, and are not announced; then the hub has counted that.
    pub(crate) fn check_members(&mut self) {
        let (now, hub) = (self.shared.now.get(), self.shared.hub());
        if self.shared.one_in(4) {
            // Nothing is announced for a while, as when the hub is busy. What is asked is right all the same.
            self.check_listed_members();
        }
        loop {
            let events = sim::announcements_at(&hub, now);
            if events.is_empty() {
                break;
            }
            for event in events {
                let (kind, name) = (event.event_type(), event.data());
                let name = name.expect("the name of a member").to_owned();
                let member = Member { topic: event.topics()[0].to_string(), name };
                trace!(self.shared, "{member:?}: {kind:?}");
                let is_news = match kind.map(EventType::as_str) {
                    Some("join") => self.announced.insert(member),
                    Some("leave") => self.announced.remove(&member),
                    other => panic!("{member:?} is announced as {other:?}"),
                };
                assert!(is_news, "a member is announced twice");
                self.shared.happened(Occurrence::MemberAnnounced);
            }
        }
        let mut members = self.check_listed_members();
        members.retain(Member::is_announced);
        match self.shared.hub().counts().members_not_announced {
            0 => assert_eq!(self.announced, members, "members that were announced"),
            _ => assert!(self.announced.is_subset(&members), "a member is announced that has left"),
        }
    }

    /// The members that the hub lists.
    fn check_listed_members(&self) -> BTreeSet<Member> {
        let (now, hub) = (self.shared.now.get(), self.shared.hub());
        let mut listed = BTreeSet::new();
        for name in TOPICS_WITH_MEMBERS {
            let of: &Topic = &topic(name);
            let says = hub.members(of);
            assert!(says.is_sorted(), "names are in alphabetical order");
            assert_eq!(hub.member_count(of), says.len(), "how many members {name} has");
            let member = |name: &Arc<str>| Member { topic: of.to_string(), name: name.to_string() };
            listed.extend(says.iter().map(member));
        }
        let linger = self.shared.setting.presence_linger;
        let mut stays = self.stays();
        stays.retain(|_, absent| absent.is_none_or(|since| since + linger > now));
        let stranger = listed.iter().find(|member| !stays.contains_key(member));
        assert!(stranger.is_none(), "{stranger:?} is listed and has left");
        let (mut lingering, mut newest_gone, mut oldest_kept) = (0, Duration::ZERO, Duration::MAX);
        for (member, absent) in stays {
            match (absent, listed.contains(&member)) {
                (None, is_listed) => {
                    assert!(is_listed, "{member:?} has a connection and is not listed");
                    self.shared.happened(Occurrence::Member);
                }
                (Some(since), true) => {
                    (lingering, oldest_kept) = (lingering + 1, oldest_kept.min(since));
                    self.shared.happened(Occurrence::MemberLingers);
                }
                (Some(since), false) => {
                    newest_gone = newest_gone.max(since);
                    assert!(hub.counts().members_left_early > 0, "{member:?} left early, and is not counted");
                    self.shared.happened(Occurrence::MemberLeftEarly);
                }
            }
        }
        assert!(lingering <= self.shared.setting.limits.members_lingering, "too many members linger");
        assert!(newest_gone <= oldest_kept, "a member left early, and not the one that lingered for longest");
        listed
    }

    /// Each member that there was.
    fn stays(&self) -> BTreeMap<Member, Absent> {
        let mut stays: BTreeMap<Member, Absent> = BTreeMap::new();
        for shard in &self.shards {
            for it in shard.net.borrow().connections.iter().filter(|it| it.was_stream()) {
                let Some(member) = &it.verifier.request.wishes.member else { continue };
                let absent = it.closed.then_some(it.closed_at);
                stays
                    .entry(member.clone())
                    .and_modify(|before| {
                        *before = before.zip(absent).map(|(before, absent)| before.max(absent))
                    })
                    .or_insert(absent);
            }
        }
        stays
    }
}
