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
    /// An event that came by a pattern alone.
    MatchedByPattern: "events that matched a pattern",
    /// A subscriber that may have been refused because the log knew as many patterns as it may.
    PatternsFull: "subscribers refused for their patterns",
    /// A pattern that was remembered, and is read again.
    PatternRemembered: "patterns that were remembered",
    /// A pattern that was forgotten.
    PatternForgotten: "patterns that were forgotten",
    /// A private event passed by a subscriber that must not see it.
    PrivateHidden: "private events withheld",
    /// The same, and the subscriber sees private events of other topics.
    PrivateOfOthersHidden: "private events withheld from subscribers that see those of other topics",
    /// A private event that came to such a subscriber.
    PrivateOfSomeSeen: "private events of subscribers that see those of some topics",
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
    /// A group that a durable store has taken.
    Committed: "groups committed",
    /// A publish that the store refused, because its disk was full.
    DiskFull: "publishes to a full disk",
    /// An event that was published again, and that only the store knew.
    RepeatedStored: "events published again that only the store knew",
    /// Events without an answer before a crash, published again behind it.
    PublishedAgain: "publishes again behind a crash",
    /// A crash while own ids were looked up.
    CrashTaken: "crashes of taken groups",
    /// A crash before anything was written.
    CrashLookedUp: "crashes before a write",
    /// A crash before the group was synced. It was lost.
    CrashLost: "crashes that lost a written group",
    /// A crash before the group was synced. It was there afterwards.
    CrashKept: "crashes that kept a written group",
    /// A crash when the group was synced, before it was released.
    CrashSynced: "crashes before a release",
    /// A crash before the publishers had their answers.
    CrashReleased: "crashes before the answer",
    /// A crash without a commit under way.
    CrashIdle: "crashes between commits",
    /// Events that were visible, and that a crash has lost without commits.
    LostEvents: "events lost in crashes without commits",
    /// The store answered a shard's question.
    StoreAnswer: "answers of the store",
    /// A read of the disk that failed.
    BadRead: "reads that failed",
    /// An event that came from the disk, because memory had it no more.
    FromDisk: "deliveries from the disk",
    /// A publish while a send was under way.
    PublishInSweep: "publishes within a sweep",
    /// A publisher was told to try again.
    Busy: "busy",
    /// A publisher was told that its event is too large.
    TooLarge: "too large",
    /// A publisher used an id of the hub's own form.
    ReservedId: "reserved ids",
    /// An event that was published before.
    Repeated: "events published again",
    /// An event that is in its batch twice.
    RepeatedInBatch: "events twice in a batch",
    /// An event that has its number and may still be dropped was published again.
    RepeatedUnreleased: "events published again before their release",
    /// An id of an event that the log has dropped.
    IdFreeAgain: "ids that were free again",
    /// A publisher gave an id to two events.
    IdConflict: "ids of two events",
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
    /// A connection too many of an address.
    AddressFull: "connections too many of an address",
    /// An address that connected too often.
    ConnectsTooOften: "connects too often",
    /// A stream too many of a subject.
    SubjectFull: "streams too many of a subject",
    /// A stream of the operator's that began where others found no room.
    OperatorInReserve: "operators in the reserve",
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
    /// A question about connections that took several ticks.
    LongListing: "questions about connections over several ticks",
    /// A request whose admission decided later.
    DecidedLater: "requests that wait for a decision",
    /// Such a decision was put off again.
    DecidedLaterAgain: "decisions put off again",
    /// A ticket was dropped.
    TicketDropped: "tickets dropped",
    /// A decision that did not come in time.
    DecisionTimedOut: "decisions too late",
    /// As many requests waited for their decision as may.
    UndecidedFull: "requests too many to wait for a decision",
    /// A ticket was used for a request that did not wait any more.
    DecidedTooLate: "tickets used for nothing",
    /// A ticket was used for a client that had left.
    DecidedForNobody: "decisions about clients that had left",
    /// A client that left before the decision about its request.
    LeftUndecided: "clients that left undecided",
    /// A request that a drain found undecided.
    DrainedUndecided: "undecided in a drain",
    /// A stream that was ended because the operator asked for that.
    Disconnected: "disconnected",
    /// An order to end a share of all streams.
    ShedSome: "orders to end a share of all streams",
    /// An order to end all streams.
    ShedAll: "orders to end all streams",
    /// A stream that was chosen by such an order.
    Shed: "shed",
    /// A subscriber that waited for a number was ended for its subject.
    DisconnectedAhead: "disconnected while they waited for a number",
    /// An order about a connection that had left.
    StaleOrder: "orders about connections that had left",
    /// A tick that left topics without a reader to the next one.
    RemovedLater: "ticks with topics still to be removed",
    /// A change of topics behind an order to end the streams of one of the topics before.
    ChangedTooLate: "changes of topics of streams that were to end",
    /// An order to end a connection that was given between the decision about it and its beginning.
    OrderBehindDecision: "connections disconnected behind the decision about them",
    /// An order to end the connections of a subject or of a token came while the decision about one was under
    /// way.
    BarredWhileDecided: "connections ended while they were decided about",
    /// A shard had no room for an order.
    OrderBusy: "orders without room",
    /// A stream got other topics.
    TopicsChanged: "changes of topics",
    /// One that was to get events from before the change.
    ChangedBehind: "changes of topics behind the head",
    /// One that had not passed the change before.
    ChangedAgain: "changes of topics within changes",
    /// One in the middle of an event.
    ChangedInEvent: "changes of topics in an event",
    /// A life-cycle event.
    LifeCycleEvent: "life-cycle events",
    /// Such events found no room.
    LifeCycleMissed: "life-cycle events missed",
    /// A stream at the end of its lifetime.
    Expired: "expired",
    /// A member with a connection, when the members were compared.
    Member: "members",
    /// A member without a connection that had not left.
    MemberLingers: "members that linger",
    /// A member without a connection that left early, when the members were compared.
    MemberLeftEarly: "members that left early",
    /// A member that was announced to have joined or left.
    MemberAnnounced: "members announced",
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
