//! How fast a real gateway sends through each vendor's protocol to the emulated clouds on this machine.
//!
//! The clouds check every signature and share the machine's cores, so these figures are a floor.

use super::rig::Rig;
use super::usage::processor_s;
use crate::vendors::Vendor;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::time::Duration;

/// One vendor's whole round.
const ROUND: Duration = Duration::from_secs(300);

/// Prints a line for each vendor.
///
/// # Errors
/// A sentence when a program cannot be started, or a notification was not taken.
pub(super) async fn measure(json_lines: bool, count: u32, concurrency: u32) -> Result<(), String> {
    let rig = Rig::start(false, ROUND).await?;
    let pid = rig.gateway.id().ok_or("the gateway ended")?;
    if !json_lines {
        println!(
            "{:<8} {:>10} {:>9} {:>9} {:>12} {:>16}",
            "vendor", "per second", "p50 ms", "p99 ms", "connections", "CPU µs each"
        );
    }
    let bar = ProgressBar::new(Vendor::ORDER.len() as u64);
    for vendor in Vendor::ORDER {
        let line = one(&rig, vendor, (count, concurrency), pid).await?;
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

async fn one(rig: &Rig, vendor: Vendor, (count, concurrency): (u32, u32), pid: u32) -> Result<Value, String> {
    let account = crate::lab::cloud::account(vendor)?;
    rig.register(&account).await?;
    let device = rig.install(&account, "bench").await?;
    let name =
        percent_encoding::utf8_percent_encode(&account.certificate, percent_encoding::NON_ALPHANUMERIC).to_string();
    let send = async |count: u32| {
        let body = json!({ "token": device, "count": count, "concurrency": concurrency.min(count) });
        rig.ask("POST", &format!("certificates/{name}/test"), Some(body)).await
    };
    let connections = async || {
        let counts = rig.lab("GET", &format!("counts?vendor={vendor}"), None).await?;
        Ok::<_, String>(counts["connections"].as_u64().unwrap_or_default())
    };
    // Credential, connections and caches are in place before the clock starts.
    send(concurrency).await?;
    let before = connections().await?;
    let cpu = processor_s(pid)?;
    let answer = send(count).await?;
    let cpu = processor_s(pid)? - cpu;
    let used = connections().await? - before;
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
