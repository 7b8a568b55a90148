//! Where a broker is: `mqtts://host[:port]`, `wss://host[:port]/path`, or without TLS `mqtt://`, `ws://`.

use std::fmt;
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
        let (tls, websocket, rest) = match text.split_once("://") {
            Some(("mqtts", rest)) => (true, false, rest),
            Some(("mqtt", rest)) => (false, false, rest),
            Some(("wss", rest)) => (true, true, rest),
            Some(("ws", rest)) => (false, true, rest),
            Some(_) => return Err(error("the scheme is none of mqtts, wss, mqtt and ws")),
            None => return Err(error("the scheme is missing")),
        };
        let (rest, path) = match rest.split_once('/') {
            Some((rest, path)) if websocket => (rest, Some(format!("/{path}"))),
            Some((rest, "")) => (rest, None),
            Some(_) => return Err(error("a path is for wss:// and ws:// only")),
            // What EMQX, HiveMQ and mosquitto's documentation use.
            None => (rest, websocket.then(|| "/mqtt".to_owned())),
        };
        let default = match (websocket, tls) {
            (false, true) => 8883,
            (false, false) => 1883,
            (true, true) => 443,
            (true, false) => 80,
        };
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
        Ok(Self { host: host.to_owned(), port, tls, path })
    }
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
        ] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), shown);
        }
        for text in ["a.example", "http://a", "mqtts://", "mqtts://a:0", "mqtts://a:x", "mqtts://u@a", "mqtts://a/path"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
