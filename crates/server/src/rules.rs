//! The rules that a request is judged by, and that change while the server runs.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use fanfare::{ClientLimits, Operators, Request, TrustedProxies};
use fanfare_config::Settings;

use crate::access::Access;
use crate::cors::Cors;
use crate::hosts::Hosts;
use crate::listen::Listening;
use crate::turns::TurnOf;

/// The rules at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) hosts: Hosts,
    pub(crate) cors: Cors,
    /// Topics of one subscription.
    pub(crate) max_topics: usize,
    /// The proxies whose word about their clients is believed.
    pub(crate) proxies: TrustedProxies,
    /// The addresses of the operator.
    pub(crate) clients: ClientLimits,
    /// The same, in the form in which a connection tells its client: without a look at the request where it
    /// is no proxy.
    pub(crate) peers: ClientLimits,
    /// Which subscribers and publishers are let in.
    pub(crate) access: Arc<Access>,
}

/// The rules that hold. Clones are the same.
///
/// To read them takes no lock and no descriptor, so that shards can do it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentRules(Arc<ArcSwap<Rules>>);

impl Rules {
    pub(crate) fn of(settings: &Settings, listening: &Listening, access: Arc<Access>) -> Rules {
        let mut hosts = Hosts::new(&settings.host, &listening.addresses);
        if listening.has_unix_sockets {
            hosts.allow_loopback();
        }
        Rules {
            hosts,
            cors: Cors::new(&settings.cors_origin),
            max_topics: settings.max_topics,
            proxies: settings.proxies(),
            clients: settings.limits().clients,
            peers: ClientLimits::default().with_proxies(settings.proxies()).with_operators(no_operators()),
            access,
        }
    }
}

/// No client is the operator.
fn no_operators() -> Operators {
    "".parse().unwrap_or_default()
}

impl Rules {
    /// Whose request it is, where requests wait.
    pub(crate) fn turn_of(&self, request: &Request<'_>) -> TurnOf {
        let is_operator = request.is_from_operator(&self.clients);
        TurnOf::new(request.client_address(&self.proxies), is_operator, &self.clients)
    }
}

impl CurrentRules {
    pub(crate) fn new(rules: Rules) -> CurrentRules {
        CurrentRules(Arc::new(ArcSwap::from_pointee(rules)))
    }

    /// The rules for one request.
    pub(crate) fn get(&self) -> Guard<Arc<Rules>> {
        self.0.load()
    }

    /// Replaces them, for requests that come from now on.
    pub(crate) fn replace(&self, rules: Rules) {
        self.0.store(Arc::new(rules));
    }
}
