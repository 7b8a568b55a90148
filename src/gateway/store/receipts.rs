//! What a vendor reported after it had taken a notification: into the trace and the binding.

use super::marks::{Death, mark_dead};
use super::sql::{OptionalExtension as _, params};
use super::traces::note;
use super::{Store, StoreError, as_i64};
use crate::delivery::Hop;
use crate::vendors::receipt::{Event, Receipt};

/// How long a device whose user switched notifications off is not pushed to, unless it binds again.
const OFF_MS: u64 = 86_400_000;

impl Store {
    /// Notes receipts of one certificate, each with the message it names, if it names one of ours.
    /// Returns how many were for a token that is bound.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn receipts(
        &self,
        app: String,
        notifier: String,
        receipts: Vec<(Receipt, Option<String>)>,
        now_ms: u64,
    ) -> Result<usize, StoreError> {
        self.run(move |t| {
            let mut bound = 0;
            for (Receipt { token, event, code, .. }, message) in &receipts {
                let device: Option<String> = t
                    .prepare_cached("SELECT device FROM bindings WHERE app = ?1 AND notifier = ?2 AND token = ?3")?
                    .query_row(params![&app, &notifier, token], |r| r.get(0))
                    .optional()?;
                bound += usize::from(device.is_some());
                if let Some(message) = message {
                    let detail = format!("{} ({code}) by {notifier}", event.as_str());
                    note(t, message, device.as_deref().unwrap_or_default(), now_ms, Hop::Receipt, &detail)?;
                }
                match event {
                    Event::Dead => {
                        let (app, notifier) = (&app, &notifier);
                        mark_dead(t, &Death { app, notifier, token, since_ms: now_ms, code })?;
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
            Ok(bound)
        })
        .await
    }
}
