//! The demo is the product's main promise: every step of it holds.

use serde_json::Value;
use std::process::Command;

#[test]
fn every_step_of_the_demo_holds() {
    let output = Command::new(env!("CARGO_BIN_EXE_impush-lab")).args(["demo", "--json"]).output().expect("ran");
    let text = String::from_utf8(output.stdout).expect("text");
    let steps: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("one JSON document a line")).collect();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(steps.len(), 12);
    for step in steps {
        assert_eq!(step["ok"], true, "{step}");
        assert!(step["step"].is_string() && step["ms"].is_u64(), "{step}");
    }
}

#[test]
fn a_phone_of_every_maker_is_reached_over_its_connection_and_through_its_cloud_at_the_same_time() {
    let output = Command::new(env!("CARGO_BIN_EXE_impush-lab")).args(["fleet", "--json"]).output().expect("ran");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let phones: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let vendors: Vec<&str> = phones.iter().map(|phone| phone["vendor"].as_str().expect("a name")).collect();
    assert_eq!(vendors, ["xiaomi", "huawei", "meizu", "oppo", "vivo", "honor", "apns", "fcm"]);
    assert!(phones.iter().all(|phone| phone["pushed"]["title"].is_string()), "{text}");
}
