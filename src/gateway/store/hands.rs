//! Which users' jobs the store's threads have in hand: what comes of one of them is its thread's, as two transactions never hold
//! a user at a time.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;

/// Users by their hashes: two of one hash are taken for one.
#[derive(Debug, Default)]
pub(super) struct Hands {
    hash: RandomState,
    /// A user's thread, and for how many jobs.
    users: HashMap<u64, (usize, usize)>,
}

/// A user that is in hand for one job.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Hands {
    /// A job of these users comes to a thread. Returns whose it is: that thread's, or another's which has one of them in hand.
    /// Users that a third one has stay that one's: where they meet, the database's locks say who waits.
    pub fn take(&mut self, users: &[String], thread: usize) -> (usize, Vec<Mark>) {
        let hashes: Vec<u64> = users.iter().map(|user| self.hash.hash_one(user)).collect();
        let other = hashes.iter().filter_map(|user| self.users.get(user)).find(|(at, _)| *at != thread);
        let whose = other.map_or(thread, |(at, _)| *at);
        let mut marks = Vec::with_capacity(hashes.len());
        for user in hashes {
            let (at, jobs) = self.users.entry(user).or_insert((whose, 0));
            if *at == whose {
                *jobs += 1;
                marks.push(Mark(user));
            }
        }
        (whose, marks)
    }

    /// Jobs are done.
    pub fn done(&mut self, marks: impl Iterator<Item = Mark>) {
        for Mark(user) in marks {
            let Entry::Occupied(mut held) = self.users.entry(user) else { continue };
            held.get_mut().1 -= 1;
            if held.get().1 == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_jobs_are_one_threads_until_all_of_them_are_done() {
        let mut hands = Hands::default();
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (at, ann) = hands.take(&of(&["ann"]), 0);
        assert_eq!(at, 0);
        let (at, both) = hands.take(&of(&["ben", "ann"]), 1);
        assert_eq!(at, 0, "it is left to who is at one of them");
        let (at, ben) = hands.take(&of(&["ben"]), 1);
        assert_eq!(at, 0, "and so is what comes after it");
        let (at, cid) = hands.take(&of(&["cid"]), 1);
        assert_eq!(at, 1);
        let (at, two) = hands.take(&of(&["ann", "cid"]), 2);
        assert_eq!((at, two.len()), (0, 1), "cid stays where it is");
        hands.done(ann.into_iter().chain(both).chain(two));
        assert_eq!(hands.take(&of(&["ann"]), 1).0, 1);
        assert_eq!(hands.take(&of(&["ben"]), 1).0, 0);
        hands.done(ben.into_iter().chain(cid));
        assert_eq!(hands.take(&of(&[]), 3), (3, Vec::new()));
    }
}
