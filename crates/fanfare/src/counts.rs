//! What a shard counts. Plain numbers on the shard's side, stored for others to read once per tick:
//! no atomic operation per delivery. And what it is asked for: the counts of its topics.

use std::sync::atomic::Ordering;

use fanfare_proto::connection::Farewell;

use crate::sync::AtomicU64;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Numbers of one shard, or the sum over all.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
            /// Connections ended, by [`Farewell::index`].
            pub farewells: [u64; Farewell::ALL.len()],
        }

        /// The last numbers that a shard has published. Each is whole; a reader may find some of them one tick newer
        /// than others, so nothing is to be concluded from two together.
        #[derive(Default)]
        pub(crate) struct SharedCounts {
            $($name: AtomicU64,)*
            farewells: [AtomicU64; Farewell::ALL.len()],
        }

        impl SharedCounts {
            pub(crate) fn store(&self, counts: &Counts) {
                $(self.$name.store(counts.$name, Ordering::Relaxed);)*
                for (cell, value) in self.farewells.iter().zip(counts.farewells) {
                    cell.store(value, Ordering::Relaxed);
                }
            }

            pub(crate) fn load(&self) -> Counts {
                let mut counts = Counts {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    ..Counts::default()
                };
                for (value, cell) in counts.farewells.iter_mut().zip(&self.farewells) {
                    *value = cell.load(Ordering::Relaxed);
                }
                counts
            }
        }

        impl std::ops::AddAssign for Counts {
            fn add_assign(&mut self, other: Counts) {
                $(self.$name += other.$name;)*
                for (value, more) in self.farewells.iter_mut().zip(other.farewells) {
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
    /// Laggards now: their socket is full, or they still replay.
    laggards,
    /// Distinct subscriptions now.
    audiences,
    /// Frames in the log now.
    log_frames,
    /// Bytes of the frames in the log now.
    log_bytes,
    /// Sockets accepted.
    accepted,
    /// Streams begun.
    subscribed,
    /// Requests refused with a status.
    refused,
    /// Requests answered 500 because the [`crate::Admission`] panicked; also counted as refused.
    admission_panics,
    /// Sockets handed to the control plane.
    handed_over,
    /// Closed without an answer: too many wait ([`crate::Limits::pending`]), or a descriptor or the memory to watch one is
    /// missing.
    turned_away,
    /// Heads that were not complete in time.
    heads_timed_out,
    /// Times that descriptors or memory were used up, and accepting paused.
    accept_pauses,
    /// Events delivered: one event to one subscriber, given to the kernel whole.
    deliveries,
    /// Sends that carried events.
    sends,
    /// Heartbeats sent.
    heartbeats,
    /// Gaps told or noted.
    gaps,
    /// Events taken from the mailbox.
    events,
}

/// What is known of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Connections ended for this reason.
    pub fn farewell(&self, reason: Farewell) -> u64 {
        self.farewells[reason.index()]
    }
}
