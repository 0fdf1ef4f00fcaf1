//! A server for scripted peers over QUIC and WebTransport, as the wire says: one stream, messages with their lengths.

use crate::support::{Got, Peer};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, ServerConfig, TransportConfig};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use waspmq_client::{Builder, Client, Messages, Transport};
use waspmq_protocol::stream;
use web_transport_quinn::{RecvStream, Request, SendStream, Session, SessionError, WebTransportError};

/// Both ways.
pub(crate) const WAYS: [Transport; 2] = [Transport::Quic, Transport::WebTransport];

/// A self-signed certificate for what loopback is called.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    directory: TempDir,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        // Each is an authority of its own, and authorities are known by their names.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::new(names).unwrap();
        let name = format!("test {}", COUNT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("c.pem"), made.pem()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Self { certificate: made.der().clone(), key, directory }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("c.pem")
    }

    pub(crate) fn fingerprint(&self) -> String {
        let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
        let hash = suite.common.hash_provider.hash(&self.certificate);
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn config(&self, alpn: &str) -> rustls::ServerConfig {
        let mut config = rustls::ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }
}

pub(crate) struct UdpServer {
    pub(crate) identity: Identity,
    endpoint: Endpoint,
    transport: Transport,
}

impl UdpServer {
    pub(crate) fn start(transport: Transport) -> Self {
        Self::on(UdpSocket::bind("127.0.0.1:0").unwrap(), transport)
    }

    pub(crate) fn on(socket: UdpSocket, transport: Transport) -> Self {
        Self::with(socket, transport, TransportConfig::default())
    }

    pub(crate) fn with(socket: UdpSocket, transport: Transport, windows: TransportConfig) -> Self {
        let identity = Identity::new();
        let alpn = if transport == Transport::Quic { "waspmq/1" } else { "h3" };
        let crypto = QuicServerConfig::try_from(identity.config(alpn)).unwrap();
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(windows));
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket, runtime);
        Self { identity, endpoint: endpoint.unwrap(), transport }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        match self.transport {
            Transport::Quic => format!("quic://{}", self.address()),
            _ => format!("wt://{}/wt", self.address()),
        }
    }

    /// Somebody who takes this server for the broker.
    pub(crate) fn client(&self) -> Builder {
        let builder = Client::builder(self.url()).user("alice").backoff(crate::support::FAST);
        builder.tls_fingerprint(self.identity.fingerprint())
    }

    pub(crate) async fn accept(&self) -> Peer {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let session = if self.transport == Transport::Quic {
            Session::raw(connection)
        } else {
            let request = Request::accept(connection).await.unwrap();
            assert_eq!(request.url.path(), "/wt");
            request.ok().await.unwrap()
        };
        let (send, receive) = session.accept_bi().await.unwrap();
        Peer::over(Stream { session, send, receive })
    }

    /// The next one who tries and does not become a connection.
    pub(crate) async fn failed(&self) {
        self.endpoint.accept().await.unwrap().await.unwrap_err();
    }

    pub(crate) async fn welcome(&self) -> Peer {
        self.accept().await.welcomed_with(60_000, 65_536).await
    }

    pub(crate) async fn welcome_session(&self, resume_token: &'static str, resumed: bool) -> (Peer, Got) {
        self.accept().await.welcomed_session(resume_token, resumed).await
    }
}

/// A connected client and its peer.
pub(crate) async fn pair(server: &UdpServer) -> (Client, Messages, Peer) {
    let (connected, peer) = tokio::join!(server.client().connect(), server.welcome());
    let (client, messages) = connected.unwrap();
    (client, messages, peer)
}

pub(crate) struct Stream {
    pub(crate) session: Session,
    send: SendStream,
    receive: RecvStream,
}

impl Stream {
    /// The next message; `None` when the client's side of the stream has ended.
    pub(crate) async fn read(&mut self) -> Option<Vec<u8>> {
        read(&mut self.receive).await
    }

    pub(crate) async fn write(&mut self, message: &[u8]) {
        self.write_raw(&with_length(message)).await;
    }

    pub(crate) async fn write_raw(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    /// Ends this side of the stream once the client has everything; the connection is still there.
    pub(crate) async fn finish(&mut self) {
        self.send.finish().unwrap();
        self.send.stopped().await.unwrap();
    }

    /// Closes once the client has everything.
    pub(crate) async fn close(&mut self, code: u32, reason: &str) {
        self.finish().await;
        self.session.close(code, reason.as_bytes());
    }

    /// What the client closed with.
    pub(crate) async fn closed(&self) -> u32 {
        let closed = tokio::time::timeout(Duration::from_secs(5), self.session.closed()).await.unwrap();
        let SessionError::WebTransportError(WebTransportError::Closed(code, _)) = closed else {
            panic!("{closed:?}");
        };
        code
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // WebTransport has a task with a share of the connection.
        self.session.close(0, b"");
    }
}

/// The next message of a stream; `None` when it has ended.
pub(crate) async fn read(stream: &mut RecvStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = loop {
        if let Some((length, _)) = stream::length(&bytes) {
            break length;
        }
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        bytes.extend(byte);
    };
    let mut message = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// A message as it is on a stream.
pub(crate) fn with_length(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = stream::begin(&mut bytes);
    bytes.extend_from_slice(message);
    stream::end(&mut bytes, start);
    bytes
}
