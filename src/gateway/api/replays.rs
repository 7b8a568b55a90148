//! Which callbacks came a while ago: one that comes twice counts once, and what proved it proves no other body.

use ring::digest::{Context, SHA256, digest};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// How long one is remembered, in milliseconds: as long as a signed time is believed, before and after it.
const LIFE_MS: u64 = 600_000;
/// Callbacks that are remembered; beyond that the oldest go.
const MOST: usize = 50_000;

type Digest = [u8; 32];

/// Whether a callback came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    Never,
    /// Just the same.
    Same,
    /// With the same proof, and another body.
    Otherwise,
}

/// What a callback is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Callback {
    key: Digest,
    body: Digest,
}

impl Callback {
    /// `proof` is never the same in two callbacks; without one the body alone tells them apart.
    pub fn new(app: &str, certificate: &str, proof: Option<&str>, body: &[u8]) -> Self {
        let body = hashed(&[body]);
        let by = proof.map_or(body.as_slice(), str::as_bytes);
        let kind: &[u8] = if proof.is_some() { b"proof" } else { b"body" };
        Self { key: hashed(&[app.as_bytes(), certificate.as_bytes(), kind, by]), body }
    }
}

fn hashed(parts: &[&[u8]]) -> Digest {
    let mut whole = Context::new(&SHA256);
    for part in parts {
        whole.update(digest(&SHA256, part).as_ref());
    }
    whole.finish().as_ref().try_into().unwrap_or_default()
}

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Replays(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    bodies: HashMap<Digest, Digest>,
    oldest_first: VecDeque<(u64, Digest)>,
}

impl Replays {
    pub(super) fn look(&self, callback: &Callback, now_ms: u64) -> Before {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.forget(now_ms);
        match remembered.bodies.get(&callback.key) {
            None => Before::Never,
            Some(body) if *body == callback.body => Before::Same,
            Some(_) => Before::Otherwise,
        }
    }

    /// It was taken: only then may a second one be passed over.
    pub(super) fn taken(&self, callback: Callback, now_ms: u64) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.bodies.insert(callback.key, callback.body).is_none() {
            remembered.oldest_first.push_back((now_ms, callback.key));
        }
        remembered.forget(now_ms);
    }
}

impl Remembered {
    fn forget(&mut self, now_ms: u64) {
        while let Some((at_ms, key)) = self.oldest_first.front()
            && (at_ms + LIFE_MS <= now_ms || self.oldest_first.len() > MOST)
        {
            self.bodies.remove(key);
            self.oldest_first.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(proof: &str, body: &str) -> Callback {
        Callback::new("o#a", "1", Some(proof), body.as_bytes())
    }

    #[test]
    fn a_proof_is_for_one_body_and_is_remembered_as_long_as_it_is_believed() {
        let replays = Replays::default();
        assert_eq!(replays.look(&signed("p", "b"), 0), Before::Never);
        assert_eq!(replays.look(&signed("p", "b"), 0), Before::Never, "it was not taken");
        replays.taken(signed("p", "b"), 0);
        assert_eq!(replays.look(&signed("p", "b"), 1), Before::Same);
        assert_eq!(replays.look(&signed("p", "c"), LIFE_MS - 1), Before::Otherwise);
        assert_eq!(replays.look(&signed("q", "b"), 1), Before::Never);
        assert_eq!(replays.look(&Callback::new("o#a", "2", Some("p"), b"c"), 1), Before::Never);
        assert_eq!(replays.look(&signed("p", "c"), LIFE_MS), Before::Never);
    }

    #[test]
    fn without_a_proof_the_same_body_is_the_same_callback() {
        let replays = Replays::default();
        let plain = |body: &str| Callback::new("o#a", "1", None, body.as_bytes());
        replays.taken(plain("b"), 0);
        assert_eq!((replays.look(&plain("b"), 1), replays.look(&plain("c"), 1)), (Before::Same, Before::Never));
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let replays = Replays::default();
        for number in 0..=MOST {
            replays.taken(signed(&number.to_string(), ""), 0);
        }
        assert_eq!(replays.look(&signed("0", "x"), 0), Before::Never);
        assert_eq!(replays.look(&signed("1", "x"), 0), Before::Otherwise);
    }
}
