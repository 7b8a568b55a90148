//! What all vendors' calls share: credential, circuit, batches, one refresh, and answers turned into outcomes.

use super::circuit::{Change, Circuits, Open, Rejections, Sign};
use super::credential::Credentials;
use super::failed::Failed;
use super::heard::Heard;
use super::outcome;
use super::troubled::{InTrouble, Troubled};
use crate::delivery::outcome::{Limit, Outcome};
use crate::gateway::clock;
use crate::http::Http;
use crate::secret::Secret;
use crate::vendors::call::{Answer, Call, Grant, Meaning, NoCredential, Protocol, Push, Reading, TooLarge};
use crate::vendors::certificate::Certificate;
use crate::vendors::notification::{Accepted, Notification};
use futures_util::future::join_all;
use tracing::{error, info};

/// What a vendor is called for.
enum Errand<'a> {
    Push { tokens: &'a [&'a str], notification: &'a Notification },
    Recall { call: Call, token: &'a str },
}

/// The way to one vendor.
#[derive(Debug)]
pub(super) struct Route {
    protocol: Box<dyn Protocol>,
    http: Http,
    credentials: Credentials,
    circuits: Circuits,
    troubled: Troubled,
}

impl Route {
    pub fn new(http: &Http, protocol: Box<dyn Protocol>) -> Self {
        let (credentials, circuits, troubled) = Default::default();
        Self { protocol, http: http.clone(), credentials, circuits, troubled }
    }

    /// Sends to each token; the outcomes are in the tokens' order.
    pub async fn send(
        &self,
        certificate: &Certificate,
        tokens: &[&str],
        notification: &Notification,
        now_ms: u64,
    ) -> Vec<Outcome> {
        let key = certificate.identity();
        let batches =
            tokens.chunks(self.protocol.batch()).map(|batch| self.batch(certificate, key, batch, notification, now_ms));
        join_all(batches).await.into_iter().flatten().collect()
    }

    /// Whether the vendor would refuse a push for its size.
    pub fn too_large(&self, certificate: &Certificate, notification: &Notification) -> Option<TooLarge> {
        self.protocol.too_large(&Push { certificate, access: "", tokens: &[], notification, now_ms: 0 })
    }

    /// Takes an accepted push back. `None`: this vendor cannot.
    pub async fn recall(&self, certificate: &Certificate, accepted: &Accepted<'_>, now_ms: u64) -> Option<Outcome> {
        let errand = Errand::Recall { call: self.protocol.recall(certificate, accepted)?, token: accepted.token };
        let read = self.ask(certificate, certificate.identity(), &errand, now_ms).await;
        Some(read.map_or_else(|failed| failed.outcome, |reading| outcome(&reading, &reading.rest, true, now_ms)))
    }

    /// Why this certificate is not used now.
    pub fn open(&self, certificate: &Certificate) -> Option<Open> {
        self.circuits.open(certificate.identity())
    }

    /// Why this certificate has not been usable for ten minutes or more.
    pub fn failing(&self, certificate: &Certificate, now_ms: u64) -> Option<Open> {
        self.circuits.failing(certificate.identity(), now_ms)
    }

    pub fn anew(&self, certificate: &Certificate) {
        self.circuits.anew(certificate.identity());
    }

    /// What its vendor refuses for good, again and again.
    pub fn rejecting(&self, certificate: &Certificate) -> Option<Rejections> {
        self.circuits.rejecting(certificate.identity())
    }

    pub fn in_trouble(&self) -> Vec<InTrouble> {
        self.troubled.now(&self.circuits)
    }

    pub fn forget(&self, identity: &str) {
        self.troubled.forget(identity);
    }

    pub fn any_failing(&self, now_ms: u64) -> bool {
        self.circuits.any_failing(now_ms)
    }

    async fn batch(
        &self,
        certificate: &Certificate,
        key: &str,
        tokens: &[&str],
        notification: &Notification,
        now_ms: u64,
    ) -> Vec<Outcome> {
        if let Err(Open { until_ms, reason, .. }) = self.circuits.admit(key, now_ms) {
            let waits = Outcome::LimitedUntil { limit: Limit::Circuit, until_ms, code: "circuit_open".into(), reason };
            return vec![waits; tokens.len()];
        }
        let result = self.ask(certificate, key, &Errand::Push { tokens, notification }, now_ms).await;
        self.judge(certificate, key, &result, now_ms);
        match result {
            Ok(reading) => {
                let proven = self.circuits.proven(key);
                tokens.iter().map(|token| outcome(&reading, reading.of(token), proven, now_ms)).collect()
            }
            Err(failed) => vec![failed.outcome; tokens.len()],
        }
    }

    async fn ask(
        &self,
        certificate: &Certificate,
        key: &str,
        errand: &Errand<'_>,
        now_ms: u64,
    ) -> Result<Reading, Failed> {
        let mut stale: Option<Secret> = None;
        loop {
            let access = self.access(certificate, key, now_ms, stale.as_ref()).await?;
            let bearer = access.as_ref().map(Secret::expose).unwrap_or_default();
            let reading = match errand {
                Errand::Push { tokens, notification } => {
                    self.exchange(&Push { certificate, access: bearer, tokens, notification, now_ms }).await?
                }
                Errand::Recall { call, token } => {
                    let mut call = call.clone();
                    call.headers.extend(access.as_ref().map(|_| ("authorization", format!("Bearer {bearer}"))));
                    self.call(&call, |answer| self.protocol.read(answer)).await?.0.without(bearer, &[token])
                }
            };
            // Once with what is cached, once with a fresh one: after that the certificate is at fault.
            if reading.rest.meaning != Meaning::Auth || stale.is_some() || access.is_none() {
                return Ok(reading);
            }
            stale = access;
        }
    }

    async fn exchange(&self, push: &Push<'_>) -> Result<Reading, Failed> {
        let handle = match self.protocol.before(push) {
            Some(call) => match self.call(&call, |answer| self.protocol.handle(answer)).await? {
                (Ok(handle), _) => Some(handle),
                (Err(reading), heard) => return Ok(understood(reading, heard, push)),
            },
            None => None,
        };
        let call = self.protocol.request(push, handle.as_deref());
        let (reading, heard) = self.call(&call, |answer| self.protocol.read(answer)).await?;
        Ok(understood(reading, heard, push))
    }

    async fn call<T>(&self, call: &Call, read: impl FnOnce(&Answer<'_>) -> T) -> Result<(T, Heard), Failed> {
        let headers: Vec<(&str, &str)> = call.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = self
            .http
            .exchange("POST", &call.url, &headers, call.body.clone(), self.protocol.repeat())
            .await
            .map_err(Failed::from)?;
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let said = Answer {
            status: answer.status.as_u16(),
            body: &answer.body,
            id_header: self.protocol.id_header().and_then(header),
        };
        Ok((read(&said), Heard::of(&answer.headers, clock::now_ms())))
    }

    async fn access(
        &self,
        certificate: &Certificate,
        key: &str,
        now_ms: u64,
        stale: Option<&Secret>,
    ) -> Result<Option<Secret>, Failed> {
        let fetch = || async {
            match self.protocol.grant(certificate, now_ms).map_err(no_credential)? {
                Grant::None => Ok(None),
                Grant::Made(credential) => Ok(Some(credential)),
                Grant::Ask(call) => {
                    let (granted, heard) = self.call(&call, |answer| self.protocol.granted(answer, now_ms)).await?;
                    granted.map(Some).map_err(|mut why| {
                        let (NoCredential::Refused { reason, .. } | NoCredential::Later { reason, .. }) = &mut why;
                        *reason = certificate.without_secrets(std::mem::take(reason));
                        if let NoCredential::Refused { reason, .. } = &mut why {
                            heard.explain(reason);
                        }
                        no_credential(why)
                    })
                }
            }
        };
        self.credentials.get(key, now_ms, stale, fetch).await
    }

    /// Tells the circuit what came of a call, and operators when it opens or closes.
    fn judge(&self, certificate: &Certificate, key: &str, result: &Result<Reading, Failed>, now_ms: u64) {
        let sign = match result {
            Ok(reading) => match reading.rest.meaning {
                Meaning::Auth | Meaning::Certificate => {
                    Sign::Refused(format!("{} {}", reading.rest.code, reading.rest.reason))
                }
                Meaning::Retry => {
                    Sign::Unreachable { reason: format!("{} {}", reading.rest.code, reading.rest.reason), lost: None }
                }
                Meaning::Request => Sign::Rejected(format!("{} {}", reading.rest.code, reading.rest.reason)),
                meaning => Sign::Good { delivered: meaning == Meaning::Ok },
            },
            Err(Failed { outcome: Outcome::Refused { code, reason, .. }, .. }) => {
                Sign::Refused(format!("{code} {reason}"))
            }
            Err(failed) => Sign::Unreachable { reason: failed.outcome.detail(), lost: failed.lost },
        };
        let (vendor, name) = (certificate.vendor.as_str(), &certificate.name);
        let change = self.circuits.note(key, sign, now_ms);
        if matches!(change, Some(Change::Opened(_) | Change::Rejecting(_))) {
            self.troubled.note(key, &certificate.app, name);
        }
        match change {
            Some(Change::Opened(open)) => error!(
                event = "certificate.circuit_opened", vendor, certificate = %name, reason = open.reason,
                again_in_s = open.until_ms.saturating_sub(now_ms) / 1000,
                "this certificate cannot be used; its notifications wait, and no binding is touched"
            ),
            Some(Change::Closed) => {
                info!(event = "certificate.circuit_closed", vendor, certificate = %name, "the certificate works again");
            }
            Some(Change::Rejecting(Rejections { count, reason, .. })) => error!(
                event = "certificate.rejecting", vendor, certificate = %name, count, reason,
                "the vendor refuses each notification of this certificate for good, and accepts none"
            ),
            None => {}
        }
    }
}

/// An answer to a push, with what its headers say.
fn understood(reading: Reading, heard: Heard, push: &Push<'_>) -> Reading {
    let mut reading = reading.without(push.access, push.tokens);
    reading.after_ms = heard.wait_ms.or(reading.after_ms);
    if reading.rest.meaning == Meaning::Auth {
        heard.explain(&mut reading.rest.reason);
    }
    reading
}

fn no_credential(why: NoCredential) -> Failed {
    Failed::from(match why {
        NoCredential::Refused { code, reason } => Outcome::Refused { code, reason, certificate: true },
        NoCredential::Later { code, reason } => Outcome::RetryAfter { after_ms: None, code, reason },
    })
}
