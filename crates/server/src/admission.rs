//! Who may subscribe: `GET /events`, with the rules for hosts and origins; everything else is the control
//! plane's.

use std::sync::Arc;

use fanfare::{Admission, Decision, Refusal, RequestHead, Subscribe};

use crate::control::{Notice, Notices};
use crate::cors::Cors;
use crate::hosts::Hosts;

/// The rules. Clones share what they count.
#[derive(Clone)]
pub(crate) struct EventsAdmission {
    pub(crate) hosts: Hosts,
    pub(crate) cors: Cors,
    pub(crate) max_topics: usize,
    pub(crate) notices: Arc<Notices>,
}

impl Admission for EventsAdmission {
    fn admit(&self, request: &RequestHead<'_>) -> Decision {
        if request.method() != "GET" || request.path() != "/events" {
            return Decision::HandOver;
        }
        let fields = self.cors.fields_for(request);
        let mut fields = fields.iter().map(|(name, value)| (*name, value.as_str()));
        let subscribe = if self.hosts.allow(request.host()) {
            let subscribe = Subscribe::from_request(request, self.max_topics);
            subscribe.map_err(|error| Refusal::new(error.status(), error.to_string()))
        } else {
            self.notices.add(Notice::HostRefused);
            Err(Refusal::new(421, Hosts::refusal(request.host())))
        };
        let decided = match subscribe {
            Ok(subscribe) => {
                let subscribe = fields.try_fold(subscribe, |head, (name, value)| head.header(name, value));
                subscribe.map(Decision::Subscribe)
            }
            Err(refusal) => {
                let refusal = fields.try_fold(refusal, |head, (name, value)| head.header(name, value));
                refusal.map(Decision::Refuse)
            }
        };
        // A field echoes the origin.
        decided.unwrap_or_else(|invalid| Decision::Refuse(Refusal::new(400, invalid.to_string())))
    }
}
