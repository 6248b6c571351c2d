//! The admission of subscribers: `GET /events`, with the rules for hosts, origins and tokens. Health checks
//! are answered at once, and everything else is the control plane's.

use std::sync::Arc;

use fanfare::{
    Admission, Answer, ClientLimits, Decision, ProblemKind, Refusal, Request, RequestHead, Subscribe,
};

use crate::access::{Judged, TokenToVerify};
use crate::control::{Notice, Notices};
use crate::forward::{Asking, Forward, Question, To, UndecidedSubscription, with_fields};
use crate::health::Health;
use crate::hosts::Hosts;
use crate::rules::{CurrentRules, Rules};
use crate::verifications::{Verification, Verifications};

/// The rules. Clones share what they count.
#[derive(Clone)]
pub(crate) struct EventsAdmission {
    pub(crate) rules: CurrentRules,
    pub(crate) notices: Arc<Notices>,
    pub(crate) health: Arc<Health>,
    pub(crate) verifications: Verifications,
}

/// The decision about a request, as far as it is known at once.
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once, and a box would be an allocation for each request"
)]
pub(crate) enum Considered {
    Decided(Decision),
    /// An endpoint decides.
    Ask(Box<Asking>),
    /// A token is to be verified first.
    Verify(Box<Verifying>),
}

impl Admission for EventsAdmission {
    fn admit(&self, request: &Request<'_>) -> Decision {
        match self.consider(request, None) {
            Considered::Decided(decision) => decision,
            Considered::Ask(asking) => {
                let (later, ticket) = Decision::later();
                asking.ask(To::Shard(ticket));
                later
            }
            Considered::Verify(verifying) => {
                let (later, ticket) = Decision::later();
                verifying.verify(&self.verifications, To::Shard(ticket));
                later
            }
        }
    }
}

impl EventsAdmission {
    /// Decides about a request, or says what an endpoint is to be asked. `clients`: a shard does not know
    /// whose connection it is, so the subscription says it, by these bounds.
    pub(crate) fn consider(&self, request: &Request<'_>, clients: Option<&ClientLimits>) -> Considered {
        if request.method() != "GET" || request.path() != "/events" {
            let asks = matches!(request.method(), "GET" | "HEAD");
            let health = asks.then(|| self.health.answer(request.path())).flatten();
            let decision = health.map_or(Decision::HandOver, |answer| self.with_cors(request.head(), answer));
            return Considered::Decided(decision);
        }
        let rules = self.rules.get();
        let fields = rules.cors.fields_for(request.head());
        let host = request.head().host();
        if !rules.hosts.allow(host) {
            self.notices.add_from(Notice::HostRefused, request.client_address(&rules.proxies));
            let refusal = Refusal::of(ProblemKind::UnknownHost, Hosts::refusal(host));
            return Considered::Decided(with_fields(Ok(Err(refusal)), &fields));
        }
        let judged = match Subscribe::from_request_with_patterns(request, rules.max_topics) {
            Ok(subscribe) => {
                let subscribe = match clients {
                    Some(clients) => subscribe.with_client_of(request, clients),
                    None => subscribe,
                };
                rules.access.admit(request.head(), subscribe)
            }
            Err(error) => return Considered::Decided(with_fields(Ok(Err(error.into())), &fields)),
        };
        match judged {
            Ok(Judged::Admitted(subscribe)) => Considered::Decided(with_fields(Ok(Ok(subscribe)), &fields)),
            Ok(Judged::Ask(subscribe, forward)) => self.ask(request, &rules, subscribe, forward, fields),
            Ok(Judged::Verify(subscribe, token)) => {
                let question = rules.access.forward().map(|forward| {
                    let question = Question::about(request.head(), rules.turn_of(request), forward.headers());
                    (Arc::clone(forward), question.map_err(|wrong| wrong.0))
                });
                let subscription = self.undecided(request, &rules, subscribe, fields);
                Considered::Verify(Box::new(Verifying { token, question, subscription }))
            }
            Err(denial) => {
                self.notices.add_denial(denial.reason, request.client_address(&rules.proxies));
                Considered::Decided(with_fields(denial.refusal().map(Err), &fields))
            }
        }
    }

    fn ask(
        &self,
        request: &Request<'_>,
        rules: &Rules,
        subscribe: Subscribe,
        forward: Arc<Forward>,
        fields: Vec<(&'static str, String)>,
    ) -> Considered {
        let question = match Question::about(request.head(), rules.turn_of(request), forward.headers()) {
            Ok(question) => question,
            Err(wrong) => {
                let refusal = Refusal::of(ProblemKind::MalformedRequest, wrong.0);
                return Considered::Decided(with_fields(Ok(Err(refusal)), &fields));
            }
        };
        let subscription = self.undecided(request, rules, subscribe, fields);
        Considered::Ask(Box::new(Asking { forward, question, subscription }))
    }

    fn undecided(
        &self,
        request: &Request<'_>,
        rules: &Rules,
        subscribe: Subscribe,
        fields: Vec<(&'static str, String)>,
    ) -> UndecidedSubscription {
        UndecidedSubscription {
            rules: self.rules.clone(),
            notices: Arc::clone(&self.notices),
            bytes: bytes_of(request.head(), &subscribe),
            subscribe,
            fields,
            of: rules.turn_of(request),
        }
    }

    /// A health check is answered to every host: monitors ask by the names that they know, and there is
    /// nothing in the answer that a web page should not know.
    fn with_cors(&self, request: &RequestHead<'_>, answer: Answer) -> Decision {
        let mut fields = self.rules.get().cors.fields_for(request).into_iter();
        let answer = fields.try_fold(answer, |answer, (name, value)| answer.with_header(name, &value));
        answer.map_or_else(
            |invalid| Decision::Refuse(Refusal::of(ProblemKind::MalformedRequest, invalid.to_string())),
            Decision::Answer,
        )
    }
}

/// The memory of a subscription that is not decided yet, about, in bytes: what its request says, and what the
/// parts of it add.
fn bytes_of(head: &RequestHead<'_>, subscribe: &Subscribe) -> usize {
    /// A topic or a field: pointers, counts, and what the allocator adds.
    const EACH: usize = 64;
    /// A pattern has its text, and the parts of it.
    const EACH_PATTERN: usize = 512;
    let said: usize = head.path().len() + head.query().map_or(0, str::len);
    let fields: usize = head.headers().map(|(name, value)| name.len() + value.len()).sum();
    size_of::<Verifying>()
        + said
        + fields
        + subscribe.topics().len() * EACH
        + subscribe.patterns().len() * EACH_PATTERN
}

/// A subscription whose token is to be verified.
pub(crate) struct Verifying {
    token: TokenToVerify,
    /// The endpoint that is asked where the token does not let it in, and with what, or why the request
    /// cannot be asked about.
    question: Option<(Arc<Forward>, Result<Question, &'static str>)>,
    subscription: UndecidedSubscription,
}

impl Verifying {
    /// Verifies the token on another thread. The decision goes to `to`.
    pub(crate) fn verify(self: Box<Verifying>, verifications: &Verifications, to: To) {
        verifications.push(self.subscription.of, Box::new(VerifyingFor { verifying: *self, to }));
    }

    fn decide(self, to: To) {
        let Verifying { mut token, question, subscription } = self;
        let UndecidedSubscription { rules, notices, mut subscribe, fields, of, bytes } = subscription;
        // By the keys of the moment in which the verdict is there: a reload may have removed the key of the
        // token meanwhile.
        let (access, judged) = loop {
            let verdict = token.verify();
            let access = Arc::clone(&rules.get().access);
            match access.admit_later(&token, &verdict, subscribe) {
                Ok(Judged::Verify(same, again)) => (subscribe, token) = (same, again),
                judged => break (access, judged),
            }
        };
        let judged = match judged {
            Ok(Judged::Admitted(subscribe)) => Ok(Ok(subscribe)),
            Ok(Judged::Ask(subscribe, forward)) => match question {
                Some((asked, Ok(question))) if Arc::ptr_eq(&asked, &forward) => {
                    let subscription = UndecidedSubscription { rules, notices, subscribe, fields, of, bytes };
                    return Asking { forward, question, subscription }.ask(to);
                }
                Some((asked, Err(wrong))) if Arc::ptr_eq(&asked, &forward) => {
                    Ok(Err(Refusal::of(ProblemKind::MalformedRequest, wrong)))
                }
                // A reload has changed the endpoint while the token waited.
                _ => access.has_changed().map(Err),
            },
            Ok(Judged::Verify(..)) => unreachable!("the loop goes on until it is verified"),
            Err(denial) => {
                notices.add_denial(denial.reason, of.client);
                denial.refusal().map(Err)
            }
        };
        to.decide(with_fields(judged, &fields));
    }
}

struct VerifyingFor {
    verifying: Verifying,
    to: To,
}

impl Verification for VerifyingFor {
    fn is_wanted(&self) -> bool {
        self.to.is_wanted()
    }

    fn bytes(&self) -> usize {
        let Verifying { token, question, subscription, .. } = &self.verifying;
        let asked = question.as_ref().and_then(|(_, question)| question.as_ref().ok());
        token.bytes() + asked.map_or(0, Question::bytes) + subscription.bytes
    }

    fn run(self: Box<Self>) {
        let VerifyingFor { verifying, to } = *self;
        verifying.decide(to);
    }

    fn refuse(self: Box<Self>) {
        let VerifyingFor { verifying, to } = *self;
        let UndecidedSubscription { rules, notices, fields, of, .. } = verifying.subscription;
        notices.add_from(Notice::TooManyTokens, of.client);
        let access = Arc::clone(&rules.get().access);
        let refusal = access.try_again(
            ProblemKind::VerificationsBusy,
            "too many tokens wait to be verified; try again in a moment",
        );
        to.decide(with_fields(refusal.map(Err), &fields));
    }
}
