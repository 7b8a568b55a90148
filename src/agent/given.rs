//! Authorities that the gateway has told of: trusted beside the configured ones, so that it can change its own.
//!
//! The word comes over a connection that the ones trusted so far have vouched for.

use crate::store::write_atomically;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const FILE: &str = "given-authorities.pem";
/// The newest are kept: the one in force, the one to come, and one more.
const MOST: usize = 3;

/// Where they are kept.
pub(super) fn file(state: &Path) -> PathBuf {
    state.join(FILE)
}

/// Why one is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKept {
    #[error("it is not one certificate in PEM")]
    NotOne,
    #[error("it is no authority: {0}")]
    NoAuthority(rustls::Error),
    #[error("it cannot be written: {0}")]
    Disk(std::io::Error),
}

/// Keeps one; `false`: it is known. Blocks on the disk.
///
/// # Errors
/// [`NotKept`].
pub(super) fn keep(path: &Path, pem: &str) -> Result<bool, NotKept> {
    let read = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let told = read(pem.as_bytes()).map_err(|_| NotKept::NotOne)?;
    let [new] = told.as_slice() else { return Err(NotKept::NotOne) };
    RootCertStore::empty().add(new.clone()).map_err(NotKept::NoAuthority)?;
    // What cannot be read is of no use to anybody.
    let mut all = std::fs::read(path).ok().and_then(|pem| read(&pem).ok()).unwrap_or_default();
    if all.contains(new) {
        return Ok(false);
    }
    all.push(new.clone());
    let text: String = all.iter().skip(all.len().saturating_sub(MOST)).map(as_pem).collect();
    write_atomically(path, text.as_bytes()).map_err(NotKept::Disk)?;
    Ok(true)
}

fn as_pem(certificate: &CertificateDer<'_>) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in STANDARD.encode(certificate).as_bytes().chunks(64) {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    text + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        rcgen::generate_simple_self_signed(vec!["authority".to_owned()]).expect("made").cert.pem()
    }

    #[test]
    fn the_newest_authorities_are_kept_each_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = file(dir.path());
        let all: Vec<String> = (0..4).map(|_| authority()).collect();
        for pem in &all {
            assert!(keep(&path, pem).expect("kept") && !keep(&path, pem).expect("known"));
        }
        let kept = CertificateDer::pem_file_iter(&path).expect("read").map(|one| one.expect("a certificate"));
        let wanted = all[1..].iter().map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate"));
        assert!(kept.eq(wanted));
    }

    #[test]
    fn what_is_no_authority_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = file(dir.path());
        let good = authority();
        keep(&path, &good).expect("kept");
        let before = std::fs::read(&path).expect("read");
        let rubbish = good.replace("MII", "AAA");
        for bad in ["", "a word", rubbish.as_str(), &good.repeat(2)] {
            assert!(keep(&path, bad).is_err(), "{bad}");
        }
        assert_eq!(std::fs::read(&path).expect("read"), before);
        std::fs::write(&path, "broken").expect("written");
        assert!(keep(&path, &good).expect("kept anew"));
    }
}
