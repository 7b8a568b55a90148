//! What a client that wants to enter shows, and who is asked about it: the store about a login, the exchange about a code.

use super::connection::Shared;
use super::table::{Full, Place};
use crate::gateway::door::Refused;
use crate::gateway::store::Enrolling;
use crate::mqtt::server::{Ask, Own, Refusal};
use crate::protocol::{Address, END_PROPERTY, ENROL_USER, EnrolAnswer, EnrolRefusal, Leg, PROBE_SUFFIX, enrol_topic};
use rumqttc::v5::mqttbytes::v5::ConnectReturnCode;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long the answer may take; then the device is asked to come later.
const WITHIN: Duration = Duration::from_secs(10);

/// What was found.
pub(super) enum Found {
    /// Whether it may enter, and as whom; as of so many logins that had ended.
    Login(Box<Ask>, Result<Option<Address>, Refused>, u64),
    /// What came of its enrolment code, and where it hears of it.
    Code(EnrolAnswer, Own),
    /// It says no device.
    Nobody(Refusal),
}

pub(super) type Asking = Pin<Box<dyn Future<Output = Found> + Send>>;

pub(super) fn asked(ask: Box<Ask>, shared: &Arc<Shared>, from: IpAddr) -> Asking {
    let shared = shared.clone();
    Box::pin(async move {
        let Shared { door, table, enrolment, .. } = &*shared;
        if ask.user.as_deref() != Some(ENROL_USER) {
            let ended = table.ended();
            let answer = door.admit(&ask.client_id, ask.user.as_deref(), ask.password.expose());
            let late = |_| Err(Refused::Unknown("it does not answer in time".to_owned()));
            let answer = timeout(WITHIN, answer).await.unwrap_or_else(late);
            return Found::Login(ask, answer, ended);
        }
        let Some(address) = Address::from_client_id(&ask.client_id) else {
            let why = EnrolRefusal::BadDevice.to_string();
            return Found::Nobody(Refusal { code: ConnectReturnCode::ClientIdentifierNotValid, why, end: None });
        };
        let own = Own { down: enrol_topic(&address), ..Own::default() };
        let Address { app, user, device } = address;
        let (app, serial, device) = (app.into(), user.into(), device.into());
        let exchange = enrolment.exchange(Enrolling { app, secret: ask.password, device, serial }, Some(from));
        let late = |_| EnrolAnswer::refused(EnrolRefusal::Unavailable);
        Found::Code(timeout(WITHIN, exchange).await.unwrap_or_else(late), own)
    })
}

/// In MQTT's words.
fn refusal(refused: &Refused, client: &str) -> Refusal {
    let code = match refused {
        Refused::ClientId(_) => ConnectReturnCode::ClientIdentifierNotValid,
        Refused::Token(_) => ConnectReturnCode::BadUserNamePassword,
        Refused::NotItsOwn | Refused::Ended(_) => ConnectReturnCode::NotAuthorized,
        Refused::Crowded => ConnectReturnCode::ServerBusy,
        Refused::Unknown(_) => ConnectReturnCode::ServerUnavailable,
    };
    let end = match refused {
        Refused::Ended(code) => Some((END_PROPERTY, u16::from(*code))),
        _ => None,
    };
    tracing::info!(event = "broker.refused", client, reason = %refused, "a connection was refused");
    Refusal { code, why: refused.to_string(), end }
}

/// What comes of a client that wants to enter.
pub(super) enum Entry {
    In {
        /// `None`: it only probes the network.
        address: Option<Address>,
        place: Place,
        own: Own,
    },
    /// A login has ended meanwhile, and whether it was this one is asked again.
    Again,
    Out(Refusal),
}

pub(super) fn enter(ask: &Ask, answer: Result<Option<Address>, Refused>, ended: u64, shared: &Shared) -> Entry {
    let refuse = |code, why: String| Entry::Out(Refusal { code, why, end: None });
    let Shared { door, table, stop, .. } = shared;
    if stop.is_cancelled() {
        return refuse(ConnectReturnCode::ServerUnavailable, "the gateway ends".to_owned());
    }
    let user = match answer {
        Ok(user) => user,
        Err(refused) => return Entry::Out(refusal(&refused, &ask.client_id)),
    };
    let by_will = || ask.will_topic.as_deref().and_then(|topic| door.owner(&ask.client_id, topic));
    let probes = ask.client_id.ends_with(PROBE_SUFFIX);
    let address = if probes { None } else { user.or_else(by_will) };
    if address.is_none() && !probes {
        let why = "a device id this long needs a token that names it, or a will on its `state`".to_owned();
        return refuse(ConnectReturnCode::ClientIdentifierNotValid, why);
    }
    let own = address.as_ref().map_or_else(Own::default, |address| Own {
        down: door.topics.topic(address, Leg::Down),
        up: door.topics.topic(address, Leg::Up),
        state: door.topics.topic(address, Leg::State),
    });
    if ask.will_topic.as_ref().is_some_and(|topic| *topic != own.state && *topic != own.up) {
        return refuse(ConnectReturnCode::NotAuthorized, "the will is not on an own topic".to_owned());
    }
    let place = match table.enter(&ask.client_id, ask.max_packet, Instant::now()) {
        Ok(place) => place,
        Err(full @ Full::Contended) => return refuse(ConnectReturnCode::ConnectionRateExceeded, full.to_string()),
        Err(full @ Full::User) => return refuse(ConnectReturnCode::QuotaExceeded, full.to_string()),
    };
    if table.ended() != ended {
        // From now on it is found in the table by whoever ends it.
        table.leave(&ask.client_id, &place);
        return Entry::Again;
    }
    Entry::In { address, place, own }
}
