//! One loaded connection: complete frames out of a byte stream, and bytes that could not be written yet.
//!
//! Reads go into the caller's buffer; only the start of an unfinished frame is kept here. Message bytes are not
//! looked at beyond what tells them apart, so that the generator stays cheaper than the servers it drives.

use std::io::{ErrorKind, Read as _, Write as _};

use crate::poll::Poller;
use crate::stream::Stream;
use crate::wire::Wire;
use crate::ws::{self, Head};

/// Bytes of one read.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// Why a connection is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gone {
    Closed,
    /// An oversize frame, a fragment or lengths that do not add up.
    Malformed,
}

#[derive(Debug)]
pub(crate) struct Conn {
    stream: Stream,
    key: usize,
    rest: Vec<u8>,
    read_bytes: u64,
    out: Vec<u8>,
    written: usize,
    watches_writes: bool,
}

impl Conn {
    /// # Errors
    /// When the socket cannot be made non-blocking or watched.
    pub(crate) fn new(
        poller: &Poller,
        key: usize,
        stream: impl Into<Stream>,
        rest: Vec<u8>,
    ) -> std::io::Result<Self> {
        let stream = stream.into();
        stream.socket().set_nonblocking(true)?;
        poller.add(&stream, key)?;
        Ok(Self { stream, key, rest, read_bytes: 0, out: Vec::new(), written: 0, watches_writes: false })
    }

    /// Reads once and hands each complete frame to `take`. `scratch` is overwritten.
    ///
    /// # Errors
    /// When the connection is over.
    pub(crate) fn receive(
        &mut self,
        wire: Wire,
        scratch: &mut Vec<u8>,
        take: impl FnMut(&[u8]),
    ) -> Result<(), Gone> {
        self.read(scratch, |bytes, out| walk(wire, bytes, out, take))
    }

    /// Reads once and hands what is there to `parse`, with the buffer that [`Conn::flush`] writes; `parse` returns
    /// how many bytes are done with. `scratch` is overwritten.
    ///
    /// # Errors
    /// When the connection is over, or `parse` says so.
    pub(crate) fn read(
        &mut self,
        scratch: &mut Vec<u8>,
        parse: impl FnOnce(&[u8], &mut Vec<u8>) -> Result<usize, Gone>,
    ) -> Result<(), Gone> {
        let kept = self.rest.len();
        if scratch.len() < kept + READ_BYTES {
            scratch.resize(kept + READ_BYTES, 0);
        }
        let count = match self.stream.read(&mut scratch[kept..]) {
            Ok(0) => return Err(Gone::Closed),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(_) => return Err(Gone::Closed),
        };
        self.read_bytes += count as u64;
        scratch[..kept].copy_from_slice(&self.rest);
        let bytes = &scratch[..kept + count];
        let taken = parse(bytes, &mut self.out)?;
        self.rest.clear();
        self.rest.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// Bytes read so far, without those of the set-up.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Appends bytes to be written by the next [`Conn::flush`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what the socket takes and watches for the rest.
    ///
    /// # Errors
    /// When the connection is over.
    pub(crate) fn flush(&mut self, poller: &Poller) -> Result<(), Gone> {
        self.stream.push_out().map_err(|_| Gone::Closed)?;
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(Gone::Closed),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone::Closed),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        let blocked = !self.out.is_empty() || self.stream.is_blocked();
        if blocked != self.watches_writes {
            poller.watch_writes(&self.stream, self.key, blocked).map_err(|_| Gone::Closed)?;
            self.watches_writes = blocked;
        }
        Ok(())
    }
}

/// Hands each complete frame in `bytes` to `take`, for a compressed one what [`Wire::compressed`] says, pushes answers to pings onto `out`, and returns how many bytes
/// are done with.
pub(crate) fn walk<'a>(
    wire: Wire,
    bytes: &'a [u8],
    out: &mut Vec<u8>,
    mut take: impl FnMut(&'a [u8]),
) -> Result<usize, Gone> {
    let mut at = 0;
    while let Some(head) = Head::parse(&bytes[at..]).map_err(|_| Gone::Malformed)? {
        let end = at + head.frame_bytes();
        let Some(payload) = bytes.get(at + head.header_bytes..end) else { break };
        match head.opcode {
            ws::TEXT | ws::BINARY if head.fin && head.is_compressed => {
                take(wire.compressed().ok_or(Gone::Malformed)?);
            }
            ws::TEXT | ws::BINARY if head.fin => {
                wire.each_frame(payload, &mut take).map_err(|_| Gone::Malformed)?;
            }
            ws::PING => Wire::push_pong(out, payload),
            ws::PONG => {}
            ws::CLOSE => return Err(Gone::Closed),
            _ => return Err(Gone::Malformed),
        }
        at = end;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Kind;

    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        ws::push_frame(&mut frame, opcode, None, payload);
        frame
    }

    /// Feeds `stream` in pieces of `step` bytes, as reads might deliver it.
    fn feed(stream: &[u8], step: usize) -> (Vec<Vec<u8>>, Vec<u8>, Result<(), Gone>) {
        let (mut seen, mut out, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for piece in stream.chunks(step) {
            rest.extend_from_slice(piece);
            match walk(Wire::Relay, &rest, &mut out, |frame| seen.push(frame.to_vec())) {
                Ok(taken) => drop(rest.drain(..taken)),
                Err(gone) => return (seen, out, Err(gone)),
            }
        }
        assert!(rest.is_empty(), "{} bytes left over", rest.len());
        (seen, out, Ok(()))
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let payloads = [vec![b'a'; 3], vec![], vec![b'b'; 200], vec![b'c'; 70_000], vec![b'd'; 125]];
        let stream: Vec<u8> = payloads.iter().flat_map(|payload| server_frame(ws::BINARY, payload)).collect();
        for step in [1, 2, 3, 7, 130, 4096, stream.len()] {
            let (seen, _, outcome) = feed(&stream, if stream.len() / step > 20_000 { 17 } else { step });
            assert_eq!(outcome, Ok(()));
            assert_eq!(seen, payloads, "step {step}");
        }
    }

    #[test]
    fn small_frames_cut_at_every_byte() {
        let stream =
            [server_frame(ws::TEXT, &[b'x'; 130]), server_frame(ws::PONG, b""), server_frame(ws::TEXT, b"y")];
        for step in 1..=stream.concat().len() {
            let (seen, out, outcome) = feed(&stream.concat(), step);
            assert_eq!((seen.len(), out.len(), outcome), (2, 0, Ok(())), "step {step}");
        }
    }

    #[test]
    fn a_ping_is_answered_and_not_counted() {
        let stream = [server_frame(ws::PING, b"hi"), server_frame(ws::BINARY, b"m")].concat();
        let (seen, out, outcome) = feed(&stream, stream.len());
        assert_eq!((seen.len(), outcome), (1, Ok(())));
        let head = Head::parse(&out).unwrap().unwrap();
        assert_eq!((head.opcode, head.payload_bytes, head.mask.is_some()), (ws::PONG, 2, true));
    }

    #[test]
    fn a_compressed_text_is_one_message_and_nothing_else_may_be_compressed() {
        let mut compressed = server_frame(ws::TEXT, &[0xf2, 0x48, 0xcd]);
        compressed[0] |= 0x40;
        let stream = [&compressed[..], &server_frame(ws::TEXT, b"{\"type\":\"pong\"}"), &compressed].concat();
        let heard = |wire: Wire| {
            let mut kinds = Vec::new();
            let outcome = walk(wire, &stream, &mut Vec::new(), |frame| kinds.push(wire.kind(frame)));
            (kinds, outcome)
        };
        let kinds = vec![Kind::Message, Kind::Aside, Kind::Message];
        assert_eq!(heard(Wire::Json), (kinds, Ok(stream.len())));
        assert_eq!(heard(Wire::Binary), (Vec::new(), Err(Gone::Malformed)));
    }

    #[test]
    fn close_fragment_and_oversize_end_the_connection() {
        assert_eq!(feed(&server_frame(ws::CLOSE, b""), 9).2, Err(Gone::Closed));
        assert_eq!(feed(&[0x02, 1, b'a'], 9).2, Err(Gone::Malformed), "first fragment");
        assert_eq!(feed(&[0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0], 10).2, Err(Gone::Malformed));
    }
}
