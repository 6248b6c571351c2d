//! One case: a request, and what it is answered. The same checks are made of each of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};

use super::support::{Backend, CONTROL_PATH, Connection, Server, http};

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It subscribes, publishes, or ends connections.
    Granted,
    /// Its token is refused for the reason of this short name.
    Refused(&'static str),
    /// The grants do not cover this topic.
    NotCovered(&'static str),
    /// A cookie authorises it, and it comes from no page that may use one.
    CookieFromElsewhere,
    /// Its token may not end connections.
    MayNotEnd,
    /// It is refused with this status before its token is looked at.
    Status(u16),
}

/// A request with a name.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Its type and its text.
    pub(crate) body: Option<(&'static str, String)>,
    pub(crate) outcome: Outcome,
    /// Texts that neither the answer nor the log may have.
    pub(crate) secrets: Vec<String>,
}

impl Case {
    pub(crate) fn subscribe(name: impl Into<String>, query: &str, outcome: Outcome) -> Case {
        let (name, target) = (name.into(), format!("/events?{query}"));
        Case { name, method: "GET", target, headers: Vec::new(), body: None, outcome, secrets: Vec::new() }
    }

    pub(crate) fn publish(name: impl Into<String>, topic: &str, outcome: Outcome) -> Case {
        let body = json!({ "topic": topic, "data": "data of the event" }).to_string();
        Case {
            method: "POST",
            target: "/events".to_owned(),
            body: Some(("application/json", body)),
            ..Case::subscribe(name, "", outcome)
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Case {
        self.headers.push((name, value.into()));
        self
    }

    /// With this token in the header.
    pub(crate) fn bearer(self, token: &str) -> Case {
        self.secret(token).header("Authorization", format!("Bearer {token}"))
    }

    /// Neither the answer nor the log may have this token, or one of its parts.
    pub(crate) fn secret(mut self, token: &str) -> Case {
        self.secrets.extend(token.split('.').filter(|part| part.len() >= 12).map(str::to_owned));
        self
    }
}

/// A server, and how often a request of the cases is refused there for each reason.
#[derive(Debug)]
pub(crate) struct Judge {
    server: Server,
    /// The server tells clients the reasons.
    debug: bool,
    refused: BTreeMap<&'static str, usize>,
    cookies: usize,
    secrets: Vec<String>,
}

impl Judge {
    /// With `--debug-auth` where `debug` says so. Everything is logged.
    pub(crate) fn start(backend: Backend, options: &[&str], debug: bool) -> Judge {
        let mut all = vec!["--log", "trace"];
        all.extend(options);
        all.extend(debug.then_some("--debug-auth"));
        let server = Server::start_with(backend, &all);
        Judge { server, debug, refused: BTreeMap::new(), cookies: 0, secrets: Vec::new() }
    }

    /// Sends every case on a connection of its own, and again on one that the control plane has. Panics with
    /// the names of all cases that got another answer.
    pub(crate) fn expect_all(&mut self, cases: &[Case]) {
        let mut wrong = Vec::new();
        for case in cases {
            for is_kept in [false, true] {
                match catch_unwind(AssertUnwindSafe(|| self.ask(case, is_kept))) {
                    Ok(()) => self.count(case),
                    Err(panic) => {
                        let text = panic.downcast_ref::<String>().map_or("?", String::as_str);
                        let connection = if is_kept { "kept" } else { "new" };
                        wrong.push(format!("{} on a {connection} connection: {text}", case.name));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    }

    fn ask(&self, case: &Case, is_kept: bool) {
        let mut connection = self.server.connect();
        if is_kept {
            assert_eq!(connection.request("GET", CONTROL_PATH, &[]).status, 200);
        }
        connection.send_what_it_takes(case.bytes());
        let answer = Answer::read(&mut connection, case.method);
        for secret in case.secrets.iter().map(String::as_str).chain(CLAIMS) {
            assert!(!answer.head.contains(secret) && !answer.body.contains(secret), "a secret: {answer:?}");
        }
        match &case.outcome {
            Outcome::Granted => answer.expect_success(case.method),
            Outcome::Refused(reason) => {
                let (status, challenge) = challenge_of(reason);
                let mut detail = match case.method {
                    "GET" => "this subscription needs a valid token".to_owned(),
                    _ => "this request needs a publisher's valid token".to_owned(),
                };
                if self.debug {
                    detail = format!("{detail}: {}", text_of(reason));
                }
                answer.expect_problem(status, &detail, self.debug);
                assert_eq!(http::header(&answer.head, "WWW-Authenticate"), Some(challenge.as_str()));
            }
            Outcome::NotCovered(topic) => {
                let detail = format!("the token does not cover the topic {topic:?}");
                answer.expect_problem(403, &detail, false);
                let challenge = http::header(&answer.head, "WWW-Authenticate");
                assert_eq!(challenge, Some("Bearer error=\"insufficient_scope\""));
            }
            Outcome::CookieFromElsewhere => {
                let detail =
                    "a request that a cookie authorises needs an Origin that may use it; see --cors-origin";
                answer.expect_problem(403, detail, false);
                assert_eq!(http::header(&answer.head, "WWW-Authenticate"), None);
            }
            Outcome::MayNotEnd => {
                let detail = "only a token that may publish to every topic (\"*\") may end connections";
                answer.expect_problem(403, detail, false);
            }
            Outcome::Status(status) => assert_eq!(answer.status, *status, "{answer:?}"),
        }
    }

    /// What the log has to say of this case.
    fn count(&mut self, case: &Case) {
        match case.outcome {
            Outcome::Refused(reason) => *self.refused.entry(reason).or_default() += 1,
            Outcome::NotCovered(_) => {
                *self.refused.entry("topic_not_covered").or_default() += 1;
            }
            Outcome::CookieFromElsewhere => self.cookies += 1,
            Outcome::Granted | Outcome::MayNotEnd | Outcome::Status(_) => {}
        }
        self.secrets.extend(case.secrets.iter().cloned());
    }

    /// Stops the server. Its log has to have counted each refusal under its reason, and to have no token.
    pub(crate) fn expect_log(mut self) {
        self.server.signal("TERM");
        assert!(self.server.wait().success());
        self.server.kill();
        let log = self.server.log();
        let lines = |text: &'static str| log.lines().filter(move |line| line.contains(text));
        let mut logged: BTreeMap<&str, usize> = BTreeMap::new();
        for line in lines("requests were refused for their tokens") {
            let (_, reasons) = line.split_once(" error=\"").expect("the line has its reasons");
            let (reasons, _) = reasons.split_once('"').expect("the reasons are in quotes");
            for reason in reasons.split(", ") {
                let (name, count) = reason.split_once(": ").expect("a name and a count");
                *logged.entry(name).or_default() += count.parse::<usize>().expect("a count");
            }
        }
        assert_eq!(logged, self.refused, "the reasons in the log");
        let cookies = lines("because a cookie authorises them").map(|line| {
            let (_, count) = line.split_once(" count=").expect("the line has a count");
            count.split(' ').next().and_then(|count| count.parse::<usize>().ok()).expect("a count")
        });
        assert_eq!(cookies.sum::<usize>(), self.cookies, "the cookies in the log");
        for secret in &self.secrets {
            assert!(!log.contains(secret), "the log has a part of a token: {secret}");
        }
    }
}

/// Words of the claims of the tokens, which no answer repeats.
pub(crate) const CLAIMS: [&str; 4] =
    ["subject-of-the-token", "id-of-the-token", "audience-of-others", "issuer-of-others"];

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let mut headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let length = self.body.as_ref().map_or(0, |(_, text)| text.len()).to_string();
        if let Some((content_type, _)) = &self.body {
            headers.extend([("Content-Type", *content_type), ("Content-Length", length.as_str())]);
        }
        let mut bytes = http::head(self.method, &self.target, &headers).into_bytes();
        bytes.extend(self.body.iter().flat_map(|(_, text)| text.bytes()));
        bytes
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    /// Empty for a stream.
    body: String,
}

impl Answer {
    fn read(connection: &mut Connection, method: &str) -> Answer {
        let head = connection.read_head();
        let status = http::status_of(&head);
        let is_stream = http::header(&head, "Content-Type") == Some("text/event-stream");
        if is_stream || status == 204 {
            return Answer { status, head, body: String::new() };
        }
        let length = http::header(&head, "Content-Length");
        let body = match length.map(|length| length.parse().expect("a length")) {
            Some(length) => connection.read_exactly(length),
            None => panic!("an answer to {method} without a length: {head}"),
        };
        Answer { status, head, body: String::from_utf8(body).expect("text") }
    }

    fn expect_success(&self, method: &str) {
        let (status, content_type) = match method {
            "GET" => (200, Some("text/event-stream")),
            "DELETE" => (204, None),
            _ => (200, Some("application/json")),
        };
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(http::header(&self.head, "Content-Type"), content_type, "{self:?}");
    }

    /// The whole document, so that nothing else is in it. With `is_beginning` more may follow in the detail.
    fn expect_problem(&self, status: u16, detail: &str, is_beginning: bool) {
        assert_eq!(self.status, status, "{self:?}");
        let document: Value = serde_json::from_str(&self.body).expect("JSON");
        let members = document.as_object().expect("an object");
        let names: Vec<&str> = members.keys().map(String::as_str).collect();
        assert_eq!(names, ["detail", "status", "title", "type"], "{self:?}");
        let told = members["detail"].as_str().expect("a text");
        let fits = if is_beginning { told.starts_with(detail) } else { told == detail };
        assert!(fits, "{told:?}, and not {detail:?}");
    }
}

/// The status and `WWW-Authenticate` of a reason (RFC 6750, section 3).
fn challenge_of(reason: &str) -> (u16, String) {
    match reason {
        "missing" => (401, "Bearer".to_owned()),
        "conflict" => (400, "Bearer error=\"invalid_request\"".to_owned()),
        _ => (401, "Bearer error=\"invalid_token\"".to_owned()),
    }
}

/// How `--debug-auth` says a reason.
fn text_of(reason: &str) -> &'static str {
    match reason {
        "missing" => "the request has no token",
        "conflict" => "the request has several different tokens; send one",
        "too_long" => "the token is too long",
        "malformed" => "the token is malformed: ",
        "algorithm" => "the token's algorithm does not belong to the key",
        "unknown_kid" => "no key has the token's kid",
        "wrong_key" => "the signature was made with another key",
        "expired" => "the token has expired",
        "no_expiry" => "the token has no exp, and one is required",
        "not_yet_valid" => "the token is not valid yet; compare the clocks",
        "audience" => "the token is for another audience (aud)",
        "issuer" => "the token comes from another issuer (iss)",
        "revoked" => "the token was revoked",
        "pattern" => "a pattern in the token's grants is refused: ",
        other => panic!("{other} is no reason"),
    }
}
