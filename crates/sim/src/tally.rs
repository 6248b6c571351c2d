//! What happened in a story, counted: so that a run shows that the interesting things did.

macro_rules! occurrences {
    ($($(#[$doc:meta])* $name:ident: $words:literal,)*) => {
        /// Something that a story may hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Occurrence {
            $($(#[$doc])* $name,)*
        }

        impl Occurrence {
            /// All of them.
            pub const ALL: &[Occurrence] = &[$(Occurrence::$name,)*];

            /// What it is called in a summary.
            pub fn words(self) -> &'static str {
                match self {
                    $(Occurrence::$name => $words,)*
                }
            }
        }
    };
}

occurrences! {
    /// A tick of a shard.
    Tick: "ticks",
    /// An event that the hub took.
    Published: "events published",
    /// One that came to a subscriber whole, and was compared.
    Delivery: "deliveries checked",
    /// A subscriber that came with an id.
    Resume: "resumes",
    /// A gap told in a stream, or in its head.
    Gap: "gaps",
    /// A subscriber that became a laggard.
    Laggard: "laggards",
    /// The engine drained.
    Drain: "drains",
    /// It had laggards when that began.
    DrainWithLaggards: "drains with laggards",
    /// A resume at another shard than the one before.
    ResumeElsewhere: "resumes at another shard",
    /// A subscriber that waited for a number which was not released yet.
    WaitsForNumber: "resumes that waited",
    /// One that waited, and was told of a gap.
    WaitedInVain: "resumes that waited in vain",
    /// A resume from a publisher's own id that was found.
    OwnIdResume: "resumes from own ids",
    /// A resume from an id that means nothing.
    UnknownId: "resumes from nowhere",
    /// A gap told only in the head, because that was asked for.
    QuietGap: "gaps without a gap event",
    /// A gap told in the middle of a stream.
    Skip: "gaps of laggards",
    /// An event with two topics of the same subscriber.
    MatchedTwice: "events that matched twice",
    /// A private event passed by a subscriber that must not see it.
    PrivateHidden: "private events withheld",
    /// A batch of several events.
    Batch: "batches",
    /// A batch that got its numbers.
    Sequenced: "batches sequenced",
    /// Such a batch that was released.
    Released: "batches released later",
    /// Such a batch that was released before an older one.
    ReleasedEarly: "batches released out of order",
    /// Such a batch that was dropped.
    NeverReleased: "batches never released",
    /// A publish while a send was under way.
    PublishInSweep: "publishes within a sweep",
    /// A publisher was told to try again.
    Busy: "busy",
    /// A publisher was told that its event is too large.
    TooLarge: "too large",
    /// A publisher used an id of the hub's own form.
    ReservedId: "reserved ids",
    /// A publisher came after the end.
    Stopped: "publishes after the end",
    /// A socket came from another server.
    Adopted: "adopted",
    /// Hundreds came at once.
    Crowd: "crowds",
    /// Descriptors were used up.
    AcceptFailed: "accept failed",
    /// A socket could not be watched.
    WatchRefused: "watch refused",
    /// 503.
    Unavailable: "full: 503",
    /// 200, and the end.
    EndedAtOnce: "full: ended at once",
    /// No answer.
    Dropped: "full: dropped",
    /// A request was refused for what it said.
    Refused: "refused",
    /// An admission panicked.
    AdmissionPanic: "admissions that panicked",
    /// A request came too slowly.
    HeadTimedOut: "slow heads",
    /// The pending table was full.
    TurnedAway: "turned away",
    /// A laggard that needed what the log had dropped, or that made room.
    LaggardFull: "laggards at their bound",
    /// A tick that left more to be ended to make room.
    RoomMadeInTicks: "ticks that left room to be made",
    /// A subscriber that was told of a gap at once, because as many waited for a number as may.
    NoRoomToWait: "subscribers ahead without room to wait",
    /// A laggard whose socket took nothing.
    LaggardStalled: "laggards stalled",
    /// A stream at its age.
    Aged: "aged",
    /// A stream that a drain cut.
    Cut: "cut",
    /// A heartbeat, with a cursor or without.
    Heartbeat: "heartbeats",
    /// A heartbeat with a cursor.
    Checkpoint: "checkpoints",
    /// A tick in which mail was held, because most streams of the hub were behind.
    MailHeld: "ticks that held mail",
    /// A send that stopped somewhere.
    ShortSend: "short sends",
    /// A reset in the middle of a send.
    ResetInSend: "resets within a send",
    /// A client that half-closed.
    HalfClose: "half-closes",
    /// A client that reset.
    Reset: "resets",
    /// A notification that came late.
    LateNotification: "late notifications",
    /// A notification that came again.
    Echo: "repeated notifications",
    /// A wake for nothing.
    SpuriousWake: "spurious wakes",
    /// The clock went hours forward.
    Jump: "clock jumps",
    /// A question for the counts of topics.
    Inspection: "inspections",
}

/// Counts of [`Occurrence`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally([u64; Occurrence::ALL.len()]);

impl Default for Tally {
    fn default() -> Tally {
        Tally([0; Occurrence::ALL.len()])
    }
}

impl Tally {
    /// How often it happened.
    pub fn of(&self, occurrence: Occurrence) -> u64 {
        self.0[occurrence as usize]
    }

    /// It happened this often more.
    pub fn add(&mut self, occurrence: Occurrence, count: u64) {
        self.0[occurrence as usize] += count;
    }

    /// Adds what happened in another story.
    pub fn merge(&mut self, other: &Tally) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// What has not happened at all.
    pub fn missing(&self) -> impl Iterator<Item = Occurrence> {
        Occurrence::ALL.iter().copied().filter(|occurrence| self.of(*occurrence) == 0)
    }
}
