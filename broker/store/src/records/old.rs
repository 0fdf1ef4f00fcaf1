//! What becomes too old besides messages: ledgers, dead letters and sessions.
//!
//! The records of each kind are passed over in bounded rounds, again and again, each going on where the one before ended.

use super::Records;
use super::maintain::Damage;
use super::tally::Tallies;
use crate::key;
use crate::record;
use crate::shelf::{Change, Shelf, Space, View};
use crate::store::{Durability, StoreError};
use waspmq_core::MessageId;

/// Records of each kind that a round looks at.
const ROUND_RECORDS_MAX: usize = 1_024;

/// Where the next round begins; empty: with the first one.
#[derive(Debug, Default)]
pub(super) struct Next {
    letter: Vec<u8>,
    resume: Vec<u8>,
}

/// What becomes of a record.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Remove,
}

impl Verdict {
    const fn remove_if(is_old: bool) -> Self {
        if is_old { Self::Remove } else { Self::Keep }
    }
}

impl<S: Shelf> Records<S> {
    /// Gives how many were removed.
    pub(super) fn remove_old_records(
        &self,
        tallies: &mut Tallies,
        now_unix_ms: u64,
        damage: &mut Damage,
    ) -> Result<usize, StoreError> {
        let view = self.shelf.view()?;
        let (mut round, next) = (Round::new(&view, damage), &mut tallies.old);
        let before = |age_ms| now_unix_ms.saturating_sub(age_ms);
        let id = |unix_ms| MessageId::new(unix_ms, 0, 0, 0);
        let ledger_end = key::ledger(id(before(self.bounds.ledger_age_ms)));
        // All of them go, so the next round begins with the first one that is left.
        let ledgers = (&[key::LEDGER][..], &*ledger_end, ROUND_RECORDS_MAX);
        round.pass(&mut Vec::new(), ledgers, |_, _| Ok(Verdict::Remove))?;
        let given_up_before = before(self.bounds.dead_letter_age_ms);
        // No message is given up before its id was made.
        let letters_end = key::dead_letter(id(given_up_before), "");
        let letters = (&[key::DEAD_LETTER][..], &*letters_end, ROUND_RECORDS_MAX);
        let freed = round.pass(&mut next.letter, letters, |key, value| {
            Ok(Verdict::remove_if(record::dead_letter_unix_ms(key, value)? < given_up_before))
        })?;
        round.pass(
            &mut next.resume,
            (&[key::RESUME], &[key::RESUME + 1], ROUND_RECORDS_MAX),
            |key, value| {
                let expires_unix_ms = record::parse_resume(key, value)?.expires_unix_ms;
                Ok(Verdict::remove_if(expires_unix_ms <= now_unix_ms))
            },
        )?;
        let Round { changes, removed, .. } = round;
        drop(view);
        if !changes.is_empty() {
            self.shelf.write(changes, Durability::Buffered)?;
            self.account(0, -freed);
        }
        Ok(removed)
    }
}

/// A round in the making.
struct Round<'a, V> {
    view: &'a V,
    damage: &'a mut Damage,
    changes: Vec<Change>,
    removed: usize,
}

impl<'a, V: View> Round<'a, V> {
    const fn new(view: &'a V, damage: &'a mut Damage) -> Self {
        Self { view, damage, changes: Vec::new(), removed: 0 }
    }

    /// Looks at the next `most` records between two keys, up to one that cannot be read. Gives the bytes of those that go.
    fn pass(
        &mut self,
        next: &mut Vec<u8>,
        (from, to, most): (&[u8], &[u8], usize),
        judge: impl Fn(&[u8], &[u8]) -> Result<Verdict, StoreError>,
    ) -> Result<i64, StoreError> {
        let (begin, mut freed) = (std::mem::take(next), 0);
        let begin = if begin.is_empty() { from } else { &begin };
        for (index, entry) in self.view.range(Space::State, begin, to).enumerate() {
            let Some((key, value)) = self.damage.pass(entry.map(Some))? else { break };
            if index >= most {
                *next = key.to_vec();
                break;
            }
            if self.damage.pass(judge(&key, &value).map(Some))? == Some(Verdict::Remove) {
                freed += (key.len() + value.len()) as i64;
                self.removed += 1;
                self.changes.push(Change { space: Space::State, key: key.to_vec(), value: None });
            }
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests;
