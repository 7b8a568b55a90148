//! The one file `inbox.jsonl` of earlier versions, whose messages move into their user's inbox.
//!
//! ```text
//! {"number":1,"message":{...}}      arrived
//! {"acked":["id"]}                  taken by an app
//! {"seen":["id"]}                   ids remembered so that a redelivery is recognised
//! ```

use super::segment::{RECORD_LIMIT, id_hash};
use super::{Inbox, InboxError};
use crate::protocol::Message;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use tracing::info;

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Arrived { message: Message },
    Acked { acked: Vec<String> },
    Seen { seen: Vec<String> },
}

pub fn file(state: &Path) -> PathBuf {
    state.join("inbox.jsonl")
}

/// Moves what belongs to `user` and nobody took; the file goes once that is durable.
pub fn take_over(inbox: &mut Inbox, state: &Path, user: &str) -> Result<(), InboxError> {
    let path = file(state);
    let read = |act: &mut dyn FnMut(Line) -> Result<(), InboxError>| match File::open(&path) {
        Ok(file) => each_line(file, act).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(InboxError::Io { path: path.clone(), source }),
    };
    let mut taken = Vec::new();
    let there = read(&mut |line| {
        if let Line::Acked { acked: ids } | Line::Seen { seen: ids } = line {
            taken.extend(ids.iter().map(|id| id_hash(id)));
        }
        Ok(())
    })?;
    if !there {
        return Ok(());
    }
    inbox.taken.remember(taken.iter().copied());
    inbox.taken.save().map_err(|source| InboxError::Io { path: inbox.directory.clone(), source })?;
    // All of them, not only the last few that are remembered.
    taken.sort_unstable();
    let (mut kept, mut dropped) = (0, 0);
    read(&mut |line| {
        let Line::Arrived { message } = line else { return Ok(()) };
        if taken.binary_search(&id_hash(&message.id)).is_ok() {
            return Ok(());
        }
        if message.to != user {
            dropped += 1;
            return Ok(());
        }
        match inbox.write(&[message], false) {
            Ok(_) => kept += 1,
            Err(InboxError::Full | InboxError::TooLarge { .. }) => dropped += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    })?;
    inbox.sync()?;
    std::fs::remove_file(&path).map_err(|source| InboxError::Io { path: path.clone(), source })?;
    info!(
        event = "inbox.taken_over",
        kept, dropped, "messages of an earlier version are in their user's inbox; those of others are dropped"
    );
    Ok(())
}

/// A line that cannot be understood is passed over: it never hides the next.
fn each_line(file: File, act: &mut dyn FnMut(Line) -> Result<(), InboxError>) -> Result<(), InboxError> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    let mut inside = false;
    loop {
        line.clear();
        let limit = RECORD_LIMIT as u64;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut line);
        let Ok(1..) = read else { return Ok(()) };
        let ended = line.last() == Some(&b'\n');
        if ended
            && !inside
            && let Ok(line) = serde_json::from_slice(&line)
        {
            act(line)?;
        }
        inside = !ended;
    }
}
