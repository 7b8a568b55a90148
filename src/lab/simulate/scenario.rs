//! What happens to a simulated device: stationary networks, built-in changing ones, and trace files.

use serde::Deserialize;

/// One line of a trace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Line {
    pub at_s: f64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Nat {
        limit_s: f64,
    },
    Down,
    Up,
    Switch {
        #[serde(default)]
        network: Option<String>,
        #[serde(default)]
        limit_s: Option<f64>,
    },
    ServerRestart {
        #[serde(default = "restart_s")]
        down_s: f64,
    },
    Suspend,
    Resume,
}

fn restart_s() -> f64 {
    5.0
}

/// A named course of events.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: String,
    /// The idle limit at the start, in seconds.
    pub nat_s: f64,
    pub lines: Vec<Line>,
}

impl Scenario {
    /// The same course, begun later.
    pub fn later_by(&self, seconds: f64) -> Self {
        let lines =
            self.lines.iter().map(|line| Line { at_s: line.at_s + seconds, event: line.event.clone() }).collect();
        Self { lines, ..self.clone() }
    }
}

pub fn stationary(nat_s: f64) -> Scenario {
    Scenario { name: format!("limit {nat_s} s"), nat_s, lines: Vec::new() }
}

/// Reads a trace.
///
/// # Errors
/// A sentence with the line's number.
pub fn read_trace(name: &str, text: &str) -> Result<Scenario, String> {
    let mut lines: Vec<Line> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let read: Line = serde_json::from_str(line).map_err(|e| format!("{name}, line {}: {e}", number + 1))?;
        let last = lines.last().map_or(0.0, |l| l.at_s);
        if !read.at_s.is_finite() || read.at_s < last {
            return Err(format!("{name}, line {}: at_s must grow", number + 1));
        }
        if let Event::Nat { limit_s } = read.event
            && !(1.0..=1e7).contains(&limit_s)
        {
            return Err(format!("{name}, line {}: limit_s is 1 to 10000000", number + 1));
        }
        lines.push(read);
    }
    Ok(Scenario { name: name.to_owned(), nat_s: 300.0, lines })
}

/// Networks that change, each for as many days as asked.
pub fn built_in(days: u32) -> Vec<Scenario> {
    let course = |name: &str, nat_s: f64, each_day: &dyn Fn(f64) -> Vec<(f64, Event)>| {
        let lines = (0..days)
            .flat_map(|day| {
                let start = f64::from(day) * 86_400.0;
                each_day(start).into_iter().map(move |(at, event)| Line { at_s: start + at, event })
            })
            .collect();
        Scenario { name: name.to_owned(), nat_s, lines }
    };
    let nat = |limit_s| Event::Nat { limit_s };
    let to = |network: &str, limit_s| Event::Switch { network: Some(network.to_owned()), limit_s: Some(limit_s) };
    vec![
        course("limit falls, 240 to 100", 240.0, &|start| {
            if start == 0.0 { vec![(43_200.0, nat(100.0))] } else { Vec::new() }
        }),
        course("limit falls, 900 to 300", 1000.0, &|start| {
            if start == 0.0 { vec![(43_200.0, nat(300.0))] } else { Vec::new() }
        }),
        course("flapping Wi-Fi", 180.0, &|_| {
            (0..24)
                .flat_map(|hour| {
                    [(f64::from(hour) * 3600.0 + 600.0, Event::Down), (f64::from(hour) * 3600.0 + 640.0, Event::Up)]
                })
                .collect()
        }),
        course("home, street, office", 150.0, &|_| {
            vec![
                (28_800.0, to("cell", 60.0)),
                (32_400.0, to("office", 120.0)),
                (61_200.0, to("cell", 60.0)),
                (64_800.0, to("home", 150.0)),
            ]
        }),
        course("server restarts", 120.0, &|_| {
            vec![(10_000.0, Event::ServerRestart { down_s: 10.0 }), (50_000.0, Event::ServerRestart { down_s: 30.0 })]
        }),
        course("sleeps at night", 200.0, &|_| vec![(3600.0, Event::Suspend), (25_200.0, Event::Resume)]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_line_is_read_and_a_bad_one_named() {
        let text = include_str!("mod.rs")
            .lines()
            .filter_map(|line| {
                line.strip_prefix("//! {").map(|rest| format!("{{{}", rest.split('}').next().unwrap_or_default()))
            })
            .map(|line| format!("{line}}}\n"))
            .collect::<String>();
        assert_eq!(read_trace("doc", &text).expect("read").lines.len(), 7);
        for bad in [
            "{\"at_s\":1,\"event\":\"storm\"}",
            "{\"at_s\":-1,\"event\":\"up\"}",
            "{\"at_s\":1,\"event\":\"nat\",\"limit_s\":0}",
            "x",
        ] {
            assert!(read_trace("t", bad).expect_err(bad).contains("line 1"));
        }
    }
}
