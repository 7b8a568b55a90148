//! Enrolment codes for programs and operators, and the exchange of one over REST.

use super::asked::Origin;
use super::who::AppRequest;
use super::{ApiError, Body, State, app_of};
use crate::gateway::clock::now_ms;
use crate::gateway::enrolment::{LONGEST_CA, fingerprint, server};
use crate::gateway::store::{Enrolling, EnrolmentCode, check_template};
use crate::input;
use crate::mqtt::are_authorities;
use crate::protocol::{EnrolAnswer, EnrolCode, EnrolRefusal};
use crate::secret::{Secret, hex, random_hex};
use axum::Json;
use axum::extract::{Path, State as Shared};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use tracing::info;

/// Devices that one code may enrol.
const MOST_USES: u32 = 1_000_000;
/// Seconds a code may be good for: a year.
const LONGEST_S: u64 = 366 * 86_400;
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct New {
    user: String,
    #[serde(default = "one")]
    uses: u32,
    #[serde(default = "week_s")]
    expires_s: u64,
    /// Where devices reach the server, if not where the gateway takes itself to be.
    #[serde(default)]
    server: Option<String>,
    /// Where they reach this API.
    #[serde(default)]
    rest: Option<String>,
    /// The authorities they are to trust, as PEM; the first is the one the code pins.
    #[serde(default)]
    ca: Option<String>,
}

const fn one() -> u32 {
    1
}

const fn week_s() -> u64 {
    7 * 86_400
}

impl New {
    /// What the code says, around this secret.
    fn code(&self, state: &State, app: &str, secret: Secret) -> Result<EnrolCode, ApiError> {
        check_template(&self.user, self.uses).map_err(ApiError::illegal)?;
        if !(1..=MOST_USES).contains(&self.uses) {
            return Err(ApiError::illegal(format!("uses: 1 to {MOST_USES}")));
        }
        if !(1..=LONGEST_S).contains(&self.expires_s) {
            return Err(ApiError::illegal(format!("expires_s: 1 to {LONGEST_S} seconds")));
        }
        let serving = &state.enrolment.serving;
        let given = self.server.as_deref().map(server).transpose().map_err(ApiError::illegal)?;
        let server = given.or_else(|| serving.server.clone()).ok_or_else(|| {
            ApiError::illegal("server: the configuration does not say where devices reach the server; say host:port")
        })?;
        if self.rest.is_none() && serving.has_broker {
            return Err(ApiError::illegal(
                "rest: this gateway's broker knows no codes; say where devices reach this API with TLS, https://...",
            ));
        }
        if self.rest.as_ref().is_some_and(|rest| !rest.starts_with("https://")) {
            return Err(ApiError::illegal("rest: an address with TLS, https://..."));
        }
        if self.ca.as_ref().is_some_and(|ca| ca.len() > LONGEST_CA) {
            return Err(ApiError::illegal(format!("ca: at most {LONGEST_CA} bytes")));
        }
        // A front before this API has a certificate of its own.
        let own = serving.ca.as_ref().filter(|_| self.rest.is_none());
        let authority = self.ca.as_ref().or(own).map(|pem| {
            let found = fingerprint(pem).filter(|_| are_authorities(pem));
            found.ok_or_else(|| ApiError::illegal("ca: a PEM text of certificates, and of nothing else"))
        });
        let app = app.to_owned().try_into().map_err(|e| ApiError::illegal(format!("{e}")))?;
        let made_s = u32::try_from(now_ms() / 1000).unwrap_or(u32::MAX);
        Ok(EnrolCode { app, server, rest: self.rest.clone(), authority: authority.transpose()?, secret, made_s })
    }
}

/// The code is in this answer and nowhere else.
pub(super) async fn add(
    request: AppRequest,
    Shared(state): Shared<Arc<State>>,
    Body(new): Body<New>,
) -> Result<Json<Value>, ApiError> {
    let secret = Secret::new(random_hex::<16>());
    let made = new.code(&state, &request.app, secret.clone())?;
    let text = made.write().map_err(|e| ApiError::illegal(e.to_string()))?;
    let created_ms = now_ms();
    let code = EnrolmentCode {
        id: format!("enrol-{}", random_hex::<4>()),
        user: new.user,
        uses: new.uses,
        uses_left: new.uses,
        expires_ms: created_ms + new.expires_s * 1000,
        created_ms,
        created_by: request.by.clone(),
        revoked_ms: None,
    };
    if !state.store.add_enrolment_code(request.app.clone(), code.clone(), secret, new.ca).await? {
        return Err(ApiError::forbidden("this app has as many enrolment codes as it may; revoke one"));
    }
    let EnrolmentCode { id, user, uses, created_by, .. } = &code;
    info!(
        event = "enrolment.code_made",
        app = request.app,
        code = id,
        user,
        uses,
        by = created_by,
        "an enrolment code was made"
    );
    let mut shown = json!(code);
    shown["code"] = json!(text.expose());
    shown["server"] = json!(made.url());
    shown["authority_sha256"] = json!(made.authority.map(|digest| hex(&digest)));
    Ok(request.envelope("post", "data", shown))
}

pub(super) async fn list(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let codes = state.store.enrolment_codes(request.app.clone()).await?;
    let shown = codes.into_iter().map(|(code, devices)| {
        let mut shown = json!(code);
        shown["devices"] = json!(devices);
        shown
    });
    Ok(request.envelope("get", "entities", shown.collect()))
}

/// Devices that have enrolled with it stay what they are.
pub(super) async fn revoke(request: AppRequest, Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let id = request.variable("code");
    if !state.store.revoke_enrolment_code(request.app.clone(), id.clone(), now_ms()).await? {
        return Err(ApiError::not_found(format!("this app has no enrolment code `{id}`")));
    }
    info!(
        event = "enrolment.code_revoked",
        app = request.app,
        code = id,
        by = request.by,
        "an enrolment code was revoked"
    );
    Ok(request.envelope("delete", "data", json!({ "id": id })))
}

#[derive(Deserialize)]
pub(super) struct Show {
    secret: Secret,
    device_id: String,
    #[serde(default)]
    serial: String,
}

/// For a device; the code's secret is what it shows.
pub(super) async fn exchange(
    Shared(state): Shared<Arc<State>>,
    Path(path): Path<HashMap<String, String>>,
    from: Origin,
    Body(Show { secret, device_id, serial }): Body<Show>,
) -> Result<Json<Value>, ApiError> {
    let app = app_of(&path)?;
    input::word(&serial, "the serial number")?;
    match state.enrolment.exchange(Enrolling { app, secret, device: device_id, serial }, from.0).await {
        EnrolAnswer::Refused { code, message } => Err(refused(code, message)),
        answer @ EnrolAnswer::Enrolled { .. } => Ok(Json(answer.json())),
    }
}

fn refused(code: EnrolRefusal, message: String) -> ApiError {
    match code {
        EnrolRefusal::Unknown => ApiError::unauthorized(message),
        EnrolRefusal::HeldBack => ApiError::held_back(1000, message),
        EnrolRefusal::Unavailable => ApiError::unavailable(message),
        EnrolRefusal::NoSerial | EnrolRefusal::BadUser | EnrolRefusal::BadDevice => ApiError::illegal(message),
        _ => ApiError::forbidden(message),
    }
    .saying(code.as_str())
}
