//! A relay thread: its listener, its connections, and what it understands of the binary profile, which is `connect`
//! and a publish of level `stored` with a reference. Anything else ends the connection.
//!
//! ```text
//! publish  flags u16 = 1 | content u8 | ack u8 = 2 | priority u8 | 0 | to length u16 | ref u64 | to | payload
//! ```

use std::io::{self, ErrorKind, Read as _};
use std::net::TcpListener;
use std::sync::Arc;

use crate::poll::{self, Event, Poller};
use crate::relay::{READ_BYTES, answer_upgrade};
use crate::talk::Level;
use crate::wire::{Wire, binary_frame};
use crate::ws::{self, Head};

use super::desk::{Desk, Peer, Records};

const LISTENER: usize = usize::MAX;

/// Bytes of a frame before its body.
const PREFIX_BYTES: usize = 6;

/// The publish carries a reference and nothing else that is optional.
const REFERENCE: u16 = 1;

/// What a relay thread keeps of a connection.
#[derive(Debug)]
struct Link {
    peer: Arc<Peer>,
    upgraded: bool,
    /// The start of an unfinished frame or request.
    rest: Vec<u8>,
}

pub(super) struct Relay {
    listener: TcpListener,
    poller: Arc<Poller>,
    events: Vec<Event>,
    scratch: Vec<u8>,
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    /// Of this turn.
    records: Records,
    desk: Arc<Desk>,
}

impl Relay {
    pub(super) fn new(listener: TcpListener, desk: Arc<Desk>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let poller = Arc::new(Poller::new()?);
        poller.add(&listener, LISTENER)?;
        Ok(Self {
            listener,
            poller,
            events: Vec::new(),
            scratch: vec![0; READ_BYTES],
            links: Vec::new(),
            free: Vec::new(),
            records: Records::default(),
            desk,
        })
    }

    /// Waits for events, handles them and hands over what was published.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        let mut events = std::mem::take(&mut self.events);
        self.poller.wait(&mut events, None)?;
        for event in &events {
            let id = poll::key(event);
            if id == LISTENER {
                self.accept()?;
            } else if self.handle(event, id).is_err() {
                self.remove(id);
            }
            if self.records.is_batch() {
                self.desk.hand_over(&mut self.records);
            }
        }
        self.events = events;
        if !self.records.is_empty() {
            self.desk.hand_over(&mut self.records);
        }
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
            let id = self.free.pop().unwrap_or(self.links.len());
            self.poller.add(&stream, id)?;
            let peer = Arc::new(Peer::new(stream, self.poller.clone(), id));
            let link = Some(Link { peer, upgraded: false, rest: Vec::new() });
            match self.links.get_mut(id) {
                Some(slot) => *slot = link,
                None => self.links.push(link),
            }
        }
    }

    /// Forgets a connection, which the committer may still hold. An event of the same turn may still name it.
    fn remove(&mut self, id: usize) {
        let Some(link) = self.links[id].take() else { return };
        // Closing it later would leave it watched until then; what is not watched any more is as it should be.
        drop(self.poller.remove(&link.peer.stream));
        drop(link.peer.stream.shutdown(std::net::Shutdown::Both));
        self.free.push(id);
    }

    fn handle(&mut self, event: &Event, id: usize) -> io::Result<()> {
        let Some(link) = &mut self.links[id] else { return Ok(()) };
        if poll::is_writable(event) {
            link.peer.flush()?;
        }
        if !poll::is_readable(event) {
            return Ok(());
        }
        let kept = link.rest.len();
        if self.scratch.len() < kept + READ_BYTES {
            self.scratch.resize(kept + READ_BYTES, 0);
        }
        let count = match (&link.peer.stream).read(&mut self.scratch[kept..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.scratch[..kept].copy_from_slice(&link.rest);
        link.rest.clear();
        link.take(&mut self.scratch[..kept + count], &mut self.records)
    }
}

impl Link {
    /// Handles every complete frame in `bytes` and keeps the rest.
    fn take(&mut self, bytes: &mut [u8], records: &mut Records) -> io::Result<()> {
        let mut at = self.upgrade(bytes)?;
        while self.upgraded
            && let Some(head) = Head::parse(&bytes[at..]).map_err(|_| ErrorKind::InvalidData)?
        {
            let end = at + head.frame_bytes();
            let Some(payload) = bytes.get_mut(at + head.header_bytes..end) else { break };
            let (Some(key), true) = (head.mask, head.fin) else { return Err(ErrorKind::InvalidData.into()) };
            ws::apply_mask(payload, key);
            match head.opcode {
                ws::BINARY => self.message(payload, records)?,
                ws::CLOSE => return Err(ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
            at = end;
        }
        self.rest.extend_from_slice(&bytes[at..]);
        Ok(())
    }

    /// Answers the upgrade request if `bytes` hold all of it; returns how many bytes are done with.
    fn upgrade(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.upgraded {
            return Ok(0);
        }
        let Some((request_bytes, answer)) = answer_upgrade(bytes)? else { return Ok(0) };
        self.upgraded = true;
        self.write(answer.as_bytes())?;
        Ok(request_bytes)
    }

    fn message(&self, message: &[u8], records: &mut Records) -> io::Result<()> {
        let mut outcome = Ok(());
        let each = Wire::Binary.each_frame(message, |frame| match frame.first() {
            Some(0x02) => match publish(frame) {
                Some((reference, payload)) => records.push(&self.peer, reference, payload),
                None => outcome = Err(ErrorKind::InvalidData.into()),
            },
            Some(0x01) => {
                let mut welcome = Vec::new();
                // The generator waits for the type alone.
                ws::push_frame(&mut welcome, ws::BINARY, None, &binary_frame(0x81, &[]));
                outcome = self.write(&welcome);
            }
            _ => outcome = Err(ErrorKind::InvalidData.into()),
        });
        each.map_err(|_| ErrorKind::InvalidData)?;
        outcome
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.peer.push(|out| out.extend_from_slice(bytes));
        self.peer.flush()
    }
}

/// Reference and payload of a publish frame of level `stored`.
fn publish(frame: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = frame.get(PREFIX_BYTES..)?.split_first_chunk::<8>()?;
    let (reference, rest) = rest.split_first_chunk::<8>()?;
    let [flags_low, flags_high, _, level, _, _, to_low, to_high] = *head;
    if u16::from_le_bytes([flags_low, flags_high]) != REFERENCE || level != Level::Stored as u8 {
        return None;
    }
    let payload = rest.get(usize::from(u16::from_le_bytes([to_low, to_high]))..)?;
    Some((u64::from_le_bytes(*reference), payload))
}
