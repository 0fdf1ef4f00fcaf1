//! The ring: places in the order of their hashes, each with the index of its member.
//!
//! The hash is part of the behaviour, since all workers' instances have to agree.

use waspmq_plugin_common::{hash, spread};

#[derive(Debug)]
pub(crate) struct Ring {
    places: Vec<(u64, u32)>,
}

impl Ring {
    pub(crate) fn new(members: &[String], virtual_nodes: u32) -> Self {
        let mut places = Vec::with_capacity(members.len() * virtual_nodes as usize);
        for (index, member) in (0..).zip(members) {
            let base = hash(member.as_bytes());
            places.extend((0..virtual_nodes).map(|node| (spread(base ^ spread(u64::from(node) + 1)), index)));
        }
        places.sort_unstable();
        Self { places }
    }

    /// The index of the member that `key` belongs to; none on an empty ring.
    pub(crate) fn member_of(&self, key: &str) -> Option<u32> {
        let hash = hash(key.as_bytes());
        let next = self.places.partition_point(|&(place, _)| place < hash);
        self.places.get(next).or_else(|| self.places.first()).map(|&(_, member)| member)
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;

    const KEYS: u32 = 10_000;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("user{i}/laptop/{i:04x}")).collect()
    }

    fn owner<'a>(ring: &Ring, members: &'a [String], key: u32) -> &'a str {
        &members[ring.member_of(&format!("key-{key}")).unwrap() as usize]
    }

    #[test]
    fn shares_are_fair() {
        let members = members(10);
        let ring = Ring::new(&members, crate::VIRTUAL_NODES);
        for member in &members {
            let share = (0..KEYS).filter(|&key| owner(&ring, &members, key) == member).count();
            assert!((700..1_400).contains(&share), "{member} has {share} of {KEYS}");
        }
    }

    #[test]
    fn a_member_that_leaves_moves_only_its_own_keys() {
        let before = members(10);
        let after: Vec<String> = before.iter().filter(|name| !name.starts_with("user4/")).cloned().collect();
        let (old, new) = (Ring::new(&before, crate::VIRTUAL_NODES), Ring::new(&after, crate::VIRTUAL_NODES));
        let mut moved = 0;
        for key in 0..KEYS {
            let (was, is) = (owner(&old, &before, key), owner(&new, &after, key));
            assert!(was == is || was.starts_with("user4/"), "key {key} moved from {was} to {is}");
            moved += u32::from(was != is);
        }
        assert!((KEYS / 14..KEYS / 7).contains(&moved), "{moved} of {KEYS} keys moved");
    }

    #[test]
    fn an_empty_ring_has_no_members() {
        assert_eq!(Ring::new(&[], 150).member_of("k"), None);
    }
}
