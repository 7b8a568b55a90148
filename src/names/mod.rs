//! From a server's name to its addresses, on any machine: with a resolver, with Android's, or with none.
//!
//! ```text
//! literal address -> hosts file -> localhost -> a kept answer -> whoever can be asked -> an expired answer
//!                                                                netd, where its socket is, or the system;
//!                                                                then the configured name servers
//! ```
//!
//! Only DNS and netd since Android 10 tell how long an answer may be kept; the system is asked each time.

mod cache;
mod failure;
mod hosts;
mod message;
mod netd;
mod pair;
mod server;
mod system;

pub use failure::{Failure, LookupError};
pub use server::parse_server;

use cache::{Cache, Kept};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tracing::info;

/// The system's resolver is told its name servers here, below the root of the file system (resolv.conf(5)).
pub const RESOLVER_FILE: &str = "etc/resolv.conf";
/// How long one may stay silent before the next is asked beside it.
const NEXT_AFTER: Duration = Duration::from_secs(2);
/// How long netd or the system may take: below what a whole attempt may, so that the failure has a name.
const LIMIT: Duration = Duration::from_secs(15);
/// Most names of which is remembered who answered.
const MAX_TOLD: usize = 16;

/// A name's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In the order in which they should be tried; at least one.
    pub addresses: Vec<SocketAddr>,
    /// Who answered, for people: `address`, `hosts file`, `localhost`, `system`, `netd`, or a name server's
    /// address. An expired answer says so.
    pub source: String,
}

/// Resolves names. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub struct Names {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    root: Option<PathBuf>,
    servers: Vec<SocketAddr>,
    system: system::System,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    cache: Cache,
    network: Option<String>,
    /// Who answered for each name last.
    told: BTreeMap<String, String>,
}

/// Who can be asked.
#[derive(Debug, Clone, Copy)]
enum Whom {
    Netd,
    System,
    Server(SocketAddr),
}

/// An answer; with a time to live where it may be kept.
struct Answered {
    addresses: Vec<SocketAddr>,
    ttl: Option<Duration>,
}

/// What the device's files say.
struct Files {
    hosts: Vec<IpAddr>,
    netd: bool,
    resolver: bool,
}

impl Names {
    /// A resolver with these name servers behind the device's own. Its files are looked for below `root`,
    /// without one below `/`.
    pub fn new(root: Option<PathBuf>, servers: Vec<SocketAddr>) -> Self {
        Self { inner: Arc::new(Inner { root, servers, ..Inner::default() }) }
    }

    /// The addresses of `host`, each with this port.
    ///
    /// # Errors
    /// [`LookupError`] says who was asked and how each failed. A caller that gives up earlier drops the call.
    pub async fn lookup(&self, host: &str, port: u16) -> Result<Found, LookupError> {
        let (addresses, source) = self.find(host).await?;
        self.tell(host, &source);
        let addresses = addresses.into_iter().map(|mut address| {
            address.set_port(port);
            address
        });
        Ok(Found { addresses: addresses.collect(), source })
    }

    /// The device is on this network; on another than before, what was kept is asked for again.
    pub fn on_network(&self, network: Option<&str>) {
        let mut known = self.known();
        if network.is_some() && known.network.as_deref() != network {
            known.network = network.map(str::to_owned);
            known.cache.expire(now());
        }
    }

    /// Nothing was reached: what was kept is asked for again, as the server may have moved before its time.
    pub fn doubt(&self) {
        self.known().cache.expire(now());
    }

    /// Each name and who answered for it last.
    pub fn told(&self) -> BTreeMap<String, String> {
        self.known().told.clone()
    }

    async fn find(&self, host: &str) -> Result<(Vec<SocketAddr>, String), LookupError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok((bare(&[address]), "address".to_owned()));
        }
        let files = self.files(host).await;
        if !files.hosts.is_empty() {
            return Ok((bare(&files.hosts), "hosts file".to_owned()));
        }
        if let Some(loopback) = hosts::loopback(host) {
            return Ok((bare(&loopback), "localhost".to_owned()));
        }
        if let Some(kept) = self.known().cache.fresh(now(), host) {
            return Ok((bare(&kept.addresses), kept.source));
        }
        let error = match self.race(host, self.order(&files)).await {
            Ok((source, answered)) => {
                if let Some(ttl) = answered.ttl {
                    let addresses = answered.addresses.iter().map(SocketAddr::ip).collect();
                    self.known().cache.keep(now(), host, Kept { addresses, source: source.clone() }, ttl);
                }
                return Ok((answered.addresses, source));
            }
            Err(error) => error,
        };
        let mut known = self.known();
        if error.is_denied() {
            known.cache.forget(host);
        }
        match known.cache.stale(now(), host) {
            Some(kept) => Ok((bare(&kept.addresses), format!("{}, expired", kept.source))),
            None => Err(error),
        }
    }

    async fn files(&self, host: &str) -> Files {
        let (inner, host) = (self.inner.clone(), host.to_owned());
        let read = tokio::task::spawn_blocking(move || Files {
            hosts: hosts::addresses(&inner.below_root(hosts::FILE), &host),
            netd: inner.below_root(netd::SOCKET).exists(),
            resolver: inner.below_root(RESOLVER_FILE).exists(),
        });
        read.await.unwrap_or(Files { hosts: Vec::new(), netd: false, resolver: true })
    }

    /// Whom to ask, in order. A system without a file of name servers asks at 127.0.0.1, where mostly
    /// nobody is: it comes last then.
    fn order(&self, files: &Files) -> Vec<Whom> {
        let configured = self.inner.servers.iter().map(|server| Whom::Server(*server));
        match (files.netd, files.resolver) {
            (true, _) => std::iter::once(Whom::Netd).chain(configured).collect(),
            (false, true) => std::iter::once(Whom::System).chain(configured).collect(),
            (false, false) => configured.chain([Whom::System]).collect(),
        }
    }

    /// The first answer. Each is asked when the one before has failed, or has been silent for a while.
    async fn race(&self, host: &str, order: Vec<Whom>) -> Result<(String, Answered), LookupError> {
        let mut waiting = order.into_iter();
        let mut under_way = FuturesUnordered::new();
        let mut asked = Vec::new();
        loop {
            match waiting.next() {
                Some(whom) => under_way.push(async move { (whom, self.ask(whom, host).await) }),
                None if under_way.is_empty() => return Err(LookupError { host: host.to_owned(), asked }),
                None => {}
            }
            let more = waiting.len() > 0;
            tokio::select! {
                Some((whom, outcome)) = under_way.next() => match outcome {
                    Ok(answered) => return Ok((whom.to_string(), answered)),
                    Err(failure) => asked.push((whom.to_string(), failure)),
                },
                () = sleep(NEXT_AFTER), if more => {}
            }
        }
    }

    async fn ask(&self, whom: Whom, host: &str) -> Result<Answered, Failure> {
        match whom {
            Whom::Netd => {
                let socket = self.inner.below_root(netd::SOCKET);
                let (addresses, ttl) =
                    timeout(LIMIT, netd::ask(&socket, host)).await.unwrap_or(Err(Failure::Silent(LIMIT)))?;
                Ok(Answered { addresses: bare(&addresses), ttl })
            }
            Whom::System => {
                let asked = timeout(LIMIT, self.inner.system.ask(host)).await;
                Ok(Answered { addresses: asked.unwrap_or(Err(Failure::Silent(LIMIT)))?, ttl: None })
            }
            Whom::Server(server) => {
                let answer = server::ask(server, host).await?;
                Ok(Answered { addresses: bare(&answer.addresses), ttl: Some(answer.ttl) })
            }
        }
    }

    fn tell(&self, host: &str, source: &str) {
        let mut known = self.known();
        if known.told.get(host).is_some_and(|told| told == source) {
            return;
        }
        if known.told.len() >= MAX_TOLD {
            known.told.pop_first();
        }
        known.told.insert(host.to_owned(), source.to_owned());
        info!(event = "names.source", host, source, "who says where the server is");
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn below_root(&self, path: &str) -> PathBuf {
        self.root.as_deref().unwrap_or("/".as_ref()).join(path)
    }
}

impl std::fmt::Display for Whom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Netd => f.write_str("netd"),
            Self::System => f.write_str("system"),
            Self::Server(address) => address.fmt(f),
        }
    }
}

/// Without a port.
fn bare(addresses: &[IpAddr]) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, 0)).collect()
}

/// CLOCK_BOOTTIME: an answer ages while the device sleeps.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A query's id that nobody on the way can guess (RFC 5452).
fn random_id() -> Result<u16, Failure> {
    let mut id = [0; 2];
    SystemRandom::new().fill(&mut id).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(u16::from_ne_bytes(id))
}
