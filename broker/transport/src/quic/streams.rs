//! Unidirectional streams of a connection, beside its own one: what is on one does not wait for what is on another.
//!
//! Those of WebTransport begin with the session they belong to (draft-ietf-webtrans-http3), which nobody sees here.

use super::channel::{Channel, Whole};
use crate::limits::{QUIC_SIDE_STREAMS_MAX, QUIC_UNI_STREAMS_MAX};
use bytes::Bytes;
use quinn::{SendStream, VarInt, WriteError};
use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use web_transport_quinn::proto::error_to_http3;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;
/// With what a stream of WebTransport begins: its type, and the session, which is named by the stream of its request: the first
/// one of the connection.
const SESSION: &[u8] = &[0x40, 0x54, 0];

/// A stream on which something is sent. Dropped before [`Self::finish`], it is reset.
pub struct SideSender {
    /// Absent once it is finished.
    stream: Option<SendStream>,
    /// What is still to be written in front of everything.
    header: Bytes,
    /// With which code it is reset.
    given_up: VarInt,
}

/// Where the streams that a peer opens are taken. It does not keep the connection open.
pub struct SideStreams(Whole);

/// A stream that a peer opened. Dropped, the peer is told that nobody reads it.
pub struct SideReceiver(Reading);

enum Reading {
    Quic(quinn::RecvStream),
    WebTransport(web_transport_quinn::RecvStream),
}

impl Channel {
    /// Opens a stream; `None` when the peer takes no more of them now. Of bytes that wait for the network, those of streams with a
    /// higher `priority` are sent first; that of the connection's own stream is 0.
    pub fn open_side(&self, priority: i32) -> Option<SideSender> {
        let opening = pin!(self.whole().connection().open_uni());
        // Nothing is lost by a drop of what is pending.
        let Poll::Ready(Ok(stream)) = opening.poll(&mut Context::from_waker(Waker::noop())) else {
            return None;
        };
        stream.set_priority(priority).ok()?;
        let (header, given_up) = match self.whole() {
            Whole::Quic(_) => (Bytes::new(), VarInt::from_u32(0)),
            Whole::WebTransport(_) => {
                (Bytes::from_static(SESSION), VarInt::from_u64(error_to_http3(0)).ok()?)
            }
        };
        Some(SideSender { stream: Some(stream), header, given_up })
    }

    /// From now on the peer may have [`QUIC_SIDE_STREAMS_MAX`] streams of its own open at a time, which are taken from what is
    /// given, and may send `ahead_bytes` ahead of what is read on each of them and on the connection's own.
    pub fn side_streams(&self, ahead_bytes: u32) -> SideStreams {
        let connection = self.whole().connection();
        // Without HTTP/3 those that it has are all for this.
        if matches!(self.whole(), Whole::WebTransport(_)) {
            let most = QUIC_UNI_STREAMS_MAX + QUIC_SIDE_STREAMS_MAX;
            connection.set_max_concurrent_uni_streams(most.into());
        }
        connection.set_receive_window(ahead_bytes.saturating_mul(1 + QUIC_SIDE_STREAMS_MAX).into());
        SideStreams(self.whole().clone())
    }
}

impl SideSender {
    /// Hands over what the windows take of a chunk now, without copying it; what was taken is gone from the chunk. Ready when that
    /// is something. Nothing is lost when it is not asked again.
    ///
    /// # Errors
    /// `BrokenPipe` when the peer wants no more of the stream; anything else is the end of the connection.
    pub fn poll_write(&mut self, context: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(ErrorKind::NotConnected.into())) };
        let mut chunks = [std::mem::take(&mut self.header), std::mem::take(chunk)];
        let polled = pin!(stream.write_chunks(&mut chunks)).poll(context);
        let [header, rest] = chunks;
        (self.header, *chunk) = (header, rest);
        polled.map(|written| match written {
            Ok(_) => Ok(()),
            Err(WriteError::Stopped(_)) => Err(ErrorKind::BrokenPipe.into()),
            Err(error) => Err(error.into()),
        })
    }

    /// Ends the stream, and waits until the peer has acknowledged everything, or wants no more of it.
    pub async fn finish(mut self) {
        if let Some(mut stream) = self.stream.take() {
            // What cannot be finished is gone, and so the wait is over at once.
            drop(stream.finish());
            drop(stream.stopped().await);
        }
    }
}

impl Drop for SideSender {
    fn drop(&mut self) {
        // By itself it would end as if it were complete.
        if let Some(stream) = &mut self.stream {
            drop(stream.reset(self.given_up));
        }
    }
}

impl SideStreams {
    /// Waits for the next stream of the peer; `None` when the connection is over. Cancel-safe.
    pub async fn next(&self) -> Option<SideReceiver> {
        match &self.0 {
            Whole::Quic(connection) => connection.accept_uni().await.ok().map(Reading::Quic),
            Whole::WebTransport(session) => session.accept_uni().await.ok().map(Reading::WebTransport),
        }
        .map(SideReceiver)
    }
}

impl SideReceiver {
    /// Waits for more of the stream and appends it, at most 16 KiB; gives how many bytes, 0 at the end.
    ///
    /// # Errors
    /// The peer gave the stream up, or the connection is over.
    pub async fn read(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        let chunk = match &mut self.0 {
            Reading::Quic(stream) => stream.read_chunk(READ_BYTES, true).await?,
            Reading::WebTransport(stream) => {
                stream.read_chunk(READ_BYTES, true).await.map_err(io::Error::other)?
            }
        };
        let Some(chunk) = chunk else { return Ok(0) };
        into.extend_from_slice(&chunk.bytes);
        Ok(chunk.bytes.len())
    }
}

macro_rules! debug_as_name {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

debug_as_name!(SideSender SideStreams SideReceiver);
