//! Segments: what a file of the log looks like.
//!
//! ```text
//! head    "waspmqlg" version(4) = 1 first(8) salt(8) crc(4)                          32 bytes
//! group   "grp1" body bytes(4) crc(4) sequence(8) synced(8) writes(4) body…          32 bytes and the body
//! end     8 zeros, overwritten by the next group
//! ```
//! Numbers are big endian. The CRC-32 of the head is over what precedes it; that of a group over the salt and what follows
//! it. The salt is random: bytes that a client sends, and what the file held before, are never taken for a group.
//! `synced` is the last group that was on stable storage when this one was written: a group that is missing before one
//! that says it was synced is damage, any other was never completely written. Behind the end lies whatever the file held
//! before.

use crate::error::OpenError;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) const HEAD_BYTES: usize = 32;
pub(super) const GROUP_HEAD_BYTES: usize = 32;
pub(super) const END_BYTES: usize = 8;

const MAGIC: &[u8; 8] = b"waspmqlg";
const VERSION: u32 = 1;
const GROUP_MAGIC: &[u8; 4] = b"grp1";

/// Where the checksum of a group ends and what it covers begins.
const COVERED_FROM: usize = 12;

pub(super) fn path_of(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:020}.log"))
}

/// The segments of a log, oldest first. None where there is no such directory.
pub(super) fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(OpenError::io("read", directory))? {
        let path = entry.map_err(OpenError::io("read", directory))?.path();
        let first =
            path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log")?.parse::<u64>().ok());
        if let Some(first) = first {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Random bytes that all groups of a segment share.
pub(super) type Salt = [u8; 8];

pub(super) fn head(first: u64, salt: Salt) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_be_bytes());
    head.extend_from_slice(&first.to_be_bytes());
    head.extend_from_slice(&salt);
    head.extend_from_slice(&crc32fast::hash(&head).to_be_bytes());
    head
}

/// Room for the head of a group, to be filled by [`seal`] when the body follows it.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(GROUP_HEAD_BYTES, 0);
}

/// What the head says, whether or not its checksum is right.
pub(super) fn salt(file: &[u8]) -> Salt {
    file.get(20..28).and_then(|salt| salt.try_into().ok()).unwrap_or_default()
}

/// Fills in the head and appends the end.
pub(super) fn seal(out: &mut Vec<u8>, salt: Salt, (sequence, synced): (u64, u64), writes: u32) {
    let bytes = u32::try_from(out.len() - GROUP_HEAD_BYTES).unwrap_or(u32::MAX);
    put(out, 0, GROUP_MAGIC);
    put(out, 4, &bytes.to_be_bytes());
    put(out, 12, &sequence.to_be_bytes());
    put(out, 20, &synced.to_be_bytes());
    put(out, 28, &writes.to_be_bytes());
    let crc = checksum(salt, &[out.get(COVERED_FROM..).unwrap_or_default()]);
    put(out, 8, &crc.to_be_bytes());
    out.extend_from_slice(&[0; END_BYTES]);
}

fn checksum(salt: Salt, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A whole group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) sequence: u64,
    pub(super) synced: u64,
    pub(super) writes: u32,
    pub(super) body: Range<usize>,
}

fn group(file: &[u8], salt: Salt, at: usize) -> Option<Group> {
    let rest = file.get(at..)?;
    let (head, rest) = rest.split_at_checked(GROUP_HEAD_BYTES)?;
    let number =
        |from: usize| -> Option<u32> { Some(u32::from_be_bytes(head.get(from..from + 4)?.try_into().ok()?)) };
    let long =
        |from: usize| -> Option<u64> { Some(u64::from_be_bytes(head.get(from..from + 8)?.try_into().ok()?)) };
    if !head.starts_with(GROUP_MAGIC) {
        return None;
    }
    let body = rest.get(..usize::try_from(number(4)?).ok()?)?;
    let from = at + GROUP_HEAD_BYTES;
    (checksum(salt, &[head.get(COVERED_FROM..)?, body]) == number(8)?).then(|| Group {
        sequence: long(12).unwrap_or_default(),
        synced: long(20).unwrap_or_default(),
        writes: number(28).unwrap_or_default(),
        body: from..from + body.len(),
    })
}

/// How the groups of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing was begun behind them.
    Clean,
    /// Something lies behind them that was never completely written, or is the last group and damaged.
    Torn,
    /// A group behind them was on stable storage and is not whole.
    Damaged,
}

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Scan {
    /// One behind the other, without a hole in their numbers.
    pub(super) groups: Vec<Group>,
    /// Bytes up to the end of the last of them.
    pub(super) whole_bytes: usize,
    pub(super) end: End,
}

/// Reads a segment that is named after `first`.
pub(super) fn scan(file: &[u8], first: u64) -> Scan {
    let (mut at, mut groups) = (HEAD_BYTES, Vec::new());
    let salt = salt(file);
    if !file.starts_with(&head(first, salt)) {
        let end = if is_begun(file, first) { End::Damaged } else { End::Torn };
        return Scan { groups, whole_bytes: 0, end };
    }
    let mut next = first;
    while let Some(found) = group(file, salt, at).filter(|group| group.sequence == next) {
        (at, next) = (found.body.end, next.saturating_add(1));
        groups.push(found);
    }
    let rest = file.get(at..).unwrap_or_default();
    let was_synced = later(file, at, next).any(|group| group.synced >= next);
    let is_clean = rest.iter().take(END_BYTES).all(|byte| *byte == 0);
    let end = match (was_synced, is_clean) {
        (true, _) => End::Damaged,
        (false, true) => End::Clean,
        (false, false) => End::Torn,
    };
    Scan { groups, whole_bytes: at, end }
}

/// Whether a segment whose head is not right has a first group, as far as can be seen without it. The head is on stable
/// storage before any group.
fn is_begun(file: &[u8], first: u64) -> bool {
    let group = file.get(HEAD_BYTES..).unwrap_or_default();
    group.starts_with(GROUP_MAGIC) && group.get(12..20) == Some(&first.to_be_bytes())
}

/// Whole groups at any byte from `at` on whose number is at least `least`; also those behind damage.
pub(super) fn later(file: &[u8], mut at: usize, least: u64) -> impl Iterator<Item = Group> {
    let salt = salt(file);
    std::iter::from_fn(move || {
        loop {
            let rest = file.get(at..)?;
            let found = rest.windows(GROUP_MAGIC.len()).position(|window| window == GROUP_MAGIC)?;
            at += found;
            match group(file, salt, at) {
                Some(group) => {
                    at = group.body.end;
                    if group.sequence >= least {
                        return Some(group);
                    }
                }
                None => at += 1,
            }
        }
    })
}
