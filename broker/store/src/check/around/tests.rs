//! Tables of which blocks are damaged, against what is read of each key alone.

use super::*;
use crate::StoreOptions;
use crate::disk::{Tables, open_database};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn open(path: &Path) -> Tables {
    open_database(&StoreOptions::new(path)).unwrap()
}

/// Of ten addresses, twenty each.
fn key(index: u32) -> Vec<u8> {
    let mut key = format!("topic/n{}\0", index / 20).into_bytes();
    key.extend([1_u32.to_be_bytes(), 0_u32.to_be_bytes(), (index * 3).to_be_bytes()].concat());
    key
}

/// About as large as a number says, and like no other.
fn value(index: u32) -> Vec<u8> {
    (0..300 + index % 7 * 100)
        .flat_map(|byte| {
            (byte.wrapping_mul(0x9e37_79b9).rotate_left(byte) ^ index.wrapping_mul(0x85eb_ca6b)).to_be_bytes()
        })
        .collect()
}

/// A keyspace with one table for each of these parts of two hundred records, and the files.
fn closed(path: &Path, parts: &[&dyn Fn(u32) -> bool]) -> Vec<PathBuf> {
    let tables = open(path);
    let mut files = Vec::new();
    for is_part in parts {
        for index in (0..200).filter(|index| is_part(*index)) {
            tables.messages.insert(key(index), value(index)).unwrap();
        }
        tables.messages.rotate_memtable_and_wait().unwrap();
        let entries = fs::read_dir(tables.messages.path().join("tables")).unwrap();
        let new = entries.map(|entry| entry.unwrap().path()).find(|file| !files.contains(file));
        files.push(new.unwrap());
    }
    files
}

fn damage(table: &Path, bytes: &[u8], places: &[usize]) {
    let mut damaged = bytes.to_vec();
    places.iter().for_each(|place| damaged[*place] ^= 0x10);
    fs::write(table, damaged).unwrap();
}

/// What is read of a range, and how many stretches are not.
fn found(tables: &Tables, (from, to): (&[u8], &[u8])) -> (Vec<Vec<u8>>, usize) {
    let (mut found, mut stretches) = (Vec::new(), 0);
    read(&tables.messages, (from, to), &mut |part| {
        match part {
            Part::Record(key, _) => found.push(key.to_vec()),
            Part::Damaged(front) => {
                assert!(front == from || found.last().is_some_and(|last| last == front));
                stretches += 1;
            }
        }
        Ok(())
    })
    .unwrap();
    (found, stretches)
}

fn is_read_alone(tables: &Tables, key: &[u8]) -> bool {
    tables.messages.get(key).is_ok_and(|value| value.is_some())
}

/// Far from each other, next to each other, at the ends, and most of a table.
fn places(bytes: usize) -> [Vec<usize>; 6] {
    let most = bytes - 40_000;
    [
        vec![most / 2],
        vec![100],
        vec![most / 5, most / 3, most / 2, most],
        (most / 4..most / 2).step_by(1_500).collect(),
        (0..most / 20_000).map(|index| index * 20_000 + 700).collect(),
        (100..most).step_by(1_024).collect(),
    ]
}

#[test]
fn whatever_is_read_alone_is_read_whichever_blocks_are_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let [table] = closed(directory.path(), &[&|_| true]).try_into().unwrap();
    let bytes = fs::read(&table).unwrap();
    for places in places(bytes.len()) {
        damage(&table, &bytes, &places);
        let tables = open(directory.path());
        let all = || (0..200).map(key);
        let whole: Vec<_> = all().filter(|key| is_read_alone(&tables, key)).collect();
        let (read, stretches) = found(&tables, (&[], &[0xff]));
        assert!(read == whole, "{} of {} for {} places", read.len(), whole.len(), places.len());
        assert!((1..=places.len()).contains(&stretches), "{stretches} of {}", places.len());
        // Address by address, as a check reads.
        let mut read = Vec::new();
        for index in 0..10 {
            let [from, to] = [0, 1].map(|end| [format!("topic/n{index}").as_bytes(), &[end]].concat());
            read.extend(found(&tables, (&from, &to)).0);
        }
        assert!(read == whole, "{} of {} for {} places", read.len(), whole.len(), places.len());
    }
}

#[test]
fn damage_in_one_table_takes_nothing_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let [even, odd] =
        closed(directory.path(), &[&|index| index % 2 == 0, &|index| index % 2 == 1]).try_into().unwrap();
    let (of_even, of_odd) = (fs::read(&even).unwrap(), fs::read(&odd).unwrap());
    for (places, others) in places(of_even.len()).into_iter().zip(places(of_odd.len()).into_iter().rev()) {
        for is_both in [false, true] {
            damage(&even, &of_even, &places);
            damage(&odd, &of_odd, if is_both { &others } else { &[] });
            let tables = open(directory.path());
            let (read, _) = found(&tables, (&[], &[0xff]));
            assert!(read.is_sorted_by(|one, next| one < next), "each once");
            let read: BTreeSet<_> = read.into_iter().collect();
            let is_due = |index: &u32| !is_both && index % 2 == 1 || is_read_alone(&tables, &key(*index));
            let lost: Vec<_> = (0..200).filter(is_due).filter(|index| !read.contains(&key(*index))).collect();
            assert!(
                lost.is_empty(),
                "{} with {} damaged places, {is_both}: {:?}",
                lost.len(),
                places.len(),
                lost.first()
            );
        }
    }
}
