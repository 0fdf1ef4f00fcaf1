//! Connections of the load generator: quinn's client, one socket for all, whatever certificate the server shows.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use rustix::net::sockopt;

use super::framing::{Assembler, push_message};
use crate::link::printable;
use crate::wire::{Kind, Target, Wire};

/// How long a server may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Pieces of a stream taken at once.
const PIECES: usize = 32;

/// Of the socket, as the servers ask for.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The socket of all connections; within a runtime.
///
/// # Errors
/// When it cannot be opened.
pub(super) fn endpoint() -> Result<Endpoint> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    let mut endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))?;
    let crypto = QuicClientConfig::try_from(crate::tls::client(super::ALPN)?)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    Ok(endpoint)
}

/// One connection with its stream.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) send: SendStream,
    pub(super) ear: Ear,
}

/// The receiving side of a stream.
#[derive(Debug)]
pub(super) struct Ear {
    wire: Wire,
    receive: RecvStream,
    assembler: Assembler,
}

/// What one read brought.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) bytes: u64,
    pub(super) messages: u64,
    pub(super) welcomes: u64,
    pub(super) oks: u64,
    pub(super) complaint: Option<String>,
}

impl Link {
    /// Connects, and makes a session of it where there is such a thing.
    ///
    /// # Errors
    /// When the server refuses, with its words, or is silent for ten seconds.
    pub(super) async fn open(endpoint: &Endpoint, wire: Wire, port: u16, user: &str) -> Result<Self> {
        let opening = async {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let connection = endpoint.connect(address, "localhost")?.await?;
            let (send, receive) = connection.open_bi().await?;
            let ear = Ear { wire, receive, assembler: Assembler::default() };
            let mut link = Self { connection, send, ear };
            if let Some(message) = wire.connect_message(user, false, &[]) {
                link.ask(&message, |heard| heard.welcomes).await?;
            }
            Ok(link)
        };
        let opened = tokio::time::timeout(ANSWER_WITHIN, opening).await;
        opened.map_err(|_| anyhow!("no answer")).flatten().with_context(|| format!("connecting as {user}"))
    }

    /// # Errors
    /// As [`Link::open`].
    pub(super) async fn subscribe(&mut self, target: Target) -> Result<()> {
        let message = self.ear.wire.subscribe_message(target);
        let asking = self.ask(&message, |heard| heard.oks);
        let asked = tokio::time::timeout(ANSWER_WITHIN, asking).await;
        asked.map_err(|_| anyhow!("no answer")).flatten().with_context(|| format!("subscribing to {target}"))
    }

    async fn ask(&mut self, message: &[u8], awaited: fn(&Heard) -> u64) -> Result<()> {
        let mut framed = Vec::new();
        push_message(&mut framed, message);
        self.send.write_all(&framed).await?;
        loop {
            let heard = self.ear.hear().await?;
            if let Some(complaint) = heard.complaint {
                bail!("the server said {complaint}");
            }
            if awaited(&heard) > 0 {
                return Ok(());
            }
        }
    }
}

impl Ear {
    /// Waits for bytes and counts the messages in them.
    ///
    /// # Errors
    /// When the connection is over, or what comes is no message.
    pub(super) async fn hear(&mut self) -> Result<Heard> {
        let mut pieces: [_; PIECES] = Default::default();
        let count = self.receive.read_chunks(&mut pieces).await?.context("the stream ended")?;
        let (wire, mut heard) = (self.wire, Heard::default());
        for piece in pieces.iter_mut().take(count) {
            let piece = std::mem::take(piece);
            heard.bytes += piece.len() as u64;
            let fed = self.assembler.feed(&piece, |message| {
                let walked = wire.each_frame(message, |frame| match wire.kind(frame) {
                    Kind::Message => heard.messages += 1,
                    Kind::Welcome => heard.welcomes += 1,
                    Kind::Ok => heard.oks += 1,
                    Kind::Aside => {}
                    Kind::Complaint => heard.complaint = Some(printable(frame)),
                });
                if walked.is_err() {
                    heard.complaint = Some("a message whose frames do not add up".to_owned());
                }
            });
            fed.map_err(|_| anyhow!("a message that is too long"))?;
        }
        Ok(heard)
    }
}
