//! What a device gets for an enrolment code: a user of its own, a token for it, and whom to trust. The same over the
//! gateway's own endpoint and over REST.

use super::attempts::Attempts;
use super::clock::now_ms;
use super::config::Broker;
use super::error::ServeError;
use super::issuing::Issuer;
use super::metrics::Metrics;
use super::store::{Enrolling, LetIn, Store, StoreError};
use crate::mqtt::Endpoint;
use crate::protocol::{Address, EnrolAnswer, EnrolRefusal};
use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::net::IpAddr;
use std::path::PathBuf;
use tracing::{info, warn};

/// Longest PEM of authorities in bytes, so that an answer stays small.
pub const LONGEST_CA: usize = 32 * 1024;

/// Clones share everything.
#[derive(Clone)]
pub struct Enrolment {
    pub store: Store,
    pub issuer: Issuer,
    pub attempts: Attempts,
    pub metrics: Metrics,
    pub serving: Serving,
}

/// What a code says unless its maker says otherwise.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Where devices reach the server, as far as the configuration says it.
    pub server: Option<String>,
    /// It is a broker of its own, at which no code can be exchanged.
    pub has_broker: bool,
    /// The authorities that devices must trust, as PEM, where they do not know them anyway.
    pub ca: Option<String>,
    /// First levels of every topic.
    pub prefix: String,
}

impl Serving {
    /// `ca_file`: the authority that the gateway's own endpoint has made, or what its broker's certificate is checked
    /// against. Blocks on the disk.
    ///
    /// # Errors
    /// [`ServeError`]: it cannot be read.
    pub fn new(settings: &Broker, ca_file: Option<PathBuf>) -> Result<Self, ServeError> {
        let read = |path: PathBuf| {
            std::fs::read_to_string(&path).map_err(|error| ServeError::Broker(format!("{}: {error}", path.display())))
        };
        // A larger one is a system's bundle, which devices have of their own.
        let ca = ca_file.map(read).transpose()?.filter(|pem| pem.len() <= LONGEST_CA);
        let broker = settings.url.as_deref().and_then(|url| server(url).ok());
        let server = if settings.url.is_some() { broker } else { own(settings, settings.listen.port()) };
        Ok(Self { server, has_broker: settings.url.is_some(), ca, prefix: settings.prefix.clone() })
    }

    /// The port that the gateway's own endpoint has got.
    pub fn at_port(&mut self, settings: &Broker, port: u16) {
        self.server = own(settings, port);
    }
}

/// By the name that is not this machine's alone, if there is one.
fn own(settings: &Broker, port: u16) -> Option<String> {
    let names = settings.names.iter().map(|name| {
        let name = if name.contains(':') { format!("[{name}]") } else { name.clone() };
        server(&format!("{name}:{port}")).ok()
    });
    let all: Vec<String> = names.flatten().collect();
    let far = |server: &&String| format!("mqtts://{server}").parse().is_ok_and(|it: Endpoint| !it.is_loopback());
    all.iter().find(far).or(all.first()).cloned()
}

/// SHA-256 of the first certificate of a PEM text, if there is one in it.
pub fn fingerprint(pem: &str) -> Option<[u8; 32]> {
    let first = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    digest(&SHA256, &first).as_ref().try_into().ok()
}

/// `host:port` of a server with TLS; what is no plain `mqtts://` keeps its whole address.
///
/// # Errors
/// A sentence.
pub fn server(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("mqtts://{text}") };
    let endpoint: Endpoint = url.parse().map_err(|error| format!("server: {error}"))?;
    if !endpoint.tls {
        return Err("server: a code is for a server with TLS: host:port, mqtts:// or wss://".to_owned());
    }
    let shown = endpoint.to_string();
    Ok(shown.strip_prefix("mqtts://").map_or(shown.clone(), str::to_owned))
}

impl Enrolment {
    /// Exchanges a code, once for each device. `from`: where the device is, as far as it is known.
    pub async fn exchange(&self, enrolling: Enrolling, from: Option<IpAddr>) -> EnrolAnswer {
        let (app, device) = (enrolling.app.clone(), enrolling.device.clone());
        let answer = match self.attempts.begin_from(from, now_ms()) {
            0 => {
                let found = self.look(enrolling).await;
                // Whoever knows a code that is over has not guessed it.
                if !matches!(found, Ok(Err(EnrolRefusal::Unknown))) {
                    self.attempts.right_from(from);
                }
                found
            }
            _ => Ok(Err(EnrolRefusal::HeldBack)),
        };
        let answer = answer.unwrap_or_else(|error| {
            error.tell("a device could not enrol");
            Err(EnrolRefusal::Unavailable)
        });
        let answer = match answer {
            Ok(let_in) => self.answered(&app, &device, let_in).await,
            Err(refused) => Err(refused),
        };
        let from = from.map(|ip| ip.to_string());
        match answer {
            Ok((answer, LetIn { user, code, again, .. })) => {
                self.metrics.enrolled("enrolled");
                info!(event = "enrolment.done", app, user, device, code, again, from, "a device enrolled");
                answer
            }
            Err(refused) => {
                self.metrics.enrolled(refused.as_str());
                info!(
                    event = "enrolment.refused",
                    app,
                    device,
                    reason = refused.as_str(),
                    from,
                    "a device did not enrol"
                );
                EnrolAnswer::refused(refused)
            }
        }
    }

    async fn look(&self, enrolling: Enrolling) -> Result<Result<LetIn, EnrolRefusal>, StoreError> {
        let Enrolling { app, device, .. } = &enrolling;
        if Address::new(app, "device", device).is_err() {
            return Ok(Err(EnrolRefusal::BadDevice));
        }
        self.store.enrol(enrolling, now_ms()).await
    }

    /// Whoever is refused here comes again with the same code, and takes no second use of it.
    async fn answered(&self, app: &str, device: &str, let_in: LetIn) -> Result<(EnrolAnswer, LetIn), EnrolRefusal> {
        let token = self.issuer.issue(app, &let_in.user, Some(device), let_in.issue).await;
        let token = token.map_err(|error| {
            warn!(event = "enrolment.no_token", app, device, %error, "a token could not be issued");
            EnrolRefusal::Unavailable
        })?;
        let ca = let_in.ca.clone().or_else(|| self.serving.ca.clone());
        let answer =
            EnrolAnswer::Enrolled { user: let_in.user.clone(), token, ca, prefix: self.serving.prefix.clone() };
        Ok((answer, let_in))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_stands_in_a_code_as_short_as_it_can_and_never_without_tls() {
        assert_eq!(server("push.example").as_deref(), Ok("push.example:8883"));
        assert_eq!(server("mqtts://[2001:db8::1]:1").as_deref(), Ok("[2001:db8::1]:1"));
        assert_eq!(server("wss://push.example/mqtt").as_deref(), Ok("wss://push.example:443/mqtt"));
        let at = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            own(&Broker { names, ..Broker::default() }, 1)
        };
        assert_eq!(at(&["localhost", "push.example"]).as_deref(), Some("push.example:1"));
        assert_eq!(at(&["localhost", "127.0.0.1"]).as_deref(), Some("localhost:1"));
        assert_eq!(at(&["2001:db8::1"]).as_deref(), Some("[2001:db8::1]:1"));
        assert_eq!(at(&[]), None);
        assert!(server("mqtt://localhost").is_err() && server("a b").is_err());
    }
}
