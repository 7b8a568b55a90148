//! Names that the device itself gives: its hosts file (hosts(5)), and `localhost` (RFC 6761, section 6.3).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// The file, below the root of the file system; Android's `/etc` leads to `/system/etc`.
pub(super) const FILE: &str = "etc/hosts";
/// Bytes of the file that are read. Lists that block advertisements are this long.
const MAX_BYTES: u64 = 16 << 20;
/// Most addresses of one name.
const MAX_ADDRESSES: usize = 16;

/// The addresses the file gives this name, in its order; none where it cannot be read. Blocks.
pub(super) fn addresses(file: &Path, host: &str) -> Vec<IpAddr> {
    let Ok(file) = File::open(file) else { return Vec::new() };
    let mut lines = BufReader::new(file.take(MAX_BYTES));
    let (mut found, mut line) = (Vec::new(), Vec::new());
    while found.len() < MAX_ADDRESSES {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => found.extend(std::str::from_utf8(&line).ok().and_then(|line| address_in(line, host))),
        }
    }
    found
}

fn address_in(line: &str, host: &str) -> Option<IpAddr> {
    let mut words = line.split('#').next()?.split_ascii_whitespace();
    let address = words.next()?;
    words.any(|name| name.eq_ignore_ascii_case(host)).then(|| address.parse().ok())?
}

/// The loopback addresses, for the name that means nothing else wherever it is asked for.
pub(super) fn loopback(host: &str) -> Option<Vec<IpAddr>> {
    let host = host.to_ascii_lowercase();
    (host == "localhost" || host.ends_with(".localhost"))
        .then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_gives_a_name_all_its_addresses_in_order_whatever_else_it_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("hosts");
        let text =
            b"# push.example 1\n\xff\xfe\n192.0.2.1\tedge Push.Example # no other.example\nno-address push.example\n\
            2001:db8::1 push.example\n192.0.2.9 other";
        std::fs::write(&file, text).expect("written");
        let shown = |host: &str| addresses(&file, host).iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(shown("push.example"), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(shown("other"), ["192.0.2.9"]);
        assert!(shown("other.example").is_empty() && shown("192.0.2.1").is_empty());
        assert!(addresses(&dir.path().join("missing"), "other").is_empty());
    }

    #[test]
    fn localhost_is_this_device_and_a_name_that_only_ends_so_is_not() {
        assert_eq!(loopback("LocalHost").map(|found| found.len()), Some(2));
        assert!(loopback("a.localhost").is_some() && loopback("mylocalhost").is_none());
    }
}
