//! The disk as the loop sees it: lent to a blocking thread, so that no fsync holds async code.

use crate::protocol::Message;
use crate::session::{Change, Kept};
use crate::store::{Entry, Inbox, InboxError, Store};
use std::io;
use tracing::{error, warn};

/// Messages one answer brings at most.
const PAGE: usize = 64;

/// Runs disk work beside the loop.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The closure panicked: a bug, and going on without its result would hide it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// What lives on the disk: the small files, and the inbox of whoever is logged in.
pub(super) struct Disk {
    pub store: Store,
    pub app: String,
    pub inbox: Option<Inbox>,
}

impl Disk {
    pub fn apply(&mut self, change: Change) -> io::Result<()> {
        self.store.apply(change)
    }

    /// The inbox of this user is the one from now on.
    pub fn open_inbox(&mut self, user: &str) {
        self.inbox = None;
        match Inbox::open_for(self.store.path(), &self.app, user) {
            Ok(inbox) => self.inbox = Some(inbox),
            Err(error) => {
                error!(event = "inbox.unusable", %error, "messages cannot be kept on this device; they stay at the gateway");
            }
        }
    }

    /// The login is over, and with it what it received.
    pub fn unlink_inbox(&mut self) {
        if let Some(inbox) = self.inbox.take()
            && let Err(error) = inbox.close_and_unlink()
        {
            warn!(event = "inbox.left", %error, "an ended login's messages could not be removed; they will be at the next start");
        }
    }

    pub fn keep(&mut self, message: Message) -> Kept {
        let Some(inbox) = &mut self.inbox else { return Kept::Nobody };
        match inbox.append(vec![message]) {
            Ok(new) if new.is_empty() => Kept::Duplicate,
            Ok(_) => Kept::New,
            Err(error @ InboxError::Full) => Kept::Full(error.to_string()),
            Err(error) => Kept::Failed(error.to_string()),
        }
    }

    /// Messages for a local app with a number above `after`, oldest first.
    pub fn messages(&mut self, app: &str, after: u64) -> Result<Vec<Entry>, InboxError> {
        match &mut self.inbox {
            Some(inbox) => {
                let _ = app;
                Ok(inbox.pending_after(after).take(PAGE).collect())
            }
            None => Ok(Vec::new()),
        }
    }

    /// A local app has taken these messages.
    pub fn take(&mut self, app: &str, ids: &[String]) -> Result<Taken, InboxError> {
        let _ = app;
        let Some(inbox) = &mut self.inbox else { return Ok(Taken::default()) };
        let first = inbox.ack(ids)?;
        Ok(Taken { count: first.len(), first })
    }

    pub fn depth(&mut self) -> usize {
        self.inbox.as_ref().map_or(0, Inbox::depth)
    }
}

/// What an app's word about messages came to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// So many were waiting for it.
    pub count: usize,
    /// Those nobody had taken before.
    pub first: Vec<String>,
}

/// Lends the disk to a blocking thread and takes it back.
pub(super) struct OnDisk(Option<Box<Disk>>);

impl OnDisk {
    pub fn new(disk: Disk) -> Self {
        Self(Some(Box::new(disk)))
    }

    pub async fn run<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Disk) -> T + Send + 'static) -> T {
        let mut disk = self.0.take().expect("lent out only inside this call");
        let (disk, result) = blocking(move || {
            let result = work(&mut disk);
            (disk, result)
        })
        .await;
        self.0 = Some(disk);
        result
    }
}
