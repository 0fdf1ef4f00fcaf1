//! Datagrams of a connection (RFC 9221), beside its stream: not repeated when they are lost, and in no order.
//!
//! Those of WebTransport have the session's number in front, which nobody sees here.

use super::channel::{Channel, Whole};
use bytes::Bytes;
use std::fmt;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// What became of a datagram that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, as far as that is known of a datagram.
    Sent,
    /// It does not fit the path, or the peer takes none.
    TooLarge,
    /// As much as may wait does already.
    Full,
}

/// Where the datagrams of a connection are read. It does not keep the connection open.
pub struct Datagrams(Whole);

impl Channel {
    /// Sends a datagram, without waiting and without taking the place of one that waits.
    pub fn send_datagram(&self, bytes: &[u8]) -> Sent {
        let (most, room) = match self.whole() {
            Whole::Quic(connection) => {
                (connection.max_datagram_size().unwrap_or_default(), connection.datagram_send_buffer_space())
            }
            Whole::WebTransport(session) => {
                (session.max_datagram_size(), session.datagram_send_buffer_space())
            }
        };
        if bytes.len() > most {
            return Sent::TooLarge;
        }
        if bytes.len() > room {
            return Sent::Full;
        }
        let is_sent = match self.whole() {
            Whole::Quic(connection) => connection.send_datagram(Bytes::copy_from_slice(bytes)).is_ok(),
            Whole::WebTransport(session) => session.send_datagram(Bytes::copy_from_slice(bytes)).is_ok(),
        };
        // The path may have become narrower just now.
        if is_sent { Sent::Sent } else { Sent::TooLarge }
    }

    pub fn datagrams(&self) -> Datagrams {
        Datagrams(self.whole().clone())
    }
}

impl Datagrams {
    /// Waits for a datagram and takes it with those that came with it, at most `most` in all. False when the connection is
    /// over. One of WebTransport that belongs to no session is given as an empty one. Cancel-safe.
    pub async fn receive(&self, into: &mut Vec<Bytes>, most: usize) -> bool {
        let Some(first) = self.next().await else { return false };
        into.push(first);
        let mut context = Context::from_waker(Waker::noop());
        while into.len() < most {
            let next = pin!(self.next());
            let Poll::Ready(Some(next)) = next.poll(&mut context) else { break };
            into.push(next);
        }
        true
    }

    async fn next(&self) -> Option<Bytes> {
        match &self.0 {
            Whole::Quic(connection) => connection.read_datagram().await.ok(),
            Whole::WebTransport(session) => match session.read_datagram().await {
                Ok(datagram) => Some(datagram),
                Err(_) if self.0.connection().close_reason().is_none() => Some(Bytes::new()),
                Err(_) => None,
            },
        }
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Datagrams").field(&self.0.connection().remote_address()).finish()
    }
}
