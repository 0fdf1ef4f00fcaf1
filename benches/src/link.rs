//! Setting up one connection: TCP from a chosen loopback address, the WebSocket upgrade, `connect`, `subscribe`.
//! Blocking, because set-up is not measured in the loaded scenarios; bounded by a time limit per answer.
//!
//! Not here: reading deliveries, which [`crate::conn`] does on the same socket afterwards.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::stream::{READ_BYTES_MIN, Stream};
use crate::wire::{Kind, Reads, Target, Wire};
use crate::ws::{self, Head};

/// How long a server may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of the answer to an upgrade.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    /// Read but not yet looked at.
    unread: Vec<u8>,
    wire: Wire,
    reads: Reads,
}

/// Payload of one WebSocket message.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) payload: Vec<u8>,
    /// By permessage-deflate; `payload` is as it came.
    pub(crate) is_compressed: bool,
}

impl Link {
    /// Connects from `source` (any address when `None`) to the server on loopback and upgrades.
    ///
    /// # Errors
    /// When the server refuses, answers otherwise than with 101, or is silent for ten seconds.
    pub(crate) fn open(wire: Wire, port: u16, source: Option<Ipv4Addr>) -> Result<Self> {
        Self::over(wire, port, dial(port, source, None)?)
    }

    /// As [`Link::open`] from any address, as a client that reads what is compressed in these ways.
    ///
    /// # Errors
    /// Those of [`Link::open`], and when the server does not agree to compress as it is asked to.
    pub(crate) fn reading(wire: Wire, port: u16, reads: Reads) -> Result<Self> {
        Self::upgraded(wire, port, dial(port, None, None)?.into(), reads)
    }

    /// As [`Link::open`], over a socket that is connected.
    ///
    /// # Errors
    /// When the server answers otherwise than with 101, or is silent for ten seconds.
    pub(crate) fn over(wire: Wire, port: u16, stream: TcpStream) -> Result<Self> {
        Self::upgraded(wire, port, stream.into(), Reads::PLAIN)
    }

    /// As [`Link::open`], over TLS.
    ///
    /// # Errors
    /// Those of [`Link::open`], and when the handshake fails.
    pub(crate) fn secure(wire: Wire, port: u16, source: Option<Ipv4Addr>) -> Result<Self> {
        Self::upgraded(wire, port, Stream::client(dial(port, source, None)?)?, Reads::PLAIN)
    }

    fn upgraded(wire: Wire, port: u16, stream: Stream, reads: Reads) -> Result<Self> {
        let mut link = Self { stream, unread: Vec::new(), wire, reads };
        link.upgrade(port)?;
        Ok(link)
    }

    /// Makes a session of the connection and waits for `welcome`. Nothing to do for the relay.
    ///
    /// # Errors
    /// With the server's words when it refuses.
    pub(crate) fn connect(&mut self, user: &str, batch: bool) -> Result<()> {
        let Some(frame) = self.wire.connect(user, batch, self.reads.codecs) else { return Ok(()) };
        self.stream.write_all(&frame)?;
        self.wait_for(Kind::Welcome).with_context(|| format!("connecting as {user}"))
    }

    /// # Errors
    /// With the server's words when it refuses.
    pub(crate) fn subscribe(&mut self, target: Target) -> Result<()> {
        self.stream.write_all(&self.wire.subscribe(target))?;
        self.wait_for(Kind::Ok).with_context(|| format!("subscribing to {target}"))
    }

    /// Writes bytes that are WebSocket frames.
    ///
    /// # Errors
    /// When the connection is over.
    pub(crate) fn send(&mut self, frames: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(frames)?)
    }

    /// The next WebSocket message with data.
    ///
    /// # Errors
    /// When the server closes, or says nothing for ten seconds.
    pub(crate) fn receive(&mut self) -> Result<Incoming> {
        loop {
            if let Some(incoming) = self.next_message()? {
                return Ok(incoming);
            }
            self.fill()?;
        }
    }

    /// The socket, and what was read from it beyond the last answer.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream.into_socket(), self.unread)
    }

    /// As [`Link::into_parts`], with TLS where it has it.
    pub(crate) fn into_stream(self) -> (Stream, Vec<u8>) {
        (self.stream, self.unread)
    }

    fn upgrade(&mut self, port: u16) -> Result<()> {
        self.stream.write_all(self.wire.upgrade_request(port, self.reads.deflate).as_bytes())?;
        loop {
            self.fill().context("waiting for the upgrade")?;
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                if !self.unread.starts_with(b"HTTP/1.1 101 ") {
                    bail!("upgrade refused: {}", printable(&self.unread));
                }
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                if self.reads.deflate && !String::from_utf8_lossy(&head).contains("permessage-deflate") {
                    bail!("permessage-deflate was not agreed on: {}", printable(&head));
                }
                return Ok(());
            }
            if self.unread.len() > RESPONSE_BYTES_MAX {
                bail!("the answer to the upgrade does not end");
            }
        }
    }

    fn wait_for(&mut self, awaited: Kind) -> Result<()> {
        loop {
            while let Some(Incoming { payload: message, .. }) = self.next_message()? {
                let mut outcome = None;
                let wire = self.wire;
                wire.each_frame(&message, |frame| match wire.kind(frame) {
                    kind if kind == awaited => outcome = Some(Ok(())),
                    Kind::Complaint => outcome = Some(Err(anyhow!("the server said {}", printable(frame)))),
                    _ => {}
                })
                .map_err(|_| anyhow!("malformed frame: {}", printable(&message)))?;
                if let Some(outcome) = outcome {
                    return outcome;
                }
            }
            self.fill()?;
        }
    }

    /// The next complete data message in `unread`.
    fn next_message(&mut self) -> Result<Option<Incoming>> {
        while let Some(head) = Head::parse(&self.unread).map_err(|_| anyhow!("a frame beyond the limit"))? {
            if self.unread.len() < head.frame_bytes() {
                break;
            }
            let frame: Vec<u8> = self.unread.drain(..head.frame_bytes()).collect();
            let payload = &frame[head.header_bytes..];
            match head.opcode {
                ws::CLOSE => bail!("closed by the server: {}", printable(payload)),
                ws::TEXT | ws::BINARY => {
                    let (payload, is_compressed) = (payload.to_vec(), head.is_compressed);
                    return Ok(Some(Incoming { payload, is_compressed }));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn fill(&mut self) -> Result<()> {
        let mut bytes = vec![0; READ_BYTES_MIN];
        match self.stream.read(&mut bytes).context("no answer")? {
            0 => bail!("the server closed the connection"),
            count => self.unread.extend_from_slice(&bytes[..count]),
        }
        Ok(())
    }
}

/// A blocking connection to `port` on loopback, from `source` (any address when `None`), with a receive buffer of
/// about `receive_bytes` (the kernel's choice when `None`).
///
/// # Errors
/// When the server does not listen or the socket cannot be set up.
pub(crate) fn dial(port: u16, source: Option<Ipv4Addr>, receive_bytes: Option<usize>) -> Result<TcpStream> {
    let server = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if let Some(source) = source {
        rustix::net::bind(&socket, &SocketAddrV4::new(source, 0)).context("binding the source address")?;
    }
    if let Some(bytes) = receive_bytes {
        // Before connecting, because the window is agreed on then.
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    rustix::net::connect(&socket, &server).with_context(|| format!("connecting to {server}"))?;
    // Closing resets: ten thousand connections in TIME_WAIT would take the ports of the next repetition.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    Ok(stream)
}

/// The start of what a server said, for an error message.
pub(crate) fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string()
}
