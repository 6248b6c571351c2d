//! Topic settings that hold on all servers of a cluster. A client cannot tell which server it reaches, so it
//! has to find the same at each of them.
//!
//! They are one value beside the stream. The settings of the server that its operator has started last, or
//! has reloaded last with other topic settings, hold for all:
//!
//! - A server that starts reads the value before it listens. Where its own options say the same, it changes
//!   nothing. Otherwise it sets its own by compare-and-set. A server that was overtaken sets again, a bounded
//!   number of times, and takes the others' settings then. So every start sets at most once, and all servers
//!   end with the last value.
//! - A server that starts again by itself, because its log has broken off, takes what is there. Where there
//!   is nothing that can be read, it goes on with what was in force before.
//! - Where the value is gone, a server puts the settings in force there again.
//! - A server that hears of a change takes it over at once. One that was cut off from NATS takes over what
//!   is there when it is back, unless its operator has reloaded it meanwhile.
//!
//! A value that cannot be read changes nothing: the settings in force stay, and a server writes them there
//! again, as if the value was gone. A server that was started meanwhile and has others would not notice that
//! otherwise. Only what a later version of this program has written stays as it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use fanfare::Hub;
use fanfare_backplane::{KeepError, NatsBackplane};
use fanfare_config::Settings;
use tokio::time::Instant;

use super::topic_settings::{Told, TopicSettings, Unreadable};
use crate::restart::StartedAgain;

/// The key of the value.
const KEY: &str = "topic-settings";

/// How often a server sets its own settings, where others are faster, before it takes theirs.
const TRIES: usize = 20;

/// How long a start tries to reach NATS.
const START_TIME: Duration = Duration::from_secs(5);

/// The time between two tries where NATS cannot be reached, and after each look at the value: what changes
/// all the time is looked at once in it.
const PAUSE: Duration = Duration::from_millis(500);

/// How often the value is read although nothing was heard of a change.
const INTERVAL: Duration = Duration::from_secs(60);

/// Where this file is there, it has the name of the machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The settings of this server, and what holds for all.
#[derive(Debug)]
pub(crate) struct SharedSettings {
    /// The name that others see.
    server: String,
    state: Mutex<State>,
    wake: Condvar,
    /// The settings in force are others' and not those of the own options.
    are_of_others: AtomicBool,
    /// The value cannot be read.
    is_unreadable: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Those of the options.
    own: TopicSettings,
    in_force: TopicSettings,
    /// The own ones are to hold for all, and do not yet.
    is_to_set: bool,
    /// The value may be another one.
    is_to_look: bool,
    /// The revision of the last value that the log has named as one that cannot be read.
    named: Option<u64>,
    /// `None`: the server does not run yet.
    running: Option<Running>,
}

/// The server when it runs.
#[derive(Debug)]
struct Running {
    hub: Hub,
    /// The settings of its start. It has their presence until it starts again.
    of_start: TopicSettings,
}

/// What a server has found at the value, or made of it.
#[derive(Debug)]
enum Found {
    /// There is none, and the settings in force cannot be a value.
    Nothing,
    Theirs(Told),
    /// The own settings hold now. Those of before, where there were some.
    Set(Option<Result<Told, Unreadable>>),
    /// There was none, or one that cannot be read, and the settings in force are there now.
    Kept(Option<Unreadable>),
    /// The value of this revision is kept as it is.
    Unreadable(u64, Unreadable),
}

impl SharedSettings {
    /// Agrees with the other servers, before this one listens. `before`: what the program has left that was
    /// there before, if no operator has started this one.
    pub(crate) fn agree(
        backplane: &NatsBackplane,
        settings: &Settings,
        before: Option<&StartedAgain>,
    ) -> Arc<SharedSettings> {
        let (server, own) = (name_of(backplane), TopicSettings::of(settings));
        let can_be_set = can_be_set(&own, &server);
        let handed_over =
            before.and_then(|before| Told::read(before.topic_settings.as_ref()?.as_bytes()).ok());
        let in_force = handed_over.map_or_else(|| own.clone(), |told| told.settings);
        let are_of_others = AtomicBool::new(in_force != own);
        let shared = SharedSettings {
            server,
            state: Mutex::new(State {
                in_force,
                own,
                is_to_set: can_be_set && before.is_none(),
                is_to_look: true,
                named: None,
                running: None,
            }),
            wake: Condvar::new(),
            are_of_others,
            is_unreadable: AtomicBool::new(false),
        };
        let begun = Instant::now();
        while let Err(error) = shared.step(backplane) {
            if begun.elapsed() >= START_TIME {
                tracing::warn!(%error, "the topic settings of the cluster cannot be read, and are read later");
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        Arc::new(shared)
    }

    /// Follows the changes of other servers from now on, on a thread of its own.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(crate) fn follow(self: &Arc<Self>, backplane: &Arc<NatsBackplane>, hub: Hub) -> io::Result<()> {
        let mut state = self.lock();
        state.running = Some(Running { hub, of_start: state.in_force.clone() });
        drop(state);
        let hears = Arc::downgrade(self);
        backplane.watch(move |key, _| {
            if key == KEY
                && let Some(shared) = hears.upgrade()
            {
                shared.lock().is_to_look = true;
                shared.wake.notify_one();
            }
        });
        let (shared, backplane) = (Arc::clone(self), Arc::downgrade(backplane));
        thread::Builder::new().name("fanfare-settings".to_owned()).spawn(move || {
            loop {
                shared.wait();
                let Some(asks) = backplane.upgrade() else { return };
                if let Err(error) = shared.step(&asks) {
                    tracing::debug!(%error, "the topic settings of the cluster are read later");
                }
                drop(asks);
                thread::sleep(PAUSE);
            }
        })?;
        Ok(())
    }

    /// The operator has reloaded the server: its settings hold for all, if they are others than before.
    pub(crate) fn reload(&self, settings: &Settings) {
        let own = TopicSettings::of(settings);
        let mut state = self.lock();
        if state.own == own {
            return;
        }
        state.is_to_set = can_be_set(&own, &self.server);
        state.is_to_look = true;
        // What cannot hold for all does not hold here alone.
        let settings = if state.is_to_set { own.clone() } else { state.in_force.clone() };
        state.own = own;
        self.apply(&mut state, settings);
        self.wake.notify_one();
    }

    /// The settings in force, for the program that starts in the place of this one. `None`: they are too
    /// many.
    pub(crate) fn handed_over(&self) -> Option<String> {
        let text = self.in_force().written_by(&self.server).ok()?;
        String::from_utf8(text).ok()
    }

    /// The settings in force.
    pub(crate) fn in_force(&self) -> TopicSettings {
        self.lock().in_force.clone()
    }

    /// Whether the settings in force are others' and not those of the own options.
    pub(crate) fn are_of_others(&self) -> bool {
        self.are_of_others.load(Ordering::Relaxed)
    }

    /// Whether there is a value that this server cannot read. Other servers may have other settings then.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.is_unreadable.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until there is something to do.
    fn wait(&self) {
        let is_idle = |state: &mut State| !state.is_to_set && !state.is_to_look;
        let waited = self.wake.wait_timeout_while(self.lock(), INTERVAL, is_idle);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_to_look = true;
    }

    /// Sets or reads the value, as the state asks for.
    fn step(&self, backplane: &NatsBackplane) -> Result<(), KeepError> {
        let (own, in_force, is_to_set) = {
            let mut state = self.lock();
            state.is_to_look = false;
            (state.own.clone(), state.in_force.clone(), state.is_to_set)
        };
        let found = match is_to_set {
            true => self.set(backplane, &own),
            false => self.look(backplane, &in_force),
        };
        let mut state = self.lock();
        match found {
            Err(error) => {
                state.is_to_look = true;
                Err(error)
            }
            // The operator has reloaded the server meanwhile: the next step sets the new settings.
            Ok(_) if state.own != own => Ok(()),
            Ok(found) => {
                state.is_to_set = false;
                self.take(&mut state, found);
                Ok(())
            }
        }
    }

    fn take(&self, state: &mut State, found: Found) {
        self.is_unreadable.store(matches!(found, Found::Unreadable(..)), Ordering::Relaxed);
        match found {
            Found::Nothing | Found::Kept(None) => {}
            Found::Kept(Some(why)) => tracing::warn!(
                "the topic settings of the cluster could not be read, and are those of this server again: {}; the \
                 reason: {why}",
                state.in_force
            ),
            Found::Theirs(Told { server, settings }) => {
                let (is_new, is_own) = (settings != state.in_force, settings == state.own);
                match (is_new, is_own) {
                    (false, _) => {}
                    (true, true) => {
                        tracing::info!(server, "topic settings of a server hold for all: {settings}")
                    }
                    (true, false) => tracing::warn!(
                        server,
                        "topic settings of a server hold for all, and this one has other options: {settings}; \
                         its own options say: {}",
                        state.own
                    ),
                }
                self.apply(state, settings);
            }
            Found::Set(before) => {
                match before {
                    None => tracing::info!("the topic settings of this server hold for all: {}", state.own),
                    Some(Ok(Told { server, settings })) => tracing::info!(
                        server,
                        "the topic settings of this server hold for all from now on: {}; those of the named server \
                         held before: {settings}",
                        state.own
                    ),
                    Some(Err(why)) => tracing::warn!(
                        "the topic settings of this server hold for all from now on: {}; what was there before could \
                         not be read: {why}",
                        state.own
                    ),
                }
                self.apply(state, state.own.clone());
            }
            Found::Unreadable(revision, why) => {
                if state.named.replace(revision) != Some(revision) {
                    tracing::warn!(
                        "the topic settings of the cluster cannot be used: {why}; this server goes on with: {}",
                        state.in_force
                    );
                }
            }
        }
    }

    /// Reads the value. Where there is none that can be read, the settings in force become it.
    fn look(&self, backplane: &NatsBackplane, in_force: &TopicSettings) -> Result<Found, KeepError> {
        let mut found = Found::Nothing;
        for _ in 0..TRIES {
            let (revision, why) =
                match backplane.get(KEY)?.map(|value| (value.revision, Told::read(&value.value))) {
                    None => (0, None),
                    Some((_, Ok(told))) => return Ok(Found::Theirs(told)),
                    Some((revision, Err(why @ Unreadable::Newer(_)))) => {
                        return Ok(Found::Unreadable(revision, why));
                    }
                    Some((revision, Err(why @ Unreadable::Wrong(_)))) => (revision, Some(why)),
                };
            found = why.clone().map_or(Found::Nothing, |why| Found::Unreadable(revision, why));
            let Ok(text) = in_force.written_by(&self.server) else { break };
            if backplane.put(KEY, text, Some(revision))? {
                return Ok(Found::Kept(why));
            }
        }
        Ok(found)
    }

    /// Has the own settings hold for all.
    fn set(&self, backplane: &NatsBackplane, own: &TopicSettings) -> Result<Found, KeepError> {
        let Ok(text) = own.written_by(&self.server) else { return self.look(backplane, own) };
        for _ in 0..TRIES {
            let value = backplane.get(KEY)?;
            let revision = value.as_ref().map_or(0, |value| value.revision);
            let before = value.map(|value| Told::read(&value.value));
            match before {
                Some(Ok(told)) if told.settings == *own => return Ok(Found::Theirs(told)),
                Some(Err(why @ Unreadable::Newer(_))) => return Ok(Found::Unreadable(revision, why)),
                _ => {}
            }
            if backplane.put(KEY, text.clone(), Some(revision))? {
                return Ok(Found::Set(before));
            }
        }
        self.look(backplane, own)
    }

    /// Has these settings hold here.
    fn apply(&self, state: &mut State, settings: TopicSettings) {
        self.are_of_others.store(settings != state.own, Ordering::Relaxed);
        if settings == state.in_force {
            return;
        }
        if let Some(Running { hub, of_start }) = &state.running {
            hub.set_retention(settings.retention(), settings.rules(!of_start.presence().is_empty()));
            if !settings.has_presence_of(of_start) {
                tracing::warn!(
                    "this server takes over another --presence when it starts again: until then the counts of the \
                     topics of its presence are not complete, or are missing"
                );
            }
        }
        state.in_force = settings;
    }
}

/// Whether these settings can hold for all. Otherwise the log says why.
fn can_be_set(own: &TopicSettings, server: &str) -> bool {
    let written = own.written_by(server);
    let written = written.inspect_err(|why| {
        tracing::warn!("the topic settings of this server cannot hold for all servers: {why}");
    });
    written.is_ok()
}

/// The machine and the node, by which an operator finds the server.
fn name_of(backplane: &NatsBackplane) -> String {
    let host = fs::read_to_string(HOST_NAME).unwrap_or_default();
    match host.trim() {
        "" => backplane.node_name().to_owned(),
        host => format!("{host}/{}", backplane.node_name()),
    }
}
