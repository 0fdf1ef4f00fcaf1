//! A stream of QUIC, of its own or below WebTransport: messages with their lengths in front (`waspmq_protocol::stream`).

use super::own::{Arriving, Departing};
use super::socket::{Broken, Inbound};
use crate::limits::{BATCH_BYTES_MAX, CLOSE_TIMEOUT, INBOUND_BYTES_MAX, QUIC_ACKNOWLEDGE_TIMEOUT};
use bytes::{Buf, Bytes, BytesMut};
use quinn::Endpoint;
use std::future::pending;
use std::ops::Deref;
use tokio::io::AsyncReadExt;
use waspmq_core::Close;
use waspmq_protocol::stream::{self, Front};
use web_transport_quinn::{RecvStream, SendStream, Session, SessionError, WebTransportError};

/// Bytes of one read. Also what room is made for at a time: a length that is only claimed costs nothing.
pub(super) const READ_BYTES: usize = 16 * 1024;

/// The close codes of an end that has no reason.
const NORMAL: [u32; 2] = [0, 1000];

#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: SendStream,
    /// Whole messages that were not handed on yet: at most [`BATCH_BYTES_MAX`] and one message.
    ready: Vec<u8>,
    /// For datagrams, where the program wants them.
    session: Option<Box<Session>>,
    /// Publishes beside this stream, where the program wants them.
    own: Option<Box<Departing>>,
}

impl Outgoing {
    pub(super) fn new(stream: SendStream, session: &Session, wants: Wants) -> Self {
        let datagrams = wants.datagrams.then(|| Box::new(session.clone()));
        let own = wants.streams.then(|| Box::new(Departing::new(session.clone())));
        Self { stream, ready: Vec::new(), session: datagrams, own }
    }

    /// False when there are no datagrams, or it does not fit, or too many wait: it goes on the stream then.
    pub(super) fn send_datagram(&self, frames: &[u8]) -> bool {
        self.session.as_ref().is_some_and(|session| {
            frames.len() <= session.max_datagram_size()
                && frames.len() <= session.datagram_send_buffer_space()
                && session.send_datagram(Bytes::copy_from_slice(frames)).is_ok()
        })
    }

    /// Begins to send a publish on a stream of its own. False when it has to go on this one.
    pub(super) fn begin_own(&mut self, frames: &[u8], priority: u8) -> bool {
        self.own.as_mut().is_some_and(|own| own.begin(frames, priority))
    }

    /// Sends what is under way beside this stream. Never ready without it, and cancel safe.
    pub(super) async fn progress(&mut self) {
        match &mut self.own {
            Some(own) => own.progress().await,
            None => pending().await,
        }
    }

    /// Waits until the broker has what is under way beside this stream; the rest is lost. No more goes there.
    pub(super) async fn finish_own(&mut self) {
        if let Some(mut own) = self.own.take() {
            drop(tokio::time::timeout(QUIC_ACKNOWLEDGE_TIMEOUT, own.finish()).await);
        }
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
        let writing = self.stream.write_chunk(bytes);
        let written = match &mut self.own {
            None => writing.await,
            Some(own) => {
                tokio::pin!(writing);
                loop {
                    // Biased, as the main stream goes first. What is beside it is cancel safe, and the write is not dropped.
                    tokio::select! {
                        biased;
                        written = &mut writing => break written,
                        () = own.progress() => {}
                    }
                }
            }
        };
        written.map_err(|error| Broken(error.to_string()))
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
    wants: Wants,
    /// What the broker sends beside the stream.
    arriving: Arriving,
    /// Whether the session has begun: only then is read what comes beside the stream.
    has_begun: bool,
    /// Whether the stream is over.
    has_ended: bool,
}

/// What may come and go beside the stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wants {
    pub(super) datagrams: bool,
    /// With one long message each.
    pub(super) streams: bool,
}

impl Incoming {
    pub(super) fn new(endpoint: Endpoint, session: Owned, stream: RecvStream, wants: Wants) -> Self {
        let (buffer, arriving) = (BytesMut::new(), Arriving::default());
        Self { endpoint, session, stream, buffer, wants, arriving, has_begun: false, has_ended: false }
    }

    pub(super) const fn begin_session(&mut self) {
        self.has_begun = true;
    }

    pub(super) async fn next(&mut self) -> Inbound {
        loop {
            match take(&mut self.buffer) {
                Ok(Some(message)) => return Inbound::Message(message),
                Ok(None) => {}
                Err(wrong) => return self.violated(wrong),
            }
            if self.has_ended {
                return self.rest().await;
            }
            self.buffer.reserve(READ_BYTES);
            // All branches are cancel-safe: what was not taken stays where it is.
            let read = tokio::select! {
                read = self.stream.read_buf(&mut self.buffer) => read,
                Some(datagram) = datagram(&self.session), if self.has_begun && self.wants.datagrams => {
                    return Inbound::Message(datagram);
                }
                arrived = self.arriving.next(&self.session), if self.has_begun && self.wants.streams => {
                    return self.arrived(arrived);
                }
            };
            self.has_ended = matches!(read, Ok(0) | Err(_));
        }
    }

    /// Behind the end of the stream: what is still on its way beside it, then why nothing comes any more.
    async fn rest(&mut self) -> Inbound {
        // Biased, so that what is here counts before the end. Both branches are cancel-safe.
        tokio::select! {
            biased;
            arrived = self.arriving.next(&self.session), if self.has_begun && self.wants.streams => {
                self.arrived(arrived)
            }
            ended = ended(&self.session) => ended,
        }
    }

    fn arrived(&self, arrived: Result<Bytes, String>) -> Inbound {
        match arrived {
            Ok(message) => Inbound::Message(message),
            Err(wrong) => self.violated(wrong),
        }
    }

    fn violated(&self, wrong: String) -> Inbound {
        self.session.close(Close::ProtocolViolation.number().into(), wrong.as_bytes());
        Inbound::Ended(wrong)
    }

    pub(super) fn why_closed(&self) -> Option<(u16, String)> {
        match explained(&self.session, self.session.close_reason()?) {
            Inbound::Closed { code, reason } => Some((code, reason)),
            _ => None,
        }
    }

    /// Waits until it is known to be over on both sides, or as good as that.
    pub(super) async fn end(&mut self) {
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

/// Why nothing comes any more. The stream may end before the connection, which has the reason.
async fn ended(session: &Session) -> Inbound {
    let Ok(error) = tokio::time::timeout(CLOSE_TIMEOUT, session.closed()).await else {
        return Inbound::Ended("the broker ended the stream and did not close the connection".to_owned());
    };
    explained(session, error)
}

fn explained(session: &Session, error: SessionError) -> Inbound {
    // WebTransport takes a close of its connection for one of ours when nothing came before it.
    let error = match error {
        SessionError::ConnectionError(_) => {
            let below: &quinn::Connection = session;
            below.close_reason().map_or(error, SessionError::from)
        }
        error => error,
    };
    match error {
        SessionError::WebTransportError(WebTransportError::Closed(code, reason)) => match u16::try_from(code)
        {
            Ok(code) if !NORMAL.contains(&u32::from(code)) => Inbound::Closed { code, reason },
            _ => Inbound::Ended("the broker closed the connection".to_owned()),
        },
        error => Inbound::Ended(error.to_string()),
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

/// The next message, if it is there as a whole. An error says that it is too long.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, String> {
    match stream::front(buffer, INBOUND_BYTES_MAX) {
        Front::Whole { message, bytes } => {
            let length_bytes = bytes - message.len();
            let mut whole = buffer.split_to(bytes);
            whole.advance(length_bytes);
            Ok(Some(whole.freeze()))
        }
        Front::Part { .. } => Ok(None),
        Front::TooLong(length) => Err(format!("a message of {length} bytes: {INBOUND_BYTES_MAX} are taken")),
    }
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
        let check = |length: u64, is_taken| {
            let mut buffer = BytesMut::from(&(length | 0xc0 << 56).to_be_bytes()[..]);
            match take(&mut buffer) {
                Ok(taken) => assert!(is_taken && taken.is_none(), "{length}"),
                Err(wrong) => assert!(!is_taken && wrong.contains(&length.to_string()), "{length}: {wrong}"),
            }
        };
        check(INBOUND_BYTES_MAX as u64, true);
        check(INBOUND_BYTES_MAX as u64 + 1, false);
        check((1 << 62) - 1, false);
    }
}
