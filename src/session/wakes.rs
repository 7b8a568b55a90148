//! When an app that is not running is woken: once for a batch, ever more rarely while it does not come.
//!
//! ```text
//! message --not attached--> woken --pause over, messages wait--> woken again (pause doubled)
//!                             +--attached, or took something--> rested: the next message wakes it at once
//! ```

use super::local_apps::LocalApp;
use super::{Action, Now, Session, Timer};
use crate::ids::MessageId;
use crate::keepalive::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// An app may take this long to come; what arrives meanwhile needs no second word.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_MOST: Duration = Duration::from_secs(3600);

/// What one app was last woken for.
#[derive(Debug, Default)]
struct Wakened {
    times: u64,
    /// No second word before.
    not_before: Moment,
    pause: Duration,
    /// A message that came since, and its sender.
    waits: Option<(MessageId, String)>,
    /// The message it was woken for, until something of it is taken.
    woke_for: Option<MessageId>,
}

#[derive(Debug, Default)]
pub(super) struct Wakes(BTreeMap<String, Wakened>);

impl Wakes {
    /// Forgets apps that were removed.
    pub fn keep(&mut self, apps: &BTreeMap<String, LocalApp>) {
        self.0.retain(|name, _| apps.contains_key(name));
    }

    pub fn times(&self, app: &str) -> u64 {
        self.0.get(app).map_or(0, |wakened| wakened.times)
    }

    pub fn all_times(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, wakened)| (name.as_str(), wakened.times))
    }

    /// Which of these messages woke an app.
    pub fn credit(&mut self, taken: &[MessageId]) -> Vec<MessageId> {
        let of = |wakened: &mut Wakened| wakened.woke_for.take_if(|id| taken.contains(id));
        self.0.values_mut().filter_map(of).collect()
    }

    /// `true` if it is to be woken for this message now.
    fn on_message(&mut self, now: Moment, app: &str, id: &MessageId, from: &str) -> bool {
        let wakened = self.0.entry(app.to_owned()).or_default();
        if now < wakened.not_before {
            wakened.waits = Some((id.clone(), from.to_owned()));
            return false;
        }
        wakened.woken(now, id.clone());
        true
    }

    /// It runs: whatever woke it did its work.
    fn on_came(&mut self, app: &str) {
        if let Some(wakened) = self.0.get_mut(app) {
            (wakened.not_before, wakened.pause, wakened.waits) = (Moment::ZERO, Duration::ZERO, None);
        }
    }

    /// Nobody is logged in any more.
    fn rest(&mut self) {
        self.0.values_mut().for_each(|wakened| wakened.waits = None);
    }

    fn next(&self) -> Option<Moment> {
        self.0.values().filter(|wakened| wakened.waits.is_some()).map(|wakened| wakened.not_before).min()
    }

    /// Apps whose pause is over while messages wait.
    fn due(&mut self, now: Moment) -> Vec<(String, MessageId, String)> {
        let mut due = Vec::new();
        for (name, wakened) in &mut self.0 {
            if let Some((id, from)) = wakened.waits.take_if(|_| wakened.not_before <= now) {
                wakened.woken(now, id.clone());
                due.push((name.clone(), id, from));
            }
        }
        due
    }
}

impl Wakened {
    fn woken(&mut self, now: Moment, id: MessageId) {
        self.times += 1;
        self.pause = (self.pause * 2).clamp(PAUSE, PAUSE_MOST);
        self.not_before = now + self.pause;
        self.woke_for = Some(id);
    }
}

impl Session {
    /// A message is on the disk: apps that do not run are told of it.
    pub(super) fn wake_apps(&mut self, now: Now, id: &MessageId, from: &str) {
        let sleeping: Vec<String> = self
            .saved
            .local_apps
            .iter()
            .filter(|(name, app)| app.wake.is_some() && !self.apps.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for app in sleeping {
            if self.wakes.on_message(now.at, &app, id, from) {
                self.wake(app, id.clone(), from.to_owned());
            }
        }
        self.set_wake_timer(now);
    }

    fn wake(&mut self, app: String, id: MessageId, from: String) {
        let Some(added) = self.saved.local_apps.get(&app) else { return };
        let (Some(how), uid) = (added.wake.clone(), added.uid) else { return };
        self.act(Action::WakeApp { app, how, uid, id, from });
    }

    pub(super) fn wake_again(&mut self, now: Now) {
        if self.saved.login.is_none() {
            return self.wakes.rest();
        }
        for (app, id, from) in self.wakes.due(now.at) {
            self.wake(app, id, from);
        }
        self.set_wake_timer(now);
    }

    /// An app attached, or took messages.
    pub(super) fn app_came(&mut self, now: Now, app: &str) {
        self.wakes.on_came(app);
        self.set_wake_timer(now);
    }

    pub(super) fn set_wake_timer(&mut self, _now: Now) {
        let next = self.wakes.next();
        self.timers.put(Timer::Wake, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_secs(1000) + Duration::from_millis(ms)
    }

    fn id(n: u64) -> MessageId {
        format!("m{n}").as_str().into()
    }

    #[test]
    fn a_hundred_messages_in_a_second_wake_an_app_once_and_its_coming_rests_the_pause() {
        let mut wakes = Wakes::default();
        let woken = (0..100).filter(|n| wakes.on_message(at(n * 10), "chat", &id(*n), "bob")).count();
        assert_eq!((woken, wakes.times("chat")), (1, 1));
        assert_eq!(wakes.next(), Some(at(10_000)));
        wakes.on_came("chat");
        assert_eq!(wakes.next(), None);
        assert_eq!(wakes.credit(&[id(0), id(1)]), [id(0)], "the message that woke it");
        assert!(wakes.on_message(at(2000), "chat", &id(200), "bob"), "it went again, and is woken at once");
    }

    #[test]
    fn an_app_that_does_not_come_is_woken_ever_more_rarely() {
        let mut wakes = Wakes::default();
        assert!(wakes.on_message(at(0), "chat", &id(0), "bob"));
        let mut pauses = Vec::new();
        let mut now = at(0);
        for n in 1..14 {
            assert!(!wakes.on_message(now, "chat", &id(n), "bob"));
            let next = wakes.next().expect("it waits");
            pauses.push((next - now).as_secs());
            assert!(wakes.due(next - Duration::from_millis(1)).is_empty());
            assert_eq!(wakes.due(next), [("chat".to_owned(), id(n), "bob".to_owned())]);
            now = next;
        }
        assert_eq!(pauses[..4], [10, 20, 40, 80]);
        assert_eq!(pauses[12], 3600);
    }
}
