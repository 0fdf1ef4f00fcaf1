//! What becomes too old besides messages: ledgers, dead letters, sessions, cursors, read marks, and when users were seen.
//!
//! The records of each kind are passed over in bounded rounds, again and again, each going on where the one before ended.
//! A cursor and a read mark hold no time. Where they have nothing more to say, because retention removed what lies in
//! front of them, it is noted since when, and they go when that is long ago; who writes them anew takes the note away.

use super::ledgers::LedgerTally;
use super::maintain::Damage;
use super::tally::Tallies;
use super::{Records, read};
use crate::key;
use crate::record;
use crate::shelf::{Change, Shelf, Space, View};
use crate::store::{Durability, StoreError};
use waspmq_core::MessageId;

/// Records of each kind that a round looks at, and of those of which each costs a look at its address too.
const ROUND_RECORDS_MAX: usize = 1_024;
const ROUND_CURSORS_MAX: usize = 256;

const DAY_MS: u64 = 24 * 3_600_000;

/// How long a cursor or a read mark stays behind what retention removed. Then a device begins as a new one. In `all` and groups that
/// is where its user was seen last on any device: where nothing is published for long, those of devices in use stay longer.
const CURSOR_AGE_MS: u64 = 30 * DAY_MS;

/// How long it is known when a user was seen last, and how far a device is in `all` and in groups where nothing is kept. Then they were never seen, and have missed nothing of `all`.
const LAST_SEEN_AGE_MS: u64 = 365 * DAY_MS;

/// Where the next round begins; empty: with the first one.
#[derive(Debug, Default)]
pub(super) struct Next {
    letter: Vec<u8>,
    resume: Vec<u8>,
    cursor: Vec<u8>,
    read_mark: Vec<u8>,
    last_seen: Vec<u8>,
}

/// What becomes of a record.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Remove,
    Write(Vec<u8>),
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
        let mut ledger_tally = LedgerTally::load(&view)?;
        // All of them that are counted go, so the next round begins with the first one that is left.
        let ledgers = (&[key::LEDGER][..], ledger_tally.end(&ledger_end), ROUND_RECORDS_MAX);
        let ledgers_freed = round.pass(&mut Vec::new(), ledgers, |_, _| Ok(Verdict::Remove))?;
        if ledgers_freed > 0 {
            ledger_tally.add(-ledgers_freed);
            round.changes.push(ledger_tally.save());
        }
        let given_up_before = before(self.bounds.dead_letter_age_ms);
        // No message is given up before its id was made.
        let letters_end = key::dead_letter(id(given_up_before), "");
        let letters = (&[key::DEAD_LETTER][..], &*letters_end, ROUND_RECORDS_MAX);
        let letters_freed = round.pass(&mut next.letter, letters, |key, value| {
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
        let judge = |key: &[u8], value: &[u8]| judge_place(&view, (key, value), now_unix_ms);
        let cursors = (&[key::CURSOR][..], &[key::CURSOR + 1][..], ROUND_CURSORS_MAX);
        round.pass(&mut next.cursor, cursors, judge)?;
        let marks = (&[key::READ_MARK][..], &[key::READ_MARK + 1][..], ROUND_CURSORS_MAX);
        round.pass(&mut next.read_mark, marks, judge)?;
        let seen_before = before(LAST_SEEN_AGE_MS);
        let seen = (&[key::LAST_SEEN][..], &[key::LAST_SEEN + 1][..], ROUND_RECORDS_MAX);
        round.pass(&mut next.last_seen, seen, |key, value| {
            Ok(Verdict::remove_if(record::parse_number(key, value)? < seen_before))
        })?;
        let Round { changes, removed, .. } = round;
        drop(view);
        if !changes.is_empty() {
            self.shelf.write(changes, Durability::Buffered)?;
            self.account(0, -ledgers_freed - letters_freed);
        }
        Ok(removed)
    }
}

/// What becomes of a cursor or a read mark.
fn judge_place(
    view: &impl View,
    (key, value): (&[u8], &[u8]),
    now_unix_ms: u64,
) -> Result<Verdict, StoreError> {
    let (position, behind_unix_ms) = record::parse_place(key, value)?;
    let corrupt = || StoreError::Corrupt { what: record::describe(key) };
    let address = key::last_part(key).ok_or_else(corrupt)?;
    let record = read::address_record(view, address)?;
    // Without a record there is no message, and was none for long.
    let is_behind = record.is_none_or(|record| key::place(position) < record.removed);
    let is_shared = address == "all" || address.starts_with("group/");
    let age_ms = if record.is_none() && is_shared { LAST_SEEN_AGE_MS } else { CURSOR_AGE_MS };
    Ok(match (is_behind, behind_unix_ms) {
        (false, None) => Verdict::Keep,
        (false, Some(_)) => Verdict::Write(record::place(key, position, None)),
        (true, None) => Verdict::Write(record::place(key, position, Some(now_unix_ms))),
        (true, Some(since)) => Verdict::remove_if(now_unix_ms >= since.saturating_add(age_ms)),
    })
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
            let value = match self.damage.pass(judge(&key, &value).map(Some))? {
                None | Some(Verdict::Keep) => continue,
                Some(Verdict::Write(value)) => Some(value),
                Some(Verdict::Remove) => {
                    freed += (key.len() + value.len()) as i64;
                    self.removed += 1;
                    None
                }
            };
            self.changes.push(Change { space: Space::State, key: key.to_vec(), value });
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests;
