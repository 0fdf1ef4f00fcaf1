//! Unidirectional streams of a connection, beside its own one: what is on one does not wait for what is on another.
//!
//! Those of WebTransport begin with the session they belong to, which nobody sees here.

use super::channel::{Channel, Whole};
use crate::limits::{QUIC_SIDE_STREAMS_MAX, QUIC_UNI_STREAMS_MAX};
use bytes::Bytes;
use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use web_transport_quinn::WriteError;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

type Opened = io::Result<Writing>;

/// A stream that is being opened.
pub struct SideOpening {
    opened: Option<Writing>,
    opening: Option<Pin<Box<dyn Future<Output = Opened>>>>,
}

enum Writing {
    Quic(quinn::SendStream),
    WebTransport(web_transport_quinn::SendStream),
}

/// A stream on which something is sent. Dropped before [`Self::finish`], it is reset.
pub struct SideSender(Option<Writing>);

/// Where the streams that a peer opens are taken. It does not keep the connection open.
pub struct SideStreams(Whole);

/// A stream that a peer opened. Dropped, the peer is told that nobody reads it.
pub struct SideReceiver(Reading);

enum Reading {
    Quic(quinn::RecvStream),
    WebTransport(web_transport_quinn::RecvStream),
}

impl Channel {
    /// Begins to open a stream; `None` when the peer takes no more of them now. In WebTransport that is not known: the
    /// stream is opened as soon as the peer takes one.
    pub fn open_side(&self) -> Option<SideOpening> {
        let mut opening = opening(self.whole().clone());
        match opening.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(opened) => Some(SideOpening { opened: Some(opened.ok()?), opening: None }),
            Poll::Pending if matches!(self.whole(), Whole::Quic(_)) => None,
            Poll::Pending => Some(SideOpening { opened: None, opening: Some(opening) }),
        }
    }

    /// From now on the peer may open streams of its own, [`QUIC_SIDE_STREAMS_MAX`] at a time, which are taken from what is
    /// given.
    pub fn side_streams(&self) -> SideStreams {
        let most = QUIC_UNI_STREAMS_MAX + QUIC_SIDE_STREAMS_MAX;
        self.whole().connection().set_max_concurrent_uni_streams(most.into());
        SideStreams(self.whole().clone())
    }
}

fn opening(whole: Whole) -> Pin<Box<dyn Future<Output = Opened>>> {
    match whole {
        Whole::Quic(connection) => Box::pin(async move { Ok(Writing::Quic(connection.open_uni().await?)) }),
        Whole::WebTransport(session) => {
            Box::pin(
                async move { session.open_uni().await.map(Writing::WebTransport).map_err(io::Error::other) },
            )
        }
    }
}

impl SideOpening {
    /// Waits until the stream is open. Of bytes that wait for the network, those of streams with a higher `priority` are
    /// sent first; that of the connection's own stream is 0.
    ///
    /// # Errors
    /// The connection is over.
    pub async fn opened(self, priority: i32) -> io::Result<SideSender> {
        let writing = match (self.opened, self.opening) {
            (Some(writing), _) => writing,
            (None, Some(opening)) => opening.await?,
            (None, None) => return Err(ErrorKind::NotConnected.into()),
        };
        // It fails for a stream that is closed, which the first write finds out.
        match &writing {
            Writing::Quic(stream) => drop(stream.set_priority(priority)),
            Writing::WebTransport(stream) => drop(stream.set_priority(priority)),
        }
        Ok(SideSender(Some(writing)))
    }
}

impl SideSender {
    /// Hands a chunk over, as the windows let it, without copying it.
    ///
    /// # Errors
    /// `BrokenPipe` when the peer wants no more of the stream; anything else is the end of the connection.
    pub async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        match &mut self.0 {
            Some(Writing::Quic(stream)) => match stream.write_chunk(chunk).await {
                Err(quinn::WriteError::Stopped(_)) => Err(ErrorKind::BrokenPipe.into()),
                written => Ok(written?),
            },
            Some(Writing::WebTransport(stream)) => match stream.write_chunk(chunk).await {
                Err(WriteError::Stopped(_) | WriteError::InvalidStopped(_)) => {
                    Err(ErrorKind::BrokenPipe.into())
                }
                written => written.map_err(io::Error::other),
            },
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Ends the stream, and waits until the peer has acknowledged everything, or wants no more of it.
    pub async fn finish(mut self) {
        match self.0.take() {
            None => {}
            // What cannot be finished is gone, and so the wait is over at once.
            Some(Writing::Quic(mut stream)) => {
                drop(stream.finish());
                drop(stream.stopped().await);
            }
            Some(Writing::WebTransport(mut stream)) => {
                drop(stream.finish());
                drop(stream.stopped().await);
            }
        }
    }
}

impl Drop for SideSender {
    fn drop(&mut self) {
        // By itself it would end as if it were complete.
        match &mut self.0 {
            None => {}
            Some(Writing::Quic(stream)) => drop(stream.reset(0_u32.into())),
            Some(Writing::WebTransport(stream)) => drop(stream.reset(0)),
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

debug_as_name!(SideOpening SideSender SideStreams SideReceiver);
