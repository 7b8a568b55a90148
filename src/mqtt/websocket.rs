//! MQTT over WebSocket (MQTT 5, section 6): bytes in binary frames, whatever frame they fall in. The
//! last resort where only port 443 leads out.

use super::MqttError;
use crate::keepalive::Cause;
use crate::protocol::MAX_PACKET;
use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Bytes read at once.
const READ_BUFFER: usize = 8192;

/// A byte stream over WebSocket frames.
#[derive(Debug)]
pub struct WebSocket<S> {
    frames: WebSocketStream<S>,
    /// What is left of the last frame.
    rest: Bytes,
}

/// Opens a WebSocket that speaks MQTT on a connected stream.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(stream: S, url: &str) -> Result<WebSocket<S>, MqttError> {
    let refused = |e: tokio_tungstenite::tungstenite::Error| MqttError::new(Cause::Refused, format!("{url}: {e}"));
    let mut request = url.into_client_request().map_err(refused)?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
    let (frames, _) =
        tokio_tungstenite::client_async_with_config(request, stream, Some(limits())).await.map_err(refused)?;
    Ok(WebSocket { frames, rest: Bytes::new() })
}

/// Takes a WebSocket that speaks MQTT at `path`.
///
/// # Errors
/// A sentence: what came asks for something else.
#[cfg(feature = "gateway")]
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(stream: S, path: &str) -> Result<WebSocket<S>, String> {
    use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
    use tokio_tungstenite::tungstenite::http::StatusCode;
    let mqtt = HeaderValue::from_static("mqtt");
    #[allow(clippy::result_large_err, reason = "the library's own type")]
    let check = |request: &Request, mut response: Response| {
        let refuse = |status, why: &str| {
            let mut refusal = ErrorResponse::new(Some(why.to_owned()));
            *refusal.status_mut() = status;
            Err(refusal)
        };
        if request.uri().path() != path {
            return refuse(StatusCode::NOT_FOUND, "MQTT is spoken at another path");
        }
        let offered = request.headers().get_all("sec-websocket-protocol");
        let words = offered.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        // [MQTT-6.0.0-3]
        if !words.map(str::trim).any(|word| word == "mqtt") {
            return refuse(StatusCode::BAD_REQUEST, "the subprotocol is mqtt");
        }
        response.headers_mut().insert("sec-websocket-protocol", mqtt.clone());
        Ok(response)
    };
    let frames = tokio_tungstenite::accept_hdr_async_with_config(stream, check, Some(limits()))
        .await
        .map_err(|error| error.to_string())?;
    Ok(WebSocket { frames, rest: Bytes::new() })
}

/// A broker may put several packets in one message, but no packet is larger than [`MAX_PACKET`].
fn limits() -> WebSocketConfig {
    let most = 4 * MAX_PACKET as usize;
    WebSocketConfig::default()
        .max_frame_size(Some(most))
        .max_message_size(Some(most))
        .max_write_buffer_size(most)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
}

impl<S> WebSocket<S> {
    pub fn get_ref(&self) -> &S
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.frames.get_ref()
    }
}

fn broken(error: tokio_tungstenite::tungstenite::Error) -> io::Error {
    match error {
        tokio_tungstenite::tungstenite::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                // Pings are answered by the library; text has no place here and is no reason to end.
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let take = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..take]);
        self.rest.advance(take);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(broken)?;
        let frame = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.frames).start_send(frame).map_err(broken)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_close(cx).map_err(broken)
    }
}
