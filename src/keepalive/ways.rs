//! What each server's addresses did at which step, by network: the order of the next dial, and for people.

use super::race::{Outcome, Step};
use super::{Cause, Moment};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// Ways that are remembered; the one seen longest ago goes first.
const MOST: usize = 32;
/// What stalled goes behind what did not for so long.
const STALLED_FOR: Duration = Duration::from_secs(3600);
/// So long small segments are asked for where large ones were lost.
const SMALL_FOR: Duration = Duration::from_secs(86_400);
/// Networks with small segments that are remembered.
const MOST_SMALL: usize = 8;

/// One way of a dial, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub server: String,
    /// `None` for the lookup of its name.
    pub address: Option<IpAddr>,
    pub step: Step,
    pub outcome: Outcome,
    pub cause: Option<Cause>,
}

/// A way as `impush status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayReport {
    pub server: String,
    pub address: Option<IpAddr>,
    pub step: Step,
    pub outcome: Outcome,
    pub cause: Option<Cause>,
    pub network: Option<String>,
    pub seconds_ago: u64,
}

#[derive(Debug, Clone)]
struct Seen {
    network: Option<String>,
    at: Moment,
    tried: Tried,
}

/// The memory of ways.
#[derive(Debug, Clone, Default)]
pub struct Ways {
    /// The newest last.
    seen: Vec<Seen>,
    small: Vec<(Option<String>, Moment)>,
}

impl Ways {
    /// A dial on `network` ended.
    pub fn on_tried(&mut self, now: Moment, network: Option<&str>, tried: Vec<Tried>) {
        for tried in tried {
            self.seen.retain(|seen| {
                seen.network.as_deref() != network
                    || seen.tried.server != tried.server
                    || seen.tried.address != tried.address
            });
            self.seen.push(Seen { network: network.map(str::to_owned), at: now, tried });
        }
        let surplus = self.seen.len().saturating_sub(MOST);
        self.seen.drain(..surplus);
    }

    /// What stalled lately on this network: server, and address or the lookup of its name.
    pub fn behind(&self, now: Moment, network: Option<&str>) -> Vec<(String, Option<IpAddr>)> {
        let stalled = |seen: &&Seen| {
            seen.network.as_deref() == network
                && seen.tried.outcome == Outcome::Stalled
                && now.saturating_sub(seen.at) < STALLED_FOR
        };
        self.seen.iter().filter(stalled).map(|seen| (seen.tried.server.clone(), seen.tried.address)).collect()
    }

    /// Large segments were lost on this network: `true` when that is news.
    pub fn on_large_lost(&mut self, now: Moment, network: Option<&str>) -> bool {
        let news = !self.small_segments(now, network);
        self.small.retain(|(known, _)| known.as_deref() != network);
        self.small.push((network.map(str::to_owned), now));
        let surplus = self.small.len().saturating_sub(MOST_SMALL);
        self.small.drain(..surplus);
        news
    }

    /// Connections on this network ask for small segments.
    pub fn small_segments(&self, now: Moment, network: Option<&str>) -> bool {
        self.small.iter().any(|(known, at)| known.as_deref() == network && now.saturating_sub(*at) < SMALL_FOR)
    }

    pub fn report(&self, now: Moment) -> Vec<WayReport> {
        let report = |seen: &Seen| WayReport {
            server: seen.tried.server.clone(),
            address: seen.tried.address,
            step: seen.tried.step,
            outcome: seen.tried.outcome,
            cause: seen.tried.cause,
            network: seen.network.clone(),
            seconds_ago: now.saturating_sub(seen.at).as_secs(),
        };
        self.seen.iter().rev().map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(address: u8, outcome: Outcome) -> Tried {
        let address = Some(IpAddr::from([127, 0, 0, address]));
        Tried { server: "mqtts://a:8883".into(), address, step: Step::Connect, outcome, cause: None }
    }

    #[test]
    fn what_stalled_is_behind_on_its_network_for_a_while_or_until_it_works() {
        let mut ways = Ways::default();
        ways.on_tried(Moment::ZERO, Some("home"), vec![tried(1, Outcome::Stalled), tried(2, Outcome::Worked)]);
        assert_eq!(ways.behind(Moment::ZERO, Some("home")).len(), 1);
        assert!(
            ways.behind(Moment::ZERO, Some("work")).is_empty() && ways.behind(STALLED_FOR, Some("home")).is_empty()
        );
        ways.on_tried(Moment::ZERO, Some("home"), vec![tried(1, Outcome::Worked)]);
        assert!(ways.behind(Moment::ZERO, Some("home")).is_empty());
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut ways = Ways::default();
        for at in 0..=u8::MAX {
            ways.on_tried(Moment::ZERO, None, vec![tried(at, Outcome::Stalled)]);
            ways.on_large_lost(Moment::ZERO, Some(&at.to_string()));
        }
        assert_eq!((ways.seen.len(), ways.small.len()), (MOST, MOST_SMALL));
        assert_eq!(ways.report(Moment::ZERO)[0].address, Some(IpAddr::from([127, 0, 0, 255])), "the newest first");
    }
}
