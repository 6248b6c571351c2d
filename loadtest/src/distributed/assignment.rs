//! What a machine with subscribers has to know of a run, and the plan that it makes of it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

use super::Offset;
use crate::client::{Group, Http2Plan, Plan};
use crate::failure::{Failure, Outcome};
use crate::scenario::{Kind, groups, topic_names};
use crate::sources::Sources;
use crate::subscription::{Lists, Subscriptions};
use crate::target::Template;
use crate::tls::Tls;
use crate::tun::Networks;

/// A run, as its subscribers need it. It holds secrets and is not to be shown.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub(crate) kind: Kind,
    /// Of the whole run.
    pub(crate) subscribers: u64,
    /// Of these, those that open their streams at the start.
    pub(crate) admitted: u64,
    pub(crate) topic: String,
    pub(crate) topics: u32,
    pub(crate) template: Template,
    pub(crate) connect_to: Vec<String>,
    /// URLs and values of the subscribers. They may be long and are sent by themselves.
    #[serde(skip)]
    pub(crate) lists: Lists,
    /// Certificates to trust beside the system's, as PEM.
    pub(crate) authorities: Option<String>,
    pub(crate) insecure: bool,
    /// Streams on a connection of HTTP/2; `None`: it is not spoken.
    pub(crate) http2: Option<usize>,
    pub(crate) accepts_gzip: bool,
    /// Threads of the whole run, and of these the machine's own.
    pub(crate) threads: usize,
    pub(crate) own_threads: Range<usize>,
    pub(crate) sources: Option<String>,
    pub(crate) connect_rate: f64,
    pub(crate) connect_burst: usize,
    pub(crate) head_timeout_ns: u64,
    pub(crate) retry_ms: u32,
    pub(crate) patience_ns: u64,
    pub(crate) receive_buffer: usize,
    pub(crate) run: u32,
    pub(crate) phases: Vec<u64>,
    /// When the run began, on the publisher's clock.
    pub(crate) start: u64,
    pub(crate) listens: bool,
    pub(crate) counts_errors: bool,
    pub(crate) line_bytes: usize,
    pub(crate) silence_ns: u64,
    pub(crate) least_memory: u64,
}

impl Assignment {
    /// The subscribers' requests.
    pub(crate) fn subscriptions(&self) -> Outcome<Subscriptions> {
        let names = Arc::new(topic_names(&self.topic, self.topics));
        Subscriptions::of(&self.template, &names, self.lists.clone(), &self.connect_to)
    }

    pub(crate) fn tls(&self) -> Outcome<Tls> {
        Tls::trusting(self.authorities.as_deref(), self.insecure)
    }

    pub(crate) fn groups(&self) -> Outcome<Vec<Group>> {
        groups(&self.kind, self.subscribers)
    }

    /// How many of the subscribers are the machine's own: worker `i` of `n` has every n-th from the i-th on.
    pub(crate) fn own_subscribers(&self) -> u64 {
        let of = |thread: usize| (self.subscribers as usize).saturating_sub(thread).div_ceil(self.threads);
        self.own_threads.clone().map(of).sum::<usize>() as u64
    }

    /// What was said of the machines' source addresses, or what suits the target.
    pub(crate) fn sources(&self, subscriptions: &Subscriptions) -> Outcome<Sources> {
        match &self.sources {
            Some(text) => Sources::parse(text).map_err(|error| Failure::new(format!("--sources: {error}"))),
            None => Ok(Sources::suited_to(subscriptions.targets()[0], self.own_subscribers() as usize)),
        }
    }

    /// Whether it can be followed without a look at anything beyond it. What another machine sent is not to
    /// end this program.
    pub(super) fn check(&self) -> Outcome<()> {
        let groups = self.groups()?;
        let topics = groups.iter().map(|group| group.first_topic + group.topics).max().unwrap_or(0);
        let fits = topics == self.topics
            && !self.phases.is_empty()
            && self.own_threads.start < self.own_threads.end
            && self.own_threads.end <= self.threads
            && self.own_threads.len() <= 1024
            && self.threads as u64 <= self.subscribers
            && self.connect_rate > 0.0
            && self.http2 != Some(0);
        if fits { Ok(()) } else { Err(Failure::new("the assignment contradicts itself")) }
    }

    /// What the machine's threads are to do.
    pub(crate) fn plan(&self, own: Own) -> Outcome<Plan> {
        let tls = self.tls()?;
        Ok(Plan {
            http2: self
                .http2
                .map(|streams_per_connection| Http2Plan { tls: tls.for_http2(), streams_per_connection }),
            tls,
            accepts_gzip: self.accepts_gzip,
            subscriptions: own.subscriptions,
            groups: self.groups()?,
            admitted: self.admitted as usize,
            threads: self.threads,
            own_threads: self.own_threads.clone(),
            cores: own.cores,
            sources: own.sources,
            tun: own.tun,
            connect_rate: self.connect_rate,
            connect_burst: self.connect_burst,
            head_timeout_ns: self.head_timeout_ns,
            retry_ms: self.retry_ms,
            resume: !matches!(&self.kind, Kind::Storm(storm) if storm.no_resume),
            published: own.published,
            patience_ns: self.patience_ns,
            receive_buffer: self.receive_buffer,
            run: self.run,
            phases: self.phases.clone(),
            start: self.start,
            offset: own.offset,
            listens: self.listens,
            comes_back: !matches!(&self.kind, Kind::Listen(listen) if listen.once),
            counts_errors: self.counts_errors,
            line_bytes: self.line_bytes,
            silence_ns: self.silence_ns,
            stalls: match &self.kind {
                Kind::Slow(slow) => Some((1, slow.stalled_receive_buffer)),
                _ => None,
            },
        })
    }
}

/// What a machine adds to its assignment.
pub(crate) struct Own {
    pub(crate) subscriptions: Subscriptions,
    pub(crate) cores: Vec<usize>,
    pub(crate) sources: Sources,
    pub(crate) tun: Option<Networks>,
    /// How many events of each topic were published so far.
    pub(crate) published: Arc<Vec<AtomicU64>>,
    pub(crate) offset: Arc<Offset>,
}
