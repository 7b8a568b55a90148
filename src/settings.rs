//! How a program's settings come together: defaults, then a TOML file, then the environment.
//!
//! The known keys are read off the serialized defaults, so a settings type is its own schema: every
//! leaf of it can be written in the file as `section.key` and in the environment as
//! `PREFIX_SECTION_KEY`. A key that nothing knows is an error that names the nearest known one,
//! because a misspelt key that is silently ignored is a fault found in the field.

mod environment;

pub use environment::Variables;

use environment::{Variable, made_by_kubernetes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Why settings could not be used. Each asks for an edit by a person: exit code 78 (`EX_CONFIG`).
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{path} does not exist; create it or name another file with --config")]
    Missing { path: PathBuf },
    #[error("this user may not read {path}; run as root or as the service's user, or give the file to its group")]
    NotPermitted { path: PathBuf },
    #[error("{path}, line {line}, column {column}: the text is no UTF-8{hint}; save the file as UTF-8")]
    Encoding { path: PathBuf, line: usize, column: usize, hint: &'static str },
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} is not valid TOML: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("unknown key `{key}` in {origin}{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey { key: String, origin: String, nearest: Option<String> },
    #[error("{name} in the environment is no UTF-8; set it anew, or unset it")]
    VariableEncoding { name: String },
    #[error("{name} in the environment: {message}")]
    BadVariable { name: String, message: String },
    #[error("{message}")]
    BadValue { message: String },
}

impl SettingsError {
    /// The file is there and not for this user.
    pub const fn not_permitted(&self) -> bool {
        matches!(self, Self::NotPermitted { .. })
    }

    /// The file is there, and what it says cannot be used.
    pub const fn is_broken_file(&self) -> bool {
        matches!(self, Self::Encoding { .. } | Self::Syntax { .. } | Self::UnknownKey { .. } | Self::BadValue { .. })
    }

    /// The same, naming the variable where one has set the key that the message begins with.
    #[must_use]
    pub fn naming_variable(
        self,
        variables: Variables,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let Self::BadValue { message } = self else { return self };
        let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        let key: String = message.chars().take_while(|c| is_key(*c)).collect();
        match variables.of(environment).find(|variable| variable.wanted == as_variable(&key)) {
            Some(Variable { name, .. }) => Self::BadVariable { name, message },
            None => Self::BadValue { message },
        }
    }
}

/// Reads `file` (if any) over the defaults of `T`, then the program's `variables`.
///
/// `environment` is passed in so that a test needs no process-wide state.
///
/// # Errors
/// [`SettingsError`] names the file or variable, the key and what to write instead.
pub fn load<T: Serialize + DeserializeOwned + Default>(
    file: Option<&Path>,
    variables: Variables,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<T, SettingsError> {
    let mut table = match file {
        Some(path) => read_text(path)?
            .parse::<Table>()
            .map_err(|e| SettingsError::Syntax { path: path.into(), message: e.to_string() })?,
        None => Table::new(),
    };
    let defaults = defaults_of::<T>()?;
    let known = leaves(&defaults);
    let origin = file.map_or_else(|| "settings".to_owned(), |path| path.display().to_string());
    for key in leaves_of_table(&table, &known) {
        if !known.iter().any(|(name, _)| *name == key) {
            return Err(unknown(key, origin, &known));
        }
    }
    let read = |table: &Table| T::deserialize(Value::Table(table.clone())).map_err(|e| e.to_string().trim().to_owned());
    let mut value =
        read(&table).map_err(|message| SettingsError::BadValue { message: format!("{origin}: {message}") })?;
    for Variable { name, wanted, value: raw } in variables.of(environment) {
        let Some((key, default)) = known.iter().find(|(key, _)| as_variable(key) == wanted) else {
            if made_by_kubernetes(&wanted) {
                continue;
            }
            return Err(unknown(wanted, format!("the environment ({name})"), &known));
        };
        let Ok(raw) = raw else { return Err(SettingsError::VariableEncoding { name }) };
        insert(&mut table, key, parse_variable(&raw, default));
        // One at a time, so that the one that is wrong is known.
        value = read(&table).map_err(|message| SettingsError::BadVariable { name, message })?;
    }
    Ok(value)
}

/// What a file says of one key, as far as it can be read: the rest of it may be broken.
pub fn salvaged(file: &Path, section: &str, key: &str) -> Option<String> {
    let bytes = read_bytes(file).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (table, _) = toml::de::DeTable::parse_recoverable(&text);
    let section = table.get_ref().get(section)?.get_ref().as_table()?;
    section.get(key)?.get_ref().as_str().map(ToOwned::to_owned)
}

/// Settings are lines, not data: a file that is larger was named by mistake.
const LARGEST: u64 = 4 << 20;

fn read_bytes(path: &Path) -> Result<Vec<u8>, SettingsError> {
    let owned = || path.to_owned();
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SettingsError::Missing { path: owned() },
        io::ErrorKind::PermissionDenied => SettingsError::NotPermitted { path: owned() },
        _ => SettingsError::Unreadable { path: owned(), source },
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    io::Read::read_to_end(&mut io::Read::take(file, LARGEST), &mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 == LARGEST {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a configuration")));
    }
    Ok(bytes)
}

fn read_text(path: &Path) -> Result<String, SettingsError> {
    String::from_utf8(read_bytes(path)?).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
        let hint = match error.as_bytes() {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => " but looks like UTF-16",
            _ => "",
        };
        SettingsError::Encoding { path: path.to_owned(), line, column, hint }
    })
}

/// A key as its variable is written after the prefix, in lower case.
fn as_variable(key: &str) -> String {
    key.replace('.', "_").to_ascii_lowercase()
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
    let value = std::env::var_os(variable)?;
    let first = value.as_bytes().split(|byte| *byte == b':').next()?;
    (!first.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(first)))
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
    let nearest = known
        .iter()
        .map(|(name, _)| (strsim::jaro_winkler(&as_variable(name), &as_variable(&key)), name))
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
    use std::os::unix::ffi::OsStringExt as _;

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

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect()
    }

    const APP: Variables = Variables { prefix: "APP", not: &["APP_GATEWAY"] };

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let file = file("[server]\nurl = 'mqtts://a'\nlinger_s = 5\n");
        let read: Sample = load(Some(file.path()), APP, env(&[("APP_SERVER_LINGER_S", "7"), ("APP_NAMES", "a, b")]))
            .expect("settings");
        assert_eq!(read.server, Server { url: Some("mqtts://a".into()), linger_s: 7 });
        assert_eq!(read.names, ["a", "b"]);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let file = file("[server]\nlingr_s = 5\n");
        let error = load::<Sample>(Some(file.path()), APP, env(&[])).expect_err("unknown key").to_string();
        assert!(error.contains("`server.lingr_s`") && error.contains("`server.linger_s`"), "{error}");
    }

    #[test]
    fn an_unknown_variable_with_the_prefix_is_refused_too() {
        let error = load::<Sample>(None, APP, env(&[("APP_SERVER_URI", "x")])).expect_err("unknown").to_string();
        assert!(error.contains("APP_SERVER_URI") && error.contains("server.url"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_the_key() {
        let file = file("[server]\nlinger_s = 'soon'\n");
        let error = load::<Sample>(Some(file.path()), APP, env(&[])).expect_err("bad value").to_string();
        assert!(error.contains("linger_s") || error.contains("soon"), "{error}");
    }

    #[test]
    fn a_variable_that_is_wrong_is_named_and_not_the_file() {
        let file = file("[server]\nlinger_s = 5\n");
        let set = |name, value| load::<Sample>(Some(file.path()), APP, [(OsString::from(name), value)]);
        let error = set("APP_SERVER_LINGER_S", "soon".into()).expect_err("no number").to_string();
        assert!(error.contains("APP_SERVER_LINGER_S") && !error.contains(&*file.path().to_string_lossy()), "{error}");
        let error = set("APP_SERVER_LINGER_S", OsString::from_vec(vec![b'5', 0xff])).expect_err("no text").to_string();
        assert!(error.contains("APP_SERVER_LINGER_S"), "{error}");
        for harmless in ["APP_GATEWAY_API", "APP_SERVICE_HOST", "APP_PORT_443_TCP_ADDR"] {
            assert!(set(harmless, "x".into()).is_ok(), "{harmless}");
        }
        assert_eq!(set("APP_SERVER_LINGER_S", "".into()).expect("not set").server.linger_s, 5);
    }

    #[test]
    fn a_value_out_of_its_range_is_blamed_on_the_variable_that_set_it() {
        let range = || SettingsError::BadValue { message: "server.linger_s is 9; 0 to 5".to_owned() };
        let named = range().naming_variable(APP, env(&[("APP_SERVER_LINGER_S", "9")])).to_string();
        assert!(named.starts_with("APP_SERVER_LINGER_S"), "{named}");
        let file = range().naming_variable(APP, env(&[("APP_SERVER_URL", "9")])).to_string();
        assert!(file.starts_with("server.linger_s"), "{file}");
    }

    #[test]
    fn each_way_a_file_cannot_be_read_has_words_of_its_own() {
        let of = |path: &Path| load::<Sample>(Some(path), APP, env(&[])).expect_err("refused").to_string();
        let directory = tempfile::tempdir().expect("a directory");
        let missing = of(&directory.path().join("no.toml"));
        assert!(missing.contains("does not exist"), "{missing}");
        let is_directory = of(directory.path());
        assert!(is_directory.contains("directory") && !is_directory.contains("create"), "{is_directory}");
        let latin = directory.path().join("latin.toml");
        std::fs::write(&latin, b"# fine\n# caf\xe9\n").expect("written");
        assert!(of(&latin).contains("line 2, column 6"), "{}", of(&latin));
        std::fs::write(&latin, b"\xff\xfe[\0").expect("written");
        assert!(of(&latin).contains("UTF-16"), "{}", of(&latin));
        std::fs::write(&latin, "\u{feff}[server]\nlinger_s = 7\n").expect("written");
        assert_eq!(load::<Sample>(Some(&latin), APP, env(&[])).expect("a mark is no error").server.linger_s, 7);
    }

    #[test]
    fn one_key_is_found_in_a_file_that_is_broken_elsewhere() {
        let file = file("[server]\nurl = \nlinger_s == 5\n[paths]\nsocket = '/run/x'\n");
        assert!(matches!(load::<Sample>(Some(file.path()), APP, env(&[])), Err(SettingsError::Syntax { .. })));
        assert_eq!(salvaged(file.path(), "paths", "socket").as_deref(), Some("/run/x"));
        assert_eq!(salvaged(file.path(), "paths", "state"), None);
    }
}
