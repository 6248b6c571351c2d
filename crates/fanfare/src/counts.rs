//! What a shard counts. Plain numbers on the shard's side, stored for others to read once per tick:
//! no atomic operation per delivery. And what it is asked for: the counts of its topics.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare_proto::histogram::Histogram;
use fanfare_proto::stream::CloseReason;

use crate::sync::AtomicU64;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Numbers of one shard, or the sum over all.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
            /// Streams ended, by [`CloseReason::index`].
            pub(crate) closed: [u64; CloseReason::ALL.len()],
        }

        /// The last numbers that a shard has published. Each is whole; a reader may find some of them one
        /// tick newer than others, so nothing is to be concluded from two together.
        #[derive(Default)]
        pub(crate) struct SharedCounts {
            $($name: AtomicU64,)*
            closed: [AtomicU64; CloseReason::ALL.len()],
        }

        impl SharedCounts {
            pub(crate) fn store(&self, counts: &Counts) {
                $(self.$name.store(counts.$name, Ordering::Relaxed);)*
                for (cell, value) in self.closed.iter().zip(counts.closed) {
                    cell.store(value, Ordering::Relaxed);
                }
            }

            pub(crate) fn load(&self) -> Counts {
                let mut counts = Counts {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    ..Counts::default()
                };
                for (value, cell) in counts.closed.iter_mut().zip(&self.closed) {
                    *value = cell.load(Ordering::Relaxed);
                }
                counts
            }
        }

        impl std::ops::AddAssign for Counts {
            fn add_assign(&mut self, other: Counts) {
                $(self.$name += other.$name;)*
                for (value, more) in self.closed.iter_mut().zip(other.closed) {
                    *value += more;
                }
            }
        }
    };
}

counts! {
    /// Subscribers now.
    connections,
    /// Requests now whose head is not complete, or whose refusal is still being read.
    pending,
    /// Requests now whose admission has not decided yet.
    undecided,
    /// Laggards now: subscribers whose socket is full, or that still get older events.
    laggards,
    /// Distinct subscriptions now: subscribers with the same topics and format share one.
    audiences,
    /// Events in the log now: in the sum of [`crate::Hub::counts`] only, since the log belongs to the
    /// process.
    log_frames,
    /// Bytes of the log now, with its indexes: in the sum only.
    log_bytes,
    /// Topics that have events in the log or subscribers now: in the sum only. They are bounded by the memory
    /// that they take: [`crate::LogLimits::total_bytes`] and [`crate::Limits::subscription_bytes`].
    topics,
    /// Events dropped from a topic because of [`crate::LogLimits::total_bytes`]: in the sum only.
    dropped_for_log_bytes,
    /// Sockets accepted.
    accepted,
    /// Streams begun.
    subscribed,
    /// Requests refused with a status.
    refused,
    /// Subscriptions that found [`crate::Limits::connections`] reached. These and the next six are also
    /// counted as refused, or, where a client had sent no request yet, as turned away.
    refused_full,
    /// Subscriptions that found the memory for topics ([`crate::Limits::subscription_bytes`]) or for subjects
    /// and members ([`crate::Limits::details_bytes`]) used up.
    refused_for_memory,
    /// Subscriptions that found [`crate::Limits::patterns`] reached, or whose patterns would have made it too
    /// much work to find the patterns of a topic.
    refused_for_patterns,
    /// Connections beyond [`crate::ClientLimits::connections_per_address`].
    refused_for_address,
    /// Connections beyond [`crate::ClientLimits::connects_per_second`].
    refused_for_connect_rate,
    /// Subscriptions beyond [`crate::ClientLimits::streams_per_subject`].
    refused_for_subject,
    /// Requests that found [`crate::Limits::undecided`] reached; also counted as refused.
    refused_undecided,
    /// Requests that the [`crate::Admission`] answered by [`crate::Decision::Answer`].
    answered,
    /// Requests answered 500 because the [`crate::Admission`] panicked; also counted as refused.
    admission_panics,
    /// Requests answered 503 because the decision about them, or their turn, did not come within
    /// [`crate::Limits::decision_time`]; also counted as refused.
    decisions_timed_out,
    /// Closed because the client left before the decision about its request, or while it waited for where its
    /// stream begins.
    left_undecided,
    /// Sockets handed to another server in the process: [`crate::Engine::hand_over`].
    handed_over,
    /// Closed without an answer: too many wait ([`crate::Limits::pending`]), or a descriptor or the memory to
    /// watch one is missing.
    turned_away,
    /// Closed without an answer, because the connection did not come from a trusted proxy, or did not begin
    /// with a header of the PROXY protocol ([`crate::Listener::with_proxy_protocol`]).
    proxy_refused,
    /// Heads that were not complete in time.
    heads_timed_out,
    /// Times that descriptors or memory were used up, and accepting paused.
    accept_pauses,
    /// Events delivered: one event to one subscriber, given to the kernel whole.
    deliveries,
    /// Bytes of events given to the kernel, with what each event needs on the wire: the size of its chunk and
    /// the names of its fields.
    bytes,
    /// Deliveries to subscribers that were given what they had missed, because they resumed.
    replayed,
    /// Sends that carried events.
    sends,
    /// Heartbeats sent.
    heartbeats,
    /// Gaps that were reported to subscribers, or noted for a report.
    gaps,
    /// Events taken from the mailbox: those of topics that the shard reads.
    events,
    /// Events now that wait in the mailbox of the shard, or for which room is reserved there. An event waits
    /// in the mailbox of each shard that reads a topic of it.
    mailbox_events,
    /// The memory of these events in bytes.
    mailbox_bytes,
    /// Events published: in the sum of [`crate::Hub::counts`] only. Duplicates of events with an own id are
    /// not counted.
    published,
    /// Bytes of these events, as one subscriber gets them: in the sum only.
    published_bytes,
    /// Members of topics that left before [`crate::Builder::presence_linger`] was over, because of
    /// [`crate::Limits::members_lingering`]: in the sum of [`crate::Hub::counts`] only, since members belong
    /// to the process.
    members_left_early,
    /// Announcements of members that were not made, because of [`crate::Limits::announcements`], or because a
    /// name is longer than the data of an event may be: in the sum only.
    members_not_announced,
    /// Joins and ends that found no room among the topics whose joins are noted
    /// ([`crate::Builder::note_joins`]): in the sum only.
    joins_missed,
}

/// How long the work of one shard took, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// From the publish to the send that gave an event to the kernel whole: a time for each delivery. What a
    /// subscriber replays is not in it.
    pub delivery_lag: Histogram,
    /// From the first to the last send of a sweep, which brings the subscribers of the same topics to the
    /// newest event. A sweep during which further events come is several ones.
    pub sweeps: Histogram,
    /// Ticks: rounds of the shard's loop, without the wait for something to do.
    pub ticks: Histogram,
}

/// The last timings that a shard has published, as [`SharedCounts`].
#[derive(Default)]
pub(crate) struct SharedTimings {
    delivery_lag: SharedHistogram,
    sweeps: SharedHistogram,
    ticks: SharedHistogram,
}

#[derive(Default)]
struct SharedHistogram {
    buckets: [AtomicU64; Histogram::BUCKETS],
    sum_us: AtomicU64,
}

impl SharedTimings {
    /// Stores what has changed since `before`.
    pub(crate) fn store(&self, timings: &Timings, before: &Timings) {
        self.delivery_lag.store(&timings.delivery_lag, &before.delivery_lag);
        self.sweeps.store(&timings.sweeps, &before.sweeps);
        self.ticks.store(&timings.ticks, &before.ticks);
    }

    pub(crate) fn load(&self) -> Timings {
        Timings {
            delivery_lag: self.delivery_lag.load(),
            sweeps: self.sweeps.load(),
            ticks: self.ticks.load(),
        }
    }
}

impl SharedHistogram {
    fn store(&self, histogram: &Histogram, before: &Histogram) {
        if histogram == before {
            return;
        }
        for (cell, (_, count)) in self.buckets.iter().zip(histogram.buckets()) {
            cell.store(count, Ordering::Relaxed);
        }
        self.sum_us.store(histogram.sum().as_micros() as u64, Ordering::Relaxed);
    }

    fn load(&self) -> Histogram {
        let buckets = std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed));
        Histogram::from_parts(buckets, Duration::from_micros(self.sum_us.load(Ordering::Relaxed)))
    }
}

impl std::ops::AddAssign for Timings {
    fn add_assign(&mut self, other: Timings) {
        self.delivery_lag += other.delivery_lag;
        self.sweeps += other.sweeps;
        self.ticks += other.ticks;
    }
}

/// What is known of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicCounts {
    /// Its name.
    pub topic: String,
    /// Connections that read it, laggards included.
    pub subscribers: usize,
    /// Those of them that are laggards.
    pub laggards: usize,
    /// Events retained.
    pub retained: usize,
    /// The oldest and the newest of them, as cursors.
    pub span: Option<(String, String)>,
}

impl Counts {
    /// Streams ended, by reason.
    pub fn closed(&self) -> impl Iterator<Item = (CloseReason, u64)> + use<> {
        CloseReason::ALL.iter().copied().zip(self.closed)
    }

    /// Streams ended for this reason.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason.index()]
    }
}
