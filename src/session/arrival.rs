//! The network under the attempts, and since when: one that has just come may want a sign-in first.

use crate::keepalive::constants::PORTAL_TIME;
use crate::keepalive::{Cause, Moment};

/// The present network since it came.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    network: Option<String>,
    /// Nothing before the first look.
    since: Option<Moment>,
    /// A server has proven itself through it.
    proven: bool,
    told: bool,
}

impl Arrival {
    pub fn saw(&mut self, now: Moment, network: Option<&str>) {
        if self.since.is_none() || self.network.as_deref() != network {
            *self = Self { network: network.map(str::to_owned), since: Some(now), proven: false, told: false };
        }
    }

    pub fn prove(&mut self) {
        self.proven = true;
    }

    /// A portal may be in the way, and is opened by a person: soon, if at all. Its certificate can be wrong in any
    /// way there is; others let nothing through but the web.
    pub fn may_open(&self, now: Moment, cause: Cause) -> bool {
        let shut = cause.is_tls() || (cause.is_no_answer() && !self.proven);
        shut && self.since.is_some_and(|since| now.saturating_sub(since) < PORTAL_TIME)
    }

    /// Whoever answers here is not the server, and the server was never reached through this network.
    pub fn wants_sign_in(&self, cause: Cause) -> bool {
        cause.is_another_in_its_place() && !self.proven
    }

    /// The same, said once for each network.
    pub fn says_sign_in(&mut self, cause: Cause) -> bool {
        self.wants_sign_in(cause) && !std::mem::replace(&mut self.told, true)
    }
}
