//! The fields of Xiaomi's certificates, and where they stand in its console.

use super::super::certificate::{Field, Form};

pub(super) const FIELDS: &[Field] = &[
    Field::needed("app_secret", Form::Word, "the AppSecret at dev.mi.com, Push, App management").secret(),
    Field::needed("package", Form::Word, "the app's package name, as it was registered at dev.mi.com"),
    Field::optional("channel_id", Form::Text, "the id of a notification class approved at dev.mi.com, Push, Channels"),
    Field::optional("action", Form::Text, "the intent URI a click opens, `intent:#Intent;...;end`"),
];
