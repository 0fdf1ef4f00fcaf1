//! The choice of one member among some: by key, or by what they have in flight.

use crate::hash::{hash, rendezvous};

/// Chooses among the members of one queue, in the order that an index means.
#[derive(Debug)]
pub struct Chooser {
    /// A hash of each member.
    hashes: Vec<u64>,
    /// Messages given to each in the millisecond `ts`. Counts of the broker do not have those that were decided in the
    /// same turn, so without these all of a turn would go to the one that had least before it.
    given: Vec<u32>,
    ts: u64,
    /// Where the search begins, so that equals take turns.
    turn: usize,
}

impl Chooser {
    /// `turn` says who is first among equals; instances that begin with different ones do not all choose the same.
    pub fn new(members: &[String], turn: u64) -> Self {
        let hashes: Vec<u64> = members.iter().map(|member| hash(member.as_bytes())).collect();
        let turn = usize::try_from(turn % (hashes.len().max(1) as u64)).unwrap_or(0);
        Self { given: vec![0; hashes.len()], hashes, ts: 0, turn }
    }

    /// The member of a key among these; only the keys of one that leaves go to others.
    pub fn by_key(&self, key: &str, among: &[u32]) -> Option<u32> {
        let key = hash(key.as_bytes());
        let belongs = |index: &u32| self.hashes.get(*index as usize).map(|member| rendezvous(key, *member));
        among.iter().copied().max_by_key(|index| belongs(index))
    }

    /// The member with the least in flight among these; equals take turns. `loads` is what the broker says, nothing where
    /// it does not know; `ts` is the time of the message.
    pub fn least(&mut self, (loads, ts): (&[u32], u64), among: &[u32]) -> Option<u32> {
        if ts != self.ts {
            self.given.fill(0);
            self.ts = ts;
        }
        let Self { given, turn, .. } = self;
        let load = |index: u32| {
            let of = |counts: &[u32]| counts.get(index as usize).copied().unwrap_or(0);
            of(loads).saturating_add(of(given))
        };
        let first = among.partition_point(|index| (*index as usize) < *turn);
        let (before, behind) = among.split_at(first);
        let chosen = behind.iter().chain(before).copied().min_by_key(|index| load(*index))?;
        self.turn = chosen as usize + 1;
        if let Some(given) = self.given.get_mut(chosen as usize) {
            *given = given.saturating_add(1);
        }
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chooser(count: usize, turn: u64) -> Chooser {
        Chooser::new(&(0..count).map(|i| format!("u{i}/d/{i}")).collect::<Vec<_>>(), turn)
    }

    #[test]
    fn a_key_keeps_its_member_when_others_leave() {
        let chooser = chooser(5, 0);
        for key in 0..200 {
            let key = format!("key{key}");
            let all = chooser.by_key(&key, &[0, 1, 2, 3, 4]).unwrap();
            let rest: Vec<u32> = (0..5).filter(|index| (index + 1) % 5 != all).collect();
            assert_eq!(chooser.by_key(&key, &rest), Some(all), "{key}");
        }
        assert_eq!(chooser.by_key("k", &[]), None);
    }

    #[test]
    fn idle_members_take_turns() {
        let mut chooser = chooser(4, 6);
        let mut choose = |among: &[u32]| chooser.least((&[], 1), among).unwrap();
        assert_eq!([(); 5].map(|()| choose(&[0, 1, 2, 3])), [2, 3, 0, 1, 2]);
        assert_eq!([(); 3].map(|()| choose(&[0, 3])), [3, 0, 3]);
    }

    #[test]
    fn the_least_loaded_is_chosen_and_a_turn_is_shared() {
        let mut chooser = chooser(3, 0);
        let all = [0, 1, 2];
        let loads = [4, 0, 2];
        let turn: Vec<u32> = (0..6).filter_map(|_| chooser.least((&loads, 1), &all)).collect();
        let count = |index| turn.iter().filter(|chosen| **chosen == index).count();
        assert_eq!([count(0), count(1), count(2)], [0, 4, 2], "{turn:?}");
        assert_eq!(chooser.least((&loads, 2), &all), Some(1), "in the next one the broker knows of them");
        assert_eq!(chooser.least((&[5, 5, 5], 3), &[]), None);
    }
}
