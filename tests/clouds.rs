//! The HTTPS client against the emulated clouds' connections: few of them, and none that holds a call up.

mod support;

use impush::http::{Http, HttpError, Repeat, Response};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use support::Process;
use tempfile::TempDir;

/// Time for one call.
const TIMEOUT: Duration = Duration::from_secs(3);

struct Clouds {
    _process: Process,
    _dir: TempDir,
    url: String,
    /// Not the one under test: its connection is made before anything is counted.
    control: Http,
    http: Http,
}

impl Clouds {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = dir.path().join("clouds.pem");
        let mut command = Command::new(env!("CARGO_BIN_EXE_impush-lab"));
        command.args(["clouds", "--listen", "127.0.0.1:0", "--ca-file"]).arg(&ca);
        let mut process = Process::start(&mut command, false);
        let said: Value = process.wait_for("the address", |line| serde_json::from_str(line).ok());
        let url = said["clouds"].as_str().expect("an address").to_owned();
        let http = || Http::new(Some(&ca), TIMEOUT).expect("a client");
        Self { url, control: http(), http: http().with_connections(16), _process: process, _dir: dir }
    }

    async fn get(&self, http: &Http, path: &str) -> Result<Response, HttpError> {
        http.exchange("GET", &format!("{}/_lab/{path}", self.url), &[], Vec::new(), Repeat::Harmless).await
    }

    async fn connections(&self) -> u64 {
        let answer = self.get(&self.control, "counts?vendor=apns").await.expect("counts");
        let counts: Value = serde_json::from_slice(&answer.body).expect("JSON");
        counts["connections"].as_u64().expect("a number")
    }

    async fn manner(&self, manner: &Value) {
        let (url, headers) = (format!("{}/_lab/connections", self.url), [("content-type", "application/json")]);
        // It may befall the very connection that says so, and then must not be said again.
        let _ = self.control.call("POST", &url, &headers, manner.to_string().into_bytes()).await;
    }

    /// A call that takes `wait_ms`.
    async fn call(&self, wait_ms: u32) -> Result<Response, HttpError> {
        let path = format!("tray?vendor=apns&token=t&wait_ms={wait_ms}");
        self.get(&self.http, &path).await
    }

    /// So many at once, all of which must be answered.
    async fn calls(&self, count: usize, wait_ms: u32) {
        let calls = futures_util::future::join_all((0..count).map(|_| self.call(wait_ms))).await;
        for answer in calls {
            assert_eq!(answer.expect("an answer").status, 200);
        }
    }
}

#[tokio::test]
async fn two_hundred_calls_to_a_cold_host_share_few_connections() {
    let clouds = Clouds::start();
    let before = clouds.connections().await;
    clouds.calls(200, 50).await;
    let used = clouds.connections().await - before;
    assert!((1..=2).contains(&used), "{used} over HTTP/2");

    let clouds = Clouds::start();
    clouds.manner(&json!({"http1": true})).await;
    let before = clouds.connections().await;
    clouds.calls(200, 50).await;
    let used = clouds.connections().await - before;
    assert!((2..=16).contains(&used), "{used} over HTTP/1.1");
    clouds.calls(16, 50).await;
    assert_eq!(clouds.connections().await - before, used, "they are kept");
}

#[tokio::test]
async fn a_host_that_takes_few_calls_at_once_gets_them_one_after_the_other() {
    let clouds = Clouds::start();
    clouds.manner(&json!({"streams": 3})).await;
    clouds.calls(30, 20).await;
}

#[tokio::test]
async fn a_cut_connection_costs_its_calls_nothing() {
    for (count, manner) in [(60, json!({"blow": "reset"})), (24, json!({"blow": "reset", "http1": true}))] {
        let clouds = Clouds::start();
        clouds.manner(&json!({"http1": manner["http1"] == true})).await;
        clouds.calls(1, 1).await;
        let cut = async {
            // Until all of them are with the cloud.
            tokio::time::sleep(Duration::from_millis(300)).await;
            clouds.manner(&manner).await;
        };
        let (calls, ()) = tokio::join!(futures_util::future::join_all((0..count).map(|_| clouds.call(600))), cut);
        for answer in calls {
            assert_eq!(answer.expect("an answer").status, 200);
        }
    }
}

#[tokio::test]
async fn a_connection_that_died_silently_is_left_within_one_call() {
    for http1 in [false, true] {
        let clouds = Clouds::start();
        clouds.manner(&json!({"http1": http1})).await;
        clouds.calls(4, 20).await;
        clouds.manner(&json!({"blow": "silence", "http1": http1})).await;
        // Four of them at once may find four dead connections: still none is without an answer.
        clouds.calls(4, 1).await;
        clouds.calls(8, 20).await;
    }
}

#[tokio::test]
async fn goaway_with_calls_open_ends_none_of_them_and_costs_one_connection() {
    let clouds = Clouds::start();
    let before = clouds.connections().await;
    clouds.calls(1, 1).await;
    let goaway = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        clouds.manner(&json!({"blow": "goaway"})).await;
        clouds.calls(20, 20).await;
    };
    tokio::join!(clouds.calls(60, 1000), goaway);
    // The control's own connection was told to go, too.
    assert!(clouds.connections().await - before <= 3);
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_fails_all_who_wait_as_one_event() {
    let clouds = Clouds::start();
    let url = format!("https://localhost:{}/", support::free_port());
    let call = || clouds.http.exchange("GET", &url, &[], Vec::new(), Repeat::Harmful);
    let failures = futures_util::future::join_all((0..50).map(|_| call())).await;
    let first = failures[0].as_ref().expect_err("nobody listens").lost();
    assert!(first.is_some());
    for failure in failures {
        assert_eq!(failure.expect_err("nobody listens").lost(), first);
    }
}

#[test]
fn a_clouds_fault_is_named_at_its_start_and_the_names_are_listed() {
    let lab = || Command::new(env!("CARGO_BIN_EXE_impush-lab"));
    let refused = lab().args(["clouds", "--ca-file", "/dev/null", "--fault", "no_such"]).output().expect("run");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("server_error") && said.contains("retry_date"), "{said}");
    let dir = tempfile::tempdir().expect("a directory");
    let ca = dir.path().join("clouds.pem");
    let mut command = lab();
    command.args(["clouds", "--listen", "127.0.0.1:0", "--fault", "retry_date", "--ca-file"]).arg(&ca);
    let mut process = Process::start(&mut command, false);
    let started: Value = process.wait_for("the address", |line| serde_json::from_str(line).ok());
    let url = format!("{}/3/device/ab", started["clouds"].as_str().expect("an address"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let http = Http::new(Some(&ca), TIMEOUT).expect("a client");
    for _ in 0..2 {
        let asked = http.exchange("POST", &url, &[], Vec::new(), Repeat::Harmless);
        let answer = runtime.block_on(asked).expect("answered");
        assert_eq!(answer.status.as_u16(), 429);
        assert!(answer.headers.contains_key("retry-after"));
    }
}
