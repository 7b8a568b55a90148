//! What the agent says of itself, its disk, and the clock everything hangs on.

use super::super::config::Config;
use super::super::manager::Init;
use super::super::words;
use super::Check;
use crate::binding::Standing;
use crate::keepalive::Cause;
use crate::protocol::BindingState;
use crate::session::{State, Status};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

/// A clock that is late by less endangers no certificate.
const DAY_MS: u64 = 86_400_000;
/// Days after which a vendor token that nobody has handed over again is suspect. Vendors drop installations
/// that have been silent; 270 days is what Firebase's documentation, "Manage registration tokens", gives.
const TOKEN_DAYS: u64 = 270;
/// Bytes: below the first nothing can be stored, below the second it is a matter of time.
const DISK_FULL: u64 = 1 << 20;
const DISK_LOW: u64 = 16 << 20;
/// Days below which a login should have renewed itself long ago.
const FEW_DAYS: u64 = 7;
/// Seconds after which a gateway that is there has been asked several times.
const SILENT_S: u64 = 60;
/// Seconds during which a connection that took over from another is worth a word.
const TAKEN_OVER_S: u64 = 600;
const SHARED: &str = "two machines may share one identity (a copied state directory): on the copy stop the agent, \
                      `impush reset-identity`, and start it";

/// `judged_by_ms`: the time certificates are checked against.
pub fn clock(now_ms: u64, judged_by_ms: u64) -> Check {
    if now_ms.saturating_add(DAY_MS) < judged_by_ms {
        let found = format!(
            "the clock says {}; certificates are checked against {}",
            words::date(now_ms),
            words::date(judged_by_ms)
        );
        return Check::warning(
            "clock",
            found,
            "set the date (timedatectl, the modem's time), or let NTP through (UDP 123)",
        );
    }
    Check::ok("clock", "plausible")
}

pub fn examine(status: &Status, now_ms: u64) -> Vec<Check> {
    vec![login(status, now_ms), binding(status), channel(status), heartbeat(status)]
}

/// Whether the device may sleep between a ping and its answer; nothing where it does not sleep by itself.
pub fn sleep(root: Option<&Path>, status: &Status) -> Option<Check> {
    let root = root.unwrap_or("/".as_ref());
    if let Some(lock) = status.wake_lock {
        let held_s = lock.held_ms as f64 / 1000.0;
        return Some(Check::ok("sleep", format!("kept awake {} times, for {held_s:.1} s in all", lock.taken)));
    }
    let android = root.join("system/build.prop").exists();
    // power/userland wake locks: sysfs-power, `autosleep`.
    let sleeps = std::fs::read_to_string(root.join("sys/power/autosleep")).is_ok_and(|text| text.trim() != "off");
    if !root.join("sys/power/wake_lock").exists() || !(android || sleeps) {
        return None;
    }
    let advice = "give the agent CAP_BLOCK_SUSPEND and /sys/power/wake_lock: on Android `group wakelock` and \
                  `capabilities BLOCK_SUSPEND` in its .rc; under systemd a drop-in with \
                  AmbientCapabilities=CAP_BLOCK_SUSPEND, PrivateUsers=no, ProtectKernelTunables=no";
    Some(Check::warning(
        "sleep",
        "the agent may not hold a wake lock: the device can sleep before an answer is there",
        advice,
    ))
}

fn login(status: &Status, now_ms: u64) -> Check {
    let cause = status.cause.as_ref();
    let why =
        || cause.map_or_else(|| format!("{:?}", status.state), |cause| format!("{}: {}", cause.text, cause.detail));
    let word = cause.map(|cause| cause.word);
    let since_s = now_ms.saturating_sub(status.since_ms) / 1000;
    let Some(user) = &status.user else {
        return Check::failed("login", "nobody is logged in", "impush login USER --password-file FILE");
    };
    match status.state {
        State::Stopped => Check::failed("login", why(), "log in again with a fresh password: impush login"),
        State::Waiting | State::Connecting if word == Some(Cause::TakenOver) => Check::failed("login", why(), SHARED),
        State::Online if word == Some(Cause::TakenOver) && since_s < TAKEN_OVER_S => {
            Check::warning("login", format!("{user}: another connection with this device's id was just here"), SHARED)
        }
        State::Waiting if matches!(word, Some(Cause::BadCredentials | Cause::NotAuthorized)) => Check::failed(
            "login",
            format!("a broker refuses a login that worked before; it is tried again by itself ({})", why()),
            "look at the broker's authentication: is its backend, or the gateway that it asks, away?",
        ),
        State::Waiting | State::Connecting if status.sign_in => Check::failed(
            "login",
            format!("{}; {}", why(), words::SIGN_IN),
            "sign in: open any web page on this network",
        ),
        State::Waiting => {
            Check::failed("login", why(), "the agent tries again by itself; `impush reconnect` tries now")
        }
        State::Connecting | State::LoggedOut => {
            Check::warning("login", format!("{user}: connecting"), "ask again in a moment")
        }
        State::Online if status.gateway_answers == Some(false) && since_s > SILENT_S => Check::failed(
            "login",
            format!("connected for {since_s} s, but the broker has no gateway: nothing has answered this device"),
            "look whether impush-gateway runs and is connected to this broker, for this app",
        ),
        State::Online | State::Resting => good_for(user, status),
    }
}

/// A login that works now, and how long it will.
fn good_for(user: &str, status: &Status) -> Check {
    let found = format!("{user}, {:?}", status.state).to_lowercase();
    let renewal = "the gateway renews it in its welcome while the device is connected; if it does not, look at the \
                   gateway, or log in again: impush login";
    match status.login_days_left {
        None => Check::ok("login", found),
        Some(0) => Check::warning("login", format!("{found}; the login has expired, or does today"), renewal),
        Some(days) if days < FEW_DAYS => Check::warning("login", format!("{found}; {days} days left"), renewal),
        Some(days) => Check::ok("login", format!("{found}; {days} days left")),
    }
}

fn binding(status: &Status) -> Check {
    match &status.binding {
        Standing::Refused { reason } => Check::failed(
            "binding",
            format!("the gateway refused the token: {reason}"),
            "compare the certificate names here and at the gateway (impush-gateway certificate list)",
        ),
        _ if status.channel == "none" => Check::ok("binding", "none needed: the connection delivers"),
        Standing::Bound => Check::ok("binding", "the gateway has the token"),
        standing => Check::warning("binding", format!("{standing:?}"), "it is confirmed with the next connection"),
    }
}

fn channel(status: &Status) -> Check {
    let why: Vec<String> = status.why_not.iter().map(|(vendor, why)| format!("{vendor}: {why}")).collect();
    if status.channel == "none" {
        return Check::ok("channel", format!("none; the connection is kept alive ({})", why.join("; ")));
    }
    let found = format!("{}, token {}", status.channel, status.token.as_deref().unwrap_or("-"));
    let (means, advice) = match status.channel_state {
        None | Some(BindingState::Working) => return Check::ok("channel", found),
        Some(BindingState::Unproven) => {
            let means = "nothing was pushed through it lately; `impush-gateway certificate test` does";
            return Check::ok("channel", format!("{found}; {means}"));
        }
        Some(BindingState::Dead) => {
            ("the vendor says that the token is dead", "open the app: it has to hand over a new token")
        }
        Some(BindingState::Disabled) => (
            "its certificate is switched off at the gateway",
            "impush-gateway certificate enable, when it is meant to push",
        ),
        Some(BindingState::MissingCertificate) => (
            "the gateway has no certificate of this name",
            "compare the certificate names here and at the gateway (impush-gateway certificate list)",
        ),
        Some(BindingState::Failing) => (
            "pushes with its certificate have failed for ten minutes or more",
            "impush-gateway trace of a message says why; impush-gateway certificate test tries one",
        ),
        Some(BindingState::Limited) => {
            ("a quota of the certificate or the device is used up", "wait until the vendor's day ends, or ask for more")
        }
        Some(BindingState::Unknown) => ("the gateway says a word that this version does not know", "update this agent"),
    };
    Check::warning("channel", format!("{found}; {means}: the connection is held instead"), advice)
}

fn heartbeat(status: &Status) -> Check {
    let found = format!(
        "{:.0} s on {}{}",
        status.heartbeat_s,
        status.network.as_deref().unwrap_or("no network"),
        if status.heartbeat_settled { ", settled" } else { ", still searching" }
    );
    Check::ok("heartbeat", found)
}

/// Token age, space and modes, where this user may look.
pub fn disk(config: &Config, status: Option<&Status>) -> Vec<Check> {
    let directory = config.state_directory();
    let failing = status.is_some_and(|status| status.store_failing).then(|| {
        let advice =
            format!("look at its disk, owner and rights, and for store.failed in its log: {}", Init::here().log());
        Check::failed("disk", format!("the agent cannot write {}", directory.display()), advice)
    });
    let mode = match std::fs::metadata(&directory) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) => {
            let unseen = || {
                let found = format!("{}: {error}; run doctor as root or as the agent's user", directory.display());
                Check::skipped("disk", found)
            };
            return vec![failing.unwrap_or_else(unseen)];
        }
    };
    let mut checks = vec![token_age(&directory), failing.unwrap_or_else(|| space(&directory))];
    checks.push(if mode & 0o077 == 0 {
        Check::ok("permissions", format!("{} is private", directory.display()))
    } else {
        let advice = format!("chmod 700 {}", directory.display());
        Check::failed(
            "permissions",
            format!("{} has mode {mode:o}: others can read tokens", directory.display()),
            advice,
        )
    });
    checks
}

fn token_age(directory: &Path) -> Check {
    let written = std::fs::metadata(directory.join("tokens.json")).and_then(|file| file.modified());
    let days = written.ok().and_then(|at| SystemTime::now().duration_since(at).ok()).map(|age| age.as_secs() / 86_400);
    match days {
        None => Check::ok("token age", "no token was ever handed over"),
        Some(days) if days > TOKEN_DAYS => {
            Check::warning("token age", format!("{days} days"), "let the app hand its token over again at each start")
        }
        Some(days) => Check::ok("token age", format!("{days} days")),
    }
}

fn space(directory: &Path) -> Check {
    match rustix::fs::statvfs(directory) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let said = format!("{} MiB free", free >> 20);
            let advice = "make room: messages are acknowledged only once they are on the disk";
            match free {
                0..DISK_FULL => Check::failed("disk", said, advice),
                DISK_FULL..DISK_LOW => Check::warning("disk", said, advice),
                _ => Check::ok("disk", said),
            }
        }
        Err(error) => Check::skipped("disk", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use crate::session::CauseReport;

    const WRITTEN_MS: u64 = 1_760_000_000_000;

    #[test]
    fn a_clock_of_1970_is_named_and_one_of_today_is_not() {
        let check = clock(5_000, WRITTEN_MS);
        assert_eq!(check.outcome, Outcome::Warning);
        assert_eq!(check.found, "the clock says 1970-01-01; certificates are checked against 2025-10-09");
        assert_eq!(clock(WRITTEN_MS, WRITTEN_MS + 1000).outcome, Outcome::Ok);
    }

    #[test]
    fn a_device_that_sleeps_by_itself_and_an_agent_that_cannot_keep_it_awake_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let found = |status: &Status| sleep(Some(dir.path()), status);
        assert_eq!(found(&Status::example()), None, "no wake locks here");
        let power = dir.path().join("sys/power");
        std::fs::create_dir_all(&power).expect("made");
        std::fs::write(power.join("wake_lock"), "").expect("written");
        for (autosleep, warned) in [("off", false), ("mem", true)] {
            std::fs::write(power.join("autosleep"), format!("{autosleep}\n")).expect("written");
            assert_eq!(found(&Status::example()).is_some(), warned, "{autosleep}");
        }
        let check = found(&Status::example()).expect("a warning");
        assert!(check.advice.contains("CAP_BLOCK_SUSPEND"), "{check:?}");
        let lock = Some(crate::session::WakeLockReport { taken: 3, held_ms: 1500 });
        let check = found(&Status { wake_lock: lock, ..Status::example() }).expect("a word");
        assert_eq!((check.outcome, check.found.as_str()), (Outcome::Ok, "kept awake 3 times, for 1.5 s in all"));
    }

    #[test]
    fn a_state_directory_others_can_read_is_named_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let config: Config =
            toml::from_str(&format!("paths = {{ state = '{}' }}", dir.path().display())).expect("read");
        let of = |name: &str| disk(&config, None).into_iter().find(|check| check.name == name).expect("checked");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("changed");
        assert_eq!(of("permissions").outcome, Outcome::Failed);
        assert!(of("permissions").advice.starts_with("chmod 700"));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).expect("changed");
        assert_eq!(of("permissions").outcome, Outcome::Ok);
        assert_eq!(of("disk").outcome, Outcome::Ok);
    }
    fn because(word: Cause) -> Option<CauseReport> {
        Some(CauseReport { word, number: word.number(), text: word.text().to_owned(), detail: "0x87".to_owned() })
    }

    fn example() -> Status {
        Status { since_ms: WRITTEN_MS, ..Status::example() }
    }

    #[test]
    fn a_login_that_is_about_to_end_is_named_before_it_does() {
        let of = |days| login(&Status { login_days_left: days, ..example() }, WRITTEN_MS);
        for (days, outcome, said) in [
            (None, Outcome::Ok, "ann"),
            (Some(40), Outcome::Ok, "40 days"),
            (Some(6), Outcome::Warning, "6 days"),
            (Some(0), Outcome::Warning, "expired"),
        ] {
            let check = of(days);
            assert!(check.outcome == outcome && check.found.contains(said), "{days:?}: {check:?}");
        }
    }

    #[test]
    fn a_broker_that_refuses_a_login_which_worked_is_told_from_a_login_that_never_did() {
        for word in [Cause::BadCredentials, Cause::NotAuthorized] {
            let retried = Status { state: State::Waiting, cause: because(word), ..example() };
            let check = login(&retried, WRITTEN_MS);
            assert!(check.found.contains("worked before") && check.advice.contains("authentication"), "{check:?}");
            let stopped = Status { state: State::Stopped, ..retried };
            assert!(login(&stopped, WRITTEN_MS).advice.contains("impush login"));
        }
    }

    #[test]
    fn machines_that_take_each_others_place_are_named_with_the_remedy() {
        for state in [State::Waiting, State::Connecting, State::Online] {
            let check = login(&Status { state, cause: because(Cause::TakenOver), ..example() }, WRITTEN_MS + 1000);
            assert!(check.outcome != Outcome::Ok && check.advice.contains("impush reset-identity"), "{check:?}");
        }
        let long_ago = Status { cause: because(Cause::TakenOver), ..example() };
        assert_eq!(login(&long_ago, WRITTEN_MS + 3_600_000).outcome, Outcome::Ok);
    }

    #[test]
    fn a_network_that_may_want_a_sign_in_is_told_from_a_bad_certificate() {
        let waits = Status { state: State::Waiting, cause: because(Cause::TlsUntrusted), ..example() };
        assert!(!login(&waits, WRITTEN_MS).found.contains("portal"));
        let check = login(&Status { sign_in: true, ..waits }, WRITTEN_MS);
        assert!(check.found.contains("captive portal") && check.advice.contains("sign in"), "{check:?}");
    }

    #[test]
    fn a_broker_without_a_gateway_is_named_once_the_gateway_had_its_time() {
        let silent = Status { gateway_answers: Some(false), ..example() };
        assert_eq!(login(&silent, WRITTEN_MS + 30_000).outcome, Outcome::Ok);
        let check = login(&silent, WRITTEN_MS + 61_000);
        assert!(check.outcome == Outcome::Failed && check.found.contains("no gateway"), "{check:?}");
    }

    #[test]
    fn a_channel_that_does_not_serve_says_what_that_means_and_what_to_do() {
        let of = |state| channel(&Status { channel: "xiaomi".to_owned(), channel_state: state, ..example() });
        for state in [None, Some(BindingState::Working), Some(BindingState::Unproven)] {
            assert_eq!(of(state).outcome, Outcome::Ok, "{state:?}");
        }
        for state in [
            BindingState::Dead,
            BindingState::Disabled,
            BindingState::MissingCertificate,
            BindingState::Failing,
            BindingState::Limited,
            BindingState::Unknown,
        ] {
            let check = of(Some(state));
            assert!(check.outcome == Outcome::Warning && !check.advice.is_empty(), "{check:?}");
        }
    }

    #[test]
    fn a_store_that_fails_is_the_disks_finding_whatever_can_be_seen_from_here() {
        let failing = Status { store_failing: true, ..example() };
        let dir = tempfile::tempdir().expect("a directory");
        for path in [dir.path().to_owned(), dir.path().join("hidden")] {
            let config: Config = toml::from_str(&format!("paths = {{ state = '{}' }}", path.display())).expect("read");
            let check = disk(&config, Some(&failing)).into_iter().find(|check| check.name == "disk").expect("checked");
            assert!(check.outcome == Outcome::Failed && check.advice.contains("store.failed"), "{check:?}");
        }
    }
}
