//! Receipts: what happened to a notification, called back to the app's server in the vendor's own shape.

use super::clock::now_ms;
use crate::http::Http;
use crate::vendors::Vendor;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Receipts that wait to be sent; more are lost, as a vendor loses them.
const DEPTH: usize = 4096;
/// Tries of one receipt.
const TRIES: u32 = 3;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Arrived,
    Clicked,
    Dead,
    Off,
}

impl Kind {
    /// The vendor's word for this kind.
    pub fn pick<T>(self, arrived: T, clicked: T, dead: T, off: T) -> T {
        match self {
            Self::Arrived => arrived,
            Self::Clicked => clicked,
            Self::Dead => dead,
            Self::Off => off,
        }
    }
}

/// Where and how a notification's receipts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub url: String,
    /// The sender's own text.
    pub param: String,
    /// The vendor's id of the message.
    pub message: String,
    /// What the receipt is signed with or shows, and the user it is signed for.
    pub secret: String,
    pub user: String,
}

#[derive(Debug)]
pub struct Receipt {
    vendor: Vendor,
    pub kind: Kind,
    pub token: String,
    pub reply: Reply,
}

/// Takes receipts; clones share the queue.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<Receipt>);

impl Sender {
    /// Starts the task that calls back.
    pub fn start(http: Http) -> Self {
        let (sender, mut queue) = mpsc::channel::<Receipt>(DEPTH);
        tokio::spawn(async move {
            while let Some(receipt) = queue.recv().await {
                let Some((headers, body)) = (super::of(receipt.vendor).receipt)(&receipt) else { continue };
                let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                for _ in 0..TRIES {
                    let sent = http.call("POST", &receipt.reply.url, &headers, body.clone().into_bytes()).await;
                    if sent.is_ok_and(|(status, _)| status.is_success()) {
                        break;
                    }
                }
            }
        });
        Self(sender)
    }

    pub fn send(&self, vendor: Vendor, kind: Kind, token: &str, reply: &Reply) {
        let receipt = Receipt { vendor, kind, token: token.to_owned(), reply: reply.clone() };
        let _ = self.0.try_send(receipt);
    }
}

pub type Headers = Vec<(&'static str, String)>;

pub fn as_form(fields: &[(&str, String)]) -> (Headers, String) {
    let kind = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
    (kind, serde_urlencoded::to_string(fields).unwrap_or_default())
}

pub fn as_json(body: &Value) -> (Headers, String) {
    (vec![("content-type", "application/json".to_owned())], body.to_string())
}

/// `{statuses: [...]}`, as two of them write it.
pub fn statuses(receipt: &Receipt, status: i64) -> Value {
    let Receipt { token, reply, .. } = receipt;
    json!({ "statuses": [{
        "biTag": reply.param, "appid": "1", "token": token, "status": status, "timestamp": now_ms(), "requestId": reply.message,
    }] })
}
