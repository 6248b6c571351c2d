//! The backplane: its start, its threads and its end.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc as channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fanfare::{Backplane, Feed, NotAccepted, Submission, SubmitFailure};
use fanfare_proto::limits::{LogLimits, Retention, RetentionRule};
use fanfare_store::StoreReader;
use fanfare_store::encoding::event_bytes;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::api::Api;
use crate::bucket::Bucket;
use crate::link::Link;
use crate::options::NatsOptions;
use crate::reader::StreamReader;
use crate::shared::Shared;
use crate::status::NatsStatus;
use crate::submitter::{Queued, Submitter};
use crate::sync::lock;
use crate::watcher::Watcher;
use crate::{ConnectError, ConnectErrorKind, epoch, feeder, stream};

/// How long one call to JetStream may take at the start.
const CALL: Duration = Duration::from_secs(3);

/// Between two attempts at the start.
const REST: Duration = Duration::from_millis(200);

/// How long the threads may take to end.
const END: Duration = Duration::from_secs(3);

/// A stream of NATS JetStream as the log that several nodes share. It is for one engine.
pub struct NatsBackplane {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Queued>,
    runtime: Handle,
    reader: Arc<StreamReader>,
    threads: Mutex<Vec<Running>>,
}

/// A thread, and the sign that it has ended.
struct Running {
    thread: JoinHandle<()>,
    ended: channel::Receiver<()>,
}

/// What the thread of the connection has made at its start.
struct Started {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Queued>,
    runtime: Handle,
}

impl NatsBackplane {
    /// Connects with NATS, creates the stream or checks it, and learns its epoch. It waits for all that, for
    /// at most about [`NatsOptions::connect_wait`].
    ///
    /// # Errors
    /// The [`ConnectError`] says what is wrong, and what to do.
    pub fn connect(options: NatsOptions) -> Result<Arc<NatsBackplane>, ConnectError> {
        options.check()?;
        let (result, started) = channel::sync_channel(1);
        let thread = Running::start("fanfare-nats", move || run(options, &result))?;
        let failed = || ConnectError::new(ConnectErrorKind::Thread, "the thread of the connection has ended");
        let Started { shared, queue, runtime } = started.recv().map_err(|_| failed())??;
        let reader = Arc::new(StreamReader::new(Arc::clone(&shared), runtime.clone()));
        let threads = Mutex::new(vec![thread]);
        Ok(Arc::new(NatsBackplane { shared, queue, runtime, reader, threads }))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// What is different between the stream and the options, for the log of the program: replicas, age, size
    /// and duplicate window. The stream is as somebody has set it, and serves as well.
    pub fn differences(&self) -> &[String] {
        &self.shared.differences
    }

    /// What it does and has done.
    pub fn status(&self) -> NatsStatus {
        self.shared.status()
    }
}

impl Backplane for NatsBackplane {
    fn reader(&self) -> Arc<dyn StoreReader> {
        Arc::clone(&self.reader) as Arc<dyn StoreReader>
    }

    fn set_retention(&self, retention: Retention, rules: &[RetentionRule]) {
        let limits = LogLimits::default().with_retention(retention).with_rules(rules.to_vec());
        self.shared.retained.set(limits);
    }

    fn begin(&self, feed: Feed, after: u64) {
        let (feeder, events) = feeder::new(Arc::clone(&self.shared), after);
        self.shared.set_feed(feed);
        self.runtime.spawn(feeder.run());
        let shared = Arc::clone(&self.shared);
        match Running::start("fanfare-feed", move || feeder::append_all(&shared, events)) {
            Ok(thread) => lock(&self.threads).push(thread),
            Err(error) => self.shared.link.note_error(error.to_string()),
        }
    }

    fn submit(&self, submission: Submission) {
        let counts = &self.shared.counts;
        let bytes: usize = submission.events().iter().map(event_bytes).sum();
        let count = submission.events().len() as u64;
        counts.submitted.fetch_add(count, Ordering::Relaxed);
        let events = counts.in_flight.fetch_add(count, Ordering::Relaxed) + count;
        let all_bytes = counts.in_flight_bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let options = &self.shared.options;
        // A publish that is alone is taken in any case.
        let has_room = events == count
            || (events <= options.queue_events as u64 && all_bytes <= options.queue_bytes as u64);
        let refused = if has_room {
            self.queue.send(Queued { submission, bytes }).err().map(|error| error.0.submission)
        } else {
            Some(submission)
        };
        if let Some(submission) = refused {
            counts.in_flight.fetch_sub(count, Ordering::Relaxed);
            counts.in_flight_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
            counts.unreachable.fetch_add(count, Ordering::Relaxed);
            let failure = SubmitFailure::Unreachable;
            submission.complete(Err(NotAccepted { accepted: Vec::new(), failure }));
        }
    }

    fn end(&self) {
        self.shared.end.send_replace(true);
        self.shared.set_live(false);
        let deadline = Instant::now() + END;
        for thread in lock(&self.threads).drain(..) {
            thread.end_until(deadline);
        }
    }
}

impl Drop for NatsBackplane {
    fn drop(&mut self) {
        self.shared.end.send_replace(true);
    }
}

impl std::fmt::Debug for NatsBackplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsBackplane").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Running {
    fn start(name: &str, work: impl FnOnce() + Send + 'static) -> Result<Running, ConnectError> {
        let (sign, ended) = channel::sync_channel(1);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            work();
            // An error says that no thread waits for this one, and then the sign is not needed.
            let _ = sign.try_send(());
        });
        let failed = |error| {
            ConnectError::new(
                ConnectErrorKind::Thread,
                format!("the thread {name} cannot be started: {error}"),
            )
        };
        Ok(Running { thread: thread.map_err(failed)?, ended })
    }

    /// Waits for the thread. One that does not end in time is left alone.
    fn end_until(self, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let is_late = matches!(self.ended.recv_timeout(left), Err(channel::RecvTimeoutError::Timeout));
        if !is_late && self.thread.thread().id() != thread::current().id() {
            // A panic of the thread was reported when it happened.
            let _ = self.thread.join();
        }
    }
}

/// The thread "fanfare-nats".
fn run(options: NatsOptions, result: &channel::SyncSender<Result<Started, ConnectError>>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = format!("the connection to NATS has no event loop: {error}");
            let _ = result.send(Err(ConnectError::new(ConnectErrorKind::Thread, what)));
            return;
        }
    };
    runtime.block_on(async {
        let (shared, queue, receiver) = match start(options).await {
            Ok(started) => started,
            Err(error) => {
                let _ = result.send(Err(error));
                return;
            }
        };
        let submitter = Submitter::new(Arc::clone(&shared), receiver);
        tokio::spawn(Watcher::new(Arc::clone(&shared)).run());
        let nodes = tokio::spawn(Arc::clone(&shared.nodes).run(Arc::clone(&shared)));
        let mut end = shared.end.subscribe();
        let _ = result.send(Ok(Started { shared: Arc::clone(&shared), queue, runtime: Handle::current() }));
        if let Err(error) = submitter.run().await {
            shared.link.note_error(format!("acknowledgements cannot be received: {error}"));
        }
        while !*end.borrow() && end.changed().await.is_ok() {}
        let _ = tokio::time::timeout(Duration::from_millis(500), nodes).await;
        let _ = tokio::time::timeout(Duration::from_millis(500), shared.link.client().flush()).await;
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

type Beginning = (Arc<Shared>, mpsc::UnboundedSender<Queued>, mpsc::UnboundedReceiver<Queued>);

/// Tries until the stream is there, or the time is over, or something is wrong that does not pass.
async fn start(options: NatsOptions) -> Result<Beginning, ConnectError> {
    let deadline = Instant::now() + options.connect_wait;
    loop {
        match attempt(&options).await {
            Err(error) if error.is_passing() && Instant::now() + REST < deadline => {
                tokio::time::sleep(REST).await
            }
            other => return other,
        }
    }
}

async fn attempt(options: &NatsOptions) -> Result<Beginning, ConnectError> {
    let link = Arc::new(Link::connect(options).await?);
    let answers = link.answers().await.map_err(|error| {
        ConnectError::new(ConnectErrorKind::Unreachable, format!("the connection to NATS is lost: {error}"))
    })?;
    let dispatch = tokio::spawn(Arc::clone(&link).dispatch(answers));
    let keeps_alive = tokio::spawn(Arc::clone(&link).keep_alive());
    let opened = open(options, link).await;
    if opened.is_err() {
        // These tasks own the connection. It is not used any more, and is closed when they end.
        dispatch.abort();
        keeps_alive.abort();
    }
    opened
}

async fn open(options: &NatsOptions, link: Arc<Link>) -> Result<Beginning, ConnectError> {
    let api = Api::new(Arc::clone(&link), &options.stream);
    let info = stream::open(&api, options, CALL).await?;
    let bucket = Bucket::new(link, &format!("{}_state", options.stream));
    let explain = |error| stream::explain(options, &error);
    let replicas = info.config["num_replicas"].as_u64().unwrap_or(1);
    let of_bucket = bucket.create(replicas, CALL).await.map_err(explain)?;
    stream::check_bucket(bucket.api().stream(), &of_bucket.config)?;
    let epoch = epoch::agree(&bucket, &info.created, options.epoch_over, CALL).await.map_err(explain)?;
    let (end, _) = watch::channel(false);
    let shared = Arc::new(Shared::new(options.clone(), api, bucket, epoch, &info, end));
    let (queue, receiver) = mpsc::unbounded_channel();
    Ok((shared, queue, receiver))
}
