//! Devices: what they were sent, and how they answer.

use crate::world::{ADDRESSES, QUEUE, Random, USERS};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use waspmq_core::message::Batch;
use waspmq_core::{MessageId, Name, Pattern, Position, QueueId};

/// Messages on their way to a device.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) batch: Arc<Batch>,
    pub(crate) range: Range<u16>,
    pub(crate) queue: bool,
    /// Sent in the order of the address, not as a repeat.
    pub(crate) is_first: bool,
}

impl Frame {
    pub(crate) fn ids(&self) -> impl Iterator<Item = MessageId> {
        let range = usize::from(self.range.start)..usize::from(self.range.end);
        self.batch.messages[range].iter().map(|envelope| envelope.id)
    }
}

/// What a device says.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Upto(usize, Position),
    /// The same, said by the connection after the one by which the message came.
    LateUpto(usize, Position),
    Ids(Vec<MessageId>, bool),
    Nack(MessageId, bool, Option<u32>),
}

/// How a device behaves, in parts of a thousand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    pub(crate) by_ids: bool,
    pub(crate) silent: u64,
    pub(crate) nacks: u64,
    pub(crate) repeats: u64,
    /// Frames that do not arrive; only those who ack by id can afford it.
    pub(crate) loses: u64,
    pub(crate) delay_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) user: usize,
    pub(crate) name: Name,
    pub(crate) habits: Habits,
    /// A device remembers ids, so that a repeat is passed over.
    pub(crate) processed: BTreeSet<MessageId>,
    /// What it made of them, in that order.
    pub(crate) applied: Vec<MessageId>,
}

impl Device {
    pub(crate) fn is_member(index: usize) -> bool {
        index != 1 && index != 4
    }

    /// The plain addresses a device listens to.
    pub(crate) fn addresses(&self) -> [usize; 2] {
        [self.user, USERS]
    }

    /// Takes a frame in; the answers it has.
    pub(crate) fn receive(
        &mut self,
        frame: &Frame,
        last: &mut BTreeMap<usize, Position>,
        random: &mut Random,
    ) -> Vec<Answer> {
        let address = ADDRESSES.iter().position(|address| *address == frame.batch.to.as_str()).unwrap();
        if frame.is_first {
            let position = frame.batch.position(usize::from(frame.range.start));
            assert!(last.get(&address).is_none_or(|last| *last < position), "first deliveries are in order");
        }
        if self.habits.by_ids && random.permille(self.habits.loses) {
            return Vec::new();
        }
        let end = frame.batch.position(usize::from(frame.range.end) - 1);
        if frame.is_first {
            last.insert(address, end);
        }
        let fresh: Vec<_> = frame.ids().filter(|id| self.processed.insert(*id)).collect();
        self.applied.extend(fresh);
        if random.permille(self.habits.silent) {
            return Vec::new();
        }
        let mut answers = Vec::new();
        let mut ids: Vec<_> = frame.ids().collect();
        if random.permille(self.habits.nacks) {
            let refused = ids.remove(random.below(ids.len() as u64) as usize);
            let retry_ms = random.permille(300).then(|| random.below(200) as u32);
            answers.push(Answer::Nack(refused, frame.queue, retry_ms));
        }
        if self.habits.by_ids || frame.queue {
            if random.permille(300) {
                ids.reverse();
            }
            answers.push(Answer::Ids(ids, frame.queue));
        } else {
            answers.push(Answer::Upto(address, end));
        }
        if random.permille(self.habits.repeats) {
            answers.extend(answers.clone());
        }
        answers
    }
}

pub(crate) fn devices(random: &mut Random) -> Vec<Device> {
    let device = |(index, user): (usize, usize)| Device {
        user,
        name: Name::parse(&format!("d{index}")).unwrap(),
        habits: Habits {
            by_ids: random.permille(500),
            silent: [0, 50, 400][random.below(3) as usize],
            nacks: [0, 30, 150][random.below(3) as usize],
            repeats: 50,
            loses: [0, 100][random.below(2) as usize],
            delay_ms: [5, 50, 400][random.below(3) as usize],
        },
        processed: BTreeSet::new(),
        applied: Vec::new(),
    };
    [0, 0, 1, 2, 2].into_iter().enumerate().map(device).collect()
}

pub(crate) fn queue_name() -> QueueId {
    QueueId::new(Pattern::parse("topic/jobs").unwrap(), Name::parse(QUEUE).unwrap())
}
