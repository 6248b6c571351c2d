//! Forward authorization: an endpoint of the operator's decides about subscriptions.
//!
//! ```text
//!  shard ------------+  bounded queue  +--------+  channel  +-----------------------+   HTTP
//!  control plane ----+---------------->| bridge |---------->| runtime: Questions,   |----------> endpoint
//!     (asks)            no descriptor  +--------+           | Client, answers       |
//!                                                           +-----------------------+
//! ```
//!
//! A shard has a descriptor table of its own, so it cannot wake a runtime, which waits on a descriptor. It puts what it
//! asks into a queue that needs none. The bridge is a thread that waits there and passes everything on.
//!
//! [`questions`] says which questions are asked when, [`client`] asks one, [`answer`] reads what comes, and [`cache`]
//! remembers it for a short time.

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
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use fanfare_config::{HttpUrl, Settings};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Instant;

use answer::Answer;
pub(crate) use answer::Failure;
use client::{Answered, Client};
pub(crate) use question::Question;
use question::QuestionKey;
use questions::{Questions, failed};
use settled::Settled;
pub(crate) use subscription::{AskedSubscription, Asking, To, with_fields};

use crate::clock::unix_time;
use crate::http_connection::Tls;

/// Requests between a shard and the runtime. Where more come at once, the next one is answered 503.
const QUEUED: usize = 4_096;

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

impl Waiter for Box<dyn BoxedWaiter> {
    fn is_wanted(&self) -> bool {
        (**self).is_wanted()
    }

    fn accepts(&self, settled: &Settled) -> bool {
        (**self).accepts(settled)
    }

    fn decide(self, settled: &Settled) {
        self.decide_boxed(settled);
    }
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

/// An endpoint that is asked. It owns no descriptor, so that a shard may drop it; its threads end when it is dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    options: ForwardOptions,
    to_bridge: SyncSender<Asked>,
}

struct Asked {
    question: Question,
    waiter: Box<dyn BoxedWaiter>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A question has secrets.
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}

impl Forward {
    /// Starts the threads.
    ///
    /// # Errors
    /// TLS cannot be used, or the system gives no thread.
    pub(crate) fn start(options: ForwardOptions) -> Result<Forward, String> {
        let tls = Tls::of(&options.url)?;
        let (to_bridge, bridge) = sync_channel::<Asked>(QUEUED);
        let (pass_on, asked) = mpsc::channel(QUEUED);
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
            for asked in bridge {
                if pass_on.blocking_send(asked).is_err() {
                    return;
                }
            }
        };
        spawn("fanfare-bridge", Box::new(bridge))?;
        let client = Arc::new(Client::new(options.url.clone(), tls, options.questions));
        let questions = Questions::new(options.questions, options.cache, options.timeout);
        let serve = move || runtime.block_on(serve(client, questions, asked));
        spawn("fanfare-ask", Box::new(serve))?;
        Ok(Forward { options, to_bridge })
    }

    pub(crate) fn options(&self) -> &ForwardOptions {
        &self.options
    }

    /// The names of the fields that go with a question.
    pub(crate) fn headers(&self) -> &[String] {
        &self.options.headers
    }

    /// Asks. Each waiter is decided once, on the thread of the endpoint, or at once where too many wait. It neither
    /// blocks nor uses a descriptor.
    fn ask(&self, question: Question, waiter: impl Waiter + 'static) {
        let asked = Asked { question, waiter: Box::new(waiter) };
        let failure = match self.to_bridge.try_send(asked) {
            Ok(()) => return,
            Err(TrySendError::Full(asked)) => (asked, Failure::Busy),
            Err(TrySendError::Disconnected(asked)) => (asked, Failure::Unreachable),
        };
        let (asked, failure) = failure;
        asked.waiter.decide(&failed(failure));
    }

    /// The memory of answers and of requests that wait, at most.
    pub(crate) fn memory_bound() -> (&'static str, usize) {
        ("remembered authorizations", cache::AnswerCache::MAX_BYTES)
    }
}

/// The work of the runtime, until the [`Forward`] is dropped. Questions that are on their way then are answered first.
async fn serve(
    client: Arc<Client>,
    mut questions: Questions<Box<dyn BoxedWaiter>>,
    mut asked: mpsc::Receiver<Asked>,
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
            next = asked.recv(), if !is_over => match next {
                Some(Asked { question, waiter }) => questions.add(question, waiter, clock()),
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
