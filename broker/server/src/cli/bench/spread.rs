//! How far the receivers of one message are apart: from the first that had it to the last.

use super::limits::SPREADS_MAX;

/// The messages that some receivers have and others do not have yet.
#[derive(Debug)]
pub(super) struct Spreads {
    receivers: u32,
    open: Vec<Open>,
    given_up: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Open {
    number: u64,
    /// None: the place is free.
    count: u32,
    first_ns: u64,
    last_ns: u64,
}

impl Spreads {
    pub(super) fn new(receivers: usize) -> Self {
        let receivers = u32::try_from(receivers).unwrap_or(u32::MAX);
        Self { receivers, open: vec![Open::default(); SPREADS_MAX], given_up: 0 }
    }

    /// One receiver has a message, which it had not before. The nanoseconds between first and last, once all have it.
    pub(super) fn handle(&mut self, number: u64, now_ns: u64) -> Option<u64> {
        let place = usize::try_from(number % SPREADS_MAX as u64).unwrap_or_default();
        let open = self.open.get_mut(place)?;
        if open.count > 0 && open.number != number {
            if open.number > number {
                // Its place was given to a later one, and it is counted already.
                return None;
            }
            self.given_up += 1;
            open.count = 0;
        }
        if open.count == 0 {
            *open = Open { number, count: 0, first_ns: now_ns, last_ns: now_ns };
        }
        open.count += 1;
        open.first_ns = open.first_ns.min(now_ns);
        open.last_ns = open.last_ns.max(now_ns);
        if open.count < self.receivers {
            return None;
        }
        open.count = 0;
        Some(open.last_ns - open.first_ns)
    }

    /// Messages that not every receiver has, or had before a later one took their place.
    pub(super) fn incomplete(&self) -> u64 {
        self.given_up + self.open.iter().filter(|open| open.count > 0).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_ends_with_the_last_receiver() {
        let mut spreads = Spreads::new(3);
        assert_eq!(spreads.handle(0, 10), None);
        assert_eq!(spreads.handle(1, 11), None);
        assert_eq!(spreads.handle(0, 15), None);
        assert_eq!(spreads.handle(0, 12), Some(5), "threads may be told in another order");
        assert_eq!(spreads.handle(1, 20), None);
        assert_eq!(spreads.handle(1, 21), Some(10));
        assert_eq!(Spreads::new(1).handle(7, 3), Some(0));
    }

    #[test]
    fn what_is_never_complete_gives_way() {
        let mut spreads = Spreads::new(2);
        assert_eq!(spreads.handle(0, 10), None);
        let later = SPREADS_MAX as u64;
        assert_eq!(spreads.handle(later, 11), None);
        assert_eq!(spreads.incomplete(), 2, "one is given up, one is open");
        assert_eq!(spreads.handle(0, 12), None, "given up");
        assert_eq!((spreads.handle(later, 13), spreads.incomplete()), (Some(2), 1));
    }
}
