//! The reference: what moving messages between streams of quinn costs when nothing else is done.
//!
//! As many threads as the broker has workers, each with a runtime of its own, and with the encryption, the timers and the
//! sending of its connections. Who receives is said by [`Sockets`]. quinn is configured as the broker configures it. Messages are walked in the pieces that
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
use rustix::net::{self, AddressFamily, SocketType, sockopt};
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
    /// Who receives
    #[arg(long, value_enum, default_value_t = Sockets::First)]
    sockets: Sockets,
}

/// Who receives datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sockets {
    /// The first thread has the one socket, beside its connections. It hands the others theirs in turn, before their
    /// handshakes.
    First,
    /// One more thread has the one socket, and no connections. It hands them over likewise.
    Apart,
    /// Each thread has a socket of its own on the same port (`SO_REUSEPORT`), and keeps what the kernel gives it.
    Each,
}

impl Sockets {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Apart => "apart",
            Self::Each => "each",
        }
    }
}

#[cfg(test)]
impl Arguments {
    pub(super) fn at(port: u16, threads: usize, sockets: Sockets) -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, port).into(), threads, sockets }
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
    let Arguments { listen, threads, sockets } = *arguments;
    let channels = Channels::default();
    if sockets == Sockets::Each {
        return each(listen, threads.max(1), &channels);
    }
    let socket = bind(listen, false)?;
    let (own, first) = mpsc::channel(HANDED_MAX);
    let mut hand_overs = vec![own];
    let others = if sockets == Sockets::First { 1..threads.max(1) } else { 0..threads.max(1) };
    if sockets == Sockets::Apart {
        hand_overs.clear();
    }
    for number in others {
        let (sender, incoming) = mpsc::channel(HANDED_MAX);
        hand_overs.push(sender);
        let channels = channels.clone();
        start(number, move || on_this_thread(serve(incoming, channels)))?;
    }
    on_this_thread(async move {
        let endpoint = endpoint(socket)?;
        spawn_local(serve(first, channels));
        // Whoever starts this waits until the port is open.
        let _up = TcpListener::bind(listen)?;
        for thread in hand_overs.iter().cycle() {
            let Some(incoming) = endpoint.accept().await else { break };
            thread.send(incoming).await.map_err(|_| anyhow!("a thread ended"))?;
        }
        Ok(())
    })?
}

/// A socket and an endpoint for each thread, of which this is one.
fn each(listen: SocketAddr, threads: usize, channels: &Channels) -> Result<()> {
    let sockets: Vec<_> = (0..threads).map(|_| bind(listen, true)).collect::<Result<_>>()?;
    let mut threads = sockets.into_iter().map(|socket| {
        let channels = channels.clone();
        move || on_this_thread(serve_all(socket, channels))?
    });
    let own = threads.next().context("no thread")?;
    for (number, thread) in (1..).zip(threads) {
        start(number, thread)?;
    }
    let _up = TcpListener::bind(listen)?;
    own()
}

fn start(number: usize, thread: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    std::thread::Builder::new().name(format!("relay-{number}")).spawn(thread)?;
    Ok(())
}

fn bind(listen: SocketAddr, is_shared: bool) -> Result<UdpSocket> {
    let family = if listen.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket(family, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseport(&socket, is_shared)?;
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    net::bind(&socket, &listen).with_context(|| format!("binding {listen}"))?;
    Ok(socket.into())
}

fn endpoint(socket: UdpSocket) -> Result<Endpoint> {
    Ok(Endpoint::new(EndpointConfig::default(), Some(server()?), socket, Arc::new(TokioRuntime))?)
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

async fn serve_all(socket: UdpSocket, channels: Channels) -> Result<()> {
    let endpoint = endpoint(socket)?;
    while let Some(incoming) = endpoint.accept().await {
        let channels = channels.clone();
        spawn_local(async move { drop(peer(incoming, channels).await) });
    }
    Ok(())
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
