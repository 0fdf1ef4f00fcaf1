//! Messages that the program has passed over: they are left to the user's other sessions, and nobody is told anything about them.
//!
//! The broker counts them as in flight to this session, whose window would be full of them one day, so only the latest of them are left
//! so. The older ones are given back; by then most of them have come to their end without this session.

use crate::limits::{PASSED_BYTES_MAX, PASSED_MAX};
use std::collections::VecDeque;
use waspmq_core::MessageId;
use waspmq_protocol::server::Message;

/// What the broker counts for a message besides its payload and headers, about.
const MESSAGE_BYTES: usize = 256;

/// Those that are in flight on this connection, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    id: MessageId,
    queue: Option<String>,
    bytes: usize,
}

impl Passed {
    /// A message is passed over, or a repeat of one that was: that takes no more room.
    pub(crate) fn add(&mut self, message: &Message) {
        if self.entries.iter().any(|entry| entry.id == message.id && entry.queue == message.queue) {
            return;
        }
        let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = MESSAGE_BYTES + message.payload.len() + headers;
        self.bytes += bytes;
        self.entries.push_back(Entry { id: message.id, queue: message.queue.clone(), bytes });
    }

    /// The oldest one, while there are more than are left so.
    pub(crate) fn poll_back(&mut self) -> Option<(MessageId, Option<String>)> {
        if self.entries.len() <= PASSED_MAX && self.bytes <= PASSED_BYTES_MAX {
            return None;
        }
        let Entry { id, queue, bytes } = self.entries.pop_front()?;
        self.bytes -= bytes;
        Some((id, queue))
    }

    /// Another connection has nothing in flight.
    pub(crate) fn handle_reconnected(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::message;

    #[test]
    fn only_the_latest_are_left_to_others() {
        let mut passed = Passed::default();
        for count in 0..PASSED_MAX as u64 {
            passed.add(&message(count, "user/a", None));
            passed.add(&message(count, "user/a", None));
        }
        assert_eq!(passed.poll_back(), None, "a repeat takes no more room");
        passed.add(&message(9_999, "topic/a", Some("q")));
        assert_eq!(passed.poll_back(), Some((message(0, "user/a", None).id, None)));
        assert_eq!(passed.poll_back(), None);
        let long = Message { payload: vec![0; PASSED_BYTES_MAX], ..message(10_000, "user/a", None) };
        passed.add(&long);
        let back: Vec<_> = std::iter::from_fn(|| passed.poll_back()).collect();
        assert_eq!((back.len(), back.last().unwrap().0), (PASSED_MAX + 1, long.id));
        assert_eq!(passed.bytes, 0);
    }
}
