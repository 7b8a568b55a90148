//! What a message may say for this vendor alone: the original system's fields.

use super::super::ext::{Field, Holds, Object};

pub(super) const OBJECTS: &[Object] =
    &[Object { name: "em_android_push_ext", fields: &[Field::new("meizu_click_activity", Holds::Text)] }];
