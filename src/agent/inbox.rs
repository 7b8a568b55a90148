//! `impush inbox`: what lies in the inbox of an agent that does not run.

use crate::store::{Entry, Inbox, InboxError, OpenError, StateDirectory};
use crate::terminal::print;
use crate::untrusted::shown;
use clap::Subcommand;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};

/// Messages read at once.
const AT_ONCE: usize = 256;

#[derive(Debug, Subcommand)]
pub(super) enum InboxCommand {
    /// List them: number, id, sender, size in bytes
    #[command(after_help = "The agent must be stopped; while it runs use `impush watch --peek`.")]
    List {
        /// One JSON document a message and line
        #[arg(long)]
        json: bool,
        /// Show what they say, too
        #[arg(long)]
        bodies: bool,
    },
    /// Drop them all
    #[command(after_help = "The agent must be stopped.")]
    Clear,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum InboxCommandError {
    #[error("the agent is running{}; stop it first, or see its messages with `impush watch --peek`", pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Running { pid: Option<u32> },
    #[error("{path} does not exist: no agent has kept its state there")]
    Nothing { path: PathBuf },
    #[error(transparent)]
    State(OpenError),
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// The reader left, or standard output cannot be written.
    #[error("cannot print: {0}")]
    Output(#[from] io::Error),
}

impl InboxCommandError {
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Running { .. } => 75,
            Self::Nothing { .. } => 66,
            Self::State(_) => 73,
            Self::Inbox(_) | Self::Output(_) => 74,
        }
    }
}

pub(super) fn execute(state: &Path, command: &InboxCommand) -> Result<(), InboxCommandError> {
    // Opening would make it, and a mistyped path would look like an empty inbox.
    if !state.is_dir() {
        return Err(InboxCommandError::Nothing { path: state.to_owned() });
    }
    let _held = StateDirectory::open(state).map_err(|error| match error {
        OpenError::InUse { pid, .. } => InboxCommandError::Running { pid },
        other @ (OpenError::Io { .. } | OpenError::Unreadable { .. }) => InboxCommandError::State(other),
    })?;
    let inboxes = Inbox::stored(state)?;
    match command {
        InboxCommand::List { json, bodies } => {
            for mut inbox in inboxes {
                list(&mut inbox, |entry| print(&line(entry, *json, *bodies)))?;
            }
        }
        InboxCommand::Clear => {
            let mut cleared = 0;
            for mut inbox in inboxes {
                cleared += inbox.clear()?;
            }
            print(&format!("{cleared} messages dropped"))?;
        }
    }
    Ok(())
}

fn list(inbox: &mut Inbox, mut show: impl FnMut(&Entry) -> io::Result<()>) -> Result<(), InboxCommandError> {
    let mut after = 0;
    loop {
        let entries = inbox.peek(after, AT_ONCE)?;
        let Some(last) = entries.last() else { return Ok(()) };
        after = last.number;
        entries.iter().try_for_each(&mut show)?;
    }
}

fn line(entry: &Entry, as_json: bool, bodies: bool) -> String {
    let Entry { number, message } = entry;
    let bytes = serde_json::to_vec(message).map_or(0, |text| text.len());
    if as_json {
        let mut line = json!({ "number": number, "id": message.id, "from": message.from, "bytes": bytes });
        if bodies {
            line["body"] = json!(message.body);
        }
        return line.to_string();
    }
    let head = format!("{number} {} from {}, {bytes} bytes", shown(&message.id), shown(&message.from));
    if bodies { format!("{head}: {}", message.body) } else { head }
}
