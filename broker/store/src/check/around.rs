//! Reads a range of a keyspace around the blocks that cannot be read.
//!
//! fjall reads ahead: where it meets a damaged block, the last records in front of it are lost with the error, and the iterator
//! passes over everything else of that table. So the range is read again in parts:
//!
//! ```text
//! … record record record │ damaged block │ record …
//!   start         edge                     next
//! ```
//! A range meets the block when it ends at the `edge`, the last key in front of it, or behind that; so the edge is the smallest such
//! key, what lies before it is read as a range, and itself alone. An iterator that begins behind the edge gives one error for
//! the block and goes on. Where another error follows at once, records between the two may be lost with it: then it is
//! begun anew at the `next` key, the smallest at which a range shows more than the first error. Both keys are found byte by byte.
//!
//! Invariant: each round begins behind the one before. Not here: what is done with the records.

use fjall::Keyspace;

/// Keys are shorter.
const KEY_BYTES_MAX: usize = 2_048;
/// No key has so many bytes 255 in a row.
const LAST: [u8; 64] = [u8::MAX; 64];
/// Errors in a row of an iterator that gets no further. More: the rest of the range is not read.
const ERRORS_MAX: usize = 65_536;

/// What a range consists of.
pub(super) enum Part<'a> {
    Record(&'a [u8], &'a [u8]),
    /// Behind this key, something cannot be read.
    Damaged(&'a [u8]),
}

type Each<'a> = &'a mut dyn FnMut(Part<'_>) -> fjall::Result<()>;

/// Gives every record of a range that can be read, in order, and where something cannot be.
pub(super) fn read(space: &Keyspace, (from, to): (&[u8], &[u8]), each: Each<'_>) -> fjall::Result<()> {
    if from >= to {
        return Ok(());
    }
    let mut range = Range { space, start: from.to_vec(), front: from.to_vec(), to };
    let mut records = space.range(from..to);
    while range.read_on(&mut records, each)? {
        range.read_to_edge(each)?;
        match range.pass_block(each)? {
            Some(rest) => records = rest,
            None => break,
        }
    }
    Ok(())
}

struct Range<'a> {
    space: &'a Keyspace,
    /// What lies before has been read.
    start: Vec<u8>,
    /// The last record before, or where the range began.
    front: Vec<u8>,
    /// Its end.
    to: &'a [u8],
}

impl Range<'_> {
    /// Reads up to the next error; false at the end.
    fn read_on(&mut self, records: &mut fjall::Iter, each: Each<'_>) -> fjall::Result<bool> {
        for guard in records {
            let Ok((key, value)) = guard.into_inner() else { return Ok(*self.start < *self.to) };
            self.take(&key, &value, each)?;
        }
        Ok(false)
    }

    fn take(&mut self, key: &[u8], value: &[u8], each: Each<'_>) -> fjall::Result<()> {
        each(Part::Record(key, value))?;
        self.start = behind(key);
        self.front = key.to_vec();
        Ok(())
    }

    /// Reads what lies in front of a damaged block.
    fn read_to_edge(&mut self, each: Each<'_>) -> fjall::Result<()> {
        let Some(edge) = self.smallest(|key| self.meet(key).0 > 0) else {
            return each(Part::Damaged(&self.front));
        };
        let before = before(&edge);
        if before >= self.start {
            for guard in self.space.range(&*self.start.clone()..=&*before) {
                let Ok((key, value)) = guard.into_inner() else { break };
                self.take(&key, &value, each)?;
            }
        }
        self.take_alone(edge, each)?;
        each(Part::Damaged(&self.front))
    }

    /// Goes on behind a damaged block with which the range begins. `None` where nothing follows.
    fn pass_block(&mut self, each: Each<'_>) -> fjall::Result<Option<fjall::Iter>> {
        let mut rest = self.space.range(&*self.start..self.to);
        for errors in 0..ERRORS_MAX {
            let Some(guard) = rest.next() else { return Ok(None) };
            if let Ok((key, value)) = guard.into_inner() {
                self.take(&key, &value, each)?;
                return Ok(Some(rest));
            }
            if errors == 1
                && let Some(next) = self.smallest(|key| self.meet(key) > (1, false))
                && next > self.start
            {
                self.take_alone(next, each)?;
                return Ok(Some(self.space.range(&*self.start..self.to)));
            }
        }
        Ok(None)
    }

    /// Reads one key, if there is a record.
    fn take_alone(&mut self, key: Vec<u8>, each: Each<'_>) -> fjall::Result<()> {
        if let Ok(Some(value)) = self.space.get(&key) {
            return self.take(&key, &value, each);
        }
        self.start = behind(&key);
        Ok(())
    }

    /// What the range shows up to a key: errors, up to two, and whether there are records.
    fn meet(&self, upto: &[u8]) -> (usize, bool) {
        let (mut errors, mut has_records) = (0, false);
        for guard in self.space.range(&*self.start..=upto) {
            match guard.into_inner() {
                Ok(_) => has_records = true,
                Err(_) => errors += 1,
            }
            if errors > 1 {
                break;
            }
        }
        (errors, has_records)
    }

    /// The smallest key of the range for which something holds that holds for all larger ones, too.
    fn smallest(&self, holds: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let holds = |key: &[u8]| *key >= *self.start && (key >= self.to || holds(key));
        let same = self.start.iter().zip(self.to).take_while(|(of_start, of_end)| of_start == of_end).count();
        let mut key: Vec<u8> = self.start.iter().copied().take(same).collect();
        while !holds(&key) {
            if key.len() >= KEY_BYTES_MAX {
                return None;
            }
            let reaches = |byte: u8| holds(&[&*key, &[byte], &LAST].concat());
            let (mut low, mut high) = (0, u8::MAX);
            while low < high {
                let middle = low + (high - low) / 2;
                if reaches(middle) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            key.push(low);
        }
        Some(key).filter(|key| **key < *self.to)
    }
}

/// The first key behind one.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A key before one, with no record in between.
fn before(key: &[u8]) -> Vec<u8> {
    match key.split_last() {
        Some((0, rest)) => rest.to_vec(),
        Some((last, rest)) => [rest, &[last - 1], &LAST].concat(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
