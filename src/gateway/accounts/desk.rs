//! The connection's end of the queue: commands that are published for who asked, and the broker's answers for them.

use crate::secret::random_hex;
use bytes::Bytes;
use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, oneshot};

const CONTROL: &str = "$CONTROL/dynamic-security/v1";
/// Where the plugin answers whoever asked.
pub const ANSWERS: &str = "$CONTROL/dynamic-security/v1/response";

/// Commands on their way to the broker, and the way back.
#[derive(Debug)]
pub struct Asked {
    pub commands: Vec<Json>,
    pub answered: oneshot::Sender<Vec<Json>>,
}

/// The connection's end of the queue.
pub struct Desk {
    pub(super) queue: mpsc::Receiver<Asked>,
    waiting: HashMap<String, oneshot::Sender<Vec<Json>>>,
    /// The broker tells every gateway what it answers any of them.
    name: String,
    asked: u64,
    /// Told when the broker is back.
    look: Arc<Notify>,
}

impl Desk {
    pub fn new(queue: mpsc::Receiver<Asked>, look: Arc<Notify>) -> Self {
        Self { queue, waiting: HashMap::new(), name: random_hex::<8>(), asked: 0, look }
    }

    /// The next commands; for ever where nobody has any.
    pub async fn next(desk: &mut Option<Self>) -> Asked {
        match desk {
            Some(desk) => {
                while let Some(asked) = desk.queue.recv().await {
                    // Nobody would have the token of an account that is made too late.
                    if !asked.answered.is_closed() {
                        return asked;
                    }
                }
                std::future::pending().await
            }
            None => std::future::pending().await,
        }
    }

    /// What is published for them, and where.
    pub fn ask(&mut self, Asked { commands, answered }: Asked) -> (&'static str, Bytes) {
        // Who has given up waiting goes here at last.
        self.waiting.retain(|_, waits| !waits.is_closed());
        self.asked += 1;
        let id = format!("{}-{}", self.name, self.asked);
        let named = commands.into_iter().map(|mut command| {
            command["correlationData"] = json!(id);
            command
        });
        let payload = json!({ "commands": named.collect::<Vec<_>>() }).to_string();
        self.waiting.insert(id, answered);
        (CONTROL, payload.into())
    }

    pub fn on_answer(&mut self, payload: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Json>(payload) else { return };
        let answers = answer["responses"].as_array().cloned().unwrap_or_default();
        let id = answers.first().and_then(|answer| answer["correlationData"].as_str());
        if let Some(waits) = id.and_then(|id| self.waiting.remove(id)) {
            // It may have given up.
            drop(waits.send(answers));
        }
    }

    /// No other connection answers what this one was asked.
    pub fn on_disconnected(&mut self) {
        self.waiting.clear();
    }

    pub fn on_connected(&mut self) {
        self.look.notify_one();
    }
}
