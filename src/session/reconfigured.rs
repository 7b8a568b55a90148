//! Another configuration while the session lives: what follows where the way to the servers changed.

use super::{Broker, Now, Phase, Server, Session, State};
use crate::keepalive::Cause;
use crate::vendors::Vendor;
use std::collections::BTreeMap;
use std::time::Duration;

/// The part of [`super::Settings`] that may change.
#[derive(Debug, Clone)]
pub struct Changeable {
    pub endpoints: Vec<String>,
    pub proxy: Option<String>,
    pub order: Vec<Vendor>,
    pub forced: Option<Vendor>,
    pub certificates: BTreeMap<Vendor, String>,
    pub linger: Duration,
    pub check_first: Duration,
    pub check_most: Duration,
}

impl Session {
    /// `way_changed`: an attempt that failed before may go well now.
    pub(super) fn on_reconfigured(&mut self, now: Now, new: Changeable, way_changed: bool) {
        let old = &self.settings;
        let servers = new.endpoints != old.endpoints;
        let proxy = new.proxy != old.proxy;
        let channels = (&new.order, &new.forced, &new.certificates) != (&old.order, &old.forced, &old.certificates);
        let Changeable { endpoints, proxy: new_proxy, order, forced, certificates, linger, check_first, check_most } =
            new;
        self.settings.endpoints = endpoints;
        self.settings.proxy = new_proxy;
        self.settings.order = order;
        self.settings.forced = forced;
        self.settings.certificates = certificates;
        self.settings.linger = linger;
        self.settings.check_first = check_first;
        self.settings.check_most = check_most;
        if channels {
            self.on_channel_facts(now);
        }
        if servers {
            self.endpoints = super::endpoints::Endpoints::new(self.settings.endpoints.len());
            self.broker = Broker::default();
        }
        match State::from(&self.phase) {
            State::Online => {
                let at = self.online().and_then(|online| self.place_of(&online.server));
                if let Some(at) = at {
                    self.endpoints.prefer(&Server::Configured(at));
                }
                // A server that another one named is as good as the configuration that led there.
                if proxy || (servers && at.is_none()) {
                    self.connect_anew(now, Cause::Reconfigured);
                }
            }
            State::Connecting if way_changed => self.dial_instead(now),
            State::Waiting if way_changed => self.try_again_at_once(now, Cause::Reconfigured),
            State::Resting if way_changed => self.check_soon(now),
            State::Stopped if way_changed => {
                self.enter(now, Phase::LoggedOut);
                self.want_connection(now);
            }
            _ => {}
        }
    }

    /// The server is not trusted, or does not trust this device: a change of the files would end that.
    pub fn waits_for_trust(&self) -> bool {
        let distrusted = self.cause.as_ref().is_some_and(|failure| failure.cause.is_tls());
        distrusted && State::from(&self.phase) == State::Waiting
    }

    pub(super) fn on_trust_changed(&mut self, now: Now) {
        if self.waits_for_trust() {
            self.try_again_at_once(now, Cause::Reconfigured);
        }
    }

    fn place_of(&self, server: &str) -> Option<usize> {
        self.settings.endpoints.iter().position(|configured| configured == server)
    }
}
