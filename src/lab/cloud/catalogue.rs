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
    /// Whether a notification that was shown can be taken back.
    pub takes_back: bool,
    /// Whether its success has a body, which then can be broken.
    pub says_success: bool,
}

/// A property tree as this maker's phones have it.
pub struct Phone {
    /// Manufacturer, brand, model.
    pub names: [&'static str; 3],
    /// The file in which the maker's properties stand, and they.
    pub file: &'static str,
    pub properties: &'static str,
}
