//! What a subscribe request asks for: topics, patterns of topics, and where to resume.

use std::fmt;
use std::time::Duration;

use crate::event::{InvalidEvent, Topic};
use crate::form::form_fields;
use crate::frame::Checkpoint;
use crate::head::RequestHead;
use crate::pattern::{MAX_STATES_OF_ONE, Pattern, PatternError};
use crate::problem::ProblemKind;

/// The names under which clients that cannot set headers send the last event id in the query. Where several
/// are there, the earlier name in this list wins.
const RESUME_PARAMETERS: [&str; 5] =
    ["last_event_id", "lastEventId", "lastEventID", "Last-Event-ID", "evs_last_event_id"];

/// Whether a parameter of the query with this decoded name says where to resume.
pub fn is_resume_parameter(name: &[u8]) -> bool {
    RESUME_PARAMETERS.iter().any(|parameter| parameter.as_bytes() == name)
}

/// A subscribe request, read from the head of `GET /events?topic=a&topic=b&match=orders/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeQuery {
    /// The topics, in the order given, without duplicates. A `*` or a brace in a name is a character of it. A
    /// pattern that is an exact name is among them.
    pub topics: Vec<Topic>,
    /// The patterns, in the order given, without duplicates; none is an exact name. Topics and patterns are
    /// never both empty.
    pub patterns: Vec<Pattern>,
    /// The id to resume from, as the client sent it; never empty. Bytes that are not UTF-8 are replaced: no
    /// event has such an id, so the answer is a gap.
    pub resume: Option<String>,
    /// Whether a gap is told inside the stream too (`event: fanfare.gap`), and not only in the response's
    /// head.
    pub gap_events: bool,
    /// How the client is told where it is before its first event, and on a quiet stream.
    pub checkpoint: Checkpoint,
    /// The longest silence that the client asked for; `None`: it did not ask.
    /// [`Limits::heartbeat_interval`](crate::limits::Limits::heartbeat_interval) says what it gets.
    pub heartbeat: Option<Duration>,
}

impl SubscribeQuery {
    /// Reads the query (`application/x-www-form-urlencoded`, URL standard, section 5.1) and the header
    /// `Last-Event-ID`, which goes before the query because a browser keeps it up to date.
    ///
    /// `topic` names a topic, and `match` a pattern: a prefix such as `orders/*`, or a template such as
    /// `/users/{id}` ([`Pattern`]). At most `max_topics` different topics and patterns together; unknown
    /// parameters are ignored; empty ids are absent ones. `gap` is `on` or `off`, `checkpoint` is `on`, `off`
    /// or `event`, and `heartbeat` is a whole number of seconds; where one of them is given several times,
    /// the last one counts.
    ///
    /// # Errors
    /// No topic and no pattern, a bad one, or too many; a bad value of `gap`, `checkpoint` or `heartbeat`.
    pub fn from_head(head: &RequestHead<'_>, max_topics: usize) -> Result<SubscribeQuery, SubscribeError> {
        let mut selected = Selected { max_topics, topics: Vec::new(), patterns: Vec::new() };
        let mut gap_events = true;
        let mut checkpoint = Checkpoint::default();
        let mut heartbeat = None;
        let mut query_id = QueryId::default();

        for (name, value) in form_fields(head.query().unwrap_or("").as_bytes()) {
            match &name[..] {
                b"topic" => {
                    let text = str::from_utf8(&value).map_err(|_| SubscribeError::TopicNotUtf8)?;
                    let topic = Topic::new(text).map_err(SubscribeError::Topic)?;
                    selected.add_topic(topic)?;
                }
                b"match" => {
                    let text = str::from_utf8(&value).map_err(|_| SubscribeError::PatternNotUtf8)?;
                    selected.add_pattern(Pattern::parse(text).map_err(SubscribeError::Pattern)?)?;
                }
                b"gap" => {
                    gap_events = match &value[..] {
                        b"on" => true,
                        b"off" => false,
                        _ => return Err(SubscribeError::Gap),
                    }
                }
                b"checkpoint" => {
                    checkpoint = match &value[..] {
                        b"on" => Checkpoint::Block,
                        b"off" => Checkpoint::Off,
                        b"event" => Checkpoint::Event,
                        _ => return Err(SubscribeError::Checkpoint),
                    }
                }
                b"heartbeat" => heartbeat = Some(seconds(&value).ok_or(SubscribeError::Heartbeat)?),
                name => query_id.note(name, &value),
            }
        }

        let Selected { topics, patterns, .. } = selected;
        if topics.is_empty() && patterns.is_empty() {
            return Err(SubscribeError::NoTopic);
        }
        let resume = query_id.resume(head.last_event_id());
        Ok(SubscribeQuery { topics, patterns, resume, gap_events, checkpoint, heartbeat })
    }

    /// The same, for servers that take no patterns: servers that decide by the names of topics.
    ///
    /// # Errors
    /// As [`SubscribeQuery::from_head`], and where the query names a pattern.
    pub fn without_patterns(
        head: &RequestHead<'_>,
        max_topics: usize,
    ) -> Result<SubscribeQuery, SubscribeError> {
        let query = SubscribeQuery::from_head(head, max_topics)?;
        if query.patterns.is_empty() { Ok(query) } else { Err(SubscribeError::NoPatterns) }
    }

    /// Only where to resume, for servers that choose the topics themselves. The arguments are the value of
    /// the header `Last-Event-ID`, and the query behind the `?`. They are read as
    /// [`SubscribeQuery::from_head`] reads them; everything else in the query is ignored.
    pub fn resume_from(last_event_id: Option<&[u8]>, query: Option<&str>) -> Option<String> {
        let mut query_id = QueryId::default();
        for (name, value) in form_fields(query.unwrap_or("").as_bytes()) {
            query_id.note(&name, &value);
        }
        query_id.resume(last_event_id.map(<[u8]>::trim_ascii))
    }
}

/// The topics and the patterns of a query so far.
struct Selected {
    max_topics: usize,
    topics: Vec<Topic>,
    patterns: Vec<Pattern>,
}

impl Selected {
    fn add_topic(&mut self, topic: Topic) -> Result<(), SubscribeError> {
        if !self.topics.contains(&topic) {
            self.check_room()?;
            self.topics.push(topic);
        }
        Ok(())
    }

    fn add_pattern(&mut self, pattern: Pattern) -> Result<(), SubscribeError> {
        if pattern.is_exact() {
            let topic = Topic::new(pattern.as_str()).map_err(SubscribeError::Topic)?;
            return self.add_topic(topic);
        }
        if !self.patterns.iter().any(|other| other.has_form_of(&pattern)) {
            self.check_room()?;
            if pattern.states() > MAX_STATES_OF_ONE {
                return Err(SubscribeError::PatternTooComplex);
            }
            self.patterns.push(pattern);
        }
        Ok(())
    }

    fn check_room(&self) -> Result<(), SubscribeError> {
        let max_topics = self.max_topics;
        let has_room = self.topics.len() + self.patterns.len() < max_topics;
        if has_room { Ok(()) } else { Err(SubscribeError::TooManyTopics { max_topics }) }
    }
}

/// The last event id in a query: the rank of its name, and the id.
#[derive(Default)]
struct QueryId(Option<(usize, String)>);

impl QueryId {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        let Some(rank) = RESUME_PARAMETERS.iter().position(|known| known.as_bytes() == name) else { return };
        let better = self.0.as_ref().is_none_or(|(best, _)| rank < *best);
        if better && !value.is_empty() {
            self.0 = Some((rank, lossy(value)));
        }
    }

    fn resume(self, last_event_id: Option<&[u8]>) -> Option<String> {
        let from_header = last_event_id.filter(|id| !id.is_empty()).map(lossy);
        from_header.or(self.0.map(|(_, id)| id))
    }
}

/// Why a subscribe request is refused; the message says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The query names no topic and no pattern.
    NoTopic,
    /// A topic is not a valid one.
    Topic(InvalidEvent),
    /// A topic is not UTF-8 once its `%` escapes are decoded.
    TopicNotUtf8,
    /// A pattern is not a valid one.
    Pattern(PatternError),
    /// A pattern is not UTF-8 once its `%` escapes are decoded.
    PatternNotUtf8,
    /// A template has so much text and so many variables behind variables whose end is not certain, that to
    /// look up a topic could take too long ([`Pattern::states`]).
    PatternTooComplex,
    /// The query names a pattern, and the server takes none.
    NoPatterns,
    /// The query names too many different topics and patterns.
    TooManyTopics {
        /// How many are allowed.
        max_topics: usize,
    },
    /// `gap` is neither `on` nor `off`.
    Gap,
    /// `checkpoint` is not `on`, `off` or `event`.
    Checkpoint,
    /// `heartbeat` is not a whole number of seconds, at least one.
    Heartbeat,
}

impl SubscribeError {
    /// The status of the answer: 400.
    pub fn status(&self) -> u16 {
        self.problem().status()
    }

    /// The kind of the answer.
    pub fn problem(&self) -> ProblemKind {
        match self {
            SubscribeError::NoTopic => ProblemKind::NoTopic,
            SubscribeError::Topic(_) | SubscribeError::TopicNotUtf8 => ProblemKind::InvalidTopic,
            SubscribeError::Pattern(_)
            | SubscribeError::PatternNotUtf8
            | SubscribeError::PatternTooComplex
            | SubscribeError::NoPatterns => ProblemKind::InvalidPattern,
            SubscribeError::TooManyTopics { .. } => ProblemKind::TooManyTopics,
            SubscribeError::Gap | SubscribeError::Checkpoint | SubscribeError::Heartbeat => {
                ProblemKind::InvalidParameter
            }
        }
    }
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubscribeError::NoTopic => f.write_str(
                "name at least one topic in the query, for example /events?topic=news or /events?topic=news&topic=sport",
            ),
            SubscribeError::Topic(error) => write!(f, "{error}"),
            SubscribeError::TopicNotUtf8 => f.write_str(
                "a topic in the query is not UTF-8; percent-encode its UTF-8 bytes, for example topic=%C3%A4 for \"ä\"",
            ),
            SubscribeError::Pattern(error) => {
                write!(f, "a pattern in the query cannot be used: {error}; use match= for a prefix such as \
                     orders/* or a template such as /users/{{id}}, and topic= for a name")?;
                match error {
                    PatternError::VariableName => f.write_str("; write %2B for a + in a query, as in {%2Bpath}"),
                    _ => Ok(()),
                }
            }
            SubscribeError::PatternNotUtf8 => f.write_str(
                "a pattern in the query is not UTF-8; percent-encode its UTF-8 bytes, for example match=%C3%A4* for \"ä*\"",
            ),
            SubscribeError::PatternTooComplex => f.write_str(
                "a pattern in the query has too many variables, or too much text behind a variable that may contain \
                 this text; use {var} between slashes, or a shorter pattern",
            ),
            SubscribeError::NoPatterns => {
                f.write_str("this server takes no patterns; name topics by topic= in place of match=")
            }
            SubscribeError::TooManyTopics { max_topics } => {
                write!(f, "a subscription may name {max_topics} topics and patterns at most; use fewer, or several connections")
            }
            SubscribeError::Gap => {
                f.write_str("gap has to be \"on\" or \"off\"; gap=off turns the gap events inside the stream off")
            }
            SubscribeError::Checkpoint => f.write_str(
                "checkpoint has to be \"on\", \"off\" or \"event\"; use off for clients that make an empty \
                 message of an id alone, and event for clients that ignore it",
            ),
            SubscribeError::Heartbeat => f.write_str(
                "heartbeat has to be a whole number of seconds, at least 1, such as heartbeat=4: the longest \
                 silence that the client allows",
            ),
        }
    }
}

impl std::error::Error for SubscribeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SubscribeError::Topic(error) => Some(error),
            SubscribeError::Pattern(error) => Some(error),
            _ => None,
        }
    }
}

/// Whole seconds in ASCII digits, at least one. A number beyond any integer is the largest one.
fn seconds(text: &[u8]) -> Option<Duration> {
    let digits = str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    if digits.is_empty() {
        return None;
    }
    let seconds = digits.parse().unwrap_or(u64::MAX);
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

fn lossy(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(bytes.as_ref()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(target: &str, headers: &[(&str, &[u8])]) -> Result<SubscribeQuery, SubscribeError> {
        let head = RequestHead::from_parts("GET", target, 1, headers.iter().copied()).unwrap();
        SubscribeQuery::from_head(&head, 4)
    }

    fn parse(target: &str) -> Result<SubscribeQuery, SubscribeError> {
        parse_with(target, &[])
    }

    fn topics(target: &str) -> Vec<String> {
        parse(target).unwrap().topics.iter().map(|topic| topic.to_string()).collect()
    }

    /// Servers that choose the topics themselves read the same id.
    fn resume(target: &str, headers: &[(&str, &[u8])]) -> Option<String> {
        let resume = parse_with(target, headers).unwrap().resume;
        let query = target.split_once('?').map(|(_, query)| query);
        assert_eq!(SubscribeQuery::resume_from(headers.first().map(|(_, id)| *id), query), resume);
        resume
    }

    #[test]
    fn topics_repeat_decode_and_collapse() {
        assert_eq!(topics("/events?topic=a"), ["a"]);
        assert_eq!(topics("/events?topic=b&topic=a&topic=b"), ["b", "a"]);
        assert_eq!(topics("/events?topic=a+b%2Bc%2fd"), ["a b+c/d"]);
        assert_eq!(topics("/events?topic=%C3%A4&%74opic=%61"), ["ä", "a"]);
        assert_eq!(topics("/events?topic=50%&topic=%zz&topic=%4"), ["50%", "%zz", "%4"]);
        assert_eq!(topics("/events?topic=a=b&&other=1&x"), ["a=b"]);
        assert_eq!(topics("http://h/events?topic=a"), ["a"]);
    }

    #[test]
    fn bad_topics_are_refused_with_advice() {
        for target in ["/events", "/events?", "/events?Topic=a", "/events?topics=a"] {
            let error = parse(target).unwrap_err();
            assert_eq!(error, SubscribeError::NoTopic);
            assert!(error.to_string().contains("/events?topic=news"));
            assert_eq!(error.status(), 400);
        }
        assert!(matches!(parse("/events?topic="), Err(SubscribeError::Topic(InvalidEvent::Empty { .. }))));
        assert!(matches!(parse("/events?topic"), Err(SubscribeError::Topic(InvalidEvent::Empty { .. }))));
        assert!(matches!(
            parse("/events?topic=a%0Ab"),
            Err(SubscribeError::Topic(InvalidEvent::ControlCharacter { .. }))
        ));
        for target in ["/events?topic=%ff", "/events?topic=%C3", "/events?topic=%ED%A0%80"] {
            assert_eq!(parse(target), Err(SubscribeError::TopicNotUtf8), "{target}");
        }
    }

    #[test]
    fn different_topics_are_counted() {
        assert_eq!(topics("/events?topic=a&topic=b&topic=c&topic=d&topic=a").len(), 4);
        let error = parse("/events?topic=a&topic=b&topic=c&topic=d&topic=e").unwrap_err();
        assert_eq!(error, SubscribeError::TooManyTopics { max_topics: 4 });
        assert!(error.to_string().contains("4 topics"));
    }

    fn selected(target: &str) -> (Vec<String>, Vec<String>) {
        let query = parse(target).unwrap();
        let patterns = query.patterns.iter().map(|pattern| pattern.to_string()).collect();
        (query.topics.iter().map(|topic| topic.to_string()).collect(), patterns)
    }

    #[test]
    fn patterns_stand_beside_topics_and_a_topic_is_never_one() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let is = |target: &str, topics: &[&str], patterns: &[&str]| {
            let (read_topics, read_patterns) = selected(&format!("/events?{target}"));
            assert_eq!(
                (&read_topics[..], &read_patterns[..]),
                (&texts(topics)[..], &texts(patterns)[..]),
                "{target}"
            );
        };
        is("match=orders/*", &[], &["orders/*"]);
        is("topic=a&match=/users/%7Bid%7D&topic=b", &["a", "b"], &["/users/{id}"]);
        is("topic=orders/*&topic=%7Bid%7D", &["orders/*", "{id}"], &[]);
        is("match=*&match=%2A&match=**", &[], &["*", "**"]);
        // An exact name in `match` is a topic.
        is("match=a&topic=a&match=b", &["a", "b"], &[]);
        // Other names of variables make no other pattern, and the first is kept as it is written.
        is("match=%7Bx%7D&match=%7By%7D&match=%7B%2By%7D", &[], &["{x}", "{+y}"]);
        is("Match=b&match=a", &["a"], &[]);
    }

    #[test]
    fn bad_patterns_are_refused_with_their_reason() {
        for (target, reason) in [
            ("match", PatternError::Empty),
            ("match=", PatternError::Empty),
            ("match=a%00*", PatternError::NotATopic),
            ("match=%7Bid", PatternError::Braces),
            ("match=%7B?id%7D", PatternError::Operator('?')),
            ("topic=a&match=%7Bid%7D/*", PatternError::TemplateAndPrefix),
        ] {
            let error = parse(&format!("/events?{target}")).unwrap_err();
            assert_eq!((&error, error.status()), (&SubscribeError::Pattern(reason), 400), "{target}");
            assert!(error.to_string().contains(&reason.to_string()), "{error}");
        }
        assert_eq!(parse("/events?match=%ff*"), Err(SubscribeError::PatternNotUtf8));
        let explosive: String = (0..60).map(|number| format!("%7B%2Bv{number}%7Daa")).collect();
        assert_eq!(parse(&format!("/events?match={explosive}")), Err(SubscribeError::PatternTooComplex));
    }

    #[test]
    fn topics_and_patterns_are_counted_together() {
        assert_eq!(selected("/events?topic=a&match=b*&match=c&match=b*&match=%7Bd%7D").0.len(), 2);
        for target in
            ["topic=a&topic=b&match=c*&match=d*&match=e*", "match=a*&match=b*&match=c*&match=d&match=e"]
        {
            let error = parse(&format!("/events?{target}")).unwrap_err();
            assert_eq!(error, SubscribeError::TooManyTopics { max_topics: 4 }, "{target}");
            assert!(error.to_string().contains("4 topics and patterns"));
        }
    }

    #[test]
    fn the_header_goes_before_the_query() {
        let target = "/events?topic=a&last_event_id=q";
        assert_eq!(resume(target, &[("Last-Event-ID", b"h")]), Some("h".into()));
        assert_eq!(resume(target, &[("last-event-id", b"")]), Some("q".into()));
        assert_eq!(resume(target, &[]), Some("q".into()));
        assert_eq!(resume("/events?topic=a", &[]), None);
        assert_eq!(resume("/events?topic=a", &[("Last-Event-ID", b"  ")]), None);
    }

    #[test]
    fn every_name_in_the_query_works_and_empty_is_absent() {
        for name in RESUME_PARAMETERS {
            assert_eq!(resume(&format!("/events?topic=a&{name}=e-1"), &[]), Some("e-1".into()));
            assert_eq!(resume(&format!("/events?topic=a&{name}="), &[]), None);
        }
        assert_eq!(resume("/events?topic=a&lastEventId=2&last_event_id=1", &[]), Some("1".into()));
        assert_eq!(resume("/events?topic=a&last_event_id=&lastEventId=2", &[]), Some("2".into()));
        assert_eq!(resume("/events?topic=a&last_event_id=1&last_event_id=2", &[]), Some("1".into()));
        assert_eq!(resume("/events?topic=a&last_event_id=%C3%A4+1", &[]), Some("ä 1".into()));
        assert_eq!(resume("/events?topic=a&LAST_EVENT_ID=1", &[]), None);
    }

    #[test]
    fn an_id_that_is_not_utf8_is_one_that_nobody_knows() {
        assert_eq!(resume("/events?topic=a", &[("Last-Event-ID", b"e\xff1")]), Some("e\u{fffd}1".into()));
        assert_eq!(resume("/events?topic=a", &[("Last-Event-ID", "ä".as_bytes())]), Some("ä".into()));
        assert_eq!(resume("/events?topic=a&lastEventId=%ff", &[]), Some("\u{fffd}".into()));
    }

    #[test]
    fn gap_events_can_be_turned_off() {
        assert!(parse("/events?topic=a").unwrap().gap_events);
        assert!(parse("/events?topic=a&gap=on").unwrap().gap_events);
        assert!(!parse("/events?topic=a&gap=off").unwrap().gap_events);
        assert_eq!(parse("/events?topic=a&gap=of"), Err(SubscribeError::Gap));
    }

    #[test]
    fn the_checkpoint_has_three_values() {
        assert_eq!(parse("/events?topic=a").unwrap().checkpoint, Checkpoint::Block);
        assert_eq!(parse("/events?topic=a&checkpoint=on").unwrap().checkpoint, Checkpoint::Block);
        assert_eq!(parse("/events?topic=a&checkpoint=off").unwrap().checkpoint, Checkpoint::Off);
        assert_eq!(parse("/events?checkpoint=event&topic=a").unwrap().checkpoint, Checkpoint::Event);
        for wrong in ["", "On", "0", "id", "event%20"] {
            let error = parse(&format!("/events?topic=a&checkpoint={wrong}")).unwrap_err();
            assert_eq!((&error, error.status()), (&SubscribeError::Checkpoint, 400), "{wrong:?}");
        }
        assert!(SubscribeError::Checkpoint.to_string().contains("use off"));
    }

    #[test]
    fn the_heartbeat_is_whole_seconds() {
        let heartbeat =
            |value: &str| parse(&format!("/events?topic=a&heartbeat={value}")).map(|query| query.heartbeat);
        assert_eq!(parse("/events?topic=a").unwrap().heartbeat, None);
        assert_eq!(heartbeat("4"), Ok(Some(Duration::from_secs(4))));
        assert_eq!(heartbeat("0015"), Ok(Some(Duration::from_secs(15))));
        assert_eq!(heartbeat("99999999999999999999"), Ok(Some(Duration::from_secs(u64::MAX))));
        for wrong in ["", "0", "00", "-1", "+1", "1.5", "4s", "4000ms", "%2B4", "4%20", "%D9%A3", "%ff"] {
            assert_eq!(heartbeat(wrong), Err(SubscribeError::Heartbeat), "{wrong:?}");
        }
        assert!(SubscribeError::Heartbeat.to_string().contains("heartbeat=4"));
    }
}
