//! Forward authorization: an endpoint of the operator's decides about subscriptions.
//!
//! ```text
//!  shard ------------+  bounded queue  +--------+  channel  +-----------------------+   HTTP
//!  control plane ----+---------------->| bridge |---------->| runtime: Questions,   |----------> endpoint
//!     (asks)            no descriptor  +--------+           | EndpointClient        |
//!                                                           +-----------------------+
//! ```
//!
//! A shard has a descriptor table of its own, so it cannot wake a runtime, which waits on a descriptor. It
//! puts what it asks into a queue that needs none. The bridge is a thread that waits there and passes
//! everything on.
//!
//! [`questions`] says which questions are asked when, [`client`] asks one, [`answer`] reads what comes, and
//! [`cache`] remembers it for a short time.

mod answer;
mod cache;
mod client;
mod question;
mod questions;
mod settled;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use fanfare::bound_for;
use fanfare_config::{HttpUrl, Settings};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

pub(crate) use answer::Failure;
use answer::{Answer, MAX_BODY_BYTES};
use client::{Answered, EndpointClient};
pub(crate) use question::Question;
use question::QuestionKey;
use questions::{Questions, failed};
use settled::Settled;
pub(crate) use subscription::{Asking, To, UndecidedSubscription, with_fields};

use crate::clock::unix_time;
use crate::http_connection::{MAX_HEAD_BYTES, Tls};

/// Requests between a shard and the runtime. Where more come at once, the next one is answered 503.
const QUEUED: usize = 4_096;

/// Memory of all requests that wait for the endpoint, with their questions. Beyond it the next one is
/// answered 503.
const WAITING_BYTES: usize = 64 << 20;

/// Time between two looks at requests whose clients have left or whose time is over.
const TICK: Duration = Duration::from_millis(100);

/// A connection without a question for so long is closed: many endpoints close theirs after a minute.
const IDLE: Duration = Duration::from_secs(30);

/// Threads that look up the names of hosts.
const RESOLVERS: usize = 2;

/// A request that waits for the decision of the endpoint.
trait Waiter: Send {
    /// Whether its client still waits.
    fn is_wanted(&self) -> bool;

    /// Whether a remembered answer may decide about it. Where it may not, the endpoint is asked.
    fn accepts(&self, settled: &Settled) -> bool;

    /// Decides.
    fn decide(self, settled: &Settled);
}

/// A [`Waiter`] behind a pointer.
trait BoxedWaiter: Send {
    fn is_wanted(&self) -> bool;
    fn accepts(&self, settled: &Settled) -> bool;
    fn decide_boxed(self: Box<Self>, settled: &Settled);
}

impl<W: Waiter> BoxedWaiter for W {
    fn is_wanted(&self) -> bool {
        Waiter::is_wanted(self)
    }

    fn accepts(&self, settled: &Settled) -> bool {
        Waiter::accepts(self, settled)
    }

    fn decide_boxed(self: Box<Self>, settled: &Settled) {
        (*self).decide(settled);
    }
}

/// The options of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForwardOptions {
    url: HttpUrl,
    headers: Vec<String>,
    timeout: Duration,
    questions: usize,
    cache: Option<Duration>,
}

impl ForwardOptions {
    /// `None`: no endpoint is asked.
    pub(crate) fn of(settings: &Settings) -> Option<ForwardOptions> {
        Some(ForwardOptions {
            url: settings.authorize_url.clone()?,
            headers: settings.authorize_headers.clone(),
            timeout: settings.authorize_timeout,
            questions: settings.authorize_questions,
            cache: settings.authorize_cache,
        })
    }

    /// What can be wrong with them.
    ///
    /// # Errors
    /// TLS cannot be used.
    pub(crate) fn check(&self) -> Result<(), String> {
        Tls::of(&self.url).map(drop)
    }
}

/// An endpoint that is asked. It owns no descriptor, so that a shard may drop it; its threads end when it is
/// dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    options: ForwardOptions,
    to_bridge: SyncSender<WaitingRequest>,
    used: Arc<Used>,
}

/// What requests use of the bounds that are met before the runtime sees them.
#[derive(Debug, Default)]
struct Used {
    /// Requests between the shards and the runtime.
    queued: AtomicUsize,
    /// Memory of all requests that wait.
    bytes: AtomicUsize,
}

/// What one request uses, or its question, until it is dropped.
#[derive(Debug)]
struct Use {
    used: Arc<Used>,
    bytes: usize,
    is_queued: bool,
}

impl Use {
    /// `None`: there is no room. Only the operator's requests may use the last part.
    fn begin(used: &Arc<Used>, bytes: usize, is_operator: bool) -> Option<Use> {
        let queued = used.queued.fetch_add(1, Ordering::Relaxed);
        let before = used.bytes.fetch_add(bytes, Ordering::Relaxed);
        let begun = Use { used: Arc::clone(used), bytes, is_queued: true };
        let has_room = queued < bound_for(is_operator, QUEUED)
            && before.saturating_add(bytes) <= bound_for(is_operator, WAITING_BYTES);
        has_room.then_some(begun)
    }

    /// A part of it for the question, which may go on without the request that asked first.
    fn split_off(&mut self, bytes: usize) -> Use {
        self.bytes -= bytes;
        Use { used: Arc::clone(&self.used), bytes, is_queued: false }
    }

    /// The runtime has the request.
    fn has_arrived(&mut self) {
        if std::mem::take(&mut self.is_queued) {
            self.used.queued.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.has_arrived();
        self.used.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A request that waits for an answer, and its question.
struct WaitingRequest {
    question: Question,
    waiter: UsingWaiter,
}

/// A waiter with what it uses.
struct UsingWaiter {
    waiter: Box<dyn BoxedWaiter>,
    used: Use,
}

impl Waiter for UsingWaiter {
    fn is_wanted(&self) -> bool {
        self.waiter.is_wanted()
    }

    fn accepts(&self, settled: &Settled) -> bool {
        self.waiter.accepts(settled)
    }

    fn decide(self, settled: &Settled) {
        self.waiter.decide_boxed(settled);
    }
}

impl Forward {
    /// Starts the threads.
    ///
    /// # Errors
    /// TLS cannot be used, or the system gives no thread.
    pub(crate) fn start(options: ForwardOptions) -> Result<Forward, String> {
        let tls = Tls::of(&options.url)?;
        let (to_bridge, bridge) = sync_channel::<WaitingRequest>(QUEUED);
        let (pass_on, requests) = mpsc::channel(QUEUED);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(RESOLVERS)
            .build()
            .map_err(|error| error.to_string())?;
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let spawned: io::Result<_> = thread::Builder::new().name(name.to_owned()).spawn(body);
            spawned.map(drop).map_err(|error| error.to_string())
        };
        let bridge = move || {
            for request in bridge {
                if pass_on.blocking_send(request).is_err() {
                    return;
                }
            }
        };
        spawn("fanfare-bridge", Box::new(bridge))?;
        let client = Arc::new(EndpointClient::new(options.url.clone(), tls, options.questions));
        let questions = Questions::new(options.questions, options.cache, options.timeout);
        let serve = move || runtime.block_on(serve(client, questions, requests));
        spawn("fanfare-ask", Box::new(serve))?;
        Ok(Forward { options, to_bridge, used: Arc::default() })
    }

    pub(crate) fn options(&self) -> &ForwardOptions {
        &self.options
    }

    /// The names of the fields that go with a question.
    pub(crate) fn headers(&self) -> &[String] {
        &self.options.headers
    }

    /// Asks. `bytes` is the memory of the waiter. Each waiter is decided once, on the thread of the
    /// endpoint, or at once where too many wait. It neither blocks nor uses a descriptor.
    fn ask(&self, mut question: Question, waiter: impl Waiter + 'static, bytes: usize) {
        let of_question = question.bytes();
        let Some(mut used) = Use::begin(&self.used, of_question + bytes, question.of().is_operator) else {
            waiter.decide(&failed(Failure::Busy));
            return;
        };
        question.uses(used.split_off(of_question));
        let waiter = UsingWaiter { waiter: Box::new(waiter), used };
        let failure = match self.to_bridge.try_send(WaitingRequest { question, waiter }) {
            Ok(()) => return,
            Err(TrySendError::Full(request)) => (request, Failure::Busy),
            Err(TrySendError::Disconnected(request)) => (request, Failure::Unreachable),
        };
        let (request, failure) = failure;
        request.waiter.decide(&failed(failure));
    }

    /// The memory of what it keeps, at most.
    pub(crate) fn memory_bounds(&self) -> [(&'static str, usize); 3] {
        // An answer while it comes, and what is read of it.
        let each = MAX_HEAD_BYTES + 4 * MAX_BODY_BYTES;
        [
            ("remembered authorizations", cache::AnswerCache::MAX_BYTES),
            (
                "requests that wait for the authorization endpoint",
                WAITING_BYTES + 2 * QUEUED * size_of::<WaitingRequest>(),
            ),
            ("connections to the authorization endpoint", self.options.questions.saturating_mul(2 * each)),
        ]
    }
}

/// The work of the runtime, until the [`Forward`] is dropped. Questions that are on their way then are
/// answered first.
async fn serve(
    client: Arc<EndpointClient>,
    mut questions: Questions<UsingWaiter>,
    mut requests: mpsc::Receiver<WaitingRequest>,
) {
    let began = Instant::now();
    let clock = move || began.elapsed();
    let mut sent: JoinSet<(u64, Answered)> = JoinSet::new();
    let mut handles: HashMap<QuestionKey, AbortHandle> = HashMap::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut is_over, mut last_used) = (false, Duration::ZERO);
    while !is_over || questions.has_open() {
        let needs_tick = questions.has_open() || client.has_idle();
        tokio::select! {
            next = requests.recv(), if !is_over => match next {
                Some(WaitingRequest { question, mut waiter }) => {
                    waiter.used.has_arrived();
                    let bytes = waiter.used.bytes;
                    questions.add(question, waiter, bytes, clock());
                }
                None => is_over = true,
            },
            Some(done) = sent.join_next_with_id(), if !sent.is_empty() => {
                let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
                // A question that was given up is settled already, and may have been sent again.
                let key = handles.iter().find(|(_, handle)| handle.id() == id).map(|(key, _)| *key);
                if let Some(key) = key {
                    handles.remove(&key);
                    let (settled, stored) = match done {
                        Ok((_, (asked_unix_s, Answered { answer, bytes, may_be_stored }))) => {
                            (Settled { answer, asked_unix_s }, may_be_stored.then_some(bytes))
                        }
                        // A panic, whose message is in the log.
                        Err(_) => (failed(Failure::Malformed), None),
                    };
                    questions.settle(&key, settled, stored, clock());
                }
            }
            _ = ticks.tick(), if needs_tick => {
                let now = clock();
                for key in questions.tick(now).abandoned {
                    if let Some(handle) = handles.remove(&key) {
                        handle.abort();
                        questions.settle(&key, failed(Failure::TimedOut), None, now);
                    }
                }
                if questions.has_open() {
                    last_used = now;
                } else if now >= last_used + IDLE {
                    client.close_idle();
                }
            }
        }
        let now = clock();
        while let Some(sending) = questions.next(now) {
            last_used = now;
            let (client, deadline) = (Arc::clone(&client), began + sending.deadline);
            let (key, question) = (sending.key, sending.question);
            let handle = sent.spawn(async move {
                let asked_unix_s = unix_time().as_secs();
                let answered = tokio::time::timeout_at(deadline, client.ask(&question)).await;
                let late = |_| Answered {
                    answer: Answer::Failed(Failure::TimedOut),
                    bytes: 0,
                    may_be_stored: false,
                };
                (asked_unix_s, answered.unwrap_or_else(late))
            });
            handles.insert(key, handle);
        }
    }
}
