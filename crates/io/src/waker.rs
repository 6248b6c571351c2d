//! How other threads end a shard's wait.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::errors::{check, errno};
use crate::table;

/// Ends the [`crate::Io::wait`] of the backend that was opened with it: now, or the next one.
///
/// It is made before the shard's thread gets its private table and is among the wakers kept there
/// (see [`table::make_private`]), so its number is the same on both sides. Wakes that come before the
/// wait are not lost, and many of them are one [`crate::Notification::Woken`].
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<Event>,
}

/// Tells a waker from all others that there ever were: numbers of descriptors are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WakerName(u64);

/// The next name.
static NEXT_NAME: AtomicU64 = AtomicU64::new(0);

/// An `eventfd`. In an `Option` only so that `drop` can decide whether to close it.
#[derive(Debug)]
struct Event {
    fd: Option<OwnedFd>,
    number: RawFd,
    name: WakerName,
}

impl Waker {
    /// A new one, not used yet.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` or `ENOMEM`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are involved.
        let number = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let name = WakerName(NEXT_NAME.fetch_add(1, Ordering::Relaxed));
        Ok(Self { event: Arc::new(Event { fd: Some(fd), number, name }) })
    }

    /// Whether the calling thread can use it: it is in the shared table, or its private one keeps this waker.
    #[must_use]
    pub fn is_in_reach(&self) -> bool {
        table::holds_waker(self.event.name)
    }

    pub(crate) fn name(&self) -> WakerName {
        self.event.name
    }

    /// Wakes the waiting thread.
    ///
    /// # Panics
    /// On a thread with a private table that did not keep this waker: the number may be a subscriber's
    /// socket there, and the bytes meant for the waker would end in its stream.
    pub fn wake(&self) {
        assert!(self.is_in_reach(), "this thread's private descriptor table does not keep the waker");
        let collected = COLLECTED.with_borrow_mut(|collected| match collected {
            Some(wakers) => {
                wakers.push(self.clone());
                true
            }
            None => false,
        });
        if !collected {
            self.write();
        }
    }

    /// Whether a wake on this thread would be collected ([`collect_wakes`]), and so come later.
    #[must_use]
    pub fn is_collected(&self) -> bool {
        COLLECTED.with_borrow(Option::is_some)
    }

    fn write(&self) {
        let fd = self.event.number;
        let one = 1_u64.to_ne_bytes();
        loop {
            // SAFETY: the eight bytes outlive the call, and the descriptor is open: `self` holds it.
            let written = unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
            if written == one.len() as isize {
                return;
            }
            match errno() {
                libc::EINTR => {}
                // The counter is full. It is drained at each wait, so this takes 2^64 - 2 wakes between two
                // waits; and a counter that is not zero wakes by itself.
                libc::EAGAIN => return,
                error => panic!("an eventfd takes eight bytes: {}", io::Error::from_raw_os_error(error)),
            }
        }
    }
}

thread_local! {
    /// The wakers that were used in [`collect_wakes`] on this thread; `None` outside of it.
    static COLLECTED: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// Wakes that are not made yet: see [`collect_wakes`]. Dropped, it makes them.
///
/// # Panics
/// When it is dropped on a thread on which [`Waker::wake`] would panic.
#[derive(Debug, Default)]
#[must_use = "dropped at once, the wakes come no later"]
pub struct Wakes(Vec<Waker>);

impl Wakes {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

/// Does `work`, and hands back the wakes that it makes on this thread instead of making them. If `work`
/// panics, they are made.
///
/// A thread that is woken may take the core of the thread that wakes it at once, and keep it for a few
/// milliseconds. This is for a caller that has something short to do first.
pub fn collect_wakes<R>(work: impl FnOnce() -> R) -> (R, Wakes) {
    /// Puts back what was there before, also when `work` panics.
    struct Collecting(Option<Vec<Waker>>);

    impl Drop for Collecting {
        fn drop(&mut self) {
            let collected = COLLECTED.replace(self.0.take());
            drop(Wakes(collected.unwrap_or_default()));
        }
    }

    let collecting = Collecting(COLLECTED.replace(Some(Vec::new())));
    let result = work();
    let wakes = COLLECTED.with_borrow_mut(|collected| collected.as_mut().map(mem::take));
    drop(collecting);
    (result, Wakes(wakes.unwrap_or_default()))
}

#[cfg(feature = "sim")]
#[doc(hidden)]
impl Waker {
    /// Whether it was used since the last question.
    pub fn was_used(&self) -> bool {
        drain(self.event.number)
    }
}

/// The number that a backend waits for.
impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.event.number
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // The last clone may die on a thread where the number has another owner: then the descriptor is
        // left to the end of the process rather than closing a stranger.
        if !table::holds_waker(self.name) {
            std::mem::forget(self.fd.take());
        }
    }
}

/// Takes what has gathered in the counter, so that the descriptor is quiet until the next wake. Says whether
/// there was anything.
pub(crate) fn drain(fd: RawFd) -> bool {
    let mut count = [0_u8; 8];
    // SAFETY: eight bytes are valid to write to. EAGAIN means that nothing was there, which is as good.
    let read = unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) };
    read > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the waker was used since the last question.
    fn is_woken(waker: &Waker) -> bool {
        drain(waker.as_raw_fd())
    }

    #[test]
    fn collected_wakes_are_made_when_they_are_dropped() {
        let (one, other) = (Waker::new().unwrap(), Waker::new().unwrap());
        let (inner, wakes) = collect_wakes(|| {
            one.wake();
            // Of two that are nested, the inner one has the wake.
            collect_wakes(|| other.wake()).1
        });
        assert!(!is_woken(&one) && !is_woken(&other));
        assert!(!wakes.is_empty() && !inner.is_empty());
        drop(inner);
        assert!(!is_woken(&one) && is_woken(&other));
        drop(wakes);
        assert!(is_woken(&one) && !is_woken(&other));
        one.wake();
        assert!(is_woken(&one), "outside of it, wakes are made at once");
        assert!(collect_wakes(|| ()).1.is_empty());
    }

    #[test]
    fn a_panic_loses_no_wake() {
        let waker = Waker::new().unwrap();
        let inside = waker.clone();
        let panicked = std::panic::catch_unwind(move || {
            let _ = collect_wakes(|| {
                inside.wake();
                panic!("on purpose");
            });
        });
        assert!(panicked.is_err());
        assert!(is_woken(&waker));
        waker.wake();
        assert!(is_woken(&waker));
    }
}
