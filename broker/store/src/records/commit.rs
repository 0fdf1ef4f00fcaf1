//! Committing: turns writes into changes of records, and keeps the tallies.

use super::count::Uncounted;
use super::ledgers::LedgerTally;
use super::tally::{TALLIES_MAX, Tallies, Tally};
use super::{Records, read};
use crate::key;
use crate::queue;
use crate::record;
use crate::run;
use crate::shelf::{Change, Shelf, Space, View};
use crate::store::{Durability, Seen, StoreError, Write};
use foldhash::{HashMap, HashMapExt};
use std::collections::hash_map::Entry;
use waspmq_core::message::Batch;
use waspmq_core::settings::Retention;
use waspmq_core::{Address, MessageId, Name, Position};

impl<S: Shelf> Records<S> {
    /// Commits, as the groups of a log when there are any: then the last of them becomes known with the commit.
    pub(super) fn commit_writes(
        &self,
        writes: &[Write],
        durability: Durability,
        groups: Option<(u64, u64)>,
    ) -> Result<(), StoreError> {
        self.shelf.ready()?;
        let mut tallies = self.tallies.lock().unwrap();
        if tallies.of.len() > TALLIES_MAX {
            self.forget(&mut tallies)?;
        }
        let staged = {
            let view = self.shelf.view()?;
            let mut stage = Stage::new(&view, &tallies);
            if has_ledgers(writes) {
                let tally = LedgerTally::load(&view)?;
                stage.leaves_ledgers_out = self.are_ledgers_over(tally.bytes) || self.has_room(0).is_err();
                stage.ledgers = Some(tally);
            }
            if let Some(groups) = groups {
                if is_applied(read::applied(&view)?, groups)? {
                    return Ok(());
                }
                stage.put(vec![key::APPLIED], &groups.1.to_be_bytes());
            }
            for write in writes {
                stage.add(write)?;
            }
            stage.finish()
        };
        if let Err(error) = self.shelf.write(staged.changes, durability) {
            // Whether it was written is not known: what is known of these addresses is read again.
            for address in staged.tallies.keys() {
                self.forget_one(&mut tallies, address);
            }
            return Err(error);
        }
        let mut over = Vec::new();
        for (address, tally) in staged.tallies {
            if tally.is_over() {
                over.push(address.clone());
            }
            tallies.of.insert(address, tally);
        }
        self.account(staged.messages, staged.bytes);
        tallies.ledgers.left_out += staged.left_out;
        if staged.ledger_bytes.is_some_and(|bytes| self.are_ledgers_over(bytes))
            && let Err(error) = self.trim_ledgers(&mut tallies)
        {
            tracing::warn!(%error, "ledgers that are too many were not removed");
        }
        for address in over {
            // The commit is done; trimming that fails is tried again with the next one.
            if let Err(error) = self.trim(&mut tallies, &address, 0) {
                tracing::warn!(%address, %error, "retention failed");
            }
        }
        Ok(())
    }

    fn forget_one(&self, tallies: &mut Tallies, address: &Address) {
        if let Some(tally) = tallies.of.remove(address) {
            let (messages, bytes) = tally.unsaved();
            self.account(-messages, -bytes);
            tallies.uncounted = Uncounted::default();
        }
    }

    /// Saves and forgets all tallies.
    pub(super) fn forget(&self, tallies: &mut Tallies) -> Result<(), StoreError> {
        tallies.save(usize::MAX, |changes| self.shelf.write(changes, Durability::Buffered))?;
        tallies.of.clear();
        Ok(())
    }
}

/// Whether the groups were applied before; an error when groups before them are missing.
fn is_applied(applied: u64, (from, to): (u64, u64)) -> Result<bool, StoreError> {
    if applied >= to {
        return Ok(true);
    }
    if applied.checked_add(1) != Some(from) {
        let reason =
            format!("it has {applied} groups of the log and not those up to {from}; a start reads them");
        return Err(StoreError::Unavailable { reason });
    }
    Ok(false)
}

fn has_ledgers(writes: &[Write]) -> bool {
    writes.iter().any(|write| matches!(write, Write::Ledger { .. }))
}

/// Everything one commit changes.
struct Staged {
    changes: Vec<Change>,
    tallies: HashMap<Address, Tally>,
    messages: i64,
    bytes: i64,
    /// Of all ledgers that are counted, where it writes any.
    ledger_bytes: Option<u64>,
    left_out: u64,
}

/// A commit in the making. Reads what the writes before in the same commit did.
struct Stage<'a, V> {
    view: &'a V,
    known: &'a Tallies,
    tallies: HashMap<Address, Tally>,
    runs: Vec<Change>,
    state: HashMap<Vec<u8>, Option<Vec<u8>>>,
    messages: i64,
    bytes: i64,
    ledgers: Option<LedgerTally>,
    /// The store has no room, or what could be removed of older ones was not enough.
    leaves_ledgers_out: bool,
    left_out: u64,
}

impl<'a, V: View> Stage<'a, V> {
    fn new(view: &'a V, known: &'a Tallies) -> Self {
        let (tallies, runs, state) = (HashMap::new(), Vec::new(), HashMap::new());
        Self {
            view,
            known,
            tallies,
            runs,
            state,
            messages: 0,
            bytes: 0,
            ledgers: None,
            leaves_ledgers_out: false,
            left_out: 0,
        }
    }

    fn add(&mut self, write: &Write) -> Result<(), StoreError> {
        match write {
            Write::Messages { batch, retention } => self.add_run(batch, *retention)?,
            Write::Cursor { user, device, address, position } => {
                self.advance(key::cursor(user, device.as_ref(), address), *position)?;
            }
            Write::ReadMark { user, address, position } => {
                self.advance(key::read_mark(user, address), *position)?
            }
            Write::Member { group, user, since, by } => {
                let key = key::member(group, user);
                let value = record::member(&key, *since, *by);
                self.state.insert(key, Some(value));
            }
            Write::NoMember { group, user } => self.remove(key::member(group, user)),
            Write::Group { group } => self.put(key::named(key::GROUP, group), &[]),
            Write::NoGroup { group } => self.remove(key::named(key::GROUP, group)),
            Write::Resume(resume) => {
                let key = key::resume(&resume.token_hash);
                let value = record::resume(&key, resume);
                self.state.insert(key, Some(value));
            }
            Write::NoResume { token_hash } => self.remove(key::resume(token_hash)),
            Write::DeadLetter(letter) => {
                let key = key::dead_letter(letter.id, &letter.place());
                let value = record::dead_letter(&key, letter)?;
                self.set_counted(key, Some(value))?;
            }
            Write::NoDeadLetter { id, place } => self.remove_letters(*id, place)?,
            Write::Ledger { .. } if self.leaves_ledgers_out => self.left_out += 1,
            Write::Ledger { id, body } => self.add_ledger(*id, body)?,
            Write::Delayed { due_unix_ms, batch } => self.add_delayed(*due_unix_ms, batch)?,
            Write::NoDelayed { due_unix_ms, id } => {
                self.set_counted(key::delayed(*due_unix_ms, *id), None)?
            }
            Write::Due { due_unix_ms, batch, retention } => {
                self.add_run(batch, *retention)?;
                if let Some(envelope) = batch.messages.first() {
                    self.set_counted(key::delayed(*due_unix_ms, envelope.id), None)?;
                }
            }
            Write::LastSeen { user, unix_ms } => {
                self.set_seen(user, Seen { unix_ms: *unix_ms, is_first: false })?;
            }
            Write::FirstSeen { user, unix_ms } => {
                self.set_seen(user, Seen { unix_ms: *unix_ms, is_first: true })?;
            }
            Write::Queue(record) => {
                let mut body = Vec::new();
                queue::put(&mut body, record);
                self.put(key::queue(&record.id), &body);
            }
            Write::NoQueue { id } => self.remove(key::queue(id)),
            Write::QueueCursor { id, born_unix_ms, address, cursor } => {
                let mut body = Vec::new();
                queue::put_cursor(&mut body, *born_unix_ms, cursor);
                self.put(key::queue_cursor(id, address.as_str()), &body);
            }
            Write::DedupKey { key, message } => {
                if let Some(message) = message {
                    self.add(message)?;
                }
                let at = key::dedup(key.shard, key.number);
                let value = record::dedup(&at, key)?;
                self.state.insert(at, Some(value));
            }
            Write::NoDedupKey { shard, number, id } => self.free(key::dedup(*shard, *number), *id)?,
        }
        Ok(())
    }

    fn add_run(&mut self, batch: &Batch, retention: Retention) -> Result<(), StoreError> {
        let Some(last) = batch.messages.len().checked_sub(1) else { return Ok(()) };
        let place = key::place(batch.position(last));
        let key = key::run(batch.to.as_str(), place);
        let mut value = record::begin(0, run::size_hint(batch));
        run::put(&mut value, batch)?;
        let value = record::seal(&key, value);
        let (count, bytes) = (batch.messages.len() as u64, (key.len() + value.len()) as u64);
        let view = self.view;
        let tally = self.tally(&batch.to, retention)?;
        // A repair reads again what may have been applied: what is there counts once, and what was removed stays so.
        let is_done = place <= tally.record.removed
            || (place <= tally.latest && view.get(Space::Messages, &key)?.is_some());
        if is_done {
            return Ok(());
        }
        tally.add(place, count, bytes);
        self.messages += count.cast_signed();
        self.bytes += bytes.cast_signed();
        self.runs.push(Change { space: Space::Messages, key, value: Some(value) });
        Ok(())
    }

    /// The tally of an address, loaded when it is not known.
    fn tally(&mut self, address: &Address, retention: Retention) -> Result<&mut Tally, StoreError> {
        let tally = match self.tallies.entry(address.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let tally = if let Some(known) = self.known.of.get(address) {
                    known.clone()
                } else {
                    let tally = Tally::load(self.view, address, retention)?.in_round(self.known.round);
                    let (messages, bytes) = tally.unsaved();
                    self.messages += messages;
                    self.bytes += bytes;
                    tally
                };
                entry.insert(tally)
            }
        };
        tally.record.retention = retention;
        Ok(tally)
    }

    fn add_delayed(&mut self, due_unix_ms: u64, batch: &Batch) -> Result<(), StoreError> {
        let Some(message) = batch.messages.first() else { return Ok(()) };
        let key = key::delayed(due_unix_ms, message.id);
        let mut value = record::begin(0, run::size_hint(batch));
        record::put_text(&mut value, batch.to.as_str(), "an address")?;
        run::put(&mut value, batch)?;
        let value = record::seal(&key, value);
        self.set_counted(key, Some(value))
    }

    fn add_ledger(&mut self, id: MessageId, body: &[u8]) -> Result<(), StoreError> {
        let mut tally = match self.ledgers.take() {
            Some(tally) => tally,
            None => LedgerTally::load(self.view)?,
        };
        let key = key::ledger(id);
        let value = record::opaque(&key, body);
        if tally.counts(&key) {
            let before = self.bytes;
            self.set_counted(key, Some(value))?;
            tally.add(self.bytes - before);
        } else {
            self.state.insert(key, Some(value));
        }
        self.ledgers = Some(tally);
        Ok(())
    }

    /// Removes a dedup key unless it is another publish's.
    fn free(&mut self, at: Vec<u8>, id: MessageId) -> Result<(), StoreError> {
        let parse = |value: &[u8]| record::parse_dedup(&at, value);
        let key = match self.state.get(&at) {
            Some(value) => value.as_deref().map(parse).transpose()?,
            None => self.view.get(Space::State, &at)?.as_deref().map(parse).transpose()?,
        };
        if key.is_some_and(|key| key.answer.id == id) {
            self.remove(at);
        }
        Ok(())
    }

    /// Removes a dead letter, or all of a recipient where no address is named. One of a format before 5 is found by its
    /// recipient alone.
    fn remove_letters(&mut self, id: MessageId, place: &str) -> Result<(), StoreError> {
        let (recipient, to) = place.split_once('\0').map_or((place, None), |(one, to)| (one, Some(to)));
        let alone = key::dead_letter(id, recipient);
        if let Some(to) = to {
            let value = match self.state.get(&alone) {
                Some(value) => value.clone(),
                None => self.view.get(Space::State, &alone)?.map(|value| value.to_vec()),
            };
            let letter = value.and_then(|value| record::parse_dead_letter(&alone, &value).ok());
            if letter.is_some_and(|letter| letter.batch.to.as_str() == to) {
                self.set_counted(alone, None)?;
            }
            return self.set_counted(key::dead_letter(id, place), None);
        }
        let (from, behind) = ([&*alone, &[0]].concat(), [&*alone, &[1]].concat());
        let mut keys: Vec<_> = self.state.keys().filter(|key| key.starts_with(&from)).cloned().collect();
        for entry in self.view.range(Space::State, &from, &behind) {
            keys.push(entry?.0.to_vec());
        }
        keys.push(alone);
        keys.into_iter().try_for_each(|key| self.set_counted(key, None))
    }

    /// Sets a position unless it is behind what is there.
    fn advance(&mut self, key: Vec<u8>, position: Position) -> Result<(), StoreError> {
        let now = match self.state.get(&key) {
            Some(value) => value.as_ref().map(|value| record::parse_position(&key, value)).transpose()?,
            None => read::position(self.view, &key)?,
        };
        if now.is_none_or(|now| key::place(now) < key::place(position)) {
            let value = record::position(&key, position);
            self.state.insert(key, Some(value));
        }
        Ok(())
    }

    fn put(&mut self, key: Vec<u8>, body: &[u8]) {
        let value = record::opaque(&key, body);
        self.state.insert(key, Some(value));
    }

    /// Of a user who was seen before, no first time is set.
    fn set_seen(&mut self, user: &Name, seen: Seen) -> Result<(), StoreError> {
        let key = key::named(key::LAST_SEEN, user);
        let is_known = match self.state.get(&key) {
            _ if !seen.is_first => false,
            Some(value) => value.is_some(),
            None => self.view.get(Space::State, &key)?.is_some(),
        };
        if !is_known {
            let value = record::seen(&key, seen);
            self.state.insert(key, Some(value));
        }
        Ok(())
    }

    fn remove(&mut self, key: Vec<u8>) {
        self.state.insert(key, None);
    }

    /// Sets or removes a record that the store's bound counts.
    fn set_counted(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let before = match self.state.get(&key) {
            Some(value) => value.as_ref().map(Vec::len),
            None => self.view.get(Space::State, &key)?.map(|value| value.len()),
        };
        let size = |len: Option<usize>| len.map_or(0, |len| (key.len() + len) as i64);
        self.bytes += size(value.as_ref().map(Vec::len)) - size(before);
        self.state.insert(key, value);
        Ok(())
    }

    fn finish(mut self) -> Staged {
        let mut changes = self.runs;
        let due = self.tallies.iter_mut().filter(|(_, tally)| tally.is_due());
        changes.extend(due.map(|(address, tally)| tally.save(address)));
        changes.extend(self.state.into_iter().map(|(key, value)| Change { space: Space::State, key, value }));
        changes.extend(self.ledgers.as_ref().map(LedgerTally::save));
        Staged {
            changes,
            tallies: self.tallies,
            messages: self.messages,
            bytes: self.bytes,
            ledger_bytes: self.ledgers.map(|tally| tally.bytes),
            left_out: self.left_out,
        }
    }
}
