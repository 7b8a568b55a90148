//! The fields of Huawei's certificates, and where they stand in its console.

use super::super::certificate::{Field, Form, Need};
use super::super::jwt::Algorithm;

pub(super) const FIELDS: &[Field] = &[
    Field::needed(
        "client_secret",
        Form::Word,
        "the app's secret in AppGallery Connect, Project settings, App information",
    )
    .secret()
    .when(Need::Without("private_key")),
    // HarmonyOS NEXT: a service account instead of a client secret.
    Field::optional(
        "private_key",
        Form::Key(Algorithm::Ps256),
        "`private_key` of the service account's key file, private.json",
    )
    .secret(),
    Field::optional("project_id", Form::Id, "`project_id` of the service account's key file, private.json")
        .when(Need::With("private_key")),
    Field::optional("key_id", Form::Word, "`key_id` of the service account's key file, private.json")
        .when(Need::With("private_key")),
    Field::optional("sub_account", Form::Word, "`sub_account` of the service account's key file, private.json")
        .when(Need::With("private_key")),
    Field::optional("category", Form::Word, "a category the app has the right for in AppGallery Connect: IM, WORK..."),
    Field::optional("channel_id", Form::Text, "an Android notification channel of the app"),
    Field::optional("action", Form::Text, "the action of the intent a click opens"),
    Field::optional("activity", Form::Word, "the app's entry activity with its package, for the number at its icon"),
    Field::optional("receipt_id", Form::Word, "the receipt's id in AppGallery Connect, Push Kit, Receipts"),
    Field::optional(
        "callback_user",
        Form::Text,
        "the user name of the receipt in AppGallery Connect, Push Kit, Receipts",
    ),
    Field::optional("callback_secret", Form::Text, "the key of the receipt in AppGallery Connect, Push Kit, Receipts")
        .secret(),
];
