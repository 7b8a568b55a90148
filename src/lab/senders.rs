//! How fast a real gateway sends through each vendor's protocol to the emulated clouds on this machine.
//!
//! The clouds check every signature and share the machine's cores, so these figures are a floor.

use super::account::{Account, vendors_section};
use super::device::{call, call_as};
use super::process::{Process, sibling};
use crate::http::Http;
use crate::vendor::Vendor;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

const START: Duration = Duration::from_secs(15);
/// One vendor's whole round.
const ROUND: Duration = Duration::from_secs(300);
/// The kernel's clock ticks a second in /proc/PID/stat (`getconf CLK_TCK`): 100 on every Linux this runs on.
const TICKS: f64 = 100.0;

/// Prints a line for each vendor.
///
/// # Errors
/// A sentence when a program cannot be started, or a notification was not taken.
pub(super) async fn measure(json_lines: bool, count: u32, concurrency: u32) -> Result<(), String> {
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    let ca = home.path().join("clouds.pem");
    let ca_text = ca.to_str().unwrap_or_default();
    let arguments = ["clouds", "--listen", "127.0.0.1:0", "--ca-file", ca_text];
    let mut clouds = Process::start("clouds", &sibling("impush-lab")?, &arguments, home.path())?;
    let url = clouds.next(START).await?["clouds"].as_str().unwrap_or_default().to_owned();
    let config = home.path().join("gateway.toml");
    let text = format!(
        "[api]\nlisten = '127.0.0.1:0'\n[broker]\nlisten = '127.0.0.1:0'\n{}[paths]\nstate = '{}'\n[log]\nlevel = 'error'\n",
        vendors_section(&url, &ca),
        home.path().join("state").display()
    );
    std::fs::write(&config, text).map_err(|e| e.to_string())?;
    let arguments = ["--config", config.to_str().unwrap_or_default(), "serve", "--announce"];
    let mut gateway = Process::start("gateway", &sibling("impush-gateway")?, &arguments, home.path())?;
    let reach = gateway.next(START).await?;
    let said = |key: &str| reach[key].as_str().unwrap_or_default().to_owned();
    let pid = gateway.id().ok_or("the gateway ended")?;
    let http = Http::new(Some(&ca), ROUND)?;
    let base = format!("{}/o/a", said("api"));
    let secret = std::fs::read_to_string(said("admin_secret_file")).map_err(|e| e.to_string())?;
    let grant = json!({ "grant_type": "client_credentials", "client_id": "admin", "client_secret": secret });
    let token = call(&http, "POST", &format!("{base}/token"), Some(grant)).await?;
    let token = token["access_token"].as_str().unwrap_or_default().to_owned();

    if !json_lines {
        println!(
            "{:<8} {:>10} {:>9} {:>9} {:>12} {:>16}",
            "vendor", "per second", "p50 ms", "p99 ms", "connections", "CPU µs each"
        );
    }
    let bar = ProgressBar::new(Vendor::ORDER.len() as u64);
    for vendor in Vendor::ORDER {
        let line = one(&http, &url, &base, &token, vendor, (count, concurrency), pid).await?;
        bar.inc(1);
        if json_lines {
            super::show::line(&line).map_err(|e| e.to_string())?;
        } else {
            let number = |key: &str| line[key].as_f64().unwrap_or_default();
            bar.suspend(|| {
                println!(
                    "{:<8} {:>10.0} {:>9.2} {:>9.2} {:>12} {:>16.0}",
                    vendor.as_str(),
                    number("per_second"),
                    number("p50_ms"),
                    number("p99_ms"),
                    number("connections"),
                    number("cpu_us")
                );
            });
        }
    }
    bar.finish_and_clear();
    Ok(())
}

async fn one(
    http: &Http,
    clouds: &str,
    base: &str,
    token: &str,
    vendor: Vendor,
    (count, concurrency): (u32, u32),
    pid: u32,
) -> Result<Value, String> {
    let Account { certificate, app_id, fields, mut registration, .. } = Account::new(vendor)?;
    registration["daily_quota"] = json!(u64::from(u32::MAX));
    call(http, "POST", &format!("{clouds}/_lab/apps"), Some(registration)).await?;
    let install = json!({ "vendor": vendor, "id": app_id, "device": "bench" });
    let device = call(http, "POST", &format!("{clouds}/_lab/installs"), Some(install)).await?;
    let body = json!({ "vendor": vendor, "name": certificate, "fields": fields });
    call_as(http, "POST", &format!("{base}/certificates"), Some(token), Some(body)).await?;
    let name = percent_encoding::utf8_percent_encode(&certificate, percent_encoding::NON_ALPHANUMERIC).to_string();
    let test = format!("{base}/certificates/{name}/test");
    let send = async |count: u32| {
        let body = json!({ "token": device["token"], "count": count, "concurrency": concurrency.min(count) });
        call_as(http, "POST", &test, Some(token), Some(body)).await
    };
    // Credential, connections and caches are in place before the clock starts.
    send(concurrency).await?;
    let counts = format!("{clouds}/_lab/counts?vendor={vendor}");
    let connections = call(http, "GET", &counts, None).await?["connections"].as_u64().unwrap_or_default();
    let cpu = cpu_seconds(pid)?;
    let answer = send(count).await?;
    let cpu = cpu_seconds(pid)? - cpu;
    let used = call(http, "GET", &counts, None).await?["connections"].as_u64().unwrap_or_default() - connections;
    let data = &answer["data"];
    if data["outcomes"]["delivered"].as_u64() != Some(u64::from(count)) {
        return Err(format!("{vendor}: {}", data["outcomes"]));
    }
    let seconds = data["seconds"].as_f64().unwrap_or(f64::NAN);
    Ok(json!({
        "vendor": vendor, "per_second": f64::from(count) / seconds, "p50_ms": data["p50_ms"], "p99_ms": data["p99_ms"],
        // Those of the round itself, beside what was open from the warm-up.
        "connections": used, "cpu_us": cpu / f64::from(count) * 1e6,
    }))
}

/// User and system time of a process (proc(5), fields 14 and 15 of stat).
fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(Path::new(&path)).map_err(|e| format!("{path}: {e}"))?;
    // The name in parentheses may hold spaces.
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let field = |at: usize| rest.split_whitespace().nth(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((field(11) + field(12)) / TICKS)
}
