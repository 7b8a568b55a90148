//! The init system that runs the agent on this machine: what it says of the service, and the commands it is steered with.

use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// The service's name under every init system.
const SERVICE: &str = "impush.service";
const SOCKET: &str = "impush.socket";
/// How long it may take to answer a question.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    Systemd,
    OpenRc,
    Procd,
    Android,
    /// None that this program has a script for.
    Other,
}

impl Init {
    pub fn here() -> Self {
        let there = |path: &str| Path::new(path).exists();
        // sd_booted(3); OpenRC's rc_runlevel state; procd is OpenWrt's init; Android's init has its own namespace.
        if there("/run/systemd/system") {
            Self::Systemd
        } else if there("/run/openrc/softlevel") {
            Self::OpenRc
        } else if there("/sbin/procd") {
            Self::Procd
        } else if there("/system/bin/init") {
            Self::Android
        } else {
            Self::Other
        }
    }

    pub const fn start(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl start impush",
            Self::OpenRc => "rc-service impush start",
            Self::Procd => "/etc/init.d/impush start",
            Self::Android => "start impush",
            Self::Other => "impush run",
        }
    }

    pub const fn reload(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl reload impush",
            Self::OpenRc => "rc-service impush reload",
            Self::Procd => "/etc/init.d/impush reload",
            Self::Android | Self::Other => "send SIGHUP to `impush run`",
        }
    }

    pub const fn restart(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl restart impush",
            Self::OpenRc => "rc-service impush restart",
            Self::Procd => "/etc/init.d/impush restart",
            Self::Android => "restart impush",
            Self::Other => "end `impush run` and start it again",
        }
    }

    pub const fn log(self) -> &'static str {
        match self {
            Self::Systemd => "journalctl -u impush",
            Self::OpenRc => "grep impush /var/log/messages",
            Self::Procd => "logread -e impush",
            Self::Android => "logcat -s impush",
            Self::Other => "the standard error of `impush run`",
        }
    }

    /// The end of the agent's log, as a program and its arguments: at most so many lines.
    pub const fn log_command(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Systemd => {
                Some(("journalctl", &["-u", "impush", "-n", "1000", "--no-pager", "-o", "short-iso"] as &[_]))
            }
            Self::Procd => Some(("logread", &["-e", "impush", "-l", "1000"] as &[_])),
            Self::Android => Some(("logcat", &["-d", "-t", "1000", "-s", "impush"] as &[_])),
            Self::OpenRc | Self::Other => None,
        }
    }
}

/// What systemd says of the service behind a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    /// `inactive`, `failed`, `active`, ...: systemd(1).
    pub state: String,
    /// systemd does not start it any more, by itself or for a peer, before `reset-failed`.
    pub given_up: bool,
}

impl Unit {
    /// Whoever connects to the socket starts it, although it may have been stopped on purpose.
    pub fn sleeps(&self) -> bool {
        matches!(self.state.as_str(), "inactive" | "failed")
    }
}

/// The service that systemd would start for whoever connects to this socket; `None` where there is none, or nobody knows.
pub async fn behind(socket: &Path) -> Option<Unit> {
    if Init::here() != Init::Systemd {
        return None;
    }
    let sockets = systemctl(&["list-sockets", "--all", "--no-legend", "--no-pager", "--full"]).await?;
    let (listens, name) = activated(&sockets, socket).unwrap_or((SOCKET, SERVICE));
    let shown = systemctl(&["show", "-p", "Id,LoadState,ActiveState,Result", "--", name, listens]).await?;
    unit(&shown, name)
}

/// What to do where no agent answers.
pub async fn advice(socket: &Path) -> String {
    let init = Init::here();
    match behind(socket).await {
        Some(unit) if unit.given_up => {
            format!(
                "it failed too often: see why ({}, `impush config check`), then systemctl reset-failed {SERVICE} {SOCKET} \
                 && systemctl start {SOCKET} {SERVICE}",
                init.log()
            )
        }
        Some(unit) if unit.state == "failed" => {
            format!("it failed: see why ({}, `impush config check`), then {}", init.log(), init.start())
        }
        _ => format!("{}; then see {}", init.start(), init.log()),
    }
}

/// The columns of `systemctl list-sockets`: LISTEN UNIT ACTIVATES.
fn activated<'a>(sockets: &'a str, socket: &Path) -> Option<(&'a str, &'a str)> {
    sockets.lines().find_map(|line| {
        let mut columns = line.split_whitespace();
        (columns.next().is_some_and(|listen| Path::new(listen) == socket))
            .then(|| Some((columns.next()?, columns.next()?)))
            .flatten()
    })
}

/// From `KEY=value` lines, a blank one between two units.
fn unit(shown: &str, name: &str) -> Option<Unit> {
    let units: Vec<&str> = shown.split("\n\n").collect();
    let value = |unit: &str, key: &str| {
        let of_key = |line: &str| line.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')).map(ToOwned::to_owned);
        unit.lines().find_map(of_key).unwrap_or_default()
    };
    let service = units.iter().find(|unit| value(unit, "Id") == name && value(unit, "LoadState") == "loaded")?;
    // systemd.service(5) and systemd.socket(5) name these results.
    let given_up = units.iter().any(|unit| {
        value(unit, "ActiveState") == "failed"
            && matches!(
                value(unit, "Result").as_str(),
                "start-limit-hit" | "service-start-limit-hit" | "trigger-limit-hit"
            )
    });
    Some(Unit { name: name.to_owned(), state: value(service, "ActiveState"), given_up })
}

async fn systemctl(arguments: &[&str]) -> Option<String> {
    let run = Command::new("systemctl").args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, run).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_behind_a_socket_is_found_with_its_state() {
        let sockets = "/run/dbus/system_bus_socket dbus.socket dbus.service\n\
                       /run/impush/control.sock impush.socket impush.service\n";
        let found = activated(sockets, Path::new("/run/impush/control.sock"));
        assert_eq!(found, Some(("impush.socket", "impush.service")));
        assert_eq!(activated(sockets, Path::new("/tmp/own.sock")), None);
        let shown = |state: &str, result: &str, socket: &str| {
            format!(
                "Result={result}\nId=impush.service\nLoadState=loaded\nActiveState={state}\n\n\
                 Result={socket}\nId=impush.socket\nLoadState=loaded\nActiveState=failed\n"
            )
        };
        let of = |text: &str| unit(text, SERVICE).expect("loaded");
        assert!(!of(&shown("active", "success", "success")).sleeps());
        let stopped = of(&shown("inactive", "success", "success"));
        assert!(stopped.sleeps() && !stopped.given_up);
        assert!(of(&shown("failed", "start-limit-hit", "success")).given_up);
        assert!(of(&shown("failed", "exit-code", "service-start-limit-hit")).given_up);
        assert_eq!(unit("Id=impush.service\nLoadState=not-found\nActiveState=inactive\n", SERVICE), None);
    }
}
