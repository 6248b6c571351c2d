//! The members of topics: those with a connection, and those whose last one ended a moment ago.

use std::collections::{BTreeMap, BTreeSet};
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
    /// The hub's members are those that the network knows, and each of them is announced that is to be.
    pub(crate) fn check_members(&mut self) {
        let (now, hub) = (self.shared.now.get(), self.shared.hub());
        loop {
            let events = sim::announcements_at(hub, now);
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
        let linger = self.shared.setting.presence_linger;
        let mut members = BTreeSet::new();
        for (member, absent) in self.stays() {
            if absent.is_none_or(|since| since + linger > now) {
                self.shared.happened(match absent {
                    None => Occurrence::Member,
                    Some(_) => Occurrence::MemberLingers,
                });
                members.insert(member);
            }
        }
        for name in TOPICS_WITH_MEMBERS {
            let of: &Topic = &topic(name);
            let says: Vec<String> =
                self.shared.hub().members(of).iter().map(|name| name.to_string()).collect();
            let are = members.iter().filter(|member| member.topic == name).map(|member| member.name.clone());
            assert_eq!(says, are.collect::<Vec<_>>(), "the members of {name}");
            assert_eq!(self.shared.hub().member_count(of), says.len(), "how many members {name} has");
        }
        members.retain(Member::is_announced);
        assert_eq!(self.announced, members, "members that were announced");
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
