//! One connection's outbound queue: what is written next, what a full queue drops.
//!
//! Segments are encoded bytes, shared between connections or owned by this one. The queue is bounded by the
//! bytes it pins. When a new shareable segment does not fit, the oldest shareable segments are dropped and
//! their frames counted; a segment that is partly written is never dropped, and neither are the connection's
//! own frames (receipts, errors), whose number is bounded by not reading the peer any more
//! ([`Queue::owes_much`]). Not here: sockets.

use std::collections::VecDeque;
use std::ops::Deref;

/// Encoded frames that lie one behind the other.
pub trait Segment: Deref<Target = [u8]> {
    /// Frames in the segment.
    fn frames(&self) -> u32;
}

/// Bytes on their way to one connection.
#[derive(Debug)]
enum Item<S> {
    Shared(S),
    Own(Vec<u8>),
}

impl<S: Segment> Item<S> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(segment) => segment,
            Self::Own(bytes) => bytes,
        }
    }
}

/// The queue. `S` is the worker's kind of shared segment.
#[derive(Debug)]
pub struct Queue<S> {
    items: VecDeque<Item<S>>,
    /// Bytes of the first item that are written already.
    written: usize,
    shared_bytes: usize,
    own_bytes: usize,
}

impl<S> Default for Queue<S> {
    fn default() -> Self {
        Self { items: VecDeque::new(), written: 0, shared_bytes: 0, own_bytes: 0 }
    }
}

/// Own bytes above which the peer is not read until it reads.
const OWN_BYTES_HIGH: usize = 256 * 1024;
/// Own bytes above which the connection is given up: one read can ask for many answers.
const OWN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Own items larger than this are not appended to, so that written memory is freed.
const OWN_ITEM_BYTES: usize = 16 * 1024;
/// Queues shrink to nothing above this capacity when they become empty.
const KEPT_CAPACITY: usize = 64;

impl<S: Segment> Queue<S> {
    /// Appends a shared segment, dropping the oldest ones when `bound_bytes` would be exceeded. Gives the
    /// frames dropped.
    pub fn push_shared(&mut self, segment: S, bound_bytes: usize) -> u32 {
        let mut dropped = 0;
        if self.shared_bytes + segment.len() > bound_bytes {
            dropped = self.drop_oldest((self.shared_bytes + segment.len()).saturating_sub(bound_bytes));
            if self.shared_bytes > 0 && self.shared_bytes + segment.len() > bound_bytes {
                return dropped + segment.frames();
            }
        }
        self.shared_bytes += segment.len();
        self.items.push_back(Item::Shared(segment));
        dropped
    }

    /// Appends whole frames that only this connection gets and that are never dropped.
    pub fn push_own(&mut self, frames: &[u8]) {
        self.own_bytes += frames.len();
        match self.items.back_mut() {
            Some(Item::Own(bytes)) if bytes.len() < OWN_ITEM_BYTES => bytes.extend_from_slice(frames),
            _ => self.items.push_back(Item::Own(frames.to_vec())),
        }
    }

    /// The next pieces to write, at most `max`, in order.
    pub fn pieces(&self, max: usize) -> impl Iterator<Item = &[u8]> {
        let written = self.written;
        self.items
            .iter()
            .take(max)
            .enumerate()
            .map(move |(i, item)| item.bytes().get(if i == 0 { written } else { 0 }..).unwrap_or_default())
    }

    /// Takes `count` written bytes off the front and hands each finished shared segment to the iterator, so that the caller can
    /// count its frames.
    pub fn handle_written(&mut self, count: usize) -> Finished<'_, S> {
        self.written += count;
        Finished { queue: self }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes this queue keeps alive.
    pub const fn pinned_bytes(&self) -> usize {
        self.shared_bytes + self.own_bytes
    }

    /// Whether so many of the connection's own frames wait that its peer should not be read.
    pub const fn owes_much(&self) -> bool {
        self.own_bytes > OWN_BYTES_HIGH
    }

    /// Whether the connection's own frames are beyond any peer that means well.
    pub const fn owes_too_much(&self) -> bool {
        self.own_bytes > OWN_BYTES_MAX
    }

    /// Frames of shared segments that are not completely written.
    pub fn pending_frames(&self) -> u64 {
        let frames = |item: &Item<S>| match item {
            Item::Shared(segment) => u64::from(segment.frames()),
            Item::Own(_) => 0,
        };
        self.items.iter().map(frames).sum()
    }

    fn drop_oldest(&mut self, excess: usize) -> u32 {
        let (mut freed, mut frames) = (0, 0);
        let mut index = usize::from(self.written > 0);
        while freed < excess && index < self.items.len() {
            let Some(Item::Shared(segment)) = self.items.get(index) else {
                index += 1;
                continue;
            };
            freed += segment.len();
            frames += segment.frames();
            self.items.remove(index);
        }
        self.shared_bytes -= freed;
        frames
    }

    fn pop_finished(&mut self) -> Option<Item<S>> {
        let len = self.items.front()?.bytes().len();
        if self.written < len {
            return None;
        }
        self.written -= len;
        let item = self.items.pop_front()?;
        match &item {
            Item::Shared(_) => self.shared_bytes -= len,
            Item::Own(_) => self.own_bytes -= len,
        }
        if self.items.is_empty() && self.items.capacity() > KEPT_CAPACITY {
            self.items = VecDeque::new();
        }
        Some(item)
    }
}

/// The shared segments that a write finished; must be run to its end.
#[derive(Debug)]
pub struct Finished<'a, S> {
    queue: &'a mut Queue<S>,
}

impl<S: Segment> Iterator for Finished<'_, S> {
    type Item = S;

    fn next(&mut self) -> Option<S> {
        loop {
            match self.queue.pop_finished()? {
                Item::Shared(segment) => return Some(segment),
                Item::Own(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::rc::Rc;

    #[derive(Debug, Clone)]
    struct Block(Rc<[u8]>);

    impl Deref for Block {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Segment for Block {
        fn frames(&self) -> u32 {
            1
        }
    }

    fn block(tag: u8, len: usize) -> Block {
        Block(vec![tag; len].into())
    }

    fn drain(queue: &mut Queue<Block>) -> Vec<u8> {
        let mut out = Vec::new();
        while !queue.is_empty() {
            let piece = queue.pieces(1).next().unwrap().to_vec();
            queue.handle_written(piece.len()).for_each(drop);
            out.extend(piece);
        }
        out
    }

    #[test]
    fn oldest_go_first_but_never_a_started_one() {
        let mut queue = Queue::default();
        assert_eq!(queue.push_shared(block(1, 10), 30), 0);
        queue.handle_written(4).for_each(drop);
        assert_eq!(queue.push_shared(block(2, 10), 30), 0);
        assert_eq!(queue.push_shared(block(3, 10), 30), 0);
        assert_eq!(queue.push_shared(block(4, 10), 30), 1, "2 is dropped");
        assert_eq!(queue.pinned_bytes(), 30);
        let rest = drain(&mut queue);
        assert_eq!(rest, [vec![1; 6], vec![3; 10], vec![4; 10]].concat());
    }

    #[test]
    fn a_segment_that_cannot_fit_is_dropped_itself() {
        let mut queue = Queue::default();
        queue.push_shared(block(1, 10), 30);
        queue.handle_written(1).for_each(drop);
        assert_eq!(queue.push_shared(block(2, 25), 30), 1);
        assert_eq!(drain(&mut queue), vec![1; 9]);
    }

    #[test]
    fn one_oversized_segment_passes_an_empty_queue() {
        let mut queue = Queue::default();
        assert_eq!(queue.push_shared(block(1, 50), 30), 0);
        assert_eq!(drain(&mut queue).len(), 50);
    }

    proptest! {
        #[test]
        fn accounts_balance_and_order_holds(steps in prop::collection::vec((0u8..4, 1usize..40), 1..200)) {
            let (mut queue, mut pushed, mut dropped, mut finished) = (Queue::default(), 0u32, 0u32, 0u32);
            for (i, (kind, size)) in steps.into_iter().enumerate() {
                match kind {
                    0 | 1 => {
                        dropped += queue.push_shared(block(u8::try_from(i).unwrap(), size), 100);
                        pushed += 1;
                    }
                    2 => {
                        queue.push_own(&vec![0; size]);
                    }
                    _ => {
                        let waiting: usize = queue.pieces(usize::MAX).map(<[u8]>::len).sum();
                        finished += u32::try_from(queue.handle_written(size.min(waiting)).count()).unwrap();
                    }
                }
                let waiting: usize = queue.pieces(usize::MAX).map(<[u8]>::len).sum();
                prop_assert_eq!(waiting + queue.written, queue.pinned_bytes());
                prop_assert!(queue.shared_bytes <= 100);
                prop_assert_eq!(u64::from(pushed - dropped - finished), queue.pending_frames());
            }
            let waiting: usize = queue.pieces(usize::MAX).map(<[u8]>::len).sum();
            finished += u32::try_from(queue.handle_written(waiting).count()).unwrap();
            prop_assert!(queue.is_empty());
            prop_assert_eq!(queue.pinned_bytes(), 0);
            prop_assert_eq!(pushed, dropped + finished);
        }
    }
}
