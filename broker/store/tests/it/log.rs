//! The log before the store: what it holds, what becomes of it, and what its damage does.

use crate::journal::{Trying, options as journal_options, start, stop, ticket};
use crate::support::*;
use crate::trouble::{Small, comes_back};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;
use waspmq_core::registry::JoinedBy;
use waspmq_store::*;

pub(crate) fn log(store: &Path, segment_bytes: u64) -> LogOptions {
    LogOptions { segment_bytes, ..LogOptions::of_store(store) }
}

fn options(store: &Path) -> JournalOptions {
    // Nothing of the store is synced meanwhile, so the log keeps everything.
    let never = Duration::from_secs(3_600);
    JournalOptions {
        log: Some(log(store, 1 << 24)),
        sync_every: never,
        maintain_every: never,
        ..journal_options()
    }
}

fn segments(store: &Path) -> Vec<PathBuf> {
    let found =
        fs::read_dir(store.join("log")).map(|found| found.map(|entry| entry.unwrap().path()).collect());
    let mut found: Vec<PathBuf> = found.unwrap_or_default();
    found.sort();
    found
}

fn content_len(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// A store as it is when the machine stops before the store synced anything: the tables as they were before the first
/// of `writes`, and all of the log. With it, where each group ends in the log; each write is one.
fn crashed(directory: &Path, writes: Vec<Write>) -> (PathBuf, Vec<usize>) {
    let (path, killed) = (directory.join("running"), directory.join("killed"));
    let store: Arc<dyn Store> = Arc::new(open(&path));
    copy(&path, &killed);
    let (journal, threads, answers) = start(store, options(&path));
    let mut ends = Vec::new();
    for (token, write) in writes.into_iter().enumerate() {
        journal.push(write, ticket(0, token as u64)).unwrap();
        answers.recv().unwrap().2.unwrap();
        ends.push(content_len(&segments(&path)[0]));
    }
    copy(&path.join("log"), &killed.join("log"));
    stop(threads);
    (killed, ends)
}

fn one(offset: u64) -> Write {
    messages(batch("user/a", at(1, offset), 1, 0), LONG)
}

fn some(count: u64) -> Vec<Write> {
    (0..count).map(one).collect()
}

#[test]
fn what_the_store_lost_is_in_the_log_and_applied_once() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = crashed(directory.path(), some(20));
    let found = check(&path).unwrap();
    assert!(found.is_whole() && (found.messages, found.waiting) == (0, 20), "{found:?}");
    let (store, recovered) = reopen(&path);
    assert_eq!(offsets(&store, &query("user/a")), (0..20).collect::<Vec<_>>());
    assert_eq!((recovered.log_writes, recovered.messages, recovered.log_cut), (20, 20, None));
    assert!(recovered.log_bytes > 1_000 && segments(&path).is_empty());
    let usage = store.usage();
    drop(store);
    let (store, recovered) = reopen(&path);
    assert_eq!((store.usage(), recovered.log_writes), (usage, 0));
    let plain = MemoryStore::new(Bounds::default());
    plain.commit(&some(20), Durability::Buffered).unwrap();
    assert_eq!(store.usage(), plain.usage(), "as if there were no log");
}

#[test]
fn a_store_that_kept_a_part_gets_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copied) = (directory.path().join("store"), directory.path().join("copied"));
    let store: Arc<dyn Store> = Arc::new(open(&path));
    let (journal, threads, answers) = start(store.clone(), options(&path));
    let put = |offsets: std::ops::Range<u64>| {
        for offset in offsets {
            journal.push(one(offset), ticket(0, offset)).unwrap();
            answers.recv().unwrap().2.unwrap();
        }
        let (sender, done) = channel();
        journal.read(Box::new(move |_| sender.send(()).unwrap())).unwrap();
        done.recv().unwrap();
    };
    put(0..7);
    copy(&path, &copied);
    put(7..15);
    fs::remove_dir_all(copied.join("log")).unwrap();
    copy(&path.join("log"), &copied.join("log"));
    stop(threads);
    // Left behind by an end in the middle of the removal; applied long ago.
    let (copied_store, recovered) = reopen(&copied);
    assert_eq!(offsets(&copied_store, &query("user/a")), (0..15).collect::<Vec<_>>());
    assert_eq!((recovered.log_writes, copied_store.usage()), (8, store.usage()));
}

fn every_kind() -> Vec<Write> {
    let letter = DeadLetter {
        id: id(5, 5),
        recipient: "bob".into(),
        unix_ms: 6,
        cause: "timeout".into(),
        attempts: 3,
        detail: "detail".into(),
        batch: Arc::new(batch("user/a", at(1, 0), 1, 5)),
    };
    let carols = DeadLetter { recipient: "carol".into(), ..letter.clone() };
    let resume = |n| ResumeRecord { token_hash: [n; 32], expires_unix_ms: 9, body: vec![n; 5] };
    let delayed = Arc::new(batch("user/b", at(0, 0), 1, 7));
    let due = Arc::new(batch("user/e", at(2, 5), 1, 9));
    let (alice, group) = (name("alice"), name("g"));
    let cursor = |device: Option<&str>, offset| Write::Cursor {
        user: alice.clone(),
        device: device.map(name),
        address: address("user/a"),
        position: at(1, offset),
    };
    vec![
        messages(batch("user/a", at(4, 10), 5, 70), LONG),
        cursor(Some("phone"), 8),
        cursor(None, 9),
        Write::ReadMark { user: alice.clone(), address: address("user/a"), position: at(1, 3) },
        Write::Group { group: group.clone() },
        Write::Group { group: name("gone") },
        Write::NoGroup { group: name("gone") },
        Write::Member { group: group.clone(), user: alice.clone(), since: at(2, 2), by: JoinedBy::Member },
        Write::Member { group: group.clone(), user: name("bob"), since: at(2, 2), by: JoinedBy::Member },
        Write::Member { group: group.clone(), user: name("carol"), since: at(2, 3), by: JoinedBy::Operator },
        Write::NoMember { group, user: name("bob") },
        Write::Resume(resume(1)),
        Write::Resume(resume(2)),
        Write::NoResume { token_hash: [2; 32] },
        Write::DeadLetter(letter),
        Write::DeadLetter(carols.clone()),
        Write::NoDeadLetter { id: id(5, 5), place: carols.place() },
        Write::Ledger { id: id(1, 1), body: vec![1, 2, 3] },
        Write::Delayed { due_unix_ms: 50, batch: delayed.clone() },
        Write::Delayed { due_unix_ms: 60, batch: delayed.clone() },
        Write::NoDelayed { due_unix_ms: 50, id: delayed.messages[0].id },
        Write::LastSeen { user: alice.clone(), unix_ms: 77 },
        Write::FirstSeen { user: alice.clone(), unix_ms: 78 },
        Write::FirstSeen { user: name("bob"), unix_ms: 79 },
        Write::Queue(queue_record("w", QueueBegin::Earliest)),
        Write::Queue(queue_record("x", QueueBegin::Time(8))),
        Write::Queue(queue_record("y", QueueBegin::Last([at(1, 1), at(2, 2)].into()))),
        Write::Queue(queue_record("z", QueueBegin::After([at(1, 1)].into()))),
        Write::Queue(queue_record("gone", QueueBegin::After([].into()))),
        Write::NoQueue { id: queue("topic/a.>", "gone") },
        queue_cursor("w", at(1, 7), &[((1, 9), (1, 12)), ((1, 20), (2, 3))]),
        queue_cursor("x", at(1, 7), &[]),
        messages(batch("user/a", at(4, 20), 2, 70), LONG).with_key(Some(dedup_key(1))),
        Write::Delayed { due_unix_ms: 70, batch: delayed }.with_key(Some(dedup_key(2))),
        Write::DedupKey { key: dedup_key(3), message: None },
        Write::DedupKey { key: dedup_key(4), message: None },
        Write::NoDedupKey { shard: 3, number: 4, id: dedup_key(4).answer.id },
        Write::Delayed { due_unix_ms: 80, batch: due.clone() },
        Write::Due { due_unix_ms: 80, batch: due, retention: LONG },
    ]
}

#[test]
fn every_kind_of_write_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    let (alice, writes) = (name("alice"), every_kind());
    let plain = MemoryStore::new(Bounds::default());
    plain.commit(&writes, Durability::Buffered).unwrap();
    let count = writes.len() as u64;
    let (path, _) = crashed(directory.path(), writes);
    let (store, recovered) = reopen(&path);
    assert_eq!(recovered.log_writes, count);
    let tell = |store: &dyn Store| {
        let (mut groups, mut members, mut queues) = (Vec::new(), Vec::new(), Vec::new());
        store.queues(&mut |queue| queues.push(queue)).unwrap();
        let cursors = ["w", "x", "y"]
            .map(|name| store.queue_cursor(&queue("topic/a.>", name), 5, &address("topic/a.b")).unwrap());
        store.groups(&mut |group| groups.push(group)).unwrap();
        store.members(&mut |member| members.push(member)).unwrap();
        let cursor = |device| store.cursor(&alice, device, &address("user/a")).unwrap();
        let text = format!(
            "{queues:?} {cursors:?} {:?} {:?} {:?} {:?} {:?} {groups:?} {members:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            dedup_keys(store, 3),
            store.messages(&query("user/a")).unwrap().messages,
            cursor(None),
            cursor(Some(&name("phone"))),
            store.read_mark(&alice, &address("user/a")).unwrap(),
            store.resume(&[1; 32]).unwrap(),
            store.resume(&[2; 32]).unwrap(),
            store.dead_letters(None, 9).unwrap(),
            store.ledger(id(1, 1)).unwrap(),
            store.delayed(None, (9, usize::MAX)).unwrap().messages,
            (store.last_seen(&alice).unwrap(), store.last_seen(&name("bob")).unwrap()),
            (store.usage(), offsets(store, &query("user/e"))),
        );
        (
            text,
            groups.len(),
            members.len(),
            store.delayed(None, (9, usize::MAX)).unwrap().messages.len(),
            queues.len(),
        )
    };
    let told = tell(&store);
    assert_eq!(told, tell(&plain));
    assert_eq!((told.1, told.2, told.3, told.4), (1, 2, 2, 4));
    assert_eq!(dedup_keys(&store, 3), [1, 2, 3].map(dedup_key));
}

#[test]
fn a_message_and_its_dedup_key_are_both_in_the_log_or_neither() {
    let directory = tempfile::tempdir().unwrap();
    let keyed = |number| one(number).with_key(Some(dedup_key(number)));
    let (path, ends) = crashed(directory.path(), vec![keyed(0), keyed(1)]);
    let full = fs::read(&segments(&path)[0]).unwrap();
    for end in (ends[0]..ends[1]).step_by(9).chain([ends[1] - 1, ends[1]]) {
        let cut = directory.path().join("cut");
        copy(&path, &cut);
        fs::write(&segments(&cut)[0], &full[..end]).unwrap();
        let (store, _) = reopen(&cut);
        let whole = ends.iter().filter(|group| **group <= end).count() as u64;
        assert_eq!(offsets(&store, &query("user/a")), (0..whole).collect::<Vec<_>>(), "cut at {end}");
        assert_eq!(dedup_keys(&store, 3), (0..whole).map(dedup_key).collect::<Vec<_>>(), "cut at {end}");
        drop(store);
        fs::remove_dir_all(&cut).unwrap();
    }
}

#[test]
fn a_tail_cut_at_any_byte_loses_only_what_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let (path, ends) = crashed(directory.path(), some(6));
    let full = fs::read(&segments(&path)[0]).unwrap();
    let sampled =
        (ends[3] - 3..=ends[5]).step_by(23).chain(ends[3] - 3..ends[3] + 3).chain([ends[4], ends[5] - 1]);
    for end in sampled {
        for zeros in [0, 5_000] {
            let cut = directory.path().join("cut");
            copy(&path, &cut);
            let mut bytes = full[..end].to_vec();
            bytes.resize(end + zeros, 0);
            fs::write(&segments(&cut)[0], bytes).unwrap();
            assert_eq!(check(&cut).unwrap().is_whole(), ends.contains(&end), "cut at {end}");
            let (store, recovered) = reopen(&cut);
            let whole = ends.iter().filter(|group| **group <= end).count() as u64;
            assert_eq!(offsets(&store, &query("user/a")), (0..whole).collect::<Vec<_>>(), "cut at {end}");
            assert_eq!(recovered.log_cut.is_some(), !ends.contains(&end), "cut at {end}");
            drop(store);
            fs::remove_dir_all(&cut).unwrap();
        }
    }
}

#[test]
fn damage_in_the_middle_is_refused_and_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let (path, ends) = crashed(directory.path(), some(6));
    let full = fs::read(&segments(&path)[0]).unwrap();
    for at in (0..ends[5]).step_by(29).chain([0, 31, 32, ends[1], ends[4] - 1, ends[4], ends[5] - 1]) {
        let damaged = directory.path().join("damaged");
        copy(&path, &damaged);
        let file = segments(&damaged).remove(0);
        let mut bytes = full.clone();
        bytes[at] ^= 0x41;
        fs::write(&file, &bytes).unwrap();
        let found = check(&damaged).unwrap();
        assert!(found.findings[0].contains(".log"), "byte {at}: {found:?}");
        fs::write(damaged.join("format"), "4\n").unwrap();
        let opened = FjallStore::open(crate::support::options(&damaged), &mut |_| {});
        let format = fs::read_to_string(damaged.join("format")).unwrap();
        assert_eq!(
            format,
            if opened.is_ok() { "5\n" } else { "4\n" },
            "what is refused stays the older one's"
        );
        if at >= ends[4] {
            let (store, recovered) = opened.unwrap();
            assert_eq!(offsets(&store, &query("user/a")), [0, 1, 2, 3, 4], "byte {at} of the last group");
            assert!(recovered.log_cut.is_some());
        } else {
            let error = opened.unwrap_err();
            assert!(matches!(error, OpenError::StoreDamaged { .. }), "byte {at}: {error}");
            let text = error.to_string();
            assert!(
                text.contains(".log") && text.contains("byte") && text.contains("waspmq store check"),
                "{text}"
            );
            assert_eq!(fs::read(&file).unwrap(), bytes, "nothing is thrown away");
            let repaired = repair(&damaged).unwrap();
            assert!(!repaired.removed.is_empty() && segments(&damaged).is_empty(), "{repaired:?}");
            let store = open(&damaged);
            let group = ends.iter().position(|end| at < *end).unwrap() as u64;
            let kept = offsets(&store, &query("user/a"));
            match at {
                // Without the salt of its segment no group is known to be one.
                20..28 => assert!(kept.is_empty(), "byte {at}: {kept:?}"),
                0..32 => assert_eq!(kept, [0, 1, 2, 3, 4, 5], "byte {at}"),
                _ => assert_eq!(kept, (0..6).filter(|n| *n != group).collect::<Vec<_>>(), "byte {at}"),
            }
            assert_eq!(store.usage().messages, kept.len() as u64);
        }
        fs::remove_dir_all(&damaged).unwrap();
    }
}

#[test]
fn what_was_not_synced_may_be_missing_before_what_was_written_later() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copied) = (directory.path().join("store"), directory.path().join("copied"));
    let store: Arc<dyn Store> = Arc::new(open(&path));
    copy(&path, &copied);
    let (journal, threads, answers) = start(store, options(&path));
    journal.push(one(0), ticket(0, 0)).unwrap();
    answers.recv().unwrap().2.unwrap();
    let mut ends = vec![content_len(&segments(&path)[0])];
    for offset in 1..4 {
        journal.push(one(offset), None).unwrap();
        while journal.metrics().writes <= offset {
            std::thread::yield_now();
        }
        ends.push(content_len(&segments(&path)[0]));
    }
    copy(&path.join("log"), &copied.join("log"));
    stop(threads);
    let file = segments(&copied).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[ends[0] + 40..ends[1] - 5].fill(0);
    fs::write(&file, bytes).unwrap();
    let (store, recovered) = reopen(&copied);
    assert_eq!(offsets(&store, &query("user/a")), [0], "nobody was told of the others");
    assert_eq!(recovered.log_cut.map(|cut| cut.kept_bytes), Some(ends[0] as u64));
}

#[test]
fn a_missing_segment_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copied) = (directory.path().join("store"), directory.path().join("copied"));
    let store: Arc<dyn Store> = Arc::new(open(&path));
    copy(&path, &copied);
    let small = JournalOptions { log: Some(log(&path, 1_000)), ..options(&path) };
    let failing = Trying::new();
    failing.broken.store(true, Ordering::SeqCst);
    let (journal, threads, answers) = start(failing.clone(), small);
    for offset in 0..40 {
        journal.push(one(offset), ticket(0, offset)).unwrap();
        answers.recv().unwrap().2.unwrap();
    }
    copy(&path.join("log"), &copied.join("log"));
    failing.broken.store(false, Ordering::SeqCst);
    stop(threads);
    drop(store);
    let all = segments(&copied);
    assert!(all.len() > 5, "{all:?}");
    for missing in [0, 2] {
        let cut = directory.path().join("cut");
        copy(&copied, &cut);
        fs::remove_file(&segments(&cut)[missing]).unwrap();
        let error = FjallStore::open(crate::support::options(&cut), &mut |_| {}).unwrap_err();
        assert!(matches!(error, OpenError::StoreDamaged { .. }), "{error}");
        assert!(!check(&cut).unwrap().is_whole());
        fs::remove_dir_all(&cut).unwrap();
    }
    assert_eq!(offsets(&open(&copied), &query("user/a")), (0..40).collect::<Vec<_>>());
}

#[test]
fn segments_go_when_the_store_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    for round in 1..4 {
        let store: Arc<dyn Store> = Arc::new(open(&path));
        let short = Duration::from_millis(5);
        let options =
            JournalOptions { log: Some(log(&path, 16 * 1024)), sync_every: short, ..options(&path) };
        let (journal, threads, answers) = start(store.clone(), options);
        let mut most = 0;
        for offset in 0..1_000 {
            let write = messages(batch("user/a", at(round, offset), 1, 0), LONG);
            journal.push(write, ticket(0, offset)).unwrap();
            answers.recv().unwrap().2.unwrap();
            most = most.max(segments(&path).len());
        }
        // 1000 messages fill about 20 segments.
        let applied = || {
            let (sender, done) = channel();
            journal.read(Box::new(move |store| sender.send(store.usage().messages).unwrap())).unwrap();
            done.recv().unwrap()
        };
        assert_eq!(applied(), u64::from(round) * 1_000);
        while segments(&path).len() > 6 {
            std::thread::sleep(short);
        }
        assert!(most < 19, "{most}");
        drop((journal, store));
        stop(threads);
        // The threads held it last, so the next round can open it at once.
        assert!(!segments(&path).is_empty());
    }
    let (store, recovered) = reopen(&path);
    assert_eq!((store.usage().messages, recovered.log_writes), (3_000, 0));
    assert!(segments(&path).is_empty());
}

/// A store that a broker with a log was stopped on, and its journal with a hole of unwritten sectors in the middle.
fn with_a_hole(directory: &Path, options: impl Fn(&Path) -> JournalOptions) -> (PathBuf, Vec<u8>) {
    let (path, stopped) = (directory.join("running"), directory.join("stopped"));
    let store: Arc<dyn Store> = Arc::new(open(&path));
    let (journal, threads, answers) = start(store, options(&path));
    for offset in 0..300 {
        journal.push(one(offset), ticket(0, offset)).unwrap();
        answers.recv().unwrap().2.unwrap();
    }
    drop(journal);
    stop(threads);
    copy(&path, &stopped);
    let mut bytes = fs::read(stopped.join("db/0.jnl")).unwrap();
    let middle = (bytes.len() / 2).next_multiple_of(512);
    bytes[middle..middle + 2_048].fill(0);
    fs::write(stopped.join("db/0.jnl"), &bytes).unwrap();
    (stopped, bytes)
}

#[test]
fn a_hole_in_a_journal_is_a_tail_only_where_the_log_goes_on_from_it() {
    let directory = tempfile::tempdir().unwrap();
    let short = Duration::from_millis(5);
    let (path, bytes) = with_a_hole(directory.path(), |path| JournalOptions {
        log: Some(log(path, 4 * 1024)),
        sync_every: short,
        ..options(path)
    });
    let error = FjallStore::open(crate::support::options(&path), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, OpenError::StoreDamaged { path, .. } if path.ends_with("0.jnl")), "{error}");
    assert_eq!(fs::read(path.join("db/0.jnl")).unwrap(), bytes, "a refused start changes nothing");
    let repaired = repair(&path).unwrap();
    assert!((250..300).contains(&repaired.messages), "only what is in the hole goes: {repaired:?}");
    let kept = offsets(&open(&path), &query("user/a"));
    assert_eq!((kept.len() as u64, kept.last()), (repaired.messages, Some(&299)));

    let directory = tempfile::tempdir().unwrap();
    let (path, _) = with_a_hole(directory.path(), options);
    let copied = directory.path().join("copied");
    copy(&path, &copied);
    let (store, recovered) = reopen(&path);
    assert!(recovered.truncated_tail.is_some() && recovered.log_writes > 100, "{recovered:?}");
    assert_eq!(offsets(&store, &query("user/a")), (0..300).collect::<Vec<_>>());
    repair(&copied).unwrap();
    assert_eq!(offsets(&open(&copied), &query("user/a")), (0..300).collect::<Vec<_>>(), "all is in the log");
}

#[test]
fn a_repair_takes_what_is_in_a_hole_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = with_a_hole(directory.path(), options);
    let log = segments(&path).remove(0);
    let whole = fs::read(&log).unwrap();
    let change = |name: &str, change: &dyn Fn(&mut [u8], usize)| {
        let copied = directory.path().join(name);
        copy(&path, &copied);
        let mut bytes = whole.clone();
        let end = content_len(&log);
        change(&mut bytes, end);
        fs::write(&segments(&copied)[0], bytes).unwrap();
        copied
    };
    // What a power cut leaves of a log whose last groups were not synced yet: the journal behind the hole has more.
    let short = |bytes: &mut [u8], end: usize| bytes[end - 2_000..].fill(0);
    let (started, repaired) = (change("started", &short), change("repaired", &short));
    let found = check(&repaired).unwrap();
    assert!(found.findings[0].contains("not completely written"), "{found:?}");
    repair(&repaired).unwrap();
    let kept = offsets(&open(&started), &query("user/a"));
    assert!((280..300).contains(&kept.len()) && kept == (0..kept.len() as u64).collect::<Vec<_>>());
    assert_eq!(offsets(&open(&repaired), &query("user/a")), kept);

    // Damage in the log: what lies behind the hole says that all was applied.
    let damaged = change("damaged", &|bytes, end| bytes[end - end / 10] ^= 1);
    assert!(FjallStore::open(crate::support::options(&damaged), &mut |_| {}).is_err());
    let found = check(&damaged).unwrap();
    assert!(found.findings[0].contains("is damaged"), "{found:?}");
    repair(&damaged).unwrap();
    let store = open(&damaged);
    assert_eq!(offsets(&store, &query("user/a")), (0..300).collect::<Vec<_>>());
    assert_eq!(store.usage().messages, 300, "what was there counts once");
}

#[test]
fn tickets_are_answered_while_the_store_fails() {
    let directory = tempfile::tempdir().unwrap();
    let store = Trying::new();
    store.broken.store(true, Ordering::SeqCst);
    let bounded = JournalOptions { entries_max: 8, ..options(directory.path()) };
    let (journal, threads, answers) = start(store.clone(), bounded);
    let mut pushed = 0;
    while journal.has_room() {
        journal.push(one(pushed), ticket(0, pushed)).unwrap();
        assert_eq!(answers.recv().unwrap().2, Ok(()));
        pushed += 1;
    }
    assert_eq!(
        (pushed, journal.metrics().queue_entries),
        (12, 12),
        "what the store does not have keeps its room"
    );
    let (sender, seen) = channel();
    journal.read(Box::new(move |store| sender.send(offsets(store, &query("user/a"))).unwrap())).unwrap();
    while journal.metrics().failures == 0 {
        std::thread::yield_now();
    }
    assert!(seen.try_recv().is_err(), "a reading waits for what was pushed before it");
    store.broken.store(false, Ordering::SeqCst);
    assert_eq!(seen.recv().unwrap(), (0..12).collect::<Vec<_>>());
    stop(threads);
    assert_eq!(journal.metrics().lost, 0);
}

#[test]
fn readings_do_not_wait_for_a_store_that_stays_shut() {
    let directory = tempfile::tempdir().unwrap();
    let store = Trying::new();
    let short = JournalOptions { readings_wait: Duration::from_millis(1), ..options(directory.path()) };
    let (journal, threads, _answers) = start(store.clone(), short);
    let read = || {
        let (sender, seen) = channel();
        journal.read(Box::new(move |store| sender.send(store.messages(&query("user/a"))).unwrap())).unwrap();
        seen
    };
    let found = |page: Result<Page, StoreError>| page.map(|page| page.messages.len());
    for round in 0..2 {
        store.broken.store(true, Ordering::SeqCst);
        journal.push(one(round), None).unwrap();
        for _ in 0..3 {
            let error = found(read().recv().unwrap()).unwrap_err();
            assert!(
                matches!(error, StoreError::Unavailable { .. }),
                "and not what is missing something: {error}"
            );
            assert!(journal.is_failing());
        }
        store.broken.store(false, Ordering::SeqCst);
        while journal.is_failing() {
            std::thread::yield_now();
        }
        assert_eq!(found(read().recv().unwrap()), Ok(1 + usize::try_from(round).unwrap()));
    }
    // The end comes before the store is well.
    store.broken.store(true, Ordering::SeqCst);
    journal.push(one(2), None).unwrap();
    let seen = [read(), read()];
    stop(threads);
    for seen in seen {
        assert!(matches!(seen.recv().unwrap(), Err(StoreError::Unavailable { .. })));
    }
}

#[test]
fn a_log_that_cannot_be_written_is_told_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let (there, away) = (directory.path().join("log"), directory.path().join("away"));
    let short = JournalOptions {
        log: Some(log(directory.path(), 4_096)),
        readings_wait: Duration::from_millis(1),
        ..options(directory.path())
    };
    let (journal, threads, answers) = start(Trying::new(), short);
    fs::rename(&there, &away).unwrap();
    // Until it wants another segment.
    let mut pushed = 0;
    let error = loop {
        journal.push(one(pushed), ticket(0, pushed)).unwrap();
        pushed += 1;
        if let Err(error) = answers.recv().unwrap().2 {
            break error;
        }
    };
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    while !journal.is_failing() {
        std::thread::yield_now();
    }
    assert!(journal.check().is_err(), "nobody pushed meanwhile");
    fs::rename(&away, &there).unwrap();
    while journal.is_failing() || journal.check().is_err() {
        std::thread::yield_now();
    }
    journal.push(one(pushed), ticket(0, pushed)).unwrap();
    assert_eq!(answers.recv().unwrap().2, Ok(()));
    stop(threads);
}

#[test]
fn a_store_that_is_not_synced_or_kept_in_order_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let store = Trying::new();
    let often = Duration::from_millis(1);
    let quick = JournalOptions {
        sync_every: often,
        maintain_every: often,
        readings_wait: often,
        ..options(directory.path())
    };
    let (journal, threads, _answers) = start(store.clone(), quick);
    for (offset, fails) in (0..).zip([&store.unsynced, &store.untidy]) {
        fails.store(true, Ordering::SeqCst);
        journal.push(one(offset), None).unwrap();
        while !journal.is_failing() {
            std::thread::yield_now();
        }
        assert_eq!(journal.check_room(), Ok(()), "the log takes what is pushed");
        fails.store(false, Ordering::SeqCst);
        while journal.is_failing() {
            std::thread::yield_now();
        }
    }
    stop(threads);
}

#[test]
fn a_damaged_record_of_the_store_holds_up_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let store = Trying::new();
    store.damaged.store(true, Ordering::SeqCst);
    store.unmarked.store(2, Ordering::SeqCst);
    let (journal, threads, answers) = start(store.clone(), options(directory.path()));
    journal.push(one(0), ticket(0, 0)).unwrap();
    journal.push(Write::LastSeen { user: name("a"), unix_ms: 1 }, None).unwrap();
    journal.push(one(1), ticket(0, 1)).unwrap();
    stop(threads);
    assert!(answers.iter().all(|(_, _, result)| result.is_ok()));
    assert_eq!(offsets(&*store, &query("user/a")), [0, 1]);
    assert_eq!((journal.metrics().lost, journal.metrics().queue_entries), (1, 0));
    assert_eq!(store.usage().messages, 2, "what was done is not done again when the rest fails for a while");
}

#[test]
fn an_end_with_a_store_that_fails_leaves_everything_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    drop(open(&path));
    let failing = Trying::new();
    failing.broken.store(true, Ordering::SeqCst);
    let (journal, threads, _answers) = start(failing, options(&path));
    for offset in 0..5 {
        journal.push(one(offset), None).unwrap();
    }
    stop(threads);
    assert_eq!(offsets(&open(&path), &query("user/a")), [0, 1, 2, 3, 4]);
}

#[test]
fn a_journal_applies_what_the_one_before_left_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = Trying::new();
    store.broken.store(true, Ordering::SeqCst);
    let (journal, threads, _answers) = start(store.clone(), options(directory.path()));
    for offset in 0..5 {
        journal.push(one(offset), None).unwrap();
    }
    stop(threads);
    store.broken.store(false, Ordering::SeqCst);
    let (journal, threads, _answers) = start(store.clone(), options(directory.path()));
    journal.push(one(5), None).unwrap();
    stop(threads);
    assert_eq!(offsets(&*store, &query("user/a")), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_stop_flushes_and_tickets_keep_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store: Arc<dyn Store> = Arc::new(open(&path));
    let (journal, threads, answers) = start(store.clone(), options(&path));
    for n in 0..3_000_u64 {
        let worker = (n % 3) as u8;
        let write = messages(batch(&format!("user/u{worker}"), at(1, n), 1, 0), LONG);
        journal.push(write, if n % 2 == 0 { ticket(worker, n) } else { None }).unwrap();
    }
    stop(threads);
    assert_eq!(journal.metrics().queue_entries, 0);
    assert_eq!(journal.push(one(0), None), Err(Full));
    let mut of_worker = [const { Vec::new() }; 3];
    for (worker, tokens, result) in answers.iter() {
        result.unwrap();
        of_worker[usize::from(worker)].extend(tokens);
    }
    for (worker, tokens) in of_worker.iter().enumerate() {
        assert_eq!(tokens.len(), 500);
        assert!(tokens.is_sorted());
        assert_eq!(offsets(&*store, &query(&format!("user/u{worker}"))).len(), 1_000);
    }
}

#[test]
fn a_write_that_cannot_be_done_fails_alone_before_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(open(&directory.path().join("store")));
    let (journal, threads, answers) = start(store.clone(), options(&directory.path().join("store")));
    let letter = |detail: usize, recipient: usize| DeadLetter {
        id: id(0, 0),
        recipient: "x".repeat(recipient),
        unix_ms: 0,
        cause: "timeout".into(),
        attempts: 1,
        detail: "x".repeat(detail),
        batch: Arc::new(batch("user/a", at(1, 0), 1, 0)),
    };
    journal.push(one(0), ticket(0, 0)).unwrap();
    journal.push(Write::DeadLetter(letter(70_000, 1)), ticket(0, 1)).unwrap();
    journal.push(Write::DeadLetter(letter(1, 65_530)), ticket(0, 2)).unwrap();
    journal.push(one(1), ticket(0, 3)).unwrap();
    stop(threads);
    let failed: Vec<u64> =
        answers.iter().filter(|(_, _, result)| result.is_err()).flat_map(|(_, tokens, _)| tokens).collect();
    assert_eq!(failed, [1, 2]);
    assert_eq!(offsets(&*store, &query("user/a")), [0, 1]);
}

#[test]
fn what_was_answered_is_never_refused_for_the_bound_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let bounds = Bounds { bytes: 100_000, ..Bounds::default() };
    let bounded = StoreOptions { bounds, ..crate::support::options(&path) };
    let (store, _) = FjallStore::open(bounded, &mut |_| {}).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let (journal, threads, answers) = start(store.clone(), options(&path));
    for offset in 0..1_000 {
        journal.push(one(offset), ticket(0, offset)).unwrap();
        journal.push(Write::LastSeen { user: name("a"), unix_ms: offset }, ticket(1, offset)).unwrap();
    }
    stop(threads);
    let (mut kept, mut refused, mut small) = (Vec::new(), 0, 0);
    for (worker, tokens, result) in answers.iter() {
        match (worker, result) {
            (0, Ok(())) => kept.extend(tokens),
            (0, Err(error)) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                refused += tokens.len();
            }
            (_, result) => small += usize::from(result.is_ok()) * tokens.len(),
        }
    }
    assert_eq!((kept.len() + refused, small), (1_000, 1_000));
    assert_eq!(offsets(&*store, &query("user/a")), kept);
    assert!(store.usage().bytes < 100_000 + (4 << 20), "by one commit at most");
    assert_eq!(store.last_seen(&name("a")).unwrap(), Some(999));
}

#[test]
fn a_start_that_cannot_apply_the_log_says_so_and_keeps_it() {
    let Some(small) = Small::mount("64M") else {
        println!("no file system can be mounted here");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let large = |n| passing(id(0, n), 900_000);
    let (crashed, _) = crashed(directory.path(), (0..12).map(large).collect());
    let path = small.directory.path().join("store");
    copy(&crashed, &path);
    small.fill_but(2 << 20);
    let error = FjallStore::open(crate::support::options(&path), &mut |_| {}).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    fs::remove_file(small.ballast()).unwrap();
    let store = open(&path);
    assert!((0..12).all(|n| has_passing(&store, id(0, n))));
}

#[test]
fn a_full_disk_is_survived_without_a_restart() {
    let Some(small) = Small::mount("64M") else {
        println!("no file system can be mounted here");
        return;
    };
    let path = small.directory.path().join("store");
    let opened = || {
        let options = StoreOptions { memtable_bytes: 2 << 20, ..crate::support::options(&path) };
        FjallStore::open(options, &mut |_| {}).unwrap().0
    };
    let store: Arc<dyn Store> = Arc::new(opened());
    let options = JournalOptions {
        log: Some(log(&path, 1 << 20)),
        sync_every: Duration::from_millis(20),
        ..journal_options()
    };
    let (journal, threads, answers) = start(store.clone(), options);
    let put = |write: Write| {
        journal.push(write, ticket(0, 0)).unwrap();
        answers.recv().unwrap().2
    };
    let large =
        |offset: u64| messages(batch_of("user/a", at(1, offset), 0, vec![("x".repeat(10_000), 0)]), LONG);
    let (mut offset, mut kept, mut small_ones) = (0, Vec::new(), Vec::new());
    for round in 0..3 {
        // Behind what is written now.
        let (sender, applied) = channel();
        journal.read(Box::new(move |_| sender.send(()).unwrap())).unwrap();
        applied.recv().unwrap();
        small.fill_but(3 << 20);
        let mut failed = 0;
        while failed < 3 {
            match put(large(offset)) {
                Ok(()) => kept.push(offset),
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    failed += 1;
                }
            }
            offset += 1;
            assert!(offset < 10_000, "the disk never fills");
        }
        // Small writes are not held back, so these fill the log to the last byte of the disk.
        let mut n = 0;
        let error = loop {
            match put(passing(id(round, n), 10_000)) {
                Ok(()) => small_ones.push(id(round, n)),
                Err(error) => break error,
            }
            n += 1;
            assert!(n < 10_000, "the disk never fills");
        };
        assert!(error.is_retryable(), "{error}");
        fs::remove_file(small.ballast()).unwrap();
        comes_back(|| {
            offset += 1;
            put(large(offset))
        });
        kept.push(offset);
        offset += 1;
    }
    stop(threads);
    drop((journal, store));
    let store = opened();
    assert!(small_ones.iter().all(|id| has_passing(&store, *id)) && !small_ones.is_empty());
    assert_eq!(offsets(&store, &query("user/a")), kept, "what was answered, and nothing twice");
}
