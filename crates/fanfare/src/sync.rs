//! What threads share. Built with `--cfg fanfare_loom`, the same names are loom's: it tries every order in
//! which the threads of a model can run, and every value that a load may see (`cargo xtask loom`).

use std::sync::PoisonError;

#[cfg(fanfare_loom)]
pub(crate) use self::model::Waker;
#[cfg(all(test, fanfare_loom))]
pub(crate) use self::model::collect_wakes;
#[cfg(not(fanfare_loom))]
pub(crate) use fanfare_io::Waker;
#[cfg(fanfare_loom)]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};
#[cfg(fanfare_loom)]
pub(crate) use loom::thread;
#[cfg(not(fanfare_loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};
#[cfg(not(fanfare_loom))]
pub(crate) use std::thread;

/// Locks, also where a thread has panicked with this lock. That is the policy for every lock of the crate but
/// the log's, which is changed in many steps: code under a lock checks what it was given before its first
/// change, so a poisoned state is whole; and one panic (in an admission, say) must not end the service of all
/// shards.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(fanfare_loom)]
mod model {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use loom::sync::Notify;

    /// In place of the eventfd. It counts wakes.
    #[derive(Clone, Default)]
    pub(crate) struct Waker {
        event: Arc<Event>,
    }

    #[derive(Default)]
    struct Event {
        /// Like the counter of an eventfd, it keeps a wake until the next wait. That wait may also end
        /// without one, once, as a shard's wait does when a socket is ready.
        notify: Notify,
        /// Not loom's: what a model counts must not order what it checks.
        wakes: AtomicUsize,
    }

    impl Waker {
        pub(crate) fn wake(&self) {
            if self.is_collected() {
                return;
            }
            self.event.wakes.fetch_add(1, Ordering::Relaxed);
            self.event.notify.notify();
        }

        /// Whether this thread's wakes are collected: see [`collect_wakes`].
        pub(crate) fn is_collected(&self) -> bool {
            COLLECTS.with(Cell::get)
        }

        /// Models have one table of descriptors.
        pub(crate) fn is_in_reach(&self) -> bool {
            true
        }

        /// The shard's side.
        #[cfg(test)]
        pub(crate) fn wait(&self) {
            self.event.notify.wait();
        }

        #[cfg(test)]
        pub(crate) fn wakes(&self) -> usize {
            self.event.wakes.load(Ordering::Relaxed)
        }
    }

    loom::thread_local! {
        static COLLECTS: Cell<bool> = Cell::new(false);
    }

    /// Does `work`, and forgets the wakes that it makes on this thread: in a model, the thread to which they
    /// are owed makes them too late.
    #[cfg(test)]
    pub(crate) fn collect_wakes(work: impl FnOnce()) {
        COLLECTS.with(|collects| collects.set(true));
        work();
        COLLECTS.with(|collects| collects.set(false));
    }

    /// So that the engine builds: models run no engine.
    impl From<fanfare_io::Waker> for Waker {
        fn from(_: fanfare_io::Waker) -> Waker {
            Waker::default()
        }
    }
}
