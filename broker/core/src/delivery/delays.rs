//! Publishes that wait for their time.
//!
//! Bounded by number and by bytes; what does not fit is refused and given back. Of two that are due at the same
//! moment the one that came first goes first. Not here: what a publish is, so that the worker keeps its own form.

use crate::limits;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The publishes of one worker that wait, each with the bytes it is charged.
#[derive(Debug)]
pub struct Delays<T> {
    heap: BinaryHeap<Reverse<Delayed<T>>>,
    bytes: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct Delayed<T> {
    due_ms: u64,
    arrival: u64,
    bytes: usize,
    item: T,
}

impl<T> Default for Delays<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), bytes: 0, arrivals: 0 }
    }
}

impl<T> Delays<T> {
    /// Whether `count` more with `bytes` in all fit, see [`limits::DELAYED_MESSAGES_MAX`] and
    /// [`limits::DELAYED_BYTES_MAX`].
    pub fn has_room(&self, count: usize, bytes: usize) -> bool {
        self.heap.len() + count <= limits::DELAYED_MESSAGES_MAX
            && self.bytes + bytes <= limits::DELAYED_BYTES_MAX
    }

    /// Keeps `item` until `due_ms`; without room it comes back.
    pub fn push(&mut self, due_ms: u64, bytes: usize, item: T) -> Result<(), T> {
        if !self.has_room(1, bytes) {
            return Err(item);
        }
        self.put_back(due_ms, bytes, item);
        Ok(())
    }

    /// Keeps `item` also where there is no room, for a caller that bounds these: one that was taken out, or one of a
    /// page read from where they are kept.
    pub fn put_back(&mut self, due_ms: u64, bytes: usize, item: T) {
        self.bytes += bytes;
        self.arrivals += 1;
        self.heap.push(Reverse(Delayed { due_ms, arrival: self.arrivals, bytes, item }));
    }

    /// One that is due at `now_ms`, earliest first.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<T> {
        if self.next_due_ms()? > now_ms {
            return None;
        }
        let Reverse(delayed) = self.heap.pop()?;
        self.bytes -= delayed.bytes;
        Some(delayed.item)
    }

    pub fn next_due_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(delayed)| delayed.due_ms)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Bytes charged.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl<T> PartialEq for Delayed<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due_ms, self.arrival) == (other.due_ms, other.arrival)
    }
}

impl<T> Eq for Delayed<T> {}

impl<T> PartialOrd for Delayed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Delayed<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_ms, self.arrival).cmp(&(other.due_ms, other.arrival))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_of_time_and_then_of_arrival() {
        let mut delays = Delays::default();
        for (due_ms, item) in [(30, "c"), (10, "a"), (30, "d"), (20, "b")] {
            delays.push(due_ms, 5, item).unwrap();
        }
        assert_eq!((delays.len(), delays.bytes(), delays.next_due_ms()), (4, 20, Some(10)));
        assert_eq!(delays.pop_due(9), None);
        let due: Vec<_> = std::iter::from_fn(|| delays.pop_due(20)).collect();
        assert_eq!(due, ["a", "b"]);
        let due: Vec<_> = std::iter::from_fn(|| delays.pop_due(99)).collect();
        assert_eq!(due, ["c", "d"]);
        assert!(delays.is_empty() && delays.bytes() == 0 && delays.next_due_ms().is_none());
    }

    #[test]
    fn what_does_not_fit_comes_back() {
        let mut delays = Delays::default();
        delays.push(1, limits::DELAYED_BYTES_MAX, 1).unwrap();
        assert_eq!(delays.push(1, 1, 2), Err(2));
        assert_eq!(delays.pop_due(1), Some(1));
        for i in 0..limits::DELAYED_MESSAGES_MAX {
            delays.push(1, 1, i).unwrap();
        }
        assert_eq!(delays.push(1, 1, 7), Err(7));
        assert!(!delays.has_room(1, 0) && delays.has_room(0, 0));
        delays.pop_due(1);
        assert!(delays.has_room(1, 1) && !delays.has_room(2, 1));
        (0..2).for_each(|i| delays.put_back(1, 1, i));
        assert_eq!(delays.len(), limits::DELAYED_MESSAGES_MAX + 1);
    }
}
