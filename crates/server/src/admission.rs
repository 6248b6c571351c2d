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
        match Subscribe::from_request(request, self.max_topics) {
            Ok(mut subscribe) => {
                for (name, value) in fields {
                    subscribe = subscribe.header(name, &value);
                }
                Decision::Subscribe(subscribe)
            }
            Err(error) => {
                let mut refusal = Refusal::new(error.status(), error.to_string());
                for (name, value) in fields {
                    refusal = refusal.header(name, &value);
                }
                Decision::Refuse(refusal)
            }
        }
    }
}
