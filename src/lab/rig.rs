//! Clouds and a gateway as processes, with an operator's token: what every bench of the gateway stands on.

use super::account::{Account, vendors_section};
use super::device::{call, call_as};
use super::process::{Process, output, sibling};
use crate::http::Http;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const START: Duration = Duration::from_secs(15);

/// Dropping it kills both.
pub(super) struct Rig {
    pub home: tempfile::TempDir,
    pub http: Http,
    /// The gateway's REST API of the one app.
    pub base: String,
    pub clouds: String,
    pub ca: PathBuf,
    pub token: String,
    pub gateway: Process,
    /// What the gateway announced: its broker's address, and the authority devices trust.
    pub reach: Value,
    pub clouds_process: Process,
    pinned: bool,
    /// Another gateway than the one beside this program.
    program: PathBuf,
    /// The PostgreSQL it uses instead of a file.
    store: Option<String>,
}

/// Where a gateway's store is.
pub(super) enum Database {
    File(PathBuf),
    Server(String),
}

/// How the clouds are started: a program and its first words, and where they listen.
struct Clouds<'a> {
    program: &'a Path,
    before: &'a [&'a str],
    listen: &'a str,
}

impl Rig {
    /// Starts the clouds at another address, in another network namespace (`ip netns`).
    ///
    /// # Errors
    /// A sentence about what did not start.
    pub async fn start_away(timeout: Duration, netns: &str, listen: &str) -> Result<Self, String> {
        let program = sibling("impush-gateway")?;
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let lab = sibling("impush-lab")?;
        let start = ["netns", "exec", netns, lab.to_str().unwrap_or_default()];
        let clouds = Clouds { program: Path::new("ip"), before: &start, listen };
        Self::with_clouds(false, timeout, (program, None), home, clouds).await
    }

    /// Starts both. `pinned`: the gateway has the first core for itself.
    ///
    /// # Errors
    /// A sentence about what did not start.
    pub async fn start(pinned: bool, timeout: Duration) -> Result<Self, String> {
        Self::start_with(pinned, timeout, None).await
    }

    /// The same with another gateway than the one beside this program.
    ///
    /// # Errors
    /// A sentence about what did not start.
    pub async fn start_with(pinned: bool, timeout: Duration, program: Option<&Path>) -> Result<Self, String> {
        Self::start_on(pinned, timeout, (program, None)).await
    }

    /// The same on a PostgreSQL, which has to be empty.
    ///
    /// # Errors
    /// A sentence about what did not start.
    pub async fn start_on(
        pinned: bool,
        timeout: Duration,
        (program, store): (Option<&Path>, Option<&str>),
    ) -> Result<Self, String> {
        let program = program.map_or_else(|| sibling("impush-gateway"), |program| Ok(program.to_owned()))?;
        let home = tempfile::tempdir().map_err(|e| e.to_string())?;
        let lab = sibling("impush-lab")?;
        let clouds = Clouds { program: &lab, before: &[], listen: "127.0.0.1:0" };
        Self::with_clouds(pinned, timeout, (program, store), home, clouds).await
    }

    async fn with_clouds(
        pinned: bool,
        timeout: Duration,
        (program, store): (PathBuf, Option<&str>),
        home: tempfile::TempDir,
        Clouds { program: starter, before, listen }: Clouds<'_>,
    ) -> Result<Self, String> {
        let ca = home.path().join("clouds.pem");
        let own = ["clouds", "--listen", listen, "--ca-file", ca.to_str().unwrap_or_default()];
        let arguments: Vec<&str> = before.iter().copied().chain(own).collect();
        if pinned {
            leave_first_core().await?;
        }
        let mut clouds = Process::start("clouds", starter, &arguments, home.path())?;
        let url = clouds.next(START).await?["clouds"].as_str().unwrap_or_default().to_owned();
        // Both keep their addresses over restarts.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string());
        let (api, broker) = (free()?, free()?);
        let (api, broker) = [api, broker].map(|l| l.local_addr().map_err(|e| e.to_string())).into();
        let (api, broker) = (api?, broker?);
        let text = format!(
            "[api]\nlisten = '{api}'\nrequests_per_s = 100000\n[broker]\nlisten = '{broker}'\n{}{}[paths]\nstate = '{}'\n[log]\nlevel = 'error'\n",
            store.map(|url| format!("[store]\nurl = '{url}'\n")).unwrap_or_default(),
            vendors_section(&url, &ca),
            home.path().join("state").display()
        );
        std::fs::write(home.path().join("gateway.toml"), text).map_err(|e| e.to_string())?;
        let (gateway, reach) = gateway(&program, home.path(), pinned).await?;
        let http = Http::new(Some(&ca), timeout)?;
        let base = format!("http://{api}/o/a");
        let token = operators(&http, &base, home.path()).await?;
        let store = store.map(str::to_owned);
        Ok(Self {
            home,
            http,
            base,
            clouds: url,
            ca,
            token,
            gateway,
            reach,
            clouds_process: clouds,
            pinned,
            program,
            store,
        })
    }

    /// Kills the gateway and starts it again on the same state.
    ///
    /// # Errors
    /// A sentence when it does not come up.
    pub async fn kill_and_restart(&mut self) -> Result<(), String> {
        self.gateway.kill().await?;
        self.start_again().await
    }

    async fn start_again(&mut self) -> Result<(), String> {
        (self.gateway, self.reach) = gateway(&self.program, self.home.path(), self.pinned).await?;
        Ok(())
    }

    /// Does something to the gateway's database while it is down, and starts it again.
    ///
    /// # Errors
    /// A sentence when it does not come up, and the work's.
    pub async fn while_down<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(Database) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        self.gateway.kill().await?;
        let file = self.home.path().join("state/gateway.sqlite");
        let database = self.store.clone().map_or(Database::File(file), Database::Server);
        let done = tokio::task::spawn_blocking(move || work(database)).await.map_err(|e| e.to_string())??;
        self.start_again().await?;
        Ok(done)
    }

    /// Another app of the same organisation: its REST API, and the operator's token for it.
    ///
    /// # Errors
    /// A sentence with the refusal.
    pub async fn app(&self, name: &str) -> Result<(String, String), String> {
        let base = self.base.rsplit_once('/').map_or_else(String::new, |(base, _)| format!("{base}/{name}"));
        let token = operators(&self.http, &base, self.home.path()).await?;
        Ok((base, token))
    }

    /// A call to the gateway's API.
    ///
    /// # Errors
    /// A sentence with the refusal.
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        call_as(&self.http, method, &format!("{}/{path}", self.base), Some(&self.token), body).await
    }

    /// One of the gateway's own counters, by its name without `impush_gateway_`.
    ///
    /// # Errors
    /// A sentence when it cannot be read.
    pub async fn counter(&self, name: &str) -> Result<f64, String> {
        let url = format!("{}/metrics", self.base.split("/o/").next().unwrap_or_default());
        let (_, body) = self.http.call("GET", &url, &[], Vec::new()).await.map_err(|e| format!("{url}: {e}"))?;
        let wanted = format!("impush_gateway_{name}_total ");
        let text = String::from_utf8_lossy(&body);
        let value = text.lines().find_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok());
        value.ok_or_else(|| format!("{url} does not say {name}"))
    }

    /// A call to the clouds' own side.
    ///
    /// # Errors
    /// A sentence with the refusal.
    pub async fn lab(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, String> {
        call(&self.http, method, &format!("{}/_lab/{path}", self.clouds), body).await
    }

    /// The app at its vendor, with all the quota there is, and its certificate at the gateway.
    ///
    /// # Errors
    /// A sentence with the refusal.
    pub async fn register(&self, account: &Account) -> Result<(), String> {
        let mut registration = account.registration.clone();
        registration["daily_quota"] = json!(u64::from(u32::MAX));
        self.lab("POST", "apps", Some(registration)).await?;
        let Account { vendor, certificate, fields, .. } = account;
        let body = json!({ "vendor": vendor, "name": certificate, "fields": fields });
        self.ask("POST", "certificates", Some(body)).await.map(drop)
    }

    /// Creates a user; the password its devices log in with.
    ///
    /// # Errors
    /// A sentence with the refusal.
    pub async fn user(&self, user: &str) -> Result<String, String> {
        self.ask("POST", "users", Some(json!({ "username": user, "password": "a password" }))).await?;
        let grant = json!({ "grant_type": "password", "username": user, "password": "a password" });
        let answer = self.ask("POST", "token", Some(grant)).await?;
        Ok(answer["access_token"].as_str().unwrap_or_default().to_owned())
    }

    /// Installs the app on a device; its token.
    ///
    /// # Errors
    /// A sentence with the refusal.
    pub async fn install(&self, account: &Account, device: &str) -> Result<String, String> {
        let body = json!({ "vendor": account.vendor, "id": account.app_id, "device": device });
        let answer = self.lab("POST", "installs", Some(body)).await?;
        Ok(answer["token"].as_str().unwrap_or_default().to_owned())
    }

    /// Creates users, each with an offline device that is bound; the last one's token.
    ///
    /// # Errors
    /// A sentence with the refusal.
    pub async fn bound_users(&self, account: &Account, users: &[String]) -> Result<String, String> {
        let mut last = String::new();
        for some in users.chunks(50) {
            let body: Vec<Value> = some.iter().map(|u| json!({ "username": u, "password": "a password" })).collect();
            self.ask("POST", "users", Some(json!(body))).await?;
        }
        for user in users {
            last = self.install(account, user).await?;
            let body = json!({ "device_id": "d", "device_token": last, "notifier_name": account.certificate });
            self.ask("PUT", &format!("users/{user}/push/binding"), Some(body)).await?;
        }
        Ok(last)
    }
}

/// The operator's token for an app.
async fn operators(http: &Http, base: &str, home: &Path) -> Result<String, String> {
    let secret = std::fs::read_to_string(home.join("state/admin.secret")).map_err(|e| e.to_string())?;
    let grant = json!({ "grant_type": "client_credentials", "client_id": "admin", "client_secret": secret });
    let answer = call(http, "POST", &format!("{base}/token"), Some(grant)).await?;
    Ok(answer["access_token"].as_str().unwrap_or_default().to_owned())
}

/// Moves this process, and what it starts from here on, to the other cores, if there are any.
async fn leave_first_core() -> Result<(), String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores > 1 {
        let (others, own) = (format!("1-{}", cores - 1), std::process::id().to_string());
        output(Path::new("taskset"), &["-a", "-p", "-c", &others, &own], START).await?;
    }
    Ok(())
}

async fn gateway(program: &Path, home: &Path, pinned: bool) -> Result<(Process, Value), String> {
    let config = home.join("gateway.toml");
    let own = ["--config", config.to_str().unwrap_or_default(), "serve", "--announce"];
    let mut gateway = if pinned {
        let all: Vec<&str> = ["-c", "0", program.to_str().unwrap_or_default()].into_iter().chain(own).collect();
        Process::start("gateway", Path::new("taskset"), &all, home)?
    } else {
        Process::start("gateway", program, &own, home)?
    };
    let reach = gateway.next(START).await?;
    Ok((gateway, reach))
}
