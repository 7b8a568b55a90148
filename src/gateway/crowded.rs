//! Listeners whose system gives them no more sockets: said once, and tried again.

use rustix::io::Errno;
use std::io::Error;
use std::time::Duration;
use tracing::warn;

/// Pause after the system refused a socket: there are too many open files.
const NO_FILES: Duration = Duration::from_millis(200);

/// What a listener has said of it.
#[derive(Debug)]
pub(super) struct Crowded {
    listener: &'static str,
    said: bool,
}

impl Crowded {
    pub const fn new(listener: &'static str) -> Self {
        Self { listener, said: false }
    }

    /// There was a socket again.
    pub const fn accepted(&mut self) {
        self.said = false;
    }

    /// Of one connection that went away meanwhile there is nothing to say.
    pub async fn refused(&mut self, error: &Error) {
        if !is_of_this_process(error) {
            return;
        }
        if !std::mem::replace(&mut self.said, true) {
            warn!(event = "endpoint.crowded", listener = self.listener, %error, "no more connections can be accepted; look at the limit of open files (LimitNOFILE)");
        }
        tokio::time::sleep(NO_FILES).await;
    }
}

/// Too many open files, or no memory for another: the fault is here, and passes.
fn is_of_this_process(error: &Error) -> bool {
    let code = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .into_iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}
