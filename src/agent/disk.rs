//! The disk as the loop sees it: lent to a blocking thread, so that no fsync holds async code.

use crate::ids::{AppId, MessageId};
use crate::protocol::Message;
use crate::session::{Change, Kept};
use crate::store::{Batch, Inbox, InboxError, Limits, Store};
use std::collections::BTreeSet;
use std::io;
use tracing::{error, info, warn};

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
    pub app: AppId,
    pub inbox: Option<Inbox>,
    /// Whose inbox could not be opened yet.
    pub unopened: Option<String>,
    /// Local apps with an open stream, of whichever login.
    pub attached: BTreeSet<String>,
}

impl Disk {
    pub fn apply(&mut self, change: Change) -> io::Result<()> {
        self.store.apply(change)
    }

    /// The inbox of this user is the one from now on. `true` if messages are gone from it.
    pub fn open_inbox(&mut self, user: &str) -> bool {
        self.inbox = None;
        self.unopened = None;
        let swept = Inbox::sweep_others(self.store.path(), Some((&self.app, user)));
        if swept > 0 {
            info!(event = "inbox.swept", swept, "inboxes that belong to no login are gone");
        }
        self.unopened = Some(user.to_owned());
        if let Err(error) = self.opened() {
            error!(event = "inbox.unusable", %error, "messages cannot be kept on this device now; they stay at the gateway, and it is tried again with each");
        }
        self.inbox.as_ref().is_some_and(Inbox::lost)
    }

    /// The inbox, if somebody is logged in. One that could not be opened is tried again.
    fn opened(&mut self) -> Result<Option<&mut Inbox>, InboxError> {
        if let Some(user) = &self.unopened {
            let mut inbox = Inbox::open(self.store.path(), &self.app, user, Limits::default())?;
            self.attached.iter().for_each(|app| inbox.attach(app));
            self.inbox = Some(inbox);
            self.unopened = None;
        }
        Ok(self.inbox.as_mut())
    }

    /// The login is over, and with it what it received.
    pub fn unlink_inbox(&mut self) {
        self.unopened = None;
        if let Some(inbox) = self.inbox.take()
            && let Err(error) = inbox.close_and_unlink()
        {
            warn!(event = "inbox.left", %error, "an ended login's messages could not be removed; they will be at the next start");
        }
    }

    /// The app was removed: nothing waits for it.
    pub fn forget(&mut self, app: &str) {
        if let Ok(Some(inbox)) = self.opened() {
            inbox.forget(app);
        }
    }

    pub fn keep(&mut self, message: Message) -> Kept {
        let inbox = match self.opened() {
            Ok(Some(inbox)) => inbox,
            Ok(None) => return Kept::Nobody,
            Err(error) => return Kept::Failed(error.to_string()),
        };
        match inbox.append(std::slice::from_ref(&message)) {
            Ok(appended) if appended.new.is_empty() && inbox.is_taken(&message.id) => Kept::Taken,
            Ok(appended) if appended.new.is_empty() => Kept::Duplicate,
            Ok(_) => Kept::New,
            Err(error @ (InboxError::Full | InboxError::TooLarge { .. })) => Kept::Full(error.to_string()),
            Err(error) => Kept::Failed(error.to_string()),
        }
    }

    /// Messages with a number above `after`, oldest first: those an app has not taken, or for a reader without a
    /// name all that are there.
    pub fn messages(&mut self, app: Option<&str>, after: u64) -> Result<Batch, InboxError> {
        let Some(inbox) = self.opened()? else { return Ok(Batch::default()) };
        let Some(app) = app else {
            return Ok(Batch { entries: inbox.peek(after, PAGE)?, missed: 0 });
        };
        let batch = inbox.messages(app, after, PAGE)?;
        if batch.missed > 0 {
            inbox.gap_told(app);
        }
        Ok(batch)
    }

    /// A local app has taken these messages. Returns those nobody had taken before.
    pub fn take(&mut self, app: &str, ids: &[MessageId]) -> Vec<MessageId> {
        self.inbox.as_mut().map_or_else(Vec::new, |inbox| inbox.take(app, ids))
    }

    pub fn attach(&mut self, app: &str) {
        self.attached.insert(app.to_owned());
        if let Some(inbox) = &mut self.inbox {
            inbox.attach(app);
        }
    }

    pub fn detach(&mut self, app: &str) {
        self.attached.remove(app);
        if let Some(inbox) = &mut self.inbox {
            inbox.detach(app);
        }
    }

    pub fn depth(&self) -> usize {
        self.inbox.as_ref().map_or(0, Inbox::depth)
    }

    /// Changes when the messages' numbers begin anew.
    pub fn epoch(&self) -> Option<String> {
        self.inbox.as_ref().map(|inbox| inbox.epoch().to_owned())
    }
}

/// Lends the disk to a blocking thread and takes it back.
pub(super) struct OnDisk(Option<Box<Disk>>);

impl OnDisk {
    pub fn new(disk: Disk) -> Self {
        Self(Some(Box::new(disk)))
    }

    /// For what stands in memory alone.
    pub fn in_memory(&mut self) -> &mut Disk {
        self.0.as_mut().expect("lent out only inside run(), which borrows it exclusively")
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
