//! A subscription, as an admission or an embedder asks for it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare_proto::audience::Subscription;
use fanfare_proto::client_limits::ClientLimits;
use fanfare_proto::event::{EventType, Retry, Topic};
use fanfare_proto::frame::{Checkpoint, encode_unnumbered};
use fanfare_proto::head::RequestHead;
use fanfare_proto::limits::MAX_SUBJECT_BYTES;
use fanfare_proto::link::Encoding;
use fanfare_proto::pattern::Pattern;
use fanfare_proto::problem::ProblemKind;
use fanfare_proto::subscribe::{SubscribeError, SubscribeQuery};

use super::answer::{InvalidHeader, push_header};
use super::request::{Request, Via};
use crate::client_table::ClientBound;
use crate::orders::{DecisionStart, Name, Names};
use crate::presence::Member;
use crate::written_head::{InvalidHead, WrittenHead};

/// A subscription and how its stream begins.
#[derive(Clone, Debug, Default)]
pub struct Subscribe {
    pub(crate) topics: Vec<Topic>,
    pub(crate) resume: Option<String>,
    pub(crate) gap_events: bool,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) selectors: Selectors,
    pub(crate) headers: String,
    pub(crate) retry: Option<Retry>,
    pub(crate) greeting: Vec<u8>,
    pub(crate) subject: Option<Arc<str>>,
    pub(crate) names: Names,
    pub(crate) decided_since: Option<DecisionStart>,
    pub(crate) data: Option<u64>,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) members: Vec<Member>,
    pub(crate) written_head: Option<Box<WrittenHead>>,
    /// Set where the connection is known.
    pub(crate) via: Via,
    /// The client that the connection is counted for, where another server has accepted it.
    pub(crate) client: Option<Box<IpAddr>>,
    /// It may use the reserve.
    pub(crate) is_operator: bool,
    /// Its client has as much as it may.
    pub(crate) refused_by: Option<ClientBound>,
}

/// What a subscription reads beside its topics, and through which selectors it sees private events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selectors {
    /// Private events are seen through all selectors. This includes the selectors that a later change adds.
    all_private: bool,
    /// Few subscriptions have some of these, so they cost the others one word.
    named: Option<Box<Named>>,
}

/// Selectors that are named.
#[derive(Clone, Debug, Default)]
struct Named {
    patterns: Vec<Pattern>,
    /// Private events are seen of these topics; sorted.
    private_topics: Vec<Topic>,
    /// Private events are seen through these patterns; normalized and sorted.
    private_patterns: Vec<Pattern>,
}

impl Selectors {
    /// Private events are seen through all selectors, or through none.
    pub(crate) fn see_private(&mut self, all: bool) {
        self.all_private = all;
        if let Some(named) = &mut self.named {
            (named.private_topics, named.private_patterns) = (Vec::new(), Vec::new());
        }
    }

    /// Private events are seen of these topics.
    pub(crate) fn see_private_topics(&mut self, topics: impl IntoIterator<Item = Topic>) {
        self.all_private = false;
        let private = &mut self.named.get_or_insert_default().private_topics;
        *private = topics.into_iter().collect();
        private.sort_unstable();
        private.dedup();
    }

    /// Private events are seen through these patterns.
    pub(crate) fn see_private_patterns(&mut self, patterns: impl IntoIterator<Item = Pattern>) {
        self.all_private = false;
        let private = &mut self.named.get_or_insert_default().private_patterns;
        *private = patterns.into_iter().map(|pattern| pattern.normalized()).collect();
        private.sort_unstable();
        private.dedup();
    }

    /// Adds patterns. An exact name is a topic and goes into `topics`.
    pub(crate) fn add(&mut self, patterns: impl IntoIterator<Item = Pattern>, topics: &mut Vec<Topic>) {
        for pattern in patterns {
            match Topic::new(pattern.as_str()) {
                Ok(topic) if pattern.is_exact() => topics.push(topic),
                _ => self.named.get_or_insert_default().patterns.push(pattern),
            }
        }
    }

    pub(crate) fn patterns(&self) -> &[Pattern] {
        self.named.as_ref().map_or(&[], |named| &named.patterns)
    }

    /// The same subscription as the engine knows it.
    pub(crate) fn subscription(&self, topics: &[Topic], encoding: Encoding) -> Subscription {
        let topics = topics.iter().cloned();
        let Some(named) = &self.named else { return Subscription::new(topics, encoding, self.all_private) };
        let of_topics = match self.all_private {
            true => Subscription::new(topics, encoding, true),
            false => Subscription::with_private(topics, encoding, |topic| {
                named.private_topics.binary_search(topic).is_ok()
            }),
        };
        of_topics.with_patterns(named.patterns.iter().cloned(), |pattern| {
            named.private_patterns.binary_search(&pattern.normalized()).is_ok()
        })
    }
}

impl Subscribe {
    /// A live subscription to these topics.
    pub fn to(topics: impl IntoIterator<Item = Topic>) -> Subscribe {
        Subscribe { topics: topics.into_iter().collect(), gap_events: true, ..Subscribe::default() }
    }

    /// What the request itself asks for: `topic=` parameters, where to resume, and the switches `gap=`,
    /// `checkpoint=` and `heartbeat=`.
    ///
    /// # Errors
    /// No topic, an invalid one, or more than `max_topics`; a pattern; a switch with a value that it does not
    /// have.
    pub fn from_request(request: &Request<'_>, max_topics: usize) -> Result<Subscribe, SubscribeError> {
        Subscribe::from_head(request.head(), max_topics)
    }

    /// The same, with the patterns that the request asks for: `match=` parameters. An admission that decides
    /// by the names of topics has to look at [`Subscribe::patterns`], too: the pattern `*` is every topic.
    ///
    /// # Errors
    /// No topic and no pattern, an invalid one, or more than `max_topics` together; a switch with a value
    /// that it does not have.
    pub fn from_request_with_patterns(
        request: &Request<'_>,
        max_topics: usize,
    ) -> Result<Subscribe, SubscribeError> {
        SubscribeQuery::from_head(request.head(), max_topics).map(Subscribe::of_query)
    }

    /// The same, from a head that another server has received.
    ///
    /// # Errors
    /// As [`Subscribe::from_request`].
    pub fn from_head(head: &RequestHead<'_>, max_topics: usize) -> Result<Subscribe, SubscribeError> {
        SubscribeQuery::without_patterns(head, max_topics).map(Subscribe::of_query)
    }

    fn of_query(query: SubscribeQuery) -> Subscribe {
        let SubscribeQuery { topics, patterns, resume, gap_events, checkpoint, heartbeat } = query;
        let of_topics =
            Subscribe { topics, resume, gap_events, checkpoint, heartbeat, ..Subscribe::default() };
        of_topics.with_patterns(patterns)
    }

    /// Events of all topics that match one of these patterns, beside those of the topics. An event that
    /// matches several selectors is delivered once.
    ///
    /// A resume of such a subscription goes through the retained events of all topics, piece by piece. Where
    /// no subscriber has read the pattern lately, the log does not know what its topics have dropped. Then a
    /// subscriber may be told of a gap although it has missed nothing. Where the process has
    /// [`crate::Limits::patterns`] already, a new stream gets the answer of a full server.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare::{Pattern, Subscribe, Topic};
    ///
    /// let subscribe = Subscribe::to([Topic::new("news")?])
    ///     .with_patterns([Pattern::parse("orders/*")?, Pattern::parse("/users/{id}")?]);
    /// assert_eq!(subscribe.patterns().len(), 2);
    /// # Ok(()) }
    /// ```
    pub fn with_patterns(mut self, patterns: impl IntoIterator<Item = Pattern>) -> Subscribe {
        self.selectors.add(patterns, &mut self.topics);
        self
    }

    /// Resumes after this event: the text of a `Last-Event-ID`, or `earliest` for all that is retained.
    pub fn with_resume(mut self, id: impl Into<String>) -> Subscribe {
        self.resume = Some(id.into());
        self
    }

    /// Resumes where the client of this request has stopped: behind the event that its `Last-Event-ID` names,
    /// or `last_event_id` in the query. A request without one begins with what is published from now on. For
    /// subscriptions whose topics are not the request's own words; [`Subscribe::from_request`] does it, too.
    pub fn with_resume_of(mut self, request: &Request<'_>) -> Subscribe {
        let id = SubscribeQuery::resume_from(request.header("last-event-id"), request.query());
        self.resume = id.or(self.resume);
        self
    }

    /// Whether the stream reports a gap by a `fanfare.gap` event. By default it does.
    pub fn with_gap_events(mut self, tell: bool) -> Subscribe {
        self.gap_events = tell;
        self
    }

    /// How this subscriber is told where it is before its first event, and on a quiet stream. The default is
    /// [`Checkpoint::Block`]: an id that browsers adopt without dispatching anything.
    pub fn with_checkpoint(mut self, form: Checkpoint) -> Subscribe {
        self.checkpoint = form;
        self
    }

    /// The longest silence that this subscriber allows: it gets a heartbeat where nothing else was sent for
    /// so long, within [`crate::Limits::heartbeat_min`] and [`crate::Limits::heartbeat`]. The default is the
    /// latter.
    pub fn with_heartbeat(mut self, longest_silence: Duration) -> Subscribe {
        self.heartbeat = Some(longest_silence);
        self
    }

    /// Whether private events of all topics and patterns are delivered. This includes the topics that
    /// [`crate::Hub::change_topics`] adds later. The default is no.
    pub fn with_private_events(mut self, sees: bool) -> Subscribe {
        self.selectors.see_private(sees);
        self
    }

    /// Private events of these topics are delivered, and only public ones of the others. Topics that are not
    /// those of the subscription make no difference. An event with several topics is delivered where one of
    /// them is among these.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare::{Subscribe, Topic};
    ///
    /// let (news, account) = (Topic::new("news")?, Topic::new("accounts/7")?);
    /// let subscribe = Subscribe::to([news, account.clone()]).with_private_topics([account]);
    /// # Ok(()) }
    /// ```
    pub fn with_private_topics(mut self, topics: impl IntoIterator<Item = Topic>) -> Subscribe {
        self.selectors.see_private_topics(topics);
        self
    }

    /// Private events are delivered through these patterns, and only public ones through the others, as
    /// [`Subscribe::with_private_topics`] says it of topics.
    pub fn with_private_patterns(mut self, patterns: impl IntoIterator<Item = Pattern>) -> Subscribe {
        self.selectors.see_private_patterns(patterns);
        self
    }

    /// Adds a field to the response head (for CORS, cookies).
    ///
    /// # Errors
    /// [`InvalidHeader`]: the field would let its author write into the response head.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Subscribe, InvalidHeader> {
        push_header(&mut self.headers, name, value)?;
        Ok(self)
    }

    /// A head that another HTTP server has written, from its status line to its empty line. It is sent in
    /// place of the engine's own, so that what the middleware of that server has added arrives. `Fanfare-Gap`
    /// and the fields of [`Subscribe::with_header`] are added behind its fields.
    ///
    /// # Errors
    /// [`InvalidHead`]: it is not exactly one HTTP/1 head of a `text/event-stream` with the status 200; it
    /// has a `Content-Length`, a `Content-Encoding`, or a `Transfer-Encoding` other than `chunked`; or it is
    /// longer than 16 KiB. Whether it says `chunked` has to agree with the wire format, which
    /// [`crate::Hub::adopt`] checks.
    pub fn with_response_head(mut self, bytes: impl Into<Vec<u8>>) -> Result<Subscribe, InvalidHead> {
        self.written_head = Some(Box::new(WrittenHead::parse(bytes.into())?));
        Ok(self)
    }

    /// The reconnection time told to this subscriber, exactly: without the jitter of
    /// [`crate::Limits::retry`].
    pub fn with_retry(mut self, wait: impl Into<Retry>) -> Subscribe {
        self.retry = Some(wait.into());
        self
    }

    /// An event for this subscriber alone, at the start of its stream. It has no id and is not kept.
    pub fn with_greeting(mut self, kind: Option<&EventType>, data: &str) -> Subscribe {
        encode_unnumbered(kind.map(EventType::as_str), data, &mut self.greeting);
        self
    }

    /// The name of the subscriber: the user's name, say, or the subject of a token.
    /// [`crate::Hub::disconnect_subject`] ends all connections of a subject, and life-cycle events bear it.
    /// At most [`Subscribe::MAX_SUBJECT_BYTES`].
    ///
    /// # Errors
    /// [`InvalidSubject`]: the text is longer.
    pub fn with_subject(mut self, subject: impl Into<Arc<str>>) -> Result<Subscribe, InvalidSubject> {
        let subject = subject.into();
        if subject.len() > Subscribe::MAX_SUBJECT_BYTES {
            return Err(InvalidSubject { bytes: subject.len() });
        }
        self.names.subject = Some(Name::of_subject(&subject));
        self.subject = Some(subject);
        Ok(self)
    }

    /// The id of the token that lets the subscriber in: the `jti` of a JWT, say.
    /// [`crate::Hub::disconnect_token`] ends all connections of a token. A connection with a token, with a
    /// subject or with both takes 24 bytes more, whatever their length.
    pub fn with_token(mut self, id: impl AsRef<str>) -> Subscribe {
        self.names.token = Some(Name::of_token(id.as_ref()));
        self
    }

    /// When the decision about this subscription began, for [`crate::Hub::adopt`]: the subscription does not
    /// begin where [`crate::Hub::disconnect_subject`] or [`crate::Hub::disconnect_token`] was called for it
    /// since then. For requests that an [`crate::Admission`] decides about, the engine knows it itself.
    pub fn with_decision_start(mut self, start: DecisionStart) -> Subscribe {
        self.decided_since = Some(start);
        self
    }

    /// The longest subject and the longest name of a member, in bytes.
    pub const MAX_SUBJECT_BYTES: usize = MAX_SUBJECT_BYTES;

    /// A number of the embedder's that life-cycle events bear: a key of its own table, say.
    pub fn with_data(mut self, data: u64) -> Subscribe {
        self.data = Some(data);
        self
    }

    /// The stream ends within this time, whatever its age may be: when a token expires, say. It ends a little
    /// earlier, by up to a twentieth of the time and half a minute, so that streams whose times end together
    /// do not come back together. A subscriber that is in the middle of an event gets the rest of it.
    pub fn with_lifetime(mut self, lifetime: Duration) -> Subscribe {
        self.lifetime = Some(lifetime);
        self
    }

    /// Says whose connection it is, for one that another server has accepted and that [`crate::Hub::adopt`]
    /// is given: it counts among those of the request's client ([`ClientLimits::connections_per_address`]),
    /// and the operator's may use the reserve. Without this call it does neither. `clients` are the bounds in
    /// force, [`crate::Limits::clients`].
    ///
    /// An admission need not call this: the shard knows whose requests it shows.
    pub fn with_client_of(mut self, request: &Request<'_>, clients: &ClientLimits) -> Subscribe {
        self.is_operator = request.is_from_operator(clients);
        self.client = request.counted_client(clients).map(Box::new);
        self
    }

    /// While the connection lives, it has this name among the members of a topic: [`crate::Hub::members`]. A
    /// subscription adds at most [`crate::Limits::members_per_subscription`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use fanfare::{EventType, Member, Subscribe, Topic};
    ///
    /// let room = Topic::new("room")?;
    /// let ada = Member::new(&room, "ada")?
    ///     .with_announcements(EventType::new("join")?, EventType::new("leave")?);
    /// let subscribe = Subscribe::to([room]).with_member(ada);
    /// # Ok(()) }
    /// ```
    pub fn with_member(mut self, member: Member) -> Subscribe {
        self.members.push(member);
        self
    }

    /// The subject.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The topics.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// The patterns.
    pub fn patterns(&self) -> &[Pattern] {
        self.selectors.patterns()
    }

    /// The same as the engine knows it.
    pub(crate) fn subscription(&self, encoding: Encoding) -> Subscription {
        self.selectors.subscription(&self.topics, encoding)
    }

    /// Where it resumes.
    pub fn resume(&self) -> Option<&str> {
        self.resume.as_deref()
    }

    /// The fields that were added to the response head.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.lines().filter_map(|line| line.split_once(": "))
    }
}

/// Why topics are not those of a subscription. Every way into the engine refuses them for the same reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongTopics {
    None,
    /// More different topics and patterns than this bound, [`crate::Limits::topics_per_subscription`].
    TooMany {
        limit: usize,
    },
}

impl WrongTopics {
    /// Checks the topics of a subscription that has so many patterns. A topic that is named several times
    /// counts once. Where such topics are more than the bound, their repetitions are removed, so that a long
    /// list is not kept.
    pub(crate) fn check(topics: &mut Vec<Topic>, patterns: usize, limit: usize) -> Result<(), WrongTopics> {
        if topics.len() + patterns > limit {
            topics.sort_unstable();
            topics.dedup();
        }
        WrongTopics::check_count(topics.len() + patterns, limit)
    }

    /// The kind of the answer.
    pub(crate) fn problem(self) -> ProblemKind {
        match self {
            WrongTopics::None => ProblemKind::NoTopic,
            WrongTopics::TooMany { .. } => ProblemKind::TooManyTopics,
        }
    }

    /// Checks the number of different topics and patterns.
    pub(crate) fn check_count(count: usize, limit: usize) -> Result<(), WrongTopics> {
        match count {
            0 => Err(WrongTopics::None),
            count if count > limit => Err(WrongTopics::TooMany { limit }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for WrongTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WrongTopics::None => f.write_str("a subscription has at least one topic or pattern"),
            WrongTopics::TooMany { limit } => {
                write!(f, "a subscription has at most {limit} topics and patterns")
            }
        }
    }
}

/// A text that is too long to be a subject or a member's name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidSubject {
    /// How long it is.
    pub bytes: usize,
}

impl fmt::Display for InvalidSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = Subscribe::MAX_SUBJECT_BYTES;
        write!(f, "a subject or a member's name has at most {most} bytes, and this one has {}", self.bytes)
    }
}

impl std::error::Error for InvalidSubject {}
