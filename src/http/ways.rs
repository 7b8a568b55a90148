//! Which way leads to a host: straight, or through a proxy.

use crate::proxy::{Proxy, ProxyError};

/// A proxy, and the hosts that are reached without it. The default is no proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    proxy: Option<Proxy>,
    straight: Vec<String>,
}

impl Ways {
    /// `straight`: names and addresses, each with all that is below it (`example.com` is for `a.example.com` too, with
    /// or without a dot before it), or `*` for all.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub fn new<'s>(proxy: &str, straight: impl IntoIterator<Item = &'s str>) -> Result<Self, ProxyError> {
        let straight = straight.into_iter().map(|host| host.trim().trim_start_matches('.').to_ascii_lowercase());
        Ok(Self { proxy: Some(proxy.parse()?), straight: straight.filter(|host| !host.is_empty()).collect() })
    }

    /// What `HTTPS_PROXY` and `NO_PROXY` say, in capitals or not.
    ///
    /// # Errors
    /// [`ProxyError`] with what the variable holds.
    pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let either = |name: &str| variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
        let Some(proxy) = either("HTTPS_PROXY").filter(|proxy| !proxy.is_empty()) else { return Ok(Self::default()) };
        // As curl has it, a proxy without a scheme speaks HTTP.
        let proxy = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
        Self::new(&proxy, either("NO_PROXY").unwrap_or_default().split(','))
    }

    /// The proxy through which this host is reached.
    pub fn to(&self, host: &str) -> Option<&Proxy> {
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let is_below = |of: &String| {
            of == "*" || host.strip_suffix(of.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.proxy.as_ref().filter(|_| !self.straight.iter().any(is_below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_named_and_all_below_them_are_reached_straight() {
        let ways = Ways::new("http://proxy:3128", ["example.com", " .corp", "10.0.0.1", "::1", ""]).expect("ways");
        for straight in ["example.com", "A.Example.com", "x.corp", "corp", "10.0.0.1", "[::1]"] {
            assert!(ways.to(straight).is_none(), "{straight}");
        }
        for proxied in ["badexample.com", "example.com.evil", "api.push.apple.com", "110.0.0.1"] {
            assert!(ways.to(proxied).is_some(), "{proxied}");
        }
        assert!(Ways::new("http://p:1", ["*"]).expect("ways").to("a").is_none());
        assert!(Ways::default().to("a").is_none());
    }

    #[test]
    fn the_environments_words_are_read() {
        let of = |all: &'static [(&str, &str)]| {
            Ways::of_environment(|name| all.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[]), Ok(Ways::default()));
        assert_eq!(of(&[("HTTPS_PROXY", "")]), Ok(Ways::default()));
        let ways = of(&[("https_proxy", "proxy:3128"), ("NO_PROXY", "a.example,b.example")]).expect("ways");
        assert_eq!(ways.to("c").map(ToString::to_string).as_deref(), Some("http://proxy:3128"));
        assert!(ways.to("b.example").is_none());
        assert!(of(&[("HTTPS_PROXY", "ftp://proxy:1")]).is_err());
    }
}
