//! How far a publisher may be ahead: it waits until enough of what it asked for is done.

use super::limits::QUIET;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Counts deliveries, or receipts where the publisher asks for them. Everything here is `SeqCst`: who waits and who is done must not miss each other.
#[derive(Debug)]
pub(super) struct Window {
    /// Deliveries or receipts that may be outstanding; none means that the publisher never waits.
    limit: Option<u64>,
    done: AtomicU64,
    /// The number of done ones that the publisher waits for.
    wake_at: AtomicU64,
    room: Notify,
}

/// What the one publisher remembers of its waiting.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Outstanding ones that are not waited for any more.
    forgiven: u64,
    /// How often nothing was done for [`QUIET`].
    pub(super) stalls: u64,
}

impl Window {
    pub(super) const fn new(limit: Option<u64>) -> Self {
        Self { limit, done: AtomicU64::new(0), wake_at: AtomicU64::new(u64::MAX), room: Notify::const_new() }
    }

    /// One more is done.
    pub(super) fn handle_done(&self) {
        self.handle_all_done(1);
    }

    /// So many more are done.
    pub(super) fn handle_all_done(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::SeqCst).wrapping_add(count);
        if done >= self.wake_at.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Whoever waits looks again.
    pub(super) fn wake(&self) {
        self.wake_at.store(u64::MAX, Ordering::SeqCst);
        self.room.notify_one();
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// How many have to be done before `more` may be asked for besides `asked`, and how many it is worth to wait for.
    fn target(limit: u64, asked: u64, more: u64, forgiven: u64) -> (u64, u64) {
        let needed = (asked + more).saturating_sub(limit).saturating_sub(forgiven);
        // Waking up for a part of the window at once is cheaper than for each message.
        let worth = (needed + limit / 4).min(asked.saturating_sub(forgiven)).max(needed);
        (needed, worth)
    }

    /// Waits until `more` may be asked for besides `asked`; false when it was woken by [`Self::wake`] or nothing was done for long.
    pub(super) async fn has_room(&self, asked: u64, more: u64, waiting: &mut Waiting) -> bool {
        let Some(limit) = self.limit else { return true };
        let done = self.done();
        // What was given up and came after all is no longer outstanding.
        waiting.forgiven = waiting.forgiven.min(asked.saturating_sub(done));
        let (needed, worth) = Self::target(limit.max(more), asked, more, waiting.forgiven);
        if done >= needed {
            return true;
        }
        self.wake_at.store(worth, Ordering::SeqCst);
        if self.done() < worth && timeout(QUIET, self.room.notified()).await.is_err() {
            if self.done() == done {
                waiting.stalls += 1;
                waiting.forgiven = asked.saturating_sub(done);
            }
            return false;
        }
        self.done() >= needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_says_what_to_wait_for() {
        // limit, asked, more, forgiven; needed, worth waiting for
        let check = |limit, asked, more, forgiven, expected: (u64, u64)| {
            let target = Window::target(limit, asked, more, forgiven);
            assert_eq!(target, expected, "{limit} {asked} {more} {forgiven}");
        };
        check(1, 0, 1, 0, (0, 0));
        check(1, 1, 1, 0, (1, 1));
        check(64, 63, 1, 0, (0, 16));
        check(64, 64, 1, 0, (1, 17));
        check(64, 1_000, 1, 0, (937, 953));
        check(64, 1_000, 1, 64, (873, 889));
        check(400, 400, 100, 0, (100, 200));
        check(100, 100, 100, 0, (100, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_waits_for_room_and_not_for_ever() {
        let window = Window::new(Some(2));
        let mut waiting = Waiting::default();
        assert!(window.has_room(0, 1, &mut waiting).await);
        assert!(window.has_room(1, 1, &mut waiting).await);
        let (has_room, ()) = tokio::join!(window.has_room(2, 1, &mut waiting), async {
            tokio::task::yield_now().await;
            window.handle_done();
        });
        assert!(has_room);
        assert!(!window.has_room(3, 1, &mut waiting).await, "nothing came");
        assert_eq!((waiting.stalls, waiting.forgiven), (1, 2));
        assert!(window.has_room(3, 1, &mut waiting).await, "so it is not waited for");
        assert!(window.has_room(4, 1, &mut waiting).await);
        for _ in 0..4 {
            window.handle_done();
        }
        assert!(window.has_room(5, 1, &mut waiting).await);
        assert_eq!(waiting.forgiven, 0, "it came after all");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_can_be_woken() {
        let window = Window::new(Some(1));
        let mut waiting = Waiting::default();
        let (has_room, ()) = tokio::join!(window.has_room(1, 1, &mut waiting), async {
            tokio::task::yield_now().await;
            window.wake();
        });
        assert!(!has_room);
        assert_eq!(waiting.stalls, 0);
        assert!(Window::new(None).has_room(1_000_000, 1, &mut waiting).await);
    }
}
