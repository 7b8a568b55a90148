//! Where an agent's configuration comes from, and what of it serves when it cannot be used.

use super::config::{Config, Paths, VARIABLES};
use super::name::AgentName;
use crate::settings::{self, SettingsError};
use std::path::{Path, PathBuf};

/// What a file names as the socket, though the rest of it cannot be used.
pub(super) fn socket_only(file: Option<&Path>, name: &AgentName) -> Config {
    let variables = settings::load::<Config>(None, VARIABLES, std::env::vars_os()).unwrap_or_default();
    let named = || settings::salvaged(file.unwrap_or(&name.file()), "paths", "socket").map(PathBuf::from);
    let socket = variables.paths.socket.or_else(named);
    Config { name: name.clone(), paths: Paths { socket, ..Default::default() }, ..Config::default() }
}

/// The configuration of the agent of this name. `may_lack`: without a file it is the plain one.
///
/// # Errors
/// [`SettingsError`].
pub(super) fn load(file: Option<&Path>, name: &AgentName, may_lack: bool) -> Result<Config, SettingsError> {
    let system = name.file();
    // A plain agent may have all of it in the environment; one among several is named for its file.
    let file = file.or_else(|| (system.exists() || !(name.is_plain() || may_lack)).then_some(&*system));
    let config: Config = settings::load(file, VARIABLES, std::env::vars_os())?;
    Config { name: name.clone(), ..config }.with_enrolment()
}

/// Checked, so that the variable is named where one is to blame.
///
/// # Errors
/// [`SettingsError`].
pub(super) fn good(config: Config) -> Result<Config, SettingsError> {
    config.check().map_err(|error| error.naming_variable(VARIABLES, std::env::vars_os()))?;
    Ok(config)
}

/// As [`good`], or nothing is said of a server yet: the agent waits to be enrolled.
///
/// # Errors
/// [`SettingsError`].
pub(super) fn startable(config: Config) -> Result<Config, SettingsError> {
    if config.awaits_enrolment() { Ok(config) } else { good(config) }
}
