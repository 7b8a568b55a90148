//! The fields of Honor's certificates, and where they stand in its console.

use super::super::certificate::{Field, Form};

pub(super) const FIELDS: &[Field] = &[
    Field::needed(
        "client_id",
        Form::Word,
        "the Client ID (not the App ID) at developer.honor.com, Push, the app's page",
    ),
    Field::needed(
        "client_secret",
        Form::Word,
        "the Client Secret (not the App Secret) at developer.honor.com, Push, the app's page",
    )
    .secret(),
    Field::optional(
        "importance",
        Form::OneOf(&["LOW", "NORMAL"]),
        "LOW is news and marketing, NORMAL service and communication",
    ),
    Field::optional("badge_class", Form::Word, "the app's entry activity with its package, for the number at its icon"),
    Field::optional("action", Form::Text, "the action of the intent a click opens"),
];
