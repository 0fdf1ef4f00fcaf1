//! Which messages were seen lately, and which of them were acknowledged.

use crate::limits::SEEN_MAX;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use waspmq_core::MessageId;
use waspmq_protocol::server::Message;

/// The last [`SEEN_MAX`] deliveries. One message may come once as itself and once for each queue, under each
/// address a policy sent it to: these are not repeats of each other.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    keys: HashMap<(MessageId, u64), Repeat>,
    order: VecDeque<(MessageId, u64)>,
    hasher: RandomState,
}

/// What is known of a message that comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It waits for the program, or the program works on it.
    Waiting,
    Acknowledged,
    /// The program left it to others.
    PassedOver,
}

impl Seen {
    /// Remembers a delivery; what is known of it when it was remembered already.
    pub(crate) fn insert(&mut self, message: &Message) -> Option<Repeat> {
        let key = self.key(message);
        if let Some(repeat) = self.keys.get(&key) {
            return Some(*repeat);
        }
        self.keys.insert(key, Repeat::Waiting);
        if self.order.len() >= SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.order.push_back(key);
        None
    }

    /// What is known of a delivery, while it is remembered.
    pub(crate) fn set(&mut self, message: &Message, is: Repeat) {
        let key = self.key(message);
        if let Some(repeat) = self.keys.get_mut(&key) {
            *repeat = is;
        }
    }

    /// Forgets a delivery, so that it counts as new when it comes again.
    pub(crate) fn remove(&mut self, message: &Message) {
        let key = self.key(message);
        if self.keys.remove(&key).is_some() {
            self.order.retain(|other| *other != key);
        }
    }

    /// The same for all of an address outside queues, or for everything: of what is remembered, a pattern with wildcards cannot be told.
    pub(crate) fn remove_all(&mut self, address: Option<&str>) {
        let hash = address.map(|to| self.hash(to, None));
        let is_kept = |key: &(MessageId, u64)| hash.is_some_and(|hash| hash != key.1);
        self.keys.retain(|key, _| is_kept(key));
        self.order.retain(is_kept);
    }

    fn key(&self, message: &Message) -> (MessageId, u64) {
        (message.id, self.hash(&message.to, message.queue.as_deref()))
    }

    fn hash(&self, to: &str, queue: Option<&str>) -> u64 {
        self.hasher.hash_one((to, queue))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use waspmq_core::{Position, Stream};
    use waspmq_protocol::Content;

    pub(crate) fn message(count: u64, to: &str, queue: Option<&str>) -> Message {
        Message {
            id: MessageId::new(1, 1, 1, count),
            to: to.to_owned(),
            from: None,
            position: Position { stream: Stream { shard: 0, epoch: 1 }, offset: count },
            content: Content::Bytes,
            payload: Vec::new(),
            packed: None,
            headers: Vec::new(),
            key: None,
            priority: 0,
            reply_to: None,
            queue: queue.map(str::to_owned),
            attempt: None,
            wants_ack: true,
            unix_ms: 0,
        }
    }

    #[test]
    fn repeats_are_recognised_within_the_window() {
        let mut seen = Seen::default();
        let first = message(0, "topic/a", None);
        assert_eq!(seen.insert(&first), None);
        assert_eq!(seen.insert(&first), Some(Repeat::Waiting));
        seen.set(&first, Repeat::Acknowledged);
        let again = Message { attempt: Some(2), ..first.clone() };
        assert_eq!(seen.insert(&again), Some(Repeat::Acknowledged));
        assert_eq!(seen.insert(&message(0, "topic/a", Some("q"))), None);
        assert_eq!(seen.insert(&message(0, "topic/b", None)), None);
        seen.remove(&message(0, "topic/b", None));
        assert_eq!(seen.insert(&message(0, "topic/b", None)), None, "removed");
        for count in 1..SEEN_MAX as u64 {
            assert_eq!(seen.insert(&message(count, "topic/a", None)), None);
        }
        assert_eq!((seen.keys.len(), seen.order.len()), (SEEN_MAX, SEEN_MAX));
        assert_eq!(seen.insert(&first), None, "forgotten");
    }

    #[test]
    fn what_is_asked_for_again_is_no_repeat() {
        let mut seen = Seen::default();
        let check = |seen: &mut Seen, to: &str, queue, expected| {
            assert_eq!(seen.insert(&message(0, to, queue)), expected, "{to} {queue:?}");
        };
        let all = [("topic/a", None), ("topic/a", Some("q")), ("topic/b", None)];
        for (to, queue) in all {
            check(&mut seen, to, queue, None);
        }
        seen.remove_all(Some("topic/a"));
        check(&mut seen, "topic/a", None, None);
        check(&mut seen, "topic/a", Some("q"), Some(Repeat::Waiting));
        check(&mut seen, "topic/b", None, Some(Repeat::Waiting));
        assert_eq!((seen.keys.len(), seen.order.len()), (3, 3));
        seen.remove_all(None);
        for (to, queue) in all {
            check(&mut seen, to, queue, None);
        }
    }
}
