//! Where the shared store is, as libpq's users write it, and what its TLS trusts.
//!
//! The driver knows fewer words than libpq (PostgreSQL's manual, "Connection Strings" and "SSL Support"). It verifies the server's
//! certificate whole wherever it speaks TLS, its name too:
//!
//! | written | here |
//! | --- | --- |
//! | `sslmode=verify-full`, `verify-ca`, `require` | TLS, with all of the certificate verified |
//! | `sslrootcert=FILE`, `sslrootcert=system` | the authorities to trust, before `store.ca_file`; the system's |
//! | `sslcert=FILE&sslkey=FILE` | the certificate that the gateway shows |

use percent_encoding::percent_decode_str;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::config::TargetSessionAttrs;

/// A server that is gone without a word must not hold a thread for the minutes the kernel would.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Nor must one that is gone while it owes an answer: after so long without a word its kernel is asked, this often.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVES_RETRIES: u32 = 3;
/// What the driver has where the address says nothing.
const UNSET_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// A database, and how it is reached.
#[derive(Debug)]
pub struct Database {
    pub config: tokio_postgres::Config,
    /// `None`: the system's authorities.
    pub ca_file: Option<PathBuf>,
    identity: [Option<PathBuf>; 2],
}

impl Database {
    /// `ca_file`: what is trusted where the address names nothing.
    ///
    /// # Errors
    /// What of the address cannot be read.
    pub fn parse(address: &str, ca_file: Option<&Path>) -> Result<Self, String> {
        let mut found = Files { ca_file: ca_file.map(Path::to_owned), identity: [None, None] };
        let mut config: tokio_postgres::Config =
            found.taken_out(address)?.parse().map_err(|e: tokio_postgres::Error| in_full(&e))?;
        if found.identity.iter().filter(|file| file.is_some()).count() == 1 {
            return Err("sslcert and sslkey go together".to_owned());
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        if config.get_keepalives_idle() == UNSET_IDLE {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_interval(KEEPALIVES_INTERVAL);
        }
        if config.get_keepalives_retries().is_none() {
            config.keepalives_retries(KEEPALIVES_RETRIES);
        }
        // Of several hosts the one that takes writes, and none that takes none.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        Ok(Self { config, ca_file: found.ca_file, identity: found.identity })
    }

    /// Certificate and key that the gateway shows.
    pub fn identity(&self) -> Option<(&Path, &Path)> {
        let [certificate, key] = &self.identity;
        certificate.as_deref().zip(key.as_deref())
    }
}

/// An error and what caused it, which the driver's first line leaves out.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    words
}

struct Files {
    ca_file: Option<PathBuf>,
    identity: [Option<PathBuf>; 2],
}

impl Files {
    /// The address in the driver's words.
    fn taken_out(&mut self, address: &str) -> Result<String, String> {
        if !address.contains("://") {
            let words = address.split_whitespace().map(|word| self.word(word, |value| Ok(value.to_owned())));
            return Ok(words.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect::<Vec<_>>().join(" "));
        }
        let Some((place, query)) = address.split_once('?') else { return Ok(address.to_owned()) };
        let decoded = |value: &str| {
            let text = percent_decode_str(value).decode_utf8();
            text.map(|text| text.into_owned()).map_err(|_| "a value of it is not UTF-8".to_owned())
        };
        let words = query.split('&').map(|word| self.word(word, decoded));
        let words = words.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect::<Vec<_>>();
        Ok(format!("{place}?{}", words.join("&")))
    }

    fn word(&mut self, word: &str, decoded: impl Fn(&str) -> Result<String, String>) -> Result<Option<String>, String> {
        let Some((key, value)) = word.split_once('=') else { return Ok(Some(word.to_owned())) };
        match (key, value) {
            ("sslmode", "verify-full" | "verify-ca") => return Ok(Some("sslmode=require".to_owned())),
            ("sslmode", "allow") => {
                return Err("sslmode=allow may send the password in clear; use verify-full".to_owned());
            }
            ("sslrootcert", "system") => self.ca_file = None,
            ("sslrootcert", file) => self.ca_file = Some(decoded(file)?.into()),
            ("sslcert", file) => self.identity[0] = Some(decoded(file)?.into()),
            ("sslkey", file) => self.identity[1] = Some(decoded(file)?.into()),
            _ => return Ok(Some(word.to_owned())),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_postgres::config::SslMode;

    fn parsed(address: &str) -> Database {
        Database::parse(address, Some(Path::new("/of/the/settings"))).expect(address)
    }

    #[test]
    fn an_address_that_libpq_takes_is_taken() {
        let full =
            parsed("postgres://u:p@db1,db2/impush?sslmode=verify-full&sslrootcert=/a%20b/ca.pem&application_name=x");
        assert_eq!((full.config.get_ssl_mode(), full.config.get_hosts().len()), (SslMode::Require, 2));
        assert_eq!(full.ca_file.as_deref(), Some(Path::new("/a b/ca.pem")));
        assert_eq!(full.config.get_application_name(), Some("x"));
        let words = parsed("host=db user=u sslmode=verify-ca sslrootcert=system sslcert=/c sslkey=/k");
        assert_eq!((words.ca_file.as_deref(), words.config.get_ssl_mode()), (None, SslMode::Require));
        assert_eq!(words.identity(), Some((Path::new("/c"), Path::new("/k"))));
        let plain = parsed("postgres://u@db/impush?sslmode=disable");
        assert_eq!((plain.ca_file.as_deref(), plain.identity()), (Some(Path::new("/of/the/settings")), None));
        assert_eq!(plain.config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
        let keepalives = |config: &tokio_postgres::Config| {
            (config.get_keepalives_idle(), config.get_keepalives_interval(), config.get_keepalives_retries())
        };
        assert_eq!(keepalives(&plain.config), (KEEPALIVES_IDLE, Some(KEEPALIVES_INTERVAL), Some(KEEPALIVES_RETRIES)));
        let own = parsed("postgres://u@db/impush?keepalives_idle=70&keepalives_interval=7&keepalives_retries=5");
        let seconds = Duration::from_secs;
        assert_eq!(keepalives(&own.config), (seconds(70), Some(seconds(7)), Some(5)));
    }

    #[test]
    fn an_address_that_cannot_be_kept_to_is_refused_with_what_is_wrong() {
        for (address, says) in [
            ("postgres://u@db/d?sslmode=allow", "verify-full"),
            ("postgres://u@db/d?sslcert=/c", "go together"),
            ("postgres://u@db/d?sslmode=maybe", "sslmode"),
            ("postgres://u@db/d?nonsense=1", "nonsense"),
        ] {
            let why = Database::parse(address, None).err();
            assert!(why.as_ref().is_some_and(|why| why.contains(says)), "{address}: {why:?}");
        }
    }
}
