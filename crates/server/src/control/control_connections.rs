//! The connections of the control plane, and the memory that their answers take.
//!
//! A connection is *busy* from the head of a request until its answer is given to the HTTP library, and
//! *idle* after it, also while its client takes the answer. On the public listeners it comes with a head, so
//! it is busy at first: a storm of newcomers ends no connection that was not served yet. On the admin
//! listener it comes without one, and is idle at first: connections that say nothing make room for a probe.
//! An answer takes memory until the socket has taken all of it. Where a bound is reached, the connections
//! that have been idle for the longest time are ended: a client that never reads, or never asks again, makes
//! room for one that does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fanfare::bound_for;
use tokio::sync::Notify;

use super::limits::CurrentLimits;
use super::notices::{Notice, Notices};

/// All connections.
#[derive(Debug)]
pub(super) struct ControlConnections {
    /// Connections at once are among them.
    limits: Arc<CurrentLimits>,
    /// Bytes of their answers.
    answer_limit: usize,
    notices: Arc<Notices>,
    newcomers: Newcomers,
    state: Mutex<State>,
}

/// What connections are when they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newcomers {
    /// The head of their first request is there.
    WithHead,
    /// It is not there yet, and may never come.
    Silent,
}

#[derive(Debug, Default)]
struct State {
    /// By a number that nothing else has had.
    table: BTreeMap<u64, Entry>,
    /// Counts connections and the times at which they became idle, so that numbers tell what came first.
    count: u64,
    answer_bytes: usize,
    /// When each idle connection became idle, with its number: in a storm of newcomers each one needs the
    /// first.
    idle: BTreeSet<(u64, u64)>,
    /// Those of them whose answers take memory.
    unread: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
struct Entry {
    /// When it became idle, as a number of [`State::count`]; `None`: it is busy.
    idle_since: Option<u64>,
    /// Bytes of its answer that the socket may not have taken yet.
    answer_bytes: usize,
    ended: Arc<Notify>,
}

/// One connection, until it is dropped.
#[derive(Debug)]
pub(super) struct ControlConnection {
    all: Arc<ControlConnections>,
    number: u64,
    ended: Arc<Notify>,
}

impl ControlConnections {
    pub(super) fn new(
        limits: Arc<CurrentLimits>,
        answer_limit: usize,
        notices: Arc<Notices>,
        newcomers: Newcomers,
    ) -> ControlConnections {
        ControlConnections { limits, answer_limit, notices, newcomers, state: Mutex::default() }
    }

    /// Takes in a connection. Where there are too many, the one that has been idle for the longest time is
    /// ended; `None`: all are busy. Only the operator's may have the last places.
    pub(super) fn enter(
        self: &Arc<ControlConnections>,
        is_operators: impl FnOnce() -> bool,
    ) -> Option<ControlConnection> {
        let (mut state, limit) = (self.lock(), self.limits.get().connections);
        let (count, public) = (state.table.len(), bound_for(false, limit));
        if count >= limit || (count >= public && !is_operators()) {
            let oldest = state.longest_idle();
            if !self.end(&mut state, oldest) {
                return None;
            }
        }
        state.count += 1;
        let (number, ended) = (state.count, Arc::new(Notify::new()));
        let idle_since = (self.newcomers == Newcomers::Silent).then_some(number);
        state.insert(number, Entry { idle_since, answer_bytes: 0, ended: Arc::clone(&ended) });
        Some(ControlConnection { all: Arc::clone(self), number, ended })
    }

    /// Ends the connection that has been idle for the longest time, for a newcomer that finds no descriptor.
    /// False: all are busy.
    pub(super) fn make_room(&self) -> bool {
        let mut state = self.lock();
        let oldest = state.longest_idle();
        self.end(&mut state, oldest)
    }

    /// Ends a connection of those that have been idle for the longest time, and forgets it.
    fn end(&self, state: &mut State, number: Option<u64>) -> bool {
        let Some(entry) = number.and_then(|number| state.remove(number)) else { return false };
        state.answer_bytes -= entry.answer_bytes;
        entry.ended.notify_one();
        self.notices.add(Notice::ConnectionEnded);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn longest_idle(&self) -> Option<u64> {
        self.idle.first().map(|(_, number)| *number)
    }

    fn insert(&mut self, number: u64, entry: Entry) {
        if let Some(since) = entry.idle_since {
            self.idle.insert((since, number));
            if entry.answer_bytes > 0 {
                self.unread.insert((since, number));
            }
        }
        self.table.insert(number, entry);
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.table.remove(&number)?;
        if let Some(since) = entry.idle_since {
            self.idle.remove(&(since, number));
            self.unread.remove(&(since, number));
        }
        Some(entry)
    }

    /// Changes a connection that was not ended.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.remove(number) {
            change(&mut entry);
            self.insert(number, entry);
        }
    }
}

impl ControlConnection {
    /// A request has come.
    pub(super) fn begins(&self) {
        self.all.lock().change(self.number, |entry| entry.idle_since = None);
    }

    /// An answer of so many bytes is given to the HTTP library. Where all answers together have too many,
    /// the ones that have waited for the longest time are thrown away, with their connections.
    pub(super) fn answers(&self, bytes: usize) {
        let mut state = self.all.lock();
        state.count += 1;
        let now = state.count;
        if !state.table.contains_key(&self.number) {
            return;
        }
        state.change(self.number, |entry| {
            entry.idle_since = Some(now);
            entry.answer_bytes += bytes;
        });
        state.answer_bytes += bytes;
        while state.answer_bytes > self.all.answer_limit {
            let oldest = state.unread.first().filter(|(since, _)| *since != now).map(|(_, number)| *number);
            if !self.all.end(&mut state, oldest) {
                return;
            }
        }
    }

    /// The socket has taken all that was to be written.
    pub(super) fn flushed(&self) {
        let mut state = self.all.lock();
        let mut bytes = 0;
        state.change(self.number, |entry| bytes = std::mem::take(&mut entry.answer_bytes));
        state.answer_bytes -= bytes;
    }

    /// Waits until this connection has to make room for others.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }
}

impl Drop for ControlConnection {
    fn drop(&mut self) {
        let mut state = self.all.lock();
        if let Some(entry) = state.remove(self.number) {
            state.answer_bytes -= entry.answer_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(most: usize, newcomers: Newcomers) -> Arc<ControlConnections> {
        let limits = CurrentLimits::of_connections(most);
        Arc::new(ControlConnections::new(limits, 100, Arc::default(), newcomers))
    }

    /// Whether a connection has been ended.
    fn is_ended(connection: &ControlConnection) -> bool {
        !connection.all.lock().table.contains_key(&connection.number)
    }

    #[test]
    fn the_connection_that_was_idle_for_the_longest_time_makes_room() {
        let connections = of(3, Newcomers::WithHead);
        let [first, second, third] = [(); 3].map(|()| connections.enter(|| true).unwrap());
        for connection in [&third, &second] {
            connection.answers(1);
            connection.flushed();
        }
        let fourth = connections.enter(|| true).unwrap();
        assert_eq!([&first, &second, &third].map(is_ended), [false, false, true]);
        second.begins();
        assert!(connections.enter(|| true).is_none(), "all are busy");
        second.answers(1);
        let fifth = connections.enter(|| true).unwrap();
        assert_eq!([&first, &second, &fourth].map(is_ended), [false, true, false]);
        drop((first, second, third));
        assert!(connections.enter(|| true).is_some());
        drop((fourth, fifth));
        let state = connections.lock();
        assert!(state.idle.is_empty() && state.unread.is_empty() && state.table.is_empty(), "{state:?}");
    }

    /// Of 20,000 connections a second each one ended an older one that had not been served yet, so that nine
    /// of ten publishers among them were closed without an answer.
    #[test]
    fn a_storm_of_newcomers_ends_no_connection_that_was_not_served() {
        let connections = of(2, Newcomers::WithHead);
        let [first, second] = [(); 2].map(|()| connections.enter(|| true).unwrap());
        for _ in 0..10 {
            assert!(connections.enter(|| true).is_none());
        }
        assert_eq!([&first, &second].map(is_ended), [false; 2]);
    }

    /// 64 connections without a request kept all probes out of the admin listener for half a minute.
    #[test]
    fn connections_that_say_nothing_make_room_where_they_come_without_a_head() {
        let connections = of(3, Newcomers::Silent);
        let [first, second, third] = [(); 3].map(|()| connections.enter(|| true).unwrap());
        second.begins();
        let probe = connections.enter(|| true).expect("room");
        assert_eq!([&first, &second, &third].map(is_ended), [true, false, false]);
        probe.begins();
        third.begins();
        assert!(connections.enter(|| true).is_none(), "all are being served");
        drop((first, second, third, probe));
        assert!(connections.lock().idle.is_empty());
    }

    /// A thousand answers of 400 KB that were not read took a GiB for half a minute.
    #[test]
    fn answers_have_a_bound_over_all_connections() {
        let connections = of(10, Newcomers::WithHead);
        let [first, second, third] = [(); 3].map(|()| connections.enter(|| true).unwrap());
        for connection in [&first, &second, &third] {
            connection.begins();
        }
        first.answers(60);
        second.answers(30);
        first.flushed();
        first.begins();
        third.answers(60);
        assert_eq!([&first, &second, &third].map(is_ended), [false; 3]);
        // The answer of the second has waited for the longest time.
        first.answers(20);
        assert_eq!([&first, &second, &third].map(is_ended), [false, true, false]);
        assert_eq!(connections.lock().answer_bytes, 80);
        drop((first, second, third));
        assert_eq!(connections.lock().answer_bytes, 0);
    }
}
