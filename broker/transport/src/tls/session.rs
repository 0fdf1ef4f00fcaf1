//! One connection: what its socket gives becomes plain bytes, and plain bytes become what its socket takes.
//!
//! | state | reading | writing |
//! | --- | --- | --- |
//! | handshake | nothing yet; answers to the peer are written on the way | nothing is given |
//! | open | plain bytes | at most [`CHUNK_BYTES`] are sealed ahead of the socket |
//! | closed | end of stream, with or without the peer's `close_notify` | what was sealed |
//!
//! A socket is anything that reads and writes without waiting, and answers [`ErrorKind::WouldBlock`] instead.

use crate::limits::{TLS_CHUNK_BYTES as CHUNK_BYTES, TLS_READS_PER_TURN as READS_PER_TURN};
use rustls::{ServerConfig, ServerConnection};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;

/// The TLS of one connection.
pub struct Session {
    tls: ServerConnection,
    /// Plain bytes in what is sealed and not written.
    sealed_bytes: usize,
    /// Bytes read since the last plain one, or since the handshake.
    unfinished_bytes: usize,
    is_closed: bool,
    /// What broke the connection behind data that was given first.
    broken: Option<io::Error>,
}

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut tls = ServerConnection::new(config)?;
        tls.set_buffer_limit(Some(CHUNK_BYTES));
        Ok(Self { tls, sealed_bytes: 0, unfinished_bytes: 0, is_closed: false, broken: None })
    }

    /// Gives plain bytes, 0 at the end of the stream. As many as there is room for: there may be more, of which no event
    /// of the socket will tell. Fewer: the socket had no more, or has it still.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing, `Interrupted` when it may have more and others should run first,
    /// `InvalidData` when the peer does not speak TLS, or breaks it; it has been told, as far as the socket took that.
    pub fn read(&mut self, socket: &mut (impl Read + Write), into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        for _ in 0..READS_PER_TURN {
            filled += self.take(into.get_mut(filled..).unwrap_or_default());
            if filled == into.len() {
                return Ok(filled);
            }
            if filled > 0 && self.broken.is_some() {
                return Ok(filled);
            }
            if let Some(error) = self.broken.take() {
                return Err(error);
            }
            match self.tls.read_tls(socket) {
                Ok(0) => return Ok(filled),
                Ok(count) => {
                    self.unfinished_bytes += count;
                    self.broken = self.handle_records(socket).err();
                }
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
        }
        filled += self.take(into.get_mut(filled..).unwrap_or_default());
        if filled == 0 { Err(ErrorKind::Interrupted.into()) } else { Ok(filled) }
    }

    /// Seals plain bytes and writes what the socket takes; gives how many of them were sealed. Nothing is sealed while
    /// something waits for the socket.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has to take something first; anything else is the end of the connection.
    pub fn write_vectored(&mut self, socket: &mut impl Write, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(socket)?;
        let count = self.tls.writer().write_vectored(pieces)?;
        self.sealed_bytes = count;
        match self.flush(socket) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            Ok(()) | Err(_) => Ok(count),
        }
    }

    /// Writes what is sealed.
    ///
    /// # Errors
    /// `WouldBlock` when the socket did not take everything.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sealed_bytes = 0;
        Ok(())
    }

    /// Says that nothing more will be written, as soon as it is flushed.
    pub fn close(&mut self) {
        if !self.is_closed {
            self.is_closed = true;
            self.tls.send_close_notify();
        }
    }

    /// Whether something waits for the socket.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Plain bytes in what waits for the socket: what an owner's account of unwritten bytes no longer has.
    pub const fn sealed_bytes(&self) -> usize {
        self.sealed_bytes
    }

    /// What is held of records and handshake messages that are not complete, to within one read: whatever a peer sends that
    /// is not data is counted until data comes. rustls ends a connection with more than 64 KiB of it.
    pub const fn unfinished_bytes(&self) -> usize {
        self.unfinished_bytes
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Takes what is decrypted. What ends without `close_notify` just ends: frames have lengths, so a cut is seen there.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let mut reader = self.tls.reader();
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest) {
                Ok(count) if count > 0 => filled += count,
                _ => break,
            }
        }
        if filled > 0 {
            self.unfinished_bytes = 0;
        }
        filled
    }

    /// Decrypts what was read, and writes what the handshake has to say to it.
    fn handle_records(&mut self, socket: &mut impl Write) -> io::Result<()> {
        let was_handshaking = self.tls.is_handshaking();
        let processed = self.tls.process_new_packets();
        if was_handshaking && !self.tls.is_handshaking() {
            self.unfinished_bytes = 0;
        }
        let flushed = self.flush(socket);
        match (processed, flushed) {
            (Err(error), _) => Err(io::Error::new(ErrorKind::InvalidData, error)),
            (Ok(_), Err(error)) if error.kind() != ErrorKind::WouldBlock => Err(error),
            (Ok(_), _) => Ok(()),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("sealed_bytes", &self.sealed_bytes)
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}
