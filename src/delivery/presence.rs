//! A device's connections: which one counts, and whether its user sees what comes over it.
//!
//! Presence is a hint. A device that did not acknowledge in time is `silent` until it is heard again: messages
//! still go to it, but it holds no other device's notifications back.

use crate::ids::Nonce;

/// What is known of a device's connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    pub logged_in: bool,
    pub online: bool,
    /// The connection it is or was last on.
    pub nonce: Option<Nonce>,
    /// Whether an app is attached, by its last word.
    pub attached: bool,
    /// It owes an acknowledgement.
    pub silent: bool,
    pub login: String,
    /// When it came, or left.
    pub seen_ms: u64,
    /// The gateway that holds its connection, or held the last one; empty where a broker does.
    pub node: String,
}

/// What happens to a device's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It greets over this connection, which that gateway holds.
    Hello { nonce: Nonce, node: String },
    /// That connection ended. Such notices come late, twice and in the wrong order.
    Ended { nonce: Nonce },
    /// The broker says that a connection was over before this moment, and not which.
    Doubted { before_ms: u64 },
    /// Whether an app is attached, by the device's word.
    Attached(bool),
    /// It said anything else.
    Heard,
    /// It did not acknowledge in time what was published to this connection.
    Silent { nonce: Nonce },
    /// Its login ended.
    LoggedOut,
    /// The gateway's own endpoint has just started: nobody is connected.
    Restarted,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub device: Device,
    /// What is under way over this connection will not be acknowledged.
    pub lost: Option<Nonce>,
    /// What the user's other devices were held back for may be over.
    pub reconsider: bool,
    /// The gateway that holds the connection it had until now, which is to be closed there.
    pub left: Option<(String, Nonce)>,
}

impl Device {
    /// The connection it is on.
    pub fn connection(&self) -> Option<&Nonce> {
        self.nonce.as_ref().filter(|_| self.online)
    }

    fn is_on(&self, nonce: &Nonce) -> bool {
        self.connection() == Some(nonce)
    }

    /// Whether its user sees what comes over the connection, as far as it has proven: a phone that lingers
    /// without an app does not show it, and its vendor would. `bound`: as in [`super::Standing`].
    pub const fn counts_as_online(&self, bound: bool) -> bool {
        self.online && !self.silent && (self.attached || !bound)
    }

    /// Whether a new message goes to the connection and to the vendor at once.
    pub const fn lingers(&self, bound: bool) -> bool {
        self.online && !self.attached && bound
    }

    /// Whether it left so short a time ago, with an app open, that it is likely to be back at once.
    pub const fn may_be_back(&self, grace_ms: u64, now_ms: u64) -> bool {
        self.logged_in && !self.online && self.attached && now_ms < self.seen_ms.saturating_add(grace_ms)
    }
}

/// Decides what an event makes of a device's presence.
pub fn step(device: &Device, event: Event, now_ms: u64) -> Step {
    let mut next = device.clone();
    let (mut lost, mut left) = (None, None);
    match event {
        Event::Hello { nonce, node } => {
            if let Some(before) = device.connection().filter(|_| device.node != node) {
                left = Some((device.node.clone(), before.clone()));
            }
            // A new connection counts as attached until it says; a repeated greeting changes nothing of that.
            next.attached |= next.nonce.as_ref() != Some(&nonce);
            (next.logged_in, next.online, next.silent) = (true, true, false);
            (next.nonce, next.seen_ms, next.node) = (Some(nonce), now_ms, node);
        }
        Event::Ended { nonce } if device.is_on(&nonce) => {
            (next.online, next.silent, next.seen_ms) = (false, false, now_ms);
            lost = Some(nonce);
        }
        Event::Doubted { before_ms } if device.online && device.seen_ms < before_ms => {
            next.silent = true;
            lost.clone_from(&device.nonce);
        }
        Event::Attached(attached) => {
            (next.attached, next.silent) = (attached, false);
        }
        Event::Heard => next.silent = false,
        Event::Silent { nonce } if device.is_on(&nonce) => next.silent = true,
        Event::LoggedOut => (next.logged_in, next.online, next.silent) = (false, false, false),
        Event::Restarted if device.online => {
            (next.online, next.silent, next.seen_ms) = (false, false, now_ms);
        }
        // An older connection's.
        Event::Ended { .. } | Event::Doubted { .. } | Event::Silent { .. } | Event::Restarted => {}
    }
    // Whether it is bound is not known here: whoever is not, counts a little longer than needed.
    let reconsider = device.counts_as_online(true) && !next.counts_as_online(true)
        || device.counts_as_online(false) && !next.counts_as_online(false);
    Step { device: next, lost, reconsider, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(nonce: &str, node: &str) -> Event {
        Event::Hello { nonce: nonce.into(), node: node.into() }
    }

    fn at(nonce: &str) -> Device {
        step(&Device::default(), hello(nonce, ""), 100).device
    }

    #[test]
    fn a_phone_that_lingers_without_an_app_is_offline_to_its_user() {
        let phone = Device { attached: false, ..at("n1") };
        assert!(!phone.counts_as_online(true) && phone.lingers(true));
        assert!(phone.counts_as_online(false) && !phone.lingers(false), "without a binding nothing else shows it");
        let open = at("n1");
        assert!(open.counts_as_online(true) && !open.lingers(true));
        let away = step(&open, Event::Ended { nonce: "n1".into() }, 200).device;
        assert!(!away.counts_as_online(true) && !away.lingers(true));
    }

    #[test]
    fn only_the_current_connections_end_counts_and_only_once() {
        let device = at("n2");
        for (nonce, counts) in [("n1", false), ("n2", true)] {
            let step = step(&device, Event::Ended { nonce: nonce.into() }, 200);
            assert_eq!(
                (step.lost.is_some(), !step.device.online, step.reconsider),
                (counts, counts, counts),
                "{nonce}"
            );
        }
        let away = step(&device, Event::Ended { nonce: "n2".into() }, 200).device;
        let again = step(&away, Event::Ended { nonce: "n2".into() }, 300);
        assert_eq!((again.lost, again.device.seen_ms), (None, 200));
    }

    #[test]
    fn a_device_that_owes_an_acknowledgement_holds_nobody_back_until_it_is_heard() {
        let device = at("n1");
        let silent = step(&device, Event::Silent { nonce: "n1".into() }, 200);
        assert!(silent.reconsider && silent.device.online && !silent.device.counts_as_online(false));
        for event in [Event::Heard, Event::Attached(true), hello("n1", "")] {
            assert!(step(&silent.device, event, 300).device.counts_as_online(true));
        }
        assert_eq!(
            step(&device, Event::Silent { nonce: "n0".into() }, 200).device,
            device,
            "an older connection's debt"
        );
    }

    #[test]
    fn a_broker_that_doubts_a_connection_ends_what_is_under_way_and_not_the_presence() {
        let device = at("n1");
        let doubted = step(&device, Event::Doubted { before_ms: 101 }, 200);
        assert_eq!((doubted.lost, doubted.device.online, doubted.device.silent), (Some("n1".into()), true, true));
        assert_eq!(step(&device, Event::Doubted { before_ms: 100 }, 200).lost, None, "it came after that");
    }

    #[test]
    fn a_new_connection_counts_as_attached_until_it_says() {
        let closed = step(&at("n1"), Event::Attached(false), 200);
        assert!(closed.reconsider);
        let again = step(&closed.device, hello("n1", ""), 300).device;
        assert!(!again.attached, "it greets on the connection it has");
        assert!(step(&closed.device, hello("n2", ""), 300).device.attached);
    }

    #[test]
    fn a_device_that_moves_leaves_its_connection_at_the_other_gateway_and_a_late_end_there_changes_nothing() {
        let here = step(&at("n1"), hello("n2", "a"), 200);
        assert_eq!(here.left, Some((String::new(), "n1".into())));
        let there = step(&here.device, hello("n3", "b"), 300);
        assert_eq!((there.left, there.device.node.as_str()), (Some(("a".to_owned(), "n2".into())), "b"));
        assert_eq!(step(&there.device, Event::Ended { nonce: "n2".into() }, 400).device, there.device);
        assert_eq!(step(&there.device, hello("n4", "b"), 400).left, None, "its own table closes that one");
        let away = step(&there.device, Event::Ended { nonce: "n3".into() }, 400).device;
        assert_eq!(step(&away, hello("n5", "a"), 500).left, None, "nothing stands any more");
    }

    #[test]
    fn only_an_open_app_that_has_just_gone_is_waited_for() {
        let gone = step(&at("n1"), Event::Restarted, 200).device;
        assert!(gone.may_be_back(5000, 5199) && !gone.may_be_back(5000, 5200));
        let closed = Device { attached: false, ..gone.clone() };
        assert!(!closed.may_be_back(5000, 300));
        let out = step(&gone, Event::LoggedOut, 300).device;
        assert!(!out.may_be_back(5000, 300));
    }
}
