//! The disk as the loop sees it: lent to a blocking thread, so that no fsync holds async code.

use crate::store::{Inbox, InboxError, Limits, Store};

/// Runs disk work beside the loop.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The closure panicked: a bug, and going on without its result would hide it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Whose cursor stands for every local app.
pub(super) const LOCAL_APP: &str = "default";

/// What lives on the disk.
pub(super) struct Disk {
    pub store: Store,
    /// Of the user who is logged in.
    pub inbox: Option<Inbox>,
}

impl Disk {
    /// Opens the inbox of whoever is logged in; what belongs to nobody else goes.
    ///
    /// # Errors
    /// [`InboxError::Io`].
    pub fn open_inbox(&mut self, app: &str) -> Result<(), InboxError> {
        let user = self.store.login().map(|login| login.user.clone());
        Inbox::sweep_others(self.store.path(), user.as_deref().map(|user| (app, user)));
        self.inbox = match user {
            Some(user) => {
                let mut inbox = Inbox::open(self.store.path(), app, &user, Limits::default())?;
                inbox.attach(LOCAL_APP);
                Some(inbox)
            }
            None => None,
        };
        Ok(())
    }
}

/// Lends the disk to a blocking thread and takes it back, so that no fsync holds the loop's thread
/// inside async code.
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

impl std::ops::Deref for OnDisk {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        self.0.as_ref().expect("lent out only inside run(), which borrows it exclusively")
    }
}
