//! The system's own resolver (getaddrinfo), bounded: it blocks, and nothing can call it back.
//!
//! It reads resolv.conf again by itself when that has changed: glibc since 2.26 before each lookup, musl at
//! each (`__get_resolv_conf`).

use super::failure::Failure;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::thread;
use tokio::sync::{Semaphore, oneshot};

/// Lookups under way at once. Those that hang keep their thread until the system gives up; others wait.
const MOST: usize = 2;

#[derive(Debug)]
pub(super) struct System {
    free: Arc<Semaphore>,
}

impl Default for System {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(MOST)) }
    }
}

impl System {
    /// The name's addresses, in the order of preference that the system gives.
    ///
    /// # Errors
    /// The system's. How long it takes is the caller's to bound: a lookup that is dropped ends by itself later.
    pub async fn ask(&self, host: &str) -> Result<Vec<SocketAddr>, Failure> {
        let host = host.to_owned();
        self.run(move || Ok((host.as_str(), 0).to_socket_addrs()?.collect())).await
    }

    async fn run(
        &self,
        lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let ended = || io::Error::other("the resolver's thread ended");
        let permit = self.free.clone().acquire_owned().await.map_err(|_| ended())?;
        let (sender, answer) = oneshot::channel();
        // Not one of the runtime's own threads: those are waited for when the program ends.
        thread::Builder::new().name("getaddrinfo".to_owned()).spawn(move || {
            let found = lookup();
            drop(permit);
            // Whoever asked may have given up.
            drop(sender.send(found));
        })?;
        let mut found = answer.await.map_err(|_| ended())??;
        found.dedup();
        if found.is_empty() { Err(Failure::Denied("the name has no address")) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    #[tokio::test]
    async fn lookups_that_hang_are_two_at_most_and_hold_nobody_up_for_ever() {
        let system = System::default();
        let mut hold = Vec::new();
        for _ in 0..MOST {
            let (release, held) = sync_channel::<()>(1);
            hold.push(release);
            let hangs = system.run(move || {
                let _ = held.recv();
                Err(io::Error::other("too late"))
            });
            assert!(tokio::time::timeout(Duration::from_millis(10), hangs).await.is_err(), "dropped while it hangs");
        }
        let (tell, told) = sync_channel(1);
        let third = system.run(move || {
            let _ = tell.send(());
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))])
        });
        tokio::pin!(third);
        assert!(tokio::time::timeout(Duration::from_millis(10), &mut third).await.is_err());
        assert!(told.try_recv().is_err(), "no third thread");
        drop(hold.pop());
        assert_eq!(third.await.expect("answered"), [SocketAddr::from(([127, 0, 0, 1], 0))]);
    }

    #[test]
    fn a_runtime_ends_while_a_lookup_hangs() {
        let (release, held) = sync_channel::<()>(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let system = System::default();
            let hangs = system.run(move || {
                let _ = held.recv();
                Ok(Vec::new())
            });
            assert!(tokio::time::timeout(Duration::from_millis(10), hangs).await.is_err());
        });
        // Would wait for ever for a thread of its own.
        drop(runtime);
        drop(release);
    }
}
