//! What the endpoint is asked, and what it answers.

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{HeaderName, HeaderValue};
use fanfare::{RequestHead, form_fields, is_resume_parameter};

use super::Use;
use crate::turns::TurnOf;

/// The fields of a question, all of which come from the request that is asked about.
#[derive(Debug)]
pub(crate) struct Question {
    fields: Vec<(HeaderName, HeaderValue)>,
    of: TurnOf,
    /// What it uses of the bounds, once it is asked.
    used: Option<Use>,
}

/// Two questions with the same key are the same question. It is a hash, so that what waits and what is
/// remembered keeps no cookie and no token.
pub(super) type QuestionKey = [u8; 32];

/// A request that cannot be asked about. The text is for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAskable(pub(crate) &'static str);

impl Question {
    /// What is asked about a request. `passed_on` are the names of fields that go with the question, in small
    /// letters.
    ///
    /// # Errors
    /// A field is there twice, or is no text that a request may bear.
    pub(crate) fn about(
        request: &RequestHead<'_>,
        of: TurnOf,
        passed_on: &[String],
    ) -> Result<Question, NotAskable> {
        let mut fields = Vec::with_capacity(passed_on.len() + 5);
        let mut add = |name: HeaderName, value: &[u8]| {
            let value = HeaderValue::from_bytes(value)
                .map_err(|_| NotAskable("a field of the request has a control character in it"))?;
            fields.push((name, value));
            Ok(())
        };
        add(HeaderName::from_static("x-forwarded-method"), request.method().as_bytes())?;
        add(HeaderName::from_static("x-forwarded-uri"), visible(&target(request))?.as_bytes())?;
        if let Some(host) = request.host() {
            add(HeaderName::from_static("x-forwarded-host"), visible(host)?.as_bytes())?;
        }
        if let Some(client) = of.client {
            let client = client.to_canonical().to_string();
            add(HeaderName::from_static("x-forwarded-for"), client.as_bytes())?;
        }
        if let Some(origin) = only(request, "origin")? {
            add(HeaderName::from_static("origin"), origin)?;
        }
        for name in passed_on {
            let Ok(header) = HeaderName::try_from(name.as_str()) else { continue };
            // A client may send several fields of cookies (RFC 9113, section 8.2.3), which are one list.
            if name == "cookie" {
                let all: Vec<&[u8]> = values(request, name).collect();
                if !all.is_empty() {
                    add(header, &all.join(&b"; "[..]))?;
                }
            } else if let Some(value) = only(request, name)? {
                add(header, value)?;
            }
        }
        Ok(Question { fields, of, used: None })
    }

    /// Whose request it is that asked first.
    pub(super) fn of(&self) -> TurnOf {
        self.of
    }

    pub(super) fn uses(&mut self, used: Use) {
        self.used = Some(used);
    }

    /// The memory that it takes, about, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        /// What a field takes besides its text: pointers, counts, and what the allocator adds.
        const EACH: usize = 128;
        let of = |(name, value): &(HeaderName, HeaderValue)| name.as_str().len() + value.len() + EACH;
        size_of::<Question>() + self.fields.iter().map(of).sum::<usize>()
    }

    pub(super) fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// Everything that is sent, as a hash. Lengths keep neighbouring fields apart.
    pub(super) fn key(&self) -> QuestionKey {
        let mut text = Vec::new();
        for (name, value) in &self.fields {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                text.extend_from_slice(&(part.len() as u64).to_be_bytes());
                text.extend_from_slice(part);
            }
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, &text).as_ref());
        key
    }
}

/// The path and the query without the parameters that say where to resume: who may subscribe does not depend
/// on them, and a client that comes back with another number is the same question.
fn target(request: &RequestHead<'_>) -> String {
    let resumes =
        |part: &&str| form_fields(part.as_bytes()).next().is_some_and(|(name, _)| is_resume_parameter(&name));
    let query = request.query().unwrap_or_default();
    let parts: Vec<&str> = query.split('&').filter(|part| !part.is_empty() && !resumes(part)).collect();
    match parts.is_empty() {
        true => request.path().to_owned(),
        false => format!("{}?{}", request.path(), parts.join("&")),
    }
}

fn visible(text: &str) -> Result<&str, NotAskable> {
    match text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text),
        false => Err(NotAskable("the target and the host of a request have visible ASCII characters only")),
    }
}

fn values<'r>(request: &RequestHead<'r>, name: &str) -> impl Iterator<Item = &'r [u8]> {
    request.headers().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// The value of a field that may be there once. Of two the endpoint and others could read different ones.
fn only<'r>(request: &RequestHead<'r>, name: &str) -> Result<Option<&'r [u8]>, NotAskable> {
    let mut all = values(request, name);
    match (all.next(), all.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(NotAskable("a field that decides about access is there twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(target: &str, fields: &[(&str, &[u8])]) -> Result<Vec<String>, NotAskable> {
        let head = RequestHead::from_parts("GET", target, 1, fields.iter().copied()).unwrap();
        let passed_on = ["cookie".to_owned(), "authorization".to_owned()];
        let of = TurnOf { client: Some("::ffff:192.0.2.7".parse().unwrap()), ..TurnOf::default() };
        let question = Question::about(&head, of, &passed_on)?;
        let line = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        Ok(question.fields.iter().map(line).collect())
    }

    #[test]
    fn a_question_has_what_the_endpoint_decides_by_and_nothing_that_the_client_adds() {
        let lines = about(
            "/events?topic=a%20b&last_event_id=7&Last%2dEvent-ID=8&&gap=off&lastEventId",
            &[
                ("Host", b"push.example"),
                ("Cookie", b"a=1"),
                ("Last-Event-ID", b"9"),
                ("X-Forwarded-For", b"6.6.6.6"),
                ("X-Forwarded-Uri", b"/public"),
                ("Cookie", b"b=2"),
                ("Authorization", b"Bearer t"),
                ("X-Other", b"x"),
                ("Origin", b"https://app.example"),
            ],
        );
        let expected = [
            "x-forwarded-method: GET",
            "x-forwarded-uri: /events?topic=a%20b&gap=off",
            "x-forwarded-host: push.example",
            "x-forwarded-for: 192.0.2.7",
            "origin: https://app.example",
            "cookie: a=1; b=2",
            "authorization: Bearer t",
        ];
        assert_eq!(lines.unwrap(), expected);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_not_asked_about() {
        let twice: [(&str, &[u8]); 3] = [("Host", b"h"), ("Authorization", b"a"), ("authorization", b"b")];
        assert!(about("/events?topic=a", &twice).is_err());
        let origins: [(&str, &[u8]); 3] =
            [("Host", b"h"), ("Origin", b"https://a"), ("Origin", b"https://b")];
        assert!(about("/events?topic=a", &origins).is_err());
    }

    #[test]
    fn questions_are_equal_where_everything_that_is_sent_is_equal() {
        let key = |target: &str, client: &str, fields: &[(&str, &[u8])]| {
            let head = RequestHead::from_parts("GET", target, 1, fields.iter().copied()).unwrap();
            let passed_on = ["cookie".to_owned(), "authorization".to_owned()];
            let of = TurnOf { client: Some(client.parse().unwrap()), ..TurnOf::default() };
            Question::about(&head, of, &passed_on).unwrap().key()
        };
        let fields: [(&str, &[u8]); 2] = [("Host", b"h"), ("Cookie", b"a=1")];
        let first = key("/events?topic=a", "192.0.2.1", &fields);
        assert_eq!(first, key("/events?topic=a&last_event_id=5", "192.0.2.1", &fields));
        assert_ne!(first, key("/events?topic=b", "192.0.2.1", &fields));
        assert_ne!(first, key("/events?topic=a", "192.0.2.2", &fields));
        assert_ne!(first, key("/events?topic=a", "192.0.2.1", &[("Host", b"h"), ("Cookie", b"a=2")]));
        assert_ne!(first, key("/events?topic=a", "192.0.2.1", &[("Host", b"h"), ("Authorization", b"a=1")]));
        assert_ne!(first, key("/events?topic=a", "192.0.2.1", &[("Host", b"g"), ("Cookie", b"a=1")]));
    }
}
