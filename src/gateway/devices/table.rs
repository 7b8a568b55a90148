//! Who is connected here: a device's connection by its client id.

use super::link::{Carried, End, Ends, Link};
use crate::gateway::greetings::HELD;
use crate::gateway::outgoing::Word;
use crate::ids::Nonce;
use crate::protocol::{Address, END_PROPERTY, KickCode, PROBE_SUFFIX};
use bytes::Bytes;
use futures_channel::mpsc;
use rumqttc::v5::mqttbytes::v5::DisconnectReasonCode;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What waits for a connection's task; what comes beyond it is not sent, and the ack deadline sees that.
const ORDERS: usize = 32 + HELD;
/// Bytes of a publish beside its body: the header, a topic of three ids, the packet id.
const OVERHEAD: usize = 256;
/// A user's connections, probes of the network counted: a token that is bound to no device could open any number.
const MOST_OF_A_USER: usize = 200;
/// A client id that is taken over so often within [`CONTENDED`] is two machines' ...
const TAKEOVERS: usize = 3;
const CONTENDED: Duration = Duration::from_secs(30);
/// ... and the newcomer loses if the one that is there was heard so short a time ago.
const HEARD: Duration = Duration::from_secs(5);

/// What a connection's task is told.
#[derive(Debug)]
pub(super) enum Order {
    Deliver(Bytes, Option<Arc<str>>),
    End {
        code: DisconnectReasonCode,
        end: Option<(&'static str, u16)>,
    },
    /// The device has come in at another gateway: if this connection is the one it left, it ends.
    Moved(Nonce),
}

/// What became of a message for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    Written,
    /// It is not connected here.
    NotHere,
    /// It does not take what it was given before.
    Full,
    /// It takes no packet as large.
    TooLarge {
        most: u32,
    },
}

/// Why a connection has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("two machines take each other's place under this client id")]
    Contended,
    #[error("this user has {MOST_OF_A_USER} connections already")]
    User,
}

/// One connection in the table.
#[derive(Debug)]
struct Entry {
    orders: mpsc::Sender<Order>,
    /// The most bytes of a packet that the device takes.
    max_packet: u32,
    /// Tells it from a later one of the same client id.
    number: u64,
    link: Arc<Link>,
    /// When the last ones were taken over.
    takeovers: Vec<Instant>,
}

#[derive(Debug, Default)]
struct Connected {
    by_client: HashMap<String, Entry>,
    /// How many each user has.
    by_user: HashMap<String, usize>,
    last: u64,
    /// Logins that have ended since the start.
    ended: u64,
    ends: Ends,
}

impl Connected {
    fn remove(&mut self, client_id: &str) {
        if self.by_client.remove(client_id).is_none() {
            return;
        }
        let user = user_of(client_id);
        if let Some(of_user) = self.by_user.get_mut(&user) {
            *of_user -= 1;
            if *of_user == 0 {
                self.by_user.remove(&user);
            }
        }
    }
}

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<Mutex<Connected>>);

/// A place in the table, for as long as the connection stands.
#[derive(Debug)]
pub(super) struct Place {
    pub orders: mpsc::Receiver<Order>,
    pub link: Arc<Link>,
    number: u64,
}

impl Table {
    fn all(&self) -> MutexGuard<'_, Connected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a message to the device's connection.
    pub fn deliver(&self, address: &Address, word: Word) -> Given {
        self.order(&address.client_id(), Order::Deliver(word.payload, word.message.map(|id| id.as_str().into())))
    }

    /// The device has left that connection for one at another gateway.
    pub fn moved(&self, address: &Address, nonce: Nonce) {
        self.order(&address.client_id(), Order::Moved(nonce));
    }

    /// Says the same to one client, by its id.
    pub fn say(&self, client_id: &str, payload: Bytes) {
        self.order(client_id, Order::Deliver(payload, None));
    }

    /// Ends the device's connection. `false`: it has none here.
    pub(super) fn end(&self, client_id: &str, order: Order) -> bool {
        self.order(client_id, order) == Given::Written
    }

    /// The client's login has ended: it is told, and so is its probe. One that takes nothing loses its place, which ends
    /// it too.
    pub fn end_login(&self, client_id: &str, code: KickCode) {
        self.all().ended += 1;
        for id in [client_id, &format!("{client_id}{PROBE_SUFFIX}")] {
            let end = Some((END_PROPERTY, u16::from(code)));
            let order = Order::End { code: DisconnectReasonCode::NotAuthorized, end };
            if self.order(id, order) == Given::Full {
                self.all().remove(id);
            }
        }
    }

    /// How many logins have ended: if more have once a client has its place, its own may be among them.
    pub(super) fn ended(&self) -> u64 {
        self.all().ended
    }

    fn order(&self, client_id: &str, order: Order) -> Given {
        let mut all = self.all();
        let Some(entry) = all.by_client.get_mut(client_id) else { return Given::NotHere };
        if let Order::Deliver(payload, _) = &order
            && payload.len() + OVERHEAD > entry.max_packet as usize
        {
            return Given::TooLarge { most: entry.max_packet };
        }
        match entry.orders.try_send(order) {
            Ok(()) => Given::Written,
            Err(error) if error.is_full() => Given::Full,
            Err(_) => Given::NotHere,
        }
    }

    /// Gives a connection its client id's place and ends the one that had it.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) fn enter(&self, client_id: &str, max_packet: u32, now: Instant) -> Result<Place, Full> {
        // Not tokio's, which keeps room for 32 of them for each idle device: 2 kB. This one holds one more for its sender.
        let (sender, orders) = mpsc::channel(ORDERS - 1);
        let mut all = self.all();
        let mut takeovers = Vec::new();
        if let Some(old) = all.by_client.get_mut(client_id)
            && !old.orders.is_closed()
        {
            takeovers.append(&mut old.takeovers);
            takeovers.retain(|at| now.duration_since(*at) < CONTENDED);
            if takeovers.len() >= TAKEOVERS && old.link.silent(now) < HEARD {
                old.takeovers = takeovers;
                return Err(Full::Contended);
            }
            takeovers.push(now);
            let code = DisconnectReasonCode::SessionTakenOver;
            // One whose queue is full ends when its place is gone.
            let _ = old.orders.try_send(Order::End { code, end: None });
        }
        if !all.by_client.contains_key(client_id) {
            let of_user = all.by_user.entry(user_of(client_id)).or_default();
            if *of_user >= MOST_OF_A_USER {
                return Err(Full::User);
            }
            *of_user += 1;
        }
        all.last += 1;
        let number = all.last;
        let link = Arc::new(Link::new(now));
        let entry = Entry { orders: sender, max_packet, number, link: link.clone(), takeovers };
        all.by_client.insert(client_id.to_owned(), entry);
        Ok(Place { orders, link, number })
    }

    /// The connection is over. `false`: another one has its place.
    pub(super) fn leave(&self, client_id: &str, place: &Place) -> bool {
        let mut all = self.all();
        let own = all.by_client.get(client_id).is_some_and(|entry| entry.number == place.number);
        if own {
            all.remove(client_id);
        }
        own
    }

    /// The connection's end is spoken of, whoever has its place now.
    pub(super) fn note_end(&self, client_id: &str, end: End) {
        self.all().ends.note(client_id, end);
    }

    /// The device's connection here, and how the one before it ended.
    pub fn link(&self, address: &Address) -> (Option<Carried>, Option<End>) {
        let (client_id, all) = (address.client_id(), self.all());
        (all.by_client.get(&client_id).map(|entry| entry.link.seen()), all.ends.of(&client_id))
    }

    pub fn connected(&self) -> usize {
        self.all().by_client.len()
    }

    /// Everybody's client id.
    pub fn clients(&self) -> Vec<String> {
        self.all().by_client.keys().cloned().collect()
    }
}

/// The user and the app that stand in a client id, without the device.
fn user_of(client_id: &str) -> String {
    let (user, rest) = client_id.split_once(':').unwrap_or((client_id, ""));
    let (_, app) = rest.split_once('@').unwrap_or_default();
    let app = app.strip_suffix(PROBE_SUFFIX).unwrap_or(app);
    format!("{user}@{app}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: usize) -> Word {
        Word { payload: vec![b'x'; bytes].into(), message: None }
    }

    #[test]
    fn the_newest_connection_of_a_client_id_has_its_place_and_an_old_end_does_not_touch_it() {
        let (table, now) = (Table::default(), Instant::now());
        let mut first = table.enter("a:b@c", u32::MAX, now).expect("a place");
        let second = table.enter("a:b@c", u32::MAX, now).expect("a place");
        let Ok(Order::End { code, end: None }) = first.orders.try_recv() else { panic!("it is not told") };
        assert_eq!(code, DisconnectReasonCode::SessionTakenOver);
        assert!(!table.leave("a:b@c", &first) && table.connected() == 1);
        assert!(table.leave("a:b@c", &second) && table.connected() == 0);
        let address = Address::new("c", "a", "b").expect("an address");
        assert_eq!(table.deliver(&address, word(0)), Given::NotHere);
    }

    #[test]
    fn of_two_machines_with_one_client_id_the_one_that_is_heard_keeps_its_place() {
        let (table, start) = (Table::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut places = Vec::new();
        for n in 0..4 {
            places.push(table.enter("a:b@c", u32::MAX, at(n)).expect("a place"));
        }
        assert!(table.enter("a:b@c", u32::MAX, at(5)).is_err(), "the fourth takeover, and the other one was heard");
        assert!(table.enter("a:b@c", u32::MAX, at(9)).is_ok(), "it was silent for long enough");
        let place = places.pop().expect("a place");
        place.link.heard(at(10));
        assert!(table.enter("a:b@c", u32::MAX, at(50)).is_ok(), "it is long ago");
    }

    #[test]
    fn a_connection_that_takes_nothing_is_full_and_holds_nobody_up() {
        let table = Table::default();
        let address = Address::new("o#a", "ann", "phone").expect("an address");
        let mut place = table.enter(&address.client_id(), 500, Instant::now()).expect("a place");
        let given: Vec<_> = (0..=ORDERS).map(|_| table.deliver(&address, word(0))).collect();
        assert_eq!((given[ORDERS - 1], given[ORDERS]), (Given::Written, Given::Full));
        assert!(place.orders.try_recv().is_ok(), "it takes one");
        assert_eq!([(); 2].map(|()| table.deliver(&address, word(0))), [Given::Written, Given::Full]);
        assert_eq!(table.deliver(&address, word(500)), Given::TooLarge { most: 500 });
        table.end_login(&address.client_id(), KickCode::Kicked);
        assert_eq!(table.deliver(&address, word(0)), Given::NotHere, "whose login has ended is not waited for");
        assert!(table.all().by_user.is_empty(), "it counts no more");
        assert!((0..ORDERS).all(|_| place.orders.try_recv().is_ok()), "what it was given comes before its end");
        assert!(place.orders.try_recv().is_err_and(|error| error.is_closed()));
    }

    #[test]
    fn a_user_has_so_many_connections_and_no_more_whatever_its_devices_are_called() {
        let (table, now) = (Table::default(), Instant::now());
        let enter = |n: usize| table.enter(&format!("ann:d{n}@app"), u32::MAX, now);
        let places: Vec<_> = (0..MOST_OF_A_USER).map(|n| enter(n).expect("a place")).collect();
        assert_eq!(enter(MOST_OF_A_USER).err(), Some(Full::User));
        assert_eq!(table.enter("ann:d0@app~probe", u32::MAX, now).err(), Some(Full::User));
        assert!(table.enter("bob:d0@app", u32::MAX, now).is_ok(), "another user's are another's");
        assert!(enter(0).is_ok(), "one that takes its own place");
        assert!(table.leave("ann:d1@app", &places[1]));
        assert!(enter(MOST_OF_A_USER).is_ok());
    }
}
