//! The two halves of a connection, whatever it is made of: each carries whole messages, one or more frames each.

#[cfg(feature = "quic")]
use super::stream::{Incoming, Outgoing};
use super::websocket::{self, WebSocket};
#[cfg(feature = "quic")]
use crate::limits::OWN_STREAM_BYTES_MIN;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::future::pending;
use tokio_tungstenite::tungstenite::Message;
use waspmq_protocol::Profile;
use waspmq_protocol::server::Close;

/// The other side does not take anything any more; the text is for people.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

/// What came.
#[derive(Debug)]
pub(crate) enum Inbound {
    Message(Bytes),
    /// Without frames.
    SignOfLife,
    /// The broker closed with this code.
    Closed {
        code: u16,
        reason: String,
    },
    /// Nothing comes any more, without a code; the text is for people.
    Ended(String),
}

impl Inbound {
    /// An end, with the reason that the broker gave in a frame: what says so later may have lost it on its way.
    pub(super) fn explained(self, said: Option<Close>) -> Self {
        match (self, said) {
            (Self::Closed { .. } | Self::Ended(_), Some(close)) => {
                Self::Closed { code: close.code, reason: close.reason().to_owned() }
            }
            (inbound, _) => inbound,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Sender {
    WebSocket(SplitSink<WebSocket, Message>),
    #[cfg(feature = "quic")]
    Stream(Outgoing),
}

#[derive(Debug)]
pub(crate) enum Receiver {
    WebSocket(SplitStream<WebSocket>),
    #[cfg(feature = "quic")]
    Stream(Box<Incoming>),
}

impl Sender {
    /// Takes a message, which may wait for [`Self::flush`].
    pub(super) async fn feed(&mut self, profile: Profile, frames: Vec<u8>) -> Result<(), Broken> {
        match self {
            Self::WebSocket(sink) => sink.feed(websocket::outbound(profile, frames)).await.map_err(broken),
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.feed(&frames).await,
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        match self {
            Self::WebSocket(sink) => sink.flush().await.map_err(broken),
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.flush().await,
        }
    }

    pub(super) async fn send(&mut self, profile: Profile, frames: Vec<u8>) -> Result<(), Broken> {
        self.feed(profile, frames).await?;
        self.flush().await
    }

    /// Sends a message as a datagram. False when there are none here, or it does not fit.
    pub(super) fn send_datagram(&self, frames: &[u8]) -> bool {
        match self {
            Self::WebSocket(_) => false,
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.send_datagram(frames),
        }
    }

    /// Begins to send a publish on a stream of its own. False when it has to go with everything else: there are none here, it is not
    /// long enough to be worth one, or there is no room.
    pub(super) fn begin_own(&mut self, frames: &[u8], priority: u8) -> bool {
        match self {
            Self::WebSocket(_) => false,
            #[cfg(feature = "quic")]
            Self::Stream(stream) => {
                frames.len() >= OWN_STREAM_BYTES_MIN && stream.begin_own(frames, priority)
            }
        }
    }

    /// Sends what has streams of its own: to be polled whenever nothing else is sent. Ready now and then where there is some,
    /// else never. Cancel safe.
    pub(super) async fn progress(&mut self) {
        match self {
            Self::WebSocket(_) => pending().await,
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.progress().await,
        }
    }

    /// Waits until the other side has what was sent on streams of its own, and sends no more so.
    pub(super) async fn finish_own(&mut self) {
        match self {
            Self::WebSocket(_) => {}
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.finish_own().await,
        }
    }

    /// Tells the other side that nothing comes any more. That it is gone already does not matter.
    pub(super) async fn finish(&mut self) {
        match self {
            Self::WebSocket(sink) => drop(sink.close().await),
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.finish().await,
        }
    }

    /// Whether what is below ends a connection by itself whose other side says nothing.
    pub(super) const fn notices_silence(&self) -> bool {
        !matches!(self, Self::WebSocket(_))
    }
}

impl Receiver {
    /// Cancel safe: what was read of a message is kept.
    pub(super) async fn next(&mut self) -> Inbound {
        match self {
            Self::WebSocket(stream) => websocket::inbound(stream.next().await),
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.next().await,
        }
    }

    /// With what the broker closed, where that is known without reading on.
    pub(super) fn why_closed(&self) -> Option<(u16, String)> {
        match self {
            Self::WebSocket(_) => None,
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.why_closed(),
        }
    }

    /// From now on what comes beside the stream is read, too, where it was asked for: before the broker's welcome it would be
    /// frames of no session.
    pub(super) const fn begin_session(&mut self) {
        match self {
            Self::WebSocket(_) => {}
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.begin_session(),
        }
    }

    /// Waits until the other side can know that the connection is over: the program may end right after it.
    pub(super) async fn end(&mut self) {
        match self {
            // Closing its TCP connection is left to the kernel.
            Self::WebSocket(_) => {}
            #[cfg(feature = "quic")]
            Self::Stream(stream) => stream.end().await,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function of one argument")]
fn broken(error: tokio_tungstenite::tungstenite::Error) -> Broken {
    Broken(websocket::describe(&error))
}
