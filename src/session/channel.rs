//! Which channel is active, and which binding follows from it.

use super::{Now, Session, Timer};
use crate::binding::{Action as BindingAction, Event as BindingEvent, Standing, Wanted};
use crate::channel::{self, Choice};
use crate::vendors::Vendor;
use std::collections::BTreeMap;
use tracing::{info, warn};

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

    /// A refusal is said once for each reason, and its end.
    fn say_refusal(&mut self) {
        match self.binding.standing() {
            Standing::Refused { reason } if self.refusal.as_ref() != Some(reason) => {
                warn!(event = "binding.refused", reason, "the gateway refuses to bind this device; it is asked again");
                self.refusal = Some(reason.clone());
            }
            Standing::Bound if self.refusal.take().is_some() => {
                info!(event = "binding.taken", "the gateway has bound this device after all");
            }
            _ => {}
        }
    }

    pub(super) fn bind_event(&mut self, now: Now, event: BindingEvent) {
        let answer = matches!(event, BindingEvent::Answered { .. });
        let actions = self.binding.on_event(now.at, event);
        if answer {
            self.say_refusal();
        }
        for action in actions {
            match action {
                BindingAction::Persist => self.save_ledger(),
                BindingAction::Send(up) => self.send(&up),
                BindingAction::Unbound => self.on_unbound(now),
            }
        }
    }
}
