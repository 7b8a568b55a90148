//! Push certificates: a vendor's credentials under the name devices bind to, checked when they are entered.

use super::Vendor;
use super::jwt::{Algorithm, sign};
use crate::secret::fingerprint;
use serde_json::{Map, Value as Json};
use std::fmt;

/// The most bytes of a field; a private key has about 1,700.
const LONGEST: usize = 16_384;
/// A shorter text stands in any sentence; vendors' secrets have 16 characters and more.
const SHORTEST_SECRET: usize = 4;
/// Names alike by this (Jaro-Winkler, 0 to 1) are offered to who misspelt one.
const ALIKE: f64 = 0.7;

/// One field of a vendor's certificates.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub need: Need,
    pub form: Form,
    /// Never shown again.
    pub secret: bool,
    /// What it is, and where it stands in the vendor's console.
    pub place: &'static str,
}

/// When a field must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Always,
    /// Where this other field is there.
    With(&'static str),
    /// Where this other field is not.
    Without(&'static str),
    Never,
}

/// What a field's text must be.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// One line.
    Text,
    /// Letters, digits and signs of ASCII without a space: safe in a header and in a path.
    Word,
    /// What may stand in an address: letters, digits and `-_.:`.
    Id,
    OneOf(&'static [&'static str]),
    /// A PEM private key (PKCS #8) that signs like this.
    Key(Algorithm),
}

impl Field {
    pub const fn needed(name: &'static str, form: Form, place: &'static str) -> Self {
        Self { name, need: Need::Always, form, secret: false, place }
    }

    pub const fn optional(name: &'static str, form: Form, place: &'static str) -> Self {
        Self { name, need: Need::Never, form, secret: false, place }
    }

    pub const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    pub const fn when(self, need: Need) -> Self {
        Self { need, ..self }
    }
}

/// The operator's own words, for every vendor.
const LABEL: Field = Field::optional("label", Form::Text, "a note of your own");

/// One vendor account of one app.
#[derive(Clone, PartialEq)]
pub struct Certificate {
    pub app: String,
    pub name: String,
    pub vendor: Vendor,
    pub enabled: bool,
    fields: Json,
    identity: String,
}

impl Certificate {
    /// As it is stored.
    pub fn new(app: String, name: String, vendor: Vendor, fields: Json) -> Self {
        let identity = format!("{app}/{name}/{}", fingerprint(&fields.to_string()));
        Self { app, name, vendor, enabled: true, fields, identity }
    }

    /// As somebody enters it: fields are trimmed and checked, codes may be numbers.
    ///
    /// # Errors
    /// A sentence that names the field, what to write instead and where it stands in the vendor's console; never a
    /// secret.
    pub fn entered(app: String, name: &str, vendor: Vendor, fields: &Json) -> Result<Self, String> {
        let name = name.trim();
        vendor.check_certificate_name(name)?;
        let Some(given) = fields.as_object() else { return Err("fields must be an object of texts".to_owned()) };
        let mut taken = Map::new();
        for (key, value) in given {
            let field = known(vendor, key)?;
            let text = match value {
                Json::String(text) => text.trim().to_owned(),
                // A code, which some write without quotes.
                Json::Number(number) if matches!(field.form, Form::OneOf(_)) => number.to_string(),
                Json::Null => String::new(),
                _ => return Err(format!("field `{key}` must be a text")),
            };
            if !text.is_empty() {
                field.form.check(&text).map_err(|why| format!("the field `{key}` {why}; {}", field.place))?;
                taken.insert(key.clone(), text.into());
            }
        }
        let missing = |field: &&Field| {
            !taken.contains_key(field.name)
                && match field.need {
                    Need::Always => true,
                    Need::With(other) => taken.contains_key(other),
                    Need::Without(other) => !taken.contains_key(other),
                    Need::Never => false,
                }
        };
        if let Some(field) = vendor.cloud().fields.iter().find(missing) {
            let or = match field.need {
                Need::Without(other) => format!(" (or `{other}` and what goes with it)"),
                _ => String::new(),
            };
            return Err(format!("a {vendor} certificate needs the field `{}`{or}: {}", field.name, field.place));
        }
        Ok(Self::new(app, name.to_owned(), vendor, Json::Object(taken)))
    }

    /// One that was replaced is another: this differs when any of its fields does.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// An optional field; an empty one counts as absent.
    pub fn field(&self, key: &str) -> Option<String> {
        self.fields[key].as_str().filter(|v| !v.is_empty()).map(str::to_owned)
    }

    /// A required field; validated on entry, so it is there.
    pub fn secret(&self, key: &str) -> &str {
        self.fields[key].as_str().unwrap_or_default()
    }

    /// All fields as one text. Never to be shown.
    pub fn fields_text(&self) -> String {
        self.fields.to_string()
    }

    /// A vendor's words without this certificate's secrets: some repeat what they were sent.
    pub fn without_secrets(&self, words: String) -> String {
        let fields = self.vendor.cloud().fields.iter().filter(|field| field.secret);
        let secrets = fields.map(|field| self.secret(field.name)).filter(|secret| secret.len() >= SHORTEST_SECRET);
        secrets.fold(words, |words, secret| words.replace(secret, &fingerprint(secret)))
    }

    /// What may be shown: every secret is left out, and what the vendor has no field for.
    pub fn shown(&self) -> Json {
        let mut fields = self.fields.clone();
        if let Json::Object(map) = &mut fields {
            map.retain(|key, _| known(self.vendor, key).is_ok_and(|field| !field.secret));
        }
        serde_json::json!({ "name": self.name, "vendor": self.vendor, "enabled": self.enabled, "fields": fields })
    }
}

impl Form {
    fn check(self, text: &str) -> Result<(), String> {
        if text.len() > LONGEST {
            return Err(format!("has {} bytes; {LONGEST} at most", text.len()));
        }
        match self {
            Self::Text if text.chars().any(char::is_control) => {
                Err("must be one line without control characters".into())
            }
            Self::Word if !text.chars().all(|c| c.is_ascii_graphic()) => {
                Err("must be letters, digits and signs of ASCII, without a space or a line's end".into())
            }
            Self::Id if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b)) => {
                Err("must be letters, digits and `-_.:`".into())
            }
            Self::OneOf(all) if !all.contains(&text) => Err(format!("is `{}`; {}", shortened(text), all.join(" or "))),
            Self::Key(algorithm) => {
                sign(algorithm, text, "", &Json::Null).map(drop).map_err(|why| format!("is unusable: {why}"))
            }
            _ => Ok(()),
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn known(vendor: Vendor, name: &str) -> Result<Field, String> {
    let fields = || vendor.cloud().fields.iter().chain([&LABEL]);
    if let Some(field) = fields().find(|field| field.name == name) {
        return Ok(*field);
    }
    Err(nearest(&format!("a {vendor} certificate"), fields().map(|field| field.name), name))
}

/// That `of` has no such field, with the nearest one that it has.
pub(super) fn nearest<'f>(of: &str, fields: impl Iterator<Item = &'f str>, name: &str) -> String {
    let bare = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let fields: Vec<&str> = fields.collect();
    let nearest = fields
        .iter()
        .map(|field| (strsim::jaro_winkler(&bare(field), &bare(name)), field))
        .filter(|(score, _)| *score > ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let name = shortened(name);
    match nearest {
        Some((_, nearest)) => format!("{of} has no field `{name}`; did you mean `{nearest}`?"),
        None => format!("{of} has no field `{name}`; its fields are {}", fields.join(", ")),
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} {} {})", self.app, self.vendor, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(vendor: &str, name: &str, fields: Json) -> String {
        let vendor = vendor.parse().expect("a vendor");
        Certificate::entered("o#a".into(), name, vendor, &fields).expect_err("refused")
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_known_one() {
        let apple = json!({"key_id": "k", "team_id": "t", "bundle_id": "b", "enviroment": "development"});
        assert!(refused("apns", "n", apple).contains("did you mean `environment`?"));
        let oppo = refused("oppo", "n", json!({"master_secret": "s", "channelId": "c"}));
        assert!(oppo.contains("did you mean `channel_id`?"), "{oppo}");
        let far = refused("oppo", "n", json!({"master_secret": "s", "xyz": "c"}));
        assert!(far.contains("its fields are master_secret"), "{far}");
    }

    #[test]
    fn an_ill_typed_field_is_refused_with_what_to_write_and_where_it_stands() {
        for (vendor, name, fields, named) in [
            ("vivo", "1#k", json!({"app_secret": "s", "classification": "operational"}), "0 or 1"),
            ("honor", "1", json!({"client_id": "c", "client_secret": "s", "importance": "HIGH"}), "LOW or NORMAL"),
            ("xiaomi", "1", json!({"app_secret": "s\r\nx: y", "package": "p"}), "AppSecret"),
            ("xiaomi", "1", json!({"app_secret": "s"}), "`package`"),
            ("huawei", "1", json!({}), "`private_key`"),
            ("huawei", "1/../2", json!({"client_secret": "s"}), "letters and digits"),
            ("huawei", "1", json!({"client_secret": "s", "project_id": "p/../q"}), "`project_id`"),
            ("huawei", "1", json!({"private_key": "no key"}), "PKCS #8"),
            ("xiaomi", "1", json!({"app_secret": ["s"], "package": "p"}), "must be a text"),
            ("vivo", "1", json!({"app_secret": "s"}), "appId#appKey"),
        ] {
            let said = refused(vendor, name, fields);
            assert!(said.contains(named), "{said}");
        }
    }

    #[test]
    fn a_vendors_words_are_told_without_the_certificates_secrets() {
        let fields = json!({"app_secret": "s3cr3t-of-the-app", "package": "com.example"});
        let vendor = "xiaomi".parse().expect("a vendor");
        let certificate = Certificate::entered("o#a".into(), "1", vendor, &fields).expect("taken");
        let said = certificate.without_secrets("`s3cr3t-of-the-app` is wrong for com.example".to_owned());
        assert!(!said.contains("s3cr3t") && said.ends_with("is wrong for com.example"), "{said}");
    }

    #[test]
    fn fields_are_trimmed_and_codes_may_be_numbers() {
        let vendor = "vivo".parse().expect("a vendor");
        let fields = json!({"app_secret": " s\n", "classification": 0, "category": "", "label": "test"});
        let certificate = Certificate::entered("o#a".into(), " 1#k ", vendor, &fields).expect("taken");
        assert_eq!((certificate.secret("app_secret"), certificate.name.as_str()), ("s", "1#k"));
        assert_eq!((certificate.field("classification").as_deref(), certificate.field("category")), (Some("0"), None));
        assert_eq!(certificate.shown()["fields"], json!({"classification": "0", "label": "test"}));
    }
}
