//! What a message may say for this vendor alone: the original system's fields.

use super::super::ext::{Field, Holds, Object};

pub(super) const OBJECTS: &[Object] = &[Object {
    name: "em_android_push_ext",
    fields: &[
        Field::new("honor_click_action", Holds::Text),
        Field::new("honor_importance", Holds::OneOf(&["LOW", "NORMAL"])),
        Field::new("honor_target_user_type", Holds::Number(1)),
    ],
}];
