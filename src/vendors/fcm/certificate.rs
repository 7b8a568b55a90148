//! The fields of Firebase's certificates: those of a service account's key file, which can be put in as it is.

use super::super::certificate::{Field, Form};
use super::super::jwt::Algorithm;

/// Of the key file, and not needed.
const fn unused(name: &'static str) -> Field {
    Field::optional(name, Form::Text, "stands in the key file, and is not needed")
}

pub(super) const FIELDS: &[Field] = &[
    Field::needed(
        "private_key",
        Form::Key(Algorithm::Rs256),
        "`private_key` of the key file from console.firebase.google.com, Project settings, Service accounts",
    )
    .secret(),
    Field::needed("client_email", Form::Word, "`client_email` of the service account's key file"),
    Field::needed("project_id", Form::Id, "`project_id` of the service account's key file"),
    Field::needed("private_key_id", Form::Word, "`private_key_id` of the service account's key file"),
    Field::optional("channel_id", Form::Text, "an Android notification channel of the app"),
    Field::optional("action", Form::Text, "the action of the intent a click opens"),
    Field::optional("priority", Form::OneOf(&["high", "normal"]), "normal waits for a sleeping device to wake"),
    Field::optional(
        "type",
        Form::OneOf(&["service_account"]),
        "another key file than a service account's is of no use",
    ),
    unused("client_id"),
    unused("auth_uri"),
    unused("token_uri"),
    unused("auth_provider_x509_cert_url"),
    unused("client_x509_cert_url"),
    unused("universe_domain"),
];
