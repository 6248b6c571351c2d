//! Who may subscribe: `GET /events`, with the rules for hosts, origins and tokens. Health checks are answered at once, and
//! everything else is the control plane's.

use std::sync::Arc;

use fanfare::{Admission, Answer, Decision, Refusal, Request, RequestHead, Subscribe};

use crate::control::{Notice, Notices};
use crate::health::Health;
use crate::hosts::Hosts;
use crate::rules::CurrentRules;

/// The rules. Clones share what they count.
#[derive(Clone)]
pub(crate) struct EventsAdmission {
    pub(crate) rules: CurrentRules,
    pub(crate) notices: Arc<Notices>,
    pub(crate) health: Arc<Health>,
}

impl Admission for EventsAdmission {
    fn admit(&self, request: &Request<'_>) -> Decision {
        if request.method() != "GET" || request.path() != "/events" {
            let asks = matches!(request.method(), "GET" | "HEAD");
            let health = asks.then(|| self.health.answer(request.path())).flatten();
            return health.map_or(Decision::HandOver, |answer| self.with_cors(request.head(), answer));
        }
        let rules = self.rules.get();
        let fields = rules.cors.fields_for(request.head());
        let mut fields = fields.iter().map(|(name, value)| (*name, value.as_str()));
        let host = request.head().host();
        let subscribe = if rules.hosts.allow(host) {
            let subscribe = Subscribe::from_request_with_patterns(request, rules.max_topics);
            match subscribe {
                Ok(subscribe) => rules.access.admit(request.head(), subscribe).map_err(|denial| {
                    let client = request.client_address(&rules.proxies);
                    self.notices.add_denial(denial.reason, client);
                    denial.refusal().unwrap_or_else(|invalid| Refusal::new(400, invalid.to_string()))
                }),
                Err(error) => Err(Refusal::from(error)),
            }
        } else {
            self.notices.add_from(Notice::HostRefused, request.client_address(&rules.proxies));
            Err(Refusal::new(421, Hosts::refusal(host)))
        };
        let decided = match subscribe {
            Ok(subscribe) => {
                let subscribe =
                    fields.try_fold(subscribe, |head, (name, value)| head.with_header(name, value));
                subscribe.map(Decision::Subscribe)
            }
            Err(refusal) => {
                let refusal = fields.try_fold(refusal, |head, (name, value)| head.with_header(name, value));
                refusal.map(Decision::Refuse)
            }
        };
        // A field echoes the origin.
        decided.unwrap_or_else(|invalid| Decision::Refuse(Refusal::new(400, invalid.to_string())))
    }
}

impl EventsAdmission {
    /// A health check is answered to every host: monitors ask by the names that they know, and there is nothing in the
    /// answer that a web page should not know.
    fn with_cors(&self, request: &RequestHead<'_>, answer: Answer) -> Decision {
        let mut fields = self.rules.get().cors.fields_for(request).into_iter();
        let answer = fields.try_fold(answer, |answer, (name, value)| answer.with_header(name, &value));
        answer
            .map_or_else(|invalid| Decision::Refuse(Refusal::new(400, invalid.to_string())), Decision::Answer)
    }
}
