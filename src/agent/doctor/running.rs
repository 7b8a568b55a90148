//! Where the running agent differs from what its files say now: what it uses is what counts.

use super::super::config::Ready;
use super::super::manager::Init;
use super::Check;
use crate::mqtt::Credentials;
use crate::session::{Status, Trusted};

/// One finding for each difference; none where there is none. `credentials`: what the files hold, where they are good.
pub fn differences(ready: &Ready, credentials: Option<&Credentials>, status: &Status) -> Vec<Check> {
    let (reload, restart) = (Init::here().reload(), Init::here().restart());
    let mut found = Vec::new();
    let mut differs = |what: &str, runs: &str, says: &str, advice: &str| {
        if runs != says {
            let text = format!("the running agent still uses {what} {runs}; the configuration says {says}");
            found.push(Check::warning("running agent", text, advice));
        }
    };
    // An agent of before says nothing of its servers.
    if !status.servers.is_empty() {
        let servers: Vec<String> = ready.endpoints.iter().map(ToString::to_string).collect();
        differs("server", &status.servers.join(", "), &servers.join(", "), reload);
        let proxy = ready.proxy.as_ref().map(ToString::to_string);
        differs("proxy", status.proxy.as_deref().unwrap_or("none"), proxy.as_deref().unwrap_or("none"), reload);
    }
    if let (Some(trusted), Some(files)) = (&status.trusted, credentials) {
        differs(
            "the certificate authorities with SHA-256",
            short(&trusted.fingerprint),
            short(&files.fingerprint),
            reload,
        );
        let own = |fingerprint: Option<&String>| fingerprint.map_or("none", |text| short(text)).to_owned();
        let (runs, says) = (own(trusted.client_certificate.as_ref()), own(files.own.as_ref()));
        differs("the client certificate with SHA-256", &runs, &says, reload);
    }
    differs("server.app", &status.app, ready.app.as_str(), restart);
    differs("version", &status.version, env!("CARGO_PKG_VERSION"), restart);
    found
}

/// What an agent goes on with while the files cannot be used.
pub fn goes_on(trusted: &Trusted) -> String {
    format!(
        "the running agent goes on with what it read before: {} authorities, SHA-256 {}",
        trusted.authorities,
        short(&trusted.fingerprint)
    )
}

/// Enough of a fingerprint to compare two.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

#[cfg(test)]
mod tests {
    use super::super::super::config::Config;
    use super::*;
    use crate::mqtt::credentials;
    use rustls::time_provider::DefaultTimeProvider;
    use std::sync::Arc;

    fn ready(server: &str) -> Ready {
        let config: Config = toml::from_str(&format!("server = {{ app = 'org#app', {server} }}")).expect("read");
        config.check().expect("good")
    }

    fn agent() -> Status {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Status { servers: vec!["mqtts://a:8883".to_owned()], version, ..Status::example() }
    }

    #[test]
    fn each_difference_between_the_agent_and_its_files_is_named_with_what_takes_it_over() {
        assert_eq!(differences(&ready("url = 'mqtts://a'"), None, &agent()), []);
        let other = "url = 'mqtts://b', fallback_urls = ['mqtts://a'], proxy = 'http://u:secret@p:1'";
        let found = differences(&ready(other), None, &agent());
        let texts: Vec<&str> = found.iter().map(|check| check.found.as_str()).collect();
        assert!(texts[0].contains("uses server mqtts://a:8883;") && texts[0].contains("mqtts://b:8883"), "{texts:?}");
        assert!(texts[1].contains("proxy none") && texts[1].contains("http://p:1"), "{texts:?}");
        assert!(!texts.concat().contains("secret"));
        assert!(found.len() == 2 && found.iter().all(|check| check.advice == Init::here().reload()), "{found:?}");
        let moved = Status { app: "org#other".to_owned(), version: "0".to_owned(), ..agent() };
        let found = differences(&ready("url = 'mqtts://a'"), None, &moved);
        assert!(found.len() == 2 && found.iter().all(|check| check.advice == Init::here().restart()), "{found:?}");
    }

    #[test]
    fn an_authority_the_agent_has_not_read_yet_is_told_from_the_one_it_has() {
        let dir = tempfile::tempdir().expect("a directory");
        let read = |name: &str| {
            let key = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
            let path = dir.path().join("ca.pem");
            std::fs::write(&path, key.cert.pem()).expect("written");
            credentials(&crate::mqtt::Authorities::of_file(Some(&path)), None, Arc::new(DefaultTimeProvider))
                .expect("read")
        };
        let (old, new) = (read("old"), read("new"));
        let trusted = Trusted {
            source: "ca.pem".to_owned(),
            authorities: old.authorities,
            fingerprint: old.fingerprint.clone(),
            client_certificate: None,
        };
        let status = Status { trusted: Some(trusted), ..agent() };
        let ready = ready("url = 'mqtts://a'");
        assert_eq!(differences(&ready, Some(&old), &status), []);
        let found = differences(&ready, Some(&new), &status);
        assert!(found.len() == 1 && found[0].found.contains(&new.fingerprint[..16]), "{found:?}");
    }
}
