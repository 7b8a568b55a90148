//! How far each local app has come, and which numbering its numbers belong to.

use super::index::Index;
use crate::secret::random_hex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Apps whose cursors are kept. Beyond it one that is not attached, and furthest behind, is forgotten.
const MOST_APPS: usize = 64;

/// Days after which an app that does not come back is waited for no more.
const ABSENT_DAYS: u64 = 90;
/// No clock that is right says an earlier day: 2025-01-01.
const EARLIEST_DAY: u64 = 20_089;

/// How far one app has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Everything below it is done with.
    position: u64,
    /// Numbers above it that are done with too.
    #[serde(default)]
    taken: BTreeSet<u64>,
    /// Messages it will not get, because there was no room for them, and has not heard of yet.
    #[serde(default)]
    missed: u64,
    /// The day it was last here, since the Unix epoch; 0 where the clock could not say.
    #[serde(default)]
    seen: u64,
}

impl Cursor {
    const fn at(position: u64) -> Self {
        Self { position, taken: BTreeSet::new(), missed: 0, seen: 0 }
    }

    pub fn passed(&self, number: u64) -> bool {
        number < self.position || self.taken.contains(&number)
    }

    pub const fn position(&self) -> u64 {
        self.position
    }

    pub const fn missed(&self) -> u64 {
        self.missed
    }

    /// Moves the position over all that is taken or no longer there.
    fn settle(&mut self, index: &Index, next: u64) {
        let waiting =
            index.range(self.position..).map(|(number, _)| number).find(|number| !self.taken.contains(number));
        self.position = waiting.unwrap_or(next).max(self.position);
        self.taken = self.taken.split_off(&self.position);
    }
}

/// The content of `cursors.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cursors {
    /// Random; another whenever numbers may mean other messages than before.
    pub epoch: String,
    /// The next number when this was written.
    pub next: u64,
    /// What any app has taken.
    anyone: Cursor,
    apps: BTreeMap<String, Cursor>,
}

impl Cursors {
    pub fn new() -> Self {
        Self { epoch: random_hex::<16>(), next: 1, anyone: Cursor::at(0), apps: BTreeMap::new() }
    }

    /// A number that nothing in here is above.
    pub fn highest(&self) -> u64 {
        self.apps.values().chain([&self.anyone]).map(Cursor::position).fold(self.next, u64::max)
    }

    pub const fn anyone(&self) -> &Cursor {
        &self.anyone
    }

    pub fn apps(&self) -> impl Iterator<Item = (&str, &Cursor)> {
        self.apps.iter().map(|(name, cursor)| (name.as_str(), cursor))
    }

    /// The app's cursor. The first app begins at the oldest message nobody took, a later one at `next`.
    /// `true` if it is new.
    pub fn know(&mut self, app: &str, next: u64, attached: &BTreeSet<String>) -> (&Cursor, bool) {
        let new = !self.apps.contains_key(app);
        if new && self.apps.len() >= MOST_APPS {
            let idle = self.apps.iter().filter(|(name, _)| !attached.contains(*name));
            let last = idle.min_by_key(|(_, cursor)| cursor.position).map(|(name, _)| name.clone());
            self.apps.retain(|name, _| Some(name) != last.as_ref());
        }
        let begin = if self.apps.is_empty() { self.anyone.clone() } else { Cursor::at(next) };
        (self.apps.entry(app.to_owned()).or_insert(begin), new)
    }

    /// Returns those that nobody had taken before.
    pub fn take(&mut self, app: &str, numbers: &[u64], index: &Index, next: u64) -> Vec<u64> {
        let first = numbers.iter().copied().filter(|number| !self.anyone.passed(*number)).collect();
        for cursor in self.apps.get_mut(app).into_iter().chain([&mut self.anyone]) {
            cursor.taken.extend(numbers.iter().copied().filter(|number| *number >= cursor.position));
            cursor.settle(index, next);
        }
        first
    }

    /// Every app is done with all there is.
    pub fn pass_everything(&mut self, next: u64) {
        for cursor in self.apps.values_mut().chain([&mut self.anyone]) {
            *cursor = Cursor { missed: cursor.missed, ..Cursor::at(next) };
        }
    }

    /// Whether nobody needs the message any more.
    pub fn done(&self, number: u64) -> bool {
        if self.apps.is_empty() {
            return self.anyone.passed(number);
        }
        self.apps.values().all(|cursor| cursor.passed(number))
    }

    /// A message goes that these apps have not taken.
    pub fn miss(&mut self, number: u64) {
        for cursor in self.apps.values_mut().filter(|cursor| !cursor.passed(number)) {
            cursor.missed += 1;
        }
    }

    pub fn gap_told(&mut self, app: &str) -> bool {
        self.apps.get_mut(app).is_some_and(|cursor| std::mem::take(&mut cursor.missed) > 0)
    }

    /// The app is here on this day since the Unix epoch. `true` if that is news.
    pub fn see(&mut self, app: &str, today: u64) -> bool {
        let known = self.apps.get_mut(app).filter(|cursor| today >= EARLIEST_DAY && cursor.seen != today);
        known.map(|cursor| cursor.seen = today).is_some()
    }

    /// Forgets apps that have not been here for [`ABSENT_DAYS`], and names them. One whose day is not known is given
    /// this one.
    pub fn forget_absent(&mut self, today: u64, attached: &BTreeSet<String>) -> Vec<String> {
        if today < EARLIEST_DAY {
            return Vec::new();
        }
        for cursor in self.apps.values_mut().filter(|cursor| cursor.seen == 0 || cursor.seen > today) {
            cursor.seen = today;
        }
        let absent = |(name, cursor): (&String, &Cursor)| {
            (cursor.seen + ABSENT_DAYS < today && !attached.contains(name)).then(|| name.clone())
        };
        let gone: Vec<String> = self.apps.iter().filter_map(absent).collect();
        self.apps.retain(|name, _| !gone.contains(name));
        gone
    }

    pub fn forget(&mut self, app: &str) -> bool {
        self.apps.remove(app).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_has_not_come_for_three_months_is_forgotten_and_a_wrong_clock_forgets_nobody() {
        let (today, mut cursors) = (EARLIEST_DAY + 700, Cursors::new());
        let attached: BTreeSet<String> = ["mail".to_owned()].into();
        for app in ["mail", "gone"] {
            cursors.know(app, 1, &attached);
            assert!(cursors.see(app, today) && !cursors.see(app, today), "{app}: news once a day");
        }
        assert!(!cursors.see("gone", 3), "a clock of 1970 says nothing");
        for day in [3, today - 400, today, today + ABSENT_DAYS] {
            assert!(cursors.forget_absent(day, &attached).is_empty(), "{day}");
            cursors.see("gone", today);
        }
        assert_eq!(cursors.forget_absent(today + ABSENT_DAYS + 1, &attached), ["gone"], "who is attached stays");
        // A file of an older version does not say when an app was here.
        cursors.know("old", 1, &attached);
        assert!(cursors.forget_absent(today, &attached).is_empty());
        assert_eq!(cursors.forget_absent(today + ABSENT_DAYS + 1, &attached), ["old"]);
    }
}
