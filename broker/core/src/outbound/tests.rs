//! Every action against the accounts, and the orders that must hold.

use super::*;
use crate::id::Stream;
use crate::limits::{OVERFLOW_REPORTS_MAX, SPILLED_ADDRESSES_MAX};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;

#[derive(Debug, Clone)]
struct Block {
    bytes: Rc<[u8]>,
    class: Class,
    frames: u32,
}

impl Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Segment for Block {
    fn frames(&self) -> u32 {
        self.frames
    }

    fn class(&self) -> &Class {
        &self.class
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn position(shard: u16, offset: u64) -> Position {
    Position { stream: Stream { shard, epoch: 1 }, offset }
}

fn block_of(to: &str, shard: u16, offset: u64, len: usize) -> Block {
    let class = Class {
        to: address(to),
        overflow: Overflow::DropOldest,
        priority: 0,
        first: position(shard, offset),
        last_offset: offset,
        key: None,
        expires_unix_ms: 0,
        is_stored: false,
        of_queue: false,
    };
    Block { bytes: vec![u8::try_from(offset % 251).unwrap(); len].into(), class, frames: 1 }
}

fn block(tag: u8, len: usize) -> Block {
    block_of("topic/t", 0, tag.into(), len)
}

impl Block {
    fn overflow(mut self, overflow: Overflow) -> Self {
        self.class.overflow = overflow;
        self.class.is_stored = overflow == Overflow::Spill;
        self
    }

    fn priority(mut self, priority: u8) -> Self {
        self.class.priority = priority;
        self
    }

    fn key(mut self, key: &str) -> Self {
        self.class.key = Some(key.as_bytes().into());
        self.overflow(Overflow::Conflate)
    }
}

/// Pushes and gives the offsets of what was lost, with the action.
fn push(queue: &mut Queue<Block>, block: Block, bound: usize) -> Vec<(u64, Overflow)> {
    let mut lost = Vec::new();
    queue.push_shared(block, bound, &mut lost);
    lost.iter().map(|lost| (lost.segment.class.first.offset, lost.action)).collect()
}

/// Offsets in the order in which they are written.
fn drain(queue: &mut Queue<Block>) -> Vec<u64> {
    let mut offsets = Vec::new();
    while !queue.is_empty() {
        let len = queue.pieces(1).next().unwrap().len();
        offsets.extend(queue.handle_written(len).map(|block| block.class.first.offset));
    }
    offsets
}

fn reports(queue: &mut Queue<Block>) -> Vec<(String, Overflow, u64)> {
    let mut reports: Vec<_> = std::iter::from_fn(|| queue.poll_report())
        .map(|report| {
            (report.to.map_or_else(|| "*".to_owned(), |to| to.to_string()), report.action, report.dropped)
        })
        .collect();
    reports.sort_unstable_by(|a, b| (&a.0, a.1.as_str()).cmp(&(&b.0, b.1.as_str())));
    reports
}

#[test]
fn oldest_go_first_but_never_a_started_one() {
    let mut queue = Queue::default();
    assert_eq!(push(&mut queue, block(1, 10), 30), []);
    queue.handle_written(4).for_each(drop);
    assert_eq!(push(&mut queue, block(2, 10), 30), []);
    assert_eq!(push(&mut queue, block(3, 10), 30), []);
    assert_eq!(push(&mut queue, block(4, 10), 30), [(2, Overflow::DropOldest)]);
    assert_eq!(queue.pinned_bytes(), 30);
    assert_eq!(drain(&mut queue), [1, 3, 4]);
    assert_eq!(reports(&mut queue), [("topic/t".to_owned(), Overflow::DropOldest, 1)]);
    assert!(!queue.has_reports());
}

#[test]
fn a_segment_that_cannot_fit_is_dropped_itself() {
    let mut queue = Queue::default();
    push(&mut queue, block(1, 10), 30);
    queue.handle_written(1).for_each(drop);
    assert_eq!(push(&mut queue, block(2, 25), 30), [(2, Overflow::DropNewest)]);
    assert_eq!(drain(&mut queue), [1]);
}

#[test]
fn one_oversized_segment_passes_an_empty_queue_and_one_that_can_be_emptied() {
    for overflow in Overflow::ALL {
        let mut queue = Queue::default();
        assert_eq!(push(&mut queue, block(1, 50).overflow(overflow), 30), [], "{overflow:?}");
        assert_eq!(drain(&mut queue), [1]);
    }
    let mut queue = Queue::default();
    push(&mut queue, block(1, 10), 30);
    assert_eq!(push(&mut queue, block(2, 50), 30), [(1, Overflow::DropOldest)]);
    assert_eq!(drain(&mut queue), [2]);
}

#[test]
fn the_newest_is_dropped_or_closes_where_its_address_says_so() {
    for action in [Overflow::DropNewest, Overflow::Close] {
        let mut queue = Queue::default();
        push(&mut queue, block(1, 20), 30);
        assert_eq!(push(&mut queue, block(2, 20).overflow(action), 30), [(2, action)]);
        assert_eq!(push(&mut queue, block(3, 10).overflow(action), 30), [], "what fits is queued");
        assert_eq!(drain(&mut queue), [1, 3]);
        assert_eq!(reports(&mut queue), [("topic/t".to_owned(), action, 1)]);
    }
}

#[test]
fn addresses_that_keep_what_waits_make_no_room_for_others() {
    for action in [Overflow::DropNewest, Overflow::Spill, Overflow::Close] {
        let mut queue = Queue::default();
        push(&mut queue, block_of("topic/kept", 1, 1, 20).overflow(action), 30);
        push(&mut queue, block(2, 10), 30);
        assert_eq!(push(&mut queue, block(3, 10), 30), [(2, Overflow::DropOldest)]);
        assert_eq!(push(&mut queue, block(4, 11), 30), [(4, Overflow::DropNewest)]);
        assert_eq!(drain(&mut queue), [1, 3]);
    }
}

#[test]
fn the_least_priority_goes_first_and_of_it_the_oldest() {
    let mut queue = Queue::default();
    for (offset, priority) in [(1, 5), (2, 0), (3, 5), (4, 0), (5, 9)] {
        push(&mut queue, block(offset, 10).priority(priority), 50);
    }
    assert_eq!(push(&mut queue, block(6, 10).priority(5), 50), [(2, Overflow::DropOldest)]);
    assert_eq!(push(&mut queue, block(7, 10).priority(5), 50), [(4, Overflow::DropOldest)]);
    assert_eq!(push(&mut queue, block(8, 10).priority(5), 50), [(1, Overflow::DropOldest)]);
    assert_eq!(push(&mut queue, block(9, 10), 50), [(9, Overflow::DropNewest)], "it has the least itself");
    assert_eq!(drain(&mut queue), [3, 5, 6, 7, 8]);
}

#[test]
fn a_sweep_frees_more_than_one_place_when_priorities_are_mixed() {
    let mut queue = Queue::default();
    push(&mut queue, block(1, 10).priority(1), 800);
    (2..81).for_each(|offset| _ = push(&mut queue, block(offset, 10), 800));
    let lost = push(&mut queue, block(81, 10), 800);
    assert_eq!(lost.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (2..12).collect::<Vec<_>>());
    assert_eq!(push(&mut queue, block(82, 10), 800), []);
}

#[test]
fn conflation_keeps_the_newest_of_each_key_until_it_has_caught_up() {
    let mut queue = Queue::default();
    for (offset, key) in [(1, "a"), (2, "b"), (3, "a"), (4, "c"), (5, "a")] {
        assert_eq!(push(&mut queue, block(offset, 10).key(key), 50), [], "room for all");
    }
    let conflated = |offset| (offset, Overflow::Conflate);
    assert_eq!(push(&mut queue, block(6, 10).key("b"), 50), [conflated(1), conflated(3), conflated(2)]);
    assert_eq!(push(&mut queue, block(7, 10).key("a"), 50), [conflated(5)], "it is behind");
    assert_eq!(push(&mut queue, block(8, 10).key("d"), 50), []);
    assert_eq!(push(&mut queue, block(9, 10).key("e"), 50), []);
    assert_eq!(push(&mut queue, block(10, 10).key("f"), 50), [(4, Overflow::DropOldest)], "all keys differ");
    let elsewhere = block_of("topic/other", 1, 11, 10).key("f");
    assert_eq!(push(&mut queue, elsewhere, 50), [(6, Overflow::DropOldest)], "another address");
    let counts = reports(&mut queue).into_iter().map(|(_, action, dropped)| (action, dropped));
    assert_eq!(counts.collect::<Vec<_>>(), [(Overflow::Conflate, 4), (Overflow::DropOldest, 2)]);
    assert_eq!(drain(&mut queue), [7, 8, 9, 10, 11]);
    push(&mut queue, block(12, 10).key("a"), 50);
    assert_eq!(push(&mut queue, block(13, 10).key("a"), 50), [], "it has caught up");
}

#[test]
fn a_segment_without_a_message_takes_no_room() {
    for action in Overflow::ALL {
        let mut queue = Queue::default();
        let bare = Block { frames: 0, ..block(1, 100).overflow(Overflow::DropNewest).priority(9) };
        queue.push_bare(bare);
        assert_eq!((queue.shared_bytes(), queue.pinned_bytes()), (0, 100));
        let first = block(2, 10).overflow(action);
        assert!(queue.has_room_for(&first, 20));
        assert_eq!(push(&mut queue, first, 20), [], "{action:?}");
        assert_eq!(push(&mut queue, block(3, 10).priority(9), 20), [], "{action:?}");
        assert!(!queue.has_room_for(&block(4, 10), 20));
        push(&mut queue, block(4, 10).overflow(action), 20);
        assert_eq!(queue.pinned_bytes(), 100 + queue.shared_bytes());
        assert_eq!(drain(&mut queue)[0], 1, "nothing passes it");
        assert_eq!((queue.shared_bytes(), queue.pinned_bytes()), (0, 0));
    }
}

#[test]
fn messages_without_a_key_are_not_conflated() {
    let mut queue = Queue::default();
    for offset in 1..=3 {
        push(&mut queue, block(offset, 10).overflow(Overflow::Conflate), 30);
    }
    let lost = push(&mut queue, block(4, 10).overflow(Overflow::Conflate), 30);
    assert_eq!(lost, [(1, Overflow::DropOldest)]);
}

#[test]
fn a_started_segment_is_not_conflated() {
    let mut queue = Queue::default();
    push(&mut queue, block(1, 10).key("a"), 20);
    queue.handle_written(1).for_each(drop);
    push(&mut queue, block(2, 10).key("a"), 20);
    assert_eq!(push(&mut queue, block(3, 10).key("a"), 20), [(2, Overflow::Conflate)]);
    assert_eq!(drain(&mut queue), [1, 3]);
}

#[test]
fn what_conflation_leaves_behind_is_bounded() {
    let mut queue = Queue::default();
    push(&mut queue, block(1, 10).overflow(Overflow::Close), 40);
    queue.handle_written(1).for_each(drop);
    for offset in 0..10_000 {
        push(&mut queue, block_of("topic/t", 0, offset, 10).key(&(offset % 3).to_string()), 40);
        let len = queue.items.len();
        assert!(queue.gone <= len / 2 + 1);
        assert!(queue.rare.as_ref().unwrap().latest.as_ref().is_none_or(|latest| !latest.is_stale(len)));
    }
    assert_eq!(queue.pending_frames(), 4);
    assert_eq!(drain(&mut queue), [1, 9_997, 9_998, 9_999]);
}

#[test]
fn a_spilled_address_is_left_to_the_store_until_it_has_been_read_from_there() {
    let to = address("topic/t");
    let spill = |offset| block(offset, 10).overflow(Overflow::Spill);
    let mut queue = Queue::default();
    push(&mut queue, spill(1), 20);
    push(&mut queue, spill(2), 20);
    assert_eq!(push(&mut queue, spill(3), 20), [(3, Overflow::Spill)]);
    assert_eq!(drain(&mut queue), [1, 2]);
    assert_eq!(push(&mut queue, spill(4), 20), [(4, Overflow::Spill)], "4 must not pass 3");
    assert_eq!(push(&mut queue, block(5, 10), 20), [(5, Overflow::DropNewest)], "nor what is not stored");
    assert_eq!(push(&mut queue, block_of("topic/other", 0, 6, 10), 20), [], "others pass");
    let expected = Spilled { to: to.clone(), first: position(0, 3), last: position(0, 4) };
    assert_eq!(queue.spilled(), [expected]);
    queue.push_replayed(spill(3), 20).unwrap();
    assert!(!queue.handle_replayed(&to, position(0, 3)));
    assert_eq!(push(&mut queue, spill(7), 20), [(7, Overflow::Spill)]);
    assert!(queue.push_replayed(spill(4), 20).is_err(), "no room at the moment");
    assert_eq!(drain(&mut queue), [6, 3]);
    queue.push_replayed(spill(4), 20).unwrap();
    queue.push_replayed(spill(7), 20).unwrap();
    assert_eq!(queue.spilled()[0].first, position(0, 4));
    assert!(queue.handle_replayed(&to, position(0, 7)));
    assert_eq!(queue.spilled(), []);
    assert_eq!(drain(&mut queue), [4, 7]);
    assert_eq!(push(&mut queue, spill(8), 20), []);
    let told = [("topic/t".to_owned(), Overflow::DropNewest, 1), ("topic/t".to_owned(), Overflow::Spill, 3)];
    assert_eq!(reports(&mut queue), told);
}

#[test]
fn queue_deliveries_are_dropped_where_others_are_spilled() {
    let of_queue = |offset| {
        let mut block = block(offset, 10).overflow(Overflow::Spill);
        block.class.of_queue = true;
        block
    };
    let mut queue = Queue::default();
    push(&mut queue, of_queue(1), 10);
    assert_eq!(push(&mut queue, of_queue(2), 10), [(2, Overflow::DropNewest)]);
    assert_eq!(push(&mut queue, block(3, 10).overflow(Overflow::Spill), 10), [(3, Overflow::Spill)]);
    assert_eq!(drain(&mut queue), [1]);
    assert_eq!(push(&mut queue, of_queue(4), 10), [], "it has no place in the history");
}

#[test]
fn too_many_spilled_addresses_close() {
    let mut queue = Queue::default();
    push(&mut queue, block(1, 10), 10);
    for i in 0..=SPILLED_ADDRESSES_MAX {
        let spill = block_of(&format!("topic/{i}"), 0, 2, 10).overflow(Overflow::Spill);
        let expected = if i < SPILLED_ADDRESSES_MAX { Overflow::Spill } else { Overflow::Close };
        assert_eq!(push(&mut queue, spill, 10), [(2, expected)], "{i}");
    }
}

#[test]
fn losses_of_many_addresses_are_told_together() {
    let mut queue = Queue::default();
    push(&mut queue, block(1, 10), 10);
    for i in 0..OVERFLOW_REPORTS_MAX + 5 {
        for _ in 0..2 {
            push(&mut queue, block_of(&format!("topic/{i}"), 0, 2, 10).overflow(Overflow::DropNewest), 10);
        }
    }
    let told = reports(&mut queue);
    assert_eq!(told.len(), OVERFLOW_REPORTS_MAX + 1);
    assert_eq!(told[0], ("*".to_owned(), Overflow::DropNewest, 10));
    assert!(told[1..].iter().all(|(_, _, dropped)| *dropped == 2));
}

#[test]
fn reports_wait_while_the_client_reads_nothing_and_stand_before_the_rest() {
    let mut queue = Queue::default();
    queue.push_own(&[0; REPORT_BELOW_BYTES + 1]);
    push(&mut queue, block(1, 10), 10);
    push(&mut queue, block(2, 10), 10);
    assert_eq!(queue.poll_report(), None);
    assert!(queue.has_reports());
    queue.handle_written(REPORT_BELOW_BYTES + 1).for_each(drop);
    queue.handle_written(3).for_each(drop);
    assert!(queue.poll_report().is_some());
    queue.push_own_first(b"told");
    let rest: Vec<u8> = queue.pieces(9).flatten().copied().collect();
    assert_eq!(rest, [&[2; 7], b"told".as_slice()].concat());
}

#[test]
fn priority_goes_ahead_of_other_streams_only() {
    let mut queue = Queue::default();
    push(&mut queue, block_of("topic/a", 1, 1, 10), 1_000);
    queue.handle_written(1).for_each(drop);
    push(&mut queue, block_of("topic/a", 1, 2, 10), 1_000);
    push(&mut queue, block_of("topic/b", 2, 3, 10), 1_000);
    push(&mut queue, block_of("topic/c", 3, 4, 10).priority(5), 1_000);
    push(&mut queue, block_of("topic/b", 2, 5, 10).priority(9), 1_000);
    push(&mut queue, block_of("topic/d", 4, 6, 10).priority(5), 1_000);
    assert_eq!(drain(&mut queue), [1, 4, 2, 3, 5, 6], "4 passes both, 5 not its stream, 6 not a higher one");
}

#[test]
fn priority_does_not_pass_the_connections_own_frames() {
    let mut queue = Queue::default();
    queue.push_own(b"ok");
    push(&mut queue, block_of("topic/a", 1, 1, 10), 1_000);
    push(&mut queue, block_of("topic/b", 2, 2, 3).priority(9), 1_000);
    let lens: Vec<usize> = queue.pieces(9).map(<[u8]>::len).collect();
    assert_eq!(lens, [2, 3, 10]);
}

#[test]
fn the_walk_of_a_priority_is_bounded() {
    let mut queue = Queue::default();
    (1..=100).for_each(|offset| _ = push(&mut queue, block_of("topic/a", 1, offset, 1), 1_000));
    push(&mut queue, block_of("topic/b", 2, 200, 1).priority(1), 1_000);
    assert_eq!(drain(&mut queue).iter().position(|&offset| offset == 200), Some(100 - PRIORITY_WALK));
}

#[test]
fn what_moves_up_when_much_has_expired_is_looked_at_too() {
    let mut queue = Queue::default();
    for tag in 0..4 * u64::try_from(EXPIRY_WALK).unwrap() {
        let mut block = block_of("topic/t", 0, tag, 10);
        block.class.expires_unix_ms = 20 + tag % 2;
        push(&mut queue, block, usize::MAX);
    }
    let mut expired = Vec::new();
    queue.handle_time(20, &mut expired);
    assert_eq!(expired.len(), EXPIRY_WALK, "as many are left in front of those that were not looked at");
    queue.handle_time(21, &mut expired);
    assert_eq!((queue.len(), expired.len()), (0, 4 * EXPIRY_WALK));
}

#[test]
fn what_expires_while_it_waits_is_dropped() {
    let mut queue = Queue::default();
    for (offset, expires_unix_ms) in [(1, 10), (2, 10), (3, 0), (4, 30), (5, 20)] {
        let mut block = block(offset, 10);
        block.class.expires_unix_ms = expires_unix_ms;
        push(&mut queue, block, 1_000);
    }
    queue.handle_written(1).for_each(drop);
    let mut expired = Vec::new();
    queue.handle_time(9, &mut expired);
    assert!(expired.is_empty());
    queue.handle_time(20, &mut expired);
    assert_eq!(expired.iter().map(|block| block.class.first.offset).collect::<Vec<_>>(), [2, 5]);
    assert!(queue.has_expiring() && !queue.has_reports());
    assert_eq!(drain(&mut queue), [1, 3, 4]);
    assert!(!queue.has_expiring());
}

/// One step against a queue.
#[derive(Debug, Clone)]
enum Step {
    Push { to: usize, key: u8, priority: u8, len: usize, expires: bool },
    Own(usize),
    OwnFirst(usize),
    Write(usize),
    Time,
    Replay,
}

/// Address, shard and action; the first two share a shard.
const ADDRESSES: [(&str, u16, Overflow); 6] = [
    ("topic/a", 1, Overflow::DropOldest),
    ("topic/b", 1, Overflow::Conflate),
    ("topic/c", 2, Overflow::Conflate),
    ("topic/d", 3, Overflow::DropNewest),
    ("topic/e", 4, Overflow::Spill),
    ("topic/f", 5, Overflow::Close),
];

fn steps(addresses: std::ops::Range<usize>, priorities: u8) -> impl Strategy<Value = Vec<Step>> {
    let push = (addresses, 0u8..4, 0..priorities, 1usize..40, prop::bool::weighted(0.1))
        .prop_map(|(to, key, priority, len, expires)| Step::Push { to, key, priority, len, expires });
    let step = prop_oneof![
        8 => push,
        1 => (1usize..40).prop_map(Step::Own),
        1 => (1usize..40).prop_map(Step::OwnFirst),
        3 => (1usize..60).prop_map(Step::Write),
        1 => Just(Step::Time),
        1 => Just(Step::Replay),
    ];
    prop::collection::vec(step, 1..300)
}

/// Runs steps and looks at the accounts after each.
#[derive(Debug, Default)]
struct Run {
    queue: Queue<Block>,
    pushed: Vec<Block>,
    lost: Vec<Lost<Block>>,
    expired: Vec<Block>,
    finished: Vec<Block>,
    replayed: BTreeMap<u64, Block>,
}

const BOUND: usize = 200;

impl Run {
    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let queue = &mut self.queue;
        let begun = (queue.written > 0).then(|| queue.pieces(1).next().unwrap().to_vec());
        let is_write = matches!(step, Step::Write(_));
        match step {
            Step::Push { to, key, priority, len, expires } => {
                let (to, shard, overflow) = ADDRESSES[to];
                let mut block = block_of(to, shard, self.pushed.len() as u64, len);
                block = block.priority(priority).overflow(overflow);
                block.class.key = (key > 0).then(|| vec![key].into());
                block.class.expires_unix_ms = expires.into();
                self.pushed.push(block.clone());
                queue.push_shared(block, BOUND, &mut self.lost);
            }
            Step::Own(len) => queue.push_own(&vec![0; len]),
            Step::OwnFirst(len) => queue.push_own_first(&vec![0; len]),
            Step::Write(len) => {
                let waiting: usize = queue.pieces(usize::MAX).map(<[u8]>::len).sum();
                self.finished.extend(queue.handle_written(len.min(waiting)));
            }
            Step::Time => queue.handle_time(1, &mut self.expired),
            Step::Replay => self.replay(),
        }
        let queue = &self.queue;
        if let Some(begun) = begun.filter(|_| !is_write) {
            let front = queue.pieces(1).next().unwrap();
            prop_assert!(front.starts_with(&begun), "what is begun stays in front");
        }
        self.check()
    }

    /// Reads one spilled message from the store.
    fn replay(&mut self) {
        let Some(spilled) = self.queue.spilled().first().cloned() else { return };
        let stored =
            |block: &&Block| block.class.to == spilled.to && block.class.first.offset >= spilled.first.offset;
        let next = self.pushed.iter().find(stored).unwrap().clone();
        let position = next.class.first;
        if self.queue.push_replayed(next.clone(), BOUND).is_ok() {
            self.replayed.insert(position.offset, next);
            self.queue.handle_replayed(&spilled.to, position);
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let queue = &self.queue;
        let waiting: usize = queue.pieces(usize::MAX).map(<[u8]>::len).sum();
        prop_assert_eq!(waiting + queue.written, queue.pinned_bytes());
        prop_assert!(queue.shared_bytes <= BOUND);
        prop_assert!(!matches!(queue.items.front(), Some(Item::Gone)));
        prop_assert_eq!(queue.items.iter().filter(|i| matches!(i, Item::Gone)).count(), queue.gone);
        let accounted = self.finished.len() + self.lost.len() + self.expired.len();
        let pending = usize::try_from(queue.pending_frames()).unwrap();
        prop_assert_eq!(self.pushed.len() + self.replayed.len(), accounted + pending);
        let mut droppable = [0; PRIORITIES];
        for item in &queue.items {
            if let Item::Shared(block) = item
                && block.class.is_droppable()
            {
                droppable[block.class.level()] += block.len();
            }
        }
        prop_assert_eq!(droppable, queue.droppable_bytes());
        let kept_before = queue.rare.as_ref().map_or(0, |rare| rare.kept_before);
        for item in queue.items.iter().take(kept_before).skip(queue.first_waiting()) {
            prop_assert!(!matches!(item, Item::Shared(block) if block.class.is_droppable()));
        }
        Ok(())
    }

    /// Writes what is left and compares the whole.
    fn end(mut self) -> Result<(), TestCaseError> {
        while !self.queue.is_empty() || !self.queue.spilled().is_empty() {
            let waiting: usize = self.queue.pieces(usize::MAX).map(<[u8]>::len).sum();
            self.finished.extend(self.queue.handle_written(waiting));
            self.replay();
        }
        self.check()?;
        prop_assert_eq!(self.queue.pinned_bytes(), 0);
        prop_assert!(!self.queue.has_expiring());
        self.check_order()?;
        self.check_losses()
    }

    fn check_order(&self) -> Result<(), TestCaseError> {
        let mut last: BTreeMap<u16, u64> = BTreeMap::new();
        for block in &self.finished {
            let first = block.class.first;
            let before = last.insert(first.stream.shard, first.offset);
            prop_assert!(before < Some(first.offset), "shard {}", first.stream.shard);
        }
        Ok(())
    }

    fn check_losses(&mut self) -> Result<(), TestCaseError> {
        let mut told: BTreeMap<(String, &str), u64> = BTreeMap::new();
        for (to, action, dropped) in reports(&mut self.queue) {
            *told.entry((to, action.as_str())).or_default() += dropped;
        }
        let mut counted: BTreeMap<(String, &str), u64> = BTreeMap::new();
        for Lost { segment, action } in &self.lost {
            *counted.entry((segment.class.to.to_string(), action.as_str())).or_default() += 1;
            let (overflow, offset) = (segment.class.overflow, segment.class.first.offset);
            match action {
                Overflow::DropOldest => prop_assert!(segment.class.is_droppable()),
                Overflow::DropNewest => prop_assert!(overflow == *action || segment.class.is_droppable()),
                Overflow::Spill => prop_assert!(self.replayed.contains_key(&offset), "it came later"),
                Overflow::Close => prop_assert_eq!(overflow, Overflow::Close),
                Overflow::Conflate => {
                    let newer = |block: &Block| {
                        block.class.first.offset > offset
                            && block.class.conflated_by() == segment.class.conflated_by()
                    };
                    prop_assert!(segment.class.key.is_some() && self.pushed.iter().any(newer));
                }
            }
        }
        prop_assert_eq!(told, counted);
        Ok(())
    }
}

proptest! {
    #[test]
    fn accounts_balance_and_order_holds(steps in steps(0..ADDRESSES.len(), 3)) {
        let mut run = Run::default();
        for step in steps {
            run.step(step)?;
        }
        run.end()?;
    }

    #[test]
    fn priority_never_reorders_a_stream(steps in steps(0..4, 10)) {
        let mut run = Run::default();
        for step in steps {
            run.step(step)?;
        }
        run.end()?;
    }

    #[test]
    fn conflation_alone_loses_no_newest_key(steps in steps(1..3, 1)) {
        let mut run = Run::default();
        for step in steps {
            // Keys and lengths small enough for the newest of all keys to fit.
            if let Step::Push { to, key, priority, len, expires: _ } = step {
                let (key, len) = (key.max(1), len.min(20));
                run.step(Step::Push { to, key, priority, len, expires: false })?;
            } else {
                run.step(step)?;
            }
            for Lost { segment, action } in &run.lost {
                let same = |other: &&Block| other.class.conflated_by() == segment.class.conflated_by();
                let newest = run.pushed.iter().rfind(same).unwrap();
                prop_assert_eq!(*action, Overflow::Conflate);
                prop_assert_ne!(newest.class.first, segment.class.first);
            }
        }
        run.end()?;
    }
}

/// As [`push`], with another action than the segment's own.
fn push_or(queue: &mut Queue<Block>, action: Overflow, block: Block, bound: usize) -> Vec<(u64, Overflow)> {
    let mut lost = Vec::new();
    queue.push_shared_or(action, block, bound, &mut lost);
    lost.iter().map(|lost| (lost.segment.class.first.offset, lost.action)).collect()
}

#[test]
fn who_pushes_may_decide_what_is_done() {
    for action in [Overflow::DropNewest, Overflow::Close] {
        let mut queue = Queue::default();
        assert!(queue.has_room_for(&block(1, 50), 30), "an empty queue takes any one");
        assert_eq!(push_or(&mut queue, action, block(1, 20), 30), []);
        assert!(!queue.has_room_for(&block(2, 20), 30));
        assert_eq!(push_or(&mut queue, action, block(2, 20), 30), [(2, action)]);
        assert_eq!(push_or(&mut queue, action, block(3, 10), 30), [], "what fits is queued");
        assert_eq!(drain(&mut queue), [1, 3]);
    }
    let mut queue = Queue::default();
    push(&mut queue, block(1, 20), 30);
    let closing = block(2, 20).overflow(Overflow::Close);
    assert_eq!(push_or(&mut queue, Overflow::DropOldest, closing, 30), [(1, Overflow::DropOldest)]);
}

#[test]
fn only_what_is_stored_is_spilled_by_decision() {
    let stored = |offset| {
        let mut block = block(offset, 10);
        block.class.is_stored = true;
        block
    };
    let mut queue = Queue::default();
    push(&mut queue, stored(1), 10);
    assert_eq!(push_or(&mut queue, Overflow::Spill, block(2, 10), 10), [(1, Overflow::DropOldest)]);
    assert_eq!(push_or(&mut queue, Overflow::Spill, stored(3), 10), [(3, Overflow::Spill)]);
    assert!(queue.has_room_for(&stored(4), 10), "it follows without a decision");
    assert_eq!(push(&mut queue, stored(4), 10), [(4, Overflow::Spill)]);
    assert_eq!(push(&mut queue, block(5, 10), 10), [(5, Overflow::DropNewest)]);
}

#[test]
fn a_decision_to_conflate_holds_for_its_address_and_that_moment() {
    let keyed = |offset, key: &str| block(offset, 10).key(key).overflow(Overflow::DropOldest);
    let mut queue = Queue::default();
    push(&mut queue, keyed(1, "a"), 70);
    push(&mut queue, keyed(2, "b"), 70);
    push(&mut queue, keyed(3, "a"), 70);
    push(&mut queue, block(4, 10), 70);
    push(&mut queue, block_of("topic/other", 0, 5, 10).key("a").overflow(Overflow::DropOldest), 70);
    push(&mut queue, keyed(6, "c"), 70);
    push(&mut queue, keyed(7, "b"), 70);
    let mut lost = push_or(&mut queue, Overflow::Conflate, keyed(8, "c"), 70);
    lost.sort_unstable_by_key(|&(offset, _)| offset);
    assert_eq!(lost, [1, 2, 6].map(|offset| (offset, Overflow::Conflate)));
    assert_eq!(push(&mut queue, keyed(9, "a"), 70), [], "nothing is kept in mind");
    assert_eq!(drain(&mut queue), [3, 4, 5, 7, 8, 9]);

    push(&mut queue, keyed(1, "a"), 30);
    push(&mut queue, keyed(2, "b"), 30);
    push(&mut queue, keyed(3, "c"), 30);
    assert_eq!(
        push_or(&mut queue, Overflow::Conflate, keyed(4, "d"), 30).len(),
        2,
        "room for one more as well"
    );
}
