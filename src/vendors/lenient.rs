//! How vendors' answers are read: what nobody needs may be missing, null or of another type, and a number may be a text.
//!
//! For `#[serde(default, deserialize_with = "...")]`. Only what an answer cannot do without is refused.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize as _, Deserializer};
use serde_json::Value as Json;

fn as_text(json: Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

pub(super) fn as_number(json: &Json) -> Option<i64> {
    match json {
        Json::Number(number) => number.as_i64(),
        Json::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A code that decides, as a text.
pub(super) fn code<'de, D: Deserializer<'de>>(json: D) -> Result<String, D::Error> {
    as_text(Json::deserialize(json)?).ok_or_else(|| D::Error::custom("neither a text nor a number"))
}

/// A code that decides, as a number.
pub(super) fn number<'de, D: Deserializer<'de>>(json: D) -> Result<i64, D::Error> {
    as_number(&Json::deserialize(json)?).ok_or_else(|| D::Error::custom("no whole number"))
}

/// A number, where there is one.
pub(super) fn some_number<'de, D: Deserializer<'de>>(json: D) -> Result<Option<i64>, D::Error> {
    Ok(as_number(&Json::deserialize(json)?))
}

/// A text, empty where there is none.
pub(super) fn text<'de, D: Deserializer<'de>>(json: D) -> Result<String, D::Error> {
    Ok(as_text(Json::deserialize(json)?).unwrap_or_default())
}

/// A text, where there is one.
pub(super) fn some_text<'de, D: Deserializer<'de>>(json: D) -> Result<Option<String>, D::Error> {
    Ok(as_text(Json::deserialize(json)?).filter(|text| !text.is_empty()))
}

/// Texts in a list, or one alone. Anything else names none.
pub(super) fn texts<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<String>, D::Error> {
    Ok(match Json::deserialize(json)? {
        Json::Array(all) => all.into_iter().filter_map(as_text).collect(),
        one => as_text(one).into_iter().filter(|text| !text.is_empty()).collect(),
    })
}

/// Items in a list, without those of another form.
pub(super) fn items<'de, D: Deserializer<'de>, T: DeserializeOwned>(json: D) -> Result<Vec<T>, D::Error> {
    let all = if let Json::Array(all) = Json::deserialize(json)? { all } else { Vec::new() };
    Ok(all.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect())
}

/// A value of its own form, or none at all.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(json: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Json::deserialize(json)?).unwrap_or_default())
}
