//! A vendor's good answer in forms its document does not show and its servers have all the same: nulls, and other types.

use serde_json::{Value, json};

/// In what way an answer is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Oddity {
    Nulls,
    OtherTypes,
}

/// The same answer with all that may be missing changed; `needs` are the fields that may not.
pub(super) fn made_odd(answer: Value, needs: &[&str], oddity: Oddity) -> Value {
    match answer {
        Value::Object(fields) => {
            let changed = fields.into_iter().map(|(name, value)| {
                let value = match oddity {
                    _ if holds(&value, needs) => made_odd(value, needs, oddity),
                    Oddity::Nulls if needs.contains(&name.as_str()) => value,
                    Oddity::Nulls => Value::Null,
                    // A code says the same as a text and as a number.
                    Oddity::OtherTypes if needs.contains(&name.as_str()) => other_scalar(&value).unwrap_or(value),
                    Oddity::OtherTypes => other_type(value),
                };
                (name, value)
            });
            Value::Object(changed.collect())
        }
        other => other,
    }
}

/// Whether something needed stands below it.
fn holds(value: &Value, needs: &[&str]) -> bool {
    value
        .as_object()
        .is_some_and(|fields| fields.iter().any(|(name, value)| needs.contains(&name.as_str()) || holds(value, needs)))
}

fn other_scalar(value: &Value) -> Option<Value> {
    match value {
        Value::Number(number) => Some(json!(number.to_string())),
        Value::String(text) => text.parse::<i64>().ok().map(|number| json!(number)),
        _ => None,
    }
}

fn other_type(value: Value) -> Value {
    match value {
        Value::Null => json!(0),
        Value::Bool(is) => json!(is.to_string()),
        Value::Number(number) => json!(number.to_string()),
        Value::String(text) => other_scalar(&json!(text)).unwrap_or_else(|| json!([text])),
        Value::Array(_) => json!({}),
        Value::Object(fields) if fields.is_empty() => json!(""),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, other_type(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_stays_wherever_it_stands() {
        let answer = json!({"code": 0, "message": "Success", "data": {"auth_token": "t", "create_time": 5}});
        assert_eq!(
            made_odd(answer, &["code", "auth_token"], Oddity::Nulls),
            json!({"code": 0, "message": null, "data": {"auth_token": "t", "create_time": null}})
        );
        let answer =
            json!({"code": "200", "data": {"requestId": "a", "failTokens": [], "sendResult": true}, "value": {}});
        assert_eq!(
            made_odd(answer, &["code"], Oddity::OtherTypes),
            json!({"code": 200, "data": {"requestId": ["a"], "failTokens": {}, "sendResult": "true"}, "value": ""})
        );
    }
}
