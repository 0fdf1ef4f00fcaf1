//! What a store takes and gives: the vocabulary between the broker and whatever keeps its messages.
//!
//! Invariants: a commit is all or nothing; positions of one address order by epoch, then offset; cursors and read
//! marks never move backwards. Deliberately not here: layouts (see `record`), threads (see `journal`).

use std::fmt;
use std::sync::Arc;
use waspmq_core::dedup;
use waspmq_core::delivery::QueueCursor;
use waspmq_core::message::Batch;
use waspmq_core::registry::JoinedBy;
use waspmq_core::settings::Retention;
use waspmq_core::{Address, MessageId, Name, Pattern, Position, QueueId};

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Handed to the operating system: survives the end of the process, not of the machine.
    Buffered,
    /// On stable storage, and everything committed before it too.
    Synced,
}

/// Why the store did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written. Passes when retention makes room, or when there is space on the disk again.
    #[error("the store is full: {reason}")]
    Full { reason: String },
    /// The disk failed; the store opens itself again. What was not acknowledged may or may not be there.
    #[error("the store does not answer: {reason}")]
    Unavailable { reason: String },
    /// A record does not read back as it was written.
    #[error("{what} in the store is damaged; run `waspmq store check`, then `waspmq store repair`")]
    Corrupt { what: String },
    /// The write can never be done: a text or a batch is larger than its record can say.
    #[error("{what} does not fit a record")]
    TooLarge { what: &'static str },
    /// The journal has ended.
    #[error("the store has been stopped")]
    Stopped,
}

impl StoreError {
    /// Whether the same write may work later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Unavailable { .. })
    }
}

/// What a session is resumed from. The body is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeRecord {
    pub token_hash: [u8; 32],
    pub expires_unix_ms: u64,
    pub body: Vec<u8>,
}

/// A message that was given up for one recipient.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub id: MessageId,
    pub recipient: String,
    pub unix_ms: u64,
    /// The word of a [`waspmq_core::delivery::Cause`].
    pub cause: String,
    pub attempts: u16,
    pub detail: String,
    /// Holds the one message.
    pub batch: Arc<Batch>,
}

impl DeadLetter {
    /// What it is found by besides its message: the recipient, and the address that the message was published to.
    pub fn place(&self) -> String {
        format!("{}\0{}", self.recipient, self.batch.to)
    }
}

/// A message that is published later.
#[derive(Debug, Clone)]
pub struct Delayed {
    pub due_unix_ms: u64,
    /// Holds the one message; its position means nothing yet.
    pub batch: Arc<Batch>,
}

/// A page of delayed messages.
#[derive(Debug, Default)]
pub struct DelayedPage {
    pub messages: Vec<Delayed>,
    /// When the one behind these is due, if there is one.
    pub next_due_unix_ms: Option<u64>,
}

/// Where a queue begins in an address in which it has no cursor. Positions are one for each shard at most; an address whose
/// shard has none is begun at its oldest message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueBegin {
    Earliest,
    /// With the newest message at or before these, or behind them.
    Last(Box<[Position]>),
    /// With the first message of this time or later.
    Time(u64),
    After(Box<[Position]>),
}

/// A queue whose progress is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRecord {
    pub id: QueueId,
    /// When it was made. Tells its cursors from those of an earlier queue of the same name.
    pub born_unix_ms: u64,
    /// When it was last known to have members.
    pub seen_unix_ms: u64,
    pub begin: QueueBegin,
}

/// One change.
#[derive(Debug, Clone)]
pub enum Write {
    /// Every message of the batch under its address and position; trimmed to `retention` afterwards.
    Messages {
        batch: Arc<Batch>,
        retention: Retention,
    },
    /// Never moves backwards.
    Cursor {
        user: Name,
        device: Option<Name>,
        address: Address,
        position: Position,
    },
    /// Never moves backwards.
    ReadMark {
        user: Name,
        address: Address,
        position: Position,
    },
    Member {
        group: Name,
        user: Name,
        since: Position,
        by: JoinedBy,
    },
    NoMember {
        group: Name,
        user: Name,
    },
    Group {
        group: Name,
    },
    /// Removes the group; its members are removed one by one by the caller.
    NoGroup {
        group: Name,
    },
    Resume(ResumeRecord),
    NoResume {
        token_hash: [u8; 32],
    },
    DeadLetter(DeadLetter),
    NoDeadLetter {
        id: MessageId,
        /// [`DeadLetter::place`]; a recipient alone means its letters of the message for all addresses.
        place: String,
    },
    Ledger {
        id: MessageId,
        body: Vec<u8>,
    },
    Delayed {
        due_unix_ms: u64,
        batch: Arc<Batch>,
    },
    NoDelayed {
        due_unix_ms: u64,
        id: MessageId,
    },
    /// The message that was delayed until then, as [`Self::Messages`] in place of what waited: both or neither.
    Due {
        due_unix_ms: u64,
        batch: Arc<Batch>,
        retention: Retention,
    },
    LastSeen {
        user: Name,
        unix_ms: u64,
    },
    /// Nothing happens where the store knows of the user.
    FirstSeen {
        user: Name,
        unix_ms: u64,
    },
    Queue(QueueRecord),
    /// Removes the queue; its cursors go by themselves.
    NoQueue {
        id: QueueId,
    },
    /// How far a queue is in an address. Who writes it is the only one, so that it may say less than before.
    QueueCursor {
        id: QueueId,
        born_unix_ms: u64,
        address: Address,
        cursor: QueueCursor,
    },
    /// The dedup key of a publish, in place of one that was forgotten, with the messages or the delayed one that it belongs
    /// to: both or neither. Alone where the last of its messages is not stored.
    DedupKey {
        key: dedup::Key,
        message: Option<Box<Self>>,
    },
    /// Removes the dedup key of this publish, unless a later one has its place.
    NoDedupKey {
        shard: u16,
        number: u64,
        id: MessageId,
    },
}

impl Write {
    /// The same with the dedup key of its publish, where it has one.
    #[must_use]
    pub fn with_key(self, key: Option<dedup::Key>) -> Self {
        match key {
            Some(key) => Self::DedupKey { key, message: Some(Box::new(self)) },
            None => self,
        }
    }

    /// Whether it is refused with [`StoreError::Full`] when space runs out; the others are small and pass.
    pub const fn needs_room(&self) -> bool {
        matches!(
            self,
            Self::Messages { .. }
                | Self::DeadLetter(_)
                | Self::Delayed { .. }
                | Self::Due { .. }
                | Self::DedupKey { message: Some(_), .. }
        )
    }

    /// About the bytes it takes in memory, for the bounds of a queue.
    pub fn size_bytes(&self) -> usize {
        let content = match self {
            Self::Messages { batch, .. } | Self::Delayed { batch, .. } | Self::Due { batch, .. } => {
                batch.size_bytes()
            }
            Self::DeadLetter(letter) => {
                letter.batch.size_bytes() + letter.detail.len() + letter.recipient.len()
            }
            Self::Resume(record) => record.body.len(),
            Self::Ledger { body, .. } => body.len(),
            Self::Queue(QueueRecord {
                begin: QueueBegin::Last(positions) | QueueBegin::After(positions),
                ..
            }) => size_of_val(&**positions),
            Self::QueueCursor { cursor, .. } => size_of_val(&*cursor.done),
            Self::DedupKey { key, message } => {
                key.text.len() + message.as_ref().map_or(0, |message| message.size_bytes())
            }
            _ => 0,
        };
        size_of::<Self>() + content
    }
}

/// Which messages of an address. All conditions hold together.
#[derive(Debug, Clone)]
pub struct Query {
    pub address: Address,
    /// Only behind this position.
    pub after: Option<Position>,
    /// Begins at the first message published at this time or later. Where the clock stepped back while messages
    /// were published, it may begin at any of the places that fit.
    pub from_unix_ms: Option<u64>,
    /// Only the newest so many.
    pub last: Option<usize>,
    /// Messages in the answer.
    pub limit: usize,
    /// Bytes of the answer; one message is given even if it is larger.
    pub max_bytes: usize,
    /// Messages that have expired by now, or are older than the retention allows, are left out.
    pub now_unix_ms: u64,
}

/// An answer to a [`Query`], oldest first.
#[derive(Debug, Default)]
pub struct Page {
    /// One message each, as published; `is_kept` is true and `published_us` is 0.
    pub messages: Vec<Batch>,
    /// There are more behind the last of these.
    pub more: bool,
    /// Messages behind the query's `after` have been removed by retention.
    pub gap: bool,
}

/// A message of which only the id is known.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    pub id: MessageId,
    /// Records that are looked at before it is given up.
    pub looks_max: usize,
    /// As in a [`Query`].
    pub now_unix_ms: u64,
}

/// What came of a [`Search`].
#[derive(Debug)]
pub enum Found {
    /// The message alone; where several addresses have it, of the first of them in order.
    Message(Box<Batch>),
    /// The message waits for its time.
    Delayed(Box<Delayed>),
    Nowhere,
    /// As much was looked at as may be, and there is more.
    Unfinished,
}

/// A member of a group, and the position of the group since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub group: Name,
    pub user: Name,
    pub since: Position,
    /// Older records do not say it; they are of members who joined.
    pub by: JoinedBy,
}

/// When a user was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub unix_ms: u64,
    /// Whether it is when their first session began, and of no session the end is known.
    pub is_first: bool,
}

/// What became of one round of [`Store::maintain`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Addresses looked at.
    pub addresses: usize,
    /// Stored messages removed for their age or to fit a bound.
    pub messages: u64,
    /// Other records removed for their age.
    pub records: usize,
}

/// How much is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the records of messages, dead letters, delayed messages and ledgers. Behind a crash it may be low
    /// until the rounds of [`Store::maintain`] have passed all addresses.
    pub bytes: u64,
    /// Messages, with the same reservation.
    pub messages: u64,
}

/// Keeps messages and what belongs to them. Reading never waits for a commit that is under way.
pub trait Store: Send + Sync + fmt::Debug {
    /// All or nothing. With [`Durability::Synced`] it is on stable storage when this returns; an empty commit
    /// makes everything before it durable.
    fn commit(&self, writes: &[Write], durability: Durability) -> Result<(), StoreError>;

    /// A commit of writes that a log holds already, as its groups `from` to `to`: it is not refused for want of room, and
    /// nothing happens when it was done before. Not synced.
    fn apply(&self, writes: &[Write], (_from, _to): (u64, u64)) -> Result<(), StoreError> {
        self.commit(writes, Durability::Buffered)
    }

    /// One write of groups that are not applied yet, as [`Self::apply`] does. Whoever calls this knows that applying all
    /// together cannot be done.
    fn apply_alone(&self, write: &Write) -> Result<(), StoreError> {
        self.commit(std::slice::from_ref(write), Durability::Buffered)
    }

    /// The last group of a log that was applied, 0 for none.
    fn applied(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// [`StoreError::Full`] when writes that need room would be refused, with `pending_bytes` that are yet to come.
    fn room(&self, _pending_bytes: u64) -> Result<(), StoreError> {
        Ok(())
    }

    /// The history of an address.
    fn messages(&self, query: &Query) -> Result<Page, StoreError>;

    /// Looks for a message in all addresses. One that was published a second or more behind the time of its id, because it
    /// was delayed, is not found.
    fn find(&self, search: &Search) -> Result<Found, StoreError>;

    /// Looks for a message among those that are published later.
    fn find_delayed(&self, search: &Search) -> Result<Found, StoreError>;

    /// The position of the oldest stored message of an address.
    fn first(&self, address: &Address) -> Result<Option<Position>, StoreError>;

    /// The position of the newest stored message of an address.
    fn last(&self, address: &Address) -> Result<Option<Position>, StoreError>;

    /// Messages behind `after`, counted up to `most`. Expired ones count for as long as they are stored.
    fn count_after(
        &self,
        address: &Address,
        after: Option<Position>,
        most: usize,
    ) -> Result<usize, StoreError>;

    /// Addresses with stored messages that match, in the order of their texts: those behind `after`, up to `most`.
    fn addresses(
        &self,
        pattern: &Pattern,
        after: Option<&Address>,
        most: usize,
    ) -> Result<Vec<Address>, StoreError>;

    fn cursor(
        &self,
        user: &Name,
        device: Option<&Name>,
        address: &Address,
    ) -> Result<Option<Position>, StoreError>;

    /// The cursors of a user's devices in one address, up to `most`; `None` is the one without a device's name.
    fn cursors(
        &self,
        user: &Name,
        address: &Address,
        most: usize,
    ) -> Result<Vec<(Option<Name>, Position)>, StoreError>;

    fn read_mark(&self, user: &Name, address: &Address) -> Result<Option<Position>, StoreError>;

    /// Calls `each` with every group.
    fn groups(&self, each: &mut dyn FnMut(Name)) -> Result<(), StoreError>;

    /// Calls `each` with every member of every group.
    fn members(&self, each: &mut dyn FnMut(Member)) -> Result<(), StoreError>;

    /// Since which position of the group a user is a member.
    fn member_since(&self, group: &Name, user: &Name) -> Result<Option<Position>, StoreError>;

    /// Calls `each` with what every session can be resumed from, expired or not.
    fn resumes(&self, each: &mut dyn FnMut(ResumeRecord)) -> Result<(), StoreError>;

    /// The record of a token, also when it has expired and was not removed yet.
    fn resume(&self, token_hash: &[u8; 32]) -> Result<Option<ResumeRecord>, StoreError>;

    /// Dead letters in the order of their messages' ids, behind the message and place named.
    fn dead_letters(
        &self,
        after: Option<(MessageId, &str)>,
        most: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;

    /// The dead letters of one message, one for each recipient and address it was given up for.
    fn dead_letter(&self, id: MessageId) -> Result<Vec<DeadLetter>, StoreError>;

    fn ledger(&self, id: MessageId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Delayed messages behind this time and id, in that order: up to `most`, with records of up to `max_bytes` in all,
    /// and one even if it is larger.
    fn delayed(
        &self,
        after: Option<(u64, MessageId)>,
        bounds: (usize, usize),
    ) -> Result<DelayedPage, StoreError>;

    /// When a user was there; `None` of one who never was.
    fn seen(&self, user: &Name) -> Result<Option<Seen>, StoreError>;

    fn last_seen(&self, user: &Name) -> Result<Option<u64>, StoreError> {
        Ok(self.seen(user)?.map(|seen| seen.unix_ms))
    }

    /// Calls `each` with every queue.
    fn queues(&self, each: &mut dyn FnMut(QueueRecord)) -> Result<(), StoreError>;

    /// How far the queue that was made then is in an address.
    fn queue_cursor(
        &self,
        id: &QueueId,
        born_unix_ms: u64,
        address: &Address,
    ) -> Result<Option<QueueCursor>, StoreError>;

    /// The dedup keys of a shard in any order, and how many of its records are damaged.
    fn dedup_keys(&self, shard: u16) -> Result<(Vec<dedup::Key>, usize), StoreError>;

    /// One bounded round of removing what has become too old. The next round goes on where this one ended.
    fn maintain(&self, now_unix_ms: u64) -> Result<Maintained, StoreError>;

    fn usage(&self) -> Usage;

    /// Bytes that were free on the disk at the last round of [`Store::maintain`]; `None` where there is no disk.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}
