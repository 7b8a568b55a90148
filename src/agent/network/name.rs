//! What a network is called: its kind and a hash of its router, never a name that a person gave it.
//!
//! A name outlives the connection and the release: what was learnt of a network is kept under it.

use crate::secret::fingerprint;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route by its interface's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hop {
    pub interface: String,
    /// Unspecified where the interface leads there by itself.
    pub gateway: IpAddr,
    pub source: Option<IpAddr>,
}

impl Hop {
    /// The gateway of a route towards an address of this family.
    pub fn gateway_or_unspecified(gateway: Option<IpAddr>, towards: IpAddr) -> IpAddr {
        gateway.unwrap_or(match towards {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        })
    }
}

/// The network that `taken` leads into. It is named after its router for the whole internet, so that it has
/// one name whichever family a server is reached over; `everywhere` are the routes there by IPv4 and IPv6.
/// `hardware` tells an IPv4 router's hardware address: many routers share an address.
pub(super) fn name(taken: &Hop, everywhere: [Option<&Hop>; 2], hardware: impl Fn(&Hop) -> Option<String>) -> String {
    // 464XLAT (RFC 6877): Android's interface `v4-X` translates for the IPv6 network behind `X`.
    let interface = taken.interface.strip_prefix("v4-").unwrap_or(&taken.interface);
    let router = everywhere.into_iter().flatten().find(|hop| hop.interface == interface).unwrap_or(taken);
    let hashed = match router.gateway {
        IpAddr::V4(gateway) if gateway.is_unspecified() => fingerprint(&format!("{gateway} ")),
        IpAddr::V4(gateway) => fingerprint(&format!("{gateway} {}", hardware(router).unwrap_or_default())),
        IpAddr::V6(gateway) => {
            fingerprint(&gateway.octets().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
    };
    format!("{}-{hashed}", kind(interface))
}

fn kind(interface: &str) -> &'static str {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| interface.starts_with(prefix));
    match () {
        () if starts(&["wl", "ath", "ra"]) => "wifi",
        () if starts(&["rmnet", "wwan", "ccmni", "ppp", "pdp"]) => "cell",
        () if starts(&["eth", "en", "usb"]) => "wired",
        () => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(interface: &str, gateway: &str) -> Hop {
        Hop { interface: interface.into(), gateway: gateway.parse().expect("an address"), source: None }
    }

    fn named(taken: &Hop, v4: Option<&Hop>, v6: Option<&Hop>) -> String {
        name(taken, [v4, v6], |_| Some("aa:bb:cc:dd:ee:ff".into()))
    }

    #[test]
    fn records_of_earlier_releases_keep_their_networks() {
        // The texts that 0.1 hashed: from /proc/net/route and arp, and from /proc/net/ipv6_route.
        let wifi = hop("wlan0", "10.0.1.1");
        assert_eq!(named(&wifi, Some(&wifi), None), format!("wifi-{}", fingerprint("10.0.1.1 aa:bb:cc:dd:ee:ff")));
        let cell = hop("rmnet0", "0.0.0.0");
        assert_eq!(named(&cell, Some(&cell), None), format!("cell-{}", fingerprint("0.0.0.0 ")));
        let v6 = hop("wlan0", "fe80::1");
        assert_eq!(named(&v6, None, Some(&v6)), format!("wifi-{}", fingerprint("fe800000000000000000000000000001")));
        assert_eq!(name(&wifi, [None, None], |_| None), format!("wifi-{}", fingerprint("10.0.1.1 ")));
    }

    #[test]
    fn a_network_has_one_name_whichever_family_and_route_lead_to_the_server() {
        let (v4, v6) = (hop("wlan0", "10.0.1.1"), hop("wlan0", "fe80::1"));
        let here = named(&v4, Some(&v4), Some(&v6));
        for taken in [&v6, &hop("wlan0", "0.0.0.0"), &hop("wlan0", "10.0.1.7")] {
            assert_eq!(named(taken, Some(&v4), Some(&v6)), here, "{taken:?}");
        }
    }

    #[test]
    fn of_two_uplinks_the_one_that_is_taken_is_named() {
        let (wifi, cell) = (hop("wlan0", "10.0.1.1"), hop("rmnet0", "10.0.2.1"));
        assert_eq!(named(&cell, Some(&wifi), None), named(&cell, Some(&cell), None));
        assert!(named(&hop("wg0", "0.0.0.0"), Some(&wifi), None).starts_with("other-"));
    }

    #[test]
    fn a_translated_network_is_named_after_the_ipv6_network_below() {
        let (clat, below) = (hop("v4-rmnet0", "0.0.0.0"), hop("rmnet0", "fe80::7"));
        assert_eq!(named(&clat, Some(&clat), Some(&below)), named(&below, Some(&clat), Some(&below)));
        assert!(named(&clat, Some(&clat), None).starts_with("cell-"));
    }
}
