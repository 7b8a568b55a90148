//! `impush config check`: whether the agent could start, with these settings and as the user the service runs as.

use super::config::Config;
use super::control;
use super::manager::Init;
use crate::access::{Account, Want, done_as, refusal, refusal_as_state, refusal_by_service, refusal_to_make};
use crate::device;
use crate::mqtt::client_config;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

/// The longest path of a socket, in bytes: unix(7), `sun_path` and its end.
const LONGEST_SOCKET: usize = 107;
/// Its agents by name have the same unit.
const SERVICE: &str = "impush.service";

/// The unit and the user the packages run the agent as.
pub fn service_account() -> Option<Account> {
    Account::of_service(SERVICE, "impush")
}

/// What stands in the way of a start, each with its key and what to do; nothing where nothing does. The values
/// themselves are [`Config::check`]'s. `account`: the service's user, `None` for whoever asks.
///
/// # Errors
/// Only root may look as somebody else.
pub fn obstacles(file: Option<&Path>, config: &Config, account: Option<&Account>) -> io::Result<Vec<String>> {
    // The paths of the service, before they become those of the user's own home.
    let (state, socket) = (config.state_directory(), config.socket());
    let given_to = account.filter(|_| config.paths.state.is_none());
    done_as(account, || {
        let mut found = Vec::new();
        found.extend(file.and_then(|file| refusal(file, Want::Read)));
        found.extend(trust(config));
        found.extend(refusal_as_state(&state, given_to).map(|why| format!("paths.state: {why}")));
        found.extend(self::socket(config, &socket, account).map(|why| format!("paths.socket: {why}")));
        found.extend(group(config, account));
        found.extend(closed(config, account).map(|why| format!("paths.state: {why}")));
        found.extend(root(config).map(|why| format!("device.root: {why}")));
        found
    })
}

/// Root as itself starts no service.
fn closed(config: &Config, account: Option<&Account>) -> Option<String> {
    let state = config.paths.state.as_deref()?;
    account.and_then(|_| refusal_by_service(SERVICE, state))
}

fn trust(config: &Config) -> Vec<String> {
    let server = &config.server;
    let files = [
        ("server.ca_file", &server.ca_file),
        ("server.client_certificate", &server.client_certificate),
        ("server.client_key", &server.client_key),
    ];
    let mut unreadable: Vec<String> = files
        .into_iter()
        .filter_map(|(key, path)| Some(format!("{key}: {}", refusal(path.as_deref()?, Want::Read)?)))
        .collect();
    // One that is not there holds nothing yet.
    let added = server.ca_added.as_deref().filter(|added| added.exists());
    unreadable.extend(added.and_then(|added| Some(format!("server.ca_added: {}", refusal(added, Want::Search)?))));
    if !unreadable.is_empty() {
        return unreadable;
    }
    let identity = server.client_certificate.as_deref().zip(server.client_key.as_deref());
    client_config(server.ca_file.as_deref(), identity).err().map(|error| error.to_string()).into_iter().collect()
}

fn socket(config: &Config, path: &Path, account: Option<&Account>) -> Option<String> {
    let shown = path.display();
    if path.as_os_str().as_bytes().len() > LONGEST_SOCKET {
        return Some(format!("{shown} is longer than the {LONGEST_SOCKET} bytes of a socket's path"));
    }
    match std::fs::symlink_metadata(path) {
        // Of the running agent, or of the service manager for it.
        Ok(found) if found.file_type().is_socket() => return None,
        Ok(_) => return Some(format!("{shown} is no socket; remove it, or name another path")),
        Err(_) => {}
    }
    let managed = config.paths.socket.is_none() && account.is_some();
    if managed || config.paths.socket.is_none() && Init::here() == Init::Systemd {
        return None;
    }
    refusal_to_make(path.parent()?)
}

fn group(config: &Config, account: Option<&Account>) -> Option<String> {
    let name = config.paths.socket_group.as_deref()?;
    let gid = match control::group_id(name) {
        Ok(gid) => gid,
        Err(error) => return Some(error.to_string()),
    };
    let account = account.filter(|account| account.uid != 0)?;
    let member = account.gid == gid || account.groups.contains(&gid);
    (!member).then(|| {
        format!(
            "paths.socket_group: {} is not in the group {name} and cannot give it the socket: usermod -aG {name} {0}",
            account.name
        )
    })
}

fn root(config: &Config) -> Option<String> {
    let root: &PathBuf = config.device.root.as_ref()?;
    refusal(root, Want::Search).or_else(|| device::detect(Some(root)).err().map(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    struct Place {
        directory: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::Builder::new().tempdir_in("/tmp").expect("a directory");
            std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("opened");
            Self { directory }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        /// With a CA, a state directory and a socket that are good, and `more`.
        fn config(&self, more: &str) -> Config {
            let ca = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).expect("a certificate").cert.pem();
            std::fs::write(self.at("ca.pem"), ca).expect("written");
            let text = format!(
                "server.ca_file='{0}/ca.pem'\npaths.state='{0}/state'\npaths.socket='{0}/run/c.sock'\n{more}\n",
                self.directory.path().display()
            );
            toml::from_str(&text).expect("a configuration")
        }
    }

    fn found(config: &Config) -> Vec<String> {
        obstacles(None, config, None).expect("looked")
    }

    #[test]
    fn what_a_start_needs_is_looked_at_and_each_obstacle_is_named_by_its_key() {
        let place = Place::new();
        let good = place.config("");
        assert_eq!(found(&good), Vec::<String>::new());
        std::fs::write(place.at("letter"), "no certificate").expect("written");
        let at = |name: &str| place.at(name).display().to_string();
        for (change, key, said) in [
            (format!("server.client_certificate='{}'", at("no.pem")), "server.client_certificate", "does not exist"),
            (format!("device.root='{}'", at("no")), "device.root", "does not exist"),
            (format!("device.root='{}'", at("letter")), "device.root", "no directory"),
            ("paths.socket_group='no-such-group'".to_owned(), "paths.socket_group", "no group"),
        ] {
            let all = found(&place.config(&change));
            assert!(all.len() == 1 && all[0].contains(key) && all[0].contains(said), "{change}: {all:?}");
        }
        let with = |edit: &dyn Fn(&mut Config)| {
            let mut config = place.config("");
            edit(&mut config);
            found(&config).join("; ")
        };
        let no_certificate = with(&|config| config.server.ca_file = Some(place.at("letter")));
        assert!(no_certificate.contains("letter") && no_certificate.contains("PEM"), "{no_certificate}");
        let a_file = with(&|config| config.paths.state = Some(place.at("letter")));
        assert!(a_file.contains("paths.state") && a_file.contains("no directory"), "{a_file}");
        let no_socket = with(&|config| config.paths.socket = Some(place.at("letter")));
        assert!(no_socket.contains("paths.socket") && no_socket.contains("no socket"), "{no_socket}");
        let long = with(&|config| config.paths.socket = Some(place.at(&"x".repeat(120))));
        assert!(long.contains("107"), "{long}");
    }

    #[test]
    fn what_root_alone_can_read_is_no_good_for_the_services_user() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: only root can become somebody else");
        }
        let place = Place::new();
        let config = place.config("");
        let nobody = Account::named("nobody").expect("every system has it");
        std::fs::set_permissions(place.at("ca.pem"), std::fs::Permissions::from_mode(0o600)).expect("closed");
        let all = obstacles(Some(&place.at("ca.pem")), &config, Some(&nobody)).expect("looked");
        let ca = all.iter().find(|one| one.starts_with("server.ca_file")).expect("named");
        assert!(ca.contains("readable by root only") && ca.contains("chgrp") && ca.contains("chmod"), "{ca}");
        assert!(all[0].contains("ca.pem is readable by root only"), "the configuration itself: {all:?}");
        for key in ["paths.state: ", "paths.socket: "] {
            assert!(all.iter().any(|one| one.starts_with(key) && one.contains("must write there")), "{all:?}");
        }
        std::fs::set_permissions(place.at("ca.pem"), std::fs::Permissions::from_mode(0o644)).expect("opened");
        std::os::unix::fs::chown(place.directory.path(), Some(nobody.uid), None).expect("given");
        assert_eq!(obstacles(Some(&place.at("ca.pem")), &config, Some(&nobody)).expect("looked"), Vec::<String>::new());
    }
}
