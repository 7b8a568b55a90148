//! The listening half of the control socket.

use super::super::shell::StreamsEnd;
use super::answer::refused;
use super::peer::{Peer, Who};
use super::serve::serve;
use super::socket_file::{self, OwnSocket};
use super::web::{self, Apps};
use super::{Refusal, Request};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::warn;

/// Peers served at once; more wait in the listen queue.
const MAX_PEERS: usize = 32;

/// The bound socket, and who may come in.
#[derive(Debug)]
pub struct Door {
    pub(super) listener: UnixListener,
    /// The socket's file, where it is this process's to remove.
    pub own: Option<OwnSocket>,
    /// The file's mode lets a group in; the kernel checks it when a peer connects.
    group: bool,
}

/// The socket that the service manager has bound, if it has. Before any thread starts: the environment variables that
/// name it are removed.
///
/// # Errors
/// The system's error, where what is named is no such socket.
pub fn given() -> io::Result<Option<std::os::unix::net::UnixListener>> {
    listenfd::ListenFd::from_env().take_unix_listener(0)
}

/// Takes the [`given`] socket, or binds one: mode 0600, or 0660 for a group, in a
/// directory it makes with mode 0700, or 0750.
///
/// # Errors
/// The system's error; `AddrInUse` where somebody answers at the socket, `AlreadyExists` where it is no socket.
pub fn bind(given: Option<std::os::unix::net::UnixListener>, path: &Path, group: Option<&str>) -> io::Result<Door> {
    if let Some(given) = given {
        given.set_nonblocking(true)?;
        // The manager's unit says who may connect, and the kernel has checked it.
        return Ok(Door { listener: UnixListener::from_std(given)?, own: None, group: true });
    }
    let group = group.map(group_id).transpose()?;
    let private = if group.is_some() { 0o750 } else { 0o700 };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
        std::fs::create_dir_all(parent)?;
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(private))?;
        if group.is_some() {
            std::os::unix::fs::chown(parent, None, group)?;
        }
    }
    socket_file::make_way(path)?;
    let listener = UnixListener::bind(path)?;
    let own = OwnSocket::at(path)?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(Door { listener, own: Some(own), group: group.is_some() })
}

/// A group's number, from its name in `/etc/group` or the number itself.
///
/// # Errors
/// The system's error; `NotFound` where there is no such group.
pub fn group_id(name: &str) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group")?;
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("paths.socket_group: no group `{name}`")))
}

/// Accepts peers until it is dropped.
#[derive(Debug)]
pub struct Server {
    pub door: Door,
    pub requests: mpsc::Sender<Request>,
    /// Changes whenever the inbox has something new.
    pub arrivals: watch::Receiver<u64>,
    /// Changes whenever a login ends, and its streams with it.
    pub ends: watch::Receiver<StreamsEnd>,
    /// Apps that may ask over the loopback port; 0 is none.
    pub apps: watch::Receiver<Arc<Apps>>,
    pub port: u16,
}

impl Server {
    pub async fn run(self) {
        let peers = Arc::new(Semaphore::new(MAX_PEERS));
        let peer = Peer { requests: self.requests, arrivals: self.arrivals, ends: self.ends, group: self.door.group };
        let over_tcp = async {
            if self.port > 0 {
                web::run(peer.clone(), self.apps, self.port).await;
            }
            std::future::pending::<()>().await
        };
        tokio::select! {
            () = over_tcp => {}
            () = accept(&self.door, &peers, &peer) => {}
        }
    }
}

async fn accept(door: &Door, peers: &Arc<Semaphore>, peer: &Peer) {
    loop {
        let Ok(permit) = peers.clone().acquire_owned().await else { return };
        match door.listener.accept().await {
            Ok((stream, _)) => {
                let peer = peer.clone();
                tokio::spawn(async move {
                    peer.serve(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(event = "control.accept_failed", %error, "cannot accept on the control socket");
                // Out of descriptors: wait for one instead of spinning.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Peer {
    async fn serve(&self, stream: UnixStream) {
        let own = rustix::process::geteuid().as_raw();
        let allowed = self.group || stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
        let uid = stream.peer_cred().map_or(own, |peer| peer.uid());
        let answer = async |request| {
            let answer = if allowed {
                self.answer(request, &Who::User(uid)).await
            } else {
                Err(Refusal::new(
                    403,
                    "not_permitted",
                    "only root and the agent's own user may use this socket; paths.socket_group lets a group in",
                ))
            };
            answer.unwrap_or_else(|refusal| refused(&refusal))
        };
        serve(Box::new(stream), &|request| Box::pin(answer(request)), true).await;
    }
}
