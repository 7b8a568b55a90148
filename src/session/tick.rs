//! What each timer of the table leads to.

use super::login::Told;
use super::{Now, Session, Timer};
use crate::binding::Event as BindingEvent;

impl Session {
    pub(super) fn on_tick(&mut self, now: Now) {
        if self.timers.due(Timer::Persist, now.at) {
            self.persist_again();
        }
        if self.timers.due(Timer::Logout, now.at) {
            self.finish_logout(now, Told::No);
        }
        if self.timers.due(Timer::Login, now.at) {
            self.login_unanswered();
        }
        if self.timers.due(Timer::NetworkLook, now.at) {
            self.look(now);
        }
        if self.timers.due(Timer::Owed, now.at) {
            self.pay_owed();
        }
        if self.timers.due(Timer::Check, now.at) {
            self.check(now);
        }
        if self.timers.due(Timer::Wake, now.at) {
            self.wake_again(now);
        }
        if self.timers.due(Timer::Attempt, now.at) {
            self.dial(now);
        }
        self.tick_online(now);
    }

    fn tick_online(&mut self, now: Now) {
        if self.online().is_none() {
            return;
        }
        if self.timers.due(Timer::Greeting, now.at) || self.timers.due(Timer::Recheck, now.at) {
            self.greet_again(now);
        }
        if self.timers.due(Timer::Renewal, now.at) {
            self.ask_renewal(now);
        }
        if self.timers.due(Timer::Search, now.at) {
            self.search_step(now);
        }
        self.tick_link(now);
        if self.binding.next_deadline().is_some_and(|at| at <= now.at) {
            self.bind_event(now, BindingEvent::Tick);
        }
        if self.timers.due(Timer::Linger, now.at) {
            self.rest(now);
        }
    }
}
