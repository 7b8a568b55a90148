//! docs/protocol.md is true: its examples are read, and a client written from it alone is a device.

mod support;

use impush::protocol::{decode_down, decode_state, decode_up};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Gateway, Process, Rest, skipped};

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md")).expect("the document")
}

#[test]
fn every_example_of_the_document_is_a_payload_and_every_kind_of_payload_has_one() {
    let document = document();
    let mut kinds = std::collections::BTreeSet::new();
    for block in document.split("```json ").skip(1) {
        let (side, rest) = block.split_once('\n').expect("a line");
        let text = rest.split("```").next().expect("a block").trim();
        let kind = serde_json::from_str::<serde_json::Value>(text).expect("JSON")["type"].clone();
        kinds.insert(format!("{side} {}", kind.as_str().unwrap_or_default()));
        match side {
            "state" => drop(decode_state(text.as_bytes()).expect(text)),
            "up" => drop(decode_up(text.as_bytes()).expect(text)),
            "down" => drop(decode_down(text.as_bytes()).expect(text)),
            other => panic!("{other} is no side"),
        }
    }
    let all = "down bound, down kick, down message, down settings, state , up ack, up bind, up hello, up presence, \
               up receipt, up renew, up taken, up unbind";
    assert_eq!(kinds.into_iter().collect::<Vec<_>>().join(", "), all);
}

/// A Python that has paho-mqtt: of the tools that are installed for the tests, or the system's.
fn python() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/python");
    [tools, PathBuf::from("python3")].into_iter().find(|python| {
        let asked = Command::new(python).args(["-c", "import paho.mqtt.packettypes"]).output();
        asked.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn a_client_written_from_the_document_alone_is_a_device_over_tls_and_through_a_websocket() {
    let Some(python) = python() else {
        let test = "a_client_written_from_the_document_alone_is_a_device_over_tls_and_through_a_websocket";
        return skipped(test, "paho-mqtt is not installed (pip install paho-mqtt)");
    };
    let dir = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&dir.path().join("g"), "");
    let token = gateway.user("ann");
    let rest = Rest::new(&gateway.reach, Path::new(gateway.ca()));
    let send = |text: &str| {
        let body = json!({"to": ["ann"], "body": {"type": "txt", "msg": text}});
        rest.ok("POST", "messages/users", Some(&body))["data"]["ann"].as_str().expect("an id").to_owned()
    };
    for transport in ["tcp", "websockets"] {
        let missed = send("missed");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/paho_device.py");
        let mut command = Command::new(&python);
        command.arg(script).args([&gateway.port(), gateway.ca(), &token, transport]);
        let mut client = Process::start(&mut command, false);
        client.wait_for("the missed message", |line| (line == "TEXT missed").then_some(()));
        client.wait_for("the welcome", |line| (line == "DOWN settings").then_some(()));
        rest.traced(&missed, &["acked", "taken"]);
        let online = || rest.ok("GET", "users/ann/devices", None)["entities"][0]["online"].clone();
        assert_eq!(online(), true);
        let last = send("goodbye");
        rest.traced(&last, &["published", "acked", "taken"]);
        client.wait_for("its end", |line| (line == "LEFT").then_some(()));
        support::eventually("the device is offline", || online() == false);
    }
}
