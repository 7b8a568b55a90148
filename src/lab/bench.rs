//! The figures the keep-alive is held to, each shown with its goal: computed by the shipped code in
//! virtual time, or measured on a real agent. Ratios are against another policy in the same run.

use super::comeback::{Comeback, ROUND_TRIP};
use super::figure::{Figure, show};
use super::simulate::{Report, Scenario, built_in, run, stationary};
use crate::keepalive::constants::HEARTBEAT_START;
use crate::keepalive::{Cause, Link, LinkAction, Moment, Reconnect, Verdict};
use std::time::Duration;

const DAYS: u32 = 7;
const SEED: u64 = 1;
/// Moments at which each changing course is begun, and the seconds between them.
const PHASES: u32 = 16;
const PHASE_S: f64 = 37.0;

/// Prints every figure; `true` if all goals are met.
///
/// # Errors
/// A sentence when a run fails or the output is gone.
pub(super) async fn keepalive(json: bool, limits: &[f64], reconnects: u32, comebacks: u32) -> Result<bool, String> {
    let mut figures = still(limits)?;
    figures.extend(changing()?);
    figures.push(Figure {
        name: "silent death, beyond the heartbeat".into(),
        value: notice(false),
        goal: 10.0,
        unit: "s",
    });
    // The agent gathers notices for half a second before it looks.
    figures.push(Figure {
        name: "silent death after a network change".into(),
        value: 0.5 + notice(true),
        goal: 3.0,
        unit: "s",
    });
    figures.push(Figure {
        name: "connections in 10 min to a server that closes, worst of 2000 devices".into(),
        value: worst_storm(),
        goal: 12.0,
        unit: "",
    });
    if reconnects > 0 {
        let name = format!("agent's memory after {reconnects} reconnections, growth");
        figures.push(Figure { name, value: super::growth::measure(reconnects).await?, goal: 256.0, unit: "KiB" });
    }
    if comebacks > 0 {
        figures.extend(comeback(comebacks).await?);
    }
    show(&figures, json)
}

async fn comeback(rounds: u32) -> Result<[Figure; 2], String> {
    let Comeback { impush, mosquitto_sub } = super::comeback::measure(rounds).await?;
    let goal = (ROUND_TRIP * 6).as_secs_f64() + 0.1;
    Ok([
        Figure { name: "network back until online, median, round trip 50 ms".into(), value: impush, goal, unit: "s" },
        Figure {
            name: format!("the same, ratio to mosquitto_sub ({mosquitto_sub:.3} s)"),
            value: impush / mosquitto_sub,
            goal: 1.0,
            unit: "",
        },
    ])
}

fn still(limits: &[f64]) -> Result<Vec<Figure>, String> {
    let (mut ratio, mut unreachable, mut probes) = (0.0_f64, 0.0_f64, 0);
    for limit in limits {
        let scenario = stationary(*limit);
        let ours = run("impush", &scenario, DAYS, SEED)?;
        let oracle = run("oracle", &scenario, DAYS, SEED)?;
        ratio = ratio.max(ours.pings_per_day / oracle.pings_per_day);
        probes = probes.max(ours.probes_to_settle);
        if *limit > 50.0 {
            unreachable = unreachable.max(ours.unreachable_s_per_day);
        }
    }
    Ok(vec![
        Figure {
            name: "pings a day after settling, ratio to the oracle, worst network".into(),
            value: ratio,
            goal: 1.15,
            unit: "",
        },
        Figure {
            name: "unreachable a day, stationary network above 50 s, worst".into(),
            value: unreachable,
            goal: 1.0,
            unit: "s",
        },
        Figure { name: "probes until settled, worst".into(), value: f64::from(probes), goal: 6.0, unit: "" },
    ])
}

fn changing() -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    for scenario in built_in(DAYS) {
        let ours = mean_unreachable("impush", &scenario)?;
        for (other, share) in [("mars", 0.05), ("fixed:270", 0.01)] {
            let theirs = mean_unreachable(other, &scenario)?;
            // Less than the first handshake is nothing to be better than.
            if theirs > 1.0 {
                let value = ours / theirs;
                figures.push(Figure {
                    name: format!("unreachable, ratio to {other}: {}", scenario.name),
                    value,
                    goal: share,
                    unit: "",
                });
            }
        }
    }
    Ok(figures)
}

/// Seconds a day, over the same course begun at different moments of the heartbeat: what a change costs
/// depends on how long before it the last ping was.
fn mean_unreachable(policy: &str, scenario: &Scenario) -> Result<f64, String> {
    let reports: Result<Vec<Report>, String> =
        (0..PHASES).map(|phase| run(policy, &scenario.later_by(f64::from(phase) * PHASE_S), DAYS, SEED)).collect();
    Ok(reports?.iter().map(|report| report.unreachable_s_per_day).sum::<f64>() / f64::from(PHASES))
}

/// Seconds from the moment a ping is due, or the network changed, until the link is declared dead.
fn notice(changed: bool) -> f64 {
    let mut link = Link::new(Moment::ZERO, HEARTBEAT_START, Duration::from_millis(50));
    let mut now = if changed { Moment::from_secs(10) } else { HEARTBEAT_START };
    let start = now;
    if changed {
        link.probe_now();
    }
    loop {
        match link.on_tick(now) {
            LinkAction::Ping => link.on_ping_sent(now),
            LinkAction::Dead(_) => return (now - start).as_secs_f64(),
            LinkAction::Nothing => now = link.next_deadline(),
        }
    }
}

fn worst_storm() -> f64 {
    let connections = |seed| {
        let mut reconnect = Reconnect::new(seed);
        let (mut now, mut count) = (Moment::ZERO, 0_u32);
        while now <= Duration::from_secs(600) {
            count += 1;
            reconnect.on_up(now);
            match reconnect.on_down(now, Cause::PeerClosed) {
                Verdict::Retry(attempt) => now = attempt.at,
                Verdict::Stop(_) => break,
            }
        }
        count
    };
    (0..2000).map(connections).max().map_or(0.0, f64::from)
}
