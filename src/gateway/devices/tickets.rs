//! TLS tickets that a restart of the gateway does not void, so that a storm of devices that come back resumes.
//!
//! A key of each day is derived from a secret of the store's; a ticket is good on its day and the next two. RFC 8446,
//! section 4.6.1, bounds a ticket's life to seven days. A stolen store would open what was said in sessions that were
//! resumed without a key exchange; TLS 1.3 resumes with one (psk_dhe_ke, all that rustls does).

use crate::secret::Secret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;
use std::fmt;

/// How long a client may keep a ticket, in seconds.
const LIFETIME_S: u32 = 2 * 86_400;
const DAY_S: u64 = 86_400;

pub(super) struct Tickets {
    secret: Secret,
    random: SystemRandom,
    now_s: fn() -> u64,
}

impl Tickets {
    pub fn new(secret: Secret) -> Self {
        Self { secret, random: SystemRandom::new(), now_s: || crate::gateway::clock::now_ms() / 1000 }
    }

    fn key(&self, day: u64) -> Option<LessSafeKey> {
        let salt = Salt::new(HKDF_SHA256, b"impush ticket").extract(self.secret.expose().as_bytes());
        let day = day.to_be_bytes();
        let derived = salt.expand(&[&day[..]], &CHACHA20_POLY1305).map(UnboundKey::from);
        derived.ok().map(LessSafeKey::new)
    }

    fn today(&self) -> u64 {
        (self.now_s)() / DAY_S
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME_S
    }

    /// `day (8) | nonce (12) | sealed`
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let day = self.today();
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let key = self.key(day)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).ok()?;
        Some([&day.to_be_bytes()[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (day, rest) = ticket.split_first_chunk::<8>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (day, today) = (u64::from_be_bytes(*day), self.today());
        if day > today + 1 || day + 2 < today {
            return None;
        }
        let mut plain = sealed.to_vec();
        let opened =
            self.key(day)?.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut plain).ok()?.len();
        plain.truncate(opened);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(day: fn() -> u64, secret: &str) -> Tickets {
        Tickets { now_s: day, ..Tickets::new(Secret::new(secret)) }
    }

    #[test]
    fn a_ticket_outlives_a_restart_and_ends_after_its_days() {
        let ticket = on(|| 100 * DAY_S, "a").encrypt(b"session").expect("a ticket");
        for (later, opens) in [(100, true), (101, true), (102, true), (103, false), (99, true), (98, false)] {
            let again = match later {
                98 => on(|| 98 * DAY_S, "a"),
                99 => on(|| 99 * DAY_S, "a"),
                100 => on(|| 100 * DAY_S, "a"),
                101 => on(|| 101 * DAY_S, "a"),
                102 => on(|| 102 * DAY_S, "a"),
                _ => on(|| 103 * DAY_S, "a"),
            };
            assert_eq!(again.decrypt(&ticket).as_deref(), opens.then_some(&b"session"[..]), "day {later}");
        }
        assert_eq!(on(|| 100 * DAY_S, "b").decrypt(&ticket), None, "another installation's");
    }

    #[test]
    fn what_is_no_ticket_opens_nothing() {
        let tickets = on(|| 100 * DAY_S, "a");
        let good = tickets.encrypt(b"session").expect("a ticket");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(tickets.decrypt(&bad), None, "byte {at}");
            assert_eq!(tickets.decrypt(&good[..at]), None, "{at} bytes");
        }
    }
}
