//! The fields of Apple's certificates, and where they stand in its console.

use super::super::certificate::{Field, Form};
use super::super::jwt::Algorithm;

pub(super) const FIELDS: &[Field] = &[
    Field::needed(
        "key",
        Form::Key(Algorithm::Es256),
        "the text of AuthKey_....p8 from developer.apple.com, Certificates, Keys",
    )
    .secret(),
    Field::needed(
        "key_id",
        Form::Word,
        "the key's id: 10 characters, in the file's name and at developer.apple.com, Certificates, Keys",
    ),
    Field::needed("team_id", Form::Word, "the team's id: 10 characters, at developer.apple.com, Membership"),
    Field::needed("bundle_id", Form::Word, "the app's bundle id, at developer.apple.com, Certificates, Identifiers"),
    Field::optional("environment", Form::OneOf(&["production", "development"]), "development is for builds from Xcode"),
    Field::optional("sound", Form::Text, "a sound file in the app, or `default`"),
];
