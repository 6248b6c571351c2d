//! What happened in a story, counted: so that a reader sees that the interesting things did.

macro_rules! things {
    ($($(#[$doc:meta])* $name:ident: $words:literal,)*) => {
        /// Something that a story may hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Thing {
            $($(#[$doc])* $name,)*
        }

        impl Thing {
            /// All of them.
            pub const ALL: &[Thing] = &[$(Thing::$name,)*];

            /// What it is called in a summary.
            pub fn words(self) -> &'static str {
                match self {
                    $(Thing::$name => $words,)*
                }
            }
        }
    };
}

things! {
    /// A turn of a shard's loop.
    Tick: "ticks",
    /// An event that the hub took.
    Published: "events published",
    /// One that came to a subscriber whole, and was compared.
    Delivery: "deliveries checked",
    /// A subscriber that came with an id.
    Resume: "resumes",
    /// A subscriber that was told where its stream begins.
    Checkpoint: "checkpoints",
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
    /// A reader that waited for its shard to have what another may have sent it.
    MustWait: "resumes that waited",
    /// A resume from a publisher's own id that was found.
    OwnIdResume: "resumes from own ids",
    /// A resume from an id that means nothing.
    UnknownId: "resumes from nowhere",
    /// A resume that began ahead of what the hub had.
    AheadOfHead: "resumes from ahead",
    /// A gap told only in the head, because that was asked for.
    QuietGap: "gaps without a notice",
    /// A gap told in the middle of a stream.
    Skip: "gaps of laggards",
    /// An event with two topics of the same reader.
    MatchedTwice: "events that matched twice",
    /// A private event passed by a reader who must not see it.
    PrivateHidden: "private events withheld",
    /// A batch of several events.
    Batch: "batches",
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
    Storm: "storms",
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
    /// A request came too slowly.
    HeadTimedOut: "slow heads",
    /// The pending table was full.
    TurnedAway: "turned away",
    /// A laggard at its bound.
    LaggardFull: "laggards at their bound",
    /// A laggard whose socket took nothing.
    LaggardStalled: "laggards stalled",
    /// A stream at its age.
    Aged: "aged",
    /// A stream that a drain cut.
    Cut: "cut",
    /// A heartbeat.
    Heartbeat: "heartbeats",
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
    /// Somebody asked for the counts of topics.
    Inspection: "inspections",
}

/// Counts of [`Thing`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally([u64; Thing::ALL.len()]);

impl Default for Tally {
    fn default() -> Tally {
        Tally([0; Thing::ALL.len()])
    }
}

impl Tally {
    /// How often it happened.
    pub fn of(&self, thing: Thing) -> u64 {
        self.0[thing as usize]
    }

    /// It happened this often more.
    pub fn add(&mut self, thing: Thing, count: u64) {
        self.0[thing as usize] += count;
    }

    /// Adds what happened in another story.
    pub fn merge(&mut self, other: &Tally) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// What has not happened at all.
    pub fn missing(&self) -> impl Iterator<Item = Thing> {
        Thing::ALL.iter().copied().filter(|thing| self.of(*thing) == 0)
    }
}
