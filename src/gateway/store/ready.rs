//! Whether a message that is due for a device's vendor becomes a notification, and what the send needs.

use super::StoreError;
use super::bindings::Newest;
use super::known::{self, Known};
use super::sql::Transaction;
use super::surroundings::Surroundings;
use crate::delivery::content::{Profile, Setting, template_names};
use crate::delivery::policy::{self, CertificateState, Facts, MultiDevice, Webhook};
use crate::delivery::{Rules, silence};
use crate::protocol::{Address, Message};
use crate::vendors::certificate::Certificate;
use std::sync::Arc;

/// A claimed vendor send.
#[derive(Debug, Clone)]
pub struct VendorJob {
    pub address: Address,
    pub message: Arc<Message>,
    pub certificate: Arc<Certificate>,
    pub token: String,
    /// When its vendor was last noted to have accepted a push for that token.
    pub accepted_ms: Option<u64>,
    /// What decides, beside the message, what is shown.
    pub setting: Setting,
    /// Where the app wants to hear of this.
    pub webhook: Option<Webhook>,
    /// Counts this one.
    pub attempts: u32,
    pub expires_ms: u64,
}

/// A message for a device that is not connected.
pub(super) struct Due {
    pub address: Address,
    pub message: Arc<Message>,
    /// Sends before this one.
    pub attempts: u32,
    pub accepted_ms: u64,
    pub expires_ms: u64,
}

/// What decides on a send, and what it needs, at one moment.
pub(super) struct Turn<'s> {
    due: Due,
    around: &'s Surroundings<'s>,
    certificate: Option<Arc<Certificate>>,
    unreadable: bool,
    app: Arc<known::Rules>,
    policy: MultiDevice,
    others_online: bool,
    silenced: bool,
    push_life_s: u64,
    now_ms: u64,
}

impl<'s> Turn<'s> {
    /// Looks at the user, the device and its certificate.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn look(
        (t, known): (&Transaction<'_>, &Known),
        around: &'s Surroundings<'s>,
        due: Due,
        rules: Rules,
        now_ms: u64,
    ) -> Result<Self, StoreError> {
        let Due { address, message, .. } = &due;
        let found = match around.newest(address) {
            Newest::Usable { notifier, .. } => known.certificate(t, &address.app, notifier)?,
            Newest::None | Newest::Dead => Ok(None),
        };
        let (certificate, unreadable) = found.map_or((None, true), |found| (found, false));
        let app = known.rules(t, &address.app)?;
        let policy = app.rules.multi_device.unwrap_or(rules.policy);
        let mentioned = policy::mentions(&message.ext, &address.user);
        let silenced = around.wishes(address, message).is_some_and(|wishes| {
            silence::silenced(&wishes.app_wide, &wishes.conversation, mentioned, now_ms, &app.home)
        });
        Ok(Self {
            others_online: policy == MultiDevice::AllOffline && around.others_online(address),
            push_life_s: rules.push_life_s,
            due,
            around,
            certificate,
            unreadable,
            app,
            policy,
            silenced,
            now_ms,
        })
    }

    pub fn facts(&self) -> Facts<'_> {
        let Due { address, message, accepted_ms, .. } = &self.due;
        let binding = self.around.newest(address);
        let (notifier, off_until_ms) = match binding {
            Newest::Usable { notifier, off_until_ms, .. } => (notifier.as_str(), *off_until_ms),
            Newest::None | Newest::Dead => ("", 0),
        };
        Facts {
            ext: &message.ext,
            command: message.body["type"] == "cmd",
            device: &address.device,
            notifier,
            age_s: self.now_ms.saturating_sub(*accepted_ms) / 1000,
            push_life_s: self.push_life_s,
            policy: self.policy,
            others_online: self.others_online,
            has_it_elsewhere: self.others_online && self.around.has_it_elsewhere(address, message),
            silenced: self.silenced,
            bound: *binding != Newest::None,
            dead: *binding == Newest::Dead,
            switched_off: off_until_ms > self.now_ms,
            certificate: match &self.certificate {
                _ if self.unreadable => CertificateState::Unreadable,
                None => CertificateState::Missing,
                Some(certificate) if !certificate.enabled => CertificateState::Disabled,
                Some(_) => CertificateState::Ready,
            },
        }
    }

    /// The send; `None` where there is nothing to send with.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn job(self, t: &Transaction<'_>, known: &Known) -> Result<Option<VendorJob>, StoreError> {
        let Due { address, message, attempts, expires_ms, .. } = self.due;
        let (Some(certificate), Newest::Usable { token, accepted_ms, .. }) =
            (self.certificate, self.around.newest(&address))
        else {
            return Ok(None);
        };
        let setting = shown(t, known, self.around, &address, &message)?;
        let webhook = self.app.rules.webhook.clone();
        let (attempts, token, accepted_ms) = (attempts + 1, token.clone(), *accepted_ms);
        Ok(Some(VendorJob {
            address,
            message,
            certificate,
            token,
            accepted_ms,
            setting,
            webhook,
            attempts,
            expires_ms,
        }))
    }
}

/// What a notification for this device says beside the message.
fn shown(
    t: &Transaction<'_>,
    known: &Known,
    around: &Surroundings<'_>,
    address: &Address,
    message: &Message,
) -> Result<Setting, StoreError> {
    let wishes = around.wishes(address, message);
    let receiver: Profile = wishes.map(|wishes| wishes.receiver.clone()).unwrap_or_default();
    let sender_nickname = wishes.and_then(|wishes| wishes.sender.nickname.clone());
    let mut setting = Setting { sender_nickname, ..Setting::default() };
    for name in template_names(message, &receiver) {
        let template = known.template(t, &address.app, &name)?;
        setting.templates.extend(template.map(|template| (name, template)));
    }
    setting.receiver = receiver;
    setting.waiting = around.waiting(t, address)?;
    Ok(setting)
}
