//! Who may subscribe: `GET /events`, with the cross-origin rules; everything else is the control plane's.

use fanfare::{Admission, Decision, Refusal, RequestHead, Subscribe};

use crate::cors::Cors;

pub(crate) struct EventsAdmission {
    pub(crate) cors: Cors,
    pub(crate) max_topics: usize,
}

impl Admission for EventsAdmission {
    fn admit(&self, request: &RequestHead<'_>) -> Decision {
        if request.method() != "GET" || request.path() != "/events" {
            return Decision::HandOver;
        }
        let fields = self.cors.fields_for(request);
        let mut fields = fields.iter().map(|(name, value)| (*name, value.as_str()));
        let decided = match Subscribe::from_request(request, self.max_topics) {
            Ok(subscribe) => {
                let subscribe = fields.try_fold(subscribe, |head, (name, value)| head.header(name, value));
                subscribe.map(Decision::Subscribe)
            }
            Err(error) => {
                let refusal = Refusal::new(error.status(), error.to_string());
                let refusal = fields.try_fold(refusal, |head, (name, value)| head.header(name, value));
                refusal.map(Decision::Refuse)
            }
        };
        // A field echoes the origin.
        decided.unwrap_or_else(|invalid| Decision::Refuse(Refusal::new(400, invalid.to_string())))
    }
}
