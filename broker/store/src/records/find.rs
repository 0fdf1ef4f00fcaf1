//! Finding a stored message of which only the id is known.
//!
//! An id says when its message was published and in which run of the broker, but not where. The messages of an address
//! lie in the order of their positions, which begin with the run and go with time: for most addresses one or two looks
//! at a run say that the message is not there, for the others a few more find the stretch in which it would be. Nothing is
//! written for this, and what is looked at is bounded. Not found are messages that were published later than their id
//! says, which is when they were delayed.

use super::read::{measure, parse_address, parse_delayed, parse_run};
use crate::key::{self, Place};
use crate::record::AddressRecord;
use crate::shelf::{Space, View};
use crate::store::{Found, Search, StoreError};
use waspmq_core::limits::PUBLISH_SKEW_MS;
use waspmq_core::message::Batch;
use waspmq_core::{Address, MessageId};

pub(super) fn find(view: &impl View, search: &Search) -> Result<Found, StoreError> {
    let mut looks = Looks { view, search, left: search.looks_max };
    for entry in view.range(Space::State, &[key::ADDRESS], &[key::ADDRESS + 1]) {
        let (key, value) = entry?;
        if !looks.take() {
            return Ok(Found::Unfinished);
        }
        let address = parse_address(&key)?;
        let record = AddressRecord::parse(&key, &value)?;
        match looks.in_address(&address, &record)? {
            Found::Nowhere => {}
            found => return Ok(found),
        }
    }
    Ok(Found::Nowhere)
}

/// Delayed messages order by when they are due, and that is not before they were published.
pub(super) fn find_delayed(view: &impl View, search: &Search) -> Result<Found, StoreError> {
    let mut looks = Looks { view, search, left: search.looks_max };
    let from = key::delayed(search.id.unix_ms(), MessageId::from_bytes([0; 16]));
    for entry in view.range(Space::State, &from, &[key::DELAYED + 1]) {
        let (key, value) = entry?;
        if !looks.take() {
            return Ok(Found::Unfinished);
        }
        if key.ends_with(&search.id.to_bytes()) {
            return Ok(Found::Delayed(Box::new(parse_delayed(&key, &value)?)));
        }
    }
    Ok(Found::Nowhere)
}

/// A search under way.
struct Looks<'a, V> {
    view: &'a V,
    search: &'a Search,
    /// Records that may still be looked at.
    left: usize,
}

/// The last place of a run, and when it was published.
type Seen = (Place, u64);

impl<V: View> Looks<'_, V> {
    /// Whether one more record may be looked at.
    const fn take(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }

    const fn id(&self) -> MessageId {
        self.search.id
    }

    /// The id has the time that its publisher took, as its run has.
    fn in_address(&mut self, address: &Address, record: &AddressRecord) -> Result<Found, StoreError> {
        let unix_ms = self.id().unix_ms();
        let (from_ms, to_ms) =
            (unix_ms.saturating_sub(PUBLISH_SKEW_MS), unix_ms.saturating_add(PUBLISH_SKEW_MS));
        let behind = record.removed.max((self.id().epoch(), 0));
        let Some(place) = self.skip_to(address, behind, (from_ms, to_ms))? else {
            return Ok(if self.left == 0 { Found::Unfinished } else { Found::Nowhere });
        };
        let text = address.as_str();
        for entry in self.view.range(Space::Messages, &key::run(text, key::behind(place)), &self.end(text)) {
            let (key, value) = entry?;
            if !self.take() {
                return Ok(Found::Unfinished);
            }
            let (last, run) = parse_run(&key, &value)?;
            if run.unix_ms > to_ms {
                break;
            }
            let Some(index) = run.entries.iter().position(|entry| entry.id == self.id()) else { continue };
            let at = (last.0, run.offset(last.1, index));
            let is_gone = at <= record.removed
                || run.unix_ms < self.search.now_unix_ms.saturating_sub(record.retention.age_ms)
                || run.entries.get(index).is_none_or(|entry| entry.is_expired(self.search.now_unix_ms));
            let message = (!is_gone).then(|| run.message(address, at, index)).flatten();
            return Ok(message.map_or(Found::Nowhere, |batch: Batch| Found::Message(Box::new(batch))));
        }
        Ok(Found::Nowhere)
    }

    /// The first key behind the runs of the id's run of the broker.
    fn end(&self, address: &str) -> Vec<u8> {
        key::run(address, (self.id().epoch() + 1, 0))
    }

    /// The first run behind a place.
    fn look(&mut self, address: &str, behind: Place) -> Result<Option<Seen>, StoreError> {
        if !self.take() {
            return Ok(None);
        }
        let from = key::run(address, key::behind(behind));
        let next = self.view.range(Space::Messages, &from, &self.end(address)).next().transpose()?;
        next.map(|(key, value)| measure(&key, &value).map(|(last, _, unix_ms)| (last, unix_ms))).transpose()
    }

    fn look_at_last(&mut self, address: &str) -> Result<Option<Seen>, StoreError> {
        if !self.take() {
            return Ok(None);
        }
        let from = key::run(address, (self.id().epoch(), 0));
        let last = self.view.range(Space::Messages, &from, &self.end(address)).next_back().transpose()?;
        last.map(|(key, value)| measure(&key, &value).map(|(last, _, unix_ms)| (last, unix_ms))).transpose()
    }

    /// A place behind which the first run of the time begins; `None` when there is none, or no more may be looked at.
    fn skip_to(
        &mut self,
        address: &Address,
        behind: Place,
        (from_ms, to_ms): (u64, u64),
    ) -> Result<Option<Place>, StoreError> {
        let address = address.as_str();
        let Some((first, first_ms)) = self.look(address, behind)? else { return Ok(None) };
        if first_ms > to_ms {
            return Ok(None);
        }
        if first_ms >= from_ms {
            return Ok(Some(behind));
        }
        let Some((last, last_ms)) = self.look_at_last(address)? else { return Ok(None) };
        if last_ms < from_ms {
            return Ok(None);
        }
        // The run up to `low` is too early, and the one up to `high` is not.
        let (mut low, mut high) = ((first.1, first_ms), (last.1, last_ms));
        for step in 0_u32.. {
            if high.0 <= low.0 + 1 {
                break;
            }
            // Time goes with offsets, so a look where it would be if it went evenly is mostly near; every third look
            // halves what is left whatever time does.
            let guess = if step % 3 == 2 {
                low.0 + (high.0 - low.0) / 2
            } else {
                low.0 + share(high.0 - low.0, from_ms - low.1, high.1.saturating_sub(low.1))
            };
            let guess = guess.clamp(low.0 + 1, high.0 - 1);
            let Some((found, found_ms)) = self.look(address, (first.0, guess - 1))? else { break };
            if found_ms < from_ms {
                low = (found.1, found_ms);
            } else {
                high = (guess, found_ms);
            }
        }
        Ok((self.left > 0).then_some((first.0, low.0)))
    }
}

/// `part` of `whole` of `span`.
#[expect(clippy::cast_possible_truncation, reason = "no more than the span")]
const fn share(span: u64, part: u64, whole: u64) -> u64 {
    if part >= whole { span } else { (span as u128 * part as u128 / whole as u128) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (span, part, whole, expected) in [
            (10, 1, 2, 5),
            (10, 0, 7, 0),
            (10, 7, 7, 10),
            (10, 9, 7, 10),
            (10, 0, 0, 10),
            (u64::MAX, 1, 2, u64::MAX / 2),
        ] {
            assert_eq!(share(span, part, whole), expected, "{part} of {whole} of {span}");
        }
    }
}
