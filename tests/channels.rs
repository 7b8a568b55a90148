//! Channels on a real gateway and a real agent: certificates, tokens and logins in every order, detection overruled.

mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use support::{Agent, Gateway, Rest};

/// A device is bound within this after what it lacked was put in.
const BOUND: Duration = Duration::from_secs(60);
const TOKEN: &str = "d//igwEhgBGCI2TG6lWqlK2rWf8dUBvBaNMf1/wOBJxXvUDGhs6FOSiZJrR4JmMR";

fn agent(dir: &Path, gateway: &Gateway, properties: &str, extra: &str) -> Agent {
    let (home, tree) = (dir.join("agent"), dir.join("tree/system"));
    std::fs::create_dir_all(&tree).expect("made");
    std::fs::write(tree.join("build.prop"), properties).expect("written");
    let root = dir.join("tree");
    let url = format!("mqtts://localhost:{}", gateway.port());
    Agent::configure(&home, &url, Path::new(gateway.ca()), &format!("[device]\nroot = '{}'\n{extra}", root.display()));
    Agent::start(&home)
}

fn until(agent: &Agent, wanted: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let status = agent.status();
        if wanted(&status) {
            return status;
        }
        assert!(start.elapsed() < BOUND, "{status}");
    }
}

#[test]
fn a_certificate_that_comes_after_the_login_is_bound_to_without_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(dir.path(), "");
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let option = "[certificates]\nMICertificateName = '288001'\n";
    let mut agent = agent(dir.path(), &gateway, "ro.miui.ui.version.name=V14\nro.product.brand=Xiaomi\n", option);
    agent.login("ann", &gateway.user("ann"));
    agent.ok(&["token", "set", "xiaomi", TOKEN]);
    until(&agent, |status| status["binding"]["state"] == "refused");
    agent.process.event("binding.refused");
    let fields = json!({"app_secret": "s", "package": "p"});
    rest.ok("POST", "certificates", Some(&json!({"vendor": "xiaomi", "name": "288001", "fields": fields})));
    let status = until(&agent, |status| status["binding"]["state"] == "bound");
    assert_eq!((&status["channel"], &status["confidence"]), (&json!("xiaomi"), &json!("rom")));
    agent.process.event("binding.taken");
}

#[test]
fn the_plugins_whole_option_block_is_taken_and_what_is_unusable_named_in_status() {
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(dir.path(), "");
    let option = "[certificates]\nMICertificateName = 'xxxxxx'\nOPPOCertificateName = 'xxxxxx'\nHMSCertificateName = 'xxxxxx'\n\
                  VIVOCertificateName = 'xxxxxx'\nHONORCertificateName = 'xxxxxx'\nMEIZUCertificateName = 'xxxxxx'\n\
                  APNsCertificateName = 'xxxxxx'\nFCMCertificateName = 'xxxxxx'\n";
    let agent = agent(dir.path(), &gateway, "ro.miui.ui.version.name=V14\n", option);
    agent.login("ann", &gateway.user("ann"));
    let status = until(&agent, |status| status["state"] == "online");
    assert_eq!(
        (&status["why_not"]["vivo"], &status["why_not"]["xiaomi"]),
        (&json!("bad_certificate_name"), &json!("no_token"))
    );
}

#[test]
fn what_an_app_or_the_operator_knows_overrules_the_guess() {
    for (extra, confidence) in [("", "token"), ("[channel]\nforce = 'xiaomi'\n", "forced")] {
        let dir = tempfile::tempdir().expect("a directory");
        let gateway = Gateway::start(dir.path(), "");
        let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
        let fields = json!({"app_secret": "s", "package": "p"});
        rest.ok("POST", "certificates", Some(&json!({"vendor": "xiaomi", "name": "288001", "fields": fields})));
        let option = format!("[certificates]\nMICertificateName = '288001'\n{extra}");
        let agent = agent(dir.path(), &gateway, "ro.product.brand=nobody\n", &option);
        agent.login("ann", &gateway.user("ann"));
        agent.ok(&["token", "set", "xiaomi", TOKEN]);
        let status = until(&agent, |status| status["binding"]["state"] == "bound");
        assert_eq!((&status["channel"], &status["confidence"]), (&json!("xiaomi"), &json!(confidence)));
    }
}
