//! The UDP socket, and with what connections begin.

use super::Incoming;
use crate::limits::{
    QUIC_CRYPTO_BYTES, QUIC_DATAGRAM_BYTES, QUIC_INCOMING_BYTES, QUIC_INCOMING_MAX, QUIC_STREAMS_MAX,
    QUIC_UNI_STREAMS_MAX,
};
use crate::tls::Credentials;
use aws_lc_rs::hmac;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// How much a connection may have on its way, and how long it may be silent.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// Bytes that a peer may send ahead of what is read.
    pub receive_bytes: u32,
    /// Bytes that are held until the peer acknowledges them.
    pub send_bytes: u32,
    /// A connection of which nothing is heard for so long is lost.
    pub idle: Duration,
}

/// How often at most a stray datagram is answered. An answer is shorter than what it answers.
const RESET_EVERY: Duration = Duration::from_millis(1);

/// Bytes of a connection's id.
const ID_BYTES: usize = 8;

/// What makes a listener the same to its peers over restarts. Whoever knows it can end the connections of others.
#[derive(Clone)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Signs the tokens of stateless resets.
struct ResetKey(hmac::Key);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        out.copy_from_slice(hmac::sign(&self.0, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        hmac::HMAC_SHA256.digest_algorithm().output_len()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(|_| CryptoError)
    }
}

/// Accepts connections.
pub struct Listener {
    endpoint: quinn::Endpoint,
    transport: Arc<TransportConfig>,
}

impl Listener {
    /// Takes a bound socket. With the `secret` of the run before, connections of that run are told that they are over
    /// (RFC 9000, 10.3) instead of waiting for their time to run out.
    ///
    ///  Must be called within a tokio runtime, which receives for all connections from then on.
    ///
    /// # Errors
    /// The socket cannot be used, or the credentials cannot be used for QUIC.
    pub fn new(
        socket: UdpSocket,
        (credentials, secret): (&Credentials, &Secret),
        windows: Windows,
    ) -> io::Result<Self> {
        let transport = Arc::new(transport(windows)?);
        let server = server(credentials, &transport)?;
        let endpoint = quinn::Endpoint::new(endpoint(secret), Some(server), socket, Arc::new(TokioRuntime))?;
        Ok(Self { endpoint, transport })
    }

    /// The next connection that wants to begin; `None` once the listener is closed.
    pub async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await.map(Incoming::new)
    }

    /// Accepts connections with another certificate from now on; those that are open keep theirs.
    ///
    /// # Errors
    /// They cannot be used for QUIC; those from before go on.
    pub fn replace(&self, credentials: &Credentials) -> io::Result<()> {
        self.endpoint.set_server_config(Some(server(credentials, &self.transport)?));
        Ok(())
    }

    /// # Errors
    /// The operating system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Ends every connection that is left, and tells their peers.
    pub async fn close(self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        self.endpoint.wait_idle().await;
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("local_addr", &self.local_addr().ok()).finish_non_exhaustive()
    }
}

/// Ids without a mark of this run, so that those of the run before are answered, too. quinn bounds how often it is.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        // Without randomness there is no TLS either, and so no connection.
        _ = aws_lc_rs::rand::fill(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn endpoint(Secret(secret): &Secret) -> EndpointConfig {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut config = EndpointConfig::new(Arc::new(ResetKey(key)));
    config.cid_generator(|| Box::new(RandomIds)).min_reset_interval(RESET_EVERY);
    config
}

fn server(credentials: &Credentials, transport: &Arc<TransportConfig>) -> io::Result<ServerConfig> {
    let crypto = QuicServerConfig::try_from(credentials.quic()).map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(transport.clone())
        .max_incoming(QUIC_INCOMING_MAX)
        .incoming_buffer_size(QUIC_INCOMING_BYTES)
        .incoming_buffer_size_total(QUIC_INCOMING_BYTES * QUIC_INCOMING_MAX as u64);
    Ok(config)
}

fn transport(windows: Windows) -> io::Result<TransportConfig> {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(windows.idle).map_err(io::Error::other)?;
    config
        .max_idle_timeout(Some(idle))
        // Three in a window: one that is lost does not end a connection that is well.
        .keep_alive_interval(Some(windows.idle / 3))
        .max_concurrent_bidi_streams(QUIC_STREAMS_MAX.into())
        .max_concurrent_uni_streams(QUIC_UNI_STREAMS_MAX.into())
        .stream_receive_window(windows.receive_bytes.into())
        .receive_window(windows.receive_bytes.into())
        .send_window(windows.send_bytes.into())
        .crypto_buffer_size(QUIC_CRYPTO_BYTES)
        .datagram_receive_buffer_size(Some(QUIC_DATAGRAM_BYTES))
        .datagram_send_buffer_size(QUIC_DATAGRAM_BYTES);
    Ok(config)
}
