//! How much a real agent's memory grows over many reconnections to a real gateway over TLS.

use super::agent::Agent;
use super::process::sibling;
use super::rig::Rig;
use super::usage::resident_kib;
use indicatif::ProgressBar;
use std::time::Duration;

/// Starting a process on a busy machine.
const START: Duration = Duration::from_secs(15);
/// Reconnections before the memory is first read.
const WARM_UP: u32 = 100;

/// Kibibytes of resident memory gained over so many reconnections, after a first hundred have filled
/// the caches.
///
/// # Errors
/// A sentence when a program cannot be started or does not answer.
pub(super) async fn measure(reconnects: u32) -> Result<f64, String> {
    let rig = Rig::start(false, START).await?;
    let password = rig.user("ann").await?;
    let agent = Agent::start(&rig, &sibling("impush")?, "agent", "").await?;
    let id = agent.pid()?;
    agent.login("ann", &password).await?;
    let bar = ProgressBar::new(u64::from(reconnects + WARM_UP));
    let mut start = 0;
    for round in 0..reconnects + WARM_UP {
        agent.online().await?;
        if round == WARM_UP {
            start = resident_kib(id)?;
        }
        agent.ask("POST", "/v1/reconnect", None).await?;
        bar.inc(1);
    }
    agent.online().await?;
    bar.finish_and_clear();
    Ok(resident_kib(id)? as f64 - start as f64)
}
