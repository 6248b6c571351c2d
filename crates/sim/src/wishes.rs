//! What a subscriber of this world asks the admission for, beside its topics: as text of its query, or for a
//! server that has read its request.

use std::time::Duration;

use fanfare::{EventType, Subscribe};

use crate::client::topic;
use crate::shared::Shared;

/// Who the subscriber is, how long it may stay, and when it is decided about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) subject: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) data: Option<u64>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) member: Option<Member>,
    pub(crate) decision: WhenDecided,
}

/// A name among the members of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) topic: String,
    pub(crate) name: String,
}

/// When the admission decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WhenDecided {
    #[default]
    AtOnce,
    /// When the world uses the ticket.
    Later,
    /// With a ticket that is used before the admission has answered.
    BeforeTheAnswer,
    /// At once, and a ticket was made for nothing.
    NotByTicket,
}

/// Names of members. The latter ones are announced.
const NAMES: [&str; 4] = ["ada", "bob", "cyd", "dan"];

/// Topics that have members.
pub(crate) const TOPICS_WITH_MEMBERS: [&str; 3] = ["a", "b", "nobody-reads-this"];

const SUBJECTS: [&str; 3] = ["x", "y", "z"];

const TOKENS: [&str; 3] = ["t1", "t2", "t3"];

impl Member {
    pub(crate) fn is_announced(&self) -> bool {
        NAMES[2..].contains(&self.name.as_str())
    }
}

impl Wishes {
    pub(crate) fn random(shared: &Shared, number: usize) -> Wishes {
        let setting = &shared.setting;
        let lifetimes = [None, None, Some(1), Some(3), Some(15), Some(70)];
        let member = shared.one_in(3).then(|| Member {
            topic: shared.pick(&TOPICS_WITH_MEMBERS).to_owned(),
            name: shared.pick(&NAMES).to_owned(),
        });
        let is_late = setting.late_decisions > 0 && shared.one_in(setting.late_decisions);
        Wishes {
            subject: shared.one_in(3).then(|| some_subject(shared)),
            token: shared.one_in(3).then(|| some_token(shared)),
            data: shared.one_in(2).then_some(number as u64),
            lifetime: if setting.lifetimes { shared.pick(&lifetimes).map(Duration::from_secs) } else { None },
            member,
            decision: match is_late {
                true => shared.pick(&[
                    WhenDecided::Later,
                    WhenDecided::Later,
                    WhenDecided::Later,
                    WhenDecided::Later,
                    WhenDecided::BeforeTheAnswer,
                    WhenDecided::NotByTicket,
                ]),
                false => WhenDecided::AtOnce,
            },
        }
    }

    /// As parameters of a query.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |name: &str, value: &str| text.push_str(&format!("{name}={value}&"));
        if let Some(subject) = &self.subject {
            add("subject", subject);
        }
        if let Some(token) = &self.token {
            add("token", token);
        }
        if let Some(data) = self.data {
            add("data", &data.to_string());
        }
        if let Some(lifetime) = self.lifetime {
            add("life", &lifetime.as_secs().to_string());
        }
        if let Some(Member { topic, name }) = &self.member {
            add("room", topic);
            add("name", name);
        }
        match self.decision {
            WhenDecided::AtOnce => {}
            WhenDecided::Later => add("decide", "later"),
            WhenDecided::BeforeTheAnswer => add("decide", "before"),
            WhenDecided::NotByTicket => add("decide", "anyway"),
        }
        text
    }

    /// Reads them from a query.
    pub(crate) fn of_query(query: &str) -> Wishes {
        let value = |name: &str| {
            let mut fields = query.split('&').filter_map(|field| field.split_once('='));
            fields.find(|(other, _)| *other == name).map(|(_, value)| value)
        };
        let member = value("room").zip(value("name"));
        Wishes {
            subject: value("subject").map(str::to_owned),
            token: value("token").map(str::to_owned),
            data: value("data").and_then(|data| data.parse().ok()),
            lifetime: value("life").and_then(|life| life.parse().ok()).map(Duration::from_secs),
            member: member.map(|(topic, name)| Member { topic: topic.to_owned(), name: name.to_owned() }),
            decision: match value("decide") {
                Some("later") => WhenDecided::Later,
                Some("before") => WhenDecided::BeforeTheAnswer,
                Some("anyway") => WhenDecided::NotByTicket,
                _ => WhenDecided::AtOnce,
            },
        }
    }

    /// Grants them.
    pub(crate) fn grant(&self, mut subscribe: Subscribe) -> Subscribe {
        if let Some(subject) = &self.subject {
            subscribe = subscribe.with_subject(subject.as_str()).expect("a short subject");
        }
        if let Some(token) = &self.token {
            subscribe = subscribe.with_token(token);
        }
        if let Some(data) = self.data {
            subscribe = subscribe.with_data(data);
        }
        if let Some(lifetime) = self.lifetime {
            subscribe = subscribe.with_lifetime(lifetime);
        }
        if let Some(member) = &self.member {
            let is_announced = member.is_announced();
            let mut member =
                fanfare::Member::new(&topic(&member.topic), member.name.as_str()).expect("a short name");
            if is_announced {
                let kind = |name| EventType::new(name).expect("a type");
                member = member.with_announcements(kind("join"), kind("leave"));
            }
            subscribe = subscribe.with_member(member);
        }
        subscribe
    }
}

/// One of the subjects of this world.
pub(crate) fn some_subject(shared: &Shared) -> String {
    shared.pick(&SUBJECTS).to_owned()
}

/// One of the tokens of this world.
pub(crate) fn some_token(shared: &Shared) -> String {
    shared.pick(&TOKENS).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_read_back() {
        let wishes = Wishes {
            subject: Some("x".to_owned()),
            token: Some("t1".to_owned()),
            data: Some(7),
            lifetime: Some(Duration::from_secs(3)),
            member: Some(Member { topic: "a".to_owned(), name: "ada".to_owned() }),
            decision: WhenDecided::Later,
        };
        assert_eq!(Wishes::of_query(&format!("topic=a&{}", wishes.text())), wishes);
        assert_eq!(Wishes::of_query("topic=a&"), Wishes::default());
    }
}
