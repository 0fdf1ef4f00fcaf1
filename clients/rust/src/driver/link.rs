//! From a URL to a welcome.

use crate::builder::Builder;
use crate::error::Error;
use crate::interest::Interest;
use crate::limits::{CONNECT_TIMEOUT, INBOUND_BYTES_MAX};
use crate::trust;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};
use waspmq_protocol::client::Resume;
use waspmq_protocol::server::{Received, Welcome};
use waspmq_protocol::{Profile, Secret, decode};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection whose `connect` was accepted.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: Socket,
    pub(crate) welcome: Welcome,
    /// Frames that came in the same WebSocket message as the welcome.
    pub(crate) rest: Vec<Received>,
    /// To be asked for before anything else.
    pub(crate) restore: Vec<Interest>,
}

/// One attempt.
///
/// # Errors
/// When there is no token, no connection, or no welcome.
pub(crate) async fn connect(
    settings: &Builder,
    token: Option<Secret<'static>>,
    resume: Option<Resume<'static>>,
    codecs: &[String],
) -> Result<Link, Error> {
    let url = &settings.url;
    let timeout = || Error::Timeout { url: url.clone(), seconds: CONNECT_TIMEOUT.as_secs() };
    tokio::time::timeout(CONNECT_TIMEOUT, attempt(settings, token, resume, codecs))
        .await
        .unwrap_or_else(|_| Err(timeout()))
}

async fn attempt(
    settings: &Builder,
    token: Option<Secret<'static>>,
    resume: Option<Resume<'static>>,
    codecs: &[String],
) -> Result<Link, Error> {
    let token = match &settings.provider {
        Some(provider) => Some(provider.token().await?),
        None => token,
    };
    let failed = |error: SocketError| Error::Connect { url: settings.url.clone(), message: describe(&error) };
    let wrong_url = |error: SocketError| Error::Url { url: settings.url.clone(), message: describe(&error) };
    if !settings.url.starts_with("ws://") && !is_secure(&settings.url) {
        let message = "it must begin with ws:// or wss://".to_owned();
        return Err(Error::Url { url: settings.url.clone(), message });
    }
    let mut request = settings.url.as_str().into_client_request().map_err(wrong_url)?;
    let protocol = HeaderValue::from_static(settings.profile.subprotocol());
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(INBOUND_BYTES_MAX))
        .max_frame_size(Some(INBOUND_BYTES_MAX));
    let connect_frame = settings.connect_frame(token, resume, codecs)?;
    let connector = settings.tls.clone().map_or(Connector::Plain, Connector::Rustls);
    let connected = connect_async_tls_with_config(request, Some(config), true, Some(connector)).await;
    let (mut socket, _) = connected.map_err(|error| match error {
        SocketError::Url(_) => wrong_url(error),
        error => failed(error),
    })?;
    socket.send(outbound(settings.profile, connect_frame)).await.map_err(failed)?;
    welcomed(settings, socket).await
}

/// Reads up to the answer to `connect`.
async fn welcomed(settings: &Builder, mut socket: Socket) -> Result<Link, Error> {
    let failed = |error: SocketError| Error::Connect { url: settings.url.clone(), message: describe(&error) };
    let mut complaint = None;
    loop {
        let frames = match socket.next().await {
            Some(Ok(Message::Close(frame))) => {
                return Err(match (complaint, frame) {
                    (Some(refusal), _) => Error::Refused(refusal),
                    (None, Some(frame)) if (4000..4100).contains(&u16::from(frame.code)) => Error::Closed {
                        code: frame.code.into(),
                        reason: frame.reason.as_str().to_owned(),
                        refusal: None,
                    },
                    (None, _) => failed(SocketError::ConnectionClosed),
                });
            }
            Some(message) => inbound(settings.profile, message.map_err(failed)?),
            None => {
                return Err(complaint.map_or_else(|| failed(SocketError::ConnectionClosed), Error::Refused));
            }
        };
        let mut frames = frames.into_iter();
        while let Some(frame) = frames.next() {
            match frame {
                Received::Welcome(welcome) => {
                    return Ok(Link { socket, welcome, rest: frames.collect(), restore: Vec::new() });
                }
                Received::Error { refusal, .. } if refusal.code().is_some_and(|code| code.closes()) => {
                    complaint = Some(refusal);
                }
                // The connection stays open, but this `connect` will not be accepted.
                Received::Error { refusal, .. } => return Err(Error::Refused(refusal)),
                _ => {}
            }
        }
    }
}

/// One WebSocket message with these frames.
pub(crate) fn outbound(profile: Profile, frames: Vec<u8>) -> Message {
    match profile {
        Profile::Binary => Message::binary(frames),
        // Frames of the JSON profile are encoded from strings.
        Profile::Json => Message::text(String::from_utf8_lossy(&frames).into_owned()),
    }
}

/// The frames of a WebSocket message. What cannot be decoded is left out with the rest of its message: the
/// broker may be newer than this library.
pub(crate) fn inbound(profile: Profile, message: Message) -> Vec<Received> {
    let data = match message {
        Message::Text(_) | Message::Binary(_) => message.into_data(),
        _ => return Vec::new(),
    };
    let (mut bytes, mut frames) = (&*data, Vec::new());
    while !bytes.is_empty() {
        let decoded = match profile {
            Profile::Json => decode::server_json(bytes),
            Profile::Binary => decode::server_binary(bytes),
        };
        let Ok((frame, consumed)) = decoded else { break };
        frames.push(frame);
        bytes = bytes.get(consumed.max(1)..).unwrap_or_default();
    }
    frames
}

/// Whether a URL asks for TLS.
pub(crate) fn is_secure(url: &str) -> bool {
    url.starts_with("wss://")
}

/// Without the words that the caller puts around it.
fn describe(error: &SocketError) -> String {
    match error {
        SocketError::Io(error) => {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(error) => trust::describe(error),
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
