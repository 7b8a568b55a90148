//! What the running agent knows of each address of its servers on this network, in words.

use super::Check;
use crate::keepalive::WayReport;
use crate::keepalive::race::{Outcome, Step};
use crate::session::Status;

const ADVICE: &str = "the agent prefers what works by itself; look at that server, at the firewalls before it, and at its \
                      address records (is IPv6 routed?)";
const SMALL: &str = "this network may lose large packets: small segments are asked for";

/// Nothing where no attempt was made on this network.
pub fn examine(status: &Status) -> Option<Check> {
    let here: Vec<&WayReport> = status.ways.iter().filter(|way| way.network == status.network).collect();
    let mut said: Vec<String> = here.iter().map(|way| words(way, status.servers.len() > 1)).collect();
    if status.small_segments {
        said.push(SMALL.to_owned());
    }
    let good = !status.small_segments && here.iter().all(|way| way.outcome == Outcome::Worked);
    match (said.is_empty(), good) {
        (true, _) => None,
        (_, true) => Some(Check::ok("ways", said.join("; "))),
        _ => Some(Check::warning("ways", said.join("; "), ADVICE)),
    }
}

/// `named`: there are several servers, so that an address alone does not say whose it is.
fn words(way: &WayReport, named: bool) -> String {
    let who = match way.address {
        Some(address) if named => format!("{} at {address}", way.server),
        Some(address) => address.to_string(),
        None => way.server.clone(),
    };
    let did = match (way.outcome, way.step) {
        (Outcome::Worked, _) => "works",
        (Outcome::Failed, step) => {
            let why = way.cause.map_or_else(String::new, |cause| format!(": {}", cause.text()));
            return format!("{who} fails ({}){why}", step.as_str());
        }
        (Outcome::Stalled, Step::Lookup) => "is not looked up in time (lookup)",
        (Outcome::Stalled, Step::Tcp) => "does not accept (tcp)",
        (Outcome::Stalled, Step::Tls) => "accepts (tcp) but does not speak (tls)",
        (Outcome::Stalled, Step::Connect) => "speaks (tls) but does not answer CONNECT (connect)",
        (Outcome::Stalled, Step::Subscribe) => "lets in (connect) but does not answer SUBSCRIBE (subscribe)",
    };
    format!("{who} {did}")
}

#[cfg(test)]
mod tests {
    use super::super::Outcome as Found;
    use super::*;
    use crate::keepalive::Cause;

    fn way(last: u8, step: Step, outcome: Outcome) -> WayReport {
        let cause = (outcome == Outcome::Failed).then_some(Cause::Refused);
        let address = Some([192, 0, 2, last].into());
        WayReport { server: "mqtts://a:8883".into(), address, step, outcome, cause, network: None, seconds_ago: 1 }
    }

    fn of(ways: Vec<WayReport>) -> Option<Check> {
        examine(&Status { ways, ..Status::example() })
    }

    #[test]
    fn a_way_is_told_by_the_step_it_came_to() {
        let ways = vec![way(1, Step::Tls, Outcome::Stalled), way(2, Step::Subscribe, Outcome::Worked)];
        let check = of(ways).expect("a check");
        assert_eq!(check.found, "192.0.2.1 accepts (tcp) but does not speak (tls); 192.0.2.2 works");
        assert!(check.outcome == Found::Warning && !check.advice.is_empty());
        let steps = [Step::Lookup, Step::Tcp, Step::Tls, Step::Connect, Step::Subscribe];
        for (step, outcome) in steps.into_iter().flat_map(|step| [(step, Outcome::Stalled), (step, Outcome::Failed)]) {
            let check = of(vec![way(1, step, outcome)]).expect("a check");
            assert!(check.found.contains(&format!("({})", step.as_str())), "{check:?}");
            assert_eq!(check.found.contains(Cause::Refused.text()), outcome == Outcome::Failed, "{check:?}");
        }
    }

    #[test]
    fn what_works_is_good_and_another_networks_ways_are_left_out() {
        let elsewhere = WayReport { network: Some("wifi-1".into()), ..way(1, Step::Tcp, Outcome::Stalled) };
        assert_eq!(of(vec![elsewhere.clone()]), None);
        let check = of(vec![elsewhere, way(2, Step::Connect, Outcome::Worked)]).expect("a check");
        assert_eq!((check.outcome, check.found.as_str()), (Found::Ok, "192.0.2.2 works"));
    }

    #[test]
    fn several_servers_are_named_and_small_segments_are_told() {
        let servers = vec!["mqtts://a:8883".to_owned(), "mqtts://b:8883".to_owned()];
        let ways = vec![way(2, Step::Connect, Outcome::Worked)];
        let check = examine(&Status { servers, ways, small_segments: true, ..Status::example() }).expect("a check");
        assert_eq!(check.found, format!("mqtts://a:8883 at 192.0.2.2 works; {SMALL}"));
        assert_eq!(check.outcome, Found::Warning);
    }
}
