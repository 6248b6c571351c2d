//! Who may subscribe: `GET /events`, with the rules for hosts, origins and tokens. Health checks are answered at once, and
//! everything else is the control plane's.

use std::sync::Arc;

use fanfare::{Admission, Answer, ClientLimits, Decision, Refusal, Request, RequestHead, Subscribe};

use crate::access::{Judged, Unverified};
use crate::control::{Notice, Notices};
use crate::forward::{AskedSubscription, Asking, Forward, Question, To, with_fields};
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

/// What is known of a request at once.
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
    /// Decides about a request, or says what an endpoint is to be asked. `clients`: a shard does not know whose connection
    /// it is, so the subscription says it, by these bounds.
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
            let refusal = Refusal::new(421, Hosts::refusal(host));
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
                let client = request.client_address(&rules.proxies);
                let question = rules.access.forward().map(|forward| {
                    Question::about(request.head(), client, forward.headers()).map_err(|wrong| wrong.0)
                });
                let (access, notices) = (Arc::clone(&rules.access), Arc::clone(&self.notices));
                let asked = AskedSubscription { access, notices, subscribe, fields, client };
                Considered::Verify(Box::new(Verifying { token, question, asked }))
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
        let client = request.client_address(&rules.proxies);
        let question = match Question::about(request.head(), client, forward.headers()) {
            Ok(question) => question,
            Err(wrong) => {
                let refusal = Refusal::new(400, wrong.0);
                return Considered::Decided(with_fields(Ok(Err(refusal)), &fields));
            }
        };
        let (access, notices) = (Arc::clone(&rules.access), Arc::clone(&self.notices));
        let subscription = AskedSubscription { access, notices, subscribe, fields, client };
        Considered::Ask(Box::new(Asking { forward, question, subscription }))
    }

    /// A health check is answered to every host: monitors ask by the names that they know, and there is nothing in the
    /// answer that a web page should not know.
    fn with_cors(&self, request: &RequestHead<'_>, answer: Answer) -> Decision {
        let mut fields = self.rules.get().cors.fields_for(request).into_iter();
        let answer = fields.try_fold(answer, |answer, (name, value)| answer.with_header(name, &value));
        answer
            .map_or_else(|invalid| Decision::Refuse(Refusal::new(400, invalid.to_string())), Decision::Answer)
    }
}

/// A subscription whose token is to be verified.
pub(crate) struct Verifying {
    token: Unverified,
    /// What the endpoint is asked where the token does not let it in, or why the request cannot be asked about.
    question: Option<Result<Question, &'static str>>,
    asked: AskedSubscription,
}

impl Verifying {
    /// Verifies the token on another thread. The decision goes to `to`.
    pub(crate) fn verify(self: Box<Verifying>, verifications: &Verifications, to: To) {
        verifications.push(self.asked.client, Box::new(VerifyingFor { verifying: *self, to }));
    }

    fn decide(self, to: To) {
        let Verifying { token, question, asked } = self;
        let AskedSubscription { access, notices, subscribe, fields, client } = asked;
        let judged = match access.settle(token.verify().map(Some), subscribe) {
            Ok(Judged::Admitted(subscribe)) => Ok(Ok(subscribe)),
            Ok(Judged::Ask(subscribe, forward)) => match question {
                Some(Ok(question)) => {
                    let subscription = AskedSubscription { access, notices, subscribe, fields, client };
                    return Asking { forward, question, subscription }.ask(to);
                }
                Some(Err(wrong)) => Ok(Err(Refusal::new(400, wrong))),
                None => Ok(Err(Refusal::new(500, "the server did not decide about this request"))),
            },
            Ok(Judged::Verify(..)) => unreachable!("it has been verified"),
            Err(denial) => {
                notices.add_denial(denial.reason, client);
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

    fn run(self: Box<Self>) {
        let VerifyingFor { verifying, to } = *self;
        verifying.decide(to);
    }

    fn refuse(self: Box<Self>) {
        let VerifyingFor { verifying, to } = *self;
        let AskedSubscription { access, notices, fields, client, .. } = verifying.asked;
        notices.add_from(Notice::TooManyTokens, client);
        let refusal = Refusal::new(503, "too many tokens wait to be verified; try again in a moment");
        let refusal = refusal.with_header("Retry-After", &access.retry_after_s().to_string());
        to.decide(with_fields(refusal.map(Err), &fields));
    }
}
