//! The gateway process: opens everything, serves, and closes in the other order.

use super::accounts::Accounts;
use super::api;
use super::attempts::Attempts;
use super::broker::External;
use super::clock::now_ms;
use super::config::Config;
use super::devices::{Authority, Devices, Identity, Shared, Table};
use super::dispatch::Dispatch;
use super::door::Door;
use super::drain::Drain;
use super::enrolment::{Enrolment, Serving};
use super::error::ServeError;
use super::issuing::Issuer;
use super::mending;
use super::metrics::Metrics;
use super::neighbours::{Neighbours, Parts};
use super::opening::{self, open, tls};
use super::outgoing::{Wire, outgoing};
use super::overdue::Overdue;
use super::password::Passwords;
use super::proof::Proof;
use super::push::Push;
use super::reload::{Reload, Source};
use super::renewal::Renewal;
use super::secrets::{Secrets, follow_keys};
use super::sender::Senders;
use super::store::{Store, Unreadable};
use super::timekeeping::Timekeeping;
use super::tokens::Tokens;
use super::waiting::{self, Waiting};
use super::webhook::Reports;
use super::wire::Driver;
use crate::http::Http;
use crate::logs::Levels;
use crate::service::Service;
use crate::store::StateDirectory;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How the process was started.
pub struct Start {
    /// One JSON line on standard output says where it serves.
    pub announce: bool,
    /// Where the configuration is read again.
    pub source: Source,
    pub levels: Levels,
}

/// What ends last of all has so long after the listener has closed: the times below, and some.
const ENDING: Duration = Duration::from_secs(30);

/// Serves until `stops` is done, and then as long as load balancers need, unless it is done again; reads the configuration again whenever `reloads` is done.
///
/// # Errors
/// [`ServeError`], before anything is served.
pub async fn serve(
    config: Config,
    start: Start,
    mut reloads: impl AsyncFnMut(),
    mut stops: impl AsyncFnMut(),
) -> Result<(), ServeError> {
    let Start { announce, source, levels } = start;
    let (mut service, mut waiting) = (Service::from_environment(), Waiting::default());
    let (topics, url) = config.check()?;
    let directory = StateDirectory::open(&config.state_directory())?;
    let state = directory.path().to_owned();
    let opened = open(&config, |error| waiting.lasts(&mut service, "PostgreSQL", error));
    let mut store = tokio::select! {
        store = opened => store?,
        () = stops() => return Ok(()),
    };
    let metrics = Metrics::default();
    let time = Timekeeping::start(store.clone(), metrics.clone()).await?;
    for unreadable in store.unreadable_certificates().await? {
        let Unreadable { app, name, why, .. } = unreadable;
        tracing::error!(event = "certificate.unreadable", app, certificate = name, why, "a certificate cannot be read");
    }
    // Before anybody can connect to it.
    let node = if store.is_shared() && url.is_none() { Some(opening::node(&config, &state)?) } else { None };
    if let Some(node) = &node {
        let replaced = store.enter(node, now_ms()).await?;
        info!(event = "node.entered", name = node.name, node = %node.id, replaced, "one of the gateways that share the database");
    }
    let admin_file = state.join("admin.secret");
    let beside_broker = store.is_shared() && url.is_some();
    if beside_broker {
        store.enter_beside_broker(now_ms()).await?;
    }
    let Secrets { keys, admin, receipts, tickets } = Secrets::read(&store, &admin_file).await?;
    let tokens = Tokens::new(keys, topics.clone()).named_by_login(config.broker.dynamic_security);
    // For the command line on this machine; the file's mode keeps others out.
    crate::store::write_atomically(&admin_file, admin.expose().as_bytes())
        .map_err(|source| ServeError::Write { path: admin_file.clone(), source })?;
    let http = Http::new(config.vendors.ca_file.as_deref(), Duration::from_millis(config.vendors.timeout_ms))
        .map_err(ServeError::Vendors)?
        .with_connections(usize::try_from(config.vendors.connections).unwrap_or(usize::MAX));
    let overdue = Overdue::default();
    let door = Door { tokens: tokens.clone(), topics: topics.clone(), store: store.clone(), overdue: overdue.clone() };
    let neighbours = match (&node, &url) {
        (Some(_), _) => Neighbours::some(),
        (None, None) => {
            // Whoever was connected to this process is not any more.
            store.all_offline(now_ms()).await?;
            Neighbours::default()
        }
        (None, Some(_)) => Neighbours::default(),
    };
    let address = config.api.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?;
    let api_address = listener.local_addr().map_err(|source| ServeError::Listen { address, source })?;

    let broker = url.as_ref().map(ToString::to_string).unwrap_or_default();
    let table = Table::default();
    let (accounts, desk) = match config.broker.dynamic_security {
        true => {
            let (accounts, desk) = Accounts::kept(topics.clone(), store.clone(), store.installation().await?);
            (accounts, Some(desk))
        }
        false => (Accounts::default(), None),
    };
    let (wire, driver) = match url {
        Some(endpoint) => {
            let (wire, queue) = outgoing(accounts.clone());
            let access = External::new(&config.broker, endpoint)?.access();
            (wire.clone(), Some(Driver::new((wire, queue), access, topics, desk)))
        }
        None => (Wire::own(table.clone()), None),
    };
    let (changeable, rules) = watch::channel(config.rules());
    let push = Push {
        // The apps' own servers are reached straight.
        senders: Arc::new(Senders::new(
            &http.clone().by(config.vendors.ways().map_err(ServeError::Vendors)?),
            &config.vendors.hosts,
        )),
        metrics,
        proof: Proof::new(&receipts),
        receipts_url: config.vendors.receipts_url.clone(),
        rules: rules.clone(),
        reports: Reports::start(http.clone()),
    };
    let issuer = Issuer { tokens: tokens.clone(), accounts: accounts.clone(), life_s: config.api.user_token_s };
    let renewal = Renewal::new(issuer.clone(), overdue);
    let dispatch = Dispatch::new(
        store.clone(),
        (wire.clone(), neighbours.clone()),
        push.clone(),
        renewal,
        rules,
        config.delivery.concurrency,
    );
    let limits = api::Limits::new(&config.api);
    let stop = CancellationToken::new();
    tokio::spawn(time.clone().run(stop.child_token()));
    if store.is_shared() {
        tokio::spawn(follow_keys(store.clone(), tokens.clone(), stop.child_token()));
    }
    tokio::spawn(accounts.run(stop.child_token()));
    if beside_broker {
        tokio::spawn(opening::stay_beside_broker(store.clone(), stop.child_token()));
    }
    let wire_stop = CancellationToken::new();
    let attempts = Attempts::default();
    let mut enrolment = Enrolment {
        store: store.clone(),
        issuer,
        attempts: attempts.clone(),
        metrics: push.metrics.clone(),
        serving: Serving::new(&config.broker, config.broker.url.as_ref().and(config.broker.ca_file.clone()))?,
    };
    let devices = match driver {
        None => {
            let authority = match config.broker.certificate {
                Some(_) => None,
                None => Authority::of(&store, &state.join("tls")).await?,
            };
            tell_of_authority(&store, &dispatch).await;
            let identity = Identity::of(&config.broker, &state, tickets, authority)?;
            enrolment.serving = Serving::new(&config.broker, identity.ca())?;
            let shared = Shared {
                table,
                door: door.clone(),
                dispatch: dispatch.clone(),
                metrics: dispatch.metrics(),
                enrolment: enrolment.clone(),
                stop: CancellationToken::new(),
            };
            let devices = Devices::start(&config.broker, identity, shared).await?;
            enrolment.serving.at_port(&config.broker, devices.reach().address.port());
            Some(devices)
        }
        Some(_) => None,
    };
    let has_broker = driver.is_some();
    let wire_task = driver.map(|driver| tokio::spawn(driver.run(dispatch.clone(), wire_stop.clone())));
    if has_broker {
        let (store, wire, stop) = (store.clone(), wire.clone(), stop.child_token());
        tokio::spawn(async move {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                asked = mending::ask_all(&store, &wire) => asked,
            };
            if let Err(error) = asked {
                error.tell("not every device could be asked to greet again");
            }
        });
    }
    let timer_task = tokio::spawn(dispatch.clone().run(Service::from_environment(), time.clone(), stop.child_token()));
    let asking = mending::Asking::start(store.clone(), wire.clone(), neighbours.clone());
    if let (Some(node), Some(database)) = (node, config.notices()?) {
        let (tls, metrics) = (tls(&database)?, push.metrics.clone());
        let session = config.store.notices_url.is_some() || store.keeps_sessions();
        let (store, dispatch, asking) = (store.clone(), dispatch.clone(), asking.clone());
        neighbours.start(Parts { node, store, dispatch, asking, metrics, database, tls, session }, &wire_stop);
    }
    let (leaving, drain) = (store.clone(), Drain::default());
    let state_of_api = api::State {
        asking,
        store,
        tokens,
        door,
        dispatch,
        push,
        time,
        drain: drain.clone(),
        limits: limits.clone(),
        replays: api::Replays::default(),
        admin,
        clients: api::Clients::default(),
        passwords: Passwords::new(),
        attempts,
        enrolment,
        broker_secret: config.broker.ask_secret.clone(),
        broker_account: config.broker.user.clone().zip(config.broker.password.clone()),
        user_token_s: config.api.user_token_s,
    };
    let (known, telling) = (state_of_api.store.clone(), state_of_api.dispatch.clone());
    let mut reload = Reload { source, levels, rules: changeable, limits, config };
    let api_task = tokio::spawn(api::serve(listener, state_of_api, stop.clone()));
    let reach = devices.as_ref().map(Devices::reach);
    info!(
        event = "gateway.started", version = env!("CARGO_PKG_VERSION"), api = %api_address,
        broker = reach.as_ref().map(|r| r.address.to_string()), ca_file = reach.as_ref().and_then(|r| r.ca_file.as_ref()).map(|p| p.display().to_string()),
        "gateway started"
    );
    if announce {
        let line = json!({
            "api": format!("http://{api_address}"),
            "broker": reach.as_ref().map(|r| r.address.to_string()),
            "ca_file": reach.as_ref().and_then(|r| r.ca_file.clone()),
            "admin_secret_file": admin_file,
        });
        // Nobody may be listening any more; the log says it too.
        drop(crate::terminal::print(&line.to_string()));
    }
    let mut ready = false;
    loop {
        tokio::select! {
            () = stops() => break,
            () = reloads() => {
                reload.apply();
                if let Some(devices) = &devices {
                    devices.reload();
                    tell_of_authority(&known, &telling).await;
                }
            }
            () = wire.connected(), if !ready => {
                service.status(format!("serving the REST API at {api_address}"));
                service.ready();
                ready = true;
            }
            () = tokio::time::sleep(waiting::EVERY), if !ready => {
                waiting.lasts(&mut service, "the broker", &broker);
            }
        }
    }
    let lasts = drain.begin(reload.config.api.drain_s);
    service.stopping();
    if !lasts.is_zero() {
        let seconds = lasts.as_secs();
        service.waiting(format!("stopping: load balancers have {seconds} s to send elsewhere"), lasts + ENDING);
        info!(
            event = "gateway.draining",
            seconds, "to stop: /readyz says so, and everything is served on until load balancers send elsewhere"
        );
        tokio::select! {
            () = tokio::time::sleep(lasts) => {}
            () = stops() => {}
        }
    }
    info!(event = "gateway.stopping", "stopping: no new work, what is under way is finished");
    stop.cancel();
    drop(tokio::time::timeout(Duration::from_secs(5), api_task).await);
    drop(tokio::time::timeout(Duration::from_secs(12), timer_task).await);
    // Devices are heard to the end.
    wire_stop.cancel();
    if let Some(task) = wire_task {
        drop(tokio::time::timeout(Duration::from_secs(2), task).await);
    }
    if let Some(devices) = devices {
        devices.stop().await;
    }
    if let Err(error) = leaving.leave().await {
        error.tell("that this gateway ends could not be stored; others find it out by its lease");
    }
    info!(event = "gateway.stopped", "gateway stopped");
    Ok(())
}

/// Devices are told of the authority that is to follow, if one is.
async fn tell_of_authority(store: &Store, dispatch: &Dispatch) {
    match Authority::told(store, now_ms()).await {
        Ok(coming) => dispatch.tell_authority(coming),
        Err(error) => error.tell("devices are not told of the authority that is to follow"),
    }
}
