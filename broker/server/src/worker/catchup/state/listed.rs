//! The wildcards of which a session lists the addresses.
//!
//! Invariants: one part of one listing is on its way, and none while many of the addresses found before are still to be read.
//! Listings go in their order, so that a resume comes to each address once, and needs not remember which it came to: what
//! lies behind the last one of a listing, and belongs to none before it, is still to come.

use super::super::Start;
use super::super::listing::Wanted;
use super::Catching;
use crate::worker::resume::Seen;
use crate::worker::scan::Scan;
use hashbrown::HashSet;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use waspmq_core::message::Batch;
use waspmq_core::{Address, Pattern, limits};

/// A pattern whose addresses are being listed.
#[derive(Debug)]
pub(in super::super) struct Listed {
    pub(in super::super) pattern: Pattern,
    pub(in super::super) start: Start,
    /// The last address that it has come to.
    pub(super) upto: Option<Address>,
    /// What came for those behind it and is not stored.
    pub(super) held: VecDeque<Arc<Batch>>,
    /// Those of them to which something that is stored was published while a part is on its way, which may lack them: the first
    /// ones.
    fresh: BTreeSet<Address>,
    /// Whether there are more, so that the part counts up to the last of these.
    has_more_fresh: bool,
    /// Of the part that was asked for.
    pub(super) number: u64,
    /// `None` when the next part is to be asked for.
    pub(super) asked_us: Option<u64>,
}

/// A part of a listing.
pub(in super::super) struct Part {
    pub(in super::super) start: Start,
    pub(in super::super) addresses: BTreeSet<Address>,
    /// What came for these, or for others that have nothing stored, and is not stored.
    pub(in super::super) held: Vec<Arc<Batch>>,
}

/// What a resume has come to: patterns overlap.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    pub(super) addresses: HashSet<Address, foldhash::fast::RandomState>,
    /// Wildcards, and the last address that was listed of those that were given up before their end.
    pub(super) patterns: Vec<(Pattern, Option<Address>)>,
}

impl Resumed {
    pub(super) fn holds(&self, to: &Address) -> bool {
        let is_listed = |(pattern, upto): &(Pattern, Option<Address>)| {
            pattern.matches(to) && upto.as_ref().is_none_or(|upto| to <= upto)
        };
        self.addresses.contains(to) || self.patterns.iter().any(is_listed)
    }
}

impl Catching {
    /// Lists the addresses of a wildcard, behind those that are being listed. One that was asked for before and has not begun
    /// begins where this one does.
    pub(in super::super) fn begin_listing(&mut self, pattern: &Pattern, start: Start) {
        let is_waiting = |listed: &&mut Listed| {
            let has_begun = listed.asked_us.is_some() || listed.upto.is_some();
            listed.pattern == *pattern && !has_begun && !listed.is_of_resume()
        };
        match self.listings.iter_mut().find(is_waiting) {
            Some(listed) => listed.start = start,
            None => self.listings.push(Listed::new(pattern.clone(), start)),
        }
    }

    /// The next part to ask for.
    pub(in super::super) fn next_listing(&mut self, now_us: u64) -> Option<Wanted> {
        let is_full = self.addresses.len() > limits::CATCH_UP_ADDRESSES_MAX / 2;
        if is_full || self.is_stalled || self.listings.iter().any(|listed| listed.asked_us.is_some()) {
            return None;
        }
        let number = self.next_number();
        let listed = self.listings.first_mut()?;
        // What was published before this is asked for is found.
        listed.fresh.clear();
        (listed.has_more_fresh, listed.number, listed.asked_us) = (false, number, Some(now_us));
        let seen = listed.of_resume().map(|(_, seen)| seen.clone());
        Some(Wanted { pattern: listed.pattern.clone(), seen, after: listed.upto.clone(), number })
    }

    /// A part was not asked for, or the store failed: the next sweep asks.
    pub(in super::super) fn handle_unlisted(&mut self, number: u64) {
        if let Some(listed) = self.listings.iter_mut().find(|listed| listed.number == number) {
            listed.asked_us = None;
            self.is_stalled = true;
        }
    }

    /// The pattern of the part that is on its way.
    pub(in super::super) fn listed_pattern(&self, number: u64) -> Option<Pattern> {
        let listed = self.listings.iter().find(|listed| listed.number == number)?;
        Some(listed.pattern.clone())
    }

    /// A part has come.
    pub(in super::super) fn handle_scan(&mut self, number: u64, scan: Scan) -> Option<Part> {
        let index = self.listings.iter().position(|listed| listed.number == number)?;
        let listed = self.listings.get_mut(index)?;
        listed.asked_us = None;
        let Scan { found, upto } = scan;
        let end = listed.fresh.last().filter(|_| listed.has_more_fresh).cloned();
        let upto = upto.into_iter().chain(end).min();
        let is_listed = |to: &Address| upto.as_ref().is_none_or(|upto| to <= upto);
        let fresh = std::mem::take(&mut listed.fresh);
        let mut addresses: BTreeSet<_> = found.into_iter().chain(fresh).filter(is_listed).collect();
        if listed.is_of_resume() {
            addresses.retain(|to| !self.resumed.holds(to));
        }
        let (gone, held) = std::mem::take(&mut listed.held).into_iter().partition(|held| is_listed(&held.to));
        listed.held = held;
        let start = listed.start.clone();
        if upto.is_some() {
            listed.upto = upto;
        } else {
            let over = self.listings.remove(index);
            if over.is_of_resume() {
                self.resumed.patterns.push((over.pattern, None));
            }
        }
        self.release(&gone);
        Some(Part { start, addresses, held: gone.into() })
    }
}

impl Listed {
    pub(in super::super) fn new(pattern: Pattern, start: Start) -> Self {
        let (held, fresh) = (VecDeque::new(), BTreeSet::new());
        Self { pattern, start, upto: None, held, fresh, has_more_fresh: false, number: 0, asked_us: None }
    }

    /// Its pattern and what the client has seen, where it is a resume that lists.
    pub(super) const fn of_resume(&self) -> Option<(&Pattern, &Arc<Seen>)> {
        if let Start::Seen(seen) = &self.start { Some((&self.pattern, seen)) } else { None }
    }

    pub(super) const fn is_of_resume(&self) -> bool {
        matches!(self.start, Start::Seen(_))
    }

    /// Something that is stored was published to an address that is still to come. The next part that is asked for finds it.
    pub(super) fn note_fresh(&mut self, to: &Address) {
        let is_behind = self.has_more_fresh && self.fresh.last().is_some_and(|last| to > last);
        if self.asked_us.is_none() || is_behind || self.fresh.contains(to) {
            return;
        }
        self.fresh.insert(to.clone());
        if self.fresh.len() > limits::CATCH_UP_ADDRESSES_MAX {
            self.fresh.pop_last();
            self.has_more_fresh = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::batch;
    use super::super::{ANSWER_WAIT_US, Begin};
    use super::*;
    use crate::worker::resume::tests::record;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    /// A session that lists these patterns: those of a resume, or anew.
    fn listing(patterns: &[&str], is_resume: bool) -> Catching {
        let seen = Arc::new(Seen::new(&record(Vec::new()), &[]));
        let mut catching = Catching::new(1_000);
        for of in patterns {
            let start = if is_resume { Start::Seen(seen.clone()) } else { Start::Earliest };
            catching.begin_listing(&pattern(of), start);
        }
        catching
    }

    /// A part with these addresses, up to the one that is given.
    fn scan(found: &[&str], upto: Option<&str>) -> Scan {
        Scan { found: found.iter().map(|to| address(to)).collect(), upto: upto.map(address) }
    }

    /// Asks for the next part, which comes as it is given. Gives what is to be read.
    fn take(catching: &mut Catching, part: Scan) -> Vec<String> {
        let number = catching.next_listing(1).unwrap().number;
        read(catching, number, part)
    }

    fn read(catching: &mut Catching, number: u64, part: Scan) -> Vec<String> {
        let part = catching.handle_scan(number, part).unwrap();
        part.addresses.iter().map(|to| to.as_str().to_owned()).collect()
    }

    #[test]
    fn parts_follow_each_other_one_at_a_time() {
        let mut catching = listing(&["topic/>", "topic/*"], false);
        let first = catching.next_listing(1).unwrap();
        assert_eq!((first.pattern.as_str(), first.after), ("topic/>", None));
        assert!(catching.next_listing(1).is_none(), "one is on its way");
        let found = read(&mut catching, first.number, scan(&["topic/a", "topic/b"], Some("topic/b")));
        assert_eq!(found, ["topic/a", "topic/b"]);
        let second = catching.next_listing(2).unwrap();
        assert_eq!((second.pattern.as_str(), second.after), ("topic/>", Some(address("topic/b"))));
        assert!(catching.handle_scan(first.number, scan(&["topic/x"], None)).is_none(), "the same twice");
        assert_eq!(read(&mut catching, second.number, scan(&["topic/c"], None)), ["topic/c"]);
        assert_eq!(catching.next_listing(3).unwrap().pattern, pattern("topic/*"));
        assert_eq!(catching.listings.len(), 1);
    }

    #[test]
    fn the_next_part_waits_until_most_of_the_one_before_is_read() {
        let mut catching = listing(&["topic/>"], false);
        let most = limits::CATCH_UP_ADDRESSES_MAX;
        let all: Vec<_> = (0..most).map(|index| address(&format!("topic/n{index:05}"))).collect();
        let number = catching.next_listing(1).unwrap().number;
        let upto = all.last().cloned();
        let part = catching.handle_scan(number, Scan { found: all.clone(), upto }).unwrap();
        for to in part.addresses {
            catching.begin(&to, 1, (Start::Earliest, Begin::Earliest, None));
        }
        for (left, to) in (0..most).rev().zip(&all) {
            assert!(catching.next_listing(2).is_none(), "{}", left + 1);
            let position = batch(to, true, 1).first;
            catching.end(to, (None, position));
            if left <= most / 2 {
                break;
            }
        }
        assert!(catching.next_listing(2).is_some());
    }

    #[test]
    fn what_is_stored_is_left_to_the_store_until_the_listing_comes_to_it() {
        let mut catching = listing(&["topic/>"], false);
        let hold = |catching: &mut Catching, to: &str| {
            catching.hold(&[batch(&address(to), true, limits::CATCH_UP_HELD_BYTES_MAX)], true)
        };
        assert_eq!(hold(&mut catching, "topic/a"), Some(0), "before it was asked for");
        assert_eq!(take(&mut catching, scan(&["topic/a", "topic/c"], Some("topic/c"))).len(), 2);
        assert_eq!(hold(&mut catching, "topic/b"), None, "the listing has passed it");
        let number = catching.next_listing(2).unwrap().number;
        for to in ["topic/d", "topic/d", "topic/e", "topic/f"] {
            assert_eq!(hold(&mut catching, to), Some(0));
        }
        assert!(catching.will_send(&batch(&address("topic/e"), true, 1)));
        let found = read(&mut catching, number, scan(&["topic/e"], Some("topic/e")));
        assert_eq!(found, ["topic/d", "topic/e"], "d came while the part was on its way");
        let number = catching.next_listing(3).unwrap().number;
        assert_eq!(read(&mut catching, number, scan(&["topic/f"], None)), ["topic/f"], "once");
        assert!(!catching.has_gap && catching.held_bytes == 0);
    }

    #[test]
    fn a_part_that_may_lack_too_many_counts_as_far_as_it_lacks_none() {
        let most = limits::CATCH_UP_ADDRESSES_MAX;
        let names: Vec<_> = (0..most + 2).map(|index| format!("topic/n{index:05}")).collect();
        let [last, behind, end] = [most - 1, most, most + 1].map(|index| names[index].as_str());
        let all: Vec<_> = names.iter().collect();
        // The last ones come first, last, or both, and some twice.
        let orders = [all.clone(), all.iter().copied().rev().collect()];
        for order in orders.into_iter().map(|order| [order.clone(), order].concat()) {
            let mut catching = listing(&["topic/>"], false);
            let number = catching.next_listing(1).unwrap().number;
            for to in order {
                assert_eq!(catching.hold(&[batch(&address(to), true, 1)], true), Some(0));
            }
            let held = batch(&address(behind), false, 1);
            assert_eq!(catching.hold(&[held], true), Some(0));
            let part = catching.handle_scan(number, scan(&["topic/m", last, end], None)).unwrap();
            assert_eq!((part.addresses.len(), part.held.len()), (most + 1, 0));
            assert_eq!(part.addresses.last(), Some(&address(last)));
            let next = catching.next_listing(2).unwrap();
            assert_eq!(next.after, Some(address(last)), "it gets on, however much is published");
            let part = catching.handle_scan(next.number, scan(&[behind, end], None)).unwrap();
            assert_eq!((part.addresses.len(), part.held.len()), (2, 1));
            assert!(catching.listings.is_empty());
        }
    }

    #[test]
    fn what_is_not_stored_is_held_until_the_listing_has_passed_it() {
        let mut catching = listing(&["topic/>"], false);
        let live = |to: &str| batch(&address(to), false, 100);
        let kept: Vec<_> = ["topic/a", "topic/c"].into_iter().map(live).collect();
        for batch in &kept {
            assert_eq!(catching.hold(std::slice::from_ref(batch), true), Some(0));
        }
        assert_eq!(catching.hold(&[live("topic/d")], false), None, "nothing is stored there");
        let number = catching.next_listing(1).unwrap().number;
        let part = catching.handle_scan(number, scan(&["topic/a"], Some("topic/b"))).unwrap();
        assert!(part.held.len() == 1 && Arc::ptr_eq(&part.held[0], &kept[0]));
        assert!(catching.holds_unstored());
        let number = catching.next_listing(1).unwrap().number;
        let part = catching.handle_scan(number, scan(&[], None)).unwrap();
        assert!(part.held.len() == 1 && !catching.holds_unstored() && catching.held_bytes == 0);
    }

    #[test]
    fn a_resume_comes_to_each_address_once() {
        let mut catching = listing(&["topic/a.>", "topic/*.x", "topic/>"], true);
        catching.note_resumed(&address("topic/a.own"));
        assert_eq!(catching.hold(&[batch(&address("topic/a.own"), true, 1)], true), None, "it is live");
        assert_eq!(take(&mut catching, scan(&["topic/a.own", "topic/a.x"], None)), ["topic/a.x"]);
        assert_eq!(catching.hold(&[batch(&address("topic/a.y"), true, 1)], true), None);
        let found = take(&mut catching, scan(&["topic/a.x", "topic/b.x"], Some("topic/b.x")));
        assert_eq!(found, ["topic/b.x"]);
        // What was listed of one that ends stays listed.
        catching.stop(&pattern("topic/*.x"), |_| true);
        let found = take(&mut catching, scan(&["topic/a.x", "topic/b.x", "topic/c.x"], None));
        assert_eq!(found, ["topic/c.x"]);
        catching.tidy_resumed();
        assert!(catching.resumed.addresses.is_empty() && catching.resumed.patterns.is_empty());
    }

    #[test]
    fn what_a_resume_came_to_is_forgotten_with_its_last_listing() {
        let patterns = ["topic/*", "topic/>"];
        let mut catching = listing(&patterns, true);
        catching.note_resumed(&address("topic/a"));
        for (of, left) in patterns.iter().zip([1, 0]) {
            catching.stop(&pattern(of), |_| false);
            assert_eq!(catching.resumed.addresses.len(), left);
        }
    }

    #[test]
    fn a_pattern_that_is_asked_for_again_before_it_begins_is_listed_once() {
        let mut catching = listing(&["topic/*", "topic/*", "topic/>", "topic/>"], false);
        assert_eq!(catching.listings.len(), 2);
        catching.next_listing(1).unwrap();
        catching.begin_listing(&pattern("topic/*"), Start::Last);
        catching.begin_listing(&pattern("topic/*"), Start::Time(3));
        assert_eq!(catching.listings.len(), 3, "the one that has begun goes on");
        assert!(matches!(catching.listings[2].start, Start::Time(3)));
    }

    #[test]
    fn a_lost_part_is_asked_for_again_and_is_none_when_it_comes_late() {
        let mut catching = listing(&["topic/*"], false);
        let lost = catching.next_listing(0).unwrap().number;
        catching.handle_time(ANSWER_WAIT_US - 1);
        assert!(catching.next_listing(ANSWER_WAIT_US - 1).is_none());
        catching.handle_time(ANSWER_WAIT_US);
        let number = catching.next_listing(ANSWER_WAIT_US).unwrap().number;
        assert!(number > lost && catching.handle_scan(lost, scan(&[], None)).is_none());
        catching.handle_unlisted(number);
        assert!(catching.next_listing(ANSWER_WAIT_US).is_none(), "the sweep asks again");
        catching.handle_time(ANSWER_WAIT_US);
        assert!(catching.next_listing(ANSWER_WAIT_US).is_some());
    }
}
