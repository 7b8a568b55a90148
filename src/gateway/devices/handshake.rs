//! Handshakes under way: how many at once, and what one that failed is called.

use rustls::{AlertDescription, Error, PeerIncompatible};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Handshakes under way, in all and from one address: thousands sit behind one NAT, and so may an attacker.
const AT_ONCE: usize = 8192;
const OF_ONE: usize = 2048;

/// Handshakes under way, by address. A load balancer's has none until its header has come.
#[derive(Clone, Default)]
pub(super) struct Handshakes(Arc<Mutex<HashMap<Option<IpAddr>, usize>>>);

/// One of them; dropping it ends it.
pub(super) struct Handshake(Handshakes, Option<IpAddr>);

impl Handshakes {
    pub fn begin(&self, from: Option<IpAddr>) -> Option<Handshake> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = under_way.values().sum();
        let of_one = under_way.get(&from).copied().unwrap_or(0);
        if all >= AT_ONCE || from.is_some() && of_one >= OF_ONE {
            return None;
        }
        *under_way.entry(from).or_default() += 1;
        Some(Handshake(self.clone(), from))
    }
}

impl Handshake {
    /// The load balancer has said whose it is.
    pub fn of(self, from: IpAddr) -> Option<Self> {
        let handshakes = self.0.clone();
        drop(self);
        handshakes.begin(Some(from))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut under_way = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.1);
            }
        }
    }
}

/// The word that a handshake which did not come about is counted under: what the peer holds against the gateway's
/// certificate, or the version of TLS that only one of the two speaks.
pub(super) fn word(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => match alert {
            AlertDescription::CertificateExpired => "the peer finds the certificate out of its dates",
            AlertDescription::UnknownCA => "the peer does not know the certificate's authority",
            AlertDescription::BadCertificate => "the peer finds the certificate bad, as one of another name",
            AlertDescription::DecryptError => "the peer finds a signature bad, as of another authority of that name",
            AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
                "a version of TLS that the peer does not take"
            }
            _ => "the peer broke the handshake off",
        },
        Some(Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            // Before TLS 1.2 there was none.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        )) => "a version of TLS that is not spoken",
        Some(Error::PeerIncompatible(_)) => "TLS with nothing in common",
        _ => "no TLS handshake",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_handshakes_under_way_and_a_load_balancer_as_many_as_its_devices() {
        let handshakes = Handshakes::default();
        let balancers: Vec<_> = (0..=OF_ONE).map(|_| handshakes.begin(None).expect("one more")).collect();
        let [device, other] = ["192.0.2.7", "192.0.2.8"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let (mut known, mut last) = (Vec::new(), None);
        for (n, handshake) in balancers.into_iter().enumerate() {
            match handshake.of(device) {
                Some(handshake) => known.push(handshake),
                None => last = Some(n),
            }
        }
        assert_eq!((known.len(), last), (OF_ONE, Some(OF_ONE)));
        assert!(handshakes.begin(Some(device)).is_none() && handshakes.begin(Some(other)).is_some());
        known.pop();
        assert!(handshakes.begin(None).and_then(|handshake| handshake.of(device)).is_some());
    }
}
