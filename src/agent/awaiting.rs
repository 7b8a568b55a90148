//! An agent of which nobody has said where its server is: it waits for an enrolment code, or for its configuration.

use super::clock;
use super::config::Config;
use super::control::{Ask, Refusal, Request};
use super::disk::blocking;
use super::enrol::{Answer, Device, Granted, Run, exchange, target};
use super::enrolling::{FirstLogin, save, told};
use super::front::Front;
use super::opening::Opening;
use super::reload::Reload;
use super::run_error::RunError;
use crate::device;
use crate::mqtt::TimeFloor;
use crate::secret::Secret;
use crate::service::Service;
use crate::session::Patience;
use crate::settings::SettingsError;
use std::future::Future;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;
use tracing::{error, info};

/// How often the service manager hears that the agent lives, and the configuration is looked at.
const ALIVE: Duration = Duration::from_secs(20);

/// A configuration to start with, the socket that is open already, and the login that is to follow, if a code brought it.
pub(super) struct Begun {
    pub config: Config,
    pub front: Front,
    pub login: Option<FirstLogin>,
}

/// Waits until there is a configuration to start with; `None`: the agent is to end.
///
/// # Errors
/// [`RunError::Socket`].
pub(super) async fn until_enrolled(
    config: Config,
    given: Option<UnixListener>,
    service: &mut Service,
    reload: &mut Reload<impl Fn() -> Result<Config, SettingsError>, impl AsyncFnMut()>,
    shutdown: impl Future<Output = ()>,
) -> Result<Option<Begun>, RunError> {
    let mut front = Front::open(&config, given)?;
    let begun = tokio::select! {
        begun = begun(config, &mut front, service, reload) => Some(begun),
        () = shutdown => None,
    };
    Ok(match begun {
        Some((config, login)) => Some(Begun { config, front, login }),
        None => {
            front.socket.close();
            None
        }
    })
}

async fn begun(
    mut config: Config,
    front: &mut Front,
    service: &mut Service,
    reload: &mut Reload<impl Fn() -> Result<Config, SettingsError>, impl AsyncFnMut()>,
) -> (Config, Option<FirstLogin>) {
    info!(
        event = "agent.awaits_enrolment",
        socket = %front.socket.path.display(),
        "no server is configured; the agent waits for `impush enrol CODE`, or for a configuration"
    );
    service.ready();
    service.status("waits to be enrolled: impush enrol CODE".to_owned());
    let mut under_way: Option<(Run, Answer, Patience)> = None;
    loop {
        service.alive(clock::now());
        let exchanged = async {
            match &mut under_way {
                Some((run, ..)) => run.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = exchanged => {
                let Some((_, reply, patience)) = under_way.take() else { continue };
                match taken_over(outcome, &config, reload).await {
                    Ok((new, granted)) => {
                        let directory = new.state_directory();
                        let login = FirstLogin::new(granted, (reply, patience), &new.server, &directory);
                        return (new, Some(login));
                    }
                    Err(refusal) => told(reply, Err(refusal)),
                }
            }
            Some(Request { ask, reply }) = front.requests.recv() => match ask {
                Ask::Enrol { code, patience } if under_way.is_none() => {
                    under_way = Some((Box::pin(enrol(code, config.clone())), reply, patience));
                }
                Ask::Enrol { .. } => told(reply, Err(Refusal::new(409, "busy", "another enrolment is under way"))),
                // A peer that went away no longer wants its answer.
                _ => drop(reply.send(Err(not_enrolled(&config)))),
            },
            () = (reload.asked)() => match (reload.source)() {
                Ok(new) if new.awaits_enrolment() => config = new,
                Ok(new) => return (new, None),
                Err(error) => error!(event = "config.refused", %error, "the configuration is not good; the old one stays in force"),
            },
            // Who writes one need not know that the agent waits already.
            () = tokio::time::sleep(ALIVE) => match (reload.source)() {
                Ok(new) if !new.awaits_enrolment() => return (new, None),
                _ => {}
            },
        }
    }
}

fn not_enrolled(config: &Config) -> Refusal {
    let file = config.name.file();
    let message = format!(
        "this agent knows no server yet: impush enrol CODE, or set server.url and server.app in {} and reload it",
        file.display()
    );
    Refusal::new(503, "not_enrolled", message)
}

async fn enrol(code: Secret, config: Config) -> Result<Granted, Refusal> {
    let (code, ready) = target(&code, &config)?;
    let root = config.device.root.clone();
    let examined = blocking(move || device::examine(root.as_deref())).await;
    let (_, machine) = examined.map_err(|error| Refusal::new(500, "device", format!("device.root: {error}")))?;
    let opening = Opening { state_directory: config.state_directory(), machine, app: ready.app.clone() };
    let store = opening.once().await.map_err(|error| Refusal::new(503, "state_unusable", error.to_string()))?;
    let device = Device {
        id: store.device_id().to_owned(),
        names: config.names(&ready),
        floor: Arc::new(TimeFloor::new(clock::BUILT_MS)),
        config,
    };
    let granted = exchange(code, ready, device).await?;
    // Held until then, so that the id is this agent's.
    drop(store);
    Ok(granted)
}

async fn taken_over(
    outcome: Result<Granted, Refusal>,
    config: &Config,
    reload: &Reload<impl Fn() -> Result<Config, SettingsError>, impl AsyncFnMut()>,
) -> Result<(Config, Granted), Refusal> {
    let granted = save(outcome?, &config.state_directory()).await?;
    let read = (reload.source)().and_then(|new| new.check().map(|_| new));
    let config = read.map_err(|error| Refusal::new(500, "config_refused", error.to_string()))?;
    Ok((config, granted))
}
