//! Streams with messages of their own, beside the main one: what is long, and what nothing is to wait for.
//!
//! Both directions are sets of futures that own their streams. Whoever polls such a set may stop at any time and lose nothing.

use super::stream::{READ_BYTES, take};
use crate::limits::{OWN_STREAMS_MAX, OWN_STREAMS_SENT_MAX};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::fmt;
use std::future::pending;
use tokio::io::AsyncReadExt;
use waspmq_protocol::stream;
use web_transport_quinn::{RecvStream, SendStream, Session};

/// What is there of a stream of the broker: its message, nothing when it broke off, or what is wrong with it.
type Arrived = Result<Option<Bytes>, String>;

/// Streams of the broker, each with one message.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    /// At most [`OWN_STREAMS_MAX`], with at most one message each.
    reads: FuturesUnordered<BoxFuture<'static, Arrived>>,
}

impl Arriving {
    /// The next message, or what is wrong with one. Never ready once the connection is over and what came is handed out. Cancel
    /// safe.
    pub(super) async fn next(&mut self, session: &Session) -> Result<Bytes, String> {
        loop {
            // Both are cancel safe: a stream that is not taken stays where it is, and so does what was read of one.
            tokio::select! {
                Some(stream) = accept(session), if self.reads.len() < OWN_STREAMS_MAX.into() => {
                    self.reads.push(read(stream).boxed());
                }
                Some(arrived) = self.reads.next() => {
                    if let Some(message) = arrived.transpose() {
                        return message;
                    }
                }
                else => pending().await,
            }
        }
    }
}

/// None when the connection is over.
async fn accept(session: &Session) -> Option<RecvStream> {
    session.accept_uni().await.ok()
}

/// Reads a stream to its end.
async fn read(mut stream: RecvStream) -> Arrived {
    let mut buffer = BytesMut::new();
    let mut message = None;
    loop {
        if message.is_none() {
            message = take(&mut buffer)?;
        }
        if message.is_some() && !buffer.is_empty() {
            return Err("more than one message on a stream of its own".to_owned());
        }
        buffer.reserve(READ_BYTES);
        match stream.read_buf(&mut buffer).await {
            Ok(0) => return Ok(message),
            Ok(_) => {}
            // Reset, or the connection is gone, which the main stream says.
            Err(_) => return Ok(None),
        }
    }
}

/// Streams of this client, each with one publish.
pub(super) struct Departing {
    session: Session,
    /// A stream that could not be opened at once; for the next message.
    opening: Option<BoxFuture<'static, Option<SendStream>>>,
    /// At most [`OWN_STREAMS_SENT_MAX`], until the broker has acknowledged them.
    writes: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Departing {
    pub(super) fn new(session: Session) -> Self {
        Self { session, opening: None, writes: FuturesUnordered::new() }
    }

    /// Begins to send a message. False when it has to go on the main stream: enough are under way, the broker lets no stream be
    /// opened now, or the message has no length.
    pub(super) fn begin(&mut self, frames: &[u8], priority: u8) -> bool {
        if self.writes.len() >= OWN_STREAMS_SENT_MAX.into() || frames.len() > stream::LENGTH_MAX {
            return false;
        }
        let Some(stream) = self.open() else { return false };
        let mut bytes = Vec::with_capacity(frames.len() + size_of::<u64>());
        let start = stream::begin(&mut bytes);
        bytes.extend_from_slice(frames);
        stream::end(&mut bytes, start);
        // An error means that it is closed, as the next write says, too.
        drop(stream.set_priority(order(priority)));
        self.writes.push(write(Unfinished(Some(stream)), bytes.into()).boxed());
        true
    }

    fn open(&mut self) -> Option<SendStream> {
        let opening = self.opening.get_or_insert_with(|| {
            let session = self.session.clone();
            async move { session.open_uni().await.ok() }.boxed()
        });
        // Not polled again before the next message: it is not woken, and has to say by itself that it is open.
        let opened = opening.now_or_never()?;
        self.opening = None;
        opened
    }

    /// Sends. Ready whenever one message is through, and not while there is none. Cancel safe.
    pub(super) async fn progress(&mut self) {
        if self.writes.next().await.is_none() {
            pending().await
        }
    }

    /// Sends until the broker has everything, or has stopped to take it. Cancel safe.
    pub(super) async fn finish(&mut self) {
        while self.writes.next().await.is_some() {}
    }
}

impl fmt::Debug for Departing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Departing").field("writes", &self.writes.len()).finish_non_exhaustive()
    }
}

/// The order among streams: the main one is 0 and goes first, the message of the highest priority next.
fn order(priority: u8) -> i32 {
    i32::from(priority.min(9)) - 10
}

/// Ready when the broker has everything, has stopped the stream, or is gone.
async fn write(mut unfinished: Unfinished, message: Bytes) {
    let Some(stream) = &mut unfinished.0 else { return };
    if stream.write_chunk(message).await.is_err() || stream.finish().is_err() {
        return;
    }
    // The stream is over for this side: what was written still arrives if nobody waits for it.
    if let Some(stream) = unfinished.0.take() {
        drop(stream.stopped().await);
    }
}

/// A stream whose message is not written as a whole. Dropped, it is reset: by itself it would end as if it were.
struct Unfinished(Option<SendStream>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            // An error means that it is closed already.
            drop(stream.reset(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_stream_goes_before_every_priority() {
        assert_eq!([0, 1, 9, 255].map(order), [-10, -9, -1, -1]);
    }
}
