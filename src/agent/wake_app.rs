//! Starts a local app that a message waits for: a unit, a program, or a component of Android's.

use crate::access::user_name;
use crate::ids::MessageId;
use crate::session::{Refusal, Wake};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

/// A program that was started has this long to do what it wants; its app may go on without it.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of its output that are logged.
const MOST_OUTPUT: u64 = 4096;
/// Where a program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/system/bin";
/// Android's activity manager by its command line.
const CMD: &str = "/system/bin/cmd";

/// Those under way, one at a time for each app.
#[derive(Debug, Default)]
pub(super) struct Waking(BTreeMap<String, JoinHandle<()>>);

impl Waking {
    pub fn start(&mut self, app: String, how: Wake, uid: u32, id: &MessageId, from: &str) {
        self.0.retain(|_, task| !task.is_finished());
        if self.0.contains_key(&app) {
            debug!(event = "app.wake_under_way", app, "what was started for an earlier message still runs");
            return;
        }
        let told = json!({ "id": id, "from": from }).to_string();
        let name = app.clone();
        let task = tokio::spawn(async move {
            let way = how.to_string();
            match run(&how, uid, &told).await {
                Ok(said) => info!(event = "app.woken", app = name, way, said, "an app was started for a message"),
                Err(why) => {
                    warn!(event = "app.wake_failed", app = name, way, why, "an app could not be started for a message")
                }
            }
        });
        self.0.insert(app, task);
    }
}

/// # Errors
/// A sentence with what was said.
async fn run(how: &Wake, uid: u32, told: &str) -> Result<String, String> {
    let mut command = match how {
        Wake::Unit(name) => {
            let mut command = Command::new("systemctl");
            command.args(["start", "--no-block", "--no-ask-password", "--", name]);
            command
        }
        Wake::Command(path) => {
            // It may have been replaced since it was added.
            fit(path, uid).map_err(|refusal| refusal.message)?;
            let mut command = Command::new(path);
            if rustix::process::geteuid().is_root() {
                let gid = std::fs::metadata(path).map_or(uid, |_| primary_group(uid).unwrap_or(uid));
                command.uid(uid).gid(gid);
            }
            command
        }
        Wake::Android(component) => {
            let mut command = Command::new(CMD);
            command.args(["activity", "start-foreground-service", "-n", component]);
            command
        }
    };
    command.env_clear().env("PATH", PATH).current_dir("/").kill_on_drop(true);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let (mut input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let exchange = async {
        if let Some(input) = &mut input {
            // A program may have no interest in it.
            drop(input.write_all(told.as_bytes()).await);
        }
        drop(input);
        let (out, err) = tokio::join!(read(out), read(err));
        let status = child.wait().await.map_err(|error| error.to_string())?;
        let said = [out, err].concat().trim().to_owned();
        if status.success() { Ok(said) } else { Err(format!("{status}: {said}")) }
    };
    tokio::time::timeout(LIMIT, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("not ended after {} s, and killed", LIMIT.as_secs())))
}

/// The beginning of what it says; the rest is read and left out.
async fn read(from: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut bytes = Vec::new();
    if (&mut from).take(MOST_OUTPUT).read_to_end(&mut bytes).await.is_ok() {
        drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The group of a user, by `/etc/passwd`.
fn primary_group(uid: u32) -> Option<u32> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        (fields.next()?.parse() == Ok(uid)).then(|| fields.next()?.parse().ok()).flatten()
    })
}

/// Whether a peer with this user id may have an app woken like this.
///
/// # Errors
/// The refusal, with what to do.
pub(super) fn check(how: &Wake, uid: u32) -> Result<(), Refusal> {
    let own = rustix::process::geteuid().as_raw();
    match how {
        Wake::Command(path) => {
            if own != 0 && uid != own {
                let (me, peer) = (user_name(own), user_name(uid));
                let why = format!(
                    "the agent runs as {me} and cannot run a program as {peer}: add the app as {me}, or use unit:NAME.service"
                );
                return Err(Refusal::new(403, "not_permitted", why));
            }
            fit(path, uid)
        }
        // Whoever may start units may as well do so itself.
        Wake::Unit(_) | Wake::Android(_) if uid != 0 && uid != own => {
            Err(Refusal::new(403, "not_permitted", "only root and the agent's own user may name what the agent starts"))
        }
        Wake::Unit(_) | Wake::Android(_) => Ok(()),
    }
}

/// A program that others may change would run as whoever added it.
fn fit(path: &Path, uid: u32) -> Result<(), Refusal> {
    let bad = |why: String| Err(Refusal::new(422, "bad_command", format!("{}: {why}", path.display())));
    let file = match std::fs::metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return bad("there is no such program".to_owned()),
        Err(error) => return bad(error.to_string()),
    };
    let mode = file.permissions().mode();
    if !file.is_file() || mode & 0o111 == 0 {
        return bad("it is no program (chmod +x)".to_owned());
    }
    if mode & 0o022 != 0 || (file.uid() != 0 && file.uid() != uid) {
        return bad(format!("others than {} can change it (chmod go-w, chown)", user_name(uid)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, lines: &str) -> std::path::PathBuf {
        let path = dir.join("wake");
        std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("changed");
        path
    }

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[tokio::test]
    async fn a_program_is_told_the_message_and_what_it_says_is_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = program(dir.path(), "cat; env | grep -c . ; head -c 100000 /dev/zero | tr '\\0' x");
        let said = run(&Wake::Command(path), own(), r#"{"id":"m1"}"#).await.expect("ran");
        assert!(said.starts_with(r#"{"id":"m1"}"#) && said.len() as u64 <= MOST_OUTPUT, "{}", said.len());
        let path = program(dir.path(), "echo no >&2; exit 3");
        let why = run(&Wake::Command(path), own(), "").await.expect_err("failed");
        assert!(why.contains('3') && why.contains("no"), "{why}");
    }

    #[test]
    fn a_program_that_others_can_change_is_refused_and_so_is_one_as_somebody_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = program(dir.path(), "true");
        assert!(check(&Wake::Command(path.clone()), own()).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o757)).expect("changed");
        assert!(check(&Wake::Command(path.clone()), own()).expect_err("open to all").message.contains("go-w"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(check(&Wake::Command(path), own()).expect_err("no program").message.contains("+x"));
        assert!(check(&Wake::Command("/no/such".into()), own()).is_err());
        assert_eq!(check(&Wake::Unit("a.service".into()), 4711).expect_err("a stranger").status, 403);
    }
}
