//! Runs side by side: as a table for the terminal and as a drawing.

use super::Report;
use std::fmt::Write as _;

/// One line a run, scenarios together.
pub fn table(reports: &[Report]) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:<22} {:<10} {:>10} {:>15} {:>7} {:>10} {:>12} {:>11}",
        "scenario", "policy", "pings/day", "unreachable s/d", "probes", "interval s", "connects/day", "bytes/day"
    );
    let mut last = "";
    for r in reports {
        if !last.is_empty() && last != r.scenario {
            out.push('\n');
        }
        last = &r.scenario;
        let _ = writeln!(
            out,
            "{:<22} {:<10} {:>10.1} {:>15.2} {:>7} {:>10.1} {:>12.2} {:>11.0}",
            r.scenario,
            r.policy,
            r.pings_per_day,
            r.unreachable_s_per_day,
            r.probes_to_settle,
            r.settled_interval_s,
            r.connections_per_day,
            r.bytes_per_day
        );
    }
    out
}

/// A figure's title and how it is read off a run.
type Panel = (&'static str, fn(&Report) -> f64);

const COLOURS: [&str; 6] = ["#1b7f5a", "#8a8f98", "#c77d2e", "#b0413e", "#4a6fa5", "#6b4a8a"];
const LEFT: usize = 190;
const WIDTH: usize = 230;
/// Room for the number behind the longest bar.
const NUMBER: usize = 70;
const BAR: usize = 13;

/// Bars on a logarithmic scale for each scenario and policy. Zero minutes until settled are a policy
/// that does not search, or one that never settled.
pub fn draw(reports: &[Report]) -> String {
    let mut policies: Vec<&str> = reports.iter().map(|r| r.policy.as_str()).collect();
    policies.sort_unstable();
    policies.dedup();
    let colour = |policy: &str| COLOURS[policies.iter().position(|p| *p == policy).unwrap_or(0) % COLOURS.len()];
    let panels: [Panel; 4] = [
        ("seconds unreachable a day", |r| r.unreachable_s_per_day),
        ("pings a day", |r| r.pings_per_day),
        ("minutes until settled", |r| r.settled_after_s.map_or(0.0, |s| s / 60.0)),
        ("kilobytes a day", |r| r.bytes_per_day / 1000.0),
    ];
    let mut rows = String::new();
    let mut y = 60;
    let mut last = "";
    for r in reports {
        if last != r.scenario {
            y += 12;
            let _ = writeln!(
                rows,
                "<text x='{}' y='{}' text-anchor='end'>{}</text>",
                LEFT - 8,
                y + BAR,
                escape(&r.scenario)
            );
        }
        last = &r.scenario;
        for (panel, (_, value)) in panels.iter().enumerate() {
            let value = value(r);
            // From 0.1 to 100000 in six decades; nothing is drawn as nothing.
            let length = if value < 0.1 { 0.0 } else { ((value.log10() + 1.0) / 6.0).clamp(0.0, 1.0) * WIDTH as f64 };
            let x = LEFT + panel * (WIDTH + NUMBER);
            let _ = writeln!(
                rows,
                "<rect x='{x}' y='{y}' width='{length:.1}' height='{}' fill='{}'/><text x='{:.1}' y='{}' font-size='10'>{value:.1}</text>",
                BAR - 2,
                colour(&r.policy),
                x as f64 + length + 4.0,
                y + BAR - 3
            );
        }
        y += BAR;
    }
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='{}' font-family='sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n",
        LEFT + panels.len() * (WIDTH + NUMBER),
        y + 24
    );
    for (panel, (title, _)) in panels.iter().enumerate() {
        let _ = writeln!(
            out,
            "<text x='{}' y='50' font-weight='bold'>{title} (log scale)</text>",
            LEFT + panel * (WIDTH + NUMBER)
        );
    }
    for (at, policy) in policies.iter().enumerate() {
        let x = LEFT + at * 110;
        let _ = writeln!(
            out,
            "<rect x='{x}' y='14' width='12' height='12' fill='{}'/><text x='{}' y='24'>{}</text>",
            colour(policy),
            x + 17,
            escape(policy)
        );
    }
    out.push_str(&rows);
    out.push_str("</svg>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
