//! Acknowledgements that wait to be written, folded into as few frames as they need.
//!
//! Messages taken in the order they came are acknowledged by a position, one for each address and stream. By their id
//! go deliveries of a queue, repeats and whatever the program acknowledges itself, because with these a position
//! would cover others that nobody has taken yet. What is given back without an answer goes along.

use crate::limits::{ACK_BATCH, ACKS_MAX, MESSAGES_MAX};
use std::collections::{BTreeMap, BTreeSet};
use waspmq_core::{MessageId, Position, Stream};
use waspmq_protocol::client::{Acked, Frame};
use waspmq_protocol::limits::LIST_ITEMS_MAX;
use waspmq_protocol::server::Message;

/// Why a message is given back that the program has passed over: in the ledger, for people.
const PASSED_OVER: &str = "passed over";

#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// Address, stream, offset.
    upto: BTreeMap<String, BTreeMap<Stream, u64>>,
    /// By queue.
    ids: BTreeMap<Option<String>, Vec<MessageId>>,
    /// What is given back, with its queue. Nobody waits for the answer.
    back: Vec<(MessageId, Option<String>)>,
    count: usize,
    /// Repeats that wait for the program, by address. They came behind later messages, whose positions would
    /// cover them before they are taken.
    held: BTreeMap<String, BTreeSet<(Stream, u64)>>,
    held_count: usize,
}

impl Acks {
    /// A repeat goes into the program's queue. That holds [`MESSAGES_MAX`], so there are more only when nobody takes them
    /// any more.
    pub(crate) fn hold(&mut self, message: &Message) {
        let Position { stream, offset } = message.position;
        if self.held_count <= MESSAGES_MAX
            && self.held.entry(message.to.clone()).or_default().insert((stream, offset))
        {
            self.held_count += 1;
        }
    }

    /// A message was taken out of the queue.
    pub(crate) fn release(&mut self, message: &Message) {
        let Position { stream, offset } = message.position;
        let Some(held) = self.held.get_mut(&message.to) else { return };
        self.held_count -= usize::from(held.remove(&(stream, offset)));
        if held.is_empty() {
            self.held.remove(&message.to);
        }
    }

    fn covers_held(&self, message: &Message) -> bool {
        let Position { stream, offset } = message.position;
        let held = self.held.get(&message.to);
        held.is_some_and(|held| held.range((stream, 0)..=(stream, offset)).next().is_some())
    }

    /// Adds one; true when the writer is to be told: of the first, and of the one that fills a batch.
    pub(crate) fn add(&mut self, message: &Message, alone: bool) -> bool {
        if self.count >= ACKS_MAX {
            return false;
        }
        self.count += 1;
        if alone || self.covers_held(message) {
            match self.ids.get_mut(&message.queue) {
                Some(ids) => ids.push(message.id),
                None => drop(self.ids.insert(message.queue.clone(), vec![message.id])),
            }
        } else {
            let Position { stream, offset } = message.position;
            match self.upto.get_mut(&message.to) {
                Some(streams) => {
                    let latest = streams.entry(stream).or_insert(offset);
                    *latest = offset.max(*latest);
                }
                None => drop(self.upto.insert(message.to.clone(), BTreeMap::from([(stream, offset)]))),
            }
        }
        self.count == 1 || self.count == ACK_BATCH
    }

    /// Adds one that is given back; true as for [`Self::add`].
    pub(crate) fn give_back(&mut self, message: (MessageId, Option<String>)) -> bool {
        if self.count >= ACKS_MAX {
            return false;
        }
        self.count += 1;
        self.back.push(message);
        self.count == 1 || self.count == ACK_BATCH
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// The frames that say all of it.
    pub(crate) fn take(&mut self) -> Vec<Frame<'static>> {
        let (upto, ids) = (std::mem::take(&mut self.upto), std::mem::take(&mut self.ids));
        self.count = 0;
        let mut frames = Vec::new();
        let mut add = |what, queue: Option<String>| {
            frames.push(Frame::Ack { reference: None, what, queue: queue.map(Into::into) });
        };
        for (to, streams) in upto {
            for (stream, offset) in streams {
                let upto = Position { stream, offset };
                add(Acked::UpTo { to: to.clone().into(), upto }, None);
            }
        }
        for (queue, ids) in ids {
            for ids in ids.chunks(LIST_ITEMS_MAX) {
                add(Acked::Ids(ids.to_vec()), queue.clone());
            }
        }
        frames.extend(std::mem::take(&mut self.back).into_iter().map(|(id, queue)| Frame::Nack {
            reference: None,
            id,
            queue: queue.map(Into::into),
            reason: Some(PASSED_OVER.into()),
            retry_ms: None,
        }));
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen::tests::message;

    #[test]
    fn one_frame_for_each_address_and_queue() {
        let mut acks = Acks::default();
        assert!(acks.add(&message(3, "topic/b", None), false), "the first");
        for count in [1, 2, 9, 5] {
            assert!(!acks.add(&message(count, "topic/a", None), false));
        }
        acks.add(&message(4, "topic/a", None), true);
        acks.add(&message(6, "topic/a", Some("q")), true);
        acks.add(&message(7, "topic/c", Some("q")), true);
        let position = |offset| Position { stream: Stream { shard: 0, epoch: 1 }, offset };
        let upto = |to: &'static str, offset| Acked::UpTo { to: to.into(), upto: position(offset) };
        let ids =
            |counts: &[u64]| Acked::Ids(counts.iter().map(|&count| MessageId::new(1, 1, 1, count)).collect());
        let frame = |what, queue: Option<&'static str>| Frame::Ack {
            reference: None,
            what,
            queue: queue.map(Into::into),
        };
        assert_eq!(
            acks.take(),
            [
                frame(upto("topic/a", 9), None),
                frame(upto("topic/b", 3), None),
                frame(ids(&[4]), None),
                frame(ids(&[6, 7]), Some("q")),
            ]
        );
        assert_eq!((acks.count(), acks.take()), (0, Vec::new()));
    }

    #[test]
    fn a_position_does_not_cover_a_repeat_that_nobody_has_taken() {
        let mut acks = Acks::default();
        let repeat = message(5, "topic/a", None);
        acks.hold(&repeat);
        acks.add(&message(4, "topic/a", None), false);
        acks.add(&message(7, "topic/a", None), false);
        acks.add(&message(7, "topic/b", None), false);
        let kinds = |frames: Vec<Frame<'static>>| -> Vec<String> {
            frames
                .iter()
                .map(|frame| match frame {
                    Frame::Ack { what: Acked::UpTo { to, upto }, .. } => format!("{to} {upto}"),
                    other => format!("{other:?}").matches("Ids([MessageId").collect(),
                })
                .collect()
        };
        assert_eq!(kinds(acks.take()), ["topic/a s0e1:4", "topic/b s0e1:7", "Ids([MessageId"]);
        acks.release(&repeat);
        acks.release(&repeat);
        acks.add(&message(8, "topic/a", None), false);
        assert_eq!(kinds(acks.take()), ["topic/a s0e1:8"]);
        for count in 0..2 * MESSAGES_MAX as u64 {
            acks.hold(&message(count, "topic/a", None));
        }
        assert_eq!(acks.held_count, MESSAGES_MAX + 1);
    }

    #[test]
    fn a_full_batch_tells_and_too_many_are_forgotten() {
        let mut acks = Acks::default();
        let told: Vec<_> =
            (0..2_000).filter(|&count| acks.add(&message(count, "topic/a", Some("q")), true)).collect();
        assert_eq!(told, [0, ACK_BATCH as u64 - 1]);
        assert_eq!(acks.take().len(), 2_usize, "a list has at most 1,024 entries");
        for count in 0..ACKS_MAX as u64 + 10 {
            acks.add(&message(count, "topic/a", None), true);
        }
        assert_eq!(acks.count(), ACKS_MAX);
    }
}
