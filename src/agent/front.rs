//! The control socket with its server, and the daemon's ends of the channels between them.

use super::config::Config;
use super::control::{self, Apps, Request};
use super::run_error::RunError;
use super::shell::StreamsEnd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Requests that wait for the daemon; a peer beyond that waits in its own task.
const REQUEST_DEPTH: usize = 16;

pub(super) struct Front {
    pub socket: Socket,
    pub requests: mpsc::Receiver<Request>,
    pub arrived: watch::Sender<u64>,
    pub ended: watch::Sender<StreamsEnd>,
    pub apps: watch::Sender<Arc<Apps>>,
}

/// Served until it is closed.
pub(super) struct Socket {
    pub path: PathBuf,
    own: Option<control::OwnSocket>,
    server: JoinHandle<()>,
}

impl Front {
    /// `given`: the socket, where the service manager has bound it.
    ///
    /// # Errors
    /// [`RunError::Socket`].
    pub fn open(config: &Config, given: Option<UnixListener>) -> Result<Self, RunError> {
        let path = config.socket();
        let door = control::bind(given, &path, config.paths.socket_group.as_deref())
            .map_err(|source| RunError::Socket { path: path.clone(), source })?;
        let own = door.own.clone();
        let (sender, requests) = mpsc::channel(REQUEST_DEPTH);
        let (arrived, arrivals) = watch::channel(0);
        let (ended, ends) = watch::channel(StreamsEnd::default());
        let (apps, may_ask) = watch::channel(Arc::default());
        let server =
            control::Server { door, requests: sender, arrivals, ends, apps: may_ask, port: config.control.port };
        let socket = Socket { path, own, server: tokio::spawn(server.run()) };
        Ok(Self { socket, requests, arrived, ended, apps })
    }
}

impl Socket {
    pub fn close(self) {
        self.server.abort();
        if let Some(own) = self.own {
            own.remove();
        }
    }
}
