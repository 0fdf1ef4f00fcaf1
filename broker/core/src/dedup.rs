//! The window in which a publisher's dedup key makes a publish idempotent, scoped to (user, address).
//!
//! Two bounds, whichever comes first: [`limits::DEDUP_WINDOW_MS`] and [`limits::DEDUP_KEYS_PER_SHARD`]. When the second is hit the
//! oldest key is forgotten early, and that is counted. Time is an argument.
//!
//! Publishes are numbered, also over restarts: a store keeps the key of a publish under its number modulo the second bound, so
//! that one is overwritten there when it is forgotten here.

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

/// A key as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Of the address that it was used with.
    pub shard: u16,
    /// That of its publish in the shard.
    pub number: u64,
    /// See [`scoped_key`].
    pub text: Arc<str>,
    pub answer: Remembered,
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
    /// Until when each key is remembered, with the number of the publish that brought it, oldest first.
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
        // A record of a store may say any number.
        self.publishes = self.publishes.wrapping_add(1);
        while self.ages.front().is_some_and(|(_, first, _)| self.publishes.wrapping_sub(*first) >= KEYS_MAX) {
            self.forget_oldest();
            self.forgotten_early += 1;
        }
        let key: Arc<str> = scoped_key.into();
        self.answers.insert(key.clone(), (None, self.publishes));
        self.ages.push_back((now_ms + limits::DEDUP_WINDOW_MS, self.publishes, key));
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

    /// Takes back the keys of an earlier run, before the first publish of this one. Those whose window has ended only say
    /// where numbers go on.
    pub fn restore(&mut self, mut keys: Vec<Key>, (now_unix_ms, now_ms): (u64, u64)) {
        keys.sort_unstable_by_key(|key| key.number);
        for Key { number, text, answer, .. } in keys {
            self.publishes = number;
            // Where the clock was set back meanwhile, for one window from now.
            let age_ms = now_unix_ms.saturating_sub(answer.id.unix_ms());
            if age_ms < limits::DEDUP_WINDOW_MS {
                self.answers.insert(text.clone(), (Some(answer), number));
                self.ages.push_back((now_ms + limits::DEDUP_WINDOW_MS - age_ms, number, text));
            }
        }
    }

    /// Keys forgotten before their window ended, because the shard had no room.
    pub const fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    fn expire(&mut self, now_ms: u64) {
        while self.ages.front().is_some_and(|(until, ..)| now_ms >= *until) {
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

const KEYS_MAX: u64 = limits::DEDUP_KEYS_PER_SHARD as u64;

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

    /// The key of a publish of an earlier run, with its time.
    fn kept(number: u64, unix_ms: u64) -> Key {
        let id = MessageId::new(unix_ms, 0, 0, number);
        let answer = Remembered { id, recipients: 2, level: Level::Stored };
        Key { shard: 3, number, text: format!("k{number}").into(), answer }
    }

    #[test]
    fn keys_of_an_earlier_run_live_as_long_as_they_would_have() {
        let mut window = Window::default();
        let now_unix_ms = 10 * limits::DEDUP_WINDOW_MS;
        let keys = [(9, 0), (7, limits::DEDUP_WINDOW_MS), (8, 1_000), (6, limits::DEDUP_WINDOW_MS - 1)];
        let keys = keys.map(|(number, age_ms)| kept(number, now_unix_ms - age_ms));
        window.restore(keys.clone().into(), (now_unix_ms, 5));
        assert!(matches!(window.begin("k7", 5), Begin::First(10)), "its window has ended; numbers go on");
        assert_eq!(window.begin("k6", 5), Begin::Done(keys[3].answer));
        assert!(matches!(window.begin("k6", 6), Begin::First(11)));
        assert_eq!(window.begin("k8", limits::DEDUP_WINDOW_MS - 996), Begin::Done(keys[2].answer));
        assert!(matches!(window.begin("k8", limits::DEDUP_WINDOW_MS - 995), Begin::First(12)));
        assert_eq!(window.begin("k9", limits::DEDUP_WINDOW_MS + 4), Begin::Done(keys[0].answer));
        assert!(matches!(window.begin("k9", limits::DEDUP_WINDOW_MS + 5), Begin::First(13)));
    }

    #[test]
    fn a_clock_that_was_set_back_lets_a_key_live_for_one_window() {
        let mut window = Window::default();
        window.restore(vec![kept(1, u64::MAX >> 20)], (1_000, 50));
        assert!(matches!(window.begin("k1", 49 + limits::DEDUP_WINDOW_MS), Begin::Done(_)));
        assert!(matches!(window.begin("k1", 50 + limits::DEDUP_WINDOW_MS), Begin::First(2)));
    }

    #[test]
    fn a_key_of_an_earlier_run_is_forgotten_when_its_place_in_the_store_is_taken() {
        let mut window = Window::default();
        window.restore(vec![kept(100, 0), kept(500, 0)], (0, 0));
        for count in 501..100 + KEYS_MAX {
            assert_eq!(window.begin(&count.to_string(), 0), Begin::First(count));
        }
        assert!(matches!(window.begin("k100", 0), Begin::Done(_)));
        assert!(matches!(window.begin("one more", 0), Begin::First(_)));
        assert_eq!(window.forgotten_early(), 1);
        assert!(matches!(window.begin("k100", 0), Begin::First(_)));
        assert!(matches!(window.begin("k500", 0), Begin::Done(_)));
    }

    #[test]
    fn numbers_go_on_behind_the_last_one() {
        let mut window = Window::default();
        window.restore(vec![kept(u64::MAX, 0), kept(u64::MAX - 7, 0)], (0, 0));
        assert_eq!((begin(&mut window, "a", 0), begin(&mut window, "b", 0)), (0, 1));
        let last = format!("k{}", u64::MAX);
        assert!(matches!(window.begin(&last, 0), Begin::Done(_)));
        (2..KEYS_MAX - 1).for_each(|count| assert_eq!(begin(&mut window, &count.to_string(), 0), count));
        assert!(matches!(window.begin(&last, 0), Begin::Done(_)));
        assert!(
            begin(&mut window, "one more", 0) == KEYS_MAX - 1 && begin(&mut window, &last, 0) == KEYS_MAX
        );
        assert_eq!(window.forgotten_early(), 3);
    }

    #[test]
    fn of_two_publishes_with_one_key_the_later_one_counts() {
        let mut window = Window::default();
        // The first one failed, and the store did not hear of it.
        let again = Key { text: "k1".into(), ..kept(2, 20) };
        window.restore(vec![again.clone(), kept(1, 10)], (20, 0));
        assert_eq!(window.begin("k1", limits::DEDUP_WINDOW_MS - 1), Begin::Done(again.answer));
        assert!(matches!(window.begin("k1", limits::DEDUP_WINDOW_MS), Begin::First(3)));
    }
}
