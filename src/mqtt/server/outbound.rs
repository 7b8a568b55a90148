//! What is on its way to a client: what waits for its window, and what it has not acknowledged.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Publishes that wait for a client's window; what comes beyond them is not sent.
const WAITING: usize = 1024;

/// There is no room for more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Publishes of one connection.
#[derive(Debug)]
pub(super) struct Outbound {
    /// The client's receive maximum.
    window: usize,
    last_id: u16,
    in_flight: BTreeMap<u16, Option<Arc<str>>>,
    waiting: VecDeque<(Bytes, Option<Arc<str>>)>,
    /// The names of those two.
    named: BTreeSet<Arc<str>>,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            window: usize::from(u16::MAX),
            last_id: 0,
            in_flight: BTreeMap::new(),
            waiting: VecDeque::new(),
            named: BTreeSet::new(),
        }
    }
}

impl Outbound {
    /// What the client says in its CONNECT.
    pub fn set_window(&mut self, receive_maximum: Option<u16>) {
        self.window = usize::from(receive_maximum.unwrap_or(u16::MAX).max(1));
    }

    /// Whether anything waits for the window.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Puts it behind all that waits, unless something of its name is on its way already: on a slow network the gateway's
    /// patience ends before a message is there, and its copy would only delay the others.
    ///
    /// # Errors
    /// [`Full`].
    pub fn wait(&mut self, payload: Bytes, name: Option<Arc<str>>) -> Result<(), Full> {
        if name.as_ref().is_some_and(|name| self.named.contains(name)) {
            return Ok(());
        }
        if self.waiting.len() >= WAITING {
            return Err(Full);
        }
        self.named.extend(name.clone());
        self.waiting.push_back((payload, name));
        Ok(())
    }

    /// The next that the window has room for, and its packet id, 0 for one that is not acknowledged; without one it does not
    /// fit.
    pub fn next(&mut self, acknowledged: bool, fits: impl FnOnce(&Bytes) -> bool) -> Option<(Bytes, Option<u16>)> {
        if self.in_flight.len() >= self.window {
            return None;
        }
        let (payload, name) = self.waiting.pop_front()?;
        let fits = fits(&payload);
        if fits && acknowledged {
            let packet_id = self.next_id();
            self.in_flight.insert(packet_id, name);
            return Some((payload, Some(packet_id)));
        }
        self.over(name);
        Some((payload, fits.then_some(0)))
    }

    /// The client has it.
    pub fn acknowledged(&mut self, packet_id: u16) {
        let name = self.in_flight.remove(&packet_id).flatten();
        self.over(name);
        // Most clients are idle, and an empty collection keeps the room that it had.
        if self.in_flight.is_empty() && self.waiting.is_empty() {
            *self = Self { window: self.window, last_id: self.last_id, ..Self::default() };
        }
    }

    fn over(&mut self, name: Option<Arc<str>>) {
        if let Some(name) = name {
            self.named.remove(&name);
        }
    }

    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }
}
