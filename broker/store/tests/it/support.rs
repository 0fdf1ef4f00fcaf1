//! Messages, writes and stores for the tests.

use std::path::Path;
use std::sync::Arc;
use waspmq_core::dedup;
use waspmq_core::delivery::{Place, QueueCursor};
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::settings::Retention;
use waspmq_core::{Address, Level, MessageId, Name, Pattern, Position, QueueId, SessionId, Stream};
use waspmq_store::{
    Bounds, Durability, FjallStore, MemoryStore, Query, QueueBegin, QueueRecord, Recovered, ResumeRecord,
    Store, StoreOptions, Write,
};

pub(crate) const LONG: Retention = Retention { age_ms: 1_000_000, count: 1_000_000, bytes: 1 << 40 };

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn at(epoch: u32, offset: u64) -> Position {
    Position { stream: Stream { shard: 3, epoch }, offset }
}

pub(crate) fn queue(pattern: &str, text: &str) -> QueueId {
    QueueId::new(Pattern::parse(pattern).unwrap(), name(text))
}

/// A queue on `topic/a.>` that was made at 5.
pub(crate) fn queue_record(name: &str, begin: QueueBegin) -> QueueRecord {
    QueueRecord { id: queue("topic/a.>", name), born_unix_ms: 5, seen_unix_ms: 6, begin }
}

/// Its cursor in `topic/a.b`.
pub(crate) fn queue_cursor(name: &str, upto: Position, done: &[(Place, Place)]) -> Write {
    let cursor = QueueCursor { upto, done: done.to_vec() };
    Write::QueueCursor {
        id: queue("topic/a.>", name),
        born_unix_ms: 5,
        address: address("topic/a.b"),
        cursor,
    }
}

/// The dedup key of a publish of shard 3.
pub(crate) fn dedup_key(number: u64) -> dedup::Key {
    let answer = dedup::Remembered { id: id(9, number), recipients: 2, level: Level::Stored };
    dedup::Key { shard: 3, number, text: format!("alice#user/a#{number}").into(), answer }
}

/// The dedup keys of a shard, in the order of their publishes; none is damaged.
pub(crate) fn dedup_keys(store: &dyn Store, shard: u16) -> Vec<dedup::Key> {
    let (mut keys, damaged) = store.dedup_keys(shard).unwrap();
    assert_eq!(damaged, 0);
    keys.sort_by_key(|key| key.number);
    keys
}

pub(crate) fn id(unix_ms: u64, count: u64) -> MessageId {
    MessageId::new(unix_ms, 1, 2, count)
}

/// A record that passes where messages are refused.
pub(crate) fn passing(id: MessageId, bytes: usize) -> Write {
    Write::Resume(ResumeRecord {
        token_hash: token_hash(id),
        expires_unix_ms: u64::MAX,
        body: vec![2; bytes],
    })
}

pub(crate) fn has_passing(store: &dyn Store, id: MessageId) -> bool {
    store.resume(&token_hash(id)).unwrap().is_some()
}

fn token_hash(id: MessageId) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(&id.to_bytes());
    hash
}

/// A batch of `count` messages with everything in it.
pub(crate) fn batch(to: &str, first: Position, count: u64, unix_ms: u64) -> Batch {
    batch_of(to, first, unix_ms, (0..count).map(|n| (format!("payload {}", first.offset + n), 0)).collect())
}

/// A batch of payloads and the times they expire.
pub(crate) fn batch_of(to: &str, first: Position, unix_ms: u64, messages: Vec<(String, u64)>) -> Batch {
    let mut batch = Batch {
        to: address(to),
        from: Some(name("alice")),
        origin: Some(SessionId::new(first.stream.epoch, 4, 77)),
        exclude_origin: true,
        level: Level::Stored,
        is_kept: true,
        unix_ms,
        published_us: 0,
        first,
        messages: Vec::new(),
        bytes: Vec::new(),
    };
    for (index, (payload, expires_unix_ms)) in messages.into_iter().enumerate() {
        let offset = first.offset + index as u64;
        let envelope = Envelope {
            id: id(unix_ms, offset),
            is_json: offset.is_multiple_of(2),
            priority: (offset % 10) as u8,
            expires_unix_ms,
            payload: batch.store(payload.as_bytes()),
            headers: batch.store(b"headers"),
            key: batch.store(b"key"),
            reply_to: batch.store(b"user/alice"),
        };
        batch.messages.push(envelope);
    }
    batch
}

pub(crate) fn messages(batch: Batch, retention: Retention) -> Write {
    Write::Messages { batch: Arc::new(batch), retention }
}

pub(crate) fn put(store: &dyn Store, batch: Batch) {
    store.commit(&[messages(batch, LONG)], Durability::Buffered).unwrap();
}

pub(crate) fn query(to: &str) -> Query {
    Query {
        address: address(to),
        after: None,
        from_unix_ms: None,
        last: None,
        limit: 10_000,
        max_bytes: usize::MAX,
        now_unix_ms: 0,
    }
}

/// Epoch and offset of what a query gives.
pub(crate) fn places(store: &dyn Store, query: &Query) -> Vec<(u32, u64)> {
    let page = store.messages(query).unwrap();
    page.messages.iter().map(|batch| (batch.first.stream.epoch, batch.first.offset)).collect()
}

pub(crate) fn offsets(store: &dyn Store, query: &Query) -> Vec<u64> {
    places(store, query).into_iter().map(|(_, offset)| offset).collect()
}

pub(crate) fn options(path: &Path) -> StoreOptions {
    StoreOptions { reserve_bytes: 0, ..StoreOptions::new(path) }
}

pub(crate) fn open(path: &Path) -> FjallStore {
    reopen(path).0
}

pub(crate) fn reopen(path: &Path) -> (FjallStore, Recovered) {
    FjallStore::open(options(path), &mut |_| {}).unwrap()
}

/// Runs `check` on both kinds of store.
pub(crate) fn on_both(check: impl Fn(&dyn Store)) {
    check(&MemoryStore::new(Bounds::default()));
    let directory = tempfile::tempdir().unwrap();
    check(&open(&directory.path().join("store")));
}

/// Copies a directory as it is now, as if the process had been killed.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            if target.extension().is_some_and(|end| end == "jnl") {
                // Journals are made larger than needed; the zeros at the end say nothing.
                let zeros = bytes.rchunks(512).take_while(|chunk| **chunk == [0; 512][..chunk.len()]);
                bytes.truncate(bytes.len() - zeros.map(<[u8]>::len).sum::<usize>());
            }
            std::fs::write(target, bytes).unwrap();
        }
    }
}
