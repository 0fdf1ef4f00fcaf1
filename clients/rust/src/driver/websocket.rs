//! WebSocket, with and without TLS.

use super::socket::{Inbound, Receiver, Sender};
use crate::certificate;
use crate::error::Error;
use crate::limits::INBOUND_BYTES_MAX;
use futures_util::StreamExt;
use rustls::ClientConfig;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};
use waspmq_protocol::Profile;

pub(crate) type WebSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What is spoken behind TLS (ALPN).
pub(crate) const HTTP: &[u8] = b"http/1.1";

/// Connects; `tls` is there where the URL begins with `wss://`.
pub(super) async fn open(
    url: &str,
    profile: Profile,
    tls: Option<Arc<ClientConfig>>,
) -> Result<(Sender, Receiver), Error> {
    let failed = |error: &SocketError| Error::Connect { url: url.to_owned(), message: describe(error) };
    let wrong_url = |error: &SocketError| Error::Url { url: url.to_owned(), message: describe(error) };
    let mut request = url.into_client_request().map_err(|error| wrong_url(&error))?;
    let protocol = HeaderValue::from_static(profile.subprotocol());
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(INBOUND_BYTES_MAX))
        .max_frame_size(Some(INBOUND_BYTES_MAX));
    let connector = tls.map_or(Connector::Plain, Connector::Rustls);
    let connected = connect_async_tls_with_config(request, Some(config), true, Some(connector)).await;
    let (socket, _) = connected.map_err(|error| match error {
        SocketError::Url(_) => wrong_url(&error),
        error => failed(&error),
    })?;
    let (sink, stream) = socket.split();
    Ok((Sender::WebSocket(sink), Receiver::WebSocket(stream)))
}

/// One WebSocket message with these frames.
pub(super) fn outbound(profile: Profile, frames: Vec<u8>) -> Message {
    match profile {
        Profile::Binary => Message::binary(frames),
        // Frames of the JSON profile are encoded from strings.
        Profile::Json => Message::text(String::from_utf8_lossy(&frames).into_owned()),
    }
}

pub(super) fn inbound(next: Option<Result<Message, SocketError>>) -> Inbound {
    match next {
        Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => Inbound::Message(message.into_data()),
        Some(Ok(Message::Close(Some(frame)))) => {
            Inbound::Closed { code: frame.code.into(), reason: frame.reason.as_str().to_owned() }
        }
        Some(Ok(Message::Close(None))) | None => Inbound::Ended(describe(&SocketError::ConnectionClosed)),
        Some(Ok(_)) => Inbound::SignOfLife,
        Some(Err(error)) => Inbound::Ended(describe(&error)),
    }
}

/// Without the words that the caller puts around it.
pub(super) fn describe(error: &SocketError) -> String {
    match error {
        SocketError::Io(error) => {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(error) => certificate::describe(error),
                None => error.to_string(),
            }
        }
        SocketError::Protocol(ProtocolError::HttparseError(_)) => {
            "the other side does not speak HTTP; is it wss://?".to_owned()
        }
        SocketError::Http(response) => format!("the server answered {}, not a WebSocket", response.status()),
        error => error.to_string(),
    }
}
