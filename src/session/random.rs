//! Names for connections and logins, from one random seed of the system.

use crate::ids::Nonce;
use std::fmt::Write as _;

/// splitmix64 (Steele, Lea, Flood 2014). What it makes has to differ, not to be secret.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn nonce(&mut self) -> Nonce {
        Nonce::from_number(self.next())
    }

    /// Sixteen hexadecimal digits.
    pub fn name(&mut self) -> String {
        let mut name = String::with_capacity(16);
        // Writing into a String cannot fail.
        let _ = write!(name, "{:016x}", self.next());
        name
    }
}
