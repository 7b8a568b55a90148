//! From the name of the server to a verified certificate.

use super::super::config::Ready;
use super::Check;
use crate::keepalive::Cause;
use crate::mqtt::{ConnectOptions, Endpoint, TimeFloor, dial};
use crate::names::Names;
use crate::secret::{Secret, random_hex};
use rustls::ClientConfig;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(8);
/// A little above what the resolver itself allows: it can say who was silent.
const NAME_LIMIT: Duration = Duration::from_secs(18);
/// A certificate that ends within this deserves a word.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// The way to the servers.
pub struct Way<'a> {
    pub ready: &'a Ready,
    pub names: &'a Names,
    pub tls: &'a Arc<ClientConfig>,
    pub floor: Arc<TimeFloor>,
    /// The agent has never reached a server through this network, and another answers.
    pub sign_in: bool,
}

impl Way<'_> {
    pub async fn examine(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        for endpoint in &self.ready.endpoints {
            checks.extend(one(endpoint, self).await);
        }
        checks
    }
}

async fn one(endpoint: &Endpoint, way: &Way<'_>) -> Vec<Check> {
    if way.ready.proxy.is_some() {
        // Name and route are the proxy's affair then.
        return vec![handshake(endpoint, way).await];
    }
    let mut checks = Vec::new();
    let addresses = match resolve(endpoint, way.names).await {
        Ok((check, addresses)) => {
            checks.push(check);
            addresses
        }
        Err(check) => return vec![check],
    };
    let many = addresses.len();
    let reachable: Vec<SocketAddr> = addresses.into_iter().filter(|address| route(*address).is_ok()).collect();
    if reachable.is_empty() {
        let advice = "there is no network, or it has no default route (ip route); the agent waits for one by itself";
        checks.push(Check::failed("route", "no route to any of these addresses", advice));
        return checks;
    }
    checks.push(Check::ok("route", format!("to {} of {many} addresses", reachable.len())));
    let started = Instant::now();
    let connect = async {
        let mut last = None;
        for address in &reachable {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(*address),
                Err(error) => last = Some((*address, error)),
            }
        }
        Err(last)
    };
    let advice = format!("a firewall, or nothing listens: port {} must be open outwards (TCP)", endpoint.port);
    match tokio::time::timeout(LIMIT, connect).await {
        Ok(Ok(address)) => checks.push(Check::ok("tcp", format!("{address} in {} ms", started.elapsed().as_millis()))),
        Ok(Err(last)) => {
            let why = last.map_or_else(String::new, |(address, error)| format!("{address}: {error}"));
            checks.push(Check::failed("tcp", why, advice));
            return checks;
        }
        Err(_) => {
            checks.push(Check::failed("tcp", format!("no answer in {} s", LIMIT.as_secs()), advice));
            return checks;
        }
    }
    checks.push(handshake(endpoint, way).await);
    if checks.last().is_some_and(|check| check.outcome == super::Outcome::Ok) {
        if endpoint.tls {
            checks.push(dates(endpoint, way).await);
        }
        checks.extend(anonymous(endpoint, way).await);
    }
    checks
}

/// The server's addresses, and who gave them.
async fn resolve(endpoint: &Endpoint, names: &Names) -> Result<(Check, Vec<SocketAddr>), Check> {
    let found = tokio::time::timeout(NAME_LIMIT, names.lookup(&endpoint.host, endpoint.port)).await;
    match found {
        Ok(Ok(found)) => {
            let listed: Vec<String> = found.addresses.iter().map(|address| address.ip().to_string()).collect();
            let says = format!("{} is {} (by: {})", endpoint.host, listed.join(", "), found.source);
            Ok((Check::ok("dns", says), found.addresses))
        }
        Ok(Err(error)) => {
            let advice = "check the name in server.url, and that a name server is set (resolvectl, /etc/resolv.conf, \
                          or server.dns here)";
            Err(Check::failed("dns", error.to_string(), advice))
        }
        Err(_) => {
            let found = format!("{}: no answer in {} s", endpoint.host, NAME_LIMIT.as_secs());
            let advice =
                "the name server does not answer; is it reachable from this network? server.dns can name others";
            Err(Check::failed("dns", found, advice))
        }
    }
}

/// Asks the kernel for a route without sending anything.
fn route(to: SocketAddr) -> std::io::Result<()> {
    let any = if to.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    UdpSocket::bind(any)?.connect(to)
}

async fn handshake(endpoint: &Endpoint, way: &Way<'_>) -> Check {
    let name = if endpoint.tls { "tls" } else { "transport" };
    let started = Instant::now();
    match dial(endpoint, way.ready.proxy.as_ref(), way.names, way.tls, LIMIT).await {
        Ok(_) => Check::ok(name, format!("{endpoint} in {} ms", started.elapsed().as_millis())),
        Err(error) => {
            let advice = if way.sign_in && error.cause.is_another_in_its_place() {
                "the network may want a sign-in (captive portal): open any web page on it; the agent comes back by itself"
            } else {
                "check the date of this device, server.ca_file and the server's certificate (its names, its chain)"
            };
            Check::failed(name, format!("{}: {}", error.cause.text(), error.detail), advice)
        }
    }
}

/// Whether the server asks who comes. `None`: it did not say.
async fn anonymous(endpoint: &Endpoint, way: &Way<'_>) -> Option<Check> {
    let options = ConnectOptions {
        client_id: format!("impush-doctor-{}", random_hex::<4>()),
        user_name: String::new(),
        password: Secret::default(),
        keep_alive_s: 10,
        session_expiry_s: 0,
        clean_start: true,
        will: None,
    };
    let stream = dial(endpoint, way.ready.proxy.as_ref(), way.names, way.tls, LIMIT).await.ok()?;
    let entered = crate::mqtt::handshake(stream, &options, LIMIT).await;
    match entered {
        Ok((connection, _)) => {
            drop(connection.disconnect(true).await);
            if endpoint.is_loopback() {
                return Some(Check::ok("anonymous", "the server lets anybody on this machine in"));
            }
            let advice = "anybody who reaches it reads and sends everybody's messages: have the broker ask for a login, \
                          as docs/scale.md says for each";
            Some(Check::failed("anonymous", format!("{endpoint} lets anybody in, without a login"), advice))
        }
        Err(error) if matches!(error.cause, Cause::BadCredentials | Cause::NotAuthorized | Cause::ClientIdRefused) => {
            Some(Check::ok("anonymous", "the server asks who comes"))
        }
        Err(_) => None,
    }
}

/// The same handshake as if it were later: a certificate that would be refused then ends soon.
async fn dates(endpoint: &Endpoint, way: &Way<'_>) -> Check {
    let mut later = way.tls.as_ref().clone();
    later.time_provider = Arc::new(Later(way.floor.clone()));
    later.resumption = rustls::client::Resumption::disabled();
    let days = SOON.as_secs() / 86_400;
    match dial(endpoint, way.ready.proxy.as_ref(), way.names, &Arc::new(later), LIMIT).await {
        Ok(_) => Check::ok("certificate", format!("good for {days} days and more")),
        Err(error) => Check::warning(
            "certificate",
            format!("will be refused within {days} days: {}", error.detail),
            "renew the server's certificate, or the authority's",
        ),
    }
}

#[derive(Debug)]
struct Later(Arc<TimeFloor>);

impl TimeProvider for Later {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_secs(self.0.current_time()?.as_secs());
        Some(UnixTime::since_unix_epoch(now + SOON))
    }
}
