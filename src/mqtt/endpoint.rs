//! Where a broker is: `mqtts://host[:port]`, `wss://host[:port]/path`, or without TLS `mqtt://`, `ws://`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// The path of a WebSocket; `None` for MQTT directly over the connection.
    pub path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no broker address: {why}")]
pub struct EndpointError {
    /// As it was written, without what stands before an `@`.
    text: String,
    why: String,
}

impl Endpoint {
    /// The host is this machine, by a name or address that cannot mean another.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|why| EndpointError { text: shown(text), why })
    }
}

/// A password that was written into the address is not repeated in a log.
fn shown(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://...@{host}"),
        (None, Some((_, host))) => format!("...@{host}"),
        _ => text.to_owned(),
    }
}

fn parse(text: &str) -> Result<Endpoint, String> {
    const WRITE: &str = "write mqtts://host or mqtts://host:port";
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("there is white space in it".to_owned());
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("the scheme is missing; {WRITE}"))?;
    // RFC 3986, section 3.1: in any case.
    let (tls, websocket) = match scheme.to_ascii_lowercase().as_str() {
        "mqtts" => (true, false),
        "mqtt" => (false, false),
        "wss" => (true, true),
        "ws" => (false, true),
        _ => return Err(format!("the scheme is none of mqtts, wss, mqtt and ws; {WRITE}")),
    };
    if rest.contains('#') {
        return Err("a part after `#` means nothing to a broker; leave it out".to_owned());
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("user and password do not belong into the address (the device logs in with its token, a gateway \
                    with broker.user and broker.password); leave them out"
            .to_owned());
    }
    let path = match path {
        // What EMQX, HiveMQ and mosquitto's documentation use.
        "" => websocket.then(|| "/mqtt".to_owned()),
        path if websocket && path.starts_with('/') => Some(path.to_owned()),
        "/" => None,
        _ if websocket => return Err("there is no path before the `?`".to_owned()),
        _ => return Err("a path is for wss:// and ws:// only".to_owned()),
    };
    let (host, port) = host_and_port(scheme, authority)?;
    let default = match (websocket, tls) {
        (false, true) => 8883,
        (false, false) => 1883,
        (true, true) => 443,
        (true, false) => 80,
    };
    Ok(Endpoint { host: host.to_owned(), port: port.map_or(Ok(default), port_number)?, tls, path })
}

fn host_and_port<'a>(scheme: &str, authority: &'a str) -> Result<(&'a str, Option<&'a str>), String> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or("the bracket is not closed")?;
        // RFC 4007, section 11: a zone may follow.
        let address = host.split_once('%').map_or(host, |(address, _)| address);
        if address.parse::<Ipv6Addr>().is_err() {
            return Err("what stands in brackets is no IPv6 address".to_owned());
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(format!("`{after}` follows the bracket; write {scheme}://[{host}]:port")),
        };
    }
    if authority.matches(':').count() > 1 {
        return Err(if authority.parse::<Ipv6Addr>().is_ok() {
            format!("an IPv6 address is written in brackets: {scheme}://[{authority}]")
        } else {
            "there is more than one colon; an IPv6 address is written in brackets".to_owned()
        });
    }
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if !host.is_ascii() {
        return Err("the host is not ASCII; write its xn-- form (RFC 5890)".to_owned());
    }
    match host.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_')) {
        Some(wrong) => Err(format!("`{wrong}` cannot be in a host")),
        None => Ok((host, port)),
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.filter(|number| *number != 0).ok_or_else(|| format!("the port `{text}` is not 1 to 65535"))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (&self.path, self.tls) {
            (None, true) => "mqtts",
            (None, false) => "mqtt",
            (Some(_), true) => "wss",
            (Some(_), false) => "ws",
        };
        let path = self.path.as_deref().unwrap_or_default();
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}{path}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}{path}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_their_default_ports() {
        for (text, shown) in [
            ("mqtts://a.example", "mqtts://a.example:8883"),
            ("mqtt://127.0.0.1:1884/", "mqtt://127.0.0.1:1884"),
            ("mqtts://[::1]:9", "mqtts://[::1]:9"),
            ("wss://a.example", "wss://a.example:443/mqtt"),
            ("wss://a.example:8443/x/y", "wss://a.example:8443/x/y"),
            ("wss://a.example/x?y=@1", "wss://a.example:443/x?y=@1"),
            ("MQTTS://a_b.example", "mqtts://a_b.example:8883"),
            ("mqtts://[fe80::1%eth0]:9", "mqtts://[fe80::1%eth0]:9"),
        ] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), shown);
        }
        for (text, said) in [
            ("a.example", "scheme is missing"),
            ("http://a", "scheme is none of"),
            ("mqtts://", "host is missing"),
            ("mqtts://:1", "host is missing"),
            ("mqtts://a:0", "port `0`"),
            ("mqtts://a:", "port ``"),
            ("mqtts://a:+5", "port `+5`"),
            ("mqtts://a:70000", "port `70000`"),
            ("mqtts://a/path", "a path is for"),
            ("mqtts://a?x", "a path is for"),
            ("wss://a?x", "before the `?`"),
            ("mqtts://2001:db8::10", "mqtts://[2001:db8::10]"),
            ("mqtts://a:1:2", "more than one colon"),
            ("mqtts://[::1]27994", "write mqtts://[::1]:port"),
            ("mqtts://[::1", "not closed"),
            ("mqtts://[a.example]", "no IPv6 address"),
            ("mqtts://a#x", "`#`"),
            ("mqtts://a b", "white space"),
            (" mqtts://a", "white space"),
            ("mqtts://a,b", "`,`"),
            ("mqtts://b\u{fc}cher.example", "xn--"),
            ("mqtts://user@a", "user and password"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        let secret = "mqtts://user:p@ss@a".parse::<Endpoint>().expect_err("refused").to_string();
        assert!(secret.contains("user and password do not") && !secret.contains("ss@a"), "{secret}");
    }
}
