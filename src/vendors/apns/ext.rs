//! What a message may say for this vendor alone: the original system's fields.

use super::super::ext::{Field, Holds, Object};

pub(super) const OBJECTS: &[Object] = &[Object {
    name: "em_apns_ext",
    fields: &[
        Field::new("em_push_title", Holds::Text),
        Field::new("em_push_content", Holds::Text),
        Field::new("em_alert_title", Holds::Text),
        Field::new("em_alert_body", Holds::Text),
        Field::new("em_alert_subTitle", Holds::Text),
        Field::new("em_push_category", Holds::Text),
        Field::new("em_push_sound", Holds::Text),
        Field::new("em_push_badge", Holds::Number(0xffff_ffff)),
        Field::new("thread_id", Holds::Text),
        Field::new("em_push_mutable_content", Holds::Flag),
        Field::new("em_push_content_available", Holds::Flag),
        Field::new("extern", Holds::Object),
    ],
}];
