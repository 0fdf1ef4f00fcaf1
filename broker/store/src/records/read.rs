//! Reading: everything is answered from one view.

use crate::key::{self, Place, place};
use crate::record::{self, AddressRecord, HEAD_BYTES, describe};
use crate::run::{self, Run};
use crate::shelf::{Space, View};
use crate::store::{
    DeadLetter, Delayed, DelayedPage, Member, Page, Query, QueueRecord, ResumeRecord, Seen, StoreError,
};
use std::sync::Arc;
use waspmq_core::dedup;
use waspmq_core::delivery::QueueCursor;
use waspmq_core::{Address, MessageId, Name, Pattern, Position, QueueId, Stream, limits};

/// Cursors of one user that are looked at to find those in one address. More: the ones behind are not found.
const CURSORS_READ_MAX: usize = 4_096;

/// What is known of an address; `None` when it never had messages.
pub(super) fn address_record(view: &impl View, address: &str) -> Result<Option<AddressRecord>, StoreError> {
    let key = key::address(address);
    view.get(Space::State, &key)?.map(|value| AddressRecord::parse(&key, &value)).transpose()
}

/// A run that was read: its last place and its value, checked.
pub(crate) fn parse_run<'a>(key: &[u8], value: &'a [u8]) -> Result<(Place, Run<'a>), StoreError> {
    let corrupt = || StoreError::Corrupt { what: describe_run(key) };
    let (_, reader) = record::open(key, value).map_err(|_| corrupt())?;
    let (_, last) = key::parse_run(key).ok_or_else(corrupt)?;
    let run = Run::parse(reader).filter(|run| !run.entries.is_empty()).ok_or_else(corrupt)?;
    Ok((last, run))
}

/// Says which messages, for errors and reports.
pub(crate) fn describe_run(key: &[u8]) -> String {
    match key::parse_run(key) {
        Some((address, (epoch, offset))) => {
            format!("the run of messages of {address} up to epoch {epoch} offset {offset}")
        }
        None => describe(key),
    }
}

pub(super) fn messages(view: &impl View, query: &Query) -> Result<Page, StoreError> {
    let mut page = Page::default();
    let address = query.address.as_str();
    let Some(record) = address_record(view, address)? else { return Ok(page) };
    let after = query.after.map(place);
    page.gap = after.is_some_and(|after| record.removed > after);
    let aged_before_ms = query.now_unix_ms.saturating_sub(record.retention.age_ms);
    let mut reader =
        PageReader { view, query, aged_before_ms, behind: record.removed.max(after.unwrap_or_default()) };
    if let Some(time) = query.from_unix_ms {
        reader.skip_to_time(time)?;
    }
    if let Some(count) = query.last {
        reader.skip_to_last(count)?;
    }
    match reader.fill(&mut page) {
        // What lies in front of the damage is whole, and the next page begins with that.
        Err(StoreError::Corrupt { .. }) if !page.messages.is_empty() => page.more = true,
        filled => filled?,
    }
    Ok(page)
}

struct PageReader<'a, V> {
    view: &'a V,
    query: &'a Query,
    /// Messages published before are left out, and count as removed.
    aged_before_ms: u64,
    /// Nothing up to here belongs to the answer.
    behind: Place,
}

impl<V: View> PageReader<'_, V> {
    fn runs(&self) -> crate::shelf::Entries<'_> {
        let address = self.query.address.as_str();
        self.view.range(
            Space::Messages,
            &key::run(address, key::behind(self.behind)),
            &key::runs_end(address),
        )
    }

    /// Moves `behind` up so that the first message at `time` or later comes next. Publish times follow positions
    /// closely, so the place is found by halving; the last stretch is looked at message by message.
    fn skip_to_time(&mut self, time_unix_ms: u64) -> Result<(), StoreError> {
        let Some((last, _)) = self.runs().next_back().transpose()?.and_then(|(key, _)| last_of(&key)) else {
            return Ok(());
        };
        // Workers take the time before the position: neighbours may be swapped by this much.
        let before_ms = time_unix_ms.saturating_sub(limits::PUBLISH_SKEW_MS);
        let (mut low, mut high) = (number(self.behind), number(last));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.next_run_behind(of_number(middle))? {
                Some((found, unix_ms)) if unix_ms < before_ms => low = number(found).max(middle + 1),
                _ => high = middle,
            }
        }
        self.behind = self.behind.max(of_number(low));
        Ok(())
    }

    fn next_run_behind(&self, place: Place) -> Result<Option<(Place, u64)>, StoreError> {
        let address = self.query.address.as_str();
        let from = key::run(address, key::behind(place));
        let next = self.view.range(Space::Messages, &from, &key::runs_end(address)).next().transpose()?;
        let Some((key, value)) = next else { return Ok(None) };
        let (last, run) = parse_run(&key, &value)?;
        Ok(Some((last, run.unix_ms)))
    }

    /// Moves `behind` up so that `count` messages come next.
    fn skip_to_last(&mut self, count: usize) -> Result<(), StoreError> {
        let mut left = count;
        let mut behind = self.behind;
        for entry in self.runs().rev() {
            let (key, value) = entry?;
            let (last, run) = parse_run(&key, &value)?;
            for index in (0..run.entries.len()).rev() {
                let at = (last.0, run.offset(last.1, index));
                if left == 0 && at > behind {
                    behind = at;
                }
                if at > self.behind && self.is_visible(&run, index) {
                    left = left.saturating_sub(1);
                }
            }
            if left == 0 && behind > self.behind {
                break;
            }
        }
        self.behind = if count == 0 { (u32::MAX, u64::MAX) } else { behind };
        Ok(())
    }

    fn is_visible(&self, run: &Run<'_>, index: usize) -> bool {
        let expired = run.entries.get(index).is_none_or(|entry| entry.is_expired(self.query.now_unix_ms));
        let early = self.query.from_unix_ms.is_some_and(|time| run.unix_ms < time);
        !expired && !early && run.unix_ms >= self.aged_before_ms
    }

    fn fill(&self, page: &mut Page) -> Result<(), StoreError> {
        let mut bytes = 0;
        for entry in self.runs() {
            let (key, value) = entry?;
            let (last, run) = parse_run(&key, &value)?;
            for (index, message) in run.entries.iter().enumerate() {
                let at = (last.0, run.offset(last.1, index));
                if at <= self.behind {
                    continue;
                }
                if !self.is_visible(&run, index) {
                    page.gap |= self.query.after.is_some() && run.unix_ms < self.aged_before_ms;
                    continue;
                }
                let size = message.size_bytes();
                let full = page.messages.len() >= self.query.limit || bytes + size > self.query.max_bytes;
                if full && (!page.messages.is_empty() || self.query.limit == 0) {
                    page.more = true;
                    return Ok(());
                }
                bytes += size;
                let batch = run.message(&self.query.address, at, index);
                page.messages.push(batch.ok_or_else(|| StoreError::Corrupt { what: describe_run(&key) })?);
            }
        }
        Ok(())
    }
}

/// A place as one number, for halving.
const fn number((epoch, offset): Place) -> u128 {
    ((epoch as u128) << 64) | offset as u128
}

#[expect(clippy::cast_possible_truncation, reason = "takes the parts of the number out")]
const fn of_number(number: u128) -> Place {
    ((number >> 64) as u32, number as u64)
}

fn last_of(key: &[u8]) -> Option<(Place, ())> {
    key::parse_run(key).map(|(_, last)| (last, ()))
}

pub(super) fn first(view: &impl View, address: &Address) -> Result<Option<Position>, StoreError> {
    let Some(record) = address_record(view, address.as_str())? else { return Ok(None) };
    let from = key::run(address.as_str(), key::behind(record.removed));
    let next = view.range(Space::Messages, &from, &key::runs_end(address.as_str())).next().transpose()?;
    let Some((key, value)) = next else { return Ok(None) };
    let (last, run) = parse_run(&key, &value)?;
    let offset = run.offset(last.1, 0);
    let offset =
        if record.removed.0 == last.0 { offset.max(record.removed.1.saturating_add(1)) } else { offset };
    Ok(Some(Position { stream: Stream { shard: run.shard, epoch: last.0 }, offset }))
}

pub(super) fn last(view: &impl View, address: &Address) -> Result<Option<Position>, StoreError> {
    let Some(record) = address_record(view, address.as_str())? else { return Ok(None) };
    let from = key::run(address.as_str(), key::behind(record.removed));
    let next =
        view.range(Space::Messages, &from, &key::runs_end(address.as_str())).next_back().transpose()?;
    let Some((key, value)) = next else { return Ok(None) };
    let ((epoch, offset), run) = parse_run(&key, &value)?;
    Ok(Some(Position { stream: Stream { shard: run.shard, epoch }, offset }))
}

/// Messages of a run behind `place`.
pub(crate) fn count_behind(last: Place, count: u64, place: Place) -> u64 {
    if last.0 == place.0 { count.min(last.1.saturating_sub(place.1)) } else { count }
}

pub(super) fn count_after(
    view: &impl View,
    address: &Address,
    after: Option<Position>,
    most: usize,
) -> Result<usize, StoreError> {
    let Some(record) = address_record(view, address.as_str())? else { return Ok(0) };
    let behind = record.removed.max(after.map(place).unwrap_or_default());
    let from = key::run(address.as_str(), key::behind(behind));
    let mut total = 0;
    for entry in view.range(Space::Messages, &from, &key::runs_end(address.as_str())) {
        let (key, value) = entry?;
        let (last, count, _) = measure(&key, &value)?;
        total += usize::try_from(count_behind(last, count, behind)).unwrap_or(usize::MAX);
        if total >= most {
            return Ok(most);
        }
    }
    Ok(total)
}

/// Last place, messages and publish time of a run, unchecked.
pub(super) fn measure(key: &[u8], value: &[u8]) -> Result<(Place, u64, u64), StoreError> {
    let parse = || {
        let (_, last) = key::parse_run(key)?;
        let (count, unix_ms) = run::peek(value.get(HEAD_BYTES..)?)?;
        Some((last, u64::from(count), unix_ms))
    };
    parse().ok_or_else(|| StoreError::Corrupt { what: describe_run(key) })
}

pub(super) fn addresses(
    view: &impl View,
    (pattern, after): (&Pattern, Option<&Address>),
    most: usize,
) -> Result<Vec<Address>, StoreError> {
    let mut found = Vec::new();
    let (from, to) = address_range(pattern);
    // No text contains the byte 0.
    let behind = after.map(|after| [&*key::address(after.as_str()), &[0]].concat());
    let from = behind.filter(|behind| *behind > from).unwrap_or(from);
    for entry in view.range(Space::State, &from, &to) {
        if found.len() >= most {
            break;
        }
        let (key, value) = entry?;
        let address = parse_address(&key)?;
        if !pattern.matches(&address) {
            continue;
        }
        let record = AddressRecord::parse(&key, &value)?;
        if record.count > 0 || last(view, &address)?.is_some() {
            found.push(address);
        }
    }
    Ok(found)
}

pub(crate) fn parse_address(key: &[u8]) -> Result<Address, StoreError> {
    let text = key.get(1..).and_then(|text| std::str::from_utf8(text).ok());
    let address = text.and_then(|text| Address::parse(text).ok());
    address.ok_or_else(|| StoreError::Corrupt { what: describe(key) })
}

/// The keys of all addresses that may match.
fn address_range(pattern: &Pattern) -> (Vec<u8>, Vec<u8>) {
    if !pattern.is_wildcard() {
        let key = key::address(pattern.as_str());
        let end = [&*key, &[0]].concat();
        return (key, end);
    }
    let literal = pattern.as_str().find(['*', '>']).map_or(pattern.as_str(), |at| &pattern.as_str()[..at]);
    let from = key::address(literal);
    // No text contains the byte 255.
    let to = [&*from, &[0xff]].concat();
    (from, to)
}

pub(super) fn position(view: &impl View, key: &[u8]) -> Result<Option<Position>, StoreError> {
    view.get(Space::State, key)?.map(|value| record::parse_position(key, &value)).transpose()
}

/// The cursors of a user in one address. Every address of the user is passed over on the way, so what is looked at is
/// bounded, too: by [`CURSORS_READ_MAX`].
pub(super) fn cursors(
    view: &impl View,
    user: &Name,
    address: &Address,
    most: usize,
) -> Result<Vec<(Option<Name>, Position)>, StoreError> {
    let prefix = key::tagged(key::CURSOR, &[user.as_str().as_bytes(), b""]);
    let mut to = prefix.clone();
    // The separator behind the user's name, plus one.
    if let Some(last) = to.last_mut() {
        *last = 1;
    }
    let mut found = Vec::new();
    for entry in view.range(Space::State, &prefix, &to).take(CURSORS_READ_MAX) {
        let (key, value) = entry?;
        let corrupt = || StoreError::Corrupt { what: describe(&key) };
        let rest = key.get(prefix.len()..).and_then(|rest| std::str::from_utf8(rest).ok());
        let (device, of) = rest.and_then(|rest| rest.split_once('\0')).ok_or_else(corrupt)?;
        if of != address.as_str() {
            continue;
        }
        let device = (!device.is_empty()).then(|| Name::parse(device)).transpose();
        found.push((device.map_err(|_| corrupt())?, record::parse_position(&key, &value)?));
        if found.len() >= most {
            break;
        }
    }
    Ok(found)
}

/// All records of one tag.
fn tagged<'a>(view: &'a impl View, tag: u8) -> crate::shelf::Entries<'a> {
    view.range(Space::State, &[tag], &[tag + 1])
}

fn names<const N: usize>(key: &[u8]) -> Result<[Name; N], StoreError> {
    let corrupt = || StoreError::Corrupt { what: describe(key) };
    let text = key.get(1..).and_then(|text| std::str::from_utf8(text).ok()).ok_or_else(corrupt)?;
    let names: Result<Vec<Name>, _> = text.split('\0').map(Name::parse).collect();
    names.ok().and_then(|names| names.try_into().ok()).ok_or_else(corrupt)
}

pub(super) fn groups(view: &impl View, each: &mut dyn FnMut(Name)) -> Result<(), StoreError> {
    for entry in tagged(view, key::GROUP) {
        let (key, value) = entry?;
        record::open(&key, &value)?;
        let [group] = names(&key)?;
        each(group);
    }
    Ok(())
}

pub(super) fn members(view: &impl View, each: &mut dyn FnMut(Member)) -> Result<(), StoreError> {
    for entry in tagged(view, key::MEMBER) {
        let (key, value) = entry?;
        let (since, by) = record::parse_member(&key, &value)?;
        let [group, user] = names(&key)?;
        each(Member { group, user, since, by });
    }
    Ok(())
}

pub(super) fn resume(view: &impl View, token_hash: &[u8; 32]) -> Result<Option<ResumeRecord>, StoreError> {
    let key = key::resume(token_hash);
    view.get(Space::State, &key)?.map(|value| record::parse_resume(&key, &value)).transpose()
}

pub(super) fn resumes(view: &impl View, each: &mut dyn FnMut(ResumeRecord)) -> Result<(), StoreError> {
    for entry in tagged(view, key::RESUME) {
        let (key, value) = entry?;
        each(record::parse_resume(&key, &value)?);
    }
    Ok(())
}

pub(super) fn dead_letters(
    view: &impl View,
    after: Option<(MessageId, &str)>,
    most: usize,
) -> Result<Vec<DeadLetter>, StoreError> {
    let mut from = vec![key::DEAD_LETTER];
    if let Some((id, place)) = after {
        from = key::dead_letter(id, place);
        from.push(0);
    }
    let letters = view.range(Space::State, &from, &[key::DEAD_LETTER + 1]).take(most);
    letters.map(|entry| entry.and_then(|(key, value)| record::parse_dead_letter(&key, &value))).collect()
}

pub(super) fn dead_letter(view: &impl View, id: MessageId) -> Result<Vec<DeadLetter>, StoreError> {
    let from = key::dead_letter(id, "");
    let to = [&*from, &[0xff]].concat();
    let letters = view.range(Space::State, &from, &to);
    letters.map(|entry| entry.and_then(|(key, value)| record::parse_dead_letter(&key, &value))).collect()
}

pub(super) fn ledger(view: &impl View, id: MessageId) -> Result<Option<Vec<u8>>, StoreError> {
    let key = key::ledger(id);
    let Some(value) = view.get(Space::State, &key)? else { return Ok(None) };
    let (_, reader) = record::open(&key, &value)?;
    Ok(Some(reader.rest.to_vec()))
}

pub(super) fn delayed(
    view: &impl View,
    after: Option<(u64, MessageId)>,
    (most, max_bytes): (usize, usize),
) -> Result<DelayedPage, StoreError> {
    let mut from = vec![key::DELAYED];
    if let Some((due_unix_ms, id)) = after {
        from = key::delayed(due_unix_ms, id);
        from.push(0);
    }
    let (mut page, mut bytes) = (DelayedPage::default(), 0);
    for entry in view.range(Space::State, &from, &[key::DELAYED + 1]) {
        let (key, value) = entry?;
        bytes += value.len();
        if page.messages.len() >= most || bytes > max_bytes && !page.messages.is_empty() {
            page.next_due_unix_ms = due_unix_ms(&key);
            break;
        }
        page.messages.push(parse_delayed(&key, &value)?);
    }
    Ok(page)
}

/// The time in a delayed message's key.
fn due_unix_ms(key: &[u8]) -> Option<u64> {
    let (due, _) = key.get(1..)?.split_first_chunk::<8>()?;
    Some(u64::from_be_bytes(*due))
}

pub(crate) fn parse_delayed(key: &[u8], value: &[u8]) -> Result<Delayed, StoreError> {
    let (_, mut reader) = record::open(key, value)?;
    let parse = || {
        let address = Address::parse(reader.text()?).ok()?;
        let batch = Run::parse(reader)?.to_batch(&address)?;
        Some(Delayed { due_unix_ms: due_unix_ms(key)?, batch: Arc::new(batch) })
    };
    parse().ok_or_else(|| StoreError::Corrupt { what: describe(key) })
}

pub(super) fn queues(view: &impl View, each: &mut dyn FnMut(QueueRecord)) -> Result<(), StoreError> {
    for entry in tagged(view, key::QUEUE) {
        let (key, value) = entry?;
        each(record::parse_queue(&key, &value)?);
    }
    Ok(())
}

pub(super) fn queue_cursor(
    view: &impl View,
    id: &QueueId,
    born_unix_ms: u64,
    address: &Address,
) -> Result<Option<QueueCursor>, StoreError> {
    let key = key::queue_cursor(id, address.as_str());
    let found =
        view.get(Space::State, &key)?.map(|value| record::parse_queue_cursor(&key, &value)).transpose()?;
    Ok(found.filter(|(born, _)| *born == born_unix_ms).map(|(_, cursor)| cursor))
}

/// The dedup keys of a shard, and how many of its records are damaged.
pub(super) fn dedup_keys(view: &impl View, shard: u16) -> Result<(Vec<dedup::Key>, usize), StoreError> {
    let (mut keys, mut damaged) = (Vec::new(), 0);
    let (from, to) = key::dedups(shard);
    for entry in view.range(Space::State, &from, &to) {
        let (at, value) = entry?;
        match record::parse_dedup(&at, &value) {
            Ok(key) => keys.push(key),
            Err(_) => damaged += 1,
        }
    }
    Ok((keys, damaged))
}

/// The last group of a log that was applied, 0 for none.
pub(super) fn applied(view: &impl View) -> Result<u64, StoreError> {
    let key = [key::APPLIED];
    let value = view.get(Space::State, &key)?;
    value.map_or(Ok(0), |value| record::parse_number(&key, &value))
}

pub(super) fn seen(view: &impl View, user: &Name) -> Result<Option<Seen>, StoreError> {
    let key = key::named(key::LAST_SEEN, user);
    view.get(Space::State, &key)?.map(|value| record::parse_seen(&key, &value)).transpose()
}

#[cfg(test)]
mod tests;
