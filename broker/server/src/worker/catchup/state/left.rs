//! What a session that is lost has still to read, as its record says it.

use super::super::{Start, place};
use super::{Catching, Ended, Listed, bit};
use crate::resumes::{Begin, Replay};
use hashbrown::HashSet;
use waspmq_core::delivery::Cursors;
use waspmq_core::{Address, Pattern, Position};

impl Catching {
    /// What a session that is lost now would not get by its latest positions, what is listed first: there may be no room for all
    /// of the others. What it has acknowledged of that needs not be read again.
    pub(in crate::worker) fn replays(&self, cursors: &Cursors) -> Vec<Replay> {
        let again = |of: Pattern, begin| Replay { of, begin, until: None };
        let listed = self.listings.iter();
        let begun = listed.filter_map(|listed| Some(again(listed.pattern.clone(), listed.start.to_begin()?)));
        let mut replays = begun.collect();
        self.add_left_by_resume(&mut replays);
        for Ended { to, begin, until, acks_behind } in &self.ended {
            let taken = taken(cursors, to, *acks_behind);
            if taken.is_none_or(|taken| place(taken) < place(until.0)) {
                replays.push(Replay { of: to.into(), begin: later(*begin, taken), until: Some(*until) });
            }
        }
        for (to, reading) in &self.addresses {
            // Where nothing else went, the client's latest position says how far it got behind a position.
            let is_clear = self.passed_shards & bit(reading.shard) == 0;
            if !(is_clear && matches!(reading.begin, Begin::After(_))) {
                let taken = taken(cursors, to, reading.acks_behind);
                replays.push(again(to.into(), later(reading.begin, taken)));
            }
            if let Some(begin) = reading.again.as_ref().and_then(Start::to_begin) {
                replays.push(again(to.into(), begin));
            }
        }
        replays
    }

    /// Adds what the session had to read before its resume and has not come to again, and, for the shards of which it was
    /// sent something since, what lies behind the place where the patterns that are still being listed go on.
    fn add_left_by_resume(&self, replays: &mut Vec<Replay>) {
        let listed = || self.listings.iter().filter_map(Listed::of_resume);
        let Some((_, seen)) = listed().next() else { return };
        let is_awaited = |to: &Address| {
            self.listings.iter().any(|listed| listed.is_of_resume() && self.is_to_come(listed, to))
        };
        let is_left = |replay: &&Replay| replay.of.to_address().is_none_or(|to| is_awaited(&to));
        replays.extend(seen.replays().iter().filter(is_left).cloned());
        // A pattern that had not been listed when the session was lost before goes on at the place it had then.
        let known: HashSet<_> = seen.replays().iter().filter_map(Replay::shard_of_pattern).collect();
        let shards = self.reading_shards | self.passed_shards;
        for (pattern, seen) in listed() {
            let is_unclear = |place: &Position| {
                let shard = place.stream.shard;
                shards & bit(shard) != 0 && !known.contains(&(pattern, shard))
            };
            let again = |place| Replay { of: pattern.clone(), begin: Begin::After(place), until: None };
            replays.extend(seen.places(pattern).filter(is_unclear).map(again));
        }
    }
}

/// How far the client has acknowledged what is read.
fn taken(cursors: &Cursors, to: &Address, acks_behind: Option<Position>) -> Option<Position> {
    let cursor = cursors.cursor(to)?;
    acks_behind.is_none_or(|behind| place(behind) < place(cursor)).then_some(cursor)
}

/// Where reading begins again. Behind a cursor it does so anyway.
pub(super) fn later(begin: Begin, taken: Option<Position>) -> Begin {
    match (begin, taken) {
        (Begin::Cursor, _) | (_, None) => begin,
        (Begin::After(position), Some(taken)) if place(taken) < place(position) => begin,
        (_, Some(taken)) => Begin::After(taken),
    }
}
