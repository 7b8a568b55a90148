//! Whether anything can be written: what a load balancer asks.

use super::sql::params;
use super::{Store, StoreError};
use crate::secret::random_hex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// One good answer serves so long: anybody may ask, and each question costs a write.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// With less on the disk a small write may still find a place in the file, and a message does not.
const LEAST_LEFT: u64 = 256 * 1024;

/// Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    directory: Option<PathBuf>,
    good: Arc<Mutex<Option<Instant>>>,
}

impl Probe {
    pub fn new(directory: Option<&Path>) -> Self {
        Self { directory: directory.map(Path::to_owned), good: Arc::default() }
    }
}

impl Store {
    /// # Errors
    /// [`StoreError`]: nothing can be written now.
    pub async fn writable(&self) -> Result<(), StoreError> {
        // Who asks meanwhile waits for the same answer.
        let mut good = self.probe.good.lock().await;
        if good.is_some_and(|at| at.elapsed() < GOOD_FOR) {
            return Ok(());
        }
        let directory = self.probe.directory.clone();
        self.run(move |t| {
            if let Some(left) = directory.and_then(|directory| left(&directory))
                && left < LEAST_LEFT
            {
                return Err(StoreError::Full { left_kib: left / 1024 });
            }
            let sql = "INSERT INTO meta (key, value) VALUES ('probe', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            t.execute(sql, params![random_hex::<8>()]).map(drop)
        })
        .await?;
        *good = Some(Instant::now());
        Ok(())
    }
}

/// Bytes that this process may still write there, if the file system says.
fn left(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    // Some file systems do not count.
    (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
}
