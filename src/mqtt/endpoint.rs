//! Where a broker is: `mqtts://host[:port]`, or `mqtt://` without TLS.

use std::fmt;
use std::str::FromStr;

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no broker address: {why}; write mqtts://host or mqtts://host:port")]
pub struct EndpointError {
    text: String,
    why: &'static str,
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
        let error = |why| EndpointError { text: text.to_owned(), why };
        let (tls, rest) = match text.split_once("://") {
            Some(("mqtts", rest)) => (true, rest),
            Some(("mqtt", rest)) => (false, rest),
            Some(_) => return Err(error("the scheme is neither mqtts nor mqtt")),
            None => return Err(error("the scheme is missing")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let default = if tls { 8883 } else { 1883 };
        let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((host, after)) => (host, after.strip_prefix(':')),
            None => match rest.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = port.map_or(Ok(default), |p| p.parse().map_err(|_| error("the port is not 1 to 65535")))?;
        if port == 0 {
            return Err(error("the port is not 1 to 65535"));
        }
        if host.is_empty() || host.contains(['/', '@', ' ', '[']) {
            return Err(error("the host is missing or malformed"));
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
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
        ] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), shown);
        }
        for text in ["a.example", "http://a", "mqtts://", "mqtts://a:0", "mqtts://a:x", "mqtts://u@a"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
