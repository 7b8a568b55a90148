//! What apps and users set: rules, templates, silence, language, nickname; in the original system's paths.

use super::super::clock::now_ms;
use super::super::store::Key;
use super::users::{change_password, known_user};
use super::who::{AppRequest, UserRequest};
use super::{ApiError, Body, State};
use crate::delivery::content::{Profile, Template};
use crate::delivery::policy::AppRules;
use crate::delivery::silence::{LONGEST_DURATION_MS, Mode, Silence, interval, zone};
use crate::secret::Secret;
use axum::Json;
use axum::extract::State as Shared;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Longest push nickname, in characters.
const MAX_NICKNAME: usize = 100;
/// Longest template name, and longest pattern, in characters.
const MAX_NAME: usize = 64;
const MAX_PATTERN: usize = 1000;

/// The webhook's secret is not shown.
fn shown(rules: &AppRules) -> Value {
    let mut rules = rules.clone();
    if let Some(webhook) = &mut rules.webhook {
        webhook.secret = Secret::new(format!("(set, {})", webhook.secret));
    }
    json!(rules)
}

pub(super) async fn rules(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let rules = state.store.rules(request.app.clone()).await?;
    Ok(request.envelope("get", "data", shown(&rules)))
}

pub(super) async fn set_rules(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(rules): Body<AppRules>,
) -> Result<Json<Value>, ApiError> {
    if !(1..=100).contains(&rules.device_limit) {
        return Err(ApiError::illegal(format!("device_limit is {}; 1 to 100", rules.device_limit)));
    }
    zone(&rules.time_zone).map_err(|e| ApiError::illegal(format!("time_zone: {e}")))?;
    if let Some(webhook) = &rules.webhook
        && !(webhook.url.starts_with("https://") || webhook.url.starts_with("http://"))
    {
        return Err(ApiError::illegal("webhook.url starts with https:// or http://"));
    }
    state.store.set(request.app.clone(), String::new(), Key::Rules, &rules).await?;
    Ok(request.envelope("put", "data", shown(&rules)))
}

#[derive(Deserialize)]
pub(super) struct NewTemplate {
    name: String,
    title_pattern: String,
    content_pattern: String,
}

pub(super) async fn set_template(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(template): Body<NewTemplate>,
) -> Result<Json<Value>, ApiError> {
    let NewTemplate { name, title_pattern, content_pattern } = template;
    let good = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if !good {
        return Err(ApiError::illegal(format!("a template's name has 1 to {MAX_NAME} of a-z, A-Z and 0-9")));
    }
    if [&title_pattern, &content_pattern].iter().any(|pattern| pattern.chars().count() > MAX_PATTERN) {
        return Err(ApiError::illegal(format!("a pattern has at most {MAX_PATTERN} characters")));
    }
    let template = Template { title_pattern, content_pattern };
    state.store.set(request.app.clone(), String::new(), Key::Template(name.clone()), &template).await?;
    Ok(request.envelope("post", "data", with_name(&name, &template)))
}

fn with_name(name: &str, template: &Template) -> Value {
    let mut value = json!(template);
    value["name"] = json!(name);
    value
}

fn no_template(name: &str) -> ApiError {
    ApiError::not_found(format!("no template is named `{name}`"))
}

pub(super) async fn template(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let name = request.variable("name");
    let key = Key::Template(name.clone());
    let found: Option<Template> = state.store.setting(request.app.clone(), String::new(), key).await?;
    let template = found.ok_or_else(|| no_template(&name))?;
    Ok(request.envelope("get", "data", with_name(&name, &template)))
}

pub(super) async fn remove_template(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let name = request.variable("name");
    if !state.store.unset(request.app.clone(), String::new(), Key::Template(name.clone())).await? {
        return Err(no_template(&name));
    }
    Ok(request.envelope("delete", "data", json!({ "name": name })))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewSilence {
    #[serde(rename = "type")]
    mode: Option<Mode>,
    /// `HH:MM-HH:MM`; empty takes it away.
    ignore_interval: Option<String>,
    time_zone: Option<String>,
    /// Milliseconds from now; 0 takes it away.
    ignore_duration: Option<u64>,
}

/// The key of the conversation in the path, and whether it is the user's app-wide setting.
fn silence_key(request: &AppRequest, user: &str) -> Result<(Key, bool), ApiError> {
    let key = request.variable("key");
    match request.variable("kind").as_str() {
        "user" if key == user => Ok((Key::Silence, true)),
        "user" => Ok((Key::SilenceWith(key), false)),
        "chatgroup" => Ok((Key::SilenceIn(key), false)),
        _ => Err(ApiError::not_found("notification settings are of a `user` or a `chatgroup`")),
    }
}

pub(super) async fn silence(
    UserRequest(request): UserRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, &state).await?;
    let (key, _) = silence_key(&request, &user)?;
    let silence: Silence = state.store.setting(request.app.clone(), user, key).await?;
    Ok(request.envelope("get", "data", as_read(&silence)))
}

pub(super) async fn set_silence(
    UserRequest(request): UserRequest,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewSilence>,
) -> Result<Json<Value>, ApiError> {
    let user = known_user(&request, &state).await?;
    let (key, app_wide) = silence_key(&request, &user)?;
    if app_wide && new.mode == Some(Mode::Default) {
        return Err(ApiError::illegal("DEFAULT is for a conversation, which then follows the app-wide setting"));
    }
    if !app_wide && (new.ignore_interval.is_some() || new.time_zone.is_some()) {
        return Err(ApiError::illegal("ignoreInterval is app-wide only; set it under the user's own id"));
    }
    let mut silence: Silence = state.store.setting(request.app.clone(), user.clone(), key.clone()).await?;
    silence.mode = new.mode.or(silence.mode);
    if let Some(text) = new.ignore_interval {
        if !text.is_empty() {
            interval(&text).map_err(ApiError::illegal)?;
        }
        silence.ignore_interval = Some(text).filter(|text| !text.is_empty());
    }
    if let Some(name) = new.time_zone {
        zone(&name).map_err(ApiError::illegal)?;
        silence.time_zone = Some(name);
    }
    if let Some(duration) = new.ignore_duration {
        if duration > LONGEST_DURATION_MS {
            return Err(ApiError::illegal(format!("ignoreDuration is at most {LONGEST_DURATION_MS} ms, seven days")));
        }
        silence.ignore_until = (duration > 0).then(|| now_ms() + duration);
    }
    state.store.set(request.app.clone(), user, key, &silence).await?;
    Ok(request.envelope("put", "data", as_read(&silence)))
}

/// As the original system reads it back: the duration as the moment it ends.
fn as_read(silence: &Silence) -> Value {
    let mut value = json!(silence);
    if let Some(map) = value.as_object_mut() {
        let until = map.remove("ignoreUntil").and_then(|until| until.as_u64()).filter(|until| *until > now_ms());
        map.insert("ignoreDuration".to_owned(), json!(until.unwrap_or(0)));
        map.entry("type").or_insert(json!("DEFAULT"));
    }
    value
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewLanguage {
    translation_language: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewChoice {
    template_name: String,
}

#[derive(Deserialize)]
pub(super) struct NewProfile {
    nickname: Option<String>,
    /// 0: a fixed banner; 1: who wrote what.
    notification_display_style: Option<u8>,
    #[serde(default)]
    password: Option<Secret>,
}

async fn profile(request: &AppRequest, state: &State) -> Result<(String, Profile), ApiError> {
    let user = known_user(request, state).await?;
    let profile = state.store.setting(request.app.clone(), user.clone(), Key::Profile).await?;
    Ok((user, profile))
}

pub(super) async fn language(
    UserRequest(request): UserRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let (_, profile) = profile(&request, &state).await?;
    Ok(request.envelope("get", "data", json!({ "language": profile.language.unwrap_or_default() })))
}

pub(super) async fn set_language(
    UserRequest(request): UserRequest,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewLanguage>,
) -> Result<Json<Value>, ApiError> {
    let NewLanguage { translation_language } = new;
    let tag = translation_language.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if translation_language.len() > 35 || !tag {
        return Err(ApiError::illegal("translationLanguage is a language tag of at most 35 characters (RFC 5646)"));
    }
    let (user, mut profile) = profile(&request, &state).await?;
    profile.language = Some(translation_language.clone()).filter(|language| !language.is_empty());
    state.store.set(request.app.clone(), user, Key::Profile, &profile).await?;
    Ok(request.envelope("put", "data", json!({ "language": translation_language })))
}

pub(super) async fn choice(
    UserRequest(request): UserRequest,
    Shared(state): Shared<Arc<State>>,
) -> Result<Json<Value>, ApiError> {
    let (_, profile) = profile(&request, &state).await?;
    Ok(request.envelope("get", "data", json!({ "templateName": profile.template.unwrap_or_default() })))
}

pub(super) async fn set_choice(
    UserRequest(request): UserRequest,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewChoice>,
) -> Result<Json<Value>, ApiError> {
    let NewChoice { template_name } = new;
    let (user, mut profile) = profile(&request, &state).await?;
    if !template_name.is_empty() {
        let key = Key::Template(template_name.clone());
        let known: Option<Template> = state.store.setting(request.app.clone(), String::new(), key).await?;
        if known.is_none() {
            return Err(ApiError::illegal(format!("no template is named `{template_name}`")));
        }
    }
    profile.template = Some(template_name.clone()).filter(|name| !name.is_empty());
    state.store.set(request.app.clone(), user, Key::Profile, &profile).await?;
    Ok(request.envelope("put", "data", json!({ "templateName": template_name })))
}

/// The user's push nickname, display style and, for an app, password.
pub(super) async fn set_profile(
    UserRequest(request): UserRequest,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<NewProfile>,
) -> Result<Json<Value>, ApiError> {
    let NewProfile { nickname, notification_display_style, password } = new;
    if nickname.as_ref().is_some_and(|nickname| nickname.chars().count() > MAX_NICKNAME) {
        return Err(ApiError::illegal(format!("a nickname has at most {MAX_NICKNAME} characters")));
    }
    if notification_display_style.is_some_and(|style| style > 1) {
        return Err(ApiError::illegal("notification_display_style is 0 or 1"));
    }
    let (user, mut profile) = profile(&request, &state).await?;
    if let Some(password) = password {
        if !request.by_app {
            return Err(ApiError::forbidden("a password is changed with an app token"));
        }
        change_password(&request, &state, user.clone(), password).await?;
    }
    if let Some(nickname) = nickname {
        profile.nickname = Some(nickname).filter(|nickname| !nickname.is_empty());
    }
    profile.display_style = notification_display_style.unwrap_or(profile.display_style);
    state.store.set(request.app.clone(), user.clone(), Key::Profile, &profile).await?;
    let entity =
        json!({ "username": user, "nickname": profile.nickname, "notification_display_style": profile.display_style });
    Ok(request.envelope("put", "entities", json!([entity])))
}
