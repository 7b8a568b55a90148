//! `impush-gateway check --vendors`: whether each vendor's host is reached, by the way the gateway's own calls take.

use super::config::Vendors;
use crate::http::{Http, HttpError, Repeat, Ways};
use futures_util::future::join_all;
use hyper::Uri;
use std::time::{Duration, Instant};

/// What came of calling one host.
#[derive(Debug)]
pub struct Tried {
    /// The setting's key below `vendors`.
    pub key: String,
    pub url: String,
    /// The proxy, without its password; `None`: straight.
    pub proxy: Option<String>,
    /// The status and how long it took: any will do, for it came over TLS that names the host.
    pub answer: Result<(u16, Duration), HttpError>,
}

impl Tried {
    /// One line for a person.
    pub fn line(&self) -> String {
        let way = self.proxy.as_ref().map_or_else(|| "straight".to_owned(), |proxy| format!("by {proxy}"));
        let came = match &self.answer {
            Ok((status, took)) => format!("answered {status} in {:.1} s", took.as_secs_f32()),
            Err(error) => error.to_string(),
        };
        format!("vendors.{} {} {way}: {came}", self.key, self.url)
    }
}

/// Asks every host for its root, all at once, within a call's time.
///
/// # Errors
/// A sentence that names the setting that cannot be used.
pub async fn tried(vendors: &Vendors) -> Result<Vec<Tried>, String> {
    let ways = vendors.ways()?;
    let http = Http::new(vendors.ca_file.as_deref(), Duration::from_millis(vendors.timeout_ms))
        .map_err(|why| format!("vendors.ca_file: {why}"))?
        .by(ways.clone());
    Ok(join_all(vendors.hosts.iter().map(|(key, url)| one(&http, &ways, key, url))).await)
}

async fn one(http: &Http, ways: &Ways, key: &str, url: &str) -> Tried {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let began = Instant::now();
    let root = format!("{}/", url.trim_end_matches('/'));
    let answer = http.exchange("GET", &root, &[], Vec::new(), Repeat::Harmless).await;
    Tried {
        key: key.to_owned(),
        url: url.to_owned(),
        proxy: ways.to(&host).map(ToString::to_string),
        answer: answer.map(|answer| (answer.status.as_u16(), began.elapsed())),
    }
}
