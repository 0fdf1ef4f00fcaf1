//! Where the client has read to: what a resume and a restored subscription begin with.

use std::collections::{BTreeMap, HashMap};
use waspmq_core::{Position, Stream};
use waspmq_protocol::From;
use waspmq_protocol::limits::LIST_ITEMS_MAX;
use waspmq_protocol::server::Message;

/// How far behind the last message a subscription with wildcards is begun again: addresses of different shards are
/// not ordered among each other. The repeats are dropped.
const OVERLAP_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub(crate) struct Places {
    /// The latest offset of each stream, of the newest streams at most as many as a frame may name.
    streams: BTreeMap<Stream, u64>,
    /// The latest position in each address that is subscribed by its own name.
    addresses: HashMap<String, Option<Position>>,
    /// The publish time of the latest message.
    last_unix_ms: Option<u64>,
}

impl Places {
    pub(crate) fn handle_message(&mut self, message: &Message) {
        // A datagram may be ahead of messages that come on the stream.
        if message.position == Position::NONE {
            return;
        }
        let Position { stream, offset } = message.position;
        let latest = self.streams.entry(stream).or_insert(offset);
        *latest = offset.max(*latest);
        if self.streams.len() > LIST_ITEMS_MAX
            && let Some(oldest) = self.streams.keys().min_by_key(|stream| stream.epoch).copied()
        {
            self.streams.remove(&oldest);
        }
        self.last_unix_ms = self.last_unix_ms.max(Some(message.unix_ms));
        if message.queue.is_none()
            && let Some(latest) = self.addresses.get_mut(&message.to)
        {
            let key = |position: Position| (position.stream.epoch, position.offset);
            if latest.is_none_or(|latest| key(message.position) > key(latest)) {
                *latest = Some(message.position);
            }
        }
    }

    /// Begins or ends to follow what a subscription without a queue names.
    pub(crate) fn follow(&mut self, to: &str, is_wanted: bool) {
        if is_wildcard(to) {
            return;
        }
        if is_wanted {
            self.addresses.entry(to.to_owned()).or_default();
        } else {
            self.addresses.remove(to);
        }
    }

    /// The latest position of each stream.
    pub(crate) fn positions(&self) -> Vec<Position> {
        self.streams.iter().map(|(&stream, &offset)| Position { stream, offset }).collect()
    }

    /// Where a subscription without a queue goes on that began at `from`. One with wildcards goes on where it was only
    /// when it asked for a beginning; else it begins with the next message, as it did at first.
    pub(crate) fn again(&self, to: &str, from: Option<From>) -> Option<From> {
        if let Some(Some(position)) = self.addresses.get(to) {
            return Some(From::Position(*position));
        }
        match (from, self.last_unix_ms) {
            (Some(_), Some(unix_ms)) if is_wildcard(to) => {
                Some(From::Time(unix_ms.saturating_sub(OVERLAP_MS)))
            }
            (from, _) => from,
        }
    }
}

pub(crate) fn is_wildcard(to: &str) -> bool {
    to.strip_prefix("topic/").is_some_and(|topic| topic.split('.').any(|token| token == "*" || token == ">"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::message;

    #[test]
    fn the_latest_of_each_stream_and_of_each_address() {
        let mut places = Places::default();
        places.follow("topic/a", true);
        places.follow("topic/*", true);
        let position = |shard, epoch, offset| Position { stream: Stream { shard, epoch }, offset };
        let mut see = |to: &str, queue, position, unix_ms| {
            let message = Message { position, unix_ms, ..message(1, to, queue) };
            places.handle_message(&message);
        };
        see("topic/a", None, position(1, 1, 5), 10_000);
        see("topic/b", None, position(2, 1, 7), 20_000);
        see("topic/a", None, position(1, 1, 3), 5_000);
        see("topic/a", Some("q"), position(1, 1, 9), 5_000);
        see("topic/a", None, Position::NONE, 90_000);
        assert_eq!(places.positions(), [position(1, 1, 9), position(2, 1, 7)]);
        assert_eq!(places.again("topic/a", None), Some(From::Position(position(1, 1, 5))));
        assert_eq!(places.again("topic/b", None), None);
        assert_eq!(places.again("topic/b", Some(From::Earliest)), Some(From::Earliest));
        assert_eq!(places.again("topic/*", None), None);
        assert_eq!(places.again("topic/*", Some(From::Earliest)), Some(From::Time(19_000)));
        places.handle_message(&Message { position: position(1, 2, 1), ..message(1, "topic/a", None) });
        assert_eq!(places.again("topic/a", None), Some(From::Position(position(1, 2, 1))));
        places.follow("topic/a", false);
        assert_eq!(places.again("topic/a", None), None);
    }

    #[test]
    fn old_streams_make_room() {
        let mut places = Places::default();
        for epoch in 1..=40 {
            for shard in 0..64 {
                let position = Position { stream: Stream { shard, epoch }, offset: 1 };
                places.handle_message(&Message { position, ..message(1, "topic/a", None) });
            }
        }
        let positions = places.positions();
        assert_eq!(positions.len(), LIST_ITEMS_MAX);
        assert!(positions.iter().all(|position| position.stream.epoch > 24));
    }
}
