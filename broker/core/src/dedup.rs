//! The window in which a publisher's dedup key makes a publish idempotent, scoped to (user, address).
//!
//! Two bounds, whichever comes first: [`limits::DEDUP_WINDOW_MS`] and [`limits::DEDUP_KEYS_PER_SHARD`]. When the second is hit the
//! oldest key is forgotten early, and that is counted. Time is an argument.

use crate::id::MessageId;
use crate::level::Level;
use crate::limits;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// What was answered to the first publish with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    pub id: MessageId,
    pub recipients: u32,
    /// What was reached.
    pub level: Level,
}

/// Whose turn a publish with a dedup key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Nobody else's: go on. The number is that of this publish.
    First(u64),
    /// It was published before.
    Done(Remembered),
    /// Another worker is at it, and it may still fail.
    UnderWay,
}

/// The keys of one shard, oldest first.
#[derive(Debug, Default)]
pub struct Window {
    /// The answer by key, none while the publish is under way, and the number of that publish.
    answers: HashMap<Arc<str>, (Option<Remembered>, u64), foldhash::fast::RandomState>,
    /// Each key with the number of the publish that brought it, oldest first.
    ages: VecDeque<(u64, u64, Arc<str>)>,
    publishes: u64,
    forgotten_early: u64,
}

impl Window {
    /// Takes the key unless an earlier publish within the window has it. After [`Begin::First`],
    /// [`Self::finish`] or [`Self::forget`] must follow. Asking and taking is one step, so that of two
    /// publishers only one goes on.
    pub fn begin(&mut self, scoped_key: &str, now_ms: u64) -> Begin {
        self.expire(now_ms);
        match self.answers.get(scoped_key) {
            Some((Some(answer), _)) => return Begin::Done(*answer),
            Some((None, _)) => return Begin::UnderWay,
            None => {}
        }
        if self.ages.len() >= limits::DEDUP_KEYS_PER_SHARD {
            self.forget_oldest();
            self.forgotten_early += 1;
        }
        self.publishes += 1;
        let key: Arc<str> = scoped_key.into();
        self.answers.insert(key.clone(), (None, self.publishes));
        self.ages.push_back((now_ms, self.publishes, key));
        Begin::First(self.publishes)
    }

    /// Keeps the answer of a publish that went through. Where a later publish has the key, nothing.
    pub fn finish(&mut self, scoped_key: &str, publish: u64, answer: Remembered) {
        if let Some((slot, current)) = self.answers.get_mut(scoped_key)
            && *current == publish
        {
            *slot = Some(answer);
        }
    }

    /// Frees the key of a publish that failed, so that it can be tried again. Where a later publish has the key,
    /// nothing.
    pub fn forget(&mut self, scoped_key: &str, publish: u64) {
        if self.answers.get(scoped_key).is_some_and(|(_, current)| *current == publish) {
            self.answers.remove(scoped_key);
        }
    }

    /// Keys forgotten before their window ended, because the shard had no room.
    pub const fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    fn expire(&mut self, now_ms: u64) {
        while self
            .ages
            .front()
            .is_some_and(|(then, ..)| now_ms.saturating_sub(*then) >= limits::DEDUP_WINDOW_MS)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, publish, key)) = self.ages.pop_front() else { return };
        // A key that was freed and taken again belongs to a later publish.
        if self.answers.get(&key).is_some_and(|(_, current)| *current == publish) {
            self.answers.remove(&key);
        }
    }
}

/// One text for (user, address, key). `#` and white space cannot occur in names, so scopes never collide.
pub fn scoped_key(user: &str, address: &str, key: &str) -> String {
    format!("{user}#{address}#{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(count: u64) -> MessageId {
        MessageId::new(0, 0, 0, count)
    }

    fn begin(window: &mut Window, key: &str, now_ms: u64) -> u64 {
        match window.begin(key, now_ms) {
            Begin::First(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_first_of_two_publishers_goes_on() {
        let mut window = Window::default();
        let first = begin(&mut window, "k", 1_000);
        assert_eq!(window.begin("k", 1_000), Begin::UnderWay);
        let answer = Remembered { id: id(1), recipients: 7, level: Level::Accepted };
        window.finish("k", first, answer);
        assert_eq!(window.begin("k", 1_000 + limits::DEDUP_WINDOW_MS - 1), Begin::Done(answer));
        assert!(matches!(window.begin("k", 1_000 + limits::DEDUP_WINDOW_MS), Begin::First(_)));
    }

    #[test]
    fn a_failed_publish_frees_its_key() {
        let mut window = Window::default();
        let first = begin(&mut window, "k", 0);
        window.forget("k", first);
        assert!(matches!(window.begin("k", 10), Begin::First(_)));
        // The first publish's age ends before the second's.
        assert_eq!(window.begin("k", limits::DEDUP_WINDOW_MS), Begin::UnderWay);
        assert!(matches!(window.begin("k", limits::DEDUP_WINDOW_MS + 10), Begin::First(_)));
    }

    #[test]
    fn a_publish_that_outlived_its_window_leaves_the_key_to_the_next() {
        let mut window = Window::default();
        let first = begin(&mut window, "k", 0);
        let second = begin(&mut window, "k", limits::DEDUP_WINDOW_MS);
        let answer = |count| Remembered { id: id(count), recipients: 1, level: Level::Stored };
        window.finish("k", first, answer(1));
        window.forget("k", first);
        assert_eq!(window.begin("k", limits::DEDUP_WINDOW_MS), Begin::UnderWay);
        window.finish("k", second, answer(2));
        assert_eq!(window.begin("k", limits::DEDUP_WINDOW_MS), Begin::Done(answer(2)));
    }

    #[test]
    fn a_full_window_forgets_the_oldest_and_counts() {
        let mut window = Window::default();
        for count in 0..=limits::DEDUP_KEYS_PER_SHARD as u64 {
            assert!(matches!(window.begin(&count.to_string(), 5), Begin::First(_)));
        }
        assert_eq!(window.begin("1", 5), Begin::UnderWay);
        assert!(matches!(window.begin("0", 5), Begin::First(_)));
        assert_eq!(window.forgotten_early(), 2);
        assert_eq!(window.answers.len(), limits::DEDUP_KEYS_PER_SHARD);
    }
}
