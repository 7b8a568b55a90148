//! What a notification says: title, text and the payload for the app, in the sender's and the receiver's choice.

use crate::protocol::Message;
pub use crate::vendors::notification::Content;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// A receiver's wishes about what is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    pub nickname: Option<String>,
    /// 0: a fixed banner. 1: who wrote what.
    pub display_style: u8,
    /// The language a translation is shown in, where the message carries one; also of the fixed texts.
    pub language: Option<String>,
    pub template: Option<String>,
}

/// Patterns with `{0}`, `{1}` and the built-in `{$dynamicFrom}`, `{$fromNickname}`, `{$msg}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    pub title_pattern: String,
    pub content_pattern: String,
}

/// Everything beside the message that decides what is shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Setting {
    pub receiver: Profile,
    /// The sender's push nickname.
    pub sender_nickname: Option<String>,
    /// The app's templates that this message or receiver names, and `default` and `detail`.
    pub templates: BTreeMap<String, Template>,
    /// Messages that wait for the receiver.
    pub waiting: u32,
}

/// Names of templates that could be used for this message and receiver.
pub fn template_names(message: &Message, receiver: &Profile) -> Vec<String> {
    let named = &message.ext["em_push_template"];
    let mut names = vec!["default".to_owned(), "detail".to_owned()];
    names.extend(named["name"].as_str().map(str::to_owned));
    names.extend(named["directed_template"]["name"].as_str().map(str::to_owned));
    names.extend(receiver.template.clone());
    names
}

/// Chooses among the five levels, the highest that is there: the display style's own texts, the default
/// template, the sender's title and content, the receiver's template, the sender's template.
pub fn compose(message: &Message, setting: &Setting) -> Content {
    let text = |object: &str, key: &str| {
        message.ext[object][key].as_str().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned)
    };
    let words = Words::of(message, setting);
    let (mut title, mut body) = words.plain(setting);
    let default = if setting.receiver.display_style == 1 { "detail" } else { "default" };
    if let Some(template) = setting.templates.get(default).or_else(|| setting.templates.get("default")) {
        (title, body) = words.filled(template, &Json::Null);
    }
    title = text("em_push_ext", "title").or_else(|| text("em_apns_ext", "em_push_title")).unwrap_or(title);
    body = text("em_push_ext", "content").or_else(|| text("em_apns_ext", "em_push_content")).unwrap_or(body);
    if let Some(template) = setting.receiver.template.as_ref().and_then(|name| setting.templates.get(name)) {
        (title, body) = words.filled(template, &message.ext["em_push_template"]);
    }
    let named = &message.ext["em_push_template"];
    let directed = &named["directed_template"];
    let is_for =
        directed["target"].as_array().is_some_and(|list| list.iter().any(|id| *id == message.to.to_lowercase()));
    for choice in [Some(named), is_for.then_some(directed)].into_iter().flatten() {
        if let Some(template) = choice["name"].as_str().and_then(|name| setting.templates.get(name)) {
            (title, body) = words.filled(template, choice);
        }
    }
    // Most vendors refuse a notification without a text.
    let (fixed_title, fixed_body) = words.banner();
    let or = |text: String, fixed: String| if text.trim().is_empty() { fixed } else { text };
    let (title, body) = (or(title, fixed_title), or(body, fixed_body));
    let mut payload = json!({ "t": message.to, "f": message.from, "m": message.id });
    if let Some(group) = &message.group {
        payload["g"] = json!(group);
    }
    if message.ext["em_push_ext"]["custom"].is_object() {
        payload["e"] = message.ext["em_push_ext"]["custom"].clone();
    }
    Content { title, body, payload }
}

/// What the built-in variables stand for.
struct Words {
    from: String,
    nickname: String,
    message: String,
    mentioned: bool,
    chinese: bool,
}

impl Words {
    fn of(message: &Message, setting: &Setting) -> Self {
        let nickname = setting.sender_nickname.clone().unwrap_or_else(|| message.from.clone());
        let in_group = message.ext["em_push_ext"]["group_user_nickname"].as_str().filter(|n| !n.is_empty());
        let language = setting.receiver.language.as_deref().unwrap_or_default();
        let translated = message.body["translations"][language].as_str();
        let text = translated.or_else(|| message.body["msg"].as_str()).unwrap_or_default();
        let silent = message.ext["em_push_template"]["disable_at_content"] == true;
        Self {
            from: in_group.map_or_else(|| nickname.clone(), str::to_owned),
            nickname,
            message: text.to_owned(),
            mentioned: !silent
                && message.ext["em_at_list"].as_array().is_some_and(|l| l.iter().any(|id| *id == message.to)),
            chinese: language.starts_with("zh"),
        }
    }

    /// A banner that says nothing of the message but that the receiver is mentioned.
    fn banner(&self) -> (String, String) {
        let say = |english: &str, chinese: &str| if self.chinese { chinese } else { english }.to_owned();
        let title = say("You have a new message", "您有一条新消息");
        let mentioned = self.mentioned.then(|| say("Someone mentioned you", "有人@你"));
        (title, mentioned.unwrap_or_else(|| say("Please check", "请点击查看")))
    }

    /// The display style's own texts: the banner, or who wrote what.
    fn plain(&self, setting: &Setting) -> (String, String) {
        let (title, banner) = self.banner();
        match setting.receiver.display_style {
            1 if !self.mentioned && !self.message.is_empty() => (title, format!("{}: {}", self.from, self.message)),
            _ => (title, banner),
        }
    }

    fn filled(&self, template: &Template, arguments: &Json) -> (String, String) {
        let fill = |pattern: &str, key: &str| {
            let arguments = arguments[key].as_array().map(Vec::as_slice).unwrap_or_default();
            self.fill(pattern, arguments)
        };
        (fill(&template.title_pattern, "title_args"), fill(&template.content_pattern, "content_args"))
    }

    /// One pass, so that what is filled in is never taken for a pattern itself.
    fn fill(&self, pattern: &str, arguments: &[Json]) -> String {
        let mut out = String::new();
        let mut rest = pattern;
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            let Some((name, behind)) = after.split_once('}') else {
                out.push('{');
                rest = after;
                continue;
            };
            match name {
                "$dynamicFrom" => out.push_str(&self.from),
                "$fromNickname" => out.push_str(&self.nickname),
                "$msg" => out.push_str(&self.message),
                _ => match name.parse::<usize>().ok().and_then(|at| arguments.get(at)) {
                    Some(Json::String(text)) => out.push_str(text),
                    Some(other) => out.push_str(&other.to_string()),
                    // What nobody fills in stays as it was written.
                    None => out.push_str(&format!("{{{name}}}")),
                },
            }
            rest = behind;
        }
        out.push_str(rest);
        out
    }
}

/// A sound of the app's own.
pub fn sound(message: &Message) -> Option<String> {
    message.ext["em_apns_ext"]["em_push_sound"].as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}

/// The number at the app's icon: the sender's, 0 to take it away, or how many messages wait.
pub fn badge(message: &Message, setting: &Setting) -> Option<u32> {
    let named = message.ext["em_apns_ext"]["em_push_badge"].as_u64().and_then(|badge| u32::try_from(badge).ok());
    named.or(Some(setting.waiting).filter(|waiting| *waiting > 0))
}

/// Refuses an `ext` whose fields for notifications cannot be used as they stand.
///
/// # Errors
/// A sentence that names the field and what it must be.
pub fn check(ext: &Json) -> Result<(), String> {
    crate::vendors::ext::check(ext)?;
    for name in ["em_push_ext", "em_push_template"] {
        if !ext[name].is_null() && !ext[name].is_object() {
            return Err(format!("`{name}` is an object"));
        }
    }
    let custom = &ext["em_push_ext"]["custom"];
    if !custom.is_null() && !custom.is_object() {
        return Err("`em_push_ext.custom` is an object".to_owned());
    }
    for (object, field) in [
        ("em_push_ext", "title"),
        ("em_push_ext", "content"),
        ("em_push_ext", "group_user_nickname"),
        ("em_push_template", "name"),
    ] {
        let value = &ext[object][field];
        if !value.is_null() && !value.is_string() {
            return Err(format!("`{object}.{field}` is a text"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn message(ext: Json) -> Message {
        Message {
            id: "m1".into(),
            from: "bob".into(),
            to: "ann".into(),
            chat_type: "chat".into(),
            group: None,
            sent_at_ms: 0,
            offline: true,
            body: Arc::new(json!({"msg": "secret text"})),
            ext: Arc::new(ext),
        }
    }

    fn template(title: &str, content: &str) -> Template {
        Template { title_pattern: title.into(), content_pattern: content.into() }
    }

    fn shown(ext: Json, setting: &Setting) -> (String, String) {
        let content = compose(&message(ext), setting);
        (content.title, content.body)
    }

    #[test]
    fn the_message_text_is_not_shown_unless_somebody_says_so() {
        let content = compose(&message(json!({})), &Setting::default());
        assert_eq!((content.title.as_str(), content.body.as_str()), ("You have a new message", "Please check"));
        assert_eq!(content.payload, json!({"t": "ann", "f": "bob", "m": "m1"}));
        let ext = json!({"em_push_ext": {"title": "Bob", "content": "hi", "custom": {"k": 1}}});
        let named = compose(&message(ext), &Setting::default());
        assert_eq!((named.title.as_str(), named.body.as_str(), &named.payload["e"]["k"]), ("Bob", "hi", &json!(1)));
    }

    #[test]
    fn each_level_beats_the_ones_below_it() {
        let mut setting = Setting::default();
        setting.receiver.display_style = 1;
        setting.sender_nickname = Some("Bobby".into());
        assert_eq!(shown(json!({}), &setting).1, "Bobby: secret text");
        setting.templates.insert("detail".into(), template("T2", "2 {$fromNickname}"));
        assert_eq!(shown(json!({}), &setting), ("T2".into(), "2 Bobby".into()));
        let own = json!({"title": "T3", "content": "3"});
        assert_eq!(shown(json!({"em_push_ext": own}), &setting), ("T3".into(), "3".into()));
        setting.receiver.template = Some("mine".into());
        setting.templates.insert("mine".into(), template("T4", "4 {$msg}"));
        assert_eq!(shown(json!({"em_push_ext": own}), &setting), ("T4".into(), "4 secret text".into()));
        setting.templates.insert("five".into(), template("{0}", "{1} {0} {2} {$msg}"));
        let chosen = json!({"name": "five", "title_args": ["T5"], "content_args": ["{$msg}", 7]});
        let ext = json!({"em_push_ext": own, "em_push_template": chosen});
        assert_eq!(shown(ext, &setting), ("T5".into(), "7 {$msg} {2} secret text".into()), "arguments are no patterns");
    }

    #[test]
    fn a_directed_template_is_for_those_it_names() {
        let mut setting = Setting::default();
        setting.templates.insert("five".into(), template("all", "all"));
        setting.templates.insert("six".into(), template("you", "you {0}"));
        let ext = |target: &str| {
            let directed = json!({"name": "six", "target": [target], "content_args": ["x"]});
            json!({"em_push_template": {"name": "five", "directed_template": directed}})
        };
        assert_eq!(shown(ext("ann"), &setting), ("you".into(), "you x".into()));
        assert_eq!(shown(ext("bob"), &setting), ("all".into(), "all".into()));
    }

    #[test]
    fn texts_come_in_the_receivers_language_where_the_message_has_it() {
        let receiver = Profile { display_style: 1, language: Some("zh-Hans".into()), ..Profile::default() };
        let setting = Setting { receiver, ..Setting::default() };
        let mut message = message(json!({}));
        message.body = Arc::new(json!({"msg": "good morning", "translations": {"zh-Hans": "早上好"}}));
        let content = compose(&message, &setting);
        assert_eq!((content.title.as_str(), content.body.as_str()), ("您有一条新消息", "bob: 早上好"));
    }

    #[test]
    fn a_text_that_comes_out_empty_is_the_fixed_banner() {
        let mut setting = Setting::default();
        setting.templates.insert("default".into(), template(" ", "{$msg}"));
        let mut picture = message(json!({}));
        picture.body = Arc::new(json!({"type": "img"}));
        let content = compose(&picture, &setting);
        assert_eq!((content.title.as_str(), content.body.as_str()), ("You have a new message", "Please check"));
        setting.receiver.language = Some("zh".into());
        assert_eq!(compose(&picture, &setting).body, "请点击查看");
        picture.ext = Arc::new(json!({"em_at_list": ["ann"]}));
        assert_eq!(compose(&picture, &setting).body, "有人@你");
    }

    #[test]
    fn a_badge_of_zero_is_a_badge() {
        let named = |badge: u32| message(json!({"em_apns_ext": {"em_push_badge": badge}}));
        let waiting = |waiting: u32| Setting { waiting, ..Setting::default() };
        assert_eq!(badge(&named(0), &waiting(3)), Some(0));
        assert_eq!(badge(&named(7), &waiting(3)), Some(7));
        assert_eq!(badge(&message(json!({})), &waiting(3)), Some(3));
        assert_eq!(badge(&message(json!({})), &waiting(0)), None);
    }

    #[test]
    fn what_no_vendor_could_use_is_refused_with_the_field() {
        for good in [
            json!(null),
            json!({"em_apns_ext": {"em_push_badge": 0, "em_push_sound": "a.caf"}}),
            json!({"em_push_ext": {"title": "t", "custom": {"k": 1}}, "em_android_push_ext": {}}),
        ] {
            assert_eq!(check(&good), Ok(()), "{good}");
        }
        for (bad, field) in [
            (json!({"em_apns_ext": {"em_push_badge": "3"}}), "em_push_badge"),
            (json!({"em_apns_ext": {"em_push_badge": -1}}), "em_push_badge"),
            (json!({"em_apns_ext": {"em_push_badge": 1.5}}), "em_push_badge"),
            (json!({"em_apns_ext": {"em_push_badge": 4_294_967_296_u64}}), "em_push_badge"),
            (json!({"em_apns_ext": []}), "em_apns_ext"),
            (json!({"em_push_ext": {"custom": "k"}}), "custom"),
            (json!({"em_push_ext": {"title": 5}}), "em_push_ext.title"),
        ] {
            assert!(check(&bad).expect_err("refused").contains(field), "{bad}");
        }
    }

    #[test]
    fn a_mention_is_said_unless_the_sender_says_not() {
        let at = json!({"em_at_list": ["ann"]});
        assert_eq!(shown(at, &Setting::default()).1, "Someone mentioned you");
        let quiet = json!({"em_at_list": ["ann"], "em_push_template": {"disable_at_content": true}});
        assert_eq!(shown(quiet, &Setting::default()).1, "Please check");
    }
}
