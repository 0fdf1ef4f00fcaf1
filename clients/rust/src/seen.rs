//! Which messages were seen lately.

use crate::limits::SEEN_MAX;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use waspmq_core::MessageId;
use waspmq_protocol::server::Message;

/// The last [`SEEN_MAX`] deliveries. One message may come once as itself and once for each queue, under each
/// address a policy sent it to: these are not repeats of each other.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    keys: HashSet<(MessageId, u64)>,
    order: VecDeque<(MessageId, u64)>,
    hasher: RandomState,
}

impl Seen {
    /// Remembers a delivery; false when it was remembered already.
    pub(crate) fn insert(&mut self, message: &Message) -> bool {
        let key = (message.id, self.hasher.hash_one((&message.to, &message.queue)));
        if !self.keys.insert(key) {
            return false;
        }
        if self.order.len() >= SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.order.push_back(key);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::{Position, Stream};
    use waspmq_protocol::Content;

    fn message(count: u64, to: &str, queue: Option<&str>) -> Message {
        Message {
            id: MessageId::new(1, 1, 1, count),
            to: to.to_owned(),
            from: None,
            position: Position { stream: Stream { shard: 0, epoch: 1 }, offset: count },
            content: Content::Bytes,
            payload: Vec::new(),
            headers: Vec::new(),
            key: None,
            priority: 0,
            reply_to: None,
            queue: queue.map(str::to_owned),
            attempt: None,
            unix_ms: 0,
        }
    }

    #[test]
    fn repeats_are_recognised_within_the_window() {
        let mut seen = Seen::default();
        let first = message(0, "topic/a", None);
        assert!(seen.insert(&first));
        assert!(!seen.insert(&first));
        assert!(!seen.insert(&Message { attempt: Some(2), ..first.clone() }));
        assert!(seen.insert(&message(0, "topic/a", Some("q"))));
        assert!(seen.insert(&message(0, "topic/b", None)));
        for count in 1..SEEN_MAX as u64 {
            assert!(seen.insert(&message(count, "topic/a", None)));
        }
        assert_eq!((seen.keys.len(), seen.order.len()), (SEEN_MAX, SEEN_MAX));
        assert!(seen.insert(&first), "forgotten");
    }
}
