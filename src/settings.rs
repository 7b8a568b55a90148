//! How a program's settings come together: defaults, then a TOML file, then the environment.
//!
//! The known keys are read off the serialized defaults, so a settings type is its own schema: every
//! leaf of it can be written in the file as `section.key` and in the environment as
//! `PREFIX_SECTION_KEY`. A key that nothing knows is an error that names the nearest known one,
//! because a misspelt key that is silently ignored is a fault found in the field.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Why settings could not be used. Each asks for an edit by a person: exit code 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read {path}: {source}; create it or name another file with --config")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not valid TOML: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("unknown key `{key}` in {origin}{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey { key: String, origin: String, nearest: Option<String> },
    #[error("{message}")]
    BadValue { message: String },
}

impl SettingsError {
    /// The file is there and not for this user.
    pub fn not_permitted(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

/// Reads `file` (if any) over the defaults of `T`, then the variables that start with `prefix`.
///
/// `environment` is passed in so that a test needs no process-wide state.
///
/// # Errors
/// [`SettingsError`] names the file or variable, the key and what to write instead.
pub fn load<T: Serialize + DeserializeOwned + Default>(
    file: Option<&Path>,
    prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, SettingsError> {
    let mut table = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| SettingsError::Unreadable { path: path.into(), source })?;
            text.parse::<Table>().map_err(|e| SettingsError::Syntax { path: path.into(), message: e.to_string() })?
        }
        None => Table::new(),
    };
    let defaults = defaults_of::<T>()?;
    let known = leaves(&defaults);
    let origin = file.map_or_else(String::new, |path| path.display().to_string());
    for key in leaves_of_table(&table, &known) {
        if !known.iter().any(|(name, _)| *name == key) {
            return Err(unknown(key, origin, &known));
        }
    }
    let marker = format!("{prefix}_");
    for (name, raw) in environment {
        let Some(suffix) = name.strip_prefix(&marker) else { continue };
        let wanted = suffix.to_ascii_lowercase();
        let Some((key, default)) = known.iter().find(|(key, _)| key.replace('.', "_").to_ascii_lowercase() == wanted)
        else {
            return Err(unknown(wanted, format!("the environment ({name})"), &known));
        };
        insert(&mut table, key, parse_variable(&raw, default));
    }
    T::deserialize(Value::Table(table)).map_err(|e| SettingsError::BadValue {
        message: format!("{}: {}", if origin.is_empty() { "settings" } else { &origin }, e.to_string().trim()),
    })
}

/// Where a service keeps its state: as configured, else `$STATE_DIRECTORY` (systemd), else
/// `/var/lib/<name>` for root, else what the platform gives a user.
pub fn state_directory(configured: Option<&Path>, name: &str) -> PathBuf {
    if let Some(path) = configured {
        return path.to_owned();
    }
    service_directory("STATE_DIRECTORY").unwrap_or_else(|| {
        if rustix::process::geteuid().is_root() {
            return Path::new("/var/lib").join(name);
        }
        directories::ProjectDirs::from("", "", name).map_or_else(
            || PathBuf::from(format!(".{name}")),
            |dirs| dirs.state_dir().unwrap_or_else(|| dirs.data_dir()).to_owned(),
        )
    })
}

/// A directory systemd names in the environment. Several are separated by colons; the first is the
/// service's own.
pub fn service_directory(variable: &str) -> Option<PathBuf> {
    let value = std::env::var(variable).ok()?;
    value.split(':').next().filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Every known key with its default as JSON text, in the order of declaration.
///
/// # Errors
/// [`SettingsError::BadValue`] when the defaults themselves cannot be written.
pub fn describe<T: Serialize + Default>() -> Result<Vec<(String, String)>, SettingsError> {
    Ok(leaves(&defaults_of::<T>()?).into_iter().map(|(key, value)| (key, value.to_string())).collect())
}

/// The keys whose values differ.
pub fn changed<T: Serialize>(old: &T, new: &T) -> Vec<String> {
    let flat = |settings: &T| leaves(&serde_json::to_value(settings).unwrap_or_default());
    let (old, new) = (flat(old), flat(new));
    let differs = |(key, value): &(String, Json)| !old.iter().any(|(k, v)| k == key && v == value);
    let gone = |(key, _): &&(String, Json)| !new.iter().any(|(k, _)| k == key);
    let gone: Vec<String> = old.iter().filter(gone).map(|(key, _)| key.clone()).collect();
    new.iter().filter(|leaf| differs(leaf)).map(|(key, _)| key.clone()).chain(gone).collect()
}

fn defaults_of<T: Serialize + Default>() -> Result<Json, SettingsError> {
    serde_json::to_value(T::default()).map_err(|e| SettingsError::BadValue { message: e.to_string() })
}

fn leaves(value: &Json) -> Vec<(String, Json)> {
    fn walk(path: &str, value: &Json, out: &mut Vec<(String, Json)>) {
        match value {
            Json::Object(map) => {
                for (key, inner) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, inner, out);
                }
            }
            leaf => out.push((path.to_owned(), leaf.clone())),
        }
    }
    let mut out = Vec::new();
    walk("", value, &mut out);
    out
}

fn leaves_of_table(table: &Table, known: &[(String, Json)]) -> Vec<String> {
    fn walk(path: &str, table: &Table, known: &[(String, Json)], out: &mut Vec<String>) {
        for (key, value) in table {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match value {
                Value::Table(inner) if !known.iter().any(|(name, _)| *name == path) => walk(&path, inner, known, out),
                _ => out.push(path),
            }
        }
    }
    let mut out = Vec::new();
    walk("", table, known, &mut out);
    out
}

fn unknown(key: String, origin: String, known: &[(String, Json)]) -> SettingsError {
    let plain = |text: &str| text.replace('.', "_").to_ascii_lowercase();
    let nearest = known
        .iter()
        .map(|(name, _)| (strsim::jaro_winkler(&plain(name), &plain(&key)), name))
        .filter(|(score, _)| *score > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.clone());
    SettingsError::UnknownKey { key, origin, nearest }
}

fn parse_variable(raw: &str, default: &Json) -> Value {
    match default {
        Json::Null | Json::String(_) => Value::String(raw.to_owned()),
        Json::Array(_) if !raw.trim_start().starts_with('[') => Value::Array(
            raw.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| Value::String(s.to_owned())).collect(),
        ),
        _ => format!("value = {raw}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::String(raw.to_owned())),
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section.to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::io::Write as _;

    #[derive(Debug, Serialize, Deserialize, PartialEq, Default)]
    #[serde(default)]
    struct Sample {
        server: Server,
        names: Vec<String>,
    }

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    #[serde(default)]
    struct Server {
        url: Option<String>,
        linger_s: u64,
    }

    impl Default for Server {
        fn default() -> Self {
            Self { url: None, linger_s: 60 }
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let file = file("[server]\nurl = 'mqtts://a'\nlinger_s = 5\n");
        let read: Sample = load(Some(file.path()), "APP", env(&[("APP_SERVER_LINGER_S", "7"), ("APP_NAMES", "a, b")]))
            .expect("settings");
        assert_eq!(read.server, Server { url: Some("mqtts://a".into()), linger_s: 7 });
        assert_eq!(read.names, ["a", "b"]);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let file = file("[server]\nlingr_s = 5\n");
        let error = load::<Sample>(Some(file.path()), "APP", env(&[])).expect_err("unknown key").to_string();
        assert!(error.contains("`server.lingr_s`") && error.contains("`server.linger_s`"), "{error}");
    }

    #[test]
    fn an_unknown_variable_with_the_prefix_is_refused_too() {
        let error = load::<Sample>(None, "APP", env(&[("APP_SERVER_URI", "x")])).expect_err("unknown").to_string();
        assert!(error.contains("APP_SERVER_URI") && error.contains("server.url"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_the_key() {
        let file = file("[server]\nlinger_s = 'soon'\n");
        let error = load::<Sample>(Some(file.path()), "APP", env(&[])).expect_err("bad value").to_string();
        assert!(error.contains("linger_s") || error.contains("soon"), "{error}");
    }
}
