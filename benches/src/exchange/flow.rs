//! The state of one publisher and its receiver: slots, when what is in them was sent, and counts.

use crate::talk::Publishes;

/// One publisher, and its receiver if there is one.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) publishes: Vec<Publishes>,
    /// Messages published with each of `publishes`.
    pub(super) counts: Vec<u64>,
    /// Which of `publishes` is next.
    pub(super) turn: usize,
    /// Slots that no publish has.
    free: Vec<u16>,
    /// When the publish in each slot was sent; 0 when there is none.
    sent_ns: Vec<u64>,
    /// Which of `publishes` each slot was used for last.
    turns: Vec<usize>,
    pub(super) sent: u64,
    pub(super) receipts: u64,
    pub(super) received: u64,
}

impl Flow {
    pub(super) fn new(publishes: Vec<Publishes>, window: u16) -> Self {
        Self {
            counts: vec![0; publishes.len()],
            publishes,
            turn: 0,
            free: (0..window).rev().collect(),
            sent_ns: vec![0; usize::from(window)],
            turns: vec![0; usize::from(window)],
            sent: 0,
            receipts: 0,
            received: 0,
        }
    }

    /// Takes slots for `count` publishes into `slots`. Without receipts, slots go round: arrivals are in order.
    pub(super) fn take_slots(&mut self, count: u64, now_ns: u64, has_receipts: bool, slots: &mut Vec<u16>) {
        slots.clear();
        let window = self.sent_ns.len() as u64;
        for _ in 0..count {
            let slot = if has_receipts {
                let Some(slot) = self.free.pop() else { break };
                slot
            } else {
                u16::try_from(self.sent % window).unwrap_or(0)
            };
            self.sent_ns[usize::from(slot)] = now_ns;
            self.sent += 1;
            slots.push(slot);
        }
    }

    /// The frames of the next publish or publishes of `slots`, to one address, and how many of them these are.
    pub(super) fn next_frames(&mut self, slots: &[u16]) -> (&[u8], usize) {
        let turn = self.turn;
        self.turn = (turn + 1) % self.publishes.len();
        let publishes = &mut self.publishes[turn];
        let now = &slots[..slots.len().min(publishes.copies())];
        now.iter().for_each(|&slot| self.turns[usize::from(slot)] = turn);
        self.counts[turn] += now.len() as u64;
        (publishes.frames(now), now.len())
    }

    /// The frame of a publish that is sent once more; empty when there is none in `slot`.
    pub(super) fn frame_again(&mut self, slot: u64) -> &[u8] {
        let at = usize::try_from(slot).ok().filter(|&at| self.sent_ns.get(at).is_some_and(|ns| *ns != 0));
        let slots = at.and_then(|at| Some((self.turns[at], u16::try_from(at).ok()?)));
        slots.map_or(&[], |(turn, slot)| self.publishes[turn].frames(&[slot]))
    }

    /// When the publish in `slot` was sent, `None` if there is none in it.
    pub(super) fn note_receipt(&mut self, slot: u64) -> Option<u64> {
        let at = usize::try_from(slot).ok()?;
        let sent_ns = self.sent_ns.get_mut(at).filter(|sent_ns| **sent_ns != 0).map(std::mem::take)?;
        self.free.push(u16::try_from(slot).ok()?);
        self.receipts += 1;
        Some(sent_ns)
    }

    /// When the message was sent, if its arrival is what its latency ends with.
    pub(super) fn note_message(&mut self, has_receipts: bool) -> Option<u64> {
        let number = self.received;
        self.received += 1;
        if has_receipts || number >= self.sent {
            return None;
        }
        let at = usize::try_from(number % self.sent_ns.len() as u64).ok()?;
        self.sent_ns.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::{Dialect, Level};

    #[test]
    fn a_publish_is_repeated_to_its_own_address() {
        let dialect = Dialect::Waspmq { level: Level::Stored, batch: false };
        let publishes = ["user/a", "user/b"].map(|address| dialect.publishes(0, address, 3));
        let mut flow = Flow::new(publishes.into(), 200);
        let mut slots = Vec::new();
        flow.take_slots(150, 7, true, &mut slots);
        let mut sent = Vec::new();
        while !slots.is_empty() {
            let (frames, count) = flow.next_frames(&slots);
            let frames: Vec<_> = frames.chunks_exact(frames.len() / count).map(<[u8]>::to_vec).collect();
            sent.extend(slots.drain(..count).zip(frames));
        }
        assert_eq!(flow.counts.iter().sum::<u64>(), 150);
        assert!(flow.counts.iter().all(|&count| count > 0), "{:?}", flow.counts);
        for (slot, frame) in sent {
            assert_eq!(flow.frame_again(slot.into()), frame, "{slot}");
        }
        flow.note_receipt(149).unwrap();
        assert_eq!(flow.frame_again(149), [] as [u8; 0], "it is acknowledged");
        assert_eq!(flow.frame_again(999), [] as [u8; 0], "there is no such slot");
        assert_eq!(flow.counts.iter().sum::<u64>(), 150, "a repeat is no other message");
    }

    #[test]
    fn slots_are_used_once_at_a_time() {
        let mut flow = Flow::new(Vec::new(), 4);
        let mut slots = Vec::new();
        flow.take_slots(4, 7, true, &mut slots);
        assert_eq!(slots, [0, 1, 2, 3]);
        assert_eq!(flow.note_receipt(2), Some(7));
        assert_eq!(flow.note_receipt(2), None, "a second receipt for the same publish");
        assert_eq!(flow.note_receipt(9), None, "a slot that there is not");
        flow.take_slots(1, 9, true, &mut slots);
        assert_eq!(slots, [2]);
        assert_eq!((flow.sent, flow.receipts), (5, 1));
    }
}
