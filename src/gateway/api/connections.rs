//! The REST API's connections: taken side by side, each answered by the router, and none kept that asks nothing.

use super::body::Timed;
use super::error::{Limited, Refused};
use super::{State, router};
use crate::gateway::crowded::Crowded;
use crate::gateway::metrics::Metrics;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::response::Response;
use axum::routing::future::RouteFuture;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

/// Connections at once. For whoever comes then, the one goes that has asked nothing for the longest time.
const MOST: usize = 4096;
/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// A request's head comes within so long after the connection began, or after the answer before it. Longer than the pools of
/// HTTP clients keep a connection (Go's `net/http` 90 s, Amazon's load balancers 60 s), so that none is closed under a request.
const IDLE: Duration = Duration::from_secs(120);
/// How often an idle one is looked for while all are being answered and somebody waits.
const LOOK: Duration = Duration::from_millis(100);

/// Serves until `stop`, and then until what is under way is answered.
pub async fn serve(listener: TcpListener, state: State, stop: CancellationToken) {
    let state = Arc::new(state);
    let (router, places, tasks) = (router(state.clone()), Arc::new(Places::new(MOST)), TaskTracker::new());
    let mut crowded = Crowded::new("api");
    loop {
        let come = async {
            match listener.accept().await {
                Ok((stream, peer)) => Ok((stream, peer, places.take(&stop).await)),
                Err(error) => Err(error),
            }
        };
        let come = tokio::select! {
            () = stop.cancelled() => break,
            come = come => come,
        };
        let (stream, peer, place) = match come {
            Ok((stream, peer, Some(place))) => (stream, peer, place),
            // Nobody closes the places.
            Ok((.., None)) => break,
            Err(error) => {
                crowded.refused(&error).await;
                continue;
            }
        };
        crowded.accepted();
        // An answer is one write, which nothing follows.
        drop(stream.set_nodelay(true));
        let state = state.clone();
        let answering = Answering { router: router.clone(), state: state.clone(), peer, turn: place.turn.clone() };
        tasks.spawn(async move {
            if hold(stream, answering, &place.turn).await == End::Silent {
                state.dispatch.on_refused("app", "no request in time", None, &peer);
            }
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its client has left, or has had its answers and asked nothing more.
    Usual,
    /// Its client has never asked anything.
    Silent,
}

/// Serves one connection until its client leaves, or asks nothing for too long, or until it is to end and has its last answer.
async fn hold<A>(stream: impl AsyncRead + AsyncWrite + Unpin, answering: A, turn: &Turn) -> End
where
    A: hyper::service::Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let mut connection =
        pin!(http1::Builder::new().max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(stream), answering));
    let mut idle = pin!(tokio::time::sleep(IDLE));
    let mut ends = false;
    loop {
        tokio::select! {
            // Else it would end beside a request that has come.
            biased;
            // What a client did to its connection concerns nobody else.
            _ = connection.as_mut() => return End::Usual,
            () = turn.end.cancelled(), if !ends => {
                if turn.since().is_some() {
                    return End::Usual;
                }
                ends = true;
                connection.as_mut().graceful_shutdown();
            }
            () = idle.as_mut() => match turn.since() {
                Some(since) if since.elapsed() >= IDLE && turn.has_asked() => return End::Usual,
                Some(since) if since.elapsed() >= IDLE => return End::Silent,
                since => idle.as_mut().reset(since.unwrap_or_else(Instant::now) + IDLE),
            },
        }
    }
}

/// Whose turn it is on a connection: the client's, to ask, or the gateway's, to answer.
struct Turn {
    whose: Mutex<Whose>,
    /// The connection is to end once it is the client's.
    end: CancellationToken,
}

struct Whose {
    /// Since when it is the client's, if it is.
    clients: Option<Instant>,
    has_asked: bool,
}

impl Turn {
    fn new(end: CancellationToken) -> Self {
        Self { whose: Mutex::new(Whose { clients: Some(Instant::now()), has_asked: false }), end }
    }

    fn whose(&self) -> MutexGuard<'_, Whose> {
        self.whose.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) {
        *self.whose() = Whose { clients: None, has_asked: true };
    }

    fn answered(&self) {
        self.whose().clients = Some(Instant::now());
    }

    fn since(&self) -> Option<Instant> {
        self.whose().clients
    }

    fn has_asked(&self) -> bool {
        self.whose().has_asked
    }
}

/// The connections that there are.
struct Places {
    free: Arc<Semaphore>,
    held: Mutex<HashMap<u64, Arc<Turn>>>,
    last: AtomicU64,
}

/// A connection's place until this is dropped.
struct Place {
    number: u64,
    turn: Arc<Turn>,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), held: Mutex::default(), last: AtomicU64::new(0) }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Arc<Turn>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_idlest(&self) {
        let held = self.held();
        let idle = held.values().filter_map(|turn| Some((turn.since()?, turn)));
        idle.min_by_key(|(since, _)| *since).into_iter().for_each(|(_, turn)| turn.end.cancel());
    }

    /// A place for one more, which may be another's that asks nothing; its connection ends with `stop`.
    async fn take(self: &Arc<Self>, stop: &CancellationToken) -> Option<Place> {
        let mut free = pin!(self.free.clone().acquire_owned());
        let permit = loop {
            if self.free.available_permits() == 0 {
                self.end_idlest();
            }
            // Meanwhile one of those that are answered may have become idle.
            if let Ok(free) = timeout(LOOK, free.as_mut()).await {
                break free.ok()?;
            }
        };
        let (number, turn) = (self.last.fetch_add(1, Ordering::Relaxed), Arc::new(Turn::new(stop.child_token())));
        self.held().insert(number, turn.clone());
        Some(Place { number, turn, places: self.clone(), _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().remove(&self.number);
    }
}

/// Answers one connection's requests.
struct Answering {
    router: Router,
    state: Arc<State>,
    peer: SocketAddr,
    turn: Arc<Turn>,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        self.turn.asked();
        let mut request = request.map(|body| Body::new(Timed::new(body)));
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let answer = self.router.clone().call(request);
        Answer { answer, state: self.state.clone(), turn: self.turn.clone() }
    }
}

/// What concerns every answer, whatever its path.
struct Answer {
    answer: RouteFuture<Infallible>,
    state: Arc<State>,
    turn: Arc<Turn>,
}

impl Future for Answer {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(Pin::new(&mut self.answer).poll(context));
        self.turn.answered();
        count_refused(&self.state.push.metrics, &response);
        // A connection that is kept would be closed under a request that is on its way. HTTP/1.1 is all that is spoken here.
        if self.state.drain.is_on() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response))
    }
}

fn count_refused(metrics: &Metrics, response: &Response) {
    if let Some(Refused(why)) = response.extensions().get() {
        metrics.refused("app", why);
    }
    if let Some(Limited(limit)) = response.extensions().get() {
        metrics.limited(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    /// A client of a server that takes so long for an answer.
    fn client(takes: Duration, stop: &CancellationToken) -> (DuplexStream, JoinHandle<End>) {
        let (client, server) = duplex(4096);
        let turn = Arc::new(Turn::new(stop.child_token()));
        let served = tokio::spawn(async move {
            let answering = service_fn(|_| async {
                turn.asked();
                tokio::time::sleep(takes).await;
                turn.answered();
                Ok(Response::new(Body::empty()))
            });
            hold(server, answering, &turn).await
        });
        (client, served)
    }

    async fn ask(client: &mut DuplexStream) {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("taken");
    }

    async fn answer(client: &mut DuplexStream) -> String {
        let mut answer = [0; 1024];
        let read = client.read(&mut answer).await.expect("an answer");
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_half_a_head_and_no_more_is_let_go_in_time() {
        let (mut client, served) = client(Duration::ZERO, &CancellationToken::new());
        let began = Instant::now();
        client.write_all(b"POST /org/app/messages/users HTTP/1.1\r\nhost: ").await.expect("taken");
        assert_eq!(served.await.expect("ended"), End::Silent);
        assert_eq!(began.elapsed(), IDLE);
        assert_eq!(answer(&mut client).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_its_answer_as_long_as_that_takes_and_then_has_its_time_again() {
        let takes = IDLE * 3 + Duration::from_secs(1);
        let (mut client, served) = client(takes, &CancellationToken::new());
        let began = Instant::now();
        for _ in 0..2 {
            ask(&mut client).await;
            assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
        }
        assert_eq!(began.elapsed(), takes * 2);
        assert_eq!(served.await.expect("ended"), End::Usual);
        assert_eq!(began.elapsed(), takes * 2 + IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_what_is_asked_and_for_no_idle_client() {
        let (stop, takes) = (CancellationToken::new(), Duration::from_secs(3));
        let ((mut asking, one), (mut half, other)) = (client(takes, &stop), client(takes, &stop));
        ask(&mut asking).await;
        half.write_all(b"GET / HT").await.expect("taken");
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        assert_eq!(other.await.expect("ended"), End::Usual);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert!(answer(&mut asking).await.contains("200 OK"));
        assert_eq!(one.await.expect("ended"), End::Usual);
        assert_eq!(began.elapsed(), takes);
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_places_are_taken_the_one_that_asks_nothing_for_longest_goes() {
        let (places, stop) = (Arc::new(Places::new(3)), CancellationToken::new());
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(places.take(&stop).await.expect("a place"));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        held[0].turn.asked();
        let mut newcomer = Box::pin(places.take(&stop));
        assert!(newcomer.as_mut().now_or_never().is_none(), "none is free yet");
        let ends: Vec<bool> = held.iter().map(|place| place.turn.end.is_cancelled()).collect();
        assert_eq!(ends, [false, true, false], "the first has asked, the third came later");
        held.remove(1);
        assert!(newcomer.await.is_some());
        assert!(!held.iter().any(|place| place.turn.end.is_cancelled()));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_being_answered_the_first_that_was_goes() {
        let (places, stop) = (Arc::new(Places::new(1)), CancellationToken::new());
        let place = places.take(&stop).await.expect("a place");
        place.turn.asked();
        let mut newcomer = Box::pin(places.take(&stop));
        assert!(timeout(IDLE, newcomer.as_mut()).await.is_err() && !place.turn.end.is_cancelled());
        place.turn.answered();
        assert!(timeout(LOOK * 2, newcomer.as_mut()).await.is_err() && place.turn.end.is_cancelled());
        drop(place);
        assert!(newcomer.await.is_some());
    }
}
