//! The fields of OPPO's certificates, and where they stand in its console.

use super::super::certificate::{Field, Form};

pub(super) const FIELDS: &[Field] = &[
    Field::needed(
        "master_secret",
        Form::Word,
        "the MasterSecret (not the AppSecret) at push.oppo.com, App configuration",
    )
    .secret(),
    Field::optional("channel_id", Form::Text, "a channel registered at push.oppo.com, Channel configuration"),
    Field::optional("category", Form::Word, "a message category granted at push.oppo.com"),
    Field::optional(
        "notify_level",
        Form::OneOf(&["1", "2", "16"]),
        "1 bar, 2 and lock screen, 16 and banner and sound; it needs a category",
    ),
    Field::optional("activity", Form::Text, "the activity a click opens"),
];
