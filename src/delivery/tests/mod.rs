//! The core, walked through state by state, and driven through orders that no person would think of.

mod orders;
mod walk;

use super::policy::{CertificateState, Facts, MultiDevice};
use serde_json::Value as Json;

/// A message that may be pushed.
const FACTS: Facts<'_> = Facts {
    ext: &Json::Null,
    command: false,
    device: "phone",
    notifier: "n",
    age_s: 0,
    push_life_s: 3600,
    policy: MultiDevice::AllOffline,
    others_online: false,
    has_it_elsewhere: false,
    silenced: false,
    bound: true,
    dead: false,
    switched_off: false,
    certificate: CertificateState::Ready,
};
