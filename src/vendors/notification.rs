//! What every vendor is asked to show, before its own limits are applied.

use serde_json::Value as Json;
use std::time::Duration;

/// What is shown, before any vendor's limits are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    pub title: String,
    pub body: String,
    /// For the app: `t` receiver, `f` sender, `m` message id, `g` group, `e` custom.
    pub payload: Json,
}

/// One notification, the same for every device it goes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    pub content: Content,
    /// Replaces an earlier one with the same id on the device, so that a repeat is not a second one.
    pub collapse_id: u32,
    pub time_to_live: Duration,
    /// The sender's own fields for this vendor.
    pub vendor_ext: Json,
    /// Comes back in the vendor's receipts; at most 50 bytes, the least of the vendors' limits.
    pub receipt_param: String,
    /// Where the vendor should send them.
    pub receipt_url: Option<String>,
    /// Messages that wait for the receiver, shown at the app's icon.
    pub badge: Option<u32>,
    /// A sound of the app's own.
    pub sound: Option<String>,
}

/// A push the vendor has.
#[derive(Debug, Clone, Copy)]
pub struct Accepted<'a> {
    pub token: &'a str,
    pub collapse_id: u32,
    pub vendor_id: &'a str,
}
