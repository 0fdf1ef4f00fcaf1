//! What a disk does to a store: ends in the middle, changes bytes, fills up.

use crate::support::*;
use proptest::prelude::*;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use waspmq_core::Pattern;
use waspmq_store::{Durability, FjallStore, OpenError, Query, Store, StoreError, StoreOptions, Write};

fn journal(store: &Path) -> PathBuf {
    let found = fs::read_dir(store.join("db")).unwrap().map(|entry| entry.unwrap().path());
    found.filter(|path| path.extension().is_some_and(|end| end == "jnl")).max().unwrap()
}

/// Bytes of a journal up to the zeros at its end.
fn content(journal: &Path) -> Vec<u8> {
    let mut bytes = fs::read(journal).unwrap();
    let zeros = bytes.rchunks(512).take_while(|chunk| **chunk == [0; 512][..chunk.len()]);
    bytes.truncate(bytes.len() - zeros.map(<[u8]>::len).sum::<usize>());
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(end);
    bytes
}

/// A store with one message per commit, killed; and where each commit ends in the journal.
fn killed(directory: &Path, commits: u64) -> (PathBuf, Vec<usize>) {
    let (path, copied) = (directory.join("running"), directory.join("killed"));
    let store = open(&path);
    let mut ends = Vec::new();
    for offset in 0..commits {
        let write = messages(batch("user/a", at(1, offset), 1, offset), LONG);
        store.commit(&[write], Durability::Synced).unwrap();
        ends.push(content(&journal(&path)).len());
    }
    copy(&path, &copied);
    (copied, ends)
}

#[test]
fn what_was_committed_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = killed(directory.path(), 20);
    let (store, recovered) = reopen(&path);
    assert_eq!(offsets(&store, &query("user/a")), (0..20).collect::<Vec<_>>());
    assert_eq!((recovered.truncated_tail, recovered.addresses), (None, 1));
    assert_eq!(recovered.messages, 20, "what the saved record did not count is counted");
    assert!(recovered.journal_bytes > 1_000);
    drop(store);
    let store = open(&path);
    assert_eq!(store.last(&address("user/a")).unwrap(), Some(at(1, 19)));
    put(&store, batch("user/a", at(2, 0), 3, 0));
    assert_eq!(store.usage().messages, 23);
    drop(store);
    let (_store, recovered) = reopen(&path);
    assert_eq!(recovered.messages, 23, "an end in order saves the count");
}

#[test]
fn a_tail_cut_at_any_byte_loses_only_what_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let (path, ends) = killed(directory.path(), 6);
    let full = content(&journal(&path));
    for end in
        (ends[3] - 3..=ends[5]).step_by(7).chain(ends[3] - 3..ends[3] + 3).chain([ends[4], ends[5] - 1])
    {
        for zeros in [0, 5_000] {
            let cut = directory.path().join("cut");
            copy(&path, &cut);
            let mut bytes = full[..end].to_vec();
            bytes.resize(end + zeros, 0);
            fs::write(journal(&cut), bytes).unwrap();
            let (store, recovered) = reopen(&cut);
            let whole = ends.iter().filter(|commit| **commit <= end).count() as u64;
            assert_eq!(offsets(&store, &query("user/a")), (0..whole).collect::<Vec<_>>(), "cut at {end}");
            assert_eq!(recovered.truncated_tail.is_some(), !ends.contains(&end), "cut at {end}");
            put(&store, batch("user/a", at(2, 0), 1, 0));
            drop(store);
            assert_eq!(places(&open(&cut), &query("user/a")).len() as u64, whole + 1);
            fs::remove_dir_all(&cut).unwrap();
        }
    }
}

#[test]
fn damage_in_the_middle_is_refused_and_at_the_end_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let (path, ends) = killed(directory.path(), 6);
    let full = content(&journal(&path));
    let try_with = |bytes: &[u8]| {
        let damaged = directory.path().join("damaged");
        copy(&path, &damaged);
        fs::write(journal(&damaged), bytes).unwrap();
        let opened = FjallStore::open(options(&damaged), &mut |_| {});
        let result = opened.map(|(store, recovered)| {
            (offsets(&store, &query("user/a")).len(), recovered.truncated_tail.is_some())
        });
        let kept = content(&journal(&damaged));
        fs::remove_dir_all(&damaged).unwrap();
        (result, kept)
    };
    for at in (ends[1]..ends[5]).step_by(11).chain([ends[1], ends[4] - 1, ends[4], ends[5] - 1]) {
        let mut bytes = full.clone();
        bytes[at] ^= 0x41;
        let (result, kept) = try_with(&bytes);
        if at >= ends[4] {
            assert_eq!(result.unwrap(), (5, true), "byte {at} of the last commit");
            continue;
        }
        let error = result.unwrap_err();
        assert!(matches!(error, OpenError::StoreDamaged { .. }), "byte {at}: {error}");
        assert!(
            error.to_string().contains(".jnl") && error.to_string().contains("waspmq store check"),
            "{error}"
        );
        assert_eq!(kept, bytes, "nothing is thrown away");
    }
}

#[test]
fn a_hole_that_was_never_written_is_a_tail() {
    let directory = tempfile::tempdir().unwrap();
    let (path, ends) = killed(directory.path(), 30);
    let mut bytes = content(&journal(&path));
    let hole = ends[4].next_multiple_of(512);
    bytes[hole..hole + 1_024].fill(0);
    fs::write(journal(&path), bytes).unwrap();
    let (store, recovered) = reopen(&path);
    assert!(recovered.truncated_tail.is_some());
    let whole = ends.iter().filter(|end| **end <= hole).count() as u64;
    assert_eq!(offsets(&store, &query("user/a")), (0..whole).collect::<Vec<_>>());
}

#[test]
fn formats_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    drop(open(&path));
    assert!(FjallStore::open(options(&path), &mut |_| {}).is_ok());
    let held = open(&path);
    assert!(matches!(FjallStore::open(options(&path), &mut |_| {}), Err(OpenError::StoreLocked { .. })));
    drop(held);
    fs::write(path.join("format"), "1\n").unwrap();
    drop(open(&path));
    assert_eq!(
        fs::read_to_string(path.join("format")).unwrap(),
        "5\n",
        "the older one does not know the log"
    );
    fs::write(path.join("format"), "4\n").unwrap();
    drop(open(&path));
    assert_eq!(fs::read_to_string(path.join("format")).unwrap(), "5\n", "nor the other one dedup keys");
    fs::write(path.join("format"), "6\n").unwrap();
    let error = FjallStore::open(options(&path), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, OpenError::StoreNewer { found, known: 5, .. } if found == "6"), "{error}");
    for bad in ["", "x", "0", "-1"] {
        fs::write(path.join("format"), bad).unwrap();
        let error = FjallStore::open(options(&path), &mut |_| {}).unwrap_err();
        assert!(matches!(error, OpenError::StoreDamaged { .. }), "{bad:?} {error}");
    }
    fs::remove_file(path.join("format")).unwrap();
    drop(open(&path));
    assert_eq!(fs::read_to_string(path.join("format")).unwrap(), "5\n", "it was not completely made");
    fs::create_dir(path.join("log")).unwrap();
    fs::remove_file(path.join("format")).unwrap();
    assert!(matches!(FjallStore::open(options(&path), &mut |_| {}), Err(OpenError::StoreDamaged { .. })));
}

#[test]
fn what_an_older_version_did_not_finish_making_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let begun: [fn(&Path); 3] = [
        |_| {},
        |path| fs::create_dir(path.join("db")).unwrap(),
        |path| {
            let db = fjall::Database::builder(path.join("db")).open().unwrap();
            drop(db.keyspace("messages", fjall::KeyspaceCreateOptions::default).unwrap());
        },
    ];
    for (format, begin) in ["2\n", "3\n"].into_iter().flat_map(|format| begun.map(|begin| (format, begin))) {
        let begin = || {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("format"), format).unwrap();
            begin(&path);
        };
        begin();
        drop(open(&path));
        assert_eq!(fs::read_to_string(path.join("format")).unwrap(), "5\n");
        fs::remove_dir_all(&path).unwrap();
        begin();
        fs::create_dir(path.join("log")).unwrap();
        assert!(FjallStore::open(options(&path), &mut |_| {}).is_err(), "with a log something was there");
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_store_without_its_database_is_not_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = killed(directory.path(), 5);
    // A repair ended between putting the old database aside and the new one in its place.
    for finish in [|path: &Path| drop(open(path)), |path: &Path| drop(waspmq_store::repair(path).unwrap())] {
        fs::create_dir(path.join("repaired")).unwrap();
        fs::rename(path.join("db"), path.join("repaired/db")).unwrap();
        let found = waspmq_store::check(&path).unwrap();
        assert!(!found.is_whole() && found.findings[0].contains("a repair"), "{found:?}");
        assert!(!path.join("db").exists(), "a check changes nothing");
        finish(&path);
        assert!(!path.join("repaired").exists());
        assert_eq!(offsets(&open(&path), &query("user/a")), [0, 1, 2, 3, 4]);
    }
    fs::rename(path.join("db"), directory.path().join("gone")).unwrap();
    let errors = [
        FjallStore::open(options(&path), &mut |_| {}).map(drop).unwrap_err(),
        waspmq_store::check(&path).unwrap_err(),
        waspmq_store::repair(&path).unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(&error, OpenError::StoreBeyondRepair { path, .. } if path.ends_with("db")),
            "{error}"
        );
        assert!(
            error.to_string().contains("backup") && !error.to_string().contains("store repair"),
            "{error}"
        );
    }
    assert!(!path.join("db").exists());
}

#[test]
fn the_reserve_is_kept_and_small_writes_pass() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let options = StoreOptions { reserve_bytes: u64::MAX, ..StoreOptions::new(&path) };
    let (store, _) = FjallStore::open(options, &mut |_| {}).unwrap();
    let error =
        store.commit(&[messages(batch("user/a", at(1, 0), 1, 0), LONG)], Durability::Synced).unwrap_err();
    assert!(matches!(&error, StoreError::Full { .. }) && error.is_retryable(), "{error}");
    let parts = ["are free", "are reserved", "not written there yet"];
    assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    store.commit(&[Write::LastSeen { user: name("a"), unix_ms: 1 }], Durability::Synced).unwrap();
    assert_eq!(store.last_seen(&name("a")).unwrap(), Some(1));
    assert_eq!(store.last(&address("user/a")).unwrap(), None);
}

#[test]
fn the_bound_of_the_store_is_kept_until_retention_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut options = options(&path);
    options.bounds.bytes = 50_000;
    let (store, _) = FjallStore::open(options, &mut |_| {}).unwrap();
    let retention = waspmq_core::settings::Retention { age_ms: 1_000, ..LONG };
    let put = |offset: u64| {
        let large = batch_of("topic/t", at(1, offset), offset, vec![("x".repeat(1_000), 0)]);
        store.commit(&[messages(large, retention)], Durability::Buffered)
    };
    let stored = (0..100).take_while(|offset| put(*offset).is_ok()).count();
    assert!((40..50).contains(&stored), "{stored}");
    assert!(matches!(put(200), Err(StoreError::Full { .. })));
    store.maintain(10_000).unwrap();
    put(300).unwrap();
    assert_eq!(offsets(&store, &query("topic/t")), [300]);
}

/// A small file system; `None` where the tests may not mount one.
pub(crate) struct Small {
    pub(crate) directory: tempfile::TempDir,
}

impl Small {
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self { directory })
    }

    /// Takes all space but so many bytes. A store writes meanwhile, and may take what was free a moment ago.
    pub(crate) fn fill_but(&self, left: u64) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        let piece = vec![1; 1 << 20];
        loop {
            let found = rustix::fs::statvfs(self.directory.path()).unwrap();
            let over = (found.f_bavail * found.f_frsize).saturating_sub(left);
            let count = piece.len().min(usize::try_from(over).unwrap());
            match ballast.write(&piece[..count]) {
                _ if count == 0 => return,
                Err(error) if error.kind() != ErrorKind::StorageFull => panic!("{error}"),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// What takes the space.
    pub(crate) fn ballast(&self) -> PathBuf {
        self.directory.path().join("ballast")
    }
}

/// Tries until a store that had no space has taken notice that there is some, which it does by itself.
pub(crate) fn comes_back(mut try_it: impl FnMut() -> Result<(), StoreError>) {
    for tries in 0.. {
        let Err(error) = try_it() else { return };
        assert!(tries < 2_000, "the store stays closed: {error}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.directory.path()).output();
        assert!(unmounted.is_ok_and(|output| output.status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_is_survived_without_a_restart() {
    let Some(small) = Small::mount("64M") else {
        println!("no file system can be mounted here");
        return;
    };
    let path = small.directory.path().join("store");
    let options = StoreOptions { memtable_bytes: 2 * 1024 * 1024, ..options(&path) };
    let (store, _) = FjallStore::open(options, &mut |_| {}).unwrap();
    let put = |offset: u64| {
        let large = batch_of("user/a", at(1, offset), 0, vec![("x".repeat(10_000), 0)]);
        store.commit(&[messages(large, LONG)], Durability::Synced)
    };
    let (mut acknowledged, mut small_ones): (Vec<u64>, Vec<_>) = (Vec::new(), Vec::new());
    let mut offset = 0;
    for round in 0..3 {
        // Somebody else takes the space that is left.
        small.fill_but(3 << 20);
        let mut failed = 0;
        while failed < 3 {
            match put(offset) {
                Ok(()) => acknowledged.push(offset),
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    failed += 1;
                }
            }
            offset += 1;
            assert!(offset < 10_000, "the disk never fills");
        }
        // Small writes are not held back by the reserve, so these meet the full disk itself.
        let put_small = |n: u64| store.commit(&[passing(id(round, n), 10_000)], Durability::Synced);
        let mut n = 0;
        let error = loop {
            match put_small(n) {
                Ok(()) => small_ones.push(id(round, n)),
                Err(error) => break error,
            }
            n += 1;
            assert!(n < 10_000, "the disk never fills");
        };
        assert!(error.is_retryable(), "{error}");
        assert!(
            acknowledged.iter().all(|offset| offsets(&store, &query("user/a")).contains(offset)),
            "it is read still"
        );
        fs::remove_file(small.ballast()).unwrap();
        comes_back(|| {
            offset += 1;
            put(offset)
        });
        acknowledged.push(offset);
        offset += 1;
        let found = offsets(&store, &query("user/a"));
        assert!(acknowledged.iter().all(|offset| found.contains(offset)), "round {round}");
    }
    drop(store);
    let store = open(&path);
    assert!(!small_ones.is_empty() && small_ones.iter().all(|id| has_passing(&store, *id)));
    let found = offsets(&store, &query("user/a"));
    assert!(acknowledged.iter().all(|offset| found.contains(offset)), "behind a restart");
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
}

#[test]
fn ledgers_count_behind_a_start_and_a_repair() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path);
    let ledgers: Vec<_> = (0..9).map(|n| Write::Ledger { id: id(1, n), body: vec![1; 1_000] }).collect();
    store.commit(&ledgers, Durability::Buffered).unwrap();
    let usage = store.usage();
    assert!(usage.bytes > 9_000);
    // As a crash ends it: nothing is saved at the end.
    std::mem::forget(store);
    let copied = directory.path().join("copied");
    copy(&path, &copied);
    let (store, recovered) = reopen(&copied);
    assert_eq!((recovered.bytes, store.usage()), (usage.bytes, usage));
    drop(store);
    waspmq_store::repair(&copied).unwrap();
    assert_eq!(open(&copied).usage(), usage);
}

#[test]
fn the_reserve_is_all_the_space_it_takes_to_open_again() {
    let Some(small) = Small::mount("96M") else {
        println!("no file system can be mounted here");
        return;
    };
    let path = small.directory.path().join("store");
    let reserve_bytes = 8 << 20;
    let options = StoreOptions { reserve_bytes, memtable_bytes: 64 << 20, ..options(&path) };
    let (store, _) = FjallStore::open(options, &mut |_| {}).unwrap();
    let put = |n: u64| store.commit(&[passing(id(0, n), 10_000)], Durability::Synced);
    // The journal is larger than the reserve.
    (0..2_000).for_each(|n| put(n).unwrap());
    small.fill_but(0);
    let ballast = small.ballast();
    let kept = (2_000..10_000).find(|n| put(*n).is_err()).unwrap();
    let rest = ballast.metadata().unwrap().len() - (reserve_bytes + (1 << 20));
    fs::OpenOptions::new().write(true).open(&ballast).unwrap().set_len(rest).unwrap();
    comes_back(|| put(kept));
    drop(store);
    let store = open(&path);
    assert!((0..=kept).all(|n| has_passing(&store, id(0, n))));
}

#[test]
fn tables_are_written_and_read_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let options = StoreOptions { memtable_bytes: 256 * 1024, ..options(&path) };
    let (store, _) = FjallStore::open(options.clone(), &mut |_| {}).unwrap();
    let retention = waspmq_core::settings::Retention { count: 1_000, ..LONG };
    for offset in 0..2_000 {
        let write = messages(batch_of("user/a", at(1, offset), 0, vec![("y".repeat(1_000), 0)]), retention);
        store.commit(&[write], Durability::Buffered).unwrap();
    }
    let newest = offsets(&store, &Query { last: Some(1_000), ..query("user/a") });
    assert_eq!(newest, (1_000..2_000).collect::<Vec<_>>());
    drop(store);
    let (store, _) = FjallStore::open(options, &mut |_| {}).unwrap();
    assert_eq!(offsets(&store, &Query { last: Some(1_000), ..query("user/a") }), newest);
    assert_eq!(store.addresses(&Pattern::parse("user/a").unwrap(), None, 9).unwrap().len(), 1);
}

/// All files below a directory with what they hold.
fn files(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match fs::read(&path) {
                Ok(bytes) => found.push((path, bytes)),
                Err(_) if path.is_dir() => folders.push(path),
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn tables_that_are_gone_are_damage_and_not_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, _) = killed(directory.path(), 5);
    let store = open(&whole);
    let cursor =
        Write::Cursor { user: name("a"), device: None, address: address("user/a"), position: at(1, 3) };
    store.commit(&[cursor], Durability::Synced).unwrap();
    drop(store);
    for gone in ["keyspaces/1", "keyspaces/1/current"] {
        let path = directory.path().join("store");
        copy(&whole, &path);
        let part = path.join("db").join(gone);
        if part.is_dir() {
            fs::remove_dir_all(part).unwrap()
        } else {
            fs::remove_file(part).unwrap()
        }
        let before = files(&path);
        let found = waspmq_store::check(&path).unwrap();
        assert!(!found.is_whole() && found.findings[0].contains("keyspaces"), "{found:?}");
        let error = FjallStore::open(options(&path), &mut |_| {}).unwrap_err();
        assert!(matches!(error, OpenError::StoreDamaged { .. }), "{error}");
        assert!(files(&path) == before, "neither changes anything");
        let repaired = waspmq_store::repair(&path).unwrap();
        assert!(repaired.kept_aside.is_some() && repaired.damaged > 0, "{repaired:?}");
        assert!(waspmq_store::check(&path).unwrap().is_whole());
        let store = open(&path);
        assert_eq!(store.cursor(&name("a"), None, &address("user/a")).unwrap(), Some(at(1, 3)));
        assert_eq!(offsets(&store, &query("user/a")), [0, 1, 2, 3, 4], "they are in the journal");
        assert_eq!(store.usage().messages, 5);
        drop(store);
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn what_no_repair_helps_with_is_said_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, _) = killed(directory.path(), 5);
    drop(open(&whole));
    for (index, what) in ["keyspaces/0/current", "version", "keyspaces/0/tables/1"].iter().enumerate() {
        let path = directory.path().join("store");
        copy(&whole, &path);
        fs::create_dir(path.join("log")).unwrap();
        let (part, log) = (path.join("db").join(what), path.join("log/00000000000000000001.log"));
        fs::write(&log, "something").unwrap();
        match index {
            0 | 1 => fs::remove_file(part).unwrap(),
            _ => {
                let mut bytes = fs::read(&part).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle..].fill(0x5a);
                fs::write(part, bytes).unwrap();
            }
        }
        for result in [waspmq_store::check(&path), waspmq_store::repair(&path)] {
            let error = result.unwrap_err();
            assert!(matches!(error, OpenError::StoreBeyondRepair { .. }), "{what}: {error}");
            assert!(error.to_string().contains(what), "{what}: {error}");
        }
        assert!(FjallStore::open(options(&path), &mut |_| {}).is_err());
        assert!(log.exists(), "{what}");
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_changed_bit_that_keeps_the_database_shut_is_told_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, _) = killed(directory.path(), 5);
    drop(open(&whole));
    let path = directory.path().join("store");
    let mut files = files(&whole.join("db"));
    files.retain(|(file, _)| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name == "version" || name.starts_with('v') || file.parent().unwrap().ends_with("tables")
    });
    assert!(files.len() >= 5, "the version, three keyspaces and a table: {files:?}");
    for (file, mut bytes) in files {
        copy(&whole, &path);
        let file = path.join(file.strip_prefix(&whole).unwrap());
        // Where a file has no ending, its beginning is what is looked at.
        let at = bytes.len().saturating_sub(30);
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        let told = FjallStore::open(options(&path), &mut |_| {}).unwrap_err().to_string();
        assert!(told.contains("one of its files") && !told.contains("Checksum("), "{told}");
        let error = waspmq_store::check(&path).unwrap_err();
        assert!(matches!(&error, OpenError::StoreBeyondRepair { path, .. } if *path == file), "{error}");
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_format_that_cannot_be_read_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = killed(directory.path(), 5);
    fs::create_dir(path.join("log")).unwrap();
    let format = path.join("format");
    for break_it in [|file: &Path| fs::write(file, "x9"), |file: &Path| fs::remove_file(file)] {
        break_it(&format).unwrap();
        let found = waspmq_store::check(&path).unwrap();
        assert!(
            found.damaged == 1 && found.findings[0].contains("format") && found.messages == 5,
            "{found:?}"
        );
        assert!(FjallStore::open(options(&path), &mut |_| {}).is_err());
        waspmq_store::repair(&path).unwrap();
        assert_eq!(offsets(&open(&path), &query("user/a")), [0, 1, 2, 3, 4]);
    }
    fs::write(&format, "99\n").unwrap();
    assert!(matches!(waspmq_store::repair(&path), Err(OpenError::StoreNewer { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// No change of any byte of a journal makes an opening panic or show what was never written.
    #[test]
    fn any_damage_is_an_error_or_a_cut(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = killed(directory.path(), 5);
        let file = journal(&path);
        let mut bytes = content(&file);
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(&file, bytes).unwrap();
        if let Ok((store, _)) = FjallStore::open(options(&path), &mut |_| {}) {
            let found = offsets(&store, &query("user/a"));
            prop_assert_eq!(&found, &(0..found.len() as u64).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_check_finds_damage_and_a_repair_keeps_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (path, ends) = killed(directory.path(), 8);
    let whole = waspmq_store::check(&path).unwrap();
    assert!(whole.is_whole(), "{whole:?}");
    assert_eq!((whole.messages, whole.addresses), (8, 1));
    let file = journal(&path);
    let mut bytes = content(&file);
    bytes[ends[3] + 40] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let found = waspmq_store::check(&path).unwrap();
    assert!(!found.is_whole() && found.findings[0].contains(".jnl"), "{found:?}");
    assert_eq!(content(&file), bytes, "a check changes nothing");
    let repaired = waspmq_store::repair(&path).unwrap();
    assert_eq!((repaired.messages, repaired.removed.len()), (7, 1), "{repaired:?}");
    let store = open(&path);
    assert_eq!(offsets(&store, &query("user/a")), [0, 1, 2, 3, 5, 6, 7]);
    assert_eq!(store.usage().messages, 7);
}

#[test]
fn a_repair_counts_what_is_there_and_not_what_retention_hides() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let retention = waspmq_core::settings::Retention { count: 10, ..LONG };
    let put = |store: &FjallStore, offset, count| {
        let write = messages(batch("topic/t", at(1, offset), count, 0), retention);
        store.commit(&[write], Durability::Buffered).unwrap();
    };
    let store = open(&path);
    put(&store, 0, 8);
    put(&store, 8, 8);
    assert_eq!(offsets(&store, &query("topic/t")), (6..16).collect::<Vec<_>>());
    drop(store);
    assert_eq!(waspmq_store::repair(&path).unwrap().messages, 10);
    let store = open(&path);
    assert_eq!(store.usage().messages, 10);
    put(&store, 16, 1);
    assert_eq!(offsets(&store, &query("topic/t")), (7..17).collect::<Vec<_>>());
}

#[test]
fn a_table_that_cannot_be_read_is_repaired_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let options = StoreOptions { memtable_bytes: 128 * 1024, ..options(&path) };
    let (store, _) = FjallStore::open(options.clone(), &mut |_| {}).unwrap();
    let table = || {
        let tables = files(&path.join("db/keyspaces")).into_iter();
        let tables = tables.filter(|(path, _)| path.parent().unwrap().ends_with("tables"));
        tables.max_by_key(|(_, bytes)| bytes.len()).filter(|(_, bytes)| bytes.len() >= 30_000)
    };
    // They are written behind the commits, when there is enough in memory.
    let mut messages = 0;
    while messages < 1_800 || table().is_none() {
        assert!(messages < 60_000, "no table is written");
        for to in ["user/a", "user/b", "user/c"] {
            let body = format!("{messages}-").repeat(100);
            // Two starts of a broker.
            put(&store, batch_of(to, at(1 + u32::from(messages >= 900), messages / 3), 0, vec![(body, 0)]));
        }
        messages += 3;
    }
    drop(store);
    let (table, mut bytes) = table().unwrap();
    // Far from each other, so that each is in a block of its own.
    let places: Vec<_> = (2_000..bytes.len() - 8_000).step_by(6_000).collect();
    places.iter().for_each(|place| bytes[*place] ^= 0xff);
    fs::write(table, bytes).unwrap();
    let found = waspmq_store::check(&path).unwrap();
    assert!(!found.is_whole() && found.unreadable >= places.len() as u64, "{found:?}");
    assert_eq!(found.missing, messages - found.messages);
    let repaired = waspmq_store::repair(&path).unwrap();
    assert!(repaired.kept_aside.as_ref().is_some_and(|aside| aside.is_dir()), "{repaired:?}");
    assert_eq!((repaired.messages, repaired.missing), (found.messages, found.missing));
    // A block has 4 KiB before it is compressed, and messages a few hundred bytes.
    assert!(
        (1..=20).contains(&(repaired.missing / places.len() as u64)),
        "{} in {places:?}",
        repaired.missing
    );
    assert!(waspmq_store::check(&path).unwrap().is_whole());
    let store = open(&path);
    assert_eq!(store.usage().messages, repaired.messages);
    let left: usize = ["user/a", "user/b", "user/c"].iter().map(|to| offsets(&store, &query(to)).len()).sum();
    assert_eq!(left as u64, repaired.messages);
}
