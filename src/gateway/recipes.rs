//! What a broker has to be told so that only this gateway's logins get in, and to their own topics: its configuration as
//! text.

use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value as Json, json};
use std::num::NonZeroU32;
use std::path::Path;

/// The gateway's account.
pub const USER: &str = "impush-gateway";
const ROLE: &str = "impush-gateway";
/// Rounds of the plugin's hash. The password is 256 bit of chance, which no number of guesses finds.
const ROUNDS: NonZeroU32 = NonZeroU32::new(101).expect("not 0");

/// Where a mosquitto listens, and with what.
#[derive(Debug)]
pub struct Listener<'a> {
    pub port: u16,
    pub certificate: &'a Path,
    pub key: &'a Path,
}

/// mosquitto's configuration: nobody without an account, and accounts are the plugin's.
pub fn mosquitto(plugin: &Path, accounts: &Path, Listener { port, certificate, key }: &Listener<'_>) -> String {
    format!(
        "# Written by `impush-gateway broker-config mosquitto`.\n\
         allow_anonymous false\n\
         plugin {}\n\
         plugin_opt_config_file {}\n\
         \n\
         listener {port}\n\
         certfile {}\n\
         keyfile {}\n",
        plugin.display(),
        accounts.display(),
        certificate.display(),
        key.display()
    )
}

/// The accounts that the plugin begins with: the gateway's, which adds devices', and reads and writes their topics alone.
///
/// # Errors
/// A sentence where the system gives no random bytes.
pub fn accounts(password: &Secret, prefix: &str) -> Result<Json, String> {
    let mut salt = [0_u8; 12];
    SystemRandom::new().fill(&mut salt).map_err(|_| "the system gives no random bytes".to_owned())?;
    let mut hash = [0_u8; 64];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, ROUNDS, &salt, password.expose().as_bytes(), &mut hash);
    let rule = |kind: &str, topic: String| json!({"acltype": kind, "topic": topic, "priority": 0, "allow": true});
    let heard = ["up", "state"].into_iter().flat_map(|leg| {
        let all = format!("{prefix}/+/+/+/{leg}");
        [
            rule("subscribePattern", format!("$share/gateway/{all}")),
            rule("subscribePattern", all.clone()),
            rule("publishClientReceive", all),
        ]
    });
    let rules: Vec<Json> = [
        rule("publishClientSend", "$CONTROL/dynamic-security/v1".to_owned()),
        rule("subscribeLiteral", "$CONTROL/dynamic-security/v1/response".to_owned()),
        rule("publishClientReceive", "$CONTROL/dynamic-security/v1/response".to_owned()),
        rule("publishClientSend", format!("{prefix}/+/+/+/down")),
    ]
    .into_iter()
    .chain(heard)
    .collect();
    Ok(json!({
        "defaultACLAccess": {
            "publishClientSend": false, "publishClientReceive": false, "subscribe": false, "unsubscribe": true
        },
        "clients": [{
            "username": USER, "textname": "the gateway",
            "password": STANDARD.encode(hash), "salt": STANDARD.encode(salt), "iterations": ROUNDS,
            "roles": [{"rolename": ROLE}]
        }],
        "groups": [],
        "roles": [{"rolename": ROLE, "acls": rules}]
    }))
}

/// The gateway's side of a mosquitto.
pub fn gateway_on_mosquitto(url: &str, ca_file: Option<&Path>, password: &Secret) -> String {
    let ca_file =
        ca_file.map(|path| format!("ca_file = {}\n", quoted(&path.display().to_string()))).unwrap_or_default();
    format!(
        "[broker]\nurl = {}\nuser = {}\npassword = {}\n{ca_file}dynamic_security = true\n",
        quoted(url),
        quoted(USER),
        quoted(password.expose())
    )
}

/// EMQX 5's configuration: it asks the gateway at `api`, showing `secret`, where there is one, who may enter and where to.
pub fn emqx(api: &str, secret: Option<&Secret>) -> String {
    let shown =
        secret.map(|secret| format!("\n    authorization = {}", quoted(&format!("Bearer {}", secret.expose()))));
    let shown = shown.unwrap_or_default();
    let asks = |about: &str, body: &str| {
        format!(
            "enable = true\n  method = post\n  url = {}\n  headers {{\n    \"content-type\" = \"application/json\"{shown}\n  }}\n  \
             body {{\n{body}  }}\n  request_timeout = 5s",
            quoted(&format!("{api}/broker/emqx/{about}"))
        )
    };
    let who = "    clientid = \"${clientid}\"\n    username = \"${username}\"\n";
    format!(
        "# For EMQX 5, in etc/emqx.conf. Written by `impush-gateway broker-config emqx`.\n\
         authentication = [{{\n  mechanism = password_based\n  backend = http\n  {}\n}}]\n\
         authorization {{\n  no_match = deny\n  deny_action = ignore\n  sources = [{{\n  type = http\n  {}\n  }}]\n}}\n",
        asks("auth", &format!("{who}    password = \"${{password}}\"\n")),
        asks("acl", &format!("{who}    action = \"${{action}}\"\n    topic = \"${{topic}}\"\n")),
    )
}

/// As TOML and HOCON take it.
fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DEFAULT_PREFIX, GATEWAY_CLIENT_PREFIX};

    #[test]
    fn emqx_asks_the_gateway_about_both_and_lets_in_nobody_else() {
        let text = emqx("http://10.0.0.1:8680", Some(&Secret::new("sixteen letters!")));
        for part in [
            "url = \"http://10.0.0.1:8680/broker/emqx/auth\"",
            "url = \"http://10.0.0.1:8680/broker/emqx/acl\"",
            "clientid = \"${clientid}\"",
            "username = \"${username}\"",
            "password = \"${password}\"",
            "action = \"${action}\"",
            "topic = \"${topic}\"",
            "no_match = deny",
            "authorization = \"Bearer sixteen letters!\"",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.matches(['{', '[']).count(), text.matches(['}', ']']).count());
        assert!(!emqx("http://127.0.0.1:8680", None).contains("Bearer"));
    }

    #[test]
    fn the_gateways_account_is_its_hash_and_nothing_below_other_prefixes_is_its_own() {
        let made = accounts(&Secret::new("a secret"), DEFAULT_PREFIX).expect("made");
        assert!(!made.to_string().contains("a secret"));
        let decoded = |key: &str| STANDARD.decode(made["clients"][0][key].as_str().expect("text")).expect("base64");
        let verified =
            pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, ROUNDS, &decoded("salt"), b"a secret", &decoded("password"));
        assert!(verified.is_ok());
        let topics = made["roles"][0]["acls"]
            .as_array()
            .expect("rules")
            .iter()
            .map(|rule| rule["topic"].as_str().expect("text"));
        let foreign: Vec<&str> = topics
            .filter(|topic| !topic.contains("im/v1/") && !topic.starts_with("$CONTROL/dynamic-security/v1"))
            .collect();
        assert_eq!(foreign, Vec::<&str>::new());
        assert!(!USER.starts_with(GATEWAY_CLIENT_PREFIX));
    }

    #[test]
    fn the_gateways_lines_are_toml_that_it_reads() {
        let text = gateway_on_mosquitto("mqtts://b.example:8883", Some(Path::new("/a b/ca.pem")), &Secret::new("p\"q"));
        let read: crate::gateway::config::Config = toml::from_str(&text).expect("a configuration");
        assert!(read.broker.dynamic_security && read.check().is_ok());
        assert_eq!(read.broker.password.map(|password| password.expose().to_owned()).as_deref(), Some("p\"q"));
    }
}
