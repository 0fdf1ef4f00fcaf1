//! QUIC (RFC 9000) and WebTransport (draft-ietf-webtrans-http3) on one UDP socket: quinn with rustls, server side.
//!
//! | ALPN | spoken | the session's stream |
//! | --- | --- | --- |
//! | `waspmq/1` | messages with a length in front (`waspmq_protocol::stream`) | the client's first bidirectional one |
//! | `h3` | WebTransport at `/wt`, and the same messages in it | the session's first bidirectional one |
//!
//! - [`Listener`]: the socket. It gives an [`Incoming`] per connection that wants to begin, on the thread that owns it.
//! - [`Incoming`]: may be handed to another thread; whoever opens it has the connection's work from then on, with its
//!   timers and its encryption. The listener's thread goes on to receive its datagrams and hands them over.
//! - [`Channel`]: an open connection with its stream, read and written without waiting as a socket is; it sends datagrams, too.
//! - [`Datagrams`]: where those of the peer are read.
//! - [`SideSender`], [`SideReceiver`]: unidirectional streams beside it, for what is not to stand in the way there.
//!
//! Invariants: what a connection makes the broker hold is bounded by the windows of [`Windows`] and the streams of
//! [`crate::limits`]; there is no early data, because a `connect` that is played again would take over a live session.

mod channel;
mod datagrams;
mod incoming;
mod listener;
mod offload;
mod streams;

pub use channel::Channel;
pub use datagrams::{Datagrams, Sent};
pub use incoming::{Connected, Incoming, OpenError, Opened, Page, Protocol};
pub use listener::{Listener, Secret, Windows};
pub use offload::{Offload, offload};
pub use streams::{SideOpening, SideReceiver, SideSender, SideStreams};

/// What is spoken without HTTP/3.
pub(crate) const ALPN: &[u8] = b"waspmq/1";
/// What is spoken by browsers.
pub(crate) const ALPN_H3: &[u8] = b"h3";
