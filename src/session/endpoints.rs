//! Which server is tried first, and where a server has sent this device.

use super::Session;
use crate::keepalive::{Cause, Failure};
use tracing::info;

/// A server of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// One of the configuration, by its place there.
    Configured(usize),
    /// `host:port`, as another server named it.
    Named(String),
}

/// The order of the next attempt.
#[derive(Debug)]
pub(super) struct Endpoints {
    configured: usize,
    first: usize,
    /// Where the server sent this device; forgotten when it does not answer there.
    redirect: Option<String>,
}

impl Endpoints {
    pub fn new(configured: usize) -> Self {
        Self { configured: configured.max(1), first: 0, redirect: None }
    }

    pub fn order(&self) -> Vec<Server> {
        let in_turn = (0..self.configured).map(|i| Server::Configured((self.first + i) % self.configured));
        self.redirect.iter().cloned().map(Server::Named).chain(in_turn).collect()
    }

    /// This server won the race: the next attempt begins with it.
    pub fn prefer(&mut self, winner: &Server) {
        if let Server::Configured(at) = winner {
            self.redirect = None;
            self.first = *at;
        }
    }

    /// What was known of the way to each server was known of another network.
    pub fn start_over(&mut self) {
        self.first = 0;
    }

    /// An attempt failed: where it was sent, or where it went by itself.
    fn next(&mut self) {
        if self.redirect.take().is_none() {
            self.first = (self.first + 1) % self.configured;
        }
    }
}

/// What a failure ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A link that stood.
    Link,
    /// An attempt at one.
    Attempt,
}

impl Session {
    /// The server named another, or this one cannot be reached: the next attempt goes elsewhere.
    pub(super) fn choose_endpoint(&mut self, failure: &Failure, what: What) {
        let sent = matches!(failure.cause, Cause::UseAnotherServer | Cause::ServerMoved);
        let reference = failure.server_reference.as_deref().and_then(|text| text.split_whitespace().next());
        match reference.filter(|_| sent) {
            Some(to) => {
                info!(
                    event = "server.redirected",
                    to = format!("mqtts://{to}"),
                    "the server sends this device elsewhere"
                );
                self.endpoints.redirect = Some(to.to_owned());
            }
            None if what == What::Attempt || failure.cause == Cause::GatewaySilent => self.endpoints.next(),
            None => {}
        }
    }

    /// The server that is spoken to, or that the next attempt tries first, as people read it.
    pub(super) fn server_name(&self) -> String {
        if let Some(online) = self.online() {
            return online.server.clone();
        }
        match self.endpoints.order().into_iter().next() {
            Some(Server::Named(text)) => format!("mqtts://{text}"),
            Some(Server::Configured(at)) => self.settings.endpoints.get(at).cloned().unwrap_or_default(),
            None => String::new(),
        }
    }
}
