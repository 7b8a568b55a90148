//! Which environment variables are settings: not the other programs', not Kubernetes', not empty ones.

use std::ffi::{OsStr, OsString};

/// The variables of one program.
#[derive(Debug, Clone, Copy)]
pub struct Variables {
    /// `IMPUSH` for `IMPUSH_SERVER_URL`.
    pub prefix: &'static str,
    /// Beginnings that belong to other programs.
    pub not: &'static [&'static str],
}

/// A variable that is meant for this program and is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub name: String,
    /// What follows the prefix, in lower case: `server_url`.
    pub wanted: String,
    /// `Err` where it is no UTF-8.
    pub value: Result<String, ()>,
}

impl Variables {
    /// An empty variable is not set: unit files, compose files and charts have no other way to say so.
    pub(super) fn of(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> impl Iterator<Item = Variable> {
        environment.into_iter().filter_map(move |(name, value)| {
            let suffix = begins(&name, self.prefix)?.strip_prefix('_')?.to_owned();
            if value.is_empty() || self.not.iter().any(|other| begins(&name, other).is_some()) {
                return None;
            }
            let (wanted, value) = (suffix.to_ascii_lowercase(), value.into_string().map_err(drop));
            Some(Variable { name: name.to_string_lossy().into_owned(), wanted, value })
        })
    }
}

fn begins(name: &OsStr, prefix: &str) -> Option<String> {
    // The rest of a name that is no UTF-8 is told as far as it can be read: it is refused as unknown.
    name.to_string_lossy().strip_prefix(prefix).map(ToOwned::to_owned)
}

/// What Kubernetes sets in every container for a Service whose name begins like this program:
/// `..._SERVICE_HOST`, `..._SERVICE_PORT[_NAME]`, `..._PORT`, `..._PORT_443_TCP[_PROTO|_PORT|_ADDR]`
/// (kubernetes/pkg/kubelet/envvars/envvars.go).
pub(super) fn made_by_kubernetes(suffix: &str) -> bool {
    let suffix = suffix.to_ascii_lowercase();
    // The Service may have a longer name than the program: `impush-gateway-api`.
    let at = |word: &str| {
        let begin = suffix.rfind(word)?;
        (begin == 0 || suffix.as_bytes().get(begin - 1) == Some(&b'_')).then(|| &suffix[begin + word.len()..])
    };
    if at("service_host") == Some("") || at("service_port").is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    {
        return true;
    }
    let port = suffix.strip_suffix("_proto").or_else(|| suffix.strip_suffix("_addr")).unwrap_or(&suffix);
    let port = port.strip_suffix("_port").filter(|rest| is_port(rest)).unwrap_or(port);
    is_port(port) || suffix == "port" || suffix.ends_with("_port")
}

/// `port_443_tcp`, after a name or not.
fn is_port(text: &str) -> bool {
    let mut words = text.rsplit('_');
    matches!(words.next(), Some("tcp" | "udp" | "sctp"))
        && words.next().is_some_and(|number| number.parse::<u16>().is_ok())
        && words.next() == Some("port")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    const AGENT: Variables = Variables { prefix: "APP", not: &["APP_GATEWAY"] };

    fn names(pairs: &[(&[u8], &[u8])]) -> Vec<String> {
        let pairs = pairs.iter().map(|(k, v)| (OsString::from_vec(k.to_vec()), OsString::from_vec(v.to_vec())));
        AGENT.of(pairs.collect::<Vec<_>>()).map(|variable| variable.name).collect()
    }

    #[test]
    fn only_set_variables_of_this_program_are_seen_and_foreign_bytes_harm_nobody() {
        let all: &[(&[u8], &[u8])] = &[
            (b"LANG", b"\xff\xfe"),
            (b"\xff", b"x"),
            (b"APP_A", b"1"),
            (b"APP_EMPTY", b""),
            (b"APP_GATEWAY_X", b"1"),
            (b"APP_GATEWAY", b"/usr/bin/x"),
            (b"APPLE_A", b"1"),
            (b"APP", b"1"),
        ];
        assert_eq!(names(all), ["APP_A"]);
        let odd = [(OsString::from("APP_A"), OsString::from_vec(vec![0xff]))];
        assert_eq!(AGENT.of(odd).next().expect("seen").value, Err(()));
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_of_this_name_is_told_from_a_key() {
        for theirs in [
            "SERVICE_HOST",
            "SERVICE_PORT",
            "SERVICE_PORT_HTTPS",
            "PORT",
            "PORT_443_TCP",
            "PORT_443_TCP_PROTO",
            "PORT_443_TCP_PORT",
            "PORT_443_TCP_ADDR",
            "PORT_53_UDP_ADDR",
            "API_SERVICE_HOST",
            "API_PORT",
            "API_PORT_8680_TCP_ADDR",
        ] {
            assert!(made_by_kubernetes(theirs), "{theirs}");
        }
        for other in ["SERVER_URL", "API_LISTN", "SERVICE_HOSTS", "PORTS", "PORT_TCP", "PORT_X_TCP", "SERVICE"] {
            assert!(!made_by_kubernetes(other), "{other}");
        }
    }
}
