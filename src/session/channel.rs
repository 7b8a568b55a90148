//! Which channel is active, and which binding follows from it.

use super::{Now, Session, Timer};
use crate::binding::{Action as BindingAction, Event as BindingEvent, Wanted};
use crate::channel::{self, Choice};
use crate::vendors::Vendor;
use std::collections::BTreeMap;
use tracing::info;

impl Session {
    /// Certificate names by vendor, as they are in force.
    pub(super) fn certificates(&self) -> BTreeMap<Vendor, String> {
        let mut names = self.settings.certificates.clone();
        names.extend(self.saved.plugin.clone());
        names
    }

    /// Chooses the channel from what is known now, and says so when it changed.
    pub(super) fn choose_channel(&mut self) {
        let ledger = self.binding.ledger();
        let tokens: Vec<_> =
            self.saved.tokens.iter().map(|(vendor, token)| (*vendor, ledger.is_dead(*vendor, token))).collect();
        let choice: Choice = channel::choose(&channel::Facts {
            candidate: self.settings.candidate,
            forced: self.settings.forced,
            order: &self.settings.order,
            certificates: &self.certificates(),
            tokens: &tokens.iter().filter(|(_, dead)| !dead).map(|(vendor, _)| *vendor).collect::<Vec<_>>(),
            dead: &tokens.iter().filter(|(_, dead)| *dead).map(|(vendor, _)| *vendor).collect::<Vec<_>>(),
        });
        if choice.active != self.choice.active || self.choice.why_not.is_empty() {
            info!(
                event = "channel.selected",
                channel = choice.active.map_or("none", |v| v.as_str()),
                confidence = choice.confidence.map(|confidence| confidence.as_str()),
                "push channel chosen"
            );
        }
        self.choice = choice;
    }

    /// A token, a certificate's name or a token's death changed what the choice is made from.
    pub(super) fn on_channel_facts(&mut self, now: Now) {
        self.choose_channel();
        self.bind_wanted(now);
        self.linger(now);
        self.want_connection(now);
    }

    /// The binding that should exist: only with a login.
    fn wanted(&self) -> Option<Wanted> {
        if self.saved.login.as_ref()?.unbound {
            return None;
        }
        let vendor = self.choice.active?;
        Some(Wanted {
            vendor,
            notifier: self.certificates().remove(&vendor)?,
            token: self.saved.tokens.get(&vendor)?.clone(),
        })
    }

    pub(super) fn bind_wanted(&mut self, now: Now) {
        let wanted = self.wanted();
        if self.binding.wanted() != wanted.as_ref() {
            self.resting.forget_report();
            // What was rested on is no longer what is wanted.
            self.timers.clear(Timer::Linger);
        }
        self.bind_event(now, BindingEvent::Want(wanted));
    }

    pub(super) fn bind_event(&mut self, now: Now, event: BindingEvent) {
        for action in self.binding.on_event(now.at, event) {
            match action {
                BindingAction::Persist => self.save_ledger(),
                BindingAction::Send(up) => self.send(&up),
                BindingAction::Unbound => self.on_unbound(now),
            }
        }
    }
}
