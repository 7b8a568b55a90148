//! Ways through a proxy: HTTP CONNECT (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928, 1929).

use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::str::FromStr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

/// Longest answer of an HTTP proxy, in bytes.
const MAX_ANSWER: usize = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

/// A proxy's address, `http://[user:password@]host:port` or `socks5://...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: Kind,
    pub host: String,
    pub port: u16,
    login: Option<(String, Secret)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write http://host:port or socks5://host:port, with user:password@ before the host where asked for")]
pub struct ProxyError(&'static str);

/// The proxy opened no way, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProxyRefused(String);

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Kind::Http, rest),
            Some(("socks5", rest)) => (Kind::Socks5, rest),
            _ => return Err(ProxyError("the scheme is neither http nor socks5")),
        };
        let rest = rest.trim_end_matches('/');
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => {
                let (user, password) = login.split_once(':').ok_or(ProxyError("the login is not user:password"))?;
                (Some((user.to_owned(), Secret::new(password))), address)
            }
            None => (None, rest),
        };
        let (host, port) = address.rsplit_once(':').ok_or(ProxyError("the port is missing"))?;
        let port = port.parse().map_err(|_| ProxyError("the port is not a number"))?;
        if host.is_empty() {
            return Err(ProxyError("the host is missing"));
        }
        Ok(Self { kind, host: host.trim_matches(['[', ']']).to_owned(), port, login })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.kind == Kind::Http { "http" } else { "socks5" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl Proxy {
    /// Has the proxy open a way to `host:port` on a connection to it. The name is resolved there.
    ///
    /// # Errors
    /// [`ProxyRefused`] with the proxy's words.
    pub async fn open(&self, tcp: TcpStream, host: &str, port: u16) -> Result<TcpStream, ProxyRefused> {
        match self.kind {
            Kind::Http => self.connect(tcp, host, port).await,
            Kind::Socks5 => {
                let opened = match &self.login {
                    Some((user, password)) => {
                        Socks5Stream::connect_with_password_and_socket(tcp, (host, port), user, password.expose()).await
                    }
                    None => Socks5Stream::connect_with_socket(tcp, (host, port)).await,
                };
                opened.map(Socks5Stream::into_inner).map_err(|e| self.refused(&e.to_string()))
            }
        }
    }

    async fn connect(&self, mut tcp: TcpStream, host: &str, port: u16) -> Result<TcpStream, ProxyRefused> {
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some((user, password)) = &self.login {
            let login = STANDARD.encode(format!("{user}:{}", password.expose()));
            request.push_str(&format!("Proxy-Authorization: Basic {login}\r\n"));
        }
        request.push_str("\r\n");
        let broken = |e: std::io::Error| self.refused(&e.to_string());
        tcp.write_all(request.as_bytes()).await.map_err(broken)?;
        // Byte by byte: what follows the blank line belongs to the server behind.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= MAX_ANSWER {
                return Err(self.refused("an answer that does not end"));
            }
            answer.push(tcp.read_u8().await.map_err(broken)?);
        }
        let status = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
        let accepted = status.split_whitespace().nth(1).is_some_and(|code| code.starts_with('2'));
        if accepted { Ok(tcp) } else { Err(self.refused(&status)) }
    }

    fn refused(&self, why: &str) -> ProxyRefused {
        ProxyRefused(format!("{self}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_its_password_never_shown() {
        let proxy: Proxy = "socks5://ann:s3cret@[::1]:1080".parse().expect("a proxy");
        assert_eq!((proxy.host.as_str(), proxy.port), ("::1", 1080));
        assert!(!format!("{proxy} {proxy:?}").contains("s3cret"));
        for text in ["ftp://a:1", "http://a", "http://:1", "http://u@a:1", "http://a:x"] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }
}
