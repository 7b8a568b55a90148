//! What stands between the program and who reads its log: a bounded queue, and a thread that alone waits for
//! the reader.

use super::sink::Sink;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::{Level, warn};

/// Most lines, and most bytes of them, that wait for the reader.
const LINES: usize = 1024;
const BYTES: usize = 256 * 1024;
/// Places that only errors take, when the others are taken.
const ERROR_LINES: usize = 64;
const ERROR_BYTES: usize = 64 * 1024;
/// The thread's own stack: it formats one line.
const STACK: usize = 128 * 1024;

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<(Level, Vec<u8>)>,
    bytes: usize,
    /// Since it was last told.
    dropped: u64,
    /// The thread has a line in its hands.
    writing: bool,
}

impl State {
    fn has_room(&self, level: Level, more: usize) -> bool {
        let (lines, bytes) = match level {
            Level::ERROR => (LINES + ERROR_LINES, BYTES + ERROR_BYTES),
            _ => (LINES, BYTES),
        };
        self.lines.len() < lines && self.bytes + more <= bytes
    }

    /// How many to tell of, once there is room to tell it.
    fn take_untold(&mut self) -> u64 {
        if self.lines.len() <= LINES / 2 && self.bytes <= BYTES / 2 { std::mem::take(&mut self.dropped) } else { 0 }
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

impl Queue {
    /// Starts the thread. It sleeps without a timer while there is nothing to write.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(mut sink: Sink) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let own = queue.clone();
        let work = move || {
            loop {
                let (level, line) = own.next();
                let written = sink.write(level, &line);
                let told = own.written(written.is_ok());
                if told > 0 {
                    warn!(
                        event = "log.dropped",
                        count = told,
                        "{told} lines were dropped: the log's reader did not take them in time"
                    );
                }
            }
        };
        std::thread::Builder::new().name("log".to_owned()).stack_size(STACK).spawn(work)?;
        Ok(queue)
    }

    /// Never waits for the reader.
    pub fn push(&self, level: Level, line: Vec<u8>) {
        let mut state = self.lock();
        if state.has_room(level, line.len()) {
            state.bytes += line.len();
            state.lines.push_back((level, line));
            self.filled.notify_one();
        } else {
            state.dropped += 1;
        }
    }

    /// Waits until everything is written, or this long.
    pub fn drain(&self, most: Duration) {
        let waits = |state: &mut State| state.writing || !state.lines.is_empty();
        drop(self.emptied.wait_timeout_while(self.lock(), most, waits).map(drop));
    }

    fn next(&self) -> (Level, Vec<u8>) {
        let mut state = self.lock();
        loop {
            state.writing = false;
            if let Some((level, line)) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.writing = true;
                return (level, line);
            }
            self.emptied.notify_all();
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many lost lines are to be told now.
    fn written(&self, well: bool) -> u64 {
        let mut state = self.lock();
        if well {
            return state.take_untold();
        }
        state.dropped += 1;
        0
    }

    /// The lines that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> Vec<String> {
        self.lock().lines.iter().map(|(_, line)| String::from_utf8_lossy(line).into_owned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many wait, and how many were dropped.
    fn held(queue: &Queue) -> (usize, u64) {
        let state = queue.lock();
        (state.lines.len(), state.dropped)
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted_and_errors_still_find_a_place() {
        let queue = Queue::default();
        for _ in 0..LINES + 10 {
            queue.push(Level::INFO, b"line".to_vec());
        }
        assert_eq!(held(&queue), (LINES, 10));
        for _ in 0..ERROR_LINES + 1 {
            queue.push(Level::ERROR, b"error".to_vec());
        }
        assert_eq!(held(&queue), (LINES + ERROR_LINES, 11));
        assert_eq!(queue.next().0, Level::INFO);
        assert_eq!(queue.written(true), 0, "no room to tell it yet");
        for _ in 0..LINES / 2 + ERROR_LINES {
            queue.next();
        }
        assert_eq!(queue.written(true), 11);
        assert_eq!(queue.written(true), 0, "told once");
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let queue = Queue::default();
        for _ in 0..100 {
            queue.push(Level::INFO, vec![b'x'; 50 * 1024]);
        }
        assert_eq!(held(&queue), (5, 95));
    }

    #[test]
    fn a_line_that_could_not_be_written_is_counted() {
        let queue = Queue::default();
        assert_eq!(queue.written(false), 0);
        assert_eq!(queue.written(true), 1);
    }
}
