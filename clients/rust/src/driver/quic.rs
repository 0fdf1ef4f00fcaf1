//! QUIC, by itself or below WebTransport: from a host to a stream.
//!
//! Each address of a host is tried by itself, in the order they were given: a later one begins when those before it failed
//! or after [`QUIC_NEXT_ADDRESS`], and the first that answers is used.

use super::route::Opened;
use super::socket::{Receiver, Sender};
use super::stream::{Incoming, Outgoing, Owned, Wants};
use crate::certificate;
use crate::error::Error;
use crate::limits::{
    OWN_STREAMS_MAX, OWN_STREAMS_SENT_BYTES, OWN_STREAMS_TAKEN_BYTES, QUIC_ADDRESSES_MAX,
    QUIC_DATAGRAM_BYTES, QUIC_HANDSHAKE_TIMEOUT, QUIC_IDLE_TIMEOUT, QUIC_NEXT_ADDRESS, QUIC_WINDOW_BYTES,
};
use crate::target::Target;
use crate::transport::Transport;
use crate::verifier::Verifier;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TransportConfig, VarInt};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use url::Url;
use web_transport_quinn::Session;

/// What is spoken over QUIC alone (ALPN).
const WASPMQ: &[u8] = b"waspmq/1";

/// Unidirectional streams of the broker: HTTP/3 has three, and may try others.
const HTTP_STREAMS: u8 = 8;

/// What is said of an address that does not answer.
const SILENT: &str = "nobody answers over UDP";

/// TLS's `no_application_protocol`, as a code of QUIC (RFC 9001, 4.8).
const NO_PROTOCOL: u64 = 0x100 + 120;

/// What connects.
#[derive(Debug)]
pub(super) struct Dialer {
    target: Target,
    transport: Transport,
    config: ClientConfig,
    verifier: Arc<Verifier>,
    wants: Wants,
}

impl Dialer {
    /// `transport` is QUIC or WebTransport.
    pub(super) fn new(
        target: Target,
        transport: Transport,
        verifier: Arc<Verifier>,
        wants: Wants,
    ) -> Result<Self, Error> {
        let is_http = transport == Transport::WebTransport;
        let alpn = if is_http { web_transport_quinn::ALPN.as_bytes() } else { WASPMQ };
        let tls = |error: &dyn std::error::Error| Error::Tls { message: error.to_string() };
        // Without early data, which a config has only if it is turned on: what is sent by it may be repeated by others.
        let crypto = QuicClientConfig::try_from(verifier.config(alpn)?).map_err(|error| tls(&error))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let idle = QUIC_IDLE_TIMEOUT.try_into().map_err(|error: quinn::VarIntBoundsExceeded| tls(&error))?;
        let mut transport_config = TransportConfig::default();
        // Who sends on streams of their own has room beside that of the main one, which does not wait for them.
        let (streams, taken_bytes, sent_bytes) = if wants.streams {
            (OWN_STREAMS_MAX, OWN_STREAMS_TAKEN_BYTES, OWN_STREAMS_SENT_BYTES)
        } else {
            (0, 0, 0)
        };
        let streams = streams + if is_http { HTTP_STREAMS } else { 0 };
        transport_config
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(QUIC_IDLE_TIMEOUT / 3))
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(streams.into())
            .stream_receive_window(VarInt::from_u32(QUIC_WINDOW_BYTES))
            .receive_window(VarInt::from_u32(QUIC_WINDOW_BYTES + QUIC_WINDOW_BYTES / 2 + taken_bytes))
            .send_window((QUIC_WINDOW_BYTES + sent_bytes).into());
        // HTTP/3 has to take datagrams in any case.
        let datagram_bytes = (is_http || wants.datagrams).then_some(QUIC_DATAGRAM_BYTES);
        transport_config
            .datagram_receive_buffer_size(datagram_bytes)
            .datagram_send_buffer_size(QUIC_DATAGRAM_BYTES);
        config.transport_config(Arc::new(transport_config));
        Ok(Self { target, transport, config, verifier, wants })
    }

    /// One attempt.
    pub(super) async fn open(&self) -> Result<Opened, Error> {
        let url = self.target.url_over(self.transport);
        let failed = |message: String| Error::Connect { url: url.clone(), message };
        let (endpoint, connection) = self.dial().await.map_err(failed)?;
        let session = Owned(self.session(connection).await.map_err(failed)?);
        let (send, receive) = session.open_bi().await.map_err(|error| failed(error.to_string()))?;
        Ok(Opened {
            url: url.clone(),
            transport: self.transport,
            sender: Sender::Stream(Outgoing::new(send, &session, self.wants)),
            receiver: Receiver::Stream(Box::new(Incoming::new(endpoint, session, receive, self.wants))),
        })
    }

    async fn session(&self, connection: Connection) -> Result<Session, String> {
        if self.transport == Transport::Quic {
            return Ok(Session::raw(connection));
        }
        let url = self.target.web_transport_url();
        let url = Url::parse(&url).map_err(|error| format!("{url}: {error}"))?;
        let connected = Session::connect(connection, url).await;
        connected.map_err(|error| format!("no WebTransport: {error}"))
    }

    /// The first address that answers. An error is why the last one did not.
    async fn dial(&self) -> Result<(Endpoint, Connection), String> {
        let host = (self.target.host(), self.target.port());
        let found = tokio::net::lookup_host(host).await.map_err(|error| error.to_string())?;
        let mut addresses = found.take(QUIC_ADDRESSES_MAX).peekable();
        let mut attempts = FuturesUnordered::new();
        let mut error = String::new();
        loop {
            attempts.extend(addresses.next().map(|address| self.handshake(address)));
            let next = attempts.next();
            let finished = if addresses.peek().is_some() {
                let Ok(finished) = tokio::time::timeout(QUIC_NEXT_ADDRESS, next).await else { continue };
                finished
            } else {
                next.await
            };
            match finished {
                Some(Ok(connected)) => return Ok(connected),
                // Why somebody refused says more than that somebody else is not there.
                Some(Err(failure)) if error.is_empty() || failure != SILENT => error = failure,
                Some(Err(_)) => {}
                None if error.is_empty() => return Err(format!("{} has no address", self.target.host())),
                None => return Err(error),
            }
        }
    }

    async fn handshake(&self, address: SocketAddr) -> Result<(Endpoint, Connection), String> {
        let any: SocketAddr = if address.is_ipv6() {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let endpoint = Endpoint::client(any).map_err(|error| error.to_string())?;
        let connecting = endpoint.connect_with(self.config.clone(), address, self.target.host());
        let connecting = connecting.map_err(|error| error.to_string())?;
        match tokio::time::timeout(QUIC_HANDSHAKE_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok((endpoint, connection)),
            Ok(Err(error)) => Err(self.describe(&error)),
            Err(_) => Err(SILENT.to_owned()),
        }
    }

    /// What went wrong with a handshake, for people.
    fn describe(&self, error: &ConnectionError) -> String {
        match error {
            ConnectionError::TransportError(error) => match self.verifier.take_refusal(&error.reason) {
                Some(refusal) => certificate::describe(&refusal),
                None => error.to_string(),
            },
            ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == NO_PROTOCOL => {
                format!("the other side does not speak {} here", self.transport)
            }
            ConnectionError::TimedOut => SILENT.to_owned(),
            error => error.to_string(),
        }
    }
}
