//! Exchanges an enrolment code for a login: at the server's own endpoint, or over REST where the code says so.

use super::config::{Config, Ready};
use super::control::{Refusal, Reply};
use super::disk::blocking;
use super::enrolled::Enrolled;
use super::trust::Trust;
use crate::device;
use crate::keepalive::Cause;
use crate::mqtt::{
    Asked, ConnectOptions, Endpoint, Incoming, Landed, MqttError, Route, TimeFloor, TlsSetupError, are_authorities,
    dial, establish, pinned,
};
use crate::names::Names;
use crate::protocol::{
    Address, CodeError, ENROL_USER, EnrolAnswer, EnrolCode, EnrolRefusal, NO_SERIAL, Topics, enrol_topic, serial_word,
};
use crate::secret::Secret;
use crate::session::Patience;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;
use serde::Deserialize;
use serde_json::json;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The whole exchange; the login that follows has a time of its own.
const WITHIN: Duration = Duration::from_secs(12);
/// Longest answer over REST, in bytes.
const LONGEST: usize = 256 * 1024;
/// Nothing is kept alive here; a server that counts in it drops what we left behind.
const KEEP_ALIVE_S: u16 = 30;

/// The way back to whoever asked.
pub(super) type Answer = oneshot::Sender<Result<Reply, Refusal>>;

/// An exchange under way.
pub(super) type Run = Pin<Box<dyn Future<Output = Result<Granted, Refusal>>>>;

pub(super) struct Enrolling {
    pub run: Run,
    pub reply: Answer,
    pub patience: Patience,
}

/// What came of the code that is being exchanged, once.
pub(super) async fn exchanged(enrolling: &mut Option<Enrolling>) -> Result<Granted, Refusal> {
    match enrolling {
        Some(enrolling) => enrolling.run.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Reads a code, and checks it against what is configured: the configuration with the code's server.
///
/// # Errors
/// [`Refusal`].
pub(super) fn target(text: &Secret, config: &Config) -> Result<(EnrolCode, Ready), Refusal> {
    let bad = |error: CodeError| Refusal::new(400, "bad_code", error.to_string());
    let code = EnrolCode::read(text.expose()).map_err(bad)?;
    if let Some(own) = config.server.app.as_ref().filter(|app| !app.is_empty() && **app != *code.app) {
        let message = format!("the code is for the IM app {}; server.app is {own}", code.app);
        return Err(Refusal::new(422, "wrong_app", message));
    }
    let endpoint: Endpoint =
        code.url().parse().map_err(|error| Refusal::new(400, "bad_code", format!("the code's server: {error}")))?;
    if !endpoint.tls {
        return Err(Refusal::new(400, "bad_code", "the code names a server without TLS"));
    }
    let mut with_code = config.clone();
    with_code.server.url = Some(code.url());
    with_code.server.fallback_urls.clear();
    with_code.server.app = Some(code.app.to_string());
    let ready = with_code.check().map_err(|error| Refusal::new(500, "config_refused", error.to_string()))?;
    Ok((code, ready))
}

/// Which device enrols, and what it connects with.
pub(super) struct Device {
    pub id: String,
    pub config: Config,
    pub names: Names,
    pub floor: Arc<TimeFloor>,
}

impl Device {
    async fn serial(&self) -> String {
        let root = self.config.device.root.clone();
        let serial = blocking(move || device::serial_number(root.as_deref())).await;
        serial.as_deref().and_then(serial_word).unwrap_or_else(|| NO_SERIAL.to_owned())
    }

    /// What the first connection is checked against.
    async fn tls(&self, code: &EnrolCode) -> Result<Arc<ClientConfig>, TlsSetupError> {
        let floor = self.floor.clone();
        floor.raise(u64::from(code.made_s) * 1000);
        if let Some(authority) = code.authority {
            return pinned(authority, floor);
        }
        // What an enrolment before has brought is another server's.
        let server = self.config.server_as_configured();
        blocking(move || Trust::read(&server, floor)).await.map(|trust| trust.credentials.config)
    }
}

/// What a code was exchanged for.
#[derive(Debug)]
pub(super) struct Granted {
    pub user: String,
    pub token: Secret,
    pub enrolled: Enrolled,
}

/// # Errors
/// [`Refusal`].
pub(super) async fn exchange(code: EnrolCode, ready: Ready, device: Device) -> Result<Granted, Refusal> {
    let serial = device.serial().await;
    let tls = device.tls(&code).await.map_err(|error| Refusal::new(500, "tls_failed", error.to_string()))?;
    let Device { id, names, .. } = device;
    let way = Way { code: &code, ready: &ready, names, tls };
    let exchange = async {
        match &code.rest {
            Some(rest) => way.over_rest(rest, &id, &serial).await,
            None => way.over_mqtt(&id, &serial).await,
        }
    };
    let late = |_| Err(MqttError::new(Cause::ConnectTimeout, format!("no answer within {} s", WITHIN.as_secs())));
    let answer = tokio::time::timeout(WITHIN, exchange).await.unwrap_or_else(late);
    match answer.map_err(|failure| unreached(&code, &failure))? {
        EnrolAnswer::Enrolled { user, token, ca, prefix } => {
            // What no start could use is not kept.
            if !ca.as_deref().is_none_or(are_authorities) || Topics::new(&prefix).is_err() {
                let message = "the gateway's answer cannot be used: its authorities or its topics' prefix are none";
                return Err(Refusal::new(502, "protocol_error", message));
            }
            let enrolled = Enrolled::new(code.url(), code.app.to_string(), prefix, ca);
            Ok(Granted { user, token, enrolled })
        }
        EnrolAnswer::Refused { code, message } => {
            let status = if code == EnrolRefusal::Unavailable { 502 } else { 422 };
            Err(Refusal::new(status, code.as_str(), format!("the gateway refuses: {message}")))
        }
    }
}

/// The code stays good for this device, whether or not the gateway has heard of it.
fn unreached(code: &EnrolCode, failure: &MqttError) -> Refusal {
    let at = code.rest.clone().unwrap_or_else(|| code.url());
    let message = match (failure.cause, code.authority) {
        (Cause::TlsUntrusted, Some(_)) => format!(
            "{at} does not show the authority that the code names: it is another server than the code was made for, or \
             something stands in between. The code was not sent"
        ),
        (cause, _) => {
            format!("{at}: {} ({}); try again, the code stays good for this device", cause.text(), failure.detail)
        }
    };
    Refusal::new(502, failure.cause.as_str(), message)
}

struct Way<'a> {
    code: &'a EnrolCode,
    ready: &'a Ready,
    names: Names,
    tls: Arc<ClientConfig>,
}

impl Way<'_> {
    /// The gateway answers once on `down`, and closes.
    async fn over_mqtt(&self, device: &str, serial: &str) -> Result<EnrolAnswer, MqttError> {
        let address = Address::new(self.code.app.as_str(), serial, device)
            .map_err(|error| MqttError::new(Cause::ProtocolError, error.to_string()))?;
        let topic = enrol_topic(&address);
        let route = Route {
            endpoints: self.ready.endpoints.clone(),
            proxy: self.ready.proxy.clone(),
            names: self.names.clone(),
            tls: self.tls.clone(),
            behind: Vec::new(),
            small_segments: false,
        };
        let options = |_| ConnectOptions {
            client_id: address.client_id(),
            user_name: ENROL_USER.to_owned(),
            password: self.code.secret.clone(),
            keep_alive_s: KEEP_ALIVE_S,
            session_expiry_s: 0,
            clean_start: true,
            will: None,
        };
        let asked = Asked { options: &options, topic: Some(&topic), kept: false };
        let Landed { mut connection, .. } = establish(&route, &asked, WITHIN).await.result?;
        loop {
            if let Incoming::Publish { payload, packet_id, .. } = connection.next().await? {
                if let Some(packet_id) = packet_id {
                    // It closes without waiting for it.
                    let _ = connection.ack(packet_id).await;
                }
                let no_answer = || MqttError::new(Cause::ProtocolError, "the server's answer is none of this version");
                return EnrolAnswer::decode(&payload).ok_or_else(no_answer);
            }
        }
    }

    async fn over_rest(&self, rest: &str, device: &str, serial: &str) -> Result<EnrolAnswer, MqttError> {
        let no_answer = |why: &dyn std::fmt::Display| MqttError::new(Cause::ProtocolError, format!("over REST: {why}"));
        let address = rest.strip_prefix("https://").ok_or_else(|| no_answer(&"the address has no TLS"))?;
        // The same syntax, and the same port.
        let parsed: Endpoint = format!("wss://{address}").parse().map_err(|error| no_answer(&error))?;
        let base = address.split_once('/').map_or("", |(_, path)| path.trim_matches('/'));
        let part = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (org, app) = self.code.app.split_once('#').ok_or_else(|| no_answer(&"the app is no org#app"))?;
        let slash = if base.is_empty() { "" } else { "/" };
        let path = format!("{slash}{base}/{}/{}/enrol", part(org), part(app));
        let body = json!({
            "secret": self.code.secret.expose(), "device_id": device,
            "serial": if serial == NO_SERIAL { "" } else { serial },
        });
        let host = if parsed.host.contains(':') { format!("[{}]", parsed.host) } else { parsed.host.clone() };
        let request = hyper::Request::post(path)
            .header("host", format!("{host}:{}", parsed.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| no_answer(&error))?;
        let endpoint = Endpoint { path: None, ..parsed };
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = dial(&endpoint, self.ready.proxy.as_ref(), &self.names, &Arc::new(tls), WITHIN).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| no_answer(&error))?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(|error| no_answer(&error))?;
            let status = response.status();
            let bytes =
                Limited::new(response.into_body(), LONGEST).collect().await.map_err(|error| no_answer(&error))?;
            let bytes = bytes.to_bytes();
            if status.is_success() {
                return EnrolAnswer::decode(&bytes).ok_or_else(|| no_answer(&"the answer is none of this version"));
            }
            #[derive(Deserialize)]
            struct Refused {
                error: EnrolRefusal,
                error_description: String,
            }
            let refused: Refused = serde_json::from_slice(&bytes).map_err(|_| no_answer(&status))?;
            Ok(EnrolAnswer::Refused { code: refused.error, message: refused.error_description })
        };
        tokio::select! {
            answer = answered => answer,
            // Its errors reach the caller through the sender.
            () = async { drop(connection.await); std::future::pending().await } => Err(no_answer(&"closed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(app: &str, server: &str) -> Secret {
        let app = app.to_owned().try_into().expect("an app");
        let secret = Secret::new("00".repeat(16));
        let code = EnrolCode { app, server: server.to_owned(), rest: None, authority: None, secret, made_s: 0 };
        code.write().expect("written")
    }

    #[test]
    fn a_code_of_another_app_or_without_a_safe_server_is_refused_before_anything_is_connected() {
        let config: Config =
            toml::from_str("server={url='mqtts://a',app='o#a',fallback_urls=['mqtts://b']}").expect("read");
        let (_, ready) = target(&code("o#a", "push:1"), &config).expect("good");
        let servers: Vec<String> = ready.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["mqtts://push:1"], "the code's server alone");
        let refused = |text: &Secret| target(text, &config).map(drop).expect_err("refused").code;
        assert_eq!(refused(&code("o#b", "push:1")), "wrong_app");
        assert_eq!(refused(&code("o#a", "mqtt://push:1")), "bad_code");
        assert_eq!(refused(&code("o#a", "ws://127.0.0.1:1/mqtt")), "bad_code");
        assert_eq!(refused(&Secret::new("hunter2")), "bad_code");
        assert!(target(&code("o#b", "push:1"), &Config::default()).is_ok(), "where nothing is configured");
    }
}
