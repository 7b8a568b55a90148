//! How often a password may be guessed: for one user, and from one address.
//!
//! A value: time comes in with each question. What is refused here costs no hash, and does not count.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Wrong passwords for one user until the next is held back: NIST SP 800-63B section 3.2.2 allows up to 100.
const FREE_OF_USER: u32 = 10;
/// ... and from one address, behind which many users may be.
const FREE_OF_ADDRESS: u32 = 100;
/// The first delay, in milliseconds; each further wrong password doubles it.
const FIRST_MS: u64 = 1000;
/// The longest delay: a user who is locked out waits no longer, so that guessing for others is no way to keep them
/// out for good. In milliseconds.
const LONGEST_MS: u64 = 15 * 60_000;
/// After so long without a wrong password all are forgotten, in milliseconds.
const FORGET_MS: u64 = 3_600_000;
/// Users, and addresses, that are remembered; beyond that those go whose time is over, then all.
const MOST: usize = 100_000;

#[derive(Debug, Clone, Copy, Default)]
struct Wrong {
    count: u32,
    last_ms: u64,
    /// From when on the next may be tried.
    next_ms: u64,
}

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Attempts(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    users: HashMap<(String, String), Wrong>,
    addresses: HashMap<IpAddr, Wrong>,
}

impl Attempts {
    /// How many milliseconds the next try has to wait; 0: it may be made, and counts as wrong until
    /// [`Attempts::right`] says otherwise, so that many at once are not one.
    pub fn begin(&self, app: &str, user: &str, address: Option<IpAddr>, now_ms: u64) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = (app.to_owned(), user.to_owned());
        let waits = |wrong: Option<&Wrong>| wrong.map_or(0, |wrong| wrong.next_ms.saturating_sub(now_ms));
        let wait = waits(known.users.get(&of_user))
            .max(waits(address.as_ref().and_then(|address| known.addresses.get(address))));
        if wait == 0 {
            count(&mut known.users, of_user, FREE_OF_USER, now_ms);
            address.into_iter().for_each(|from| count(&mut known.addresses, from, FREE_OF_ADDRESS, now_ms));
        }
        wait
    }

    /// The same for what no user is named with, as an enrolment code: only the address counts, so that nobody keeps
    /// others out.
    pub fn begin_from(&self, address: Option<IpAddr>, now_ms: u64) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(address) = address else { return 0 };
        let wait = known.addresses.get(&address).map_or(0, |wrong| wrong.next_ms.saturating_sub(now_ms));
        if wait == 0 {
            count(&mut known.addresses, address, FREE_OF_ADDRESS, now_ms);
        }
        wait
    }

    /// What came from there was no guess.
    pub fn right_from(&self, address: Option<IpAddr>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.forgive(address);
    }

    /// The password was right, or was not looked at: that user's wrong ones are forgotten, and the address's are one
    /// less.
    pub fn right(&self, app: &str, user: &str, address: Option<IpAddr>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.users.remove(&(app.to_owned(), user.to_owned()));
        known.forgive(address);
    }
}

impl Known {
    fn forgive(&mut self, address: Option<IpAddr>) {
        if let Some(wrong) = address.and_then(|address| self.addresses.get_mut(&address)) {
            wrong.count = wrong.count.saturating_sub(1);
            wrong.next_ms = 0;
        }
    }
}

fn count<K: Eq + Hash>(all: &mut HashMap<K, Wrong>, key: K, free: u32, now_ms: u64) {
    let over = |wrong: &Wrong| wrong.last_ms.max(wrong.next_ms) + FORGET_MS <= now_ms;
    if all.len() >= MOST && !all.contains_key(&key) {
        all.retain(|_, wrong| !over(wrong));
        if all.len() >= MOST {
            all.clear();
        }
    }
    let wrong = all.entry(key).or_default();
    if over(wrong) {
        *wrong = Wrong::default();
    }
    wrong.count += 1;
    wrong.last_ms = now_ms;
    let beyond = wrong.count.saturating_sub(free);
    if beyond > 0 {
        wrong.next_ms = now_ms + (FIRST_MS << (beyond - 1).min(20)).min(LONGEST_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn from(last: u8) -> Option<IpAddr> {
        Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
    }

    #[test]
    fn wrong_passwords_wait_longer_and_longer_and_the_right_one_ends_that() {
        let attempts = Attempts::default();
        let mut now = 1;
        let mut waits = Vec::new();
        for _ in 0..24 {
            let wait = attempts.begin("o#a", "ann", from(1), now);
            waits.push(wait);
            now += wait;
            if wait > 0 {
                assert_eq!(attempts.begin("o#a", "ann", from(2), now), 0);
                now += attempts.begin("o#a", "ann", from(2), now);
            }
        }
        assert_eq!(waits[..11], [0; 11], "mistakes happen");
        assert_eq!(waits[11], 1000);
        assert_eq!(waits.last(), Some(&LONGEST_MS), "{waits:?}");
        attempts.right("o#a", "ann", from(1));
        assert_eq!(attempts.begin("o#a", "ann", from(1), now), 0);
    }

    #[test]
    fn what_is_held_back_for_one_user_holds_nobody_else_back() {
        let attempts = Attempts::default();
        // 40 a second for a minute.
        let tried = (0..2400).filter(|n| attempts.begin("o#a", "ann", from(1), n * 25) == 0).count();
        assert!((15..=17).contains(&tried), "{tried}");
        assert_eq!(attempts.begin("o#a", "bob", from(1), 60_000), 0);
        assert_eq!(attempts.begin("o#b", "ann", from(1), 60_000), 0);
    }

    #[test]
    fn an_address_that_guesses_for_many_users_is_held_back_and_no_other() {
        let attempts = Attempts::default();
        let tried = (0..1000).filter(|n| attempts.begin("o#a", &format!("u{n}"), from(1), 1000) == 0).count();
        assert_eq!(tried, 101);
        assert_eq!(attempts.begin("o#a", "u1000", from(2), 1000), 0);
        assert!(attempts.begin_from(from(1), 1000) > 0, "nor may it guess enrolment codes");
        let guessed = (0..1000).filter(|_| attempts.begin_from(from(3), 1000) == 0).count();
        assert_eq!(guessed, 101);
        assert_eq!((attempts.begin_from(from(2), 1000), attempts.begin_from(None, 1000)), (0, 0));
        assert_eq!(attempts.begin("o#a", "u1001", None, 1000), 0, "an address that is not known is not counted");
        assert_eq!(attempts.begin("o#a", "u1002", from(1), 1000 + FORGET_MS + 1001), 0, "and not for ever");
    }
}
