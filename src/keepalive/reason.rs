//! Why a link ended, as a numbered list, and what each cause asks for.
//!
//! The numbers never change meaning: operators count by them. The same word stands in the log, in
//! `impush status` and in metric labels.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What to do after a link ended or an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// A fault on this side or on the way: at once if the link had been stable, else back off.
    Retry,
    /// The server asked for quiet, or trying fast cannot help: long pauses.
    Slow,
    /// Another holds what this device wants: minutes between attempts.
    Patient,
    /// Only a person, a new password or a new login can help, where the login never worked.
    Stop,
}

macro_rules! causes {
    ($($number:literal $name:ident $word:literal $recovery:ident $text:literal),* $(,)?) => {
        /// Why a link ended or an attempt failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Cause { $(#[doc = $text] $name),* }

        impl Cause {
            /// Every cause, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number),* }
            }

            /// The word used in logs, status and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// A sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            pub const fn recovery(self) -> Recovery {
                match self { $(Self::$name => Recovery::$recovery),* }
            }
        }
    };
}

causes! {
    1 PongLost "pong_lost" Retry "no answer to a ping within its deadline",
    2 AckLost "ack_lost" Retry "no acknowledgement of a sent packet within its deadline",
    3 WriteStalled "write_stalled" Retry "the peer stopped reading: a write could not finish",
    4 AddressGone "address_gone" Retry "the address this connection was bound to left the device",
    5 NetworkChanged "network_changed" Retry "the network changed and the connection did not answer on the new one",
    6 PeerClosed "peer_closed" Retry "the server closed the connection without a reason",
    7 Io "io_error" Retry "the connection broke",
    8 Suspended "suspended" Retry "the device slept longer than the connection can live",
    10 DnsFailed "dns_failed" Retry "the server's name could not be resolved",
    11 ConnectRefused "connect_refused" Retry "nothing listens at the server's address",
    12 ConnectTimeout "connect_timeout" Retry "the server did not answer in time",
    13 Unreachable "network_unreachable" Retry "there is no route to the server",
    14 ProxyRefused "proxy_refused" Slow "the proxy refused to open the connection",
    15 Superseded "superseded" Retry "an earlier CONNECT of this device, given up for another way, took over",
    20 TlsUntrusted "tls_untrusted" Slow "the server's certificate is not signed by a trusted authority; check server.ca_file",
    21 TlsExpired "tls_expired" Slow "the server's certificate has expired; renew it on the server",
    22 TlsWrongName "tls_wrong_name" Slow "the server's certificate is for another host name; check server.url",
    23 TlsNotYetValid "tls_not_yet_valid" Slow "the server's certificate is not valid yet by this device's clock; check the clock",
    24 TlsFailed "tls_failed" Slow "the TLS handshake failed",
    25 TlsVersion "tls_version" Slow "the server does not speak TLS 1.3, or something before it does not let it",
    26 TlsBadSignature "tls_bad_signature" Slow "the server's signature does not hold: its key is too weak (RSA below 2048 bits), or the certificate is another's",
    27 TlsOwnCertificate "tls_own_certificate" Slow "the server wants a certificate of this device, and not this one or none; check server.client_certificate",
    30 ServerBusy "server_busy" Slow "the server is busy",
    31 QuotaExceeded "quota_exceeded" Slow "the server's quota is used up",
    32 ServerUnavailable "server_unavailable" Slow "the server is not available",
    33 UseAnotherServer "use_another_server" Retry "the server sends this device to another server",
    34 ServerMoved "server_moved" Retry "the server has moved",
    35 ServerShutdown "server_shutting_down" Retry "the server is shutting down",
    36 ProtocolError "protocol_error" Slow "the server broke the protocol",
    37 Refused "refused" Slow "the server refused the connection",
    38 NotMqtt5 "not_mqtt5" Slow "the server does not speak MQTT 5",
    40 BadCredentials "bad_credentials" Stop "the user name or password is wrong; log in again",
    41 NotAuthorized "not_authorized" Stop "this login is not authorized; log in again",
    42 Banned "banned" Stop "this device or user is banned",
    43 TakenOver "taken_over" Patient "another connection with this device's id took over; two machines may share one state directory",
    44 Kicked "kicked" Stop "the gateway ended this login",
    45 ClientIdRefused "client_id_refused" Stop "the server refuses this device's client id",
    46 LoginExpired "login_expired" Stop "this login has expired; log in again",
    50 Requested "requested" Retry "an operator asked for a new connection",
    51 LingerOver "linger_over" Stop "the vendor channel delivers; no app is attached",
    52 Shutdown "shutdown" Stop "the agent is stopping",
    53 LoggedOut "logged_out" Stop "the user logged out",
    54 Reconfigured "reconfigured" Retry "the configuration names another server, or another way to it",
    55 GatewaySilent "gateway_silent" Slow "the broker accepted this device, and no gateway answered it on that connection",
    60 RetainRefused "retain_refused" Retry "the broker keeps no retained messages; the connection is made without",
    61 QosRefused "qos_refused" Retry "the broker takes no QoS 1; the connection is made with QoS 0, and messages may be lost on the way",
    62 PacketTooLarge "packet_too_large" Slow "the broker takes no packet as large as this device's; raise its maximum packet size to 96 KiB",
}

impl Cause {
    /// The way under the connection ended it: that says nothing of the server.
    pub const fn is_the_networks(self) -> bool {
        matches!(self, Self::AddressGone | Self::NetworkChanged | Self::Suspended)
    }

    /// The TLS handshake did not come to a good end.
    pub const fn is_tls(self) -> bool {
        matches!(
            self,
            Self::TlsUntrusted
                | Self::TlsExpired
                | Self::TlsWrongName
                | Self::TlsNotYetValid
                | Self::TlsFailed
                | Self::TlsVersion
                | Self::TlsBadSignature
                | Self::TlsOwnCertificate
        )
    }

    /// TCP found nobody at the server's address.
    pub const fn is_no_answer(self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::ConnectRefused | Self::Unreachable)
    }

    /// Something answered that is not the server: a captive portal, or a proxy that looks into TLS.
    pub const fn is_another_in_its_place(self) -> bool {
        matches!(
            self,
            Self::TlsUntrusted | Self::TlsWrongName | Self::TlsFailed | Self::TlsVersion | Self::TlsBadSignature
        )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_words_are_unique() {
        let numbers: HashSet<_> = Cause::ALL.iter().map(|c| c.number()).collect();
        let words: HashSet<_> = Cause::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!((numbers.len(), words.len()), (Cause::ALL.len(), Cause::ALL.len()));
    }
}
