//! What of an address is done behind the place up to which everything is.

use crate::id::{Position, Stream};
use crate::limits;

/// Order of positions in one address: its shard is the same in all epochs.
pub type Place = (u32, u64);

/// The place of a position.
pub(super) const fn place(position: Position) -> Place {
    (position.stream.epoch, position.offset)
}

/// The place right behind.
const fn behind((epoch, offset): Place) -> Place {
    (epoch, offset.saturating_add(1))
}

/// How far the members of a queue have acknowledged one address: what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueCursor {
    /// Everything up to here is done: acknowledged, given up, or of no more use.
    pub upto: Position,
    /// What is done behind that: stretches (from, behind), ascending, at most [`limits::QUEUE_STRETCHES_MAX`].
    pub done: Vec<(Place, Place)>,
}

/// Stretches (from, behind) of places, ascending and apart from each other. At most [`limits::QUEUE_DONE_MAX`]; of
/// more the last are forgotten, so that their messages are given out again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Done(Vec<(Place, Place)>);

impl Done {
    pub(super) fn insert(&mut self, from: Place, behind: Place) {
        if from >= behind {
            return;
        }
        let first = self.0.partition_point(|stretch| stretch.1 < from);
        let end = self.0.partition_point(|stretch| stretch.0 <= behind);
        let touching = self.0.get(first..end).unwrap_or_default();
        let merge = |all: (Place, Place), one: &(Place, Place)| (all.0.min(one.0), all.1.max(one.1));
        let merged = touching.iter().fold((from, behind), merge);
        self.0.splice(first..end, [merged]);
        self.0.truncate(limits::QUEUE_DONE_MAX);
    }

    pub(super) fn insert_one(&mut self, at: Place) {
        self.insert(at, behind(at));
    }

    pub(super) fn holds(&self, at: Place) -> bool {
        let index = self.0.partition_point(|stretch| stretch.1 <= at);
        self.0.get(index).is_some_and(|stretch| stretch.0 <= at)
    }

    /// Forgets what lies at or before a place.
    pub(super) fn forget_upto(&mut self, upto: Place) {
        let from = behind(upto);
        if self.0.first().is_some_and(|first| first.0 < from) {
            self.0.retain(|stretch| stretch.1 > from);
            if let Some(first) = self.0.first_mut() {
                first.0 = first.0.max(from);
            }
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn stretches(&self) -> impl Iterator<Item = (Place, Place)> {
        self.0.iter().copied()
    }
}

/// Where everything is done, when of what was taken up to `reached` these messages are open, each with the place of the
/// message before it. Gives the stretches behind that which are done, up to `reached`.
pub(super) fn cursor_of(
    reached: Position,
    mut open: impl Iterator<Item = (Place, Place)>,
) -> (Position, Vec<(Place, Place)>) {
    let Some((first, _)) = open.next() else { return (reached, Vec::new()) };
    let stream = Stream { epoch: first.0, ..reached.stream };
    let upto = Position { stream, offset: first.1.saturating_sub(1) };
    let (mut last, mut stretches) = (first, Vec::new());
    for (at, before) in open {
        if before != last {
            stretches.push((behind(last), at));
        }
        last = at;
    }
    if last < place(reached) {
        stretches.push((behind(last), behind(place(reached))));
    }
    (upto, stretches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn like_a_set(steps in prop::collection::vec((0_u32..2, 0_u64..60, 1_u64..9, any::<bool>()), 1..60)) {
            let (mut done, mut model) = (Done::default(), BTreeSet::new());
            for (epoch, from, count, forgets) in steps {
                if forgets {
                    done.forget_upto((epoch, from));
                    model.retain(|at| *at > (epoch, from));
                } else {
                    done.insert((epoch, from), (epoch, from + count));
                    model.extend((from..from + count).map(|offset| (epoch, offset)));
                }
                let apart = |pair: &[(Place, Place)]| pair[0].1 < pair[1].0;
                prop_assert!(done.0.windows(2).all(apart) && done.0.iter().all(|(from, behind)| from < behind));
                for at in (0..2).flat_map(|epoch| (0..70).map(move |offset| (epoch, offset))) {
                    prop_assert_eq!(done.holds(at), model.contains(&at), "{:?}", at);
                }
            }
        }
    }

    #[test]
    fn of_too_many_the_last_are_forgotten() {
        let mut done = Done::default();
        let most = limits::QUEUE_DONE_MAX as u64;
        (0..most + 9).rev().for_each(|index| done.insert_one((1, 2 * index)));
        assert_eq!(done.0.len(), limits::QUEUE_DONE_MAX);
        assert!(done.holds((1, 0)) && done.holds((1, 2 * most - 2)) && !done.holds((1, 2 * most)));
    }

    #[test]
    fn what_is_done_between_open_messages() {
        let reached = Position { stream: Stream { shard: 3, epoch: 2 }, offset: 9 };
        let check = |open: &[(Place, Place)], upto: (u32, u64), stretches: &[(Place, Place)]| {
            let (found, done) = cursor_of(reached, open.iter().copied());
            assert_eq!((place(found), found.stream.shard, &*done), (upto, 3, stretches));
        };
        check(&[], (2, 9), &[]);
        check(&[((2, 9), (2, 5))], (2, 8), &[]);
        check(&[((2, 5), (2, 1)), ((2, 9), (2, 5))], (2, 4), &[]);
        check(&[((1, 70), (1, 60)), ((2, 5), (2, 4))], (1, 69), &[((1, 71), (2, 5)), ((2, 6), (2, 10))]);
    }
}
