//! What can be understood of JSON that a newer version wrote.

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

/// Members tried at most: what is larger is no state file.
const MOST: usize = 10_000;

/// The value without the members that this version cannot read, and how many those are. `None` if it is not
/// JSON, or nothing of it can be understood.
pub(super) fn salvage<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, usize)> {
    let whole: Json = serde_json::from_slice(bytes).ok()?;
    let understood = |json: &Json| serde_json::from_value::<T>(json.clone()).is_ok();
    let mut left_out = 0;
    let mut tries = 0;
    let kept = match keep(
        &whole,
        &mut |json| {
            tries += 1;
            tries <= MOST && understood(json)
        },
        &mut left_out,
    ) {
        Some(kept) => kept,
        // Something in it must be there: without one other member at a time.
        None => whole.as_object()?.keys().take(MOST).find_map(|name| {
            let mut without = whole.clone();
            without.as_object_mut()?.remove(name);
            left_out = 1;
            understood(&without).then_some(without)
        })?,
    };
    let something = match &kept {
        Json::Object(members) => !members.is_empty(),
        Json::Array(members) => !members.is_empty(),
        _ => true,
    };
    Some((serde_json::from_value(kept).ok()?, left_out)).filter(|_| something)
}

/// Builds the value up again, each member as far as the whole is still understood with it.
fn keep(json: &Json, understood: &mut dyn FnMut(&Json) -> bool, left_out: &mut usize) -> Option<Json> {
    let mut kept = empty(json)?;
    if !understood(&kept) {
        return None;
    }
    let members: Vec<(Option<&String>, &Json)> = match json {
        Json::Object(members) => members.iter().map(|(name, member)| (Some(name), member)).collect(),
        Json::Array(members) => members.iter().map(|member| (None, member)).collect(),
        _ => return None,
    };
    for (name, member) in members {
        let with = |member: Json| joined(&kept, name, member);
        let whole = with(member.clone());
        if understood(&whole) {
            kept = whole;
            continue;
        }
        match keep(member, &mut |inner| understood(&with(inner.clone())), left_out) {
            Some(inner) => kept = with(inner),
            None => *left_out += 1,
        }
    }
    Some(kept)
}

fn empty(json: &Json) -> Option<Json> {
    match json {
        Json::Object(_) => Some(Json::Object(serde_json::Map::new())),
        Json::Array(_) => Some(Json::Array(Vec::new())),
        _ => None,
    }
}

fn joined(to: &Json, name: Option<&String>, member: Json) -> Json {
    let mut joined = to.clone();
    match (&mut joined, name) {
        (Json::Object(members), Some(name)) => drop(members.insert(name.clone(), member)),
        (Json::Array(members), _) => members.push(member),
        _ => {}
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Known {
        One,
        Two,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Several {
        list: Vec<Known>,
        word: Option<Known>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Needs {
        name: String,
        #[serde(default)]
        word: Option<Known>,
    }

    #[test]
    fn unknown_members_are_left_out_wherever_they_stand_and_the_others_stay() {
        let (several, left_out) = salvage::<Several>(br#"{"list":["one","three","two"],"word":"four"}"#).expect("some");
        assert_eq!((several, left_out), (Several { list: vec![Known::One, Known::Two], word: None }, 2));
        let (map, _) = salvage::<BTreeMap<String, Known>>(br#"{"a":"one","b":"nine"}"#).expect("some");
        assert_eq!(map, BTreeMap::from([("a".to_owned(), Known::One)]));
        let (needs, _) = salvage::<Needs>(br#"{"name":"n","word":"nine"}"#).expect("what must be there is");
        assert_eq!(needs, Needs { name: "n".to_owned(), word: None });
    }

    #[test]
    fn what_is_not_json_or_is_nothing_that_is_known_is_not_salvaged() {
        for bytes in [&b""[..], b"{\"name\":", b"\0\0", b"7", b"{\"a\":\"nine\"}", b"{}"] {
            assert_eq!(salvage::<BTreeMap<String, Known>>(bytes), None, "{bytes:?}");
        }
        assert_eq!(salvage::<Needs>(br#"{"other":1}"#), None);
    }
}
