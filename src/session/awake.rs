//! Until when the device must not fall asleep under what is under way.

use super::{Phase, Session};
use crate::keepalive::Moment;
use crate::keepalive::constants::CONNECT_TIMEOUT;
use std::time::Duration;

/// What the end of a wait itself takes.
const MARGIN: Duration = Duration::from_secs(1);

impl Session {
    /// While a packet is unanswered, its patience and a second; while an attempt is under way, its time and a second.
    /// Nothing while nothing is awaited.
    pub fn awake_until(&self) -> Option<Moment> {
        match &self.phase {
            Phase::Online(online) => online.link.awaited_until().map(|deadline| deadline + MARGIN),
            Phase::Connecting { .. } => Some(self.since + CONNECT_TIMEOUT + MARGIN),
            Phase::LoggedOut | Phase::Waiting(_) | Phase::Resting | Phase::Stopped(_) => None,
        }
    }
}
