//! When a user wants no notifications: mode, daily interval, and until when; for all or one conversation.
//!
//! Rules of the original system: the conversation's mode beats the app-wide one; do-not-disturb, of
//! either, beats every mode; only a forced message beats do-not-disturb.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use serde::{Deserialize, Serialize};

/// What a user is notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[serde(rename = "ALL")]
    All,
    /// Only messages that mention the user.
    #[serde(rename = "AT")]
    Mention,
    #[serde(rename = "NONE")]
    None,
    /// A conversation follows the app-wide mode.
    #[serde(rename = "DEFAULT")]
    Default,
}

/// One user's wish for all conversations, or for one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Silence {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// `HH:MM-HH:MM`, each day, app-wide only; equal times mean the whole day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_interval: Option<String>,
    /// The interval's time zone: a name (`Asia/Shanghai`) or an offset (`+08:00`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Until then, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_until: Option<u64>,
}

/// The longest do-not-disturb duration, in milliseconds: seven days.
pub const LONGEST_DURATION_MS: u64 = 604_800_000;

/// Minutes of the day from `HH:MM-HH:MM`.
///
/// # Errors
/// A sentence that says what to write.
pub fn interval(text: &str) -> Result<(u16, u16), String> {
    let minute = |part: &str| {
        let (hours, minutes) = part.trim().split_once(':')?;
        let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
        (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
    };
    let both = text.split_once('-').and_then(|(start, end)| Some((minute(start)?, minute(end)?)));
    both.ok_or_else(|| format!("`{text}` is no interval; write HH:MM-HH:MM, 00:00 to 23:59"))
}

/// # Errors
/// A sentence that says what to write.
pub fn zone(text: &str) -> Result<TimeZone, String> {
    let offset = || {
        let (sign, rest) = match text.split_at_checked(1)? {
            ("+", rest) => (1, rest),
            ("-", rest) => (-1, rest),
            _ => return None,
        };
        let (hours, minutes) = rest.split_once(':')?;
        let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
        Offset::from_seconds(sign * seconds).ok().map(|offset| offset.to_time_zone())
    };
    offset()
        .or_else(|| TimeZone::get(text).ok())
        .ok_or_else(|| format!("`{text}` is no time zone; write a name as Asia/Shanghai, or an offset as +08:00"))
}

impl Silence {
    /// Whether do-not-disturb is on now. `home` is the zone of an interval that names none.
    fn is_quiet(&self, now_ms: u64, home: &TimeZone) -> bool {
        if self.ignore_until.is_some_and(|until| until > now_ms) {
            return true;
        }
        let Some(Ok((start, end))) = self.ignore_interval.as_deref().map(interval) else { return false };
        let own = self.time_zone.as_deref().and_then(|name| zone(name).ok());
        let now = i64::try_from(now_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
        let local = now.to_zoned(own.unwrap_or_else(|| home.clone())).time();
        let minute = u16::try_from(i32::from(local.hour()) * 60 + i32::from(local.minute())).unwrap_or(0);
        match start.cmp(&end) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => (start..end).contains(&minute),
            // Over midnight.
            std::cmp::Ordering::Greater => minute >= start || minute < end,
        }
    }
}

/// Whether a message is to be kept from notifying. `mentioned`: it names the receiver.
pub fn silenced(app_wide: &Silence, conversation: &Silence, mentioned: bool, now_ms: u64, home: &TimeZone) -> bool {
    if app_wide.is_quiet(now_ms, home) || conversation.is_quiet(now_ms, home) {
        return true;
    }
    let own = conversation.mode.filter(|mode| *mode != Mode::Default);
    match own.or(app_wide.mode).unwrap_or(Mode::All) {
        Mode::All | Mode::Default => false,
        Mode::Mention => !mentioned,
        Mode::None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22, at this hour and minute in Shanghai.
    fn at(hour: u64, minute: u64) -> u64 {
        1_795_276_800_000 + (hour * 60 + minute) * 60_000
    }

    fn home() -> TimeZone {
        zone("Asia/Shanghai").expect("a zone")
    }

    fn quiet_between(interval: &str, now_ms: u64) -> bool {
        let silence = Silence { ignore_interval: Some(interval.into()), ..Silence::default() };
        silenced(&silence, &Silence::default(), true, now_ms, &home())
    }

    #[test]
    fn an_interval_is_of_local_time_and_may_cross_midnight() {
        assert!(quiet_between("12:00-13:30", at(12, 0)) && quiet_between("12:00-13:30", at(13, 29)));
        assert!(!quiet_between("12:00-13:30", at(13, 30)) && !quiet_between("12:00-13:30", at(11, 59)));
        assert!(quiet_between("22:00-07:00", at(23, 0)) && quiet_between("22:00-07:00", at(6, 59)));
        assert!(!quiet_between("22:00-07:00", at(7, 0)));
        assert!(quiet_between("08:00-08:00", at(3, 0)), "equal times are the whole day");
        let elsewhere = Silence {
            ignore_interval: Some("22:00-23:00".into()),
            time_zone: Some("-03:30".into()),
            ..Silence::default()
        };
        // 22:30 at -03:30 is 02:00 UTC, 10:00 in Shanghai.
        assert!(silenced(&elsewhere, &Silence::default(), true, at(10, 0), &home()));
        assert!(!silenced(&elsewhere, &Silence::default(), true, at(22, 30), &home()));
    }

    #[test]
    fn a_duration_ends_and_do_not_disturb_beats_the_mode() {
        let until = Silence { ignore_until: Some(100), mode: Some(Mode::All), ..Silence::default() };
        assert!(silenced(&until, &Silence::default(), true, 99, &home()));
        assert!(!silenced(&until, &Silence::default(), true, 100, &home()));
        let conversation = Silence { mode: Some(Mode::All), ..Silence::default() };
        assert!(silenced(&until, &conversation, true, 99, &home()));
    }

    #[test]
    fn a_conversations_mode_beats_the_app_wide_one() {
        let mode = |mode| Silence { mode: Some(mode), ..Silence::default() };
        let unset = Silence::default();
        assert!(silenced(&mode(Mode::None), &unset, true, 0, &home()));
        assert!(!silenced(&mode(Mode::None), &mode(Mode::All), false, 0, &home()));
        assert!(silenced(&mode(Mode::None), &mode(Mode::Default), false, 0, &home()));
        assert!(silenced(&mode(Mode::Mention), &unset, false, 0, &home()));
        assert!(!silenced(&mode(Mode::Mention), &unset, true, 0, &home()));
    }

    #[test]
    fn what_is_no_interval_or_zone_is_refused_with_what_to_write() {
        for bad in ["", "22:00", "24:00-01:00", "1-2", "aa:bb-cc:dd", "10:60-11:00"] {
            assert!(interval(bad).expect_err(bad).contains("HH:MM"));
        }
        for bad in ["", "Mars/Base", "+99:00", "8"] {
            assert!(zone(bad).expect_err(bad).contains("Asia/Shanghai"));
        }
    }
}
