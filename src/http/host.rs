//! The connections to one host: one is made at first and everybody waits for it, more come by need.
//!
//! A host that speaks HTTP/2 has one connection until its streams run out; one that speaks HTTP/1.1 has as
//! many as calls wait, up to a limit. A host that was just found unreachable fails all who wait, as one event.

use super::HttpError;
use super::connection::{Leased, Owner, Sender, begin};
use super::dial::{Dialer, Origin};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Calls on one HTTP/2 connection before another is made; servers allow 100 and more (RFC 9113, section 6.5.2).
const STREAMS: usize = 100;
/// HTTP/2 connections to one host.
const MULTIPLEXED_MOST: usize = 4;

/// An HTTP/2 connection.
#[derive(Debug)]
struct Shared {
    number: u64,
    sender: http2::SendRequest<Full<Bytes>>,
    streams: usize,
}

/// An HTTP/1.1 connection that nobody uses now.
#[derive(Debug)]
struct Idle {
    number: u64,
    sender: http1::SendRequest<Full<Bytes>>,
    /// It has carried a call.
    used: bool,
}

#[derive(Debug)]
struct State {
    shared: Vec<Shared>,
    idle: Vec<Idle>,
    /// All HTTP/1.1 connections, those in use too.
    plain: HashMap<u64, AbortHandle>,
    dialling: usize,
    /// Whether it was last found to speak HTTP/2.
    multiplexed: Option<bool>,
    /// Calls under way that have no connection yet, oldest first; as many as callers have open.
    waiting: VecDeque<oneshot::Sender<Result<Leased, HttpError>>>,
    used: Instant,
}

#[derive(Debug)]
pub(super) struct Host {
    authority: String,
    origin: Origin,
    dialer: Arc<Dialer>,
    plain_most: usize,
    state: Mutex<State>,
}

impl Host {
    pub fn new(origin: Origin, dialer: Arc<Dialer>, plain_most: usize) -> Self {
        let state = State {
            shared: Vec::new(),
            idle: Vec::new(),
            plain: HashMap::new(),
            dialling: 0,
            multiplexed: None,
            waiting: VecDeque::new(),
            used: Instant::now(),
        };
        Self { authority: origin.authority(), origin, dialer, plain_most, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data; a panic elsewhere cannot have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_unused_for(&self, time: Duration) -> bool {
        let state = self.state();
        state.used.elapsed() > time && state.waiting.is_empty()
    }

    /// A connection for one call; `again` for one that has waited before, and is first now.
    ///
    /// # Errors
    /// [`HttpError::Connection`] when none can be made, [`HttpError::Timeout`] when none is free until `ends`.
    pub async fn lease(self: &Arc<Self>, again: bool, ends: Instant, limit: Duration) -> Result<Leased, HttpError> {
        let leased = {
            let mut state = self.state();
            state.used = Instant::now();
            let (sender, leased) = oneshot::channel();
            if again {
                state.waiting.push_front(sender);
            } else {
                state.waiting.push_back(sender);
            }
            self.serve(&mut state);
            leased
        };
        let late = HttpError::Timeout { ms: limit.as_millis(), connection: None };
        match tokio::time::timeout_at(ends.into(), leased).await {
            Ok(Ok(leased)) => leased,
            // The sender goes only with its host.
            Ok(Err(_)) | Err(_) => Err(late),
        }
    }

    /// Hands what is free to those who wait, and makes what is missing.
    fn serve(self: &Arc<Self>, state: &mut State) {
        state.waiting.retain(|waiting| !waiting.is_closed());
        while !state.waiting.is_empty() {
            let Some((number, sender, uncertain)) = state.free() else { break };
            let Some(waiting) = state.waiting.pop_front() else { break };
            if let Err(Ok(leased)) = waiting.send(Ok(Leased::new(self.clone(), number, sender, uncertain)))
                && let Some(sender) = leased.unused()
            {
                state.put_back(number, sender);
            }
        }
        while state.wants_another(self.plain_most) {
            state.dialling += 1;
            let host = self.clone();
            tokio::spawn(async move { host.dial().await });
        }
    }

    async fn dial(self: Arc<Self>) {
        let number = self.dialer.number();
        let made = match self.dialer.dial(&self.origin).await {
            Ok(dialled) => begin(dialled, number, &(self.clone() as Arc<dyn Owner>), self.dialer.patience).await,
            Err(why) => Err(why),
        };
        let mut state = self.state();
        state.dialling -= 1;
        match made {
            Ok((Sender::Shared(sender), _)) => {
                state.multiplexed = Some(true);
                state.shared.push(Shared { number, sender, streams: 0 });
            }
            Ok((Sender::Plain(sender), driver)) => {
                state.multiplexed = Some(false);
                state.plain.insert(number, driver);
                state.idle.push(Idle { number, sender, used: false });
            }
            // Those who use the others wait for them.
            Err(why) if state.is_cut_off() => {
                for waiting in std::mem::take(&mut state.waiting) {
                    // Who does not wait any more need not hear it.
                    let _ = waiting.send(Err(HttpError::Connection { why: why.clone(), connection: number }));
                }
            }
            Err(_) => return,
        }
        self.serve(&mut state);
    }

    fn free_again(self: &Arc<Self>, number: u64, sender: Sender) {
        let mut state = self.state();
        state.put_back(number, sender);
        self.serve(&mut state);
    }
}

impl Owner for Host {
    fn authority(&self) -> &str {
        &self.authority
    }

    fn give_back(self: Arc<Self>, number: u64, sender: Sender) {
        match sender {
            Sender::Plain(mut plain) if !plain.is_ready() => {
                // It is, as soon as the end of the answer was read; one that the server closes never is.
                tokio::spawn(async move {
                    match plain.ready().await {
                        Ok(()) => self.free_again(number, Sender::Plain(plain)),
                        Err(_) => self.ended(number),
                    }
                });
            }
            sender => self.free_again(number, sender),
        }
    }

    /// Nobody else shall wait on it. What idles beside it may have died with it.
    fn lost(self: Arc<Self>, number: u64) {
        let mut state = self.state();
        state.forget(number);
        for idle in std::mem::take(&mut state.idle) {
            state.forget(idle.number);
        }
        self.serve(&mut state);
    }

    fn ended(self: Arc<Self>, number: u64) {
        let mut state = self.state();
        state.forget(number);
        self.serve(&mut state);
    }
}

impl State {
    fn free(&mut self) -> Option<(u64, Sender, bool)> {
        self.shared.retain(|shared| !shared.sender.is_closed());
        if let Some(shared) = self.shared.iter_mut().min_by_key(|shared| shared.streams) {
            shared.streams += 1;
            return Some((shared.number, Sender::Shared(shared.sender.clone()), false));
        }
        while let Some(idle) = self.idle.pop() {
            if idle.sender.is_ready() {
                return Some((idle.number, Sender::Plain(idle.sender), idle.used));
            }
            self.forget(idle.number);
        }
        None
    }

    fn put_back(&mut self, number: u64, sender: Sender) {
        match sender {
            Sender::Shared(_) => {
                if let Some(shared) = self.shared.iter_mut().find(|shared| shared.number == number) {
                    shared.streams = shared.streams.saturating_sub(1);
                }
            }
            Sender::Plain(sender) if self.plain.contains_key(&number) => {
                self.idle.push(Idle { number, sender, used: true })
            }
            Sender::Plain(_) => {}
        }
    }

    fn forget(&mut self, number: u64) {
        // Calls that are open on it end with it, or are given up by its pings.
        self.shared.retain(|shared| shared.number != number);
        self.idle.retain(|idle| idle.number != number);
        if let Some(driver) = self.plain.remove(&number) {
            driver.abort();
        }
    }

    /// No connection, and none under way.
    fn is_cut_off(&self) -> bool {
        self.shared.is_empty() && self.plain.is_empty() && self.dialling == 0
    }

    fn wants_another(&self, plain_most: usize) -> bool {
        match self.multiplexed {
            _ if !self.shared.is_empty() => {
                let full = self.shared.iter().all(|shared| shared.streams >= STREAMS);
                full && self.dialling == 0 && self.shared.len() < MULTIPLEXED_MOST
            }
            Some(false) => self.waiting.len() > self.dialling && self.plain.len() + self.dialling < plain_most,
            Some(true) | None => !self.waiting.is_empty() && self.dialling == 0,
        }
    }
}
