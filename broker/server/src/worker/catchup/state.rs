//! What one session has still to read, and what waits for that.
//!
//! Invariants: at most one page is on its way per session. Readings take turns page by page, so that an address in
//! which much is published keeps none of the others waiting. Not here: the store, the outbound queue.

mod left;
mod listed;

pub(super) use listed::Part;
use listed::{Listed, Resumed};

use super::{Start, place};
use crate::resumes::Begin;
use crate::worker::connection::Connection;
use hashbrown::HashMap;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use waspmq_core::message::Batch;
use waspmq_core::{Address, Pattern, Position, limits};

/// Ended readings a session remembers because its latest positions do not tell of them. More: it has a gap.
const ENDED_MAX: usize = 1_024;
/// An answer of the store that has not come after this time is lost, and is asked for again.
const ANSWER_WAIT_US: u64 = 10_000_000;

/// The catching up of one session in all its addresses.
#[derive(Debug, Default)]
pub(in crate::worker) struct Catching {
    pub(super) addresses: HashMap<Address, Reading, foldhash::fast::RandomState>,
    /// The same by number, for their turns.
    turns: BTreeMap<u64, Address>,
    /// The page that is on its way.
    asked: Option<Asked>,
    /// Those that wait for room in the session's window, without a turn, and the bytes that the largest asks for.
    parked: Vec<Address>,
    parked_bytes: usize,
    /// Whether the store failed; nothing is asked before the next sweep.
    pub(super) is_stalled: bool,
    /// Whether a page found no room: the next one is asked for when nothing waits in front of it.
    pub(super) wants_empty: bool,
    /// Patterns whose addresses are being listed, one after the other.
    pub(super) listings: Vec<Listed>,
    /// What the resume has begun to read, or needs not read, while it lists the addresses of other patterns.
    resumed: Resumed,
    held_bytes: usize,
    /// Readings and listings begun; tells apart answers to one that was given up.
    begun: u64,
    /// Whether messages were missing that the session had not seen.
    pub(in crate::worker) has_gap: bool,
    /// Whether some of what came since the user was seen last could not be read.
    has_unseen: bool,
    /// Shards, as bits, of what is read, and of what went to the session past the reading: there the session's
    /// latest position does not say how far it got in an address that is read.
    reading_shards: u64,
    passed_shards: u64,
    /// Readings of such shards that ended.
    ended: Vec<Ended>,
}

/// A reading that ended, and behind what an ack tells of it.
#[derive(Debug)]
struct Ended {
    to: Address,
    begin: Begin,
    until: (Position, Position),
    acks_behind: Option<Position>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    number: u64,
    asked_us: u64,
}

#[derive(Debug)]
pub(super) struct Reading {
    /// Where it began.
    begin: Begin,
    /// A cursor that has got past this says how far the client has what is read.
    acks_behind: Option<Position>,
    /// Where the next page begins.
    pub(super) start: Start,
    /// Where it is read again when this is over: asked for meanwhile.
    again: Option<Start>,
    shard: u16,
    pub(super) has_sent: bool,
    pub(super) has_failed: bool,
    is_parked: bool,
    /// Whether it depends on when the user was seen last.
    begins_when_seen: bool,
    /// Live messages that are not stored.
    pub(super) held: VecDeque<Arc<Batch>>,
    /// Whether a stored message came since the last page was asked for.
    is_behind: bool,
    /// The first and the latest stored message that came live.
    pub(super) live: Option<(Position, Position)>,
    number: u64,
}

/// A reading that has ended.
pub(super) struct Over {
    pub(super) held: VecDeque<Arc<Batch>>,
    pub(super) again: Option<Start>,
    pub(super) shard: u16,
}

impl Catching {
    /// Numbers begin with the time, so that an answer to an earlier connection of the session is none to this one.
    pub(in crate::worker) fn new(now_us: u64) -> Self {
        Self { begun: now_us, ..Self::default() }
    }

    pub(in crate::worker) fn is_idle(&self) -> bool {
        self.addresses.is_empty() && self.listings.is_empty()
    }

    /// Whether a batch is still to come, from the store or from what is held.
    pub(in crate::worker) fn will_send(&self, batch: &Arc<Batch>) -> bool {
        let reading = self.addresses.get(&batch.to);
        let listed = self.listings.iter().flat_map(|listing| &listing.held);
        let mut held = reading.into_iter().flat_map(|reading| &reading.held).chain(listed);
        let is_read = || reading.is_some() || self.awaiting(&batch.to).is_some();
        batch.is_kept && is_read() || held.any(|held| Arc::ptr_eq(held, batch))
    }

    /// Keeps live batches of one address back while the session catches up there. `None` when it does not;
    /// otherwise how many messages were dropped because too much is held already. `may_be_stored` is whether the address
    /// may have anything in the store.
    pub(in crate::worker) fn hold(&mut self, run: &[Arc<Batch>], may_be_stored: bool) -> Option<u64> {
        let to = &run.first()?.to;
        let listing =
            if self.addresses.contains_key(to) || !may_be_stored { None } else { self.awaiting(to) };
        let Self { addresses, listings, held_bytes, .. } = self;
        let mut dropped = 0;
        let mut keep = |held: &mut VecDeque<Arc<Batch>>, batch: &Arc<Batch>| {
            if *held_bytes + batch.size_bytes() > limits::CATCH_UP_HELD_BYTES_MAX {
                dropped += batch.messages.len() as u64;
                return;
            }
            *held_bytes += batch.size_bytes();
            held.push_back(batch.clone());
        };
        if let Some(reading) = addresses.get_mut(to) {
            for batch in run {
                if batch.is_kept {
                    reading.is_behind = true;
                    let first = reading.live.map_or(batch.first, |(first, _)| first);
                    reading.live = Some((first, batch.position(batch.messages.len().saturating_sub(1))));
                } else {
                    keep(&mut reading.held, batch);
                }
            }
        } else {
            let listed = listings.get_mut(listing?)?;
            for batch in run {
                if batch.is_kept {
                    listed.note_fresh(to);
                } else {
                    keep(&mut listed.held, batch);
                }
            }
        }
        self.has_gap |= dropped > 0;
        Some(dropped)
    }

    /// The listing that has still to come to an address.
    fn awaiting(&self, to: &Address) -> Option<usize> {
        self.listings.iter().position(|listed| self.is_to_come(listed, to))
    }

    fn is_to_come(&self, listed: &Listed, to: &Address) -> bool {
        listed.pattern.matches(to)
            && listed.upto.as_ref().is_none_or(|upto| to > upto)
            && !(listed.is_of_resume() && self.resumed.holds(to))
    }

    /// Takes down that something of a shard goes to the session while it reads.
    pub(in crate::worker) const fn note_passed(&mut self, shard: u16) {
        self.passed_shards |= bit(shard);
    }

    /// The same of every shard.
    pub(in crate::worker) const fn note_all_passed(&mut self) {
        self.passed_shards = u64::MAX;
    }

    pub(super) const fn next_number(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// Begins to read an address, unless it is being read.
    pub(super) fn begin(
        &mut self,
        to: &Address,
        shard: u16,
        (start, begin, acks_behind): (Start, Begin, Option<Position>),
    ) {
        if self.addresses.contains_key(to) {
            return;
        }
        self.passed_shards |= self.reading_shards & bit(shard);
        self.reading_shards |= bit(shard);
        let number = self.next_number();
        let reading = Reading {
            begin,
            acks_behind,
            begins_when_seen: matches!(start, Start::CursorOrSeen { .. }),
            start,
            again: None,
            shard,
            has_sent: false,
            has_failed: false,
            is_parked: false,
            held: VecDeque::new(),
            is_behind: false,
            live: None,
            number,
        };
        self.turns.insert(number, to.clone());
        self.addresses.insert(to.clone(), reading);
    }

    /// The resume has come to an address.
    pub(in crate::worker) fn note_resumed(&mut self, to: &Address) {
        self.resumed.addresses.insert(to.clone());
    }

    /// Forgets what the resume has come to when it lists no more.
    pub(in crate::worker) fn tidy_resumed(&mut self) {
        if !self.listings.iter().any(Listed::is_of_resume) {
            self.resumed = Resumed::default();
        }
    }

    /// Has an address that is being read read once more when that is over. False when it is not.
    pub(super) fn read_again(&mut self, to: &Address, start: &Start) -> bool {
        let Some(reading) = self.addresses.get_mut(to) else { return false };
        reading.again = Some(start.clone());
        true
    }

    /// Whose turn it is to be asked for; nobody's while a page is on its way.
    pub(super) fn next_turn(&self) -> Option<(u64, &Address)> {
        if self.asked.is_some() || self.is_stalled {
            return None;
        }
        self.turns.first_key_value().map(|(number, to)| (*number, to))
    }

    /// Whether a page is on its way.
    #[cfg(test)]
    pub(super) const fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// A page was asked for.
    pub(super) fn handle_asked(&mut self, to: &Address, asked_us: u64) {
        if let Some(reading) = self.addresses.get_mut(to) {
            reading.is_behind = false;
            self.asked = Some(Asked { number: reading.number, asked_us });
        }
    }

    /// A page has come.
    pub(super) fn handle_page(&mut self, number: u64) {
        self.asked = self.asked.filter(|asked| asked.number != number);
    }

    /// A reading that still goes on.
    pub(super) fn reading(&mut self, to: &Address, number: u64) -> Option<&mut Reading> {
        self.addresses.get_mut(to).filter(|reading| reading.number == number)
    }

    /// A reading has had its page: the others come first. It goes on under a new number.
    pub(super) fn pass_turn(&mut self, number: u64) {
        let Some(to) = self.turns.remove(&number) else { return };
        let number = self.next_number();
        if let Some(reading) = self.addresses.get_mut(&to) {
            reading.number = number;
            self.turns.insert(number, to);
        }
    }

    /// A reading waits for room in the session's window: it has no turn until then. `bytes` is what it asks for.
    pub(super) fn park(&mut self, number: u64, bytes: usize) {
        let Some(to) = self.turns.remove(&number) else { return };
        if let Some(reading) = self.addresses.get_mut(&to) {
            reading.is_parked = true;
            self.parked.push(to);
            self.parked_bytes = self.parked_bytes.max(bytes);
        }
    }

    /// The bytes for which the readings that are parked wait, if any are.
    pub(super) fn parked_bytes(&self) -> Option<usize> {
        (!self.parked.is_empty()).then_some(self.parked_bytes)
    }

    /// Those that are parked go on under new numbers.
    pub(super) fn unpark(&mut self) {
        self.parked_bytes = 0;
        for to in std::mem::take(&mut self.parked) {
            let number = self.next_number();
            // One that was begun anew meanwhile has its turn.
            if let Some(reading) = self.addresses.get_mut(&to).filter(|reading| reading.is_parked) {
                (reading.number, reading.is_parked) = (number, false);
                self.turns.insert(number, to);
            }
        }
    }

    /// Once a second: what failed is asked for again, and what was lost.
    pub(super) fn handle_time(&mut self, now_us: u64) {
        let is_lost = |asked_us: u64| now_us.saturating_sub(asked_us) >= ANSWER_WAIT_US;
        self.is_stalled = false;
        if let Some(lost) = self.asked.take_if(|asked| is_lost(asked.asked_us)) {
            self.pass_turn(lost.number);
        }
        for listed in &mut self.listings {
            listed.asked_us.take_if(|asked_us| is_lost(*asked_us));
        }
    }

    pub(super) fn end(&mut self, to: &Address, (last, end): (Option<Position>, Position)) -> Option<Over> {
        let reading = self.addresses.remove(to)?;
        self.turns.remove(&reading.number);
        self.release(&reading.held);
        if self.passed_shards & bit(reading.shard) != 0
            && let Some(last) = last
        {
            self.ended.retain(|ended| ended.to != *to);
            if self.ended.len() < ENDED_MAX {
                let Reading { begin, acks_behind, .. } = reading;
                self.ended.push(Ended { to: to.clone(), begin, until: (last, end), acks_behind });
            } else {
                self.has_gap = true;
            }
        }
        if self.is_idle() {
            (self.reading_shards, self.passed_shards) = (0, 0);
        }
        Some(Over { held: reading.held, again: reading.again, shard: reading.shard })
    }

    /// Forgets what was to be read in addresses that are not wanted any more, and for a pattern.
    pub(super) fn stop(&mut self, ended: &Pattern, is_wanted: impl Fn(&Address) -> bool) {
        let Self { addresses, turns, listings, resumed, .. } = self;
        let mut forgotten = VecDeque::new();
        addresses.retain(|to, reading| {
            let is_wanted = is_wanted(to);
            if !is_wanted {
                turns.remove(&reading.number);
                forgotten.append(&mut reading.held);
            }
            is_wanted
        });
        listings.retain_mut(|listed| {
            let is_wanted = listed.pattern != *ended;
            if !is_wanted {
                forgotten.append(&mut listed.held);
                if listed.is_of_resume() && listed.upto.is_some() {
                    resumed.patterns.push((ended.clone(), listed.upto.take()));
                }
            }
            is_wanted
        });
        self.release(&forgotten);
        self.tidy_resumed();
    }

    /// Whether messages are held that the store does not have: a session that is lost now has missed them.
    pub(in crate::worker) fn holds_unstored(&self) -> bool {
        let of_readings = self.addresses.values().flat_map(|reading| &reading.held);
        let of_listings = self.listings.iter().flat_map(|listed| &listed.held);
        of_readings.chain(of_listings).any(|batch| !batch.is_kept)
    }

    /// What is left of an address cannot be read.
    pub(super) fn note_unread(&mut self, to: &Address) {
        self.has_unseen |= self.addresses.get(to).is_some_and(|reading| reading.begins_when_seen);
    }

    /// Whether it is still to be read what came since the user was seen last.
    pub(in crate::worker) fn reads_since_seen(&self) -> bool {
        self.has_unseen || self.addresses.values().any(|reading| reading.begins_when_seen)
    }

    /// Keeps one message of which a live delivery is not known back while the session catches up in its address; it
    /// may be among what is read. False when the session does not catch up there, or has no room.
    fn hold_first(&mut self, batch: &Batch, index: usize) -> bool {
        let Self { addresses, held_bytes, .. } = self;
        let Some(reading) = addresses.get_mut(&batch.to) else { return false };
        let Some(alone) = batch.message_alone(index) else { return false };
        if *held_bytes + alone.size_bytes() > limits::CATCH_UP_HELD_BYTES_MAX {
            return false;
        }
        *held_bytes += alone.size_bytes();
        let behind = reading.held.partition_point(|held| place(held.first) < place(alone.first));
        reading.held.insert(behind, Arc::new(alone));
        true
    }

    pub(super) fn release(&mut self, held: &VecDeque<Arc<Batch>>) {
        let bytes: usize = held.iter().map(|batch| batch.size_bytes()).sum();
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }
}

impl Reading {
    /// Whether a stored message came live that was not read up to `after`.
    pub(super) fn is_behind(&self, after: Option<Position>) -> bool {
        let is_unread = |live: Position| after.is_none_or(|after| place(after) < place(live));
        self.is_behind && self.live.is_some_and(|(_, last)| is_unread(last))
    }

    /// How many of the held batches go out with a page that ends with `last`.
    pub(super) fn held_upto(&self, last: Option<Position>) -> usize {
        let is_before = |batch: &&Arc<Batch>| last.is_some_and(|last| place(batch.first) <= place(last));
        self.held.iter().take_while(is_before).count()
    }
}

impl Connection {
    /// Whether the first delivery of a tracked message comes, or has come, with what is read from the store: it was
    /// published while its recipient was away.
    pub(in crate::worker) fn replays(&mut self, batch: &Batch, index: u16) -> bool {
        self.window.holds(&batch.to, batch.position(index.into()))
            || self.catching.hold_first(batch, index.into())
    }
}

const fn bit(shard: u16) -> u64 {
    1 << (shard as u64 % 64)
}

#[cfg(test)]
pub(super) mod tests;
