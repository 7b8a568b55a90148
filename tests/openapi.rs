//! The served OpenAPI document and the server say the same.

mod support;

use serde_json::{Value, json};
use std::process::Command;
use support::{Gateway, free_port, has, skipped};

struct Served {
    home: tempfile::TempDir,
    gateway: Gateway,
    api: String,
    token: String,
}

fn served() -> Served {
    let home = tempfile::tempdir().expect("a directory");
    let environment = [("IMPUSH_GATEWAY_API_REQUESTS_PER_S", "100000")];
    let gateway = Gateway::start_in(home.path(), free_port(), "[log]\nlevel = 'warn'\n", &environment);
    gateway.user("ann");
    let api = gateway.reach["api"].as_str().expect("an address").to_owned();
    let secret = std::fs::read_to_string(gateway.reach["admin_secret_file"].as_str().expect("a file")).expect("read");
    let grant = json!({ "grant_type": "client_credentials", "client_id": "admin", "client_secret": secret.trim() });
    let answer = call(&api, "POST", "/org/app/token", None, Some(&grant)).1;
    let token = answer["access_token"].as_str().expect("a token").to_owned();
    Served { home, gateway, api, token }
}

fn call(api: &str, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-X", method, "-w", "\n%{http_code}", "-H", "content-type: application/json"]);
    if let Some(token) = token {
        curl.args(["-H", &format!("authorization: Bearer {token}")]);
    }
    if let Some(body) = body {
        curl.args(["-d", &body.to_string()]);
    }
    let output = curl.arg(format!("{api}{path}")).output().expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let (answer, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), serde_json::from_str(answer).unwrap_or_default())
}

#[test]
fn every_documented_path_and_method_is_there_and_other_methods_are_refused_in_the_one_shape() {
    let served = served();
    let (status, document) = call(&served.api, "GET", "/openapi.json", None, None);
    assert_eq!(status, 200);
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 20, "{}", paths.len());
    for (path, item) in paths {
        let concrete = path.replace("{kind}", "user").replace(['{', '}'], "");
        let item = item.as_object().expect("methods");
        for method in ["get", "put", "post", "delete", "patch"] {
            let (status, answer) = call(&served.api, &method.to_uppercase(), &concrete, None, None);
            let there =
                !matches!((status, answer["error_description"].as_str()), (405, _) | (404, Some("no such path")));
            // A receipt's path cannot be guessed, and says so like any other.
            let there = there || path.starts_with("/receipts/") && status == 404;
            assert_eq!(there, item.contains_key(method), "{method} {path}: {status} {answer}");
            if status >= 400 {
                assert!(answer["error"].is_string() && answer["timestamp"].is_u64(), "{method} {path}: {answer}");
            }
        }
    }
}

#[test]
fn the_server_answers_generated_requests_as_its_document_says() {
    let test = "the_server_answers_generated_requests_as_its_document_says";
    if !has("schemathesis") {
        return skipped(test, "schemathesis is not installed (pip install schemathesis)");
    }
    let served = served();
    let config = served.home.path().join("schemathesis.toml");
    // What exists, so that requests get past the first check.
    let existing = "[parameters]\norg = 'org'\napp = 'app'\nuser = 'ann'\n";
    let text = format!("{existing}\n[auth.openapi.bearer]\nbearer = '{}'\n", served.token);
    std::fs::write(&config, text).expect("written");
    let output = Command::new("schemathesis")
        .arg("--config-file")
        .arg(&config)
        .args(["run", "--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "7", "--no-color"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args([
            "--checks",
            "response_headers_conformance,response_schema_conformance,ignored_auth,negative_data_rejection",
        ])
        .arg(format!("{}/openapi.json", served.api))
        .current_dir(served.home.path())
        .output()
        .expect("schemathesis runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // Still alive, and still true to its state.
    assert_eq!(call(&served.api, "GET", "/readyz", None, None).0, 200);
    drop(served.gateway);
}
