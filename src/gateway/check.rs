//! `impush-gateway check`: whether the gateway could start, with these settings and as the user the service runs as.

use super::config::Config;
use super::store::Vault;
use crate::access::{Account, Want, done_as, refusal, refusal_as_state};
use crate::http::Http;
use crate::mqtt::client_config;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// The unit and the user the packages run the gateway as.
pub fn service_account() -> Option<Account> {
    Account::of_service("impush-gateway.service", "impush-gateway")
}

/// What stands in the way of a start, each with its key and what to do; nothing where nothing does. The values
/// themselves are [`Config::check`]'s. `account`: the service's user, `None` for whoever asks.
///
/// # Errors
/// Only root may look as somebody else.
pub fn obstacles(file: Option<&Path>, config: &Config, account: Option<&Account>) -> io::Result<Vec<String>> {
    // The paths of the service, before they become those of the user's own home.
    let (state, key) = (config.state_directory(), config.secrets_key());
    let given_to = account.filter(|_| config.paths.state.is_none());
    done_as(account, || {
        let mut found = Vec::new();
        found.extend(file.and_then(|file| refusal(file, Want::Read)));
        found.extend(certificates(config));
        found.extend(secrets_key(&key).map(|why| format!("paths.secrets_key: {why}")));
        found.extend(refusal_as_state(&state, given_to).map(|why| format!("paths.state: {why}")));
        found.extend(addresses(config));
        found
    })
}

fn certificates(config: &Config) -> Vec<String> {
    let authorities = |path: &Path| client_config(Some(path), None).map(drop).map_err(|error| error.to_string());
    let vendors = |path: &Path| Http::new(Some(path), Duration::from_secs(1)).map(drop);
    let checked = |key: &str, path: Option<&Path>, read: &dyn Fn(&Path) -> Result<(), String>| {
        let path = path?;
        refusal(path, Want::Read).or_else(|| read(path).err()).map(|why| format!("{key}: {why}"))
    };
    let broker = &config.broker;
    let database = config.postgres().ok().flatten();
    let root = database.as_ref().and_then(|database| database.ca_file.as_deref());
    let root = root.filter(|root| Some(*root) != config.store.ca_file.as_deref());
    let mut found: Vec<String> = [
        checked("broker.ca_file", broker.ca_file.as_deref(), &authorities),
        checked("store.ca_file", config.store.ca_file.as_deref(), &authorities),
        checked("store.url, sslrootcert", root, &authorities),
        checked("vendors.ca_file", config.vendors.ca_file.as_deref(), &vendors),
        checked("broker.certificate", broker.certificate.as_deref(), &authorities),
        checked("broker.key", broker.key.as_deref(), &|_| Ok(())),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty()
        && let Some((chain, key)) = broker.certificate.as_deref().zip(broker.key.as_deref())
        && let Err(error) = client_config(Some(chain), Some((chain, key)))
    {
        found.push(format!("broker.key: {error}"));
    }
    found
}

fn secrets_key((path, may_make): &(std::path::PathBuf, bool)) -> Option<String> {
    if *may_make && !path.exists() {
        return None;
    }
    let unusable = || Vault::open(path, false).err().map(|error| format!("{}: {error}", path.display()));
    refusal(path, Want::Read).or_else(unusable)
}

/// Only an address that this machine does not have is certain: a running gateway holds its ports, and a unit may give
/// the right to low ones.
fn addresses(config: &Config) -> Vec<String> {
    let endpoint = config.broker.url.is_none().then_some(("broker.listen", config.broker.listen));
    std::iter::once(("api.listen", config.api.listen))
        .chain(endpoint)
        .filter(|(_, address)| {
            TcpListener::bind((address.ip(), 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
        })
        .map(|(key, address)| format!("{key}: this machine has no address {}", address.ip()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_needs_is_looked_at_and_each_obstacle_is_named_by_its_key() {
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| place.path().join(name).display().to_string();
        let pair = || rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("a certificate");
        let (first, second) = (pair(), pair());
        std::fs::write(at("chain.pem"), first.cert.pem()).expect("written");
        std::fs::write(at("key.pem"), first.signing_key.serialize_pem()).expect("written");
        std::fs::write(at("other.pem"), second.signing_key.serialize_pem()).expect("written");
        std::fs::write(at("letter"), "hello").expect("written");
        let found = |more: &str| {
            let text = format!("paths.state='{}'\nbroker.listen='127.0.0.1:0'\n{more}\n", at("state"));
            obstacles(None, &toml::from_str(&text).expect("a configuration"), None).expect("looked")
        };
        let certificate = |key: &str| format!("broker.certificate='{}'\nbroker.key='{}'", at("chain.pem"), at(key));
        assert_eq!(found(&certificate("key.pem")), Vec::<String>::new());
        for (change, key) in [
            (certificate("other.pem"), "broker.key: "),
            (certificate("missing.pem"), "broker.key: "),
            (certificate("letter"), "broker.key: "),
            (format!("vendors.ca_file='{}'", at("letter")), "vendors.ca_file: "),
            (format!("store.ca_file='{}'", at("no")), "store.ca_file: "),
            (format!("paths.secrets_key='{}'", at("letter")), "paths.secrets_key: "),
            (format!("paths.secrets_key='{}'", at("no")), "paths.secrets_key: "),
            ("api.listen='192.0.2.1:80'".to_owned(), "api.listen: "),
        ] {
            let all = found(&change);
            assert!(all.len() == 1 && all[0].starts_with(key), "{change}: {all:?}");
        }
    }
}
