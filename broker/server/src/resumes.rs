//! Sessions that can be resumed, by the hash of their token: one table for all workers, written through to the journal.
//!
//! | record | the session's connection | ends by |
//! | --- | --- | --- |
//! | live | is there, or is not known to be lost | its client's `disconnect`, a kick, or being taken over |
//! | left | is lost | being resumed, the window's end, or lack of room: who left first is forgotten first |
//!
//! Invariants: a token is taken once; what the journal has of a record is handed over and removed under the table's lock,
//! so a token that was taken never comes back. The stored form is made without the lock, of a record that others see
//! unchanged, and is not handed over when the record has changed or gone meanwhile. At most [`limits::RESUMABLE_SESSIONS_MAX`] records; when all are live,
//! one more session gets no token. Tokens are kept as hashes only. Not here: what resuming does (`worker::resume`).

mod body;

pub(crate) use body::Alive;

use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use waspmq_core::delivery::{Cursors, Window};
use waspmq_core::session::Subscription;
use waspmq_core::trie::Trie;
use waspmq_core::{Address, Kind, Name, Pattern, Position, SessionId, limits};
use waspmq_store::{Journal, ResumeRecord, Write};

/// The BLAKE3 hash of a token's text.
pub(crate) type TokenHash = [u8; 32];

/// Where the journal keeps when the broker was alive last. No token has this hash.
pub(crate) const ALIVE: TokenHash = [0; 32];

/// Random bytes of a token, twice as many hexadecimal digits in text.
const TOKEN_BYTES: usize = 16;

/// A subscription, with positions of its streams: one for an address, one for each shard for a pattern with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscribed {
    pub(crate) subscription: Subscription,
    /// The last ones before it began.
    pub(crate) since: Arc<[Position]>,
    /// The last ones before it began in this connection: whoever has the token was told what was missed before. Not in
    /// the journal.
    pub(crate) told: Arc<[Position]>,
    /// The registry's number of a pattern with wildcards then. Not in the journal.
    pub(crate) number: Option<u64>,
}

/// An address that a session has by itself, with the last position before it had it, and before it had it in this
/// connection, as above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Implied {
    pub(crate) to: Address,
    pub(crate) since: Position,
    pub(crate) told: Position,
}

impl Implied {
    pub(crate) const fn new(to: Address, since: Position) -> Self {
        Self { to, since, told: since }
    }
}

/// Where reading of stored messages began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Behind what the device has acknowledged.
    Cursor,
    Earliest,
    Last,
    Time(u64),
    After(Position),
}

/// Reading of stored messages of which the client's positions do not say how far it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replay {
    /// One with wildcards that begins behind a position is about the addresses in the position's shard.
    pub(crate) of: Pattern,
    pub(crate) begin: Begin,
    /// The last position that was read, and that of the stream when the reading ended. A client whose latest position
    /// is the first, or behind the second, has seen everything that was read. `None`: the reading had not ended.
    pub(crate) until: Option<(Position, Position)>,
}

impl Replay {
    /// The pattern with wildcards and the shard that a reading of one shard is about.
    pub(crate) fn shard_of_pattern(&self) -> Option<(&Pattern, u16)> {
        match self.begin {
            Begin::After(position) if self.of.is_wildcard() => Some((&self.of, position.stream.shard)),
            _ => None,
        }
    }
}

/// What a session is resumed from.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) session: SessionId,
    /// The ids it had before it was taken over, the latest last.
    pub(crate) former: Vec<SessionId>,
    /// The worker that has, or had, its connection.
    pub(crate) worker: u8,
    pub(crate) user: Name,
    pub(crate) device: Option<Name>,
    pub(crate) is_generated: bool,
    pub(crate) subscriptions: Vec<Subscribed>,
    pub(crate) implied: Vec<Implied>,
    pub(crate) watched: Vec<Name>,
    pub(crate) replays: Vec<Replay>,
    /// Tracked messages that were sent and are not acknowledged. Not in the journal.
    pub(crate) window: Vec<Window>,
    /// Stored messages that were sent and are not acknowledged. Not in the journal.
    pub(crate) cursors: Option<Box<Cursors>>,
    /// Whether `cursors` is all that is not acknowledged; else the store's cursors say it.
    pub(crate) has_cursors: bool,
    /// When its connection was lost, milliseconds since 1970; `None` while it is live.
    pub(crate) left_unix_ms: Option<u64>,
    /// Whether something was lost that no replay brings.
    pub(crate) has_missed: bool,
    /// Whether the journal has it.
    pub(crate) is_saved: bool,
}

/// Where the session of a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// It has a connection, at this worker of this run.
    Live { session: SessionId, worker: u8 },
    /// Its connection was lost.
    Left,
}

/// What has to be known of a record before it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peek {
    pub(crate) user: Name,
    pub(crate) is_generated: bool,
}

#[derive(Debug, Default)]
struct Table {
    /// Copied before a change only while somebody writes one down.
    records: HashMap<TokenHash, Arc<Record>, foldhash::fast::RandomState>,
    /// Records whose session has left, in the order of leaving, with the memory of what they may still acknowledge.
    left: BTreeMap<(u64, TokenHash), usize>,
    /// All of that memory.
    window_bytes: usize,
    /// How many sessions read later what is stored: those that have left, and those on their way.
    absent_count: usize,
    /// Names that the broker gave, of members of groups whose session nobody can go on with any more: those since they were
    /// taken last.
    ended: Vec<Name>,
    /// How many of those subscribed to a topic, queues left out.
    absent: Trie<u32>,
}

/// A session on its way out of a connection, or into one: it counts as one that reads later until it has arrived, so
/// that there is no moment in which nobody knows of it.
#[derive(Debug)]
pub(crate) struct Absence {
    resumes: Arc<Resumes>,
    topics: Vec<Pattern>,
}

impl Drop for Absence {
    fn drop(&mut self) {
        self.resumes.table().note_present(self.topics.iter());
    }
}

/// The table. Its lock is held for a look-up, a change, or the hand-over of one record to the journal's queue.
#[derive(Debug)]
pub(crate) struct Resumes {
    window_ms: u64,
    most: usize,
    table: Mutex<Table>,
}

/// The hash by which a token is known.
pub(crate) fn hash(token: &str) -> TokenHash {
    *blake3::hash(token.as_bytes()).as_bytes()
}

/// A new token, 128 random bits as hexadecimal digits; `None` when the system has no randomness to give.
pub(crate) fn new_token() -> Option<String> {
    let mut bytes = [0; TOKEN_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Resumes {
    /// Sessions can be resumed for `window_ms` after their connection was lost; 0 is never.
    pub(crate) fn new(window_ms: u32) -> Self {
        Self { window_ms: window_ms.into(), most: limits::RESUMABLE_SESSIONS_MAX, table: Mutex::default() }
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.window_ms > 0
    }

    /// Adds a record. False when there is no room, because all others are live.
    pub(crate) fn insert(&self, hash: TokenHash, record: Record, now_unix_ms: u64) -> bool {
        let mut table = self.table();
        self.forget_old(&mut table, now_unix_ms);
        if table.records.len() >= self.most
            && let Some((&(_, oldest), _)) = table.left.first_key_value()
        {
            table.end(&oldest);
        }
        if table.records.len() >= self.most {
            table.note_ended(&record);
            return false;
        }
        if let Some(left_unix_ms) = record.left_unix_ms {
            table.note_left(&record, (left_unix_ms, hash));
        }
        table.records.insert(hash, Arc::new(record));
        true
    }

    /// The session is not any more as the journal has it: that is forgotten until it is saved anew. A broker that ends
    /// in between begins the session anew rather than giving it back something that its client was told is over.
    pub(crate) fn change(&self, hash: &TokenHash, journal: &Journal, change: impl FnOnce(&mut Record)) {
        let mut table = self.table();
        let Some(record) = table.records.get_mut(hash) else { return };
        let record = Arc::make_mut(record);
        change(record);
        if record.is_saved {
            record.is_saved = !forget(record, hash, journal);
        }
    }

    /// Changes what is known of a record's session, if there is one.
    pub(crate) fn update(&self, hash: &TokenHash, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.table().records.get_mut(hash) {
            change(Arc::make_mut(record));
        }
    }

    /// Looks at a record that can be taken.
    pub(crate) fn peek(&self, hash: &TokenHash, now_unix_ms: u64) -> Option<Peek> {
        let table = self.table();
        let record = table.records.get(hash).filter(|record| !self.is_over(record, now_unix_ms))?;
        Some(Peek { user: record.user.clone(), is_generated: record.is_generated })
    }

    /// Where the session of a token is; `None` when there is none that can be resumed.
    pub(crate) fn holder(&self, hash: &TokenHash, now_unix_ms: u64) -> Option<Holder> {
        let table = self.table();
        let record = table.records.get(hash).filter(|record| !self.is_over(record, now_unix_ms))?;
        Some(match record.left_unix_ms {
            None => Holder::Live { session: record.session, worker: record.worker },
            Some(_) => Holder::Left,
        })
    }

    /// A session is about to leave its connection.
    pub(crate) fn depart(self: &Arc<Self>, hash: &TokenHash) -> Option<Absence> {
        let mut table = self.table();
        let topics: Vec<_> = topics(table.records.get(hash)?).cloned().collect();
        table.note_absent(topics.iter());
        Some(Absence { resumes: self.clone(), topics })
    }

    /// Takes the record of a user's device; its token is of no more use. One of somebody else stays. The session is
    /// absent until it has subscribed again.
    pub(crate) fn take(
        self: &Arc<Self>,
        hash: &TokenHash,
        (user, device): (&Name, Option<&Name>),
        (now_unix_ms, journal): (u64, &Journal),
    ) -> Option<(Record, Absence)> {
        let mut table = self.table();
        let record = table.records.get(hash)?;
        if record.user != *user || record.device.as_ref() != device || self.is_over(record, now_unix_ms) {
            return None;
        }
        let record = table.remove(hash)?;
        let topics: Vec<_> = topics(&record).cloned().collect();
        table.note_absent(topics.iter());
        forget(&record, hash, journal);
        Some((record, Absence { resumes: self.clone(), topics }))
    }

    /// Forgets a session that ended for good.
    pub(crate) fn remove(&self, hash: &TokenHash, journal: &Journal) {
        let mut table = self.table();
        if let Some(record) = table.remove(hash) {
            forget(&record, hash, journal);
        }
    }

    /// The session's connection is lost: what is to be known of it is changed, and the window begins.
    pub(crate) fn leave(
        &self,
        hash: &TokenHash,
        (now_unix_ms, journal): (u64, &Journal),
        change: impl FnOnce(&mut Record),
    ) {
        let mut table = self.table();
        self.forget_old(&mut table, now_unix_ms);
        let Some(mut record) = table.remove(hash) else { return };
        change(&mut record);
        record.left_unix_ms = Some(now_unix_ms);
        if table.window_bytes + window_bytes(&record) > limits::WINDOWS_LEFT_BYTES_MAX {
            record.window = Vec::new();
        }
        let record = Arc::new(record);
        table.note_left(&record, (now_unix_ms, *hash));
        table.records.insert(*hash, record.clone());
        drop(table);
        self.write(hash, record, (now_unix_ms, journal));
    }

    /// Whether a session that was lost and can be resumed, or is on its way, reads later what is stored for this address, which is a
    /// topic or `all`.
    pub(crate) fn reads_later(&self, to: &Address, now_unix_ms: u64) -> bool {
        let mut table = self.table();
        self.forget_old(&mut table, now_unix_ms);
        match to.kind() {
            Kind::All => table.absent_count > 0,
            _ => !table.absent.matches(to).is_empty(),
        }
    }

    /// Forgets some of the sessions whose windows have ended: all workers wait for the lock. Others count as absent until the next look.
    fn forget_old(&self, table: &mut Table, now_unix_ms: u64) {
        let ended =
            table.left.keys().take_while(|(left_unix_ms, _)| self.has_expired(*left_unix_ms, now_unix_ms));
        let ended: Vec<_> =
            ended.take(limits::RESUMES_FORGOTTEN_PER_LOOK_MAX).map(|(_, hash)| *hash).collect();
        ended.iter().for_each(|hash| table.end(hash));
    }

    /// The generated names of members that nobody comes back under, each once.
    pub(crate) fn take_ended(&self, now_unix_ms: u64) -> Vec<Name> {
        let mut table = self.table();
        self.forget_old(&mut table, now_unix_ms);
        std::mem::take(&mut table.ended)
    }

    /// Hands a record to the journal. False without room there.
    pub(crate) fn save(&self, hash: &TokenHash, now_unix_ms: u64, journal: &Journal) -> bool {
        let record = self.table().records.get(hash).cloned();
        record.is_none_or(|record| self.write(hash, record, (now_unix_ms, journal)))
    }

    /// Brings back a record of an earlier run. One that was live then is left now. Gives what the journal is to have
    /// of it, if that changes.
    pub(crate) fn restore(
        &self,
        stored: &ResumeRecord,
        now_unix_ms: u64,
    ) -> Result<Restored, serde_json::Error> {
        let (mut record, saved_unix_ms) = body::parse(&stored.body)?;
        let mut restored = Restored { online: None, write: None };
        if record.left_unix_ms.is_none() {
            // The broker ended without ending its sessions: what was under way to them is lost.
            record.left_unix_ms = Some(now_unix_ms);
            record.has_missed = true;
            // Whether what was there before the session was read is known of a client that has seen something since.
            record.replays.extend(record.implied.iter().map(|Implied { to, since, .. }| Replay {
                of: Pattern::from(to),
                begin: Begin::Cursor,
                until: Some((*since, *since)),
            }));
            restored.online = (!record.is_generated).then(|| (record.user.clone(), saved_unix_ms));
            if self.is_on() {
                restored.write = Some(self.record(stored.token_hash, &record, now_unix_ms));
            }
        }
        if !self.is_on() || self.is_over(&record, now_unix_ms) {
            restored.write = Some(Write::NoResume { token_hash: stored.token_hash });
        } else {
            record.is_saved = true;
            self.insert(stored.token_hash, record, now_unix_ms);
        }
        Ok(restored)
    }

    /// Writes a record down and hands it to the journal; false without room there. Whoever has changed or taken it meanwhile
    /// has the last word.
    fn write(&self, hash: &TokenHash, record: Arc<Record>, (now_unix_ms, journal): (u64, &Journal)) -> bool {
        let write = self.record(*hash, &record, now_unix_ms);
        let mut table = self.table();
        let current = table.records.get_mut(hash);
        let Some(current) = current.filter(|current| Arc::ptr_eq(current, &record)) else { return true };
        // With this the table has the only one again, and the flag is set without a copy.
        drop(record);
        let has_room = journal.push(write, None).is_ok();
        if has_room {
            Arc::make_mut(current).is_saved = true;
        } else {
            tracing::debug!(session = %current.session, "the journal has no room for what a session is resumed from");
        }
        has_room
    }

    fn record(&self, token_hash: TokenHash, record: &Record, now_unix_ms: u64) -> Write {
        let left = record.left_unix_ms;
        let expires_unix_ms = left.map_or(u64::MAX, |left| left.saturating_add(self.window_ms));
        Write::Resume(ResumeRecord { token_hash, expires_unix_ms, body: body::to_json(record, now_unix_ms) })
    }

    const fn has_expired(&self, left_unix_ms: u64, now_unix_ms: u64) -> bool {
        left_unix_ms.saturating_add(self.window_ms) <= now_unix_ms
    }

    fn is_over(&self, record: &Record, now_unix_ms: u64) -> bool {
        record.left_unix_ms.is_some_and(|left| self.has_expired(left, now_unix_ms))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }
}

/// What follows from a record of an earlier run.
#[derive(Debug)]
pub(crate) struct Restored {
    /// A user who was online when the broker ended, and when that was known last.
    pub(crate) online: Option<(Name, u64)>,
    pub(crate) write: Option<Write>,
}

impl Table {
    fn remove(&mut self, hash: &TokenHash) -> Option<Record> {
        let record = Arc::unwrap_or_clone(self.records.remove(hash)?);
        if let Some(left_unix_ms) = record.left_unix_ms {
            self.window_bytes -= self.left.remove(&(left_unix_ms, *hash)).unwrap_or_default();
            self.note_present(topics(&record));
        }
        Some(record)
    }

    /// Nobody goes on with the session any more.
    fn end(&mut self, hash: &TokenHash) {
        if let Some(record) = self.remove(hash) {
            self.note_ended(&record);
        }
    }

    /// Of a live session, its connection's end says so.
    fn note_ended(&mut self, record: &Record) {
        let is_member = record.implied.iter().any(|implied| implied.to.kind() == Kind::Group);
        if record.is_generated && is_member && record.left_unix_ms.is_some() {
            self.ended.push(record.user.clone());
        }
    }

    fn note_left(&mut self, record: &Record, left: (u64, TokenHash)) {
        let window_bytes = window_bytes(record);
        self.window_bytes += window_bytes;
        self.left.insert(left, window_bytes);
        self.note_absent(topics(record));
    }

    fn note_absent<'a>(&mut self, topics: impl Iterator<Item = &'a Pattern>) {
        self.absent_count += 1;
        for pattern in topics {
            *self.absent.entry(pattern) += 1;
        }
    }

    fn note_present<'a>(&mut self, topics: impl Iterator<Item = &'a Pattern>) {
        self.absent_count -= 1;
        for pattern in topics {
            if let Some(count) = self.absent.get_mut(pattern) {
                *count -= 1;
                if *count == 0 {
                    self.absent.remove(pattern);
                }
            }
        }
    }
}

fn window_bytes(record: &Record) -> usize {
    record.window.iter().map(Window::pinned_bytes).sum()
}

/// The topics that a session subscribed to by itself.
fn topics(record: &Record) -> impl Iterator<Item = &Pattern> {
    let subscriptions = record.subscriptions.iter().map(|subscribed| &subscribed.subscription);
    subscriptions
        .filter(|subscription| subscription.queue.is_none())
        .map(|subscription| &subscription.pattern)
}

/// Has the journal forget a record. False without room there: the record ends with its window.
fn forget(record: &Record, hash: &TokenHash, journal: &Journal) -> bool {
    let is_forgotten = !record.is_saved || journal.push(Write::NoResume { token_hash: *hash }, None).is_ok();
    if !is_forgotten {
        tracing::warn!(session = %record.session, "the journal has no room to forget a resume token");
    }
    is_forgotten
}

#[cfg(test)]
mod tests;
