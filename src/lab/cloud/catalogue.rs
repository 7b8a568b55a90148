//! What the lab has of each vendor: its cloud, an account, a phone; and the list of them.

use super::World;
use super::receipt::{Headers, Receipt};
use crate::lab::account::Account;
use axum::Router;

/// One vendor's outside world.
pub struct Cloud {
    pub router: fn(World) -> Router,
    /// A token as its phones get them.
    pub new_token: fn() -> String,
    /// A receipt in its shape; `None` where it has no such receipt.
    pub receipt: fn(&Receipt) -> Option<(Headers, String)>,
    /// An app's account, made up, but whole.
    pub account: fn() -> Result<Account, String>,
    pub phone: Phone,
    /// The same for its devices on which no agent runs, where it has such.
    pub without_agent: Option<WithoutAgent>,
    /// Whether a notification that was shown can be taken back.
    pub takes_back: bool,
    /// Whether a public client of it is measured beside the gateway.
    pub peer: bool,
    /// Whether it is measured over HTTP/2; else over HTTP/1.1, which every server speaks.
    pub http2: bool,
    /// Fields of a good answer, wherever they stand in it, without which it says nothing.
    pub needs: &'static [&'static str],
}

/// Devices whose apps have their tokens bound over REST.
pub struct WithoutAgent {
    pub account: fn() -> Result<Account, String>,
    /// The sender's object in `ext` for them; its `notify_id` is the notification's place in the tray.
    pub ext: &'static str,
}

/// A property tree as this maker's phones have it.
pub struct Phone {
    /// Manufacturer, brand, model.
    pub names: [&'static str; 3],
    /// The file in which the maker's properties stand, and they.
    pub file: &'static str,
    pub properties: &'static str,
}
