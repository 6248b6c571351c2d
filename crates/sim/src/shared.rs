//! What every part of a world shares: chance, time, the hub, the list of all events, and the model of the
//! log.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use fanfare::{Epoch, Hub, Pattern, Topic};

use crate::choices::Choices;
use crate::client::{pattern, topic};
use crate::clients::ClientCounts;
use crate::history::{Entry, History, Interest};
use crate::log_model::{Change, LogModel};
use crate::publishers::Unreleased;
use crate::setting::Setting;
use crate::stored::StoreSide;
use crate::tally::{Occurrence, Tally};
use crate::trace::Trace;

pub(crate) struct Shared {
    pub(crate) choices: RefCell<Choices>,
    pub(crate) setting: Setting,
    /// Whether the world is as bad as its setting allows. In the end it is not.
    pub(crate) hostile: Cell<bool>,
    pub(crate) trace: Trace,
    pub(crate) now: Cell<Duration>,
    pub(crate) tally: RefCell<Tally>,
    pub(crate) history: RefCell<History>,
    pub(crate) log: RefCell<LogModel>,
    pub(crate) hub: RefCell<Option<Hub>>,
    /// What is there of a durable store; `None`: there is none.
    pub(crate) store: RefCell<Option<StoreSide>>,
    pub(crate) clients: RefCell<ClientCounts>,
    /// The topics of this world.
    pub(crate) topics: Vec<Topic>,
    /// The patterns of this world.
    pub(crate) patterns: Vec<Pattern>,
    /// Batches that have their numbers and are not visible, in the order of these.
    pub(crate) unreleased: RefCell<VecDeque<Unreleased>>,
    /// The newest number that was given.
    pub(crate) last_number: Cell<u64>,
    /// Events that were put into each shard's mailbox.
    pub(crate) mailed: RefCell<Vec<u64>>,
    /// The shard that drops what is too old has its tick.
    pub(crate) is_trimming: Cell<bool>,
    /// Nothing is published, every socket takes everything, and all is delivered.
    pub(crate) is_quiet: Cell<bool>,
    /// A drain has begun: nothing more is published.
    pub(crate) is_over: Cell<bool>,
    /// No shard cuts a stream for the drain before this.
    pub(crate) cuts_from: Cell<Duration>,
    /// The disk answers nothing while time passes.
    pub(crate) is_disk_slow: Cell<bool>,
}

/// Topics that every world has.
const FEW_TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Patterns of every world: of all topics, of some, and of none.
const PATTERNS: [&str; 6] = ["*", "user/*", "{a}", "user/{a}", "{+a}", "nothing/{a}/*x"];

/// More of them, where a world has many.
const MANY_TOPICS: usize = 60;

/// The model of an empty log.
pub(crate) fn log_model(setting: &Setting, epoch: Epoch, topics: &[Topic], patterns: &[Pattern]) -> LogModel {
    LogModel::new(&setting.limits, setting.shards, epoch, topics.to_vec(), patterns.to_vec())
}

impl Shared {
    pub(crate) fn new(choices: Choices, setting: Setting, epoch: Epoch, trace: Trace) -> Shared {
        let many = if setting.many_topics { MANY_TOPICS } else { 0 };
        let names = FEW_TOPICS.iter().map(|name| (*name).to_owned());
        let topics: Vec<Topic> =
            names.chain((0..many).map(|user| format!("user/{user}"))).map(topic).collect();
        let patterns: Vec<Pattern> = PATTERNS.map(pattern).into();
        Shared {
            hostile: Cell::new(setting.hostile),
            choices: RefCell::new(choices),
            trace,
            now: Cell::new(Duration::ZERO),
            tally: RefCell::default(),
            history: RefCell::new(History { epoch, events: Vec::new() }),
            log: RefCell::new(log_model(&setting, epoch, &topics, &patterns)),
            hub: RefCell::default(),
            store: RefCell::default(),
            clients: RefCell::default(),
            topics,
            patterns,
            unreleased: RefCell::default(),
            last_number: Cell::new(0),
            mailed: RefCell::new(vec![0; setting.shards]),
            is_trimming: Cell::new(false),
            is_quiet: Cell::new(false),
            is_over: Cell::new(false),
            cuts_from: Cell::new(Duration::MAX),
            is_disk_slow: Cell::new(false),
            setting,
        }
    }

    // Chance.

    pub(crate) fn below(&self, bound: usize) -> usize {
        self.choices.borrow_mut().below(bound)
    }

    pub(crate) fn one_in(&self, count: usize) -> bool {
        self.choices.borrow_mut().one_in(count)
    }

    pub(crate) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        self.choices.borrow_mut().pick(choices)
    }

    /// Something bad that happens once in `count` times, in a hostile world.
    pub(crate) fn mishap(&self, count: usize) -> bool {
        self.hostile.get() && self.one_in(count)
    }

    pub(crate) fn topic(&self) -> Topic {
        let many = self.topics.len() - FEW_TOPICS.len();
        let index = match many > 0 && self.one_in(2) {
            true => FEW_TOPICS.len() + self.below(many),
            false => self.below(FEW_TOPICS.len()),
        };
        self.topics[index].clone()
    }

    /// Topics that subscribers choose from.
    pub(crate) fn some_topics(&self) -> Vec<Topic> {
        let mut topics: Vec<Topic> = (0..1 + self.below(3)).map(|_| self.topic()).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// Patterns that subscribers choose from.
    pub(crate) fn some_patterns(&self) -> Vec<Pattern> {
        let mut patterns: Vec<Pattern> =
            (0..1 + self.below(2)).map(|_| self.patterns[self.below(self.patterns.len())].clone()).collect();
        patterns.sort_unstable();
        patterns.dedup();
        patterns
    }

    /// Whether the log may have no room for a pattern of this world.
    pub(crate) fn may_lack_patterns(&self) -> bool {
        self.setting.limits.patterns < self.patterns.len()
    }

    // The log.

    /// Compares the log with its model: nothing was released since the last time.
    pub(crate) fn observe_log(&self) {
        let change = if self.is_trimming.get() { Change::Trim } else { Change::Readers };
        let mut log = self.log.borrow_mut();
        log.observe(&self.hub(), change, self.now.get());
        let mut tally = self.tally.borrow_mut();
        tally.add(Occurrence::PatternRemembered, std::mem::take(&mut log.remembered));
        tally.add(Occurrence::PatternForgotten, std::mem::take(&mut log.forgotten));
    }

    /// The same, where events may have been dropped for their age since the last time.
    pub(crate) fn observe_log_if_due(&self) {
        if self.is_trimming.get() && self.log.borrow().has_due(self.now.get()) {
            self.observe_log();
        }
    }

    pub(crate) fn hub(&self) -> Hub {
        self.hub.borrow().clone().expect("a hub")
    }

    // The account.

    pub(crate) fn happened(&self, occurrence: Occurrence) {
        self.tally.borrow_mut().add(occurrence, 1);
    }

    /// Counts what is remarkable about an event that has come to a subscriber.
    pub(crate) fn note_delivery(&self, entry: &Entry, interest: &Interest) {
        self.happened(Occurrence::Delivery);
        if entry.topics.iter().filter(|topic| interest.topics.contains(topic)).count() > 1 {
            self.happened(Occurrence::MatchedTwice);
        }
        if !entry.topics.iter().any(|topic| interest.topics.contains(topic)) {
            self.happened(Occurrence::MatchedByPattern);
        }
    }
}
