//! What a tracker asks its worker to do, and the publishers' own numbers for messages.

use super::{Cause, Recipient};
use crate::id::SessionId;
use crate::message::Batch;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// Something to be done. `range` are indexes of messages in `batch`, never empty.
#[derive(Debug, Clone)]
pub enum Event {
    /// The publisher is told that the level is reached: as many recipients acknowledged as the plan asks for.
    /// The messages' refs are `reference` and the numbers behind it.
    Reached { publisher: SessionId, reference: u64, batch: Arc<Batch>, range: Range<u16>, recipients: u32 },
    /// The publisher is told that so many recipients failed that the level cannot be reached; `cause` and
    /// `attempts` are of the one that settled it. Refs as above.
    NotDelivered {
        publisher: SessionId,
        reference: u64,
        batch: Arc<Batch>,
        range: Range<u16>,
        cause: Cause,
        attempts: u16,
    },
    /// The messages are to be delivered again. What becomes of it must be reported, at least that there is no
    /// session or no room.
    Redeliver {
        batch: Arc<Batch>,
        range: Range<u16>,
        recipient: Recipient,
        attempt: u16,
        /// The member of a queue that failed last.
        avoid: Option<SessionId>,
    },
    /// The broker leaves service: the store is to have the messages for the recipient, if it has not.
    Store { batch: Arc<Batch>, range: Range<u16>, recipient: Recipient },
    /// The plan is exhausted or the broker leaves service, and the messages are to be kept as dead letters of this recipient.
    DeadLetter {
        batch: Arc<Batch>,
        range: Range<u16>,
        recipient: Recipient,
        cause: Cause,
        attempts: u16,
        /// What the recipient said about the last attempt.
        reason: Option<Arc<str>>,
    },
    /// The plan is exhausted or the messages' time to live is over, and they are not kept: to be counted.
    Dropped { batch: Arc<Batch>, range: Range<u16>, recipient: Recipient, cause: Cause, attempts: u16 },
}

/// The publisher's refs of a batch's messages: ascending ones are kept as one.
#[derive(Debug, Clone, Default)]
pub struct References {
    runs: SmallVec<[Run; 1]>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    reference: u64,
    index: u16,
    messages: u16,
}

impl References {
    /// Adds the ref of message `index`. Indexes must ascend; others are passed over.
    pub fn push(&mut self, reference: u64, index: u16) {
        if let Some(last) = self.runs.last_mut() {
            let behind = last.index + last.messages;
            if index < behind {
                return;
            }
            if index == behind && last.reference.checked_add(u64::from(last.messages)) == Some(reference) {
                last.messages += 1;
                return;
            }
        }
        self.runs.push(Run { reference, index, messages: 1 });
    }

    /// The messages of `range` that have refs: the first ref and the indexes.
    pub(super) fn within(&self, range: Range<u16>) -> impl Iterator<Item = (u64, Range<u16>)> {
        let first = self.runs.partition_point(|run| run.index + run.messages <= range.start);
        let runs = self.runs.iter().skip(first).take_while(move |run| run.index < range.end);
        runs.map(move |run| {
            let start = run.index.max(range.start);
            let end = (run.index + run.messages).min(range.end);
            (run.reference + u64::from(start - run.index), start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascending_refs_are_one_run() {
        let mut references = References::default();
        for (reference, index) in
            [(10, 0), (11, 1), (12, 2), (99, 1), (14, 3), (20, 5), (u64::MAX, 6), (0, 7)]
        {
            references.push(reference, index);
        }
        assert_eq!(references.runs.len(), 5);
        let within = |range| references.within(range).collect::<Vec<_>>();
        assert_eq!(within(1..6), [(11, 1..3), (14, 3..4), (20, 5..6)]);
        assert_eq!(within(4..5), []);
        assert_eq!(within(6..9), [(u64::MAX, 6..7), (0, 7..8)]);
    }
}
