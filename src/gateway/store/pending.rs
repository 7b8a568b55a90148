//! Rows that a transaction's jobs add and that are written together, and what becomes of them where a job fails.

use std::cell::{Cell, RefCell};

/// An event that is not written yet.
#[derive(Debug)]
pub(super) struct NewEvent {
    pub message: String,
    pub device: String,
    pub at_ms: i64,
    pub hop: &'static str,
    pub detail: String,
}

/// A delivery that is not written yet; where there is one of that message and device, it stays.
#[derive(Debug)]
pub(super) struct NewDelivery {
    pub message: String,
    pub app: String,
    pub user: String,
    pub device: String,
    pub state: &'static str,
    pub nonce: String,
    pub attempts: u32,
    pub due_ms: Option<i64>,
}

/// Rows of one table.
#[derive(Debug)]
pub(super) struct Pending<T> {
    rows: RefCell<Vec<T>>,
    /// How many of those are of jobs before the one that is carried out.
    earlier: Cell<usize>,
    /// Rows of jobs before this one, which had them written: if it fails they are to be written again.
    written: RefCell<Vec<T>>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { rows: RefCell::default(), earlier: Cell::default(), written: RefCell::default() }
    }
}

impl<T> Pending<T> {
    pub fn is_empty(&self) -> bool {
        self.rows.borrow().is_empty()
    }

    pub fn add(&self, row: T) {
        self.rows.borrow_mut().push(row);
    }

    /// A job begins.
    pub fn begin(&self) {
        self.earlier.set(self.rows.borrow().len());
        self.written.borrow_mut().clear();
    }

    /// The job failed: what it added is gone, and what it had written is undone.
    pub fn undo(&self) {
        let mut rows = self.rows.borrow_mut();
        rows.truncate(self.earlier.get());
        rows.splice(0..0, self.written.take());
    }

    /// Hands all rows over to be written.
    ///
    /// # Errors
    /// `write`'s.
    pub fn write<E>(&self, write: impl FnOnce(&[T]) -> Result<(), E>) -> Result<(), E> {
        let rows = self.rows.take();
        let written = if rows.is_empty() { Ok(()) } else { write(&rows) };
        self.written.borrow_mut().extend(rows.into_iter().take(self.earlier.replace(0)));
        written
    }
}
