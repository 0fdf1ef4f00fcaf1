//! TLS of a worker's connections: between their sockets and what reads and writes them.
//!
//! *Invariants.* A plain connection is asked once per read and per flush whether it has a [`Session`], and nothing else.
//! What a session has sealed and the socket has not taken blocks the connection as its own bytes do, and counts as
//! pinned. A handshake is counted once: completed, or failed with the end of its connection.

use super::Worker;
use super::connection::Connection;
use super::counters::{Counters, Ended};
use super::link::Link;
use super::outbox::Flushed;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::rc::Rc;
use tokio::sync::Notify;
use waspmq_transport::tls::Session;

/// A socket that answers `WouldBlock` instead of waiting.
pub(super) struct Socket<'a>(pub(super) &'a Link);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.try_write(from)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads of connections that shake hands before everybody else has had a turn: a signature takes as long as hundreds of
/// messages, with RSA as thousands.
const HANDSHAKES_PER_TURN: usize = 8;

/// How many of these reads there still are in this turn.
#[derive(Debug)]
pub(super) struct Handshakes {
    left: usize,
    /// Told when there are none left.
    pub(super) wake: Rc<Notify>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self { left: HANDSHAKES_PER_TURN, wake: Rc::default() }
    }
}

impl Handshakes {
    /// Whether one more may be made.
    pub(super) fn may_go_on(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        if self.left == 0 {
            self.wake.notify_one();
        }
        true
    }

    /// Everybody has had a turn.
    pub(super) const fn begin_turn(&mut self) {
        self.left = HANDSHAKES_PER_TURN;
    }
}

/// Whether bytes are sealed that the socket has not taken.
pub(super) fn has_sealed(connection: &Connection) -> bool {
    connection.tls.as_ref().is_some_and(|tls| tls.wants_write())
}

/// What a connection's account of unwritten bytes no longer has, and its socket does not have yet.
pub(super) fn sealed_bytes(connection: &Connection) -> usize {
    connection.tls.as_ref().map_or(0, |tls| tls.sealed_bytes())
}

pub(super) fn is_handshaking(connection: &Connection) -> bool {
    connection.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
}

/// What TLS holds of records and handshake messages that are not complete.
pub(super) fn unfinished_bytes(connection: &Connection) -> usize {
    connection.tls.as_ref().map_or(0, |tls| tls.unfinished_bytes())
}

/// Seals and writes. `Ok(0)` is only for nothing.
pub(super) fn write(session: &mut Session, link: &Link, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    session.write_vectored(&mut Socket(link), pieces)
}

/// Behind the last byte of a connection's queue: what is sealed, and the goodbye of one that is closing.
pub(super) fn flush_rest(connection: &mut Connection) -> Flushed {
    let is_closing = connection.is_closing();
    let Some(tls) = &mut connection.tls else { return Flushed::Empty };
    if is_closing {
        tls.close();
    }
    match tls.flush(&mut Socket(&connection.link)) {
        Ok(()) => Flushed::Empty,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Flushed::Blocked,
        Err(_) => Flushed::Broken,
    }
}

/// The end of a connection: says goodbye if the socket takes it, and counts a handshake that did not come to its end.
pub(super) fn end(connection: &mut Connection, counters: &Counters) {
    let Some(tls) = &mut connection.tls else { return };
    if tls.is_handshaking() {
        counters.tls_failed.add(1);
        return;
    }
    tls.close();
    if let Err(error) = tls.flush(&mut Socket(&connection.link)) {
        tracing::trace!(%error, "the socket did not take the end of TLS");
    }
}

impl Worker {
    /// Reads plain bytes, whatever the connection speaks.
    pub(super) fn receive(&mut self, connection: &mut Connection, into: &mut [u8]) -> io::Result<usize> {
        match connection.tls {
            None => connection.link.try_read(into),
            Some(_) => self.receive_sealed(connection, into),
        }
    }

    /// Reads at most `room` bytes behind what the connection's own buffer has.
    pub(super) fn receive_large(&mut self, connection: &mut Connection, room: usize) -> io::Result<usize> {
        if connection.tls.is_none() {
            return connection.link.try_read_buf(&mut connection.partial, room);
        }
        let mut partial = std::mem::take(&mut connection.partial);
        let kept = partial.len();
        partial.resize(kept + room, 0);
        let received = self.receive_sealed(connection, partial.get_mut(kept..).unwrap_or_default());
        partial.truncate(kept + received.as_ref().map_or(0, |&count| count));
        connection.partial = partial;
        received
    }

    fn receive_sealed(&mut self, connection: &mut Connection, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut connection.tls else { return Ok(0) };
        let was_handshaking = tls.is_handshaking();
        let sealed = tls.sealed_bytes();
        let received = tls.read(&mut Socket(&connection.link), into);
        // Answers of the handshake go behind what was sealed, so reading writes, too.
        self.outbox.note_sealed(sealed, tls.sealed_bytes());
        if was_handshaking && !tls.is_handshaking() {
            self.counters().tls_completed.add(1);
        }
        if tls.wants_write() {
            self.outbox.mark(connection);
        }
        if let Err(error) = &received
            && error.kind() == ErrorKind::InvalidData
        {
            tracing::debug!(remote = %connection.remote, %error, was_handshaking, "TLS failed");
            if !connection.is_closing() {
                self.start_closing(connection, Ended::Protocol);
            }
        }
        received
    }
}

#[cfg(test)]
mod tests;
