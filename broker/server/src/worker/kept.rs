//! Which addresses may have stored messages, without asking the store.
//!
//! A connect asks for the user's own address, its groups and `all`; most have nothing stored, and a look at a
//! bit spares the way to the reader threads. Bits are only set: a wrong "maybe" costs one look-up.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use waspmq_core::Address;

/// Bits of the set: at a million addresses with messages, two thirds of the others are asked for in vain.
const BITS: usize = 1 << 20;

/// A set of addresses that answers "no" or "maybe".
#[derive(Debug)]
pub(crate) struct Kept {
    words: Box<[AtomicU64]>,
    hasher: foldhash::fast::RandomState,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            words: (0..BITS / 64).map(|_| AtomicU64::new(0)).collect(),
            hasher: foldhash::fast::RandomState::default(),
        }
    }
}

impl Kept {
    pub(crate) fn insert(&self, address: &Address) {
        let (word, bit) = self.place(address);
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Release);
        }
    }

    pub(crate) fn may_have(&self, address: &Address) -> bool {
        let (word, bit) = self.place(address);
        word.load(Ordering::Acquire) & bit != 0
    }

    #[expect(clippy::cast_possible_truncation, reason = "masked to the number of bits")]
    #[expect(clippy::indexing_slicing, reason = "the index is masked to the number of words")]
    fn place(&self, address: &Address) -> (&AtomicU64, u64) {
        let bit = self.hasher.hash_one(address) as usize & (BITS - 1);
        (&self.words[bit / 64], 1 << (bit % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_may_be_there() {
        let kept = Kept::default();
        let address = |i: u32| Address::parse(&format!("user/u{i}")).unwrap();
        (0..1_000).for_each(|i| kept.insert(&address(i)));
        assert!((0..1_000).all(|i| kept.may_have(&address(i))));
        let wrong = (1_000..11_000).filter(|&i| kept.may_have(&address(i))).count();
        assert!(wrong < 100, "{wrong}");
    }
}
