//! What a message may say for this vendor alone: the original system's fields.

use super::super::ext::{Field, Holds, Object};

pub(super) const OBJECTS: &[Object] = &[
    Object {
        name: "em_android_push_ext",
        fields: &[
            Field::new("huawei_channel_id", Holds::Text),
            Field::new("huawei_click_action", Holds::Text),
            Field::new("huawei_category", Holds::Text),
            Field::new("huawei_receipt_id", Holds::Text),
            Field::new("huawei_target_user_type", Holds::Number(1)),
        ],
    },
    Object {
        name: "em_harmony_push_ext",
        fields: &[
            Field::new("category", Holds::Text),
            Field::new("click_action", Holds::Text),
            Field::new("receipt_id", Holds::Text),
            Field::new("notify_id", Holds::Number(0x7fff_ffff)),
            Field::new("is_test_message", Holds::Flag),
        ],
    },
];
