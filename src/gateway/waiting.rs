//! What a start waits for: a database or a broker that is not there yet is no reason to end, and a person who looks is
//! told what it is.

use crate::service::Service;
use std::fmt::Display;
use std::time::Duration;
use tracing::{debug, warn};

/// How often the service manager is told that it goes on, and how much longer it is to wait after each time.
pub const EVERY: Duration = Duration::from_secs(5);
const MORE: Duration = Duration::from_secs(60);

/// One thing after the other.
#[derive(Debug, Default)]
pub struct Waiting {
    said: Option<&'static str>,
}

impl Waiting {
    /// `what` is not there: said once in the log, and to the service manager each time.
    pub fn lasts(&mut self, service: &mut Service, what: &'static str, why: &dyn Display) {
        if self.said == Some(what) {
            debug!(event = "gateway.waiting", what, %why, "still waiting");
        } else {
            warn!(event = "gateway.waiting", what, %why, "the start waits until it is there");
            self.said = Some(what);
        }
        service.waiting(format!("waiting for {what}: {why}"), MORE);
    }
}
