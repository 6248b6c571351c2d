//! Waking the tasks among the publishers and readers that wait.
//!
//! A waker runs code of an executor, and that may use descriptors. A shard may have a descriptor table of its
//! own, so it never has a waker: it calls a ticket or a reader's key, and one thread of the hub looks for the
//! waker here. It also wakes readers that are threads, where a publish calls many of them.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use super::line::{Task, WaitingPublishers};
use crate::sync::{Mutex, lock, thread};

/// The wakers, and the thread. Only the hub and its futures share it, never a shard.
pub(crate) struct Tasks {
    waiting: Arc<WaitingPublishers>,
    wakers: Mutex<BTreeMap<Task, Waker>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Tasks {
    pub(crate) fn new(waiting: Arc<WaitingPublishers>) -> Tasks {
        Tasks { waiting, wakers: Mutex::default(), thread: Mutex::new(None) }
    }

    /// Starts the thread, unless it has been started. It ends when the line of publishers is closed. Not on a
    /// shard's thread: the new one would share its descriptor table.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let tasks = Arc::clone(self);
            let builder = thread::Builder::new().name("fanfare-waker".to_owned());
            *thread = Some(builder.spawn(move || tasks.run())?);
        }
        Ok(())
    }

    /// Notes the waker of this task, for when it is called. The caller checks after this whether the task has
    /// been called already.
    pub(crate) fn register(&self, task: Task, waker: &Waker) {
        let waker = waker.clone();
        // The one before is dropped without the lock: it may run any code.
        let _before = lock(&self.wakers).insert(task, waker);
    }

    pub(crate) fn remove(&self, task: Task) {
        let _waker = lock(&self.wakers).remove(&task);
    }

    fn run(&self) {
        let (mut called, mut threads) = (Vec::new(), Vec::new());
        while self.waiting.next_called(&mut called, &mut threads) {
            for thread in threads.drain(..) {
                thread.notify_one();
            }
            for task in called.drain(..) {
                let waker = lock(&self.wakers).remove(&task);
                wake(waker);
            }
        }
        // A task that registers from here on finds the line closed.
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        wakers.into_values().for_each(|waker| wake(Some(waker)));
    }

    /// Waits for the end of the thread, when the line is closed.
    pub(crate) fn end(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
            // It cannot have panicked, because it catches the panics of wakers.
            let _ = thread.join();
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        // A panic is the executor's; other tasks are still to be woken.
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}
