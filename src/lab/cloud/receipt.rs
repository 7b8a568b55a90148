//! Receipts as each vendor sends them: what happened to a notification, called back to the app's server.
//! Shapes: the vendors' receipt pages (Xiaomi 1558, Huawei msg-receipt-guide, OPPO, vivo, PushAPI README).

use super::clock::now_ms;
use crate::http::Http;
use crate::secret::random_hex;
use crate::vendor::Vendor;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
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
    fn pick<T>(self, arrived: T, clicked: T, dead: T, off: T) -> T {
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
    /// What Huawei signs with, and the user it signs for; the token Meizu shows.
    pub secret: String,
    pub user: String,
}

#[derive(Debug)]
struct Receipt {
    vendor: Vendor,
    kind: Kind,
    token: String,
    reply: Reply,
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
                let Some((headers, body)) = written(&receipt) else { continue };
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

type Headers = Vec<(&'static str, String)>;

/// `None` where the vendor has no such receipt.
fn written(receipt: &Receipt) -> Option<(Headers, String)> {
    let Receipt { vendor, kind, token, reply } = receipt;
    let form = |fields: &[(&str, String)]| {
        let kind = vec![("content-type", "application/x-www-form-urlencoded".to_owned())];
        Some((kind, serde_urlencoded::to_string(fields).unwrap_or_default()))
    };
    let as_json = |body: Value| (vec![("content-type", "application/json".to_owned())], body.to_string());
    let status = |status: i64| {
        json!({ "statuses": [{
            "biTag": reply.param, "appid": "1", "token": token, "status": status, "timestamp": now_ms(), "requestId": reply.message,
        }] })
    };
    match vendor {
        Vendor::Xiaomi => {
            let said = json!({
                "param": reply.param, "type": kind.pick(1, 2, 16, 32), "targets": token, "timestamp": now_ms(),
                "barStatus": if *kind == Kind::Off { "Disable" } else { "Enable" },
            });
            form(&[("data", json!({ reply.message.as_str(): said }).to_string())])
        }
        Vendor::Huawei => {
            let number = kind.pick(Some(0), None, Some(5), Some(6))?;
            let (mut headers, body) = as_json(status(number));
            let (timestamp, nonce) = (now_ms().to_string(), random_hex::<8>());
            let key = hmac::Key::new(hmac::HMAC_SHA256, reply.secret.as_bytes());
            let value = STANDARD.encode(hmac::sign(&key, format!("{timestamp}{nonce}{}", reply.user).as_bytes()));
            headers.push(("x-huawei-callback-id", format!("timestamp={timestamp}; nonce={nonce}; value={value}")));
            Some((headers, body))
        }
        Vendor::Honor => Some(as_json(status(kind.pick(40_000_002, 40_000_007, 40_000_004, 40_000_005)))),
        Vendor::Oppo => {
            let event = kind.pick(Some("push_arrive"), None, Some("regid_invalid"), None)?;
            Some(as_json(json!([{
                "messageId": reply.message, "appId": "1", "taskId": reply.message, "registrationIds": token,
                "eventTime": now_ms().to_string(), "param": reply.param, "eventType": event,
            }])))
        }
        Vendor::Vivo => {
            let (ack, sub) = kind.pick(Some(("0", "")), None, Some(("104", "2183")), Some(("102", "20001")))?;
            let said = json!({ "targets": token, "param": reply.param, "ackTime": now_ms().to_string(), "ackType": ack, "subAckType": sub });
            Some(as_json(json!({ reply.message.as_str(): said })))
        }
        Vendor::Meizu => {
            let number = kind.pick(Some(1), Some(2), None, None)?;
            let said = json!({ "param": reply.param, "type": number, "targets": [token] });
            let cb = json!({ format!("{}-{number}", reply.message): said });
            form(&[("cb", cb.to_string()), ("access_token", reply.secret.clone())])
        }
        Vendor::Apns => None,
    }
}
