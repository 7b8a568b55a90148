//! A PostgreSQL of a test's own, for what only a real one tells.

use super::plans;
use super::sql::in_postgres;
use super::{Store, Vault};
use crate::mqtt::client_config;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) struct Trial {
    bin: PathBuf,
    data: PathBuf,
    port: u16,
    server: Child,
    home: tempfile::TempDir,
}

/// It refuses to run as root.
fn as_nobody(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("/usr/sbin/runuser");
    command.args(["-u", "nobody", "--"]).arg(program);
    command
}

impl Trial {
    /// `None` where it is not installed.
    pub fn start(test: &str) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let Some(bin) = versions.map(|v| v.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max() else {
            eprintln!("{test} is left out: PostgreSQL is not installed");
            return None;
        };
        let home = tempfile::tempdir().expect("a directory");
        let data = home.path().join("data");
        std::fs::create_dir(&data).expect("made");
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).expect("permitted");
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700)).expect("permitted");
        if rustix::process::geteuid().is_root() {
            assert!(Command::new("chown").arg("nobody").arg(&data).status().expect("ran").success());
        }
        let mut make = as_nobody(&bin.join("initdb"));
        let made = make.args(["-N", "-A", "trust", "-U", "impush", "-E", "UTF8", "--locale=C.UTF-8", "-D"]).arg(&data);
        let made = made.output().expect("ran");
        assert!(made.status.success(), "{made:?}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let mut server = as_nobody(&bin.join("postgres"));
        server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]);
        let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        let trial = Self { bin, data, port, server, home };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !trial.psql("postgres").args(["-c", "SELECT 1"]).output().expect("ran").status.success() {
            assert!(Instant::now() < deadline, "it does not start");
        }
        Some(trial)
    }

    fn url(&self, who: &str, database: &str) -> String {
        format!("postgres://{who}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// For statements on its standard input, or its command line.
    pub fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-qAtX", "-v", "ON_ERROR_STOP=1", &self.url("impush", database)]);
        psql
    }

    /// What statements answer: a line a row, `|` between the columns.
    pub fn ask(&self, database: &str, statements: &str) -> String {
        let said = self.psql(database).args(["-c", statements]).output().expect("ran");
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).expect("text").trim_end().to_owned()
    }

    /// An empty database of this name.
    pub fn database(&self, name: &str) {
        self.ask("postgres", &format!("CREATE DATABASE {name}"));
    }

    /// A connection to it.
    pub fn client(&self, database: &str) -> postgres::Client {
        postgres::Client::connect(&self.url("impush", database), postgres::NoTls).expect("connected")
    }

    /// How a statement of the store's would go, as its connections plan it.
    pub fn plan(&self, database: &str, statement: &str) -> String {
        let count = (1..).take_while(|n| statement.contains(&format!("?{n}"))).count();
        let nulls = vec!["NULL"; count].join(", ");
        let sql = format!(
            "{}; PREPARE asked AS {}; EXPLAIN EXECUTE asked ({nulls})",
            plans::SETTINGS,
            in_postgres(statement)
        );
        self.ask(database, &sql)
    }

    /// Whatever PostgreSQL knows of these tables, whether nothing or that they are empty, these statements come to the rows of one
    /// user or to ones whose place they know, and go through no others.
    pub fn go_by_users(&self, database: &str, tables: &str, statements: &[&str]) {
        for known in [String::new(), format!("VACUUM ANALYZE {tables}")] {
            self.ask(database, &known);
            for statement in statements {
                let plan = self.plan(database, statement);
                let lines: Vec<&str> = plan.lines().collect();
                let scans =
                    lines.iter().zip(&lines[1..]).filter(|(line, _)| line.contains("Scan") && line.contains(" on "));
                let narrow = |(line, next): (&&str, &&str)| {
                    let is_table = !line.contains("Function Scan") && !line.contains("Subquery Scan");
                    let by_index = next.contains("Index Cond") && next.contains("\"user\" = ");
                    !is_table || by_index || next.contains("TID Cond")
                };
                let joined = plan.contains("Join Filter");
                assert!(
                    !joined && scans.clone().count() > 0 && scans.clone().all(narrow),
                    "{known}: {statement}\n{plan}"
                );
            }
        }
    }

    /// A gateway's store on it.
    pub async fn store(&self, who: &str, database: &str) -> Store {
        let vault = Vault::open(&self.home.path().join("key"), true).expect("a key");
        let config: tokio_postgres::Config = self.url(who, database).parse().expect("an address");
        let tls = client_config(None, None).expect("a configuration");
        let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls.as_ref().clone());
        Store::connect(config.into(), tls, 2, vault, |error| panic!("{error}")).await.expect("connected")
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let mut stop = as_nobody(&self.bin.join("pg_ctl"));
        drop(stop.args(["stop", "-m", "immediate", "-D"]).arg(&self.data).output());
        drop(self.server.wait());
    }
}
