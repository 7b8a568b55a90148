//! What a message may say for this vendor alone: the original system's fields.

use super::super::ext::{Field, Holds, Object};

pub(super) const OBJECTS: &[Object] = &[Object {
    name: "em_android_push_ext",
    fields: &[
        Field::new("oppo_channel_id", Holds::Text),
        Field::new("oppo_click_activity", Holds::Text),
        Field::new("oppo_category", Holds::Text),
        Field::new("oppo_notify_level", Holds::OneOf(&["1", "2", "16"])),
    ],
}];
