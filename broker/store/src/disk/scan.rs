//! Reads fjall's journal before fjall does.
//!
//! fjall ends at the first thing in a journal that is no entry, without an error, and cuts the rest off; and it refuses
//! to open where an entry's checksum is wrong, also at the very end. Both are wrong for a broker: damage in the middle
//! must not silently lose what was acknowledged, and a tail that a power cut left must not stop a start. So the
//! journal is checked here, by the same layout (fjall 3):
//!
//! ```text
//! batch   1 items(4) seqno(8)  item…  3 xxh3(8) "FJL" 3          little endian; the checksum is over the items
//! item    2 type(1) compression(1) keyspace(8) key(2) value(4) stored(4) key stored-value
//!         4 keyspace(8)
//! ```
//! Behind the last batch a file holds zeros: it is made longer than needed.

use crate::{key, record};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes that reach a disk together: a hole in what was written is a whole number of these.
const SECTOR_BYTES: usize = 512;

const TRAILER: &[u8] = b"FJL\x03";

/// What a journal is found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Whole,
    /// What lies behind `whole_bytes` was never completely written.
    Torn,
    /// What lies behind `whole_bytes` is damaged or out of order, and whole batches follow.
    Damaged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) verdict: Verdict,
    pub(crate) batches: u64,
    pub(crate) whole_bytes: usize,
    /// Bytes behind them that are not zeros at the end of the file.
    pub(crate) other_bytes: usize,
    /// The last group of the log that the whole batches say was applied, and the last one that those behind them do.
    pub(crate) applied: Option<u64>,
    pub(crate) applied_behind: Option<u64>,
    /// Whether all that lies behind them was looked at.
    pub(crate) is_searched: bool,
}

pub(crate) fn scan(file: &[u8]) -> Scan {
    let (mut at, mut batches, mut seqno, mut applied) = (0, 0, None, None);
    let mut cost = Cost::default();
    while let Some(batch) =
        file.get(at..).and_then(|rest| batch(rest, &mut cost)).filter(|batch| batch.follows(seqno))
    {
        at += batch.len;
        seqno = Some(batch.seqno);
        applied = batch.applied.or(applied);
        batches += 1;
    }
    let other_bytes = content_len(file).saturating_sub(at);
    let (mut next, mut applied_behind) = (None, None);
    let mut behind = Behind::new(file, at, seqno);
    for (begin, batch) in &mut behind {
        next.get_or_insert(begin);
        applied_behind = applied_behind.max(batch.applied);
    }
    let is_searched = !behind.cost.is_too_much(file);
    let verdict = match other_bytes {
        0 => Verdict::Whole,
        _ => judge(file, at, next),
    };
    Scan { verdict, batches, whole_bytes: at, other_bytes, applied, applied_behind, is_searched }
}

/// The whole batches of a journal, also those behind damage, as parts of the file.
pub(crate) fn salvage(file: &[u8]) -> Vec<Range<usize>> {
    Behind::new(file, 0, None).map(|(at, batch)| at..at + batch.len).collect()
}

/// How often a file's size may be walked through in search of batches. More: what follows is not looked at, which only what
/// was made for that reaches.
const SEARCH_ROUNDS_MAX: usize = 16;

/// Bytes that a search for batches walked through. The head of an item is one step whatever its size.
#[derive(Debug, Default)]
struct Cost(usize);

impl Cost {
    const fn is_too_much(&self, file: &[u8]) -> bool {
        self.0 / SEARCH_ROUNDS_MAX > file.len()
    }
}

/// Whole batches at any byte from `at` on, with where each begins.
struct Behind<'a> {
    file: &'a [u8],
    at: usize,
    seqno: Option<u64>,
    cost: Cost,
}

impl<'a> Behind<'a> {
    fn new(file: &'a [u8], at: usize, seqno: Option<u64>) -> Self {
        let file = file.get(..content_len(file)).unwrap_or_default();
        Self { file, at, seqno, cost: Cost::default() }
    }
}

impl Iterator for Behind<'_> {
    type Item = (usize, Batch);

    fn next(&mut self) -> Option<(usize, Batch)> {
        while !self.cost.is_too_much(self.file) {
            let rest = self.file.get(self.at..).filter(|rest| !rest.is_empty())?;
            // A number that is a little off does no harm: what batches change has keys of its own.
            match batch(rest, &mut self.cost).filter(|batch| batch.is_near(self.seqno)) {
                Some(batch) => {
                    let begin = self.at;
                    (self.at, self.seqno) = (begin + batch.len, Some(batch.seqno));
                    return Some((begin, batch));
                }
                None => self.at += 1,
            }
        }
        None
    }
}

/// Bytes up to the zeros at the end of the file.
fn content_len(file: &[u8]) -> usize {
    const ZEROS: [u8; 4_096] = [0; 4_096];
    let is_content = |chunk: &[u8]| ZEROS.get(..chunk.len()) != Some(chunk);
    let mut chunks = file.chunks(ZEROS.len()).enumerate().rev();
    let Some((index, chunk)) = chunks.find(|(_, chunk)| is_content(chunk)) else { return 0 };
    index * ZEROS.len() + chunk.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Whether what lies at `at` was never completely written or was damaged later. Where whole batches follow, from `next` on,
/// only a hole of unwritten sectors proves the former: nothing behind it was synced then.
fn judge(file: &[u8], at: usize, next: Option<usize>) -> Verdict {
    let Some(next) = next else { return Verdict::Torn };
    let hole = file.get(at.next_multiple_of(SECTOR_BYTES)..next).unwrap_or_default();
    let is_empty = |sector: &[u8]| sector.len() == SECTOR_BYTES && sector.iter().all(|byte| *byte == 0);
    if hole.chunks(SECTOR_BYTES).any(is_empty) { Verdict::Torn } else { Verdict::Damaged }
}

/// A whole batch.
struct Batch {
    len: usize,
    seqno: u64,
    /// The last group of the log that was applied with it.
    applied: Option<u64>,
}

/// By how much the numbers of two batches may differ; what differs more is damage, which no checksum covers here.
const SEQNO_STEP_MAX: u64 = 1 << 20;

impl Batch {
    fn follows(&self, seqno: Option<u64>) -> bool {
        self.is_near(seqno) && seqno.is_none_or(|before| self.seqno > before)
    }

    fn is_near(&self, seqno: Option<u64>) -> bool {
        seqno.is_none_or(|before| self.seqno.abs_diff(before) <= SEQNO_STEP_MAX)
    }
}

/// The batch that `bytes` begin with, when it is whole.
fn batch(bytes: &[u8], cost: &mut Cost) -> Option<Batch> {
    let [1, bytes @ ..] = bytes else { return None };
    let (items, bytes) = bytes.split_first_chunk::<4>()?;
    let (seqno, body) = bytes.split_first_chunk::<8>()?;
    let (items, seqno) = (u32::from_le_bytes(*items), u64::from_le_bytes(*seqno));
    let (mut len, mut applied) = (0, None);
    for _ in 0..items {
        let item = body.get(len..)?;
        let item_len = item_len(item)?;
        cost.0 += ITEM_HEAD_BYTES;
        applied = item.get(..item_len).and_then(applied_of).or(applied);
        len += item_len;
    }
    let (content, end) = body.split_at_checked(len)?;
    let [3, end @ ..] = end else { return None };
    let (checksum, end) = end.split_first_chunk::<8>()?;
    if !end.starts_with(TRAILER) {
        return None;
    }
    cost.0 += len;
    (u64::from_le_bytes(*checksum) == xxh3_64(content)).then_some(Batch {
        len: 13 + len + 9 + TRAILER.len(),
        seqno,
        applied,
    })
}

const ITEM_HEAD_BYTES: usize = 21;

fn item_len(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [4, ..] => Some(9),
        [2, _, 0 | 1, head @ ..] => {
            let (key, head) = head.get(8..)?.split_first_chunk::<2>()?;
            let (stored, _) = head.get(4..)?.split_first_chunk::<4>()?;
            let stored = usize::try_from(u32::from_le_bytes(*stored)).ok()?;
            Some(ITEM_HEAD_BYTES + usize::from(u16::from_le_bytes(*key)) + stored)
        }
        _ => None,
    }
}

/// The group of the log that an item says was applied. Values this short are not compressed.
fn applied_of(item: &[u8]) -> Option<u64> {
    let (key, value) = item.get(ITEM_HEAD_BYTES..)?.split_at_checked(1)?;
    if key != [key::APPLIED] || item.get(11..13) != Some(&1_u16.to_le_bytes()) {
        return None;
    }
    record::parse_number(key, value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of one record.
    fn whole(seqno: u64, value: &[u8]) -> Vec<u8> {
        let mut item = vec![2, 0, 0];
        item.extend_from_slice(&1_u64.to_le_bytes());
        item.extend_from_slice(&1_u16.to_le_bytes());
        let len = u32::try_from(value.len()).unwrap().to_le_bytes();
        item.extend([len, len].concat());
        item.push(b'k');
        item.extend_from_slice(value);
        let mut batch = vec![1];
        batch.extend_from_slice(&1_u32.to_le_bytes());
        batch.extend_from_slice(&seqno.to_le_bytes());
        batch.extend_from_slice(&item);
        batch.push(3);
        batch.extend_from_slice(&xxh3_64(&item).to_le_bytes());
        batch.extend_from_slice(TRAILER);
        batch
    }

    #[test]
    fn bytes_that_a_client_sends_cost_no_more_than_others() {
        // Each of these is an item, and the begin of a batch of very many.
        let payload = [4, 9, 9, 9, 9, 1, 0xff, 0xff, 0xff].repeat(30_000);
        let mut file = whole(1, b"x");
        let kept = file.len();
        // Their batch was not completely written.
        file.extend(whole(2, &payload).into_iter().skip(1));
        file.extend(whole(3, b"x"));
        let mut behind = Behind::new(&file, kept, Some(1));
        behind.by_ref().for_each(drop);
        assert!(behind.cost.0 < 20 * file.len(), "{}", behind.cost.0);
        let found = scan(&file);
        assert_eq!((found.batches, found.whole_bytes, found.is_searched), (1, kept, false));
        assert_eq!(found.verdict, Verdict::Torn, "the log decides");
    }

    #[test]
    fn what_follows_damage_is_found() {
        let mut file = whole(1, b"x");
        let kept = file.len();
        file.extend(whole(2, b"y").into_iter().skip(1));
        let next = file.len();
        file.extend(whole(3, b"z"));
        let found = scan(&file);
        assert_eq!((found.verdict, found.whole_bytes, found.is_searched), (Verdict::Damaged, kept, true));
        assert_eq!(salvage(&file), [0..kept, next..file.len()]);
    }
}
