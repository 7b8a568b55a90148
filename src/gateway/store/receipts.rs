//! What a vendor reported after it had taken a notification: into the trace and the binding.

use super::marks::{Death, mark_dead};
use super::sql::{OptionalExtension as _, params};
use super::traces::{has, note};
use super::{Store, StoreError, as_i64};
use crate::delivery::Hop;
use crate::vendors::receipt::{Event, Receipt};

/// How long a device whose user switched notifications off is not pushed to, unless it binds again or a receipt says that one
/// was shown. After it the next notification tries: its vendor says that they are still off, or shows it.
const OFF_MS: u64 = 3_600_000;

impl Store {
    /// Notes receipts of one certificate, each with the message it names, if it names one of ours.
    /// Returns how many were for a token that is bound, and which of them say something that their messages'
    /// traces did not say before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn receipts(
        &self,
        app: String,
        notifier: String,
        receipts: Vec<(Receipt, Option<String>)>,
        now_ms: u64,
    ) -> Result<(usize, Vec<bool>), StoreError> {
        self.run_alone(move |t| {
            let (mut bound, mut new) = (0, Vec::new());
            for (Receipt { token, event, code, at_ms, .. }, message) in &receipts {
                // A vendor's clock may be ahead of ours.
                let at_ms = at_ms.map_or(now_ms, |at_ms| at_ms.min(now_ms));
                let device: Option<String> = t
                    .prepare_cached("SELECT device FROM bindings WHERE app = ?1 AND notifier = ?2 AND token = ?3")?
                    .query_row(params![&app, &notifier, token], |r| r.get(0))
                    .optional()?;
                bound += usize::from(device.is_some());
                let mut is_new = true;
                if let Some(message) = message {
                    let detail = format!("{} ({code}) by {notifier}", event.as_str());
                    let device = device.as_deref().unwrap_or_default();
                    is_new = !has(t, message, device, Hop::Receipt, &detail)?;
                    if is_new {
                        note(t, message, device, now_ms, Hop::Receipt, &detail);
                    }
                }
                new.push(is_new);
                match event {
                    Event::Dead => {
                        let (app, notifier) = (&app, &notifier);
                        mark_dead(t, std::iter::once(Death { app, notifier, token, since_ms: at_ms, code }))?;
                    }
                    Event::Off => {
                        t.execute(
                            "UPDATE bindings SET off_until_ms = ?4 WHERE app = ?1 AND notifier = ?2 AND token = ?3",
                            params![app, notifier, token, as_i64(now_ms + OFF_MS)],
                        )?;
                    }
                    // It was shown, so it is on.
                    Event::Arrived | Event::Clicked => {
                        t.execute(
                            "UPDATE bindings SET off_until_ms = 0 WHERE app = ?1 AND notifier = ?2 AND token = ?3 AND off_until_ms > 0",
                            params![&app, &notifier, token],
                        )?;
                    }
                    Event::Limited | Event::Dropped => {}
                }
            }
            Ok((bound, new))
        })
        .await
    }
}
