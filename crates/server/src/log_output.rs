//! Where the lines of the log go: standard error, by a thread of its own.
//!
//! A line waits in a bounded queue, so that no thread that logs waits for the reader of the log. The reader
//! may stand still or be gone, and the disk behind it may be full. Then lines are lost and counted, and the
//! server goes on. A later line says how many there were.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::panic;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Memory of the lines that wait to be written. Further ones are lost.
const BYTES: usize = 4 << 20;

/// What a line takes in the queue beside its text.
const LINE_BYTES: usize = 64;

/// How long the end of the process waits for lines to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// While lines are lost all the time, so many lines are written between two that say how many were lost.
const LINES_BETWEEN_REPORTS: u32 = 1000;

/// Between two tries to write where the output is a pipe that does not block and is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

static OUTPUT: Output = Output::new();

thread_local! {
    /// On the thread that writes, while it makes a line of its own: that line.
    static OWN_LINE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Starts the thread that writes, and sends the messages of panics the same way. The lines that wait are
/// written when the guard is dropped.
///
/// # Errors
/// The system refuses a thread.
pub(crate) fn start() -> io::Result<WrittenAtEnd> {
    thread::Builder::new().name("fanfare-log".to_owned()).spawn(|| {
        let mut standard_error = LineOutput::new(io::stderr());
        OUTPUT.write_lines(|line| standard_error.write(line), lost_line);
    })?;
    OUTPUT.lock().has_thread = true;
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        // The client library of NATS panics over headers that it cannot represent, which any program may
        // publish. Its task ends, the backplane makes another one, and says so.
        let is_of_client = panic.location().is_some_and(|at| at.file().contains("/async-nats-"));
        if is_of_client && thread.name() == Some("fanfare-nats") {
            return;
        }
        let mut text = format!("thread '{}' {panic}\n", thread.name().unwrap_or("without a name"));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("stack backtrace:\n{backtrace}\n"));
        }
        OUTPUT.add(text.into_bytes());
    }));
    Ok(WrittenAtEnd)
}

/// Writes a last word on standard error, behind the lines of the log. Without [`start`] it is written at
/// once.
pub(crate) fn say(text: &str) {
    let text = format!("{text}\n").into_bytes();
    if OUTPUT.lock().has_thread {
        OUTPUT.add(text);
        OUTPUT.wait_until_written(PATIENCE);
    } else {
        // No one is there to whom a failure could be reported.
        let _ = io::stderr().write_all(&text);
    }
}

/// Writes this on standard output, after the lines that wait. A reader of either output that stands still
/// holds the start up for a moment only, and a closed output is no reason not to serve.
pub(crate) fn print(text: Vec<u8>) {
    OUTPUT.wait_until_written(PATIENCE);
    let (tell, told) = mpsc::channel::<()>();
    let spawned = thread::Builder::new().name("fanfare-print".to_owned()).spawn(move || {
        let mut out = io::stdout().lock();
        let _ = out.write_all(&text).and_then(|()| out.flush());
        drop(tell);
    });
    if spawned.is_ok() {
        // It ends with the thread.
        let _ = told.recv_timeout(PATIENCE);
    }
}

/// Lines that were lost since the start.
pub(crate) fn lost() -> u64 {
    OUTPUT.lock().lost
}

/// How much memory the lines take at most, and their name.
pub(crate) fn memory_bound() -> (&'static str, usize) {
    ("lines to be logged", BYTES)
}

/// When it is dropped, it waits a while until the lines are written.
#[derive(Debug)]
pub(crate) struct WrittenAtEnd;

impl Drop for WrittenAtEnd {
    fn drop(&mut self) {
        OUTPUT.wait_until_written(PATIENCE);
    }
}

/// The writer for `tracing`, whose events are written whole, by one call each. It neither fails nor blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        OWN_LINE.with_borrow_mut(|own| match own {
            Some(own) => own.extend_from_slice(line),
            None => OUTPUT.add(line.to_vec()),
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = LogWriter;

    fn make_writer(&self) -> LogWriter {
        LogWriter
    }
}

/// The line that says how many were lost, as the log's format has it. It is empty where the filter leaves it
/// out.
fn lost_line(count: u64) -> Vec<u8> {
    OWN_LINE.set(Some(Vec::new()));
    tracing::warn!(count, "lines of the log were lost: its reader is too slow, or they could not be written");
    OWN_LINE.take().unwrap_or_default()
}

/// What a line takes in the queue.
fn bytes_of(line: &Vec<u8>) -> usize {
    LINE_BYTES + line.capacity()
}

/// The queue between those who log and the thread that writes.
#[derive(Debug)]
struct Output {
    waiting: Mutex<Waiting>,
    added: Condvar,
    all_written: Condvar,
}

#[derive(Debug)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    lost: u64,
    /// A line is taken out and not written yet.
    is_writing: bool,
    has_thread: bool,
}

impl Output {
    const fn new() -> Output {
        let waiting =
            Waiting { lines: VecDeque::new(), bytes: 0, lost: 0, is_writing: false, has_thread: false };
        Output { waiting: Mutex::new(waiting), added: Condvar::new(), all_written: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics under this lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, or counts it as lost where there is no room.
    fn add(&self, line: Vec<u8>) {
        let mut waiting = self.lock();
        if waiting.bytes + bytes_of(&line) > BYTES {
            waiting.lost += 1;
            return;
        }
        waiting.bytes += bytes_of(&line);
        waiting.lines.push_back(line);
        drop(waiting);
        self.added.notify_one();
    }

    /// Writes lines without end. `write` says whether it could.
    fn write_lines(&self, mut write: impl FnMut(&[u8]) -> bool, lost_line: impl Fn(u64) -> Vec<u8>) {
        let (mut reported, mut since_report) = (0, 0);
        loop {
            let line = self.next();
            let is_written = write(&line);
            since_report += 1;
            let count = {
                let mut waiting = self.lock();
                if !is_written {
                    waiting.lost += 1;
                    continue;
                }
                if !waiting.lines.is_empty() && since_report < LINES_BETWEEN_REPORTS {
                    continue;
                }
                waiting.lost - reported
            };
            if count > 0 && write(&lost_line(count)) {
                (reported, since_report) = (reported + count, 0);
            }
        }
    }

    /// Waits for the next line.
    fn next(&self) -> Vec<u8> {
        let mut waiting = self.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.bytes -= bytes_of(&line);
                waiting.is_writing = true;
                return line;
            }
            waiting.is_writing = false;
            // A flood may have made it long.
            waiting.lines.shrink_to_fit();
            self.all_written.notify_all();
            waiting = self.added.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all lines are written, but not longer than this.
    fn wait_until_written(&self, patience: Duration) {
        let waiting = self.lock();
        let is_busy =
            |waiting: &mut Waiting| waiting.has_thread && (waiting.is_writing || !waiting.lines.is_empty());
        drop(self.all_written.wait_timeout_while(waiting, patience, is_busy));
    }
}

/// Writes lines whole, or says that it could not.
struct LineOutput<W> {
    output: W,
    /// A part of the last line is written. The next line begins a new one.
    is_torn: bool,
}

impl<W: Write> LineOutput<W> {
    fn new(output: W) -> LineOutput<W> {
        LineOutput { output, is_torn: false }
    }

    fn write(&mut self, line: &[u8]) -> bool {
        if self.is_torn {
            if self.write_all(b"\n").is_err() {
                return false;
            }
            self.is_torn = false;
        }
        match self.write_all(line) {
            Ok(()) => true,
            Err(written) => {
                self.is_torn = written > 0;
                false
            }
        }
    }

    /// # Errors
    /// It fails after so many bytes.
    fn write_all(&mut self, text: &[u8]) -> Result<(), usize> {
        let mut written = 0;
        while written < text.len() {
            match self.output.write(&text[written..]) {
                Ok(0) => return Err(written),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process has set the pipe so.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_PAUSE),
                Err(_) => return Err(written),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// An output whose thread passes on each line, and learns from the test whether it is written.
    fn output() -> (Arc<Output>, Receiver<Vec<u8>>, SyncSender<bool>) {
        let output = Arc::new(Output::new());
        output.lock().has_thread = true;
        let (pass, lines) = sync_channel(0);
        let (answer, answers) = sync_channel(0);
        let writer = Arc::clone(&output);
        thread::spawn(move || {
            let write = |line: &[u8]| {
                // The test may have ended.
                pass.send(line.to_vec()).is_ok() && answers.recv().unwrap_or(false)
            };
            writer.write_lines(write, |count| format!("{count} lost\n").into_bytes());
        });
        (output, lines, answer)
    }

    #[test]
    fn lines_without_room_are_lost_and_counted() {
        let (output, lines, answer) = output();
        output.add(b"first\n".to_vec());
        assert_eq!(lines.recv().unwrap(), b"first\n");
        // The writer stands in its first line.
        let room = BYTES / (LINE_BYTES + 1000);
        for _ in 0..room + 7 {
            output.add(vec![b'x'; 1000]);
        }
        let counts = |waiting: MutexGuard<'_, Waiting>| (waiting.lines.len(), waiting.lost);
        assert_eq!(counts(output.lock()), (room, 7));
        answer.send(true).unwrap();
        let mut reports = Vec::new();
        for _ in 0..room {
            let line = lines.recv().unwrap();
            if line.ends_with(b"lost\n") {
                reports.push(line);
                answer.send(true).unwrap();
                assert_eq!(lines.recv().unwrap().len(), 1000);
            }
            answer.send(true).unwrap();
        }
        // It is said once, also where it is said before the queue is empty.
        assert_eq!(reports, [b"7 lost\n"]);
    }

    #[test]
    fn a_failed_write_ends_nothing_and_is_told_when_writing_works_again() {
        let (output, lines, answer) = output();
        let next = |is_written| {
            let line = lines.recv().unwrap();
            answer.send(is_written).unwrap();
            String::from_utf8(line).unwrap()
        };
        for text in ["a", "b", "c"] {
            output.add(text.into());
        }
        assert_eq!([next(false), next(false)], ["a", "b"]);
        // The line with the number is lost, too, and told again after the next line.
        assert_eq!([next(true), next(false)], ["c", "2 lost\n"]);
        output.add(b"d".to_vec());
        assert_eq!([next(true), next(true)], ["d", "2 lost\n"]);
        output.add(b"e".to_vec());
        output.wait_until_written(Duration::ZERO);
        assert_eq!(next(true), "e");
        output.wait_until_written(PATIENCE);
        assert_eq!(output.lock().lines.len(), 0);
        assert!(!output.lock().is_writing);
    }

    /// Takes so many bytes, and then none.
    struct Disk(Vec<u8>, usize);

    impl Write for Disk {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let count = text.len().min(self.1);
            if count == 0 {
                return Err(io::Error::from(ErrorKind::StorageFull));
            }
            self.1 -= count;
            self.0.extend_from_slice(&text[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_after_a_torn_one_begins_at_the_margin() {
        let mut output = LineOutput::new(Disk(Vec::new(), 6));
        assert!(output.write(b"one\n"));
        assert!(!output.write(b"two\n"));
        assert!(!output.write(b"three\n"));
        output.output.1 = 100;
        assert!(output.write(b"four\n"));
        assert_eq!(output.output.0, b"one\ntw\nfour\n");
    }
}
