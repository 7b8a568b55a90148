//! The fields of vivo's certificates, and where they stand in its console.

use super::super::certificate::{Field, Form};

pub(super) const FIELDS: &[Field] = &[
    Field::needed("app_secret", Form::Word, "the AppSecret at dev.vivo.com.cn, Push, App information").secret(),
    Field::optional("category", Form::Word, "a message category granted at dev.vivo.com.cn: IM, ORDER..."),
    Field::optional("classification", Form::OneOf(&["0", "1"]), "0 is an operational message, 1 a system message"),
    Field::optional("activity", Form::Text, "the activity a click opens"),
];
