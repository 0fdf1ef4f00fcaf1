//! Who sends what to whom, and when: a flow is one sender and the receivers that each get all of its messages.
//!
//! Closed loop: a flow holds at most `window` messages outstanding. A message is outstanding until the *last*
//! receiver has it; the window is refilled once at most half of it is. Open loop: messages are due at fixed
//! intervals, round robin over the flows, whether or not earlier ones arrived.

use std::ops::Range;
use std::time::Duration;

use crate::wire::Template;

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) template: Template,
    pub(crate) receivers: Range<usize>,
    pub(crate) sender: usize,
    pub(crate) sent: u64,
    /// Each receiver needs this many before the window is refilled.
    threshold: u64,
    /// Receivers that have fewer.
    below: usize,
}

impl Flow {
    pub(crate) fn new(template: Template, receivers: Range<usize>, sender: usize) -> Self {
        Self { template, receivers, sender, sent: 0, threshold: 0, below: 0 }
    }

    /// How many messages to send now to fill `window`, given what each receiver has. They count as sent.
    pub(crate) fn refill(&mut self, window: u64, received: &[u64]) -> u64 {
        let received = &received[self.receivers.clone()];
        let slowest = received.iter().copied().min().unwrap_or(self.sent);
        let count = window.saturating_sub(self.sent.saturating_sub(slowest));
        self.sent += count;
        self.threshold = self.sent.saturating_sub(window / 2);
        self.below = received.iter().filter(|&&count| count < self.threshold).count();
        count
    }

    /// Notes that a receiver's count rose. True when this makes the flow ready to be refilled.
    pub(crate) fn note(&mut self, before: u64, after: u64) -> bool {
        if before < self.threshold && after >= self.threshold {
            self.below -= 1;
            return self.below == 0;
        }
        false
    }
}

/// The schedule of an open loop.
#[derive(Debug)]
pub(crate) struct Schedule {
    interval_ns: f64,
    start_ns: u64,
    next: u64,
}

impl Schedule {
    /// `rate` messages per second in all, from `start_ns` on.
    pub(crate) fn new(rate: f64, start_ns: u64) -> Self {
        Self { interval_ns: 1e9 / rate, start_ns, next: 0 }
    }

    /// Number and due time of the next message.
    pub(crate) fn next(&self) -> (u64, u64) {
        let offset = Duration::from_secs_f64(self.next as f64 * self.interval_ns / 1e9);
        (self.next, self.start_ns.saturating_add(u64::try_from(offset.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn advance(&mut self) {
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Target, Wire};

    fn flow(receivers: usize) -> Flow {
        Flow::new(Template::new(Wire::Relay, Target::Topic, 1), 0..receivers, receivers)
    }

    #[test]
    fn the_window_counts_the_slowest_receiver() {
        let mut flow = flow(2);
        let mut received = [0_u64; 2];
        assert_eq!(flow.refill(8, &received), 8);
        received[0] = 8;
        assert!(!flow.note(0, 8), "the other receiver has none");
        received[1] = 3;
        assert!(!flow.note(0, 3), "five are outstanding, more than half");
        received[1] = 4;
        assert!(flow.note(3, 4));
        assert_eq!(flow.refill(8, &received), 4, "four of the slowest are outstanding");
        assert_eq!(flow.sent, 12);
    }

    #[test]
    fn a_window_of_one_is_ping_pong() {
        let mut flow = flow(1);
        for sent in 1..=3 {
            assert_eq!(flow.refill(1, &[sent - 1]), 1);
            assert!(flow.note(sent - 1, sent));
        }
    }

    #[test]
    fn any_order_of_receipts_keeps_the_bound_and_never_stalls() {
        let (window, receivers) = (5, 3);
        let mut flow = flow(receivers);
        let mut received = vec![0_u64; receivers];
        let mut state = 1_u64;
        flow.refill(window, &received);
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let i = (state >> 33) as usize % receivers;
            if received[i] == flow.sent {
                continue;
            }
            received[i] += 1;
            if flow.note(received[i] - 1, received[i]) {
                assert!(flow.refill(window, &received) > 0);
            }
            let slowest = received.iter().min().unwrap();
            assert!(flow.sent - slowest <= window);
            assert!(
                received.iter().any(|&count| count < flow.sent),
                "nothing is outstanding and nobody sends"
            );
        }
        assert!(flow.sent > 1_000, "{}", flow.sent);
    }

    #[test]
    fn due_times_do_not_drift() {
        let mut schedule = Schedule::new(3.0, 1_000);
        for _ in 0..3_000 {
            schedule.advance();
        }
        assert_eq!(schedule.next(), (3_000, 1_000_000_001_000));
    }
}
