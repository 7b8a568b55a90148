//! Whether power is short, and which wakeups then wait for each other.

use super::Moment;
use super::constants::{LOW_POWER_PERCENT, LOW_POWER_SLACK};
use serde::{Deserialize, Serialize};

/// What an operator or an app asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerMode {
    /// The battery decides.
    #[default]
    Auto,
    Normal,
    /// Power, or a metered network's volume, is to be saved.
    Low,
}

/// A battery as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Battery {
    pub discharging: bool,
    /// 0 to 100.
    pub percent: u8,
}

/// Whether power is to be saved now.
pub fn is_low(mode: PowerMode, battery: Option<Battery>) -> bool {
    match mode {
        PowerMode::Low => true,
        PowerMode::Normal => false,
        PowerMode::Auto => battery.is_some_and(|b| b.discharging && b.percent <= LOW_POWER_PERCENT),
    }
}

/// When to wake next: for `pulse`, which cannot wait, or for the earliest of `others`, which in a
/// device that saves power wait for a pulse that comes soon.
pub fn next_wake(pulse: Option<Moment>, others: impl Iterator<Item = Moment>, saving: bool) -> Option<Moment> {
    match (pulse, others.min()) {
        (Some(pulse), Some(other)) if saving && other < pulse && pulse <= other + LOW_POWER_SLACK => Some(pulse),
        (Some(pulse), Some(other)) => Some(pulse.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_battery_that_runs_out_decides_only_where_nobody_else_did() {
        let battery = |discharging, percent| Some(Battery { discharging, percent });
        assert!(is_low(PowerMode::Auto, battery(true, 15)));
        for not in [battery(true, 16), battery(false, 3), None] {
            assert!(!is_low(PowerMode::Auto, not));
        }
        assert!(!is_low(PowerMode::Normal, battery(true, 1)) && is_low(PowerMode::Low, None));
    }

    #[test]
    fn work_that_can_wait_joins_a_near_ping_only_while_power_is_saved() {
        let at = Moment::from_secs;
        let others = || [at(100), at(900)].into_iter();
        assert_eq!(next_wake(Some(at(350)), others(), true), Some(at(350)));
        assert_eq!(next_wake(Some(at(350)), others(), false), Some(at(100)));
        assert_eq!(next_wake(Some(at(500)), others(), true), Some(at(100)), "too far away to wait for");
        assert_eq!(next_wake(Some(at(50)), others(), true), Some(at(50)));
        assert_eq!(next_wake(None, others(), true), Some(at(100)));
        assert_eq!(next_wake(Some(at(7)), std::iter::empty(), true), Some(at(7)));
    }
}
