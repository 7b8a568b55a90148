//! What a program tells the service manager that started it (sd_notify(3)); nothing where there is none. It
//! never waits for a manager that has stalled.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Moments are durations since any one start, the same for every call.
#[derive(Debug)]
pub struct Service {
    /// How long the manager waits for a sign of life.
    watchdog: Option<Duration>,
    fed: Duration,
    status: String,
    /// Said again with everything that follows: what it was first said with may have been lost.
    ready: bool,
}

impl Service {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`.
    pub fn from_environment() -> Self {
        Self { watchdog: patience(), fed: Duration::ZERO, status: String::new(), ready: false }
    }

    pub fn ready(&mut self) {
        self.ready = true;
        self.tell("");
    }

    pub fn stopping(&mut self) {
        self.ready = false;
        self.tell("STOPPING=1\n");
    }

    /// A line for `systemctl status`; the same again is not sent.
    pub fn status(&mut self, text: String) {
        if text != self.status {
            self.tell(&format!("STATUS={}\n", text.replace('\n', " ")));
            self.status = text;
        }
    }

    /// The start, or the end, waits for something else, which this line names, and is not to be given up within `more`.
    pub fn waiting(&mut self, text: String, more: Duration) {
        self.status(text);
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}\n", more.as_micros()));
    }

    /// To be called by the loop that does the work, as often as it turns; a sign of life goes out when a
    /// quarter of the manager's patience is over.
    pub fn alive(&mut self, now: Duration) {
        if self.watchdog.is_some_and(|patience| self.fed.is_zero() || now.saturating_sub(self.fed) >= patience / 4) {
            self.tell("WATCHDOG=1\n");
            self.fed = now.max(Duration::from_nanos(1));
        }
    }

    /// When the loop must turn again, whether it has work or not: at half of the manager's patience.
    pub fn deadline(&self) -> Option<Duration> {
        self.watchdog.map(|patience| self.fed + patience / 2)
    }

    fn tell(&self, what: &str) {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
        let what = if self.ready { format!("READY=1\n{what}") } else { what.to_owned() };
        // Without a manager, or with one that has gone or takes nothing more, there is nobody to tell.
        drop(send(&name, what.as_bytes()));
    }
}

fn send(name: &OsStr, what: &[u8]) -> std::io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(what, &address).map(drop)
}

/// As sd_watchdog_enabled(3) reads it: the variables are inherited by processes that they are not for.
fn patience() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours =
        std::env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_must_turn_within_half_of_the_managers_patience_and_never_without_one() {
        let hour = Duration::from_secs(3600);
        let mut service = Service { watchdog: Some(hour), fed: Duration::ZERO, status: String::new(), ready: false };
        service.alive(Duration::from_secs(5));
        assert_eq!(service.deadline(), Some(Duration::from_secs(5) + hour / 2));
        service.alive(Duration::from_secs(100));
        assert_eq!(service.fed, Duration::from_secs(5), "a sign of life every time would be a packet for each turn");
        service.alive(Duration::from_secs(5) + hour / 4);
        assert_eq!(service.fed, Duration::from_secs(5) + hour / 4);
        assert_eq!(Service { watchdog: None, ..service }.deadline(), None);
    }

    #[test]
    fn a_manager_hears_everything_by_path_or_abstract_name_and_one_that_has_stalled_keeps_nobody() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("notify");
        let abstract_name = format!("@impush-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name.as_bytes()[1..]).expect("a name");
        for (manager, name) in [
            (UnixDatagram::bind(&path).expect("bound"), path.as_os_str()),
            (UnixDatagram::bind_addr(&address).expect("bound"), OsStr::new(&abstract_name)),
        ] {
            let mut sent = 0;
            while send(name, b"READY=1\n").is_ok() {
                sent += 1;
                assert!(sent < 1_000_000, "the kernel's queue has an end");
            }
            let mut packet = [0; 100];
            let count = manager.recv(&mut packet).expect("received");
            assert_eq!(&packet[..count], b"READY=1\n");
        }
    }
}
