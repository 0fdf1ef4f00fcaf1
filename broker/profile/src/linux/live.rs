//! Sampled allocations that are alive, by address, in a table that is as large as it will ever be.
//!
//! Every free of the process looks here while a heap profile runs, so that looking costs one cache line: an address belongs to
//! one group of eight places, and is in one of these or nowhere. There are no locks. A place goes `FREE` -> `TAKEN`
//! (its value is written) -> address -> `FREE`; the last step is only made by whoever frees the address, and before it is
//! given back, so nobody else can have it meanwhile.

use crate::limits::LIVE_SAMPLES_MAX;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

const GROUP: usize = 8;
const FREE: usize = 0;
/// No allocation's address.
const TAKEN: usize = 1;

/// What is kept of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allocation {
    /// The number of the stack it was made in.
    pub(super) stack: u32,
    pub(super) bytes: usize,
}

#[derive(Default)]
#[repr(align(64))]
struct Addresses([AtomicUsize; GROUP]);

#[derive(Default)]
struct Values([(AtomicU32, AtomicUsize); GROUP]);

pub(super) struct Live {
    addresses: Box<[Addresses]>,
    values: Box<[Values]>,
}

impl Live {
    pub(super) fn new() -> Self {
        let groups = LIVE_SAMPLES_MAX / GROUP;
        Self {
            addresses: (0..groups).map(|_| Addresses::default()).collect(),
            values: (0..groups).map(|_| Values::default()).collect(),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for address in self.addresses.iter().flat_map(|group| &group.0) {
            address.store(FREE, Ordering::Release);
        }
    }

    /// Notes an allocation. `false`: its group is full.
    pub(super) fn put(&self, address: usize, allocation: Allocation) -> bool {
        let Some((addresses, values)) = self.group(address) else { return false };
        for (place, (stack, bytes)) in addresses.0.iter().zip(&values.0) {
            if place.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                stack.store(allocation.stack, Ordering::Relaxed);
                bytes.store(allocation.bytes, Ordering::Relaxed);
                place.store(address, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// Forgets the allocation at an address, which is about to be freed, and answers what it was.
    #[inline]
    pub(super) fn take(&self, address: usize) -> Option<Allocation> {
        let (addresses, values) = self.group(address)?;
        let place = addresses.0.iter().position(|place| place.load(Ordering::Acquire) == address)?;
        let (stack, bytes) = values.0.get(place)?;
        let allocation =
            Allocation { stack: stack.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) };
        addresses.0.get(place)?.store(FREE, Ordering::Release);
        Some(allocation)
    }

    /// Everything there is.
    pub(super) fn each(&self, mut take: impl FnMut(Allocation)) {
        for (addresses, values) in self.addresses.iter().zip(&self.values) {
            for (place, (stack, bytes)) in addresses.0.iter().zip(&values.0) {
                if place.load(Ordering::Acquire) > TAKEN {
                    let (stack, bytes) = (stack.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
                    take(Allocation { stack, bytes });
                }
            }
        }
    }

    #[inline]
    fn group(&self, address: usize) -> Option<(&Addresses, &Values)> {
        // Fibonacci hashing: neighbours are 8 bytes apart or more, and mostly much more.
        let hash = (address >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let index = hash % self.addresses.len();
        Some((self.addresses.get(index)?, self.values.get(index)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_full_group_takes_no_more_and_gives_back() {
        let live = Live::new();
        let of_one_group =
            |address: &usize| std::ptr::eq(live.group(*address).unwrap().0, live.group(64).unwrap().0);
        let addresses: Vec<usize> = (1..).map(|n| n * 64).filter(of_one_group).take(GROUP + 1).collect();
        let allocation = Allocation { stack: 3, bytes: 5 };
        let put: Vec<bool> = addresses.iter().map(|address| live.put(*address, allocation)).collect();
        assert_eq!(put.iter().filter(|is_in| **is_in).count(), GROUP);
        assert_eq!(live.take(addresses[GROUP]), None);
        assert_eq!(live.take(addresses[0]), Some(allocation));
        assert!(live.put(addresses[GROUP], allocation));
        live.clear();
        live.each(|_| panic!("it was cleared"));
    }

    #[test]
    fn threads_do_not_mix_up_their_allocations() {
        let live = Live::new();
        std::thread::scope(|scope| {
            for thread in 1..=4_u32 {
                let live = &live;
                scope.spawn(move || {
                    for round in 0..20_000_usize {
                        // Addresses of four threads in the same few groups.
                        let address = (round % 8 + 1) * 4_096 + thread as usize * 8;
                        let allocation = Allocation { stack: thread, bytes: round };
                        if live.put(address, allocation) {
                            assert_eq!(live.take(address), Some(allocation));
                        }
                    }
                });
            }
        });
        live.each(|_| panic!("everything was taken"));
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((1_usize..64, any::<bool>(), any::<usize>()), 0..200)) {
            let live = Live::new();
            let mut model: HashMap<usize, Allocation> = HashMap::new();
            for (number, puts, bytes) in steps {
                let address = number * 16;
                if puts && !model.contains_key(&address) {
                    let allocation = Allocation { stack: 1, bytes };
                    prop_assert!(live.put(address, allocation));
                    model.insert(address, allocation);
                } else {
                    prop_assert_eq!(live.take(address), model.remove(&address));
                }
            }
            let mut count = 0;
            live.each(|_| count += 1);
            prop_assert_eq!(count, model.len());
        }
    }
}
