//! Faults of the log's files, which no store can bring about.

use super::append::Appender;
use super::segment::{self, End, Secret};
use super::{LogOptions, last_behind, replay};
use crate::key;
use crate::records::{Bounds, MemoryStore};
use crate::samples;
use crate::shelf::{Change, Memory, Shelf, Space};
use crate::store::{Durability, Store, StoreError, Usage, Write};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use waspmq_core::dedup::{Key, Remembered};
use waspmq_core::settings::Retention;
use waspmq_core::{Address, Level, MessageId, Name, Position, Stream};

fn id(n: u64) -> MessageId {
    MessageId::new(n, 1, 2, n)
}

fn ledger(n: u64, body: &[u8]) -> Write {
    Write::Ledger { id: id(n), body: body.to_vec() }
}

fn begin(directory: &Path, segment_bytes: u64) -> Appender {
    Appender::begin(LogOptions { store: directory.to_owned(), segment_bytes }, 0).unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    segment::list(&directory.join("log")).unwrap().into_iter().map(|(_, path)| path).collect()
}

/// The ledgers that a start finds.
fn replayed(directory: &Path, most: u64) -> Vec<u64> {
    let store = MemoryStore::new(Bounds::default());
    replay(directory, &store).unwrap();
    (0..most).filter(|n| store.ledger(id(*n)).unwrap().is_some()).collect()
}

#[test]
fn a_log_that_cannot_be_written_begins_anew_behind_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = begin(directory.path(), 1 << 20);
    let segments = log.segments();
    for n in 1..4 {
        assert_eq!(log.append(&[ledger(n, b"x")], Durability::Synced), Ok(n));
    }
    // Everything that is written to it fails, and cannot be undone.
    log.break_file(OpenOptions::new().read(true).write(true).open("/dev/full").unwrap());
    let error = log.append(&[ledger(4, b"x")], Durability::Synced).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(!segments.wants_sync(0), "a sync helps when somebody waits for it");
    for _ in 0..2 {
        let error = log.append(&[ledger(4, b"x")], Durability::Synced).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }) && error.is_retryable(), "{error}");
    }
    assert!(segments.wants_sync(3));
    assert_eq!(files(directory.path()).len(), 1, "what the store has not synced stays");
    segments.synced_to(3);
    assert_eq!(log.append(&[ledger(4, b"x")], Durability::Synced), Ok(4));
    let left = files(directory.path());
    assert!(left.len() == 1 && left[0].ends_with("00000000000000000004.log"), "{left:?}");
}

#[test]
fn a_write_that_fails_is_undone() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = begin(directory.path(), 1 << 20);
    log.append(&[ledger(1, b"x")], Durability::Synced).unwrap();
    log.append(&[ledger(2, b"x")], Durability::Buffered).unwrap();
    let file = files(directory.path()).remove(0);
    // As if a part of the next group had been written before there was no space.
    let before = fs::read(&file).unwrap();
    let end = before.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut bytes = before[..end].to_vec();
    bytes.extend_from_slice(&[7; 500]);
    fs::write(&file, bytes).unwrap();
    log.undo_for_test().unwrap();
    assert_eq!(log.append(&[ledger(3, b"x")], Durability::Synced), Ok(3));
    drop(log);
    assert_eq!(segment::scan(&fs::read(&file).unwrap(), 1).end, End::Clean);
    assert_eq!(replayed(directory.path(), 9), [1, 2, 3]);
}

#[test]
fn segments_are_used_again_and_what_they_held_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = begin(directory.path(), 4_000);
    let segments = log.segments();
    for n in 1..=300 {
        let body = vec![b'y'; usize::try_from(n * 7 % 400).unwrap()];
        log.append(&[ledger(n, &body)], Durability::Buffered).unwrap();
        if n == 290 {
            segments.synced_to(290);
        } else if n % 40 == 0 {
            segments.synced_to(n);
        }
    }
    drop(log);
    assert!(files(directory.path()).len() < 10);
    let store = MemoryStore::new(Bounds::default());
    // The store has what was synced; the rest follows.
    store.apply(&[], (1, 290)).unwrap();
    replay(directory.path(), &store).unwrap();
    let found: Vec<u64> = (0..400).filter(|n| store.ledger(id(*n)).unwrap().is_some()).collect();
    assert_eq!(found, (291..=300).collect::<Vec<_>>());
    assert_eq!(store.applied(), Ok(300));
}

#[test]
fn what_a_client_sends_is_never_a_group() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut forged = begin(other.path(), 1 << 20);
    for n in 1..6 {
        forged.append(&[ledger(n, b"forged")], Durability::Synced).unwrap();
    }
    let forged = fs::read(&files(other.path())[0]).unwrap();
    let end = forged.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut log = begin(directory.path(), 1 << 20);
    log.append(&[ledger(1, b"x")], Durability::Synced).unwrap();
    log.append(&[ledger(2, &forged[..end])], Durability::Synced).unwrap();
    drop(log);
    let file = files(directory.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    let found = segment::scan(&bytes, 1);
    assert_eq!((found.end, found.groups.len()), (End::Torn, 1));
    assert_eq!(segment::later(&bytes, found.whole_bytes, 2).count(), 0);
}

#[test]
fn no_change_of_any_byte_shows_what_was_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = begin(directory.path(), 1 << 20);
    for n in 1..5 {
        log.append(&[ledger(n, b"body")], Durability::Synced).unwrap();
    }
    drop(log);
    let whole = fs::read(&files(directory.path())[0]).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let groups = segment::scan(&whole, 1).groups;
    assert_eq!(groups.len(), 4);
    for at in 0..end + 9 {
        for change in [1, 0x80, 0xff] {
            let mut bytes = whole[..end + 16].to_vec();
            bytes[at] ^= change;
            let found = segment::scan(&bytes, 1);
            assert!(groups.starts_with(&found.groups), "byte {at}");
            assert!(found.end != End::Clean || at >= end + 8, "byte {at}");
        }
    }
}

/// A segment with one group, then `behind` it, then the groups 2 and 3, of which the latter says that 2 was synced.
fn with_bytes_behind(secret: Secret, behind: &[u8]) -> Vec<u8> {
    let mut file = segment::head(1, secret);
    let mut put = |numbers: (u64, u64), before: &[u8]| {
        let mut group = Vec::new();
        segment::begin(&mut group);
        super::entry::put(&mut group, &ledger(numbers.0, b"x")).unwrap();
        segment::seal(&mut group, secret, numbers, 1);
        group.truncate(group.len() - segment::END_BYTES);
        file.extend_from_slice(before);
        file.extend_from_slice(&group);
    };
    put((1, 0), &[]);
    put((2, 1), behind);
    put((3, 2), &[]);
    file
}

#[test]
fn bytes_that_a_client_sends_cost_no_more_than_others() {
    const BYTES: u32 = 1 << 20;
    let begin = |mark: &[u8]| [mark, &(BYTES / 2).to_be_bytes()].concat();
    let of_version_1 = begin(b"grp1").repeat(BYTES as usize / 8);
    let file = with_bytes_behind(Secret::new([7; 8]), &of_version_1);
    let found = segment::scan(&file, 1);
    assert_eq!((found.groups.len(), found.end), (1, End::Damaged), "what is behind them is found");
    let mut later = segment::later(&file, found.whole_bytes, 2);
    assert_eq!(later.by_ref().map(|group| group.sequence).collect::<Vec<_>>(), [2, 3]);
    assert!(later.checked_bytes < 1_000, "{}", later.checked_bytes);

    let old = Secret::version_1([7; 8]);
    let file = with_bytes_behind(old, &of_version_1);
    let mut later = segment::later(&file, segment::scan(&file, 1).whole_bytes, 2);
    later.by_ref().for_each(drop);
    assert!(later.checked_bytes < 18 * file.len(), "{}", later.checked_bytes);
}

#[test]
fn a_segment_of_version_1_is_read() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("log")).unwrap();
    let file = with_bytes_behind(Secret::version_1([9; 8]), &[]);
    fs::write(segment::path_of(&directory.path().join("log"), 1), file).unwrap();
    assert_eq!(replayed(directory.path(), 9), [1, 2, 3]);
}

#[test]
fn a_damaged_record_of_the_store_costs_what_meets_it_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = begin(directory.path(), 1 << 20);
    let (user, address) = (Name::parse("a").unwrap(), Address::parse("user/a").unwrap());
    let position = Position { stream: Stream { shard: 0, epoch: 1 }, offset: 1 };
    let damaged = key::cursor(&user, None, &address);
    let cursor = Write::Cursor { user, device: None, address, position };
    log.append(&[ledger(1, b"x"), cursor, ledger(2, b"x")], Durability::Synced).unwrap();
    log.append(&[ledger(3, b"x")], Durability::Synced).unwrap();
    drop(log);
    let stores = [0, 1].map(|_| {
        let shelf = Memory::default();
        let change = Change { space: Space::State, key: damaged.clone(), value: Some(vec![1; 20]) };
        shelf.write(vec![change], Durability::Buffered).unwrap();
        MemoryStore::over(shelf, Bounds::default(), Usage::default())
    });
    let (written, lost) = super::salvage(directory.path(), &stores[0], None).unwrap();
    assert_eq!((written, lost.len()), (3, 1), "{lost:?}");
    let replayed = replay(directory.path(), &stores[1]).unwrap();
    assert_eq!((replayed.writes, replayed.lost), (3, 1));
    for store in stores {
        assert!((1..4).all(|n| store.ledger(id(n)).unwrap().is_some()));
        assert_eq!(store.applied(), Ok(2));
    }
    assert!(files(directory.path()).is_empty());
}

#[test]
fn a_log_goes_on_from_a_group_or_from_its_own_begin() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { store: directory.path().to_owned(), segment_bytes: 1 << 20 };
    let mut log = Appender::begin(options, 4).unwrap();
    for n in 5..8 {
        log.append(&[ledger(n, b"x")], Durability::Synced).unwrap();
    }
    let last = |applied| last_behind(directory.path(), applied).unwrap();
    assert_eq!((last(None), last(Some(4)), last(Some(6))), (Some(7), Some(7), Some(7)));
    assert_eq!(last(Some(0)), None, "groups before the first are missing");
}

#[test]
fn what_a_store_of_format_4_logged_reads_the_same() {
    let run = "00030200000100000000000000010000000000000000000000000000000100000100000000000007\
               00000000000000000100000000000000000000000000";
    let address = "0006757365722f61";
    let message = format!(
        "0000006b01{address}00000001000000000000000700000000240c840000000000000f42400000000010000000{run}"
    );
    let delayed = format!("0000004f0d0000000000000009{address}{run}");
    let bytes = [message, delayed].map(|hex| {
        let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect::<Vec<_>>()
    });
    let writes = super::entry::parse_all(&bytes.concat()).unwrap();
    let [Write::Messages { batch: now, retention }, Write::Delayed { due_unix_ms: 9, batch: later }] =
        writes.as_slice()
    else {
        panic!("{writes:?}")
    };
    assert_eq!(*retention, Retention::default());
    assert_eq!((now.to.as_str(), later.to.as_str(), now.first.offset), ("user/a", "user/a", 7));
    assert_eq!(
        (now.messages[0].id, later.messages[0].id),
        (MessageId::new(1, 1, 0, 7), MessageId::new(1, 1, 0, 7))
    );
    for (write, bytes) in writes.iter().zip(&bytes) {
        let mut out = Vec::new();
        super::entry::put(&mut out, write).unwrap();
        assert_eq!(&out, bytes, "and is written the same");
    }
}

#[test]
fn only_a_message_goes_with_a_dedup_key() {
    let answer = Remembered { id: id(1), recipients: 1, level: Level::Accepted };
    let key = Key { shard: 1, number: 2, text: "u#user/a#k".into(), answer };
    let write = |message| Write::DedupKey { key: key.clone(), message: Some(Box::new(message)) };
    let is_read = |write: &Write| {
        let mut out = Vec::new();
        super::entry::put(&mut out, write).unwrap();
        super::entry::parse_all(&out).is_some()
    };
    let message = samples::message("user/a", 7, Retention::default());
    assert!(is_read(&write(message.clone())));
    assert!(!is_read(&write(ledger(1, b"x"))) && !is_read(&write(write(message))));
}
