//! Whether a message that is due for a device's vendor becomes a notification, and what the send needs.

use super::devices::{Newest, newest_binding};
use super::known::{self, Known};
use super::presence::{self, device_columns};
use super::settings::Wishes;
use super::sql::{Transaction, params};
use super::{StoreError, settings};
use crate::delivery::content::{Profile, Setting, template_names};
use crate::delivery::policy::{self, CertificateState, Facts, MultiDevice, WEB, Webhook};
use crate::delivery::{Device, Rules, silence};
use crate::ids::DeviceId;
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
pub(super) struct Turn {
    due: Due,
    binding: Newest,
    certificate: Option<Arc<Certificate>>,
    unreadable: bool,
    app: Arc<known::Rules>,
    receiver: Profile,
    sender_nickname: Option<String>,
    policy: MultiDevice,
    others_online: bool,
    has_it_elsewhere: bool,
    silenced: bool,
    push_life_s: u64,
    now_ms: u64,
}

impl Turn {
    /// Looks at the user, the device and its certificate.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn look(t: &Transaction<'_>, known: &Known, due: Due, rules: Rules, now_ms: u64) -> Result<Self, StoreError> {
        let Due { address, message, .. } = &due;
        let binding = newest_binding(t, address)?;
        let found = match &binding {
            Newest::Usable { notifier, .. } => known.certificate(t, &address.app, notifier)?,
            Newest::None | Newest::Dead => Ok(None),
        };
        let (certificate, unreadable) = found.map_or((None, true), |found| (found, false));
        let app = known.rules(t, &address.app)?;
        let policy = app.rules.multi_device.unwrap_or(rules.policy);
        let Wishes { receiver, sender, app_wide, conversation } = settings::wishes(t, address, message)?;
        let mentioned = policy::mentions(&message.ext, &address.user);
        let others_online = policy == MultiDevice::AllOffline && others_online(t, known, address, app.rules.count_web)?;
        Ok(Self {
            has_it_elsewhere: others_online && has_it_elsewhere(t, address, &message.id)?,
            silenced: silence::silenced(&app_wide, &conversation, mentioned, now_ms, &app.home),
            sender_nickname: sender.nickname,
            push_life_s: rules.push_life_s,
            due,
            binding,
            certificate,
            unreadable,
            app,
            receiver,
            policy,
            others_online,
            now_ms,
        })
    }

    pub fn facts(&self) -> Facts<'_> {
        let Due { address, message, accepted_ms, .. } = &self.due;
        let (notifier, off_until_ms) = match &self.binding {
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
            has_it_elsewhere: self.has_it_elsewhere,
            silenced: self.silenced,
            bound: self.binding != Newest::None,
            dead: self.binding == Newest::Dead,
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
        let (Some(certificate), Newest::Usable { token, .. }) = (self.certificate, self.binding) else {
            return Ok(None);
        };
        let Due { address, message, attempts, expires_ms, .. } = self.due;
        let setting = shown(t, known, &address, &message, self.sender_nickname, self.receiver)?;
        let webhook = self.app.rules.webhook.clone();
        let attempts = attempts + 1;
        Ok(Some(VendorJob { address, message, certificate, token, setting, webhook, attempts, expires_ms }))
    }
}

fn has_it_elsewhere(t: &Transaction<'_>, address: &Address, message: &str) -> Result<bool, StoreError> {
    t.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM deliveries WHERE message = ?1 AND device <> ?2
         AND (acked_ms IS NOT NULL OR taken_ms IS NOT NULL))",
    )?
    .query_row(params![message, address.device], |r| r.get(0))
}

fn others_online(t: &Transaction<'_>, known: &Known, address: &Address, count_web: bool) -> Result<bool, StoreError> {
    let Address { app, user, device } = address;
    let others: Vec<(String, DeviceId, Device)> = t
        .prepare_cached(concat!(
            "SELECT v.platform, v.device, ",
            device_columns!(),
            " FROM devices v WHERE v.app = ?1 AND v.user = ?2 AND v.device <> ?3 AND v.online = 1"
        ))?
        .query_map(params![app, user, device], |r| Ok((r.get(0)?, r.get(1)?, presence::read(r, 2)?)))?
        .collect::<Result<_, _>>()?;
    for (platform, id, device) in others {
        let bound = !device.attached && usable(t, known, &Address { device: id, ..address.clone() })?;
        if device.counts_as_online(bound) && (count_web || !WEB.contains(&platform.as_str())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a notification can go to the device: it has a binding that is not marked dead, and its certificate
/// is there and enabled.
pub(super) fn usable(t: &Transaction<'_>, known: &Known, address: &Address) -> Result<bool, StoreError> {
    let Newest::Usable { notifier, .. } = newest_binding(t, address)? else { return Ok(false) };
    Ok(matches!(known.certificate(t, &address.app, &notifier)?, Ok(Some(certificate)) if certificate.enabled))
}

/// What a notification for this device says beside the message.
fn shown(
    t: &Transaction<'_>,
    known: &Known,
    address: &Address,
    message: &Message,
    sender_nickname: Option<String>,
    receiver: Profile,
) -> Result<Setting, StoreError> {
    let mut setting = Setting { sender_nickname, ..Setting::default() };
    for name in template_names(message, &receiver) {
        let template = known.template(t, &address.app, &name)?;
        setting.templates.extend(template.map(|template| (name, template)));
    }
    setting.receiver = receiver;
    setting.waiting = t
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE app = ?1 AND user = ?2 AND device = ?3
             AND open = 1 LIMIT 100) AS w",
        )?
        .query_row(params![&address.app, &address.user, &address.device], |r| r.get(0))?;
    Ok(setting)
}
