//! One device's connection: its socket, its place in the table, and its words on their way to the store.

mod actions;
mod end;

use super::entry::{Asking, Found};
use super::joined::{self, Heard};
use super::link::cause;
use super::rate::Rate;
use super::table::{Order, Place, Table};
use crate::gateway::dispatch::Dispatch;
use crate::gateway::door::Door;
use crate::gateway::enrolment::Enrolment;
use crate::gateway::metrics::Metrics;
use crate::gateway::outgoing::Word;
use crate::gateway::workers::{Answer, Said, answer_to};
use crate::ids::Nonce;
use crate::keepalive::constants::WRITE_TIMEOUT;
use crate::mqtt::server::{Event, Fault, Server, next_packet};
use crate::protocol::Address;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use rumqttc::v5::mqttbytes::v5::{DisconnectReasonCode, Packet};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_util::sync::CancellationToken;

/// A write buffer longer than this is given back when it is empty.
const KEEP_BUFFER: usize = 4096;
/// Most bytes that one read takes.
const READ: usize = 4096;
/// How long a device that enrols may take to subscribe and be told.
const ENROLS_WITHIN: Duration = Duration::from_secs(10);

/// What every connection works with.
pub(in crate::gateway) struct Shared {
    pub table: Table,
    pub door: Door,
    pub dispatch: Dispatch,
    pub metrics: Metrics,
    pub enrolment: Enrolment,
    /// The gateway ends: what is not connected yet does not come in.
    pub stop: CancellationToken,
}

/// A word that is being carried out, and what the device is answered.
type Work = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Who a connection is of, once it has entered.
struct Entered {
    client_id: String,
    /// `None`: it only probes the network.
    address: Option<Address>,
    place: Place,
}

struct Connection<S> {
    stream: S,
    from: IpAddr,
    shared: Arc<Shared>,
    started: Instant,
    server: Server,
    incoming: BytesMut,
    outgoing: BytesMut,
    asking: Option<Asking>,
    /// It only enrols, and is over then at the latest.
    enrols_until: Option<Duration>,
    entered: Option<Entered>,
    /// The connection's own name, by the device's word.
    nonce: Option<Nonce>,
    bytes_in: u64,
    bytes_out: u64,
    /// The message whose acknowledgement is timed, and when it was sent.
    timed: Option<(u16, Duration)>,
    /// The device said itself that this connection is over.
    goodbye: bool,
    words: VecDeque<Heard>,
    /// What is carried out, and the packets that it came in.
    work: Option<(Work, Vec<Option<u16>>)>,
    rate: Rate,
    /// Nothing more of it is read until then.
    paused_until: Option<Duration>,
    /// Why it is over.
    over: Option<&'static str>,
    will: Option<Bytes>,
}

/// Serves a connection to its end. `first`: bytes that were read already.
///
/// Most devices are idle: what is awaited for as long as one is connected holds little more than the connection.
pub(super) fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    first: &[u8],
    from: IpAddr,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> + Send + use<S> {
    let started = Instant::now();
    let mut connection = Box::new(Connection {
        stream,
        from: from.to_canonical(),
        shared,
        started,
        server: Server::new(Duration::ZERO),
        incoming: BytesMut::from(first),
        outgoing: BytesMut::new(),
        asking: None,
        enrols_until: None,
        entered: None,
        nonce: None,
        bytes_in: 0,
        bytes_out: 0,
        timed: None,
        goodbye: false,
        words: VecDeque::new(),
        work: None,
        rate: Rate::new(Duration::ZERO),
        paused_until: None,
        over: None,
        will: None,
    });
    async move {
        connection.run().await;
        connection.finish().await;
    }
}

/// What woke the task.
enum Woken {
    Read(std::io::Result<usize>),
    Order(Option<Order>),
    Answered(Answer),
    Found(Found),
    Late,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn run(&mut self) {
        let mut has_gathered = false;
        loop {
            self.take_packets();
            self.start_work();
            self.part_when_enrolled();
            // What came of it may let packets in that were read and could not be taken.
            has_gathered = !has_gathered && self.gather().await;
            if has_gathered {
                continue;
            }
            if !self.flush().await || self.over.is_some() {
                return;
            }
            match self.woken().await {
                Woken::Read(Ok(read @ 1..)) => self.carried(read, 0),
                // Also without TLS's own goodbye.
                Woken::Read(Err(error)) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                    self.closed("the connection broke");
                }
                Woken::Read(_) => self.closed("the client closed without a goodbye"),
                Woken::Order(Some(order)) => self.ordered(order),
                // Another connection has its place, or its login ended and it took nothing.
                Woken::Order(None) => self.closed("it took nothing and lost its place"),
                Woken::Answered(answer) => self.answered(answer),
                Woken::Found(found) => self.found(found),
                // A pause's end and the deadline share one sleep; a tick that is early does nothing.
                Woken::Late => {
                    let now = self.now();
                    if self.paused_until.take_if(|until| now >= *until).is_some() {
                        self.happens(Event::Paused(false));
                    }
                    self.happens(Event::Tick);
                }
            }
        }
    }

    /// What comes for the device at the same time is one write: the store answers many of its callers at once, and those
    /// have their turn before it. `false`: nothing is to be written yet.
    async fn gather(&mut self) -> bool {
        // Nothing comes for a device that has not greeted.
        if self.outgoing.is_empty() || self.over.is_some() || self.nonce.is_none() {
            return false;
        }
        tokio::task::yield_now().await;
        while self.over.is_none()
            && let Some(entered) = &mut self.entered
            && let Ok(order) = entered.place.orders.try_recv()
        {
            self.ordered(order);
        }
        // Polled so it wakes nobody; whoever waits next polls it again.
        if let Some((work, _)) = &mut self.work
            && let Some(answer) = work.now_or_never()
        {
            self.answered(answer);
        }
        true
    }

    fn answered(&mut self, Answer { downs, greeting }: Answer) {
        for down in downs {
            let Word { payload, message } = Word::from(&down);
            self.happens(Event::Deliver(payload, message.map(|id| id.as_str().into())));
        }
        let address = self.entered.as_ref().and_then(|entered| entered.address.as_ref());
        if let Some((address, greeting)) = address.zip(greeting) {
            self.shared.dispatch.greeted(address, greeting);
        }
        for packet_id in self.work.take().into_iter().flat_map(|(_, packet_ids)| packet_ids) {
            self.happens(Event::Stored(packet_id));
        }
    }

    fn ordered(&mut self, order: Order) {
        let (code, end) = match order {
            Order::Deliver(payload, name) => return self.happens(Event::Deliver(payload, name)),
            Order::End { code, end } => (code, end),
            Order::Moved(nonce) if self.nonce.as_ref() == Some(&nonce) => {
                (DisconnectReasonCode::SessionTakenOver, None)
            }
            Order::Moved(_) => return,
        };
        self.happens(Event::End { code, end });
        self.over = Some(cause(code));
    }

    async fn woken(&mut self) -> Woken {
        let (reads, paused_until) = (self.server.reads(), self.paused_until);
        let deadline = self.server.deadline().into_iter().chain(self.enrols_until).chain(paused_until).min();
        let deadline = deadline.map(|at| tokio::time::Instant::from_std(self.started + at));
        let Self { stream, incoming, asking, entered, work, .. } = self;
        let found = async {
            match asking {
                Some(asking) => asking.await,
                None => std::future::pending().await,
            }
        };
        let order = async {
            match entered {
                Some(entered) => entered.place.orders.recv().await.ok(),
                None => std::future::pending().await,
            }
        };
        let answer = async {
            match work {
                Some((work, _)) => work.await,
                None => std::future::pending().await,
            }
        };
        let late = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            replies = answer => Woken::Answered(replies),
            found = found => Woken::Found(found),
            read = poll_fn(|cx| poll_read(stream, incoming, cx)), if reads => Woken::Read(read),
            order = order => Woken::Order(order),
            () = late => Woken::Late,
        }
    }

    fn take_packets(&mut self) {
        while self.server.reads() && self.over.is_none() {
            match next_packet(&mut self.incoming, self.server.longest()) {
                Ok(Some(packet)) => {
                    self.heard(&packet);
                    self.happens(Event::Packet(packet));
                }
                Ok(None) => break,
                Err(fault) => {
                    self.refused(fault);
                    self.happens(Event::Fault(fault));
                }
            }
        }
        // What is idle keeps no room to read into.
        if self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
    }

    fn heard(&mut self, packet: &Packet) {
        let Some(Entered { place, .. }) = &self.entered else { return };
        place.link.heard(Instant::now());
        if let (Packet::PubAck(ack), Some((packet_id, sent))) = (packet, self.timed)
            && ack.pkid == packet_id
        {
            let took = self.now().saturating_sub(sent);
            place.link.answered(took);
            self.shared.metrics.round_trip(took);
            self.timed = None;
        }
    }

    fn carried(&mut self, read: usize, written: usize) {
        self.bytes_in += read as u64;
        self.bytes_out += written as u64;
        self.shared.metrics.carried(read, written);
        if let Some(entered) = &self.entered {
            entered.place.link.carried(self.bytes_in, self.bytes_out);
        }
    }

    fn closed(&mut self, why: &'static str) {
        self.happens(Event::Closed);
        self.over = Some(why);
    }

    fn refused(&self, fault: Fault) {
        let who = self.entered.as_ref().and_then(|entered| entered.address.as_ref());
        self.shared.dispatch.on_refused("connection", fault.why, who, &fault.why);
    }

    fn happens(&mut self, event: Event) {
        let now = self.now();
        for action in self.server.on_event(now, event) {
            self.carry_out(action);
        }
    }

    /// One answer, and nothing else is said on such a connection.
    fn part_when_enrolled(&mut self) {
        let Some(until) = self.enrols_until else { return };
        if self.server.is_told() || self.now() >= until {
            self.happens(Event::End { code: DisconnectReasonCode::NormalDisconnection, end: None });
        }
    }

    fn start_work(&mut self) {
        if self.work.is_some() {
            return;
        }
        let Some(Entered { address: Some(address), .. }) = &self.entered else { return };
        let address = address.clone();
        let Some((said, packet_ids)) = joined::next(&mut self.words) else { return };
        if self.words.is_empty() {
            self.words = VecDeque::new();
        }
        self.work = Some((self.work_on(address, said), packet_ids));
    }

    fn work_on(&self, address: Address, said: Said) -> Work {
        let shared = self.shared.clone();
        Box::pin(async move { answer_to(&address, &said, &shared.dispatch).await })
    }

    /// `false`: the client takes nothing, or is gone.
    async fn flush(&mut self) -> bool {
        if self.outgoing.is_empty() {
            return true;
        }
        let Self { stream, outgoing, .. } = self;
        let written = async {
            stream.write_all(outgoing).await?;
            stream.flush().await
        };
        let written = tokio::time::timeout(WRITE_TIMEOUT, written).await;
        self.carried(0, self.outgoing.len());
        self.outgoing.clear();
        if self.outgoing.capacity() > KEEP_BUFFER {
            self.outgoing = BytesMut::new();
        }
        let why = match written {
            Ok(Ok(())) => return true,
            Ok(Err(_)) => "the connection broke",
            Err(_) => "it took nothing for too long",
        };
        if self.over.is_none() {
            self.closed(why);
        }
        false
    }
}

/// Reads what there is, by way of the stack: nothing is held for a peer that says nothing.
fn poll_read(
    stream: &mut (impl AsyncRead + Unpin),
    incoming: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<std::io::Result<usize>> {
    let mut room = [const { MaybeUninit::uninit() }; READ];
    let mut read = ReadBuf::uninit(&mut room);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    incoming.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_rustls::server::TlsStream;

    #[test]
    fn an_idle_connection_is_little_more_than_its_tls_session() {
        type Stream = TlsStream<tokio::net::TcpStream>;
        fn size<S, B, A, T, F>(_: impl Fn(S, B, A, T) -> F) -> usize {
            size_of::<F>()
        }
        let task = size(|stream: Stream, first: &'static [u8], from, shared| serve(stream, first, from, shared));
        assert!(task <= 1024, "{task} bytes are held while it waits");
        let (connection, session) = (size_of::<Connection<Stream>>(), size_of::<Stream>());
        assert!(connection <= session + 1024, "{connection} bytes, of which {session} are the session's");
    }
}
