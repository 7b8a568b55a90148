//! What a broker itself says of its clients: EMQX and RMQTT publish each connection's end.
//!
//! <https://docs.emqx.com/en/emqx/latest/observability/mqtt-system-topics.html>,
//! <https://github.com/rmqtt/rmqtt/blob/master/docs/en_US/sys-topic.md>: the same topic, and JSON with
//! `clientid`, `disconnected_at` (milliseconds since the Unix epoch) and `reason`.
//!
//! A device's will says which connection ended; such an event does not, and a broker may tell of an old
//! connection's end long after the device has come back by another node. So it never makes a device offline: it
//! only cuts short the wait for acknowledgements on a connection that is older than the event by more than the
//! clocks may differ.

use crate::protocol::Address;
use serde::Deserialize;

/// Every client of every node.
pub(super) const FILTER: &str = "$SYS/brokers/+/clients/+/disconnected";

/// How far the clocks of brokers and gateways may be apart, in milliseconds.
pub(super) const CLOCKS_MS: u64 = 10_000;

/// Reasons that say that the same client has come back: EMQX (`takenover`, `discarded`), RMQTT (`Kicked`).
const CAME_BACK: [&str; 3] = ["takenover", "discarded", "Kicked"];

/// A device's connection is over, or an earlier one was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gone {
    pub address: Address,
    /// By the broker's clock.
    pub at_ms: u64,
}

#[derive(Deserialize)]
struct Event {
    clientid: String,
    disconnected_at: u64,
    #[serde(default)]
    reason: String,
}

pub(super) fn is_event(topic: &str) -> bool {
    topic.starts_with("$SYS/")
}

/// `None` for other clients than devices, and for a device that is back already.
///
/// # Errors
/// A sentence when the payload is not the documented JSON.
pub(super) fn gone(payload: &[u8]) -> Result<Option<Gone>, String> {
    let event: Event = serde_json::from_slice(payload).map_err(|e| format!("not a broker's event: {e}"))?;
    if CAME_BACK.contains(&event.reason.as_str()) {
        return Ok(None);
    }
    Ok(Address::from_client_id(&event.clientid).map(|address| Gone { address, at_ms: event.disconnected_at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(client: &str, reason: &str) -> Vec<u8> {
        format!(
            r#"{{"clientid":"{client}","username":"o%23a/ann","reason":"{reason}","disconnected_at":1625572213873}}"#
        )
        .into_bytes()
    }

    #[test]
    fn a_devices_end_is_read_and_that_of_other_clients_passed_over() {
        let address = Address::new("o#a", "用户 1", "phone").expect("an address");
        let read = gone(&event(&address.client_id(), "tcp_closed")).expect("read");
        assert_eq!(read, Some(Gone { address, at_ms: 1_625_572_213_873 }));
        for other in ["impush-gateway-1", "", "ann:phone@o%23a~probe", "ann:~0f@o%23a"] {
            assert_eq!(gone(&event(other, "tcp_closed")), Ok(None), "{other}");
        }
    }

    #[test]
    fn one_whose_client_came_back_says_nothing() {
        for reason in ["takenover", "discarded", "Kicked"] {
            assert_eq!(gone(&event("ann:phone@o%23a", reason)), Ok(None), "{reason}");
        }
    }

    #[test]
    fn what_is_not_an_event_is_refused() {
        for payload in
            ["", "[]", "{}", r#"{"clientid":7,"disconnected_at":1}"#, r#"{"clientid":"a:b@c","disconnected_at":-1}"#]
        {
            assert!(gone(payload.as_bytes()).is_err(), "{payload}");
        }
    }
}
