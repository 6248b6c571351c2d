//! Takes samples of what threads run: SIGPROF comes at a thread that uses the processor, and its handler
//! notes the stack.
//!
//! The handler uses no descriptor, allocates nothing and takes no lock. What it writes to is there before the
//! first signal. The stack is unwound by the library that unwinds panics. Its tables are those of the
//! program, which do not change: the server loads no library while it runs.
//!
//! Calls that wait are interrupted by the signal. Where the kernel does not begin them again (`SA_RESTART`),
//! they fail with `EINTR`, which the backends of the engine expect: it is the same as a wake without an
//! event.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

/// The deepest part of a stack that is kept, in frames.
const FRAMES: usize = 64;

/// Samples of one profile: 60 s of two busy cores. It takes 8.6 MiB while a profile is made.
const SAMPLES: usize = 16 << 10;

/// What the handler writes to. Null while no profile is made.
static CURRENT: AtomicPtr<Samples> = AtomicPtr::new(ptr::null_mut());

/// Handlers that run.
static HANDLERS: AtomicUsize = AtomicUsize::new(0);

/// The samples of one profile.
pub(super) struct Samples {
    slots: Box<[UnsafeCell<Sample>]>,
    /// Places that were asked for; may be more than there are.
    taken: AtomicUsize,
}

// SAFETY: each slot is written by the one handler that has taken its place, and read when no handler runs any
// more.
unsafe impl Sync for Samples {}
// SAFETY: it owns what it has, and nothing of it belongs to a thread.
unsafe impl Send for Samples {}

/// What a thread did at one moment.
#[derive(Clone)]
pub(super) struct Sample {
    thread: i32,
    count: usize,
    frames: [usize; FRAMES],
}

impl Sample {
    /// The id of the thread.
    pub(super) fn thread(&self) -> i32 {
        self.thread
    }

    /// Its stack, the innermost function first.
    pub(super) fn frames(&self) -> &[usize] {
        &self.frames[..self.count]
    }
}

impl Samples {
    fn new() -> Samples {
        let empty = Sample { thread: 0, count: 0, frames: [0; FRAMES] };
        let slots = (0..SAMPLES).map(|_| UnsafeCell::new(empty.clone())).collect();
        Samples { slots, taken: AtomicUsize::new(0) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Sample> {
        let count = self.taken.load(Ordering::Acquire).min(SAMPLES);
        // SAFETY: whoever has these samples has got them from `Running::stop`, after the last handler.
        self.slots[..count].iter().map(|slot| unsafe { &*slot.get() })
    }

    /// Samples that found no room.
    pub(super) fn lost(&self) -> usize {
        self.taken.load(Ordering::Acquire).saturating_sub(SAMPLES)
    }
}

/// Samples are taken. There is one at a time.
pub(super) struct Running(Arc<Samples>);

impl Running {
    pub(super) fn start(frequency_hz: i64) -> Running {
        install();
        // The first walk over a stack may allocate.
        backtrace::trace(|_| true);
        let samples = Arc::new(Samples::new());
        CURRENT.store(Arc::as_ptr(&samples).cast_mut(), Ordering::SeqCst);
        set_timer(1_000_000 / frequency_hz);
        Running(samples)
    }

    /// Takes no more samples, and gives those that were taken.
    pub(super) fn stop(self) -> Arc<Samples> {
        let samples = Arc::clone(&self.0);
        drop(self);
        samples
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        set_timer(0);
        CURRENT.store(ptr::null_mut(), Ordering::SeqCst);
        // A handler that has seen the pointer has counted itself before.
        while HANDLERS.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Installs the handler, which stays: a signal that is on its way when a profile ends would end the process
/// without it.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_signal;
        // SAFETY: zeroes are a valid `sigaction`, whose mask is empty then; the handler has the form that
        // SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            libc::sigaction(libc::SIGPROF, &action, ptr::null_mut());
        }
    });
}

/// Lets the signal come each time when all threads together have used so much of the processors. Zero: never
/// again.
fn set_timer(interval_us: i64) {
    let interval = libc::timeval { tv_sec: 0, tv_usec: interval_us as _ };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the value is whole, and the former one is not asked for. It fails for no such value.
    unsafe {
        libc::setitimer(libc::ITIMER_PROF, &timer, ptr::null_mut());
    }
}

extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: it is the error number of this thread, and interrupted code finds it as it was.
    let error = unsafe { *libc::__errno_location() };
    HANDLERS.fetch_add(1, Ordering::SeqCst);
    let samples = CURRENT.load(Ordering::SeqCst);
    if !samples.is_null() {
        // SAFETY: `Running` waits for this handler before the samples go.
        note(unsafe { &*samples }, interrupted_at(context));
    }
    HANDLERS.fetch_sub(1, Ordering::SeqCst);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = error };
}

fn note(samples: &Samples, interrupted_at: Option<usize>) {
    let place = samples.taken.fetch_add(1, Ordering::AcqRel);
    let Some(slot) = samples.slots.get(place) else { return };
    // SAFETY: no other handler has this place, and nobody reads before the last handler has ended.
    let sample = unsafe { &mut *slot.get() };
    // SAFETY: the call takes nothing, and cannot fail.
    sample.thread = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    // SAFETY: it reads the stack of this thread. What is not safe about it is that the library's lock is not
    // taken, which protects the lookup of names, and no name is looked up here.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let ip = frame.ip() as usize;
            // What stands before it are the frames of this handler.
            if interrupted_at == Some(ip) {
                sample.count = 0;
            }
            sample.frames[sample.count] = ip;
            sample.count += 1;
            sample.count < FRAMES
        });
    }
}

/// Where the thread was when the signal came.
fn interrupted_at(context: *mut c_void) -> Option<usize> {
    if context.is_null() {
        return None;
    }
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: with SA_SIGINFO the third argument of a handler is the context (sigaction(2)).
    #[cfg(target_arch = "x86_64")]
    return Some(unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] } as usize);
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    return Some(unsafe { (*context).uc_mcontext.pc } as usize);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return None;
}
