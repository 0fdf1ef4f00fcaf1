//! What is chosen where no policy does: by size, by what compressing was worth so far, and within a budget.

use super::{Audience, Codec, Codecs};

/// What adaptive compression may spend, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The part of a worker's time that compressing may take, 0 to 100. Beyond: messages go plain.
    pub cpu_percent: u32,
    /// Bytes of a message below which it goes plain.
    pub min_bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { cpu_percent: 10, min_bytes: 128 }
    }
}

/// A message as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    /// Bytes of the payload.
    pub size: usize,
    /// A number for what is alike: a hash of the address and the content type.
    pub kin: u64,
    /// The number of the dictionary that is there for the address: another one is another try. 0 without.
    pub dictionary: u32,
    pub audience: Audience,
}

/// What a choice was made for, to tell what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial(usize);

/// How long unspent budget is kept: a burst may take this times the share at once.
const KEPT_NS: u64 = 200_000_000;

/// A longer time without any message counts as this one.
const LONGEST_US: u64 = 60_000_000;

/// Places for what was measured. Two that share one are judged together.
const PLACES: usize = 512;

/// Of messages that are not worth compressing, one in this many is tried again.
const TRIED_AGAIN: u8 = 64;

/// The part of its bytes that a message must lose to be worth it, in 1/1024.
const WORTH: u16 = 1024 / 10;

/// Costs before anything is measured, ns for one byte in 1/16: high, so that the budget is not passed on the way to knowing.
const FIRST_COST: u32 = 16 * 16;

/// The most that a byte is taken to cost, as above.
const DEAREST: u32 = 1_000 * 16;

/// Ns that any compression costs, whatever the size.
const FIXED_NS: u64 = 1_000;

/// Adaptive compression of one worker. Time is an argument.
///
/// It never spends more than its budget: what a message will cost is estimated from those before, and taken from what
/// is there; a wrong estimate is paid back before the next one.
#[derive(Debug)]
pub struct Adaptive {
    budget: Budget,
    /// What may be spent now, ns; below 0 after a message was dearer than estimated.
    left_ns: i64,
    refilled_us: u64,
    /// Mean cost of each codec, ns for one byte in 1/16.
    costs: [u32; 4],
    places: Box<[Place; PLACES]>,
}

/// What was measured of messages that are alike.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// The mean part of the bytes that was saved, in 1/1024.
    saved: u16,
    is_measured: bool,
    /// Messages that were let pass since the last one that was tried.
    passed: u8,
}

impl Adaptive {
    pub fn new(budget: Budget, now_us: u64) -> Self {
        Self {
            budget,
            left_ns: 0,
            refilled_us: now_us,
            costs: [FIRST_COST; 4],
            places: Box::new([Place::default(); PLACES]),
        }
    }

    /// Whether messages of so many bytes go plain whatever else holds.
    pub const fn is_too_short(&self, size: usize) -> bool {
        size < self.budget.min_bytes
    }

    /// The codec for a message, the best of those that are worth it and within the budget; `None` is to send it plain.
    /// To be followed by [`Self::measured`].
    pub fn choose(&mut self, subject: Subject, now_us: u64) -> Option<(Codec, Trial)> {
        if self.is_too_short(subject.size) {
            return None;
        }
        self.refill(now_us);
        for codec in preferred(subject.audience) {
            let place = place_of(subject, &codec);
            if self.has_time_for(&codec, subject.size) && self.is_worth_trying(place) {
                return Some((codec, Trial(place)));
            }
        }
        None
    }

    /// Whether the budget is enough now for what the message is thought to cost.
    fn has_time_for(&mut self, codec: &Codec, size: usize) -> bool {
        let needed_ns = i64::try_from(self.estimate_ns(codec, size)).unwrap_or(i64::MAX);
        // A cost that no message of this size ever has time for is not measured again by itself.
        if needed_ns > self.share_of(KEPT_NS)
            && let Some(cost) = index(codec).and_then(|index| self.costs.get_mut(index))
        {
            *cost -= *cost / 16;
        }
        needed_ns <= self.left_ns
    }

    /// Whether such messages shrank so far, or it is time to see again.
    fn is_worth_trying(&mut self, place: usize) -> bool {
        let place = &mut self.places[place];
        if !place.is_measured || place.saved >= WORTH {
            return true;
        }
        place.passed += 1;
        if place.passed < TRIED_AGAIN {
            return false;
        }
        place.passed = 0;
        true
    }

    /// What compressing a message of so many bytes came to: its bytes afterwards, and the time it took.
    pub fn measured(&mut self, (trial, size): (Trial, usize), codec: &Codec, packed: usize, spent_ns: u64) {
        self.left_ns = self.left_ns.saturating_sub(i64::try_from(spent_ns).unwrap_or(i64::MAX));
        let size = size.max(1) as u64;
        if let Some(cost) = index(codec).and_then(|index| self.costs.get_mut(index)) {
            let now = spent_ns.saturating_sub(FIXED_NS) * 16 / size;
            let now = u32::try_from(now).unwrap_or(u32::MAX);
            // Up fast and down slowly, but not by one message during which the thread was set aside.
            *cost = if now > *cost { now.min(*cost * 2) } else { *cost - (*cost - now).div_ceil(16) };
            *cost = (*cost).clamp(1, DEAREST);
        }
        let saved = size.saturating_sub(packed as u64) * 1024 / size;
        let saved = u16::try_from(saved).unwrap_or_default();
        let place = &mut self.places[trial.0 % PLACES];
        place.saved = if place.is_measured { place.saved - place.saved / 8 + saved / 8 } else { saved };
        place.is_measured = true;
    }

    fn refill(&mut self, now_us: u64) {
        let elapsed_ns = now_us.saturating_sub(self.refilled_us).min(LONGEST_US) * 1_000;
        self.refilled_us = now_us.max(self.refilled_us);
        self.left_ns = self.left_ns.saturating_add(self.share_of(elapsed_ns)).min(self.share_of(KEPT_NS));
    }

    fn share_of(&self, ns: u64) -> i64 {
        let share = ns * u64::from(self.budget.cpu_percent.min(100)) / 100;
        i64::try_from(share).unwrap_or(i64::MAX)
    }

    fn estimate_ns(&self, codec: &Codec, size: usize) -> u64 {
        let cost = index(codec).and_then(|index| self.costs.get(index)).copied().unwrap_or(FIRST_COST);
        FIXED_NS + size as u64 * u64::from(cost) / 16
    }
}

/// What is tried for those that take these codecs, the one that gains most for its cost first. Beside a
/// dictionary only the best of the others is tried: what that does not shrink, those behind it do not.
fn preferred(audience: Audience) -> impl Iterator<Item = Codec> {
    let takes = |codecs| audience.codecs.contains(codecs);
    let with_dictionary = audience.has_dictionary && takes(Codecs::DICTIONARY);
    let without = if takes(Codecs::ZSTD) {
        Some(Codec::Zstd { level: 1 })
    } else if takes(Codecs::LZ4) {
        Some(Codec::Lz4)
    } else if takes(Codecs::DEFLATE) {
        Some(Codec::Deflate { level: 1 })
    } else {
        None
    };
    with_dictionary.then_some(Codec::Dictionary { name: None }).into_iter().chain(without)
}

/// Where messages like this one are judged, with this codec.
fn place_of(subject: Subject, codec: &Codec) -> usize {
    let with = match codec {
        Codec::Dictionary { .. } => u64::from(subject.dictionary).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        // What LZ4 does not shrink, Zstandard may.
        other => (index(other).unwrap_or_default() as u64) << 1,
    };
    let mixed = (subject.kin ^ with).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as usize % PLACES
}

const fn index(codec: &Codec) -> Option<usize> {
    match codec {
        Codec::Plain => None,
        Codec::Lz4 => Some(0),
        Codec::Zstd { .. } => Some(1),
        Codec::Dictionary { .. } => Some(2),
        Codec::Deflate { .. } => Some(3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZSTD: Audience = Audience { codecs: Codecs::ZSTD, has_dictionary: false };
    const BOTH: Audience = Audience { codecs: Codecs::ZSTD.with(Codecs::DICTIONARY), has_dictionary: true };

    fn subject(size: usize, kin: u64) -> Subject {
        Subject { size, kin, dictionary: 0, audience: ZSTD }
    }

    /// Whether a message is compressed that then has so many bytes.
    fn is_tried(adaptive: &mut Adaptive, subject: Subject, now_us: u64, packed: usize) -> Option<Codec> {
        let (codec, trial) = adaptive.choose(subject, now_us)?;
        adaptive.measured((trial, subject.size), &codec, packed, 5_000);
        Some(codec)
    }

    #[test]
    fn small_messages_go_plain_and_large_ones_do_not() {
        let mut adaptive = Adaptive::new(Budget::default(), 0);
        assert_eq!(adaptive.choose(subject(127, 1), 1_000_000), None);
        assert!(matches!(adaptive.choose(subject(128, 1), 1_000_000), Some((Codec::Zstd { level: 1 }, _))));
    }

    #[test]
    fn the_best_codec_that_is_taken_is_chosen() {
        let all = Codecs::LZ4.with(Codecs::ZSTD).with(Codecs::DICTIONARY).with(Codecs::DEFLATE);
        let best = |codecs, has_dictionary| preferred(Audience { codecs, has_dictionary }).next();
        assert_eq!(best(all, true), Some(Codec::Dictionary { name: None }));
        assert_eq!(best(all, false), Some(Codec::Zstd { level: 1 }));
        assert_eq!(best(Codecs::LZ4.with(Codecs::DEFLATE), true), Some(Codec::Lz4));
        assert_eq!(best(Codecs::DEFLATE, true), Some(Codec::Deflate { level: 1 }));
        assert_eq!(best(Codecs::NONE, true), None);
    }

    #[test]
    fn what_does_not_shrink_is_tried_now_and_then() {
        let mut adaptive = Adaptive::new(Budget { cpu_percent: 100, min_bytes: 0 }, 0);
        let mut turn = 0;
        let mut tried = |adaptive: &mut Adaptive, packed, turns: u64| {
            let tries = (0..turns).filter(|_| {
                turn += 1;
                is_tried(adaptive, subject(1_000, 7), turn * 1_000_000, packed).is_some()
            });
            tries.count()
        };
        assert_eq!(tried(&mut adaptive, 990, 640), 10, "the first, and one in 64 of those behind it");
        tried(&mut adaptive, 200, 400);
        assert_eq!(tried(&mut adaptive, 200, 10), 10, "once it shrinks, all are compressed again");
    }

    #[test]
    fn a_dictionary_that_is_of_no_use_is_left_until_there_is_another() {
        let mut adaptive = Adaptive::new(Budget { cpu_percent: 100, min_bytes: 0 }, 0);
        let of = |dictionary| Subject { dictionary, audience: BOTH, ..subject(1_000, 7) };
        let by_dictionary = Some(Codec::Dictionary { name: None });
        assert_eq!(is_tried(&mut adaptive, of(1), 1_000_000, 950), by_dictionary);
        assert_eq!(is_tried(&mut adaptive, of(1), 2_000_000, 300), Some(Codec::Zstd { level: 1 }));
        assert_eq!(is_tried(&mut adaptive, of(2), 3_000_000, 100), by_dictionary);
        assert_eq!(is_tried(&mut adaptive, of(2), 4_000_000, 100), by_dictionary);
    }

    #[test]
    fn what_one_codec_does_not_shrink_another_may() {
        let mut adaptive = Adaptive::new(Budget { cpu_percent: 100, min_bytes: 0 }, 0);
        let takes = |codecs| Subject { audience: Audience { codecs, ..ZSTD }, ..subject(1_000, 7) };
        assert_eq!(is_tried(&mut adaptive, takes(Codecs::LZ4), 1_000_000, 990), Some(Codec::Lz4));
        assert_eq!(is_tried(&mut adaptive, takes(Codecs::LZ4), 2_000_000, 990), None);
        let zstd = is_tried(&mut adaptive, takes(Codecs::ZSTD), 3_000_000, 500);
        assert_eq!(zstd, Some(Codec::Zstd { level: 1 }));
    }

    #[test]
    fn one_slow_message_does_not_end_compression() {
        let mut adaptive = Adaptive::new(Budget::default(), 0);
        let mut now_us = 1_000_000;
        let mut compressed = 0;
        for number in 0..200 {
            now_us += 10_000;
            let Some((codec, trial)) = adaptive.choose(subject(100_000, 1), now_us) else { continue };
            compressed += 1;
            // The thread was set aside for half a second during the tenth.
            let spent_ns = if number == 10 { 500_000_000 } else { 400_000 };
            adaptive.measured((trial, 100_000), &codec, 30_000, spent_ns);
        }
        // Half a second is paid back in five, which is longer than the test: that much it costs.
        assert_eq!(compressed, 11);
        for _ in 0..1_000 {
            now_us += 10_000;
            if let Some((codec, trial)) = adaptive.choose(subject(100_000, 1), now_us) {
                compressed += 1;
                adaptive.measured((trial, 100_000), &codec, 30_000, 400_000);
            }
        }
        assert!(compressed > 600, "{compressed}");
    }

    proptest! {
        /// Whatever is asked and whatever it costs, no more is spent than the share of the time, but for what was kept
        /// up and one message that was dearer than any before.
        #[test]
        fn the_budget_holds(
            cpu_percent in 1_u32..50,
            messages in prop::collection::vec((100_usize..100_000, 0_u64..2_000, 1_u64..200), 1..2_000),
        ) {
            let mut adaptive = Adaptive::new(Budget { cpu_percent, min_bytes: 0 }, 0);
            let (mut now_us, mut spent_ns, mut dearest_ns) = (0, 0_u64, 0);
            for (size, wait_us, cost) in messages {
                now_us += wait_us;
                let Some((codec, trial)) = adaptive.choose(subject(size, 1), now_us) else { continue };
                let cost_ns = size as u64 * cost / 16;
                spent_ns += cost_ns;
                dearest_ns = dearest_ns.max(cost_ns);
                adaptive.measured((trial, size), &codec, size / 4, cost_ns);
            }
            let allowed = now_us * 10 * u64::from(cpu_percent) + dearest_ns;
            prop_assert!(spent_ns <= allowed + 1, "{spent_ns} of {allowed}");
        }
    }
}
