//! What the agent says of itself, its disk, and the clock everything hangs on.

use super::super::config::Config;
use super::Check;
use crate::binding::Standing;
use crate::session::{State, Status};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

/// Milliseconds since the Unix epoch; this program was not written before it.
const WRITTEN_MS: u64 = 1_760_000_000_000;
/// Days after which a vendor token that nobody has handed over again is suspect. Vendors drop installations
/// that have been silent; 270 days is what Firebase's documentation, "Manage registration tokens", gives.
const TOKEN_DAYS: u64 = 270;
/// Bytes: below the first nothing can be stored, below the second it is a matter of time.
const DISK_FULL: u64 = 1 << 20;
const DISK_LOW: u64 = 16 << 20;

pub fn clock(now_ms: u64) -> Check {
    if now_ms < WRITTEN_MS {
        let advice = "set the date (timedatectl, NTP, the modem's time): no certificate is valid yet on this clock";
        return Check::failed("clock", "it stands before this program was written", advice);
    }
    Check::ok("clock", "plausible")
}

pub fn examine(status: &Status) -> Vec<Check> {
    vec![login(status), binding(status), channel(status), heartbeat(status)]
}

fn login(status: &Status) -> Check {
    let why = || {
        let cause = status.cause.as_ref();
        cause.map_or_else(|| format!("{:?}", status.state), |cause| format!("{}: {}", cause.text, cause.detail))
    };
    match (&status.user, status.state) {
        (None, _) => Check::failed("login", "nobody is logged in", "impush login USER --password-file FILE"),
        (Some(user), State::Online | State::Resting) => {
            Check::ok("login", format!("{user}, {:?}", status.state).to_lowercase())
        }
        (Some(_), State::Stopped) => Check::failed("login", why(), "log in again with a fresh password: impush login"),
        (Some(_), State::Waiting) => {
            Check::failed("login", why(), "the agent tries again by itself; `impush reconnect` tries now")
        }
        (Some(user), State::Connecting | State::LoggedOut) => {
            Check::warning("login", format!("{user}: connecting"), "ask again in a moment")
        }
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
    Check::ok("channel", format!("{}, token {}", status.channel, status.token.as_deref().unwrap_or("-")))
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
pub fn disk(config: &Config) -> Vec<Check> {
    let directory = config.state_directory();
    let mode = match std::fs::metadata(&directory) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) => {
            return vec![Check::skipped(
                "disk",
                format!("{}: {error}; run doctor as root or as the agent's user", directory.display()),
            )];
        }
    };
    let mut checks = vec![token_age(&directory), space(&directory)];
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

    #[test]
    fn a_clock_of_1970_is_named_and_one_of_today_is_not() {
        assert_eq!(clock(86_400_000).outcome, Outcome::Failed);
        assert_eq!(clock(WRITTEN_MS + 1).outcome, Outcome::Ok);
    }

    #[test]
    fn a_state_directory_others_can_read_is_named_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let config: Config =
            toml::from_str(&format!("paths = {{ state = '{}' }}", dir.path().display())).expect("read");
        let of = |name: &str| disk(&config).into_iter().find(|check| check.name == name).expect("checked");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("changed");
        assert_eq!(of("permissions").outcome, Outcome::Failed);
        assert!(of("permissions").advice.starts_with("chmod 700"));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).expect("changed");
        assert_eq!(of("permissions").outcome, Outcome::Ok);
        assert_eq!(of("disk").outcome, Outcome::Ok);
    }
}
