//! The window in which a publisher's dedup key makes a publish idempotent, scoped to (user, address).
//!
//! Two bounds, whichever comes first: [`limits::DEDUP_WINDOW_MS`] and [`limits::DEDUP_KEYS_PER_SHARD`]. When the second is hit the
//! oldest key is forgotten early, and that is counted. Time is an argument.

use crate::id::MessageId;
use crate::limits;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// What was answered to the first publish with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    pub id: MessageId,
    pub recipients: u32,
}

/// Whose turn a publish with a dedup key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Nobody else's: go on with this id.
    First { id: MessageId },
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
    /// Takes the key for `id` unless an earlier publish within the window has it. After [`Begin::First`],
    /// [`Self::finish`] or [`Self::forget`] must follow. Asking and taking is one step, so that of two
    /// publishers only one goes on.
    pub fn begin(&mut self, scoped_key: &str, id: MessageId, now_ms: u64) -> Begin {
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
        Begin::First { id }
    }

    /// Keeps the answer of a publish that went through.
    pub fn finish(&mut self, scoped_key: &str, answer: Remembered) {
        if let Some((slot, _)) = self.answers.get_mut(scoped_key) {
            *slot = Some(answer);
        }
    }

    /// Frees the key of a publish that failed, so that it can be tried again.
    pub fn forget(&mut self, scoped_key: &str) {
        self.answers.remove(scoped_key);
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

    fn first(count: u64) -> Begin {
        Begin::First { id: id(count) }
    }

    #[test]
    fn only_the_first_of_two_publishers_goes_on() {
        let mut window = Window::default();
        assert_eq!(window.begin("k", id(1), 1_000), first(1));
        assert_eq!(window.begin("k", id(2), 1_000), Begin::UnderWay);
        let answer = Remembered { id: id(1), recipients: 7 };
        window.finish("k", answer);
        assert_eq!(window.begin("k", id(3), 1_000 + limits::DEDUP_WINDOW_MS - 1), Begin::Done(answer));
        assert_eq!(window.begin("k", id(4), 1_000 + limits::DEDUP_WINDOW_MS), first(4));
    }

    #[test]
    fn a_failed_publish_frees_its_key() {
        let mut window = Window::default();
        assert_eq!(window.begin("k", id(1), 0), first(1));
        window.forget("k");
        assert_eq!(window.begin("k", id(2), 10), first(2));
        // The first publish's age ends before the second's.
        assert_eq!(window.begin("k", id(3), limits::DEDUP_WINDOW_MS), Begin::UnderWay);
        assert_eq!(window.begin("k", id(4), limits::DEDUP_WINDOW_MS + 10), first(4));
    }

    #[test]
    fn a_full_window_forgets_the_oldest_and_counts() {
        let mut window = Window::default();
        for count in 0..=limits::DEDUP_KEYS_PER_SHARD as u64 {
            assert_eq!(window.begin(&count.to_string(), id(count), 5), first(count));
        }
        assert_eq!(window.begin("1", id(0), 5), Begin::UnderWay);
        assert_eq!(window.begin("0", id(0), 5), first(0));
        assert_eq!(window.forgotten_early(), 2);
        assert_eq!(window.answers.len(), limits::DEDUP_KEYS_PER_SHARD);
    }
}
