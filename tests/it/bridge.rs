//! Peers over QUIC, WebTransport and server-sent events for the tests of everything else.
//!
//! A peer of a test sees WebSocket messages: a bridge puts what it sends on a stream of QUIC, message by message, or
//! into requests, and what comes from there back. It holds one message at most in either direction.

#[path = "bridge/events.rs"]
pub(crate) mod events;

use crate::binary::to_binary;
use crate::harness::Broker;
use futures_util::{SinkExt, StreamExt};
use quinn::crypto::rustls::QuicClientConfig;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use waspmq_protocol::server::Received;
use waspmq_protocol::{decode, stream};

/// What a peer speaks that is no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Quic,
    WebTransport,
    Events,
}

impl Way {
    /// By the name that takes the place of a subprotocol.
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "quic" => Some(Self::Quic),
            "webtransport" => Some(Self::WebTransport),
            "sse" => Some(Self::Events),
            _ => None,
        }
    }

    pub(crate) const fn is_binary(self) -> bool {
        !matches!(self, Self::Events)
    }
}

/// A client's side of an endpoint that trusts this broker's own certificate.
pub(crate) fn endpoint(broker: &Broker, alpn: &[u8]) -> quinn::Endpoint {
    endpoint_with(broker, alpn, quinn::TransportConfig::default())
}

/// The same with windows of its own.
pub(crate) fn endpoint_with(
    broker: &Broker,
    alpn: &[u8],
    transport: quinn::TransportConfig,
) -> quinn::Endpoint {
    let pem = std::fs::read(broker.data.path().join("tls/self-signed.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls::pki_types::pem::PemObject::pem_slice_iter(&pem) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let config = QuicClientConfig::try_from(tls).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(config));
    config.transport_config(Arc::new(transport));
    endpoint.set_default_client_config(config);
    endpoint
}

pub(crate) async fn connect(broker: &Broker, alpn: &[u8]) -> (quinn::Endpoint, quinn::Connection) {
    connect_to(broker, broker.address.parse().unwrap(), alpn).await
}

/// As [`connect`], by a way of its own.
pub(crate) async fn connect_to(
    broker: &Broker,
    address: SocketAddr,
    alpn: &[u8],
) -> (quinn::Endpoint, quinn::Connection) {
    let endpoint = endpoint(broker, alpn);
    let connection = endpoint.connect(address, "localhost").unwrap().await.unwrap();
    (endpoint, connection)
}

/// A WebSocket whose other end goes on to the broker by this way.
pub(crate) async fn bridge(broker: &Broker, way: Way) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    let far = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    match way {
        Way::Quic => {
            let (endpoint, connection) = connect(broker, b"waspmq/1").await;
            let (send, receive) = connection.open_bi().await.unwrap();
            let ended = async move {
                let reason = match connection.closed().await {
                    quinn::ConnectionError::ApplicationClosed(close) => {
                        let code = u16::try_from(u64::from(close.error_code)).unwrap();
                        Some((code, String::from_utf8_lossy(&close.reason).into_owned()))
                    }
                    _ => None,
                };
                drop(endpoint);
                reason
            };
            start(relay(far, send, receive, ended));
        }
        Way::WebTransport => {
            let (endpoint, connection) = connect(broker, b"h3").await;
            let url = format!("https://{}/wt", broker.address).parse::<url::Url>().unwrap();
            let session = web_transport_quinn::Session::connect(connection, url).await.unwrap();
            let (send, receive) = session.open_bi().await.unwrap();
            let ended = async move {
                use web_transport_quinn::{SessionError, WebTransportError};
                let reason = match session.closed().await {
                    SessionError::WebTransportError(WebTransportError::Closed(code, reason)) => {
                        Some((u16::try_from(code).unwrap(), reason))
                    }
                    _ => None,
                };
                drop(endpoint);
                reason
            };
            start(relay(far, send, receive, ended));
        }
        Way::Events => {
            let (events, posts) = (events::Http::connect(broker).await, events::Http::connect(broker).await);
            start(events::relay(far, events, posts));
        }
    }
    let near = MaybeTlsStream::Plain(near);
    WebSocketStream::from_raw_socket(near, Role::Client, None).await
}

#[expect(clippy::disallowed_methods, reason = "a bridge ends with its test's runtime")]
fn start(relay: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(relay);
}

/// Carries messages in both directions until either side is over.
async fn relay(
    socket: WebSocketStream<TcpStream>,
    mut send: impl AsyncWrite + Unpin,
    mut receive: impl AsyncRead + Unpin,
    ended: impl Future<Output = Option<(u16, String)>>,
) {
    let (mut sink, mut source) = socket.split();
    let up = async {
        while let Some(Ok(message)) = source.next().await {
            if let Message::Binary(bytes) = message {
                let mut out = Vec::new();
                let start = stream::begin(&mut out);
                out.extend_from_slice(&bytes);
                stream::end(&mut out, start);
                if send.write_all(&out).await.is_err() {
                    break;
                }
            }
        }
        // The other side is told that nothing more comes, and may still have something to say.
        _ = send.shutdown().await;
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut said = None;
        while let Some(message) = message(&mut receive).await {
            assert_eq!(said, None, "a close is the last frame");
            if let Ok((Received::Close(close), _)) = decode::server_binary(&message) {
                said = Some((close.code, close.reason().to_owned()));
                continue;
            }
            if sink.send(Message::binary(message)).await.is_err() {
                return;
            }
        }
        let is_known = |&(code, _): &(u16, String)| code >= 1000;
        let ended = ended.await.filter(is_known);
        // A stream that was cut has said nothing.
        assert!(said.is_none() || said == ended, "the stream says {said:?}, the connection {ended:?}");
        let close = ended.map(|(code, reason)| CloseFrame { code: code.into(), reason: reason.into() });
        if close.is_some() {
            _ = sink.send(Message::Close(close)).await;
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// The next message of a stream; `None` at its end.
pub(crate) async fn message(receive: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut head = vec![receive.read_u8().await.ok()?];
    while stream::length(&head).is_none() {
        head.push(receive.read_u8().await.ok()?);
    }
    let (length, _) = stream::length(&head)?;
    let mut message = vec![0; usize::try_from(length).unwrap()];
    receive.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// Appends a message with its length in front.
pub(crate) fn framed(frames: &serde_json::Value) -> Vec<u8> {
    let mut out = Vec::new();
    let start = stream::begin(&mut out);
    out.extend(to_binary(&frames.to_string()));
    stream::end(&mut out, start);
    out
}
