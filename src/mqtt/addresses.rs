//! From a server's name to its addresses, in the order in which they are tried.

use super::MqttError;
use crate::keepalive::Cause;
use crate::names::Names;
use std::net::SocketAddr;

/// Most addresses of one name that are raced.
const MAX_ADDRESSES: usize = 8;

/// The addresses of `host`, at most [`MAX_ADDRESSES`], families in turn.
///
/// # Errors
/// `dns_failed` with who was asked and how each failed.
pub(super) async fn addresses(names: &Names, host: &str, port: u16) -> Result<Vec<SocketAddr>, MqttError> {
    let found = names.lookup(host, port).await.map_err(|e| MqttError::new(Cause::DnsFailed, e.to_string()))?;
    let mut addresses = interleaved(found.addresses);
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
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
