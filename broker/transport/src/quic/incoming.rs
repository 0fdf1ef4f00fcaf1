//! A connection from its first datagram to its stream.

use super::{ALPN_H3, Channel};
use crate::limits::QUIC_STREAMS_MAX_H3;
use quinn::VarInt;
use quinn::crypto::rustls::HandshakeData;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use web_transport_quinn::http::StatusCode;
use web_transport_quinn::{Request, ServerError, SessionError};

/// How long who was turned away may take to read why.
const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// The end of a connection that broke no rule (RFC 9114, 8.1).
const H3_NO_ERROR: VarInt = VarInt::from_u32(0x100);

/// A connection that wants to begin. Dropped, it is refused.
pub struct Incoming(quinn::Incoming);

/// A connection that has no stream yet. Dropped, it is closed.
#[derive(Debug)]
pub struct Connected {
    connection: quinn::Connection,
    /// Whether there is a channel, which ends the connection instead.
    has_channel: bool,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Quic,
    WebTransport,
}

/// An open connection.
#[derive(Debug)]
pub struct Opened {
    pub channel: Channel,
    pub protocol: Protocol,
}

/// What a browser says of itself when it asks for a WebTransport session.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    pub path: &'a str,
    /// Host and port that it connects to.
    pub authority: &'a str,
    /// The page's origin; programs have none.
    pub origin: Option<&'a str>,
}

/// Why a connection did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The handshake failed, or the connection was lost before it had a stream.
    #[error("the connection was lost: {0}")]
    Lost(#[from] quinn::ConnectionError),
    /// What came is no HTTP/3, or no request for WebTransport.
    #[error("no WebTransport session: {0}")]
    NoSession(Box<ServerError>),
    /// The session ended before it had a stream.
    #[error("the WebTransport session ended: {0}")]
    SessionLost(Box<SessionError>),
    /// The request was answered with this status.
    #[error("the request for a WebTransport session was answered with {0}")]
    Refused(u16),
}

impl Incoming {
    pub(super) const fn new(incoming: quinn::Incoming) -> Self {
        Self(incoming)
    }

    pub fn remote(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Whether its address is known to be its own (RFC 9000, 8.1).
    pub fn is_validated(&self) -> bool {
        self.0.remote_address_validated()
    }

    /// Makes the peer prove its address, which costs it a round trip and the broker no memory.
    pub fn retry(self) {
        // Who was asked once already cannot be asked again; it is refused by the drop.
        drop(self.0.retry());
    }

    pub fn refuse(self) {
        self.0.refuse();
    }

    /// Shakes hands. There is no time limit here. The connection's work is done by the runtime in which this is called.
    ///
    /// # Errors
    /// The peer is gone, or breaks the protocol.
    pub async fn connect(self) -> Result<Connected, OpenError> {
        let connection = self.0.accept()?.await?;
        Ok(Connected { connection, has_channel: false })
    }
}

impl Connected {
    /// Waits for the session's stream. `admit` says whether a browser may have a session, or with which HTTP status it is
    /// turned away. There is no time limit here.
    ///
    /// # Errors
    /// The peer is gone, breaks a protocol, or was turned away.
    pub async fn open(
        &mut self,
        admit: impl FnOnce(Page<'_>) -> Result<(), u16>,
    ) -> Result<Opened, OpenError> {
        let connection = self.connection.clone();
        let opened = if self.is_h3() {
            web_transport(connection, admit).await?
        } else {
            let (send, receive) = connection.accept_bi().await?;
            Opened { channel: Channel::quic(connection, send, receive), protocol: Protocol::Quic }
        };
        self.has_channel = true;
        Ok(opened)
    }

    /// Ends a connection that has no channel. One of HTTP/3, which has codes of its own, ends as if it was dropped.
    pub fn close(self, code: u32, reason: &str) {
        if !self.is_h3() {
            self.connection.close(code.into(), reason.as_bytes());
        }
    }

    fn is_h3(&self) -> bool {
        alpn(&self.connection).as_deref() == Some(ALPN_H3)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        if self.has_channel {
            return;
        }
        // What reads the request's stream of HTTP/3 holds on to the connection: a drop alone would not close it.
        self.connection.close(if self.is_h3() { H3_NO_ERROR } else { VarInt::from_u32(0) }, b"");
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Incoming").field(&self.remote()).finish()
    }
}

async fn web_transport(
    connection: quinn::Connection,
    admit: impl FnOnce(Page<'_>) -> Result<(), u16>,
) -> Result<Opened, OpenError> {
    let no_session = |error| OpenError::NoSession(Box::new(error));
    // The request has a stream of its own, beside the session's.
    connection.set_max_concurrent_bi_streams(QUIC_STREAMS_MAX_H3.into());
    let request = Request::accept(connection.clone()).await.map_err(no_session)?;
    let origin = request.headers.get("origin").map(|origin| origin.to_str().unwrap_or("?"));
    let page = Page { path: request.url.path(), authority: request.url.authority(), origin };
    if let Err(status) = admit(page) {
        let refusal = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
        // Not by `reject`, which ends HTTP/3's own streams: a browser takes that for a broken connection.
        let refused = request.respond(refusal).await.map_err(no_session)?;
        // The answer is on its way: whoever reads it closes the connection.
        drop(tokio::time::timeout(REFUSAL_WAIT, connection.closed()).await);
        drop(refused);
        return Err(OpenError::Refused(status));
    }
    let session = request.ok().await.map_err(no_session)?;
    let (send, receive) =
        session.accept_bi().await.map_err(|error| OpenError::SessionLost(Box::new(error)))?;
    Ok(Opened { channel: Channel::web_transport(session, send, receive), protocol: Protocol::WebTransport })
}

fn alpn(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}
