//! The fields of Meizu's certificates, and where they stand in its console.

use super::super::certificate::{Field, Form};

pub(super) const FIELDS: &[Field] = &[
    Field::needed("app_secret", Form::Word, "the App Secret at push.meizu.com, the app's settings").secret(),
    Field::needed("package", Form::Word, "the app's package name, as it was registered at push.meizu.com"),
    Field::optional("activity", Form::Text, "the activity a click opens"),
    Field::optional("message_type", Form::OneOf(&["0", "1"]), "0 is a public message, 1 a private one"),
    Field::optional("callback_token", Form::Text, "the token of the receipts' address at push.meizu.com, Receipts")
        .secret(),
];
