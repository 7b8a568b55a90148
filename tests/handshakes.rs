//! Every way a TLS handshake between an agent and an endpoint can go wrong, each with its own word on both sides.

mod support;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, PeerMisbehaved, RootCertStore};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};
use std::sync::Arc;
use support::{Agent, Certificates, Flaw, Gateway, Process, Rest, certificates, eventually, free_port, has, skipped};

fn place(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(&path).expect("made");
    path
}

/// A gateway whose endpoint shows this certificate.
fn endpoint(home: &Path, shown: &Certificates, more: &[(&str, &str)]) -> Gateway {
    let [chain, key] = [&shown.chain, &shown.key].map(|file| file.to_str().expect("a path"));
    let own = [("IMPUSH_GATEWAY_BROKER_CERTIFICATE", chain), ("IMPUSH_GATEWAY_BROKER_KEY", key)];
    let environment: Vec<_> = own.into_iter().chain(more.iter().copied()).collect();
    Gateway::start_in(home, free_port(), "[log]\nlevel = 'info'\n", &environment)
}

/// Until the gateway has counted a connection that was refused for this.
fn counted(gateway: &Gateway, ca: &Path, word: &str) {
    let rest = Rest::new(&gateway.reach, ca);
    let line = format!("impush_gateway_input_refused_total{{from=\"connection\",reason=\"{word}\"}}");
    let deadline = std::time::Instant::now() + support::LIMIT;
    loop {
        let metrics = rest.text("/metrics");
        if metrics.lines().any(|found| found.starts_with(&line)) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "no {word} in {metrics}");
    }
}

/// An agent that trusts `ca` comes; the word for what it makes of the server.
fn cause(home: &Path, port: &str, ca: &Path) -> String {
    Agent::configure(home, &format!("mqtts://localhost:{port}"), ca, "");
    let mut agent = Agent::start(home);
    agent.login("ann", "secret");
    agent.process.event("link.down")["cause"].as_str().expect("a word").to_owned()
}

fn self_signed(dir: &Path) -> Certificates {
    let key = KeyPair::generate().expect("a key");
    let made = CertificateParams::new(vec!["localhost".to_owned()]).and_then(|params| params.self_signed(&key));
    let files = Certificates { ca: dir.join("ca.pem"), chain: dir.join("server.pem"), key: dir.join("server.key") };
    std::fs::write(&files.chain, made.expect("made").pem()).expect("written");
    std::fs::write(&files.key, key.serialize_pem()).expect("written");
    files
}

#[test]
fn an_agent_takes_a_good_certificate_and_names_each_bad_one_and_the_endpoint_counts_what_it_holds_against_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let trusted = certificates(&place(dir.path(), "trusted"), Flaw::None);
    let good = endpoint(&dir.path().join("good"), &trusted, &[]);
    let home = dir.path().join("a");
    Agent::configure(&home, &format!("mqtts://localhost:{}", good.port()), &trusted.ca, "");
    let mut agent = Agent::start(&home);
    agent.login("ann", &good.user("ann"));
    agent.process.event("link.up");
    let other = self_signed(&place(dir.path(), "other"));
    let dates = "the peer finds the certificate out of its dates";
    let authority = "the peer does not know the certificate's authority";
    let bad = "the peer finds the certificate bad, as one of another name";
    let signature = "the peer finds a signature bad, as of another authority of that name";
    let self_signed = self_signed(&place(dir.path(), "self-signed"));
    let [expired, young, elsewhere, unknown] = [
        ("expired", Flaw::Expired),
        ("young", Flaw::NotYetValid),
        ("elsewhere", Flaw::WrongName),
        ("unknown", Flaw::None),
    ]
    .map(|(name, flaw)| certificates(&place(dir.path(), name), flaw));
    // What is shown, and whom the agent trusts.
    let rows = [
        ("expired", &expired, &expired.ca, "tls_expired", dates),
        ("not yet valid", &young, &young.ca, "tls_not_yet_valid", dates),
        ("wrong name", &elsewhere, &elsewhere.ca, "tls_wrong_name", bad),
        ("self-signed", &self_signed, &trusted.ca, "tls_untrusted", authority),
        ("unknown authority", &unknown, &other.chain, "tls_untrusted", authority),
        ("another authority of that name", &unknown, &trusted.ca, "tls_untrusted", signature),
    ];
    for (name, shown, ca, said, word) in rows {
        let home = place(dir.path(), &format!("row {name}"));
        let gateway = endpoint(&home.join("g"), shown, &[]);
        assert_eq!(cause(&home.join("a"), &gateway.port(), ca), said, "{name}");
        counted(&gateway, &trusted.ca, word);
    }
}

/// An authority and a server's certificate as openssl makes them, with a key that is too small for anybody today.
const WEAK: &str = r"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=weak -days 2
openssl req -newkey rsa:1024 -nodes -keyout server.key -out server.csr -subj /CN=localhost
printf 'subjectAltName=DNS:localhost\n' > names
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem";

fn weak(dir: &Path) -> Certificates {
    let output = Command::new("sh").args(["-ec", WEAK]).current_dir(dir).output().expect("ran");
    assert!(output.status.success(), "{output:?}");
    Certificates { ca: dir.join("ca.pem"), chain: dir.join("server.pem"), key: dir.join("server.key") }
}

/// `openssl s_server`, which does what our own parts refuse to do.
fn openssl_server(shown: &Certificates, more: &[&str]) -> (Process, ChildStdin, String) {
    let port = free_port().to_string();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", &port, "-cert"]).arg(&shown.chain).arg("-key").arg(&shown.key).args(more);
    // It ends with its input.
    let (mut server, input) = Process::start_told(&mut command);
    server.wait_for("its port", |line| line.contains("ACCEPT").then_some(()));
    (server, input, port)
}

#[test]
fn a_server_with_a_weak_key_an_old_version_or_a_wish_for_a_certificate_is_named() {
    let test = "a_server_with_a_weak_key_an_old_version_or_a_wish_for_a_certificate_is_named";
    if !has("openssl") {
        return skipped(test, "openssl is not installed");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let good = certificates(&place(dir.path(), "good"), Flaw::None);
    let weak = weak(&place(dir.path(), "weak"));
    let ca = good.ca.to_str().expect("a path");
    for (name, shown, more, said) in [
        ("weak key", &weak, &["-tls1_3", "-cipher", "DEFAULT@SECLEVEL=0"][..], "tls_bad_signature"),
        ("TLS 1.2", &good, &["-tls1_2"], "tls_version"),
        (
            "no certificate",
            &good,
            &["-tls1_3", "-Verify", "1", "-verify_return_error", "-CAfile", ca],
            "tls_own_certificate",
        ),
    ] {
        let (_server, _input, port) = openssl_server(shown, more);
        assert_eq!(cause(&dir.path().join(name), &port, &shown.ca), said, "{name}");
    }
    // The gateway does not serve with such a key either, and says which file it is.
    let home = place(dir.path(), "g");
    let config = home.join("gateway.toml");
    let text = format!(
        "[api]\nlisten='127.0.0.1:0'\n[broker]\nlisten='127.0.0.1:0'\ncertificate='{}'\nkey='{}'\n[paths]\nstate='{}'\n",
        weak.chain.display(),
        weak.key.display(),
        home.join("state").display()
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_impush-gateway"));
    let output = command.arg("--config").arg(&config).arg("serve").output().expect("ran");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("server.pem"), "{said}");
}

fn openssl_client(port: &str, more: &[&str]) -> Output {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("localhost:{port}")]).args(more);
    command.stdin(Stdio::null()).output().expect("ran")
}

#[test]
fn an_endpoint_speaks_the_versions_of_tls_it_is_set_to_and_counts_who_speaks_another() {
    let test = "an_endpoint_speaks_the_versions_of_tls_it_is_set_to_and_counts_who_speaks_another";
    if !has("openssl") {
        return skipped(test, "openssl is not installed");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let shown = certificates(&place(dir.path(), "c"), Flaw::None);
    let strict = endpoint(&dir.path().join("strict"), &shown, &[]);
    let lenient = endpoint(&dir.path().join("lenient"), &shown, &[("IMPUSH_GATEWAY_BROKER_TLS_MIN", "1.2")]);
    let (new, old) = (&["-tls1_3"][..], &["-tls1_2"][..]);
    let ancient = &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..];
    for (gateway, version, taken) in [
        (&strict, new, true),
        (&strict, old, false),
        (&strict, ancient, false),
        (&lenient, new, true),
        (&lenient, old, true),
        (&lenient, ancient, false),
    ] {
        let output = openssl_client(&gateway.port(), version);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.contains("Cipher is (NONE)"), !taken, "{version:?}: {said}");
    }
    for gateway in [&strict, &lenient] {
        counted(gateway, &shown.ca, "a version of TLS that is not spoken");
    }
}

/// Between the two: takes the newer version out of what a client offers, as who wants an older one does.
fn downgrading(to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = listener.local_addr().expect("an address").port().to_string();
    std::thread::spawn(move || {
        for mut near in listener.incoming().flatten() {
            let mut head = [0; 5];
            if near.read_exact(&mut head).is_err() {
                continue;
            }
            let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
            near.read_exact(&mut hello).expect("a ClientHello");
            // The extension `supported_versions` with one version or two becomes one that nobody knows.
            let offers = |part: &[u8]| part.starts_with(&[0, 43, 0, 3, 2, 3, 4]) || part.starts_with(&[0, 43, 0, 5, 4]);
            let at = (0..hello.len()).find(|at| offers(&hello[*at..])).expect("versions");
            hello[at] = 0xfa;
            let mut far = TcpStream::connect(format!("127.0.0.1:{to}")).expect("connected");
            far.write_all(&[&head[..], &hello].concat()).expect("written");
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (mut from, mut to) = (from.try_clone().expect("cloned"), to.try_clone().expect("cloned"));
                std::thread::spawn(move || {
                    drop(std::io::copy(&mut from, &mut to));
                    drop(to.shutdown(std::net::Shutdown::Write));
                });
            }
        }
    });
    port
}

#[test]
fn who_stands_between_gets_no_older_version_of_tls_than_both_speak() {
    let dir = tempfile::tempdir().expect("a directory");
    let shown = certificates(&place(dir.path(), "c"), Flaw::None);
    let strict = endpoint(&dir.path().join("strict"), &shown, &[]);
    let lenient = endpoint(&dir.path().join("lenient"), &shown, &[("IMPUSH_GATEWAY_BROKER_TLS_MIN", "1.2")]);
    assert_eq!(cause(&dir.path().join("a"), &downgrading(strict.port()), &shown.ca), "tls_version");
    counted(&strict, &shown.ca, "a version of TLS that is not spoken");
    // A client of either version, on an endpoint of either: the server's own mark gives the meddling away.
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&shown.ca).expect("a certificate")).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client =
        ClientConnection::new(Arc::new(config), "localhost".try_into().expect("a name")).expect("a client");
    let mut socket = TcpStream::connect(format!("127.0.0.1:{}", downgrading(lenient.port()))).expect("connected");
    let error = loop {
        if let Err(error) = client.complete_io(&mut socket) {
            break error;
        }
        assert!(client.is_handshaking(), "it was taken in by the older version");
    };
    let misbehaved = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let attempted = PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported;
    assert_eq!(misbehaved, Some(&rustls::Error::PeerMisbehaved(attempted)), "{error}");
    counted(&lenient, &shown.ca, "the peer broke the handshake off");
}

#[test]
fn an_installation_that_threw_its_authoritys_key_away_gets_another_and_agents_that_were_told_come_along() {
    let dir = tempfile::tempdir().expect("a directory");
    let (home, listen) = (dir.path().join("g"), format!("127.0.0.1:{}", free_port()));
    let start = || {
        let log = format!("[log]\nlevel = 'info'\nfile = '{}'\n", home.join("log").display());
        Gateway::start_in(&home, free_port(), &log, &[("IMPUSH_GATEWAY_BROKER_LISTEN", &listen)])
    };
    let logged = |event: &str| std::fs::read_to_string(home.join("log")).unwrap_or_default().contains(event);
    let mut gateway = start();
    let old_ca = dir.path().join("ca.pem");
    std::fs::copy(gateway.ca(), &old_ca).expect("copied");
    let (url, own) = (format!("mqtts://localhost:{}", gateway.port()), dir.path().join("a"));
    Agent::configure(&own, &url, &old_ca, "");
    let mut agent = Agent::start(&own);
    let token = gateway.user("ann");
    agent.login("ann", &token);
    agent.process.event("link.up");
    gateway.process.terminate();
    let store = rusqlite::Connection::open(home.join("state/gateway.sqlite")).expect("the store");
    assert_eq!(store.execute("DELETE FROM meta WHERE key = 'authority'", []).expect("thrown away"), 1);
    drop(store);
    let mut gateway = start();
    agent.process.event("link.up");
    assert_eq!(gateway.run(&["authority", "switch"]).status.code(), Some(65), "there is none to switch to");
    gateway.ok(&["authority", "renew"]);
    assert_eq!(gateway.run(&["authority", "switch"]).status.code(), Some(65), "nobody was told");
    gateway.process.signal(rustix::process::Signal::HUP);
    eventually("devices are told", || logged("endpoint.authority_told"));
    let absent = gateway.ok(&["authority", "show"]);
    assert!(absent.contains("0 of 1 devices") && absent.contains("1 have not been here"), "{absent}");
    agent.ok(&["reconnect"]);
    agent.process.event("tls.authority_given");
    eventually("all have been here", || gateway.ok(&["authority", "show"]).contains("1 of 1 devices"));
    assert_eq!(std::fs::read(gateway.ca()).expect("read"), std::fs::read(&old_ca).expect("read"), "not yet in use");
    gateway.ok(&["authority", "switch"]);
    gateway.process.terminate();
    let gateway = start();
    assert_ne!(std::fs::read(gateway.ca()).expect("read"), std::fs::read(&old_ca).expect("read"));
    agent.process.event("link.up");
    let id = gateway.ok(&["send", "--app", "org/app", "ann", "under the new authority"]);
    assert_eq!(agent.process.event("message.received")["id"], id.as_str());
    let untold = dir.path().join("untold");
    assert_eq!(cause(&untold, &gateway.port(), &old_ca), "tls_untrusted");
}
