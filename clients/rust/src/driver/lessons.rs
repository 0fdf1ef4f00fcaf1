//! What [`crate::Transport::Auto`] has learned of a way to the broker. No IO, and no clock of its own.
//!
//! | event | next attempts |
//! | --- | --- |
//! | nothing yet, or the broker has answered over QUIC | begin with QUIC |
//! | WebSocket was connected first | the next [`QUIC_SKIPS`] without QUIC |
//! | QUIC was connected, and ended before the broker had said anything | for [`QUIC_DISTRUST`], begin with WebSocket |

use crate::limits::{QUIC_DISTRUST, QUIC_SKIPS};
use crate::transport::Transport;
use tokio::time::Instant;

/// How an attempt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    Quic,
    WebSocket,
    /// And nothing else.
    WebSocketAlone,
}

#[derive(Debug, Default)]
pub(super) struct Lessons {
    /// Attempts that are to go without QUIC.
    skips: u32,
    /// Whether QUIC was connected and nothing has come yet: a network may let the small datagrams of a handshake pass and lose the
    /// others.
    is_unanswered: bool,
    distrusted_until: Option<Instant>,
}

impl Lessons {
    /// How to begin an attempt.
    pub(super) fn begin(&mut self, now: Instant) -> Begin {
        if std::mem::take(&mut self.is_unanswered) {
            self.distrusted_until = Some(now + QUIC_DISTRUST);
        }
        if self.distrusted_until.is_some_and(|until| now < until) {
            return Begin::WebSocket;
        }
        self.distrusted_until = None;
        if self.skips > 0 {
            self.skips -= 1;
            return Begin::WebSocketAlone;
        }
        Begin::Quic
    }

    /// An attempt that began so has a connection.
    pub(super) fn handle_connected(&mut self, begun: Begin, transport: Transport) {
        self.is_unanswered = transport == Transport::Quic;
        if begun == Begin::Quic && transport == Transport::WebSocket {
            self.skips = QUIC_SKIPS;
        }
    }

    /// The broker has said something on the connection.
    pub(super) const fn handle_answer(&mut self) {
        self.is_unanswered = false;
    }

    /// Whether the connection at hand is one of QUIC on which nothing has come.
    pub(super) const fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn who_did_without_quic_tries_it_again_at_the_tenth_attempt() {
        let (mut lessons, now) = (Lessons::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(lessons.begin(now), Begin::Quic);
            lessons.handle_connected(Begin::Quic, Transport::WebSocket);
            for _ in 0..QUIC_SKIPS {
                assert_eq!(lessons.begin(now), Begin::WebSocketAlone);
                lessons.handle_connected(Begin::WebSocketAlone, Transport::WebSocket);
            }
        }
    }

    #[test]
    fn quic_without_an_answer_comes_second_for_a_while() {
        let (mut lessons, now) = (Lessons::default(), Instant::now());
        let later = |ms: u64| now + QUIC_DISTRUST + Duration::from_millis(ms);
        assert_eq!(lessons.begin(now), Begin::Quic);
        lessons.handle_connected(Begin::Quic, Transport::Quic);
        lessons.handle_answer();
        assert_eq!(lessons.begin(now), Begin::Quic);
        lessons.handle_connected(Begin::Quic, Transport::Quic);
        assert!(lessons.is_unanswered());
        for _ in 0..20 {
            assert_eq!(lessons.begin(now), Begin::WebSocket);
            lessons.handle_connected(Begin::WebSocket, Transport::WebSocket);
        }
        assert_eq!(lessons.begin(later(0)), Begin::Quic);
        lessons.handle_connected(Begin::Quic, Transport::Quic);
        // WebSocket does not work either: the one that came second is not more trusted for that.
        assert_eq!(lessons.begin(later(1)), Begin::WebSocket);
        lessons.handle_connected(Begin::WebSocket, Transport::Quic);
        assert_eq!(lessons.begin(later(2)), Begin::WebSocket);
        lessons.handle_connected(Begin::WebSocket, Transport::Quic);
        lessons.handle_answer();
        assert_eq!(lessons.begin(later(3) + QUIC_DISTRUST), Begin::Quic);
    }
}
