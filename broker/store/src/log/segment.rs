//! Segments: what a file of the log looks like.
//!
//! ```text
//! head    "waspmqlg" version(4) = 2 first(8) salt(8) crc(4)                          32 bytes
//! group   mark(4) body bytes(4) crc(4) sequence(8) synced(8) writes(4) body…         32 bytes and the body
//! end     8 zeros, overwritten by the next group
//! ```
//! Numbers are big endian. The CRC-32 of the head is over what precedes it; that of a group over the salt and what follows
//! it. The salt is random: bytes that a client sends, and what the file held before, are never taken for a group. The mark
//! is made from the salt, and never 0: nobody can send bytes that look like the begin of a group, each of which would cost
//! a checksum over up to a whole segment. In version 1 it was "grp1"; such a segment is read, and looked through with a bound.
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
const VERSION: u32 = 2;

/// What groups began with in version 1.
const MARK_1: [u8; 4] = *b"grp1";

/// How often its size may be checksummed while a segment is looked through. More: what follows is not looked at, which
/// only what was made for that reaches, and only in a segment of version 1.
const LATER_ROUNDS_MAX: usize = 16;

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

/// What all groups of a segment share, and nobody else knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secret {
    version: u32,
    /// Random bytes that are part of each checksum.
    salt: [u8; 8],
    /// What each group begins with.
    mark: [u8; 4],
}

impl Secret {
    pub(super) fn new(salt: [u8; 8]) -> Self {
        // Odd, so that zeros never begin a group.
        let mark = (crc32fast::hash(&salt) | 1).to_be_bytes();
        Self { version: VERSION, salt, mark }
    }

    pub(super) const fn version_1(salt: [u8; 8]) -> Self {
        Self { version: 1, salt, mark: MARK_1 }
    }

    /// That of a segment, by what its head says, whether or not its checksum is right.
    fn of(file: &[u8]) -> Self {
        let salt = file.get(20..28).and_then(|salt| salt.try_into().ok()).unwrap_or_default();
        let is_1 = file.get(8..12) == Some(&1_u32.to_be_bytes());
        if is_1 { Self::version_1(salt) } else { Self::new(salt) }
    }
}

pub(super) fn head(first: u64, secret: Secret) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&secret.version.to_be_bytes());
    head.extend_from_slice(&first.to_be_bytes());
    head.extend_from_slice(&secret.salt);
    head.extend_from_slice(&crc32fast::hash(&head).to_be_bytes());
    head
}

/// Room for the head of a group, to be filled by [`seal`] when the body follows it.
pub(super) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.resize(GROUP_HEAD_BYTES, 0);
}

/// Fills in the head and appends the end.
pub(super) fn seal(out: &mut Vec<u8>, secret: Secret, (sequence, synced): (u64, u64), writes: u32) {
    let bytes = u32::try_from(out.len() - GROUP_HEAD_BYTES).unwrap_or(u32::MAX);
    put(out, 0, &secret.mark);
    put(out, 4, &bytes.to_be_bytes());
    put(out, 12, &sequence.to_be_bytes());
    put(out, 20, &synced.to_be_bytes());
    put(out, 28, &writes.to_be_bytes());
    let crc = checksum(secret, &[out.get(COVERED_FROM..).unwrap_or_default()]);
    put(out, 8, &crc.to_be_bytes());
    out.extend_from_slice(&[0; END_BYTES]);
}

fn checksum(secret: Secret, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&secret.salt);
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

/// What begins like a group; whether it is one its checksum says.
struct Candidate<'a> {
    head: &'a [u8],
    body: &'a [u8],
    at: usize,
}

impl<'a> Candidate<'a> {
    fn read(file: &'a [u8], secret: Secret, at: usize) -> Option<Self> {
        let (head, rest) = file.get(at..)?.split_at_checked(GROUP_HEAD_BYTES)?;
        let (mark, bytes) = head.split_first_chunk::<4>()?;
        let bytes = usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()?;
        let body = rest.get(..bytes).filter(|_| *mark == secret.mark)?;
        Some(Self { head, body, at })
    }

    fn group(&self, secret: Secret) -> Option<Group> {
        let number = |from: usize| -> Option<u32> {
            Some(u32::from_be_bytes(self.head.get(from..from + 4)?.try_into().ok()?))
        };
        let long = |from: usize| -> Option<u64> {
            Some(u64::from_be_bytes(self.head.get(from..from + 8)?.try_into().ok()?))
        };
        let from = self.at + GROUP_HEAD_BYTES;
        (checksum(secret, &[self.head.get(COVERED_FROM..)?, self.body]) == number(8)?).then(|| Group {
            sequence: long(12).unwrap_or_default(),
            synced: long(20).unwrap_or_default(),
            writes: number(28).unwrap_or_default(),
            body: from..from + self.body.len(),
        })
    }
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
    let secret = Secret::of(file);
    if !file.starts_with(&head(first, secret)) {
        let end = if is_begun(file, first) { End::Damaged } else { End::Torn };
        return Scan { groups, whole_bytes: 0, end };
    }
    let mut next = first;
    let group = |at| Candidate::read(file, secret, at)?.group(secret);
    while let Some(found) = group(at).filter(|group| group.sequence == next) {
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
/// storage before any group, and what a file held before has another number there.
fn is_begun(file: &[u8], first: u64) -> bool {
    file.get(HEAD_BYTES + 12..HEAD_BYTES + 20) == Some(&first.to_be_bytes())
}

/// Whole groups at any byte from `at` on whose number is at least `least`; also those behind damage.
pub(super) fn later(file: &[u8], at: usize, least: u64) -> Later<'_> {
    Later { file, secret: Secret::of(file), at, least, checked_bytes: 0 }
}

#[derive(Debug)]
pub(super) struct Later<'a> {
    file: &'a [u8],
    secret: Secret,
    at: usize,
    least: u64,
    /// Bytes that were checksummed.
    pub(super) checked_bytes: usize,
}

impl Iterator for Later<'_> {
    type Item = Group;

    fn next(&mut self) -> Option<Group> {
        while self.checked_bytes / LATER_ROUNDS_MAX <= self.file.len() {
            let rest = self.file.get(self.at..)?;
            self.at += rest.windows(self.secret.mark.len()).position(|window| window == self.secret.mark)?;
            let candidate = Candidate::read(self.file, self.secret, self.at);
            self.checked_bytes += candidate.as_ref().map_or(0, |found| found.body.len());
            match candidate.and_then(|found| found.group(self.secret)) {
                Some(group) => {
                    self.at = group.body.end;
                    if group.sequence >= self.least {
                        return Some(group);
                    }
                }
                None => self.at += 1,
            }
        }
        None
    }
}
