//! A stream of QUIC, of its own or below WebTransport: messages with their lengths in front (`waspmq_protocol::stream`).

use super::socket::{Broken, Inbound};
use crate::limits::{BATCH_BYTES_MAX, CLOSE_TIMEOUT, INBOUND_BYTES_MAX, QUIC_ACKNOWLEDGE_TIMEOUT};
use bytes::{Buf, Bytes, BytesMut};
use quinn::Endpoint;
use std::ops::Deref;
use tokio::io::AsyncReadExt;
use waspmq_core::Close;
use waspmq_protocol::stream;
use web_transport_quinn::{RecvStream, SendStream, Session, SessionError, WebTransportError};

/// Bytes of one read. Also what room is made for at a time: a length that is only claimed costs nothing.
const READ_BYTES: usize = 16 * 1024;

/// The close codes of an end that has no reason.
const NORMAL: [u32; 2] = [0, 1000];

#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: SendStream,
    /// Whole messages that were not handed on yet: at most [`BATCH_BYTES_MAX`] and one message.
    ready: Vec<u8>,
    /// For datagrams, where the program wants them.
    session: Option<Box<Session>>,
}

impl Outgoing {
    pub(super) const fn new(stream: SendStream, session: Option<Box<Session>>) -> Self {
        Self { stream, ready: Vec::new(), session }
    }

    /// False when there are no datagrams, or it does not fit, or too many wait: it goes on the stream then.
    pub(super) fn send_datagram(&self, frames: &[u8]) -> bool {
        self.session.as_ref().is_some_and(|session| {
            frames.len() <= session.max_datagram_size()
                && frames.len() <= session.datagram_send_buffer_space()
                && session.send_datagram(Bytes::copy_from_slice(frames)).is_ok()
        })
    }

    pub(super) async fn feed(&mut self, frames: &[u8]) -> Result<(), Broken> {
        if frames.len() > stream::LENGTH_MAX {
            return Err(Broken(format!("a message of {} bytes has no length on a stream", frames.len())));
        }
        let start = stream::begin(&mut self.ready);
        self.ready.extend_from_slice(frames);
        stream::end(&mut self.ready, start);
        if self.ready.len() > BATCH_BYTES_MAX { self.flush().await } else { Ok(()) }
    }

    /// Hands on what waits. Not cancel safe: a stream whose write was given up is of no use.
    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::take(&mut self.ready));
        self.stream.write_chunk(bytes).await.map_err(|error| Broken(error.to_string()))
    }

    /// Ends the stream, and waits until the broker has everything: closing the connection would drop the rest.
    pub(super) async fn finish(&mut self) {
        // Errors mean that it is finished or the connection gone.
        drop(self.stream.finish());
        drop(tokio::time::timeout(QUIC_ACKNOWLEDGE_TIMEOUT, self.stream.stopped()).await);
    }
}

/// A session that ends when it is dropped. By itself one of WebTransport does not: a task of its own has a share of it.
pub(super) struct Owned(pub(super) Session);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.close(0, b"");
    }
}

impl Deref for Owned {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

/// Owns the connection: dropping it closes that.
pub(crate) struct Incoming {
    endpoint: Endpoint,
    session: Owned,
    stream: RecvStream,
    buffer: BytesMut,
    datagrams: Datagrams,
}

/// Whether datagrams are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Datagrams {
    Unwanted,
    /// Once the session has begun.
    Later,
    Read,
}

impl Incoming {
    pub(super) fn new(endpoint: Endpoint, session: Owned, stream: RecvStream, wants_datagrams: bool) -> Self {
        let datagrams = if wants_datagrams { Datagrams::Later } else { Datagrams::Unwanted };
        Self { endpoint, session, stream, buffer: BytesMut::new(), datagrams }
    }

    pub(super) const fn begin_datagrams(&mut self) {
        if matches!(self.datagrams, Datagrams::Later) {
            self.datagrams = Datagrams::Read;
        }
    }

    pub(super) async fn next(&mut self) -> Inbound {
        loop {
            match take(&mut self.buffer) {
                Ok(Some(message)) => return Inbound::Message(message),
                Ok(None) => {}
                Err(length) => {
                    let message = format!("a message of {length} bytes: {INBOUND_BYTES_MAX} are taken");
                    self.session.close(Close::ProtocolViolation.number().into(), message.as_bytes());
                    return Inbound::Ended(message);
                }
            }
            self.buffer.reserve(READ_BYTES);
            // Both branches are cancel-safe: what was not taken stays where it is.
            let read = tokio::select! {
                read = self.stream.read_buf(&mut self.buffer) => read,
                Some(datagram) = datagram(&self.session), if self.datagrams == Datagrams::Read => {
                    return Inbound::Message(datagram);
                }
            };
            match read {
                Ok(0) | Err(_) => return self.ended().await,
                Ok(_) => {}
            }
        }
    }

    /// Why nothing comes any more. The stream may end before the connection, which has the reason.
    async fn ended(&self) -> Inbound {
        let Ok(error) = tokio::time::timeout(CLOSE_TIMEOUT, self.session.closed()).await else {
            return Inbound::Ended("the broker ended the stream and did not close the connection".to_owned());
        };
        self.explained(error)
    }

    fn explained(&self, error: SessionError) -> Inbound {
        // WebTransport takes a close of its connection for one of ours when nothing came before it.
        let error = match error {
            SessionError::ConnectionError(_) => {
                let below: &quinn::Connection = &self.session.0;
                below.close_reason().map_or(error, SessionError::from)
            }
            error => error,
        };
        match error {
            SessionError::WebTransportError(WebTransportError::Closed(code, reason)) => {
                match u16::try_from(code) {
                    Ok(code) if !NORMAL.contains(&u32::from(code)) => Inbound::Closed { code, reason },
                    _ => Inbound::Ended("the broker closed the connection".to_owned()),
                }
            }
            error => Inbound::Ended(error.to_string()),
        }
    }

    pub(super) fn why_closed(&self) -> Option<(u16, String)> {
        match self.explained(self.session.close_reason()?) {
            Inbound::Closed { code, reason } => Some((code, reason)),
            _ => None,
        }
    }

    /// Waits until it is known to be over on both sides, or as good as that.
    pub(super) async fn end(&self) {
        let by_broker = self.session.close_reason().is_some();
        self.session.close(0, b"");
        if !by_broker {
            // Longer: the other side notices by itself.
            drop(tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await);
        }
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// The next datagram; none when the connection is over. One that is nobody's is passed over.
async fn datagram(session: &Session) -> Option<Bytes> {
    loop {
        match session.read_datagram().await {
            Ok(datagram) => return Some(datagram),
            Err(_) => {
                let below: &quinn::Connection = session;
                if below.close_reason().is_some() {
                    return None;
                }
            }
        }
    }
}

/// The next message, if it is there as a whole. An error is the length of one that is too long.
fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, u64> {
    let Some((length, taken)) = stream::length(buffer) else { return Ok(None) };
    let bytes = usize::try_from(length).ok().filter(|&bytes| bytes <= INBOUND_BYTES_MAX).ok_or(length)?;
    if buffer.len() < taken + bytes {
        return Ok(None);
    }
    buffer.advance(taken);
    Ok(Some(buffer.split_to(bytes).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_as_a_whole_and_in_order() {
        let mut bytes = Vec::new();
        for message in [&b"one"[..], b"", &[7; 20_000]] {
            let start = stream::begin(&mut bytes);
            bytes.extend_from_slice(message);
            stream::end(&mut bytes, start);
        }
        let (mut buffer, mut taken) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.extend_from_slice(&[byte]);
            while let Some(message) = take(&mut buffer).unwrap() {
                taken.push(message);
            }
        }
        assert_eq!(taken, [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 20_000])]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_anything_else_comes() {
        let check = |length: u64, expected| {
            let mut buffer = BytesMut::from(&(length | 0xc0 << 56).to_be_bytes()[..]);
            assert_eq!(take(&mut buffer), expected);
        };
        check(INBOUND_BYTES_MAX as u64, Ok(None));
        check(INBOUND_BYTES_MAX as u64 + 1, Err(INBOUND_BYTES_MAX as u64 + 1));
        check((1 << 62) - 1, Err((1 << 62) - 1));
    }
}
