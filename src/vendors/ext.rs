//! The sender's own fields for a vendor, in a message's `ext`: their names and what they hold.

use super::Vendor;
use super::certificate::nearest;
use serde_json::Value as Json;

/// One object in a message's `ext`, and the fields in it that a vendor takes. Several vendors may share an object.
#[derive(Debug, Clone, Copy)]
pub struct Object {
    pub name: &'static str,
    pub fields: &'static [Field],
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub holds: Holds,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// A text, or a number in its place.
    Text,
    /// One of these, which a number may stand for.
    OneOf(&'static [&'static str]),
    /// `true` or `false`, 1 or 0.
    Flag,
    /// A whole number from 0 to this.
    Number(u64),
    /// Another object.
    Object,
}

impl Field {
    pub const fn new(name: &'static str, holds: Holds) -> Self {
        Self { name, holds }
    }
}

impl Holds {
    /// What to write, for people.
    pub fn says(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::OneOf(all) => all.join(" or "),
            Self::Flag => "true or false".to_owned(),
            Self::Number(most) => format!("a whole number from 0 to {most}"),
            Self::Object => "an object".to_owned(),
        }
    }

    fn takes(self, value: &Json) -> bool {
        match self {
            Self::Text => value.is_string() || value.is_number(),
            Self::OneOf(all) => match value {
                Json::String(text) => all.contains(&text.as_str()),
                Json::Number(number) => all.contains(&number.to_string().as_str()),
                _ => false,
            },
            Self::Flag => value.is_boolean() || matches!(value.as_u64(), Some(0 | 1)),
            Self::Number(most) => value.as_u64().is_some_and(|number| number <= most),
            Self::Object => value.is_object(),
        }
    }
}

/// Whether a flag is set.
pub(super) fn is_set(value: &Json) -> bool {
    *value == true || *value == 1
}

/// Refuses vendors' fields that no vendor has, or that do not hold what theirs do.
///
/// # Errors
/// A sentence that names the field and what it must be.
pub fn check(ext: &Json) -> Result<(), String> {
    let objects = || Vendor::ORDER.into_iter().flat_map(|vendor| vendor.cloud().ext_objects);
    for Object { name: object, .. } in objects() {
        let fields = || objects().filter(move |other| other.name == *object).flat_map(|other| other.fields);
        let given = match &ext[*object] {
            Json::Null => continue,
            Json::Object(given) => given,
            _ => return Err(format!("`{object}` is an object")),
        };
        for (name, value) in given {
            let Some(field) = fields().find(|field| field.name == name) else {
                return Err(nearest(&format!("`{object}`"), fields().map(|field| field.name), name));
            };
            if !value.is_null() && !field.holds.takes(value) {
                return Err(format!("`{object}.{name}` is {}", field.holds.says()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A value of this kind, and one that is not.
    fn examples(holds: Holds) -> (Json, Json) {
        match holds {
            Holds::Text => (json!("a"), json!(["a"])),
            Holds::OneOf(all) => (json!(all[0]), json!("something else")),
            Holds::Flag => (json!(true), json!("yes")),
            Holds::Number(most) => (json!(most), json!(most + 1)),
            Holds::Object => (json!({}), json!("{}")),
        }
    }

    #[test]
    fn each_field_of_each_vendor_is_taken_and_no_other_name_and_no_other_type() {
        let mut tried = 0;
        for vendor in Vendor::ORDER {
            for Object { name: object, fields } in vendor.cloud().ext_objects {
                for field in *fields {
                    let (good, bad) = examples(field.holds);
                    assert_eq!(check(&json!({ *object: { field.name: good } })), Ok(()), "{object}.{}", field.name);
                    assert_eq!(check(&json!({ *object: { field.name: null } })), Ok(()));
                    let refused = check(&json!({ *object: { field.name: bad } })).expect_err(field.name);
                    assert!(refused.contains(field.name), "{refused}");
                    let wrong = format!("{}x", field.name);
                    let refused = check(&json!({ *object: { wrong: good } })).expect_err(field.name);
                    assert!(refused.contains("did you mean"), "{refused}");
                    tried += 1;
                }
                assert!(check(&json!({ *object: "text" })).is_err());
            }
        }
        assert!(tried >= 30, "{tried}");
        assert_eq!(check(&Json::Null), Ok(()));
        assert_eq!(check(&json!({"own": {"anything": 1}})), Ok(()));
    }
}
