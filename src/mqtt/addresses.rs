//! From a server's name to its addresses, in the order in which they are tried.

use super::MqttError;
use crate::keepalive::Cause;
use std::net::SocketAddr;

/// Most addresses of one name that are raced.
const MAX_ADDRESSES: usize = 8;

/// The addresses of `host`, at most [`MAX_ADDRESSES`], families in turn.
///
/// # Errors
/// `dns_failed` with what the resolver said.
pub(super) async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, MqttError> {
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(|e| MqttError::new(Cause::DnsFailed, format!("{host}: {e}")))?
        .take(MAX_ADDRESSES)
        .collect::<Vec<_>>();
    if found.is_empty() {
        return Err(MqttError::new(Cause::DnsFailed, format!("{host}: the name has no address")));
    }
    Ok(interleaved(found))
}

/// Address families alternate (RFC 8305, section 4), so that one broken family costs one step.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let longest = first.len().max(second.len());
    (0..longest).flat_map(|i| [first.get(i), second.get(i)]).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_take_turns() {
        let of = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("an address")).collect::<Vec<SocketAddr>>();
        let given = of(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        assert_eq!(interleaved(given), of(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]));
    }
}
