//! Programs of the demo as children: started, listened to, killed, stopped, and their logs kept.

use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A running child that speaks JSON lines.
pub(super) struct Process {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Dropped to tell a child that watches its input to end.
    input: Option<ChildStdin>,
}

/// The programs beside this one.
pub(super) fn sibling(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let path = own.with_file_name(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing; build all programs (`cargo build`)", path.display()))
    }
}

impl Process {
    /// Starts `program`; its standard error goes to `<log directory>/<name>.log`.
    pub fn start(name: &str, program: &Path, arguments: &[&str], logs: &Path) -> Result<Self, String> {
        let fail = |e: std::io::Error| format!("{}: {e}", program.display());
        let log = File::options().create(true).append(true).open(logs.join(format!("{name}.log"))).map_err(fail)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(fail)?;
        let out = child.stdout.take().ok_or("no output pipe")?;
        let input = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, lines: BufReader::new(out).lines(), input })
    }

    /// The next JSON line it prints, within `limit`.
    pub async fn next(&mut self, limit: Duration) -> Result<Value, String> {
        match tokio::time::timeout(limit, self.lines.next_line()).await {
            Ok(Ok(Some(line))) => serde_json::from_str(&line).map_err(|e| format!("{} said {line}: {e}", self.name)),
            Ok(_) => Err(format!("{} ended", self.name)),
            Err(_) => Err(format!("{} said nothing within {:.1} s", self.name, limit.as_secs_f32())),
        }
    }

    pub async fn tell(&mut self, line: &str) -> Result<(), String> {
        let Some(input) = self.input.as_mut() else { return Err(format!("{} takes no input", self.name)) };
        input.write_all(format!("{line}\n").as_bytes()).await.map_err(|e| e.to_string())
    }

    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL: no goodbye.
    pub async fn kill(&mut self) -> Result<(), String> {
        self.child.kill().await.map_err(|e| e.to_string())
    }

    /// SIGTERM, then waits for a clean end.
    pub async fn stop(mut self, limit: Duration) -> Result<ExitStatus, String> {
        self.input = None;
        if let Some(id) = self.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            // It may have ended by itself already.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => status.map_err(|e| e.to_string()),
            Err(_) => Err(format!("{} did not stop within {} s", self.name, limit.as_secs())),
        }
    }
}

/// Runs a command to its end and returns its output, or what it complained about.
pub(super) async fn output(program: &Path, arguments: &[&str], limit: Duration) -> Result<String, String> {
    let run = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let done = tokio::time::timeout(limit, run)
        .await
        .map_err(|_| format!("{} took over {} s", program.display(), limit.as_secs()))?
        .map_err(|e| e.to_string())?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&done.stderr).trim().to_owned())
    }
}
