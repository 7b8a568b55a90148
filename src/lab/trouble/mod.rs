//! Trouble on the way between a device and its server, emulated: one command for each kind, so that an
//! operator can try a device of his own against it.

mod bursts;
mod dns;
mod dnsproxyd;
mod ip;
mod large;
mod logdw;
mod names;
mod portal;
mod rotate;
mod routes;
mod silent;

use std::io;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Trouble {
    /// Keep routes as Android's netd does: a table for each network, and a rule that chooses one
    Routes(routes::Options),
    /// Ring the bell without an end: a foreign link that comes and goes
    Bursts(bursts::Options),
    /// Rotate a temporary IPv6 address (RFC 8981)
    Rotate(rotate::Options),
    /// A captive portal: answers TLS with a certificate of its own and HTTP with a redirection, until `open` is said on
    /// standard input; then it relays
    Portal(portal::Options),
    /// Android's resolver at its socket, of one Android or another, well or not
    Dnsproxyd(dnsproxyd::Options),
    /// A name server whose names move; `move NAME ADDRESS`, `forget NAME`, `fail`, `hang` and `mend` on standard input
    Names(names::Options),
    /// A server that takes connections and is silent from a step on
    Silent(silent::Options),
    /// Android's log daemon at its socket: each record is printed as logcat shows it
    Logdw(logdw::Options),
    /// Lose large packets without a word, as behind a tunnel whose ICMP is filtered
    Large(large::Options),
}

/// # Errors
/// The system's, what `ip` says, or an address or socket that cannot be listened on.
pub(super) async fn run(trouble: Trouble) -> io::Result<()> {
    match trouble {
        Trouble::Routes(options) => routes::serve(options).await,
        Trouble::Bursts(options) => bursts::serve(options).await,
        Trouble::Rotate(options) => rotate::serve(options).await,
        Trouble::Portal(options) => portal::serve(options).await,
        Trouble::Dnsproxyd(options) => dnsproxyd::serve(options).await,
        Trouble::Names(options) => names::serve(options).await,
        Trouble::Silent(options) => silent::serve(options).await,
        Trouble::Logdw(options) => logdw::serve(options).await,
        Trouble::Large(options) => large::serve(options).await,
    }
}
