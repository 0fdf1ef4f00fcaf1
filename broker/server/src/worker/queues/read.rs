//! The part of a queue's reading that runs on a reader thread: which addresses have something for it, and pages of them.

use crate::clock::Moment;
use crate::worker::Shared;
use crate::worker::catchup::hand_over;
use crate::worker::mailbox::Entry;
use crate::worker::scan::{self, Scan};
use std::sync::Arc;
use waspmq_core::delivery::{AckPlan, Backlog, Page, QueueCursor, Read};
use waspmq_core::{Address, Position, QueueId, Stream, limits};
use waspmq_store::{Query, QueueBegin, QueueRecord, Reading, Store, StoreError};

/// Bytes of one page.
const PAGE_BYTES: usize = 256 * 1024;
/// Messages that may be published to an address behind the place where a queue begins with its last one before.
const LAST_WALK_MAX: usize = 65_536;

/// What the store answered, for the worker that keeps the queue.
#[derive(Debug)]
pub(crate) enum QueueRead {
    Addresses { queue: QueueId, number: u64, found: Result<Scan, StoreError> },
    Page { queue: QueueId, number: u64, to: Address, page: Result<Page, StoreError> },
}

impl QueueRead {
    pub(super) const fn queue(&self) -> &QueueId {
        match self {
            Self::Addresses { queue, .. } | Self::Page { queue, .. } => queue,
        }
    }

    /// Whose settings hold for the messages.
    pub(super) fn address(&self) -> Option<&Address> {
        if let Self::Page { to, .. } = self { Some(to) } else { None }
    }

    /// Memory of the messages.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Page { page: Ok(page), .. } => page.messages.iter().map(|batch| batch.size_bytes()).sum(),
            _ => 0,
        }
    }

    pub(super) fn hand_to(self, backlog: &mut Backlog, plan: &AckPlan) {
        let (queue, number, error) = match self {
            Self::Addresses { number, found: Ok(Scan { found, upto }), .. } => {
                return backlog.handle_addresses(number, found, upto);
            }
            Self::Page { number, page: Ok(page), .. } => return backlog.handle_page(number, page, plan),
            Self::Addresses { queue, number, found: Err(error) }
            | Self::Page { queue, number, page: Err(error), .. } => (queue, number, error),
        };
        tracing::warn!(%queue, %error, "stored messages of a queue cannot be read");
        backlog.handle_unread(number, error.is_retryable() || matches!(error, StoreError::Stopped));
    }
}

/// The work for a reader thread.
pub(super) fn reading(shared: &Shared, worker: u8, (record, read): (Arc<QueueRecord>, Read)) -> Reading {
    let (mailboxes, registry) = (shared.mailboxes.clone(), shared.registry.clone());
    let now = shared.clock.now();
    Box::new(move |store: &dyn Store| {
        let queue = record.id.clone();
        let answer = match read {
            Read::Addresses { number, after } => {
                QueueRead::Addresses { queue, number, found: addresses(store, &record, after) }
            }
            Read::Page { number, to, after, limit } => {
                let shard = registry.shard_of(&to);
                let page = page(store, (&record, &to, shard), after, (limit, now));
                // Whoever has stored a message of the page and holds the lock has not handed it over yet. Behind the
                // lock it is in the mailbox before the page.
                drop(registry.lock(&to));
                QueueRead::Page { queue, number, to, page }
            }
        };
        hand_over(&mailboxes, worker, Entry::QueueRead(Box::new(answer)));
    })
}

const fn place(position: Position) -> (u32, u64) {
    (position.stream.epoch, position.offset)
}

/// Addresses in which a queue has not done everything: a part of them.
fn addresses(store: &dyn Store, record: &QueueRecord, after: Option<Address>) -> Result<Scan, StoreError> {
    let is_behind = |to: &Address| {
        let Some(last) = store.last(to)? else { return Ok(false) };
        let cursor = store.queue_cursor(&record.id, record.born_unix_ms, to)?;
        let upto = match (cursor, &record.begin) {
            (Some(cursor), _) => Some(cursor.upto),
            (None, QueueBegin::After(before)) => of_shard(before, last.stream.shard),
            (None, _) => None,
        };
        Ok(upto.is_none_or(|upto| place(last) > place(upto)))
    };
    scan::scan(store, (record.id.pattern(), after), limits::QUEUE_ADDRESSES_MAX, is_behind)
}

fn of_shard(positions: &[Position], shard: u16) -> Option<Position> {
    positions.iter().find(|position| position.stream.shard == shard).copied()
}

/// A page behind a position, or behind what the queue has done.
fn page(
    store: &dyn Store,
    (record, to, shard): (&QueueRecord, &Address, u16),
    after: Option<Position>,
    (limit, now): (usize, Moment),
) -> Result<Page, StoreError> {
    let mut query = Query {
        address: to.clone(),
        after,
        from_unix_ms: None,
        last: None,
        limit,
        max_bytes: PAGE_BYTES,
        now_unix_ms: now.unix_ms,
    };
    let clock_unix_ms = now.unix_ms.saturating_sub(now.us / 1_000);
    let mut begun = None;
    if after.is_none() {
        begun = begin(store, (record, to, shard), &mut query)?;
    }
    let page = match store.messages(&query) {
        // Where the queue was is known, and the next question finds it.
        Err(StoreError::Corrupt { .. }) if begun.is_some() => {
            return Ok(Page { begun, messages: Vec::new(), clock_unix_ms, more: true });
        }
        page => page?,
    };
    if after.is_none() && begun.is_none() {
        let before = |first: Position| Position { offset: first.offset.saturating_sub(1), ..first };
        let first = page.messages.first().map(|batch| batch.first);
        begun = first.map(|first| QueueCursor { upto: before(first), done: Vec::new() });
    }
    Ok(Page { begun, messages: page.messages, clock_unix_ms, more: page.more })
}

/// Where the queue goes on in an address, or begins. `None`: with the first message that is found.
fn begin(
    store: &dyn Store,
    (record, to, shard): (&QueueRecord, &Address, u16),
    query: &mut Query,
) -> Result<Option<QueueCursor>, StoreError> {
    if let Some(cursor) = store.queue_cursor(&record.id, record.born_unix_ms, to)? {
        query.after = Some(cursor.upto);
        return Ok(Some(cursor));
    }
    let oldest = Position { stream: Stream { shard, epoch: 0 }, offset: 0 };
    let upto = match &record.begin {
        QueueBegin::Earliest => oldest,
        QueueBegin::After(before) => of_shard(before, shard).unwrap_or(oldest),
        QueueBegin::Time(unix_ms) => {
            query.from_unix_ms = Some(*unix_ms);
            return Ok(None);
        }
        QueueBegin::Last(before) => {
            let behind = store.count_after(to, of_shard(before, shard), LAST_WALK_MAX)?;
            query.last = Some(behind + 1);
            return Ok(None);
        }
    };
    if upto != oldest {
        query.after = Some(upto);
    }
    Ok(Some(QueueCursor { upto, done: Vec::new() }))
}
