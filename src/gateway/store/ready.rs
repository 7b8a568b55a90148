//! Whether a message that is due for a device's vendor becomes a notification, and what the send needs.

use super::devices::{Newest, newest_binding};
use super::known::Known;
use super::settings::Wishes;
use super::sql::{Transaction, params};
use super::{StoreError, settings};
use crate::gateway::content::{Profile, Setting, template_names};
use crate::gateway::delivery::{Presence, Rules};
use crate::gateway::policy::{self, CertificateState, MultiDevice, Stop, WEB, Webhook};
use crate::gateway::silence;
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

/// The send, or why there is none.
pub(super) fn ready(
    t: &Transaction<'_>,
    known: &Known,
    due: Due,
    rules: Rules,
    now_ms: u64,
) -> Result<Result<VendorJob, Stop>, StoreError> {
    let Due { address, message, attempts, accepted_ms, expires_ms } = due;
    let binding = newest_binding(t, &address)?;
    let certificate = match &binding {
        Newest::Usable { notifier, .. } => match known.certificate(t, &address.app, notifier)? {
            Ok(found) => found,
            Err(stop) => return Ok(Err(stop)),
        },
        Newest::None | Newest::Dead => None,
    };
    let app = known.rules(t, &address.app)?;
    let policy = app.rules.multi_device.unwrap_or(rules.policy);
    let Wishes { receiver, sender, app_wide, conversation } = settings::wishes(t, &address, &message)?;
    let mentioned = policy::mentions(&message.ext, &address.user);
    let stop = policy::stop(&policy::Facts {
        ext: &message.ext,
        command: message.body["type"] == "cmd",
        device: &address.device,
        notifier: if let Newest::Usable { notifier, .. } = &binding { notifier } else { "" },
        age_s: now_ms.saturating_sub(accepted_ms) / 1000,
        push_life_s: rules.push_life_s,
        policy,
        others_online: policy == MultiDevice::AllOffline && others_online(t, known, &address, app.rules.count_web)?,
        silenced: silence::silenced(&app_wide, &conversation, mentioned, now_ms, &app.home),
        bound: binding != Newest::None,
        dead: binding == Newest::Dead,
        switched_off: matches!(binding, Newest::Usable { off_until_ms, .. } if off_until_ms > now_ms),
        certificate: match &certificate {
            None => CertificateState::Missing,
            Some(certificate) if !certificate.enabled => CertificateState::Disabled,
            Some(_) => CertificateState::Ready,
        },
    });
    Ok(match (stop, certificate, binding) {
        (Some(stop), ..) => Err(stop),
        (None, Some(certificate), Newest::Usable { token, .. }) => {
            let setting = shown(t, known, &address, &message, sender.nickname, receiver)?;
            let webhook = app.rules.webhook.clone();
            Ok(VendorJob { address, message, certificate, token, setting, webhook, attempts: attempts + 1, expires_ms })
        }
        (None, ..) => Err(Stop::NoBinding),
    })
}

fn others_online(t: &Transaction<'_>, known: &Known, address: &Address, count_web: bool) -> Result<bool, StoreError> {
    let Address { app, user, device } = address;
    let others: Vec<(String, DeviceId, bool)> = t
        .prepare_cached(
            "SELECT platform, device, attached FROM devices WHERE app = ?1 AND user = ?2 AND device <> ?3 AND online = 1",
        )?
        .query_map(params![app, user, device], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<Result<_, _>>()?;
    for (platform, device, attached) in others {
        let bound = !attached && usable(t, known, &Address { device, ..address.clone() })?;
        let counts = Presence { connected: true, attached, bound }.counts_as_online();
        if counts && (count_web || !WEB.contains(&platform.as_str())) {
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
