//! The reference: what moving messages between streams of quinn costs when nothing else is done.
//!
//! As many threads as the broker has workers, each with a runtime of its own; the first one has the socket, too, and
//! hands connections to the threads in turn, before their handshakes, so that each has the encryption, the timers and
//! the sending of its own. quinn is configured as the broker configures it. Messages are walked in the pieces that
//! quinn received, laid out again with their lengths, and written to the paired stream once per read.
//!
//! Dialect inside the messages: that of the relay in [`crate::wire`]. A connection publishes to one channel only, and
//! a channel has one subscriber. Who does not read holds up who sends to it, by the windows.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, SendStream, ServerConfig, TokioRuntime, TransportConfig,
};
use rustix::net::sockopt;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use waspmq_transport::limits::{
    QUIC_CRYPTO_BYTES, QUIC_DATAGRAM_BYTES, QUIC_INCOMING_BYTES, QUIC_INCOMING_MAX, QUIC_STREAMS_MAX,
    QUIC_UNI_STREAMS_MAX,
};

use super::framing::{Assembler, push_message};

/// Connections that wait for a thread's turn.
const HANDED_MAX: usize = 256;

/// The broker's receive window, its default send window, and twice its default heartbeat.
const RECEIVE_BYTES: u32 = 256 * 1024;
const SEND_BYTES: u32 = 256 * 1024;
const IDLE: Duration = Duration::from_secs(60);

/// Of the socket, as the broker asks for.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Pieces of a stream taken at once.
const PIECES: usize = 32;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// UDP address to listen on; the TCP port of the same number is open to tell that it is up
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 9481)))]
    listen: SocketAddr,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[cfg(test)]
impl Arguments {
    pub(super) fn at(port: u16, threads: usize) -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, port).into(), threads }
    }
}

/// The stream of each channel's subscriber. The lock of the stream is held while it is written to.
type Channels = Arc<Mutex<HashMap<u16, Outlet>>>;
type Outlet = Arc<tokio::sync::Mutex<SendStream>>;

/// Serves until the process is ended.
///
/// # Errors
/// When the address cannot be bound or a thread cannot be started.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let socket =
        UdpSocket::bind(arguments.listen).with_context(|| format!("binding {}", arguments.listen))?;
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    let channels = Channels::default();
    let (own, first) = mpsc::channel(HANDED_MAX);
    let mut threads = vec![own];
    for number in 1..arguments.threads.max(1) {
        let (sender, incoming) = mpsc::channel(HANDED_MAX);
        threads.push(sender);
        let channels = channels.clone();
        std::thread::Builder::new()
            .name(format!("relay-{number}"))
            .spawn(move || on_this_thread(serve(incoming, channels)))?;
    }
    on_this_thread(async move {
        let endpoint =
            Endpoint::new(EndpointConfig::default(), Some(server()?), socket, Arc::new(TokioRuntime))?;
        spawn_local(serve(first, channels));
        // Whoever starts this waits until the port is open.
        let _up = TcpListener::bind(arguments.listen)?;
        for thread in threads.iter().cycle() {
            let Some(incoming) = endpoint.accept().await else { break };
            thread.send(incoming).await.map_err(|_| anyhow!("a thread ended"))?;
        }
        Ok(())
    })?
}

fn on_this_thread<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    Ok(LocalSet::new().block_on(&runtime, work))
}

async fn serve(mut incoming: mpsc::Receiver<Incoming>, channels: Channels) {
    while let Some(incoming) = incoming.recv().await {
        let channels = channels.clone();
        // How a peer ends is seen at the other end.
        spawn_local(async move { drop(peer(incoming, channels).await) });
    }
}

async fn peer(incoming: Incoming, channels: Channels) -> Result<()> {
    let connection = incoming.accept()?.await?;
    let (send, mut receive) = connection.accept_bi().await?;
    let own = Arc::new(tokio::sync::Mutex::new(send));
    let (mut assembler, mut out, mut outlet) = (Assembler::default(), Vec::new(), None);
    let mut pieces: [_; PIECES] = Default::default();
    while let Some(count) = receive.read_chunks(&mut pieces).await? {
        let (mut subscribes, mut publishes) = (None, None);
        for piece in pieces.iter_mut().take(count) {
            let piece = std::mem::take(piece);
            let taken = assembler.feed(&piece, |message| match message {
                [b'P', low, high, payload @ ..] => {
                    publishes = Some(u16::from_le_bytes([*low, *high]));
                    push_message(&mut out, payload);
                }
                [b'S', low, high] => subscribes = Some(u16::from_le_bytes([*low, *high])),
                _ => {}
            });
            taken.map_err(|_| anyhow!("a message that is too long"))?;
        }
        if let Some(channel) = subscribes {
            channels.lock().unwrap_or_else(PoisonError::into_inner).insert(channel, own.clone());
            let mut answer = Vec::new();
            push_message(&mut answer, b"ok");
            own.lock().await.write_all(&answer).await?;
        }
        let Some(channel) = publishes else { continue };
        if outlet.is_none() {
            outlet = channels.lock().unwrap_or_else(PoisonError::into_inner).get(&channel).cloned();
        }
        let subscriber: &Outlet = outlet.as_ref().context("nobody subscribed to the channel")?;
        subscriber.lock().await.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}

/// As the broker has it, see `waspmq_transport::quic`.
fn server() -> Result<ServerConfig> {
    let tls = crate::tls::server(super::ALPN)?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config
        .transport_config(Arc::new(transport()?))
        .max_incoming(QUIC_INCOMING_MAX)
        .incoming_buffer_size(QUIC_INCOMING_BYTES)
        .incoming_buffer_size_total(QUIC_INCOMING_BYTES * QUIC_INCOMING_MAX as u64);
    Ok(config)
}

fn transport() -> Result<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?))
        .keep_alive_interval(Some(IDLE / 3))
        .max_concurrent_bidi_streams(QUIC_STREAMS_MAX.into())
        .max_concurrent_uni_streams(QUIC_UNI_STREAMS_MAX.into())
        .stream_receive_window(RECEIVE_BYTES.into())
        .receive_window(RECEIVE_BYTES.into())
        .send_window(SEND_BYTES.into())
        .crypto_buffer_size(QUIC_CRYPTO_BYTES)
        .datagram_receive_buffer_size(Some(QUIC_DATAGRAM_BYTES))
        .datagram_send_buffer_size(QUIC_DATAGRAM_BYTES);
    Ok(config)
}
