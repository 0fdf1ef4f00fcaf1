//! The reference: what fan-out costs on this machine when nothing is done but moving bytes.
//!
//! One thread, one epoll instance, level-triggered. Masked frames are parsed out of a shared read buffer, unmasked
//! and laid out again behind an unmasked header, one contiguous batch per channel and turn; at the end of the turn
//! each subscriber of a channel gets its batch in one write. Dialect: [`crate::wire`].
//!
//! Not here: names, sessions, authorisation, acknowledgement, history, or anything else that a broker is for. The
//! one bound is the bytes a subscriber may leave unread; beyond it the subscriber is disconnected.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::ServerConfig;

use crate::poll::{self, Event, Poller};
use crate::stream::{self, Stream};
use crate::ws::{self, Head};

/// Bytes of one read.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// Bytes one subscriber may leave unread.
const UNREAD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of an upgrade request.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

const CHANNELS: usize = u16::MAX as usize + 1;

const LISTENER: usize = usize::MAX;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address to listen on
    #[arg(long, default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 9480)))]
    listen: SocketAddr,
    /// Serve over TLS, with a certificate of its own making
    #[arg(long)]
    tls: bool,
}

/// Serves until the process is ended.
///
/// # Errors
/// When the address cannot be bound or epoll fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let listener =
        TcpListener::bind(arguments.listen).with_context(|| format!("binding {}", arguments.listen))?;
    let mut relay = Relay::new(listener)?;
    if arguments.tls {
        relay.tls = Some(Arc::new(crate::tls::server(stream::ALPN)?));
    }
    loop {
        relay.turn(None)?;
    }
}

#[derive(Debug)]
struct Peer {
    stream: Stream,
    upgraded: bool,
    channels: Vec<u16>,
    /// The start of an unfinished frame or request.
    rest: Vec<u8>,
    unwritten: Vec<u8>,
}

pub(crate) struct Relay {
    listener: TcpListener,
    /// With which connections are accepted, where they are not plain.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    poller: Poller,
    events: Vec<Event>,
    scratch: Vec<u8>,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    subscribers: Vec<Vec<usize>>,
    batches: Vec<Vec<u8>>,
    /// Channels whose batch is not empty.
    touched: Vec<u16>,
}

impl Relay {
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let poller = Poller::new()?;
        poller.add(&listener, LISTENER)?;
        Ok(Self {
            listener,
            tls: None,
            poller,
            events: Vec::new(),
            scratch: vec![0; READ_BYTES],
            peers: Vec::new(),
            free: Vec::new(),
            subscribers: vec![Vec::new(); CHANNELS],
            batches: vec![Vec::new(); CHANNELS],
            touched: Vec::new(),
        })
    }

    /// Waits for events, at most `timeout`, handles them and writes each touched channel's batch.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        self.poller.wait(&mut events, timeout)?;
        for event in &events {
            let id = poll::key(event);
            if id == LISTENER {
                self.accept()?;
                continue;
            }
            let mut open = true;
            if poll::is_writable(event) {
                open = self.flush(id).is_ok();
            }
            if open && poll::is_readable(event) {
                open = self.receive(id).is_ok();
            }
            if !open {
                self.remove(id);
            }
        }
        self.events = events;
        self.deliver();
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let stream = match &self.tls {
                None => Stream::from(stream),
                Some(config) => Stream::server(stream, config).map_err(io::Error::other)?,
            };
            let id = self.free.pop().unwrap_or(self.peers.len());
            self.poller.add(&stream, id)?;
            let peer = Peer {
                stream,
                upgraded: false,
                channels: Vec::new(),
                rest: Vec::new(),
                unwritten: Vec::new(),
            };
            match self.peers.get_mut(id) {
                Some(slot) => *slot = Some(peer),
                None => self.peers.push(Some(peer)),
            }
        }
    }

    /// Forgets a peer; an event of the same turn may still name it.
    fn remove(&mut self, id: usize) {
        let Some(peer) = self.peers[id].take() else { return };
        for channel in peer.channels {
            self.subscribers[usize::from(channel)].retain(|&subscriber| subscriber != id);
        }
        self.free.push(id);
    }

    fn receive(&mut self, id: usize) -> io::Result<()> {
        let Some(peer) = &mut self.peers[id] else { return Ok(()) };
        let kept = peer.rest.len();
        if self.scratch.len() < kept + READ_BYTES {
            self.scratch.resize(kept + READ_BYTES, 0);
        }
        let count = match peer.stream.read(&mut self.scratch[kept..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.scratch[..kept].copy_from_slice(&peer.rest);
        peer.rest.clear();
        // The buffer leaves `self` for as long as frames in it are handed to methods.
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = self.take(id, &mut scratch[..kept + count]);
        self.scratch = scratch;
        outcome
    }

    /// Handles every complete frame in `bytes` and keeps the rest.
    fn take(&mut self, id: usize, bytes: &mut [u8]) -> io::Result<()> {
        let mut at = self.upgrade(id, bytes)?;
        while let Some(head) = Head::parse(&bytes[at..]).map_err(|_| ErrorKind::InvalidData)? {
            let end = at + head.frame_bytes();
            let Some(payload) = bytes.get_mut(at + head.header_bytes..end) else { break };
            let (Some(key), true) = (head.mask, head.fin) else { return Err(ErrorKind::InvalidData.into()) };
            ws::apply_mask(payload, key);
            match head.opcode {
                ws::BINARY => self.frame(id, payload)?,
                ws::CLOSE => return Err(ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
            at = end;
        }
        if let Some(peer) = &mut self.peers[id] {
            peer.rest.extend_from_slice(&bytes[at..]);
        }
        Ok(())
    }

    /// Answers the upgrade request if `bytes` hold all of it; returns how many bytes are done with.
    fn upgrade(&mut self, id: usize, bytes: &[u8]) -> io::Result<usize> {
        let Some(peer) = &mut self.peers[id] else { return Ok(bytes.len()) };
        if peer.upgraded {
            return Ok(0);
        }
        let Some((request_bytes, answer)) = answer_upgrade(bytes)? else { return Ok(0) };
        peer.upgraded = true;
        self.write(id, answer.as_bytes())?;
        Ok(request_bytes)
    }

    fn frame(&mut self, id: usize, payload: &[u8]) -> io::Result<()> {
        let [op, low, high, payload @ ..] = payload else { return Err(ErrorKind::InvalidData.into()) };
        let channel = u16::from_le_bytes([*low, *high]);
        if *op == b'P' {
            let batch = &mut self.batches[usize::from(channel)];
            if batch.is_empty() {
                self.touched.push(channel);
            }
            ws::push_frame(batch, ws::BINARY, None, payload);
            return Ok(());
        }
        self.subscribers[usize::from(channel)].push(id);
        if let Some(peer) = &mut self.peers[id] {
            peer.channels.push(channel);
        }
        self.write(id, b"\x82\x02ok")
    }

    /// Writes the batches of this turn.
    fn deliver(&mut self) {
        let mut gone = Vec::new();
        for channel in std::mem::take(&mut self.touched) {
            let channel = usize::from(channel);
            let batch = std::mem::take(&mut self.batches[channel]);
            for i in 0..self.subscribers[channel].len() {
                let id = self.subscribers[channel][i];
                if self.write(id, &batch).is_err() {
                    gone.push(id);
                }
            }
            // Its memory is used again.
            self.batches[channel] = batch;
            self.batches[channel].clear();
        }
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// Writes now what the socket takes; the rest follows when it is writable.
    fn write(&mut self, id: usize, bytes: &[u8]) -> io::Result<()> {
        let Some(peer) = &mut self.peers[id] else { return Ok(()) };
        if !peer.unwritten.is_empty() {
            if peer.unwritten.len() + bytes.len() > UNREAD_BYTES_MAX {
                return Err(ErrorKind::OutOfMemory.into());
            }
            peer.unwritten.extend_from_slice(bytes);
            return Ok(());
        }
        let written = written(peer.stream.write(bytes))?;
        peer.unwritten.extend_from_slice(&bytes[written..]);
        if !peer.unwritten.is_empty() || peer.stream.is_blocked() {
            self.poller.watch_writes(&peer.stream, id, true)?;
        }
        Ok(())
    }

    fn flush(&mut self, id: usize) -> io::Result<()> {
        let Some(peer) = &mut self.peers[id] else { return Ok(()) };
        peer.stream.push_out()?;
        let written = written(peer.stream.write(&peer.unwritten))?;
        peer.unwritten.drain(..written);
        if peer.unwritten.is_empty() && !peer.stream.is_blocked() {
            self.poller.watch_writes(&peer.stream, id, false)?;
        }
        Ok(())
    }
}

/// The length of the upgrade request that `bytes` begin with, and the answer to it; `None` while it is incomplete.
///
/// # Errors
/// When it is longer than a request may be, or has no key.
pub(crate) fn answer_upgrade(bytes: &[u8]) -> io::Result<Option<(usize, String)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > REQUEST_BYTES_MAX { Err(ErrorKind::InvalidData.into()) } else { Ok(None) };
    };
    let request = String::from_utf8_lossy(&bytes[..end]);
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        ws::accept_key(key.ok_or(ErrorKind::InvalidData)?.trim())
    );
    Ok(Some((end + 4, answer)))
}

/// Bytes written, none when the socket is full.
pub(crate) fn written(outcome: io::Result<usize>) -> io::Result<usize> {
    match outcome {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}
