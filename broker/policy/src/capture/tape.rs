//! The lines of a capture as they lie in memory: one tape for each worker, read together in the order of the lines.
//!
//! A tape has its own lock, which its worker holds to append a line and a reader to share what is there, which takes no
//! longer. What a reader was given stays as it is, whatever becomes of the capture.

use crate::binding::lock;
use crate::limits::{CAPTURE_CHUNK_BYTES, CAPTURE_LINE_BYTES_MAX, CAPTURE_PIECE_BYTES};
use serde::Serialize;
use std::sync::{Arc, Mutex};

/// The lines of one worker.
#[derive(Debug, Default)]
pub(crate) struct Tape(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    /// What is no longer appended to.
    full: Vec<Arc<Chunk>>,
    open: Chunk,
    /// Nothing is kept any more.
    is_closed: bool,
}

/// Lines behind one another, each with its number and where it ends.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    lines: Vec<(u64, usize)>,
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Appended {
    Kept,
    TooLarge,
    NoRoom,
    Closed,
}

impl Tape {
    /// Appends a record as one line, unless there is no room for that many bytes: `place` answers the line's place among
    /// those of all workers. It is asked under the lock, so that the lines of a tape are in order.
    pub(crate) fn append(&self, record: &impl Serialize, place: impl FnOnce(u64) -> Option<u64>) -> Appended {
        let mut lines = lock(&self.0);
        if lines.is_closed {
            return Appended::Closed;
        }
        let open = &mut lines.open;
        let before = open.bytes.len();
        let written = serde_json::to_writer(&mut open.bytes, record);
        let len = open.bytes.len() - before + 1;
        if written.is_err() || len > CAPTURE_LINE_BYTES_MAX {
            open.bytes.truncate(before);
            return Appended::TooLarge;
        }
        let Some(number) = place(len as u64) else {
            open.bytes.truncate(before);
            return Appended::NoRoom;
        };
        open.bytes.push(b'\n');
        open.lines.push((number, open.bytes.len()));
        if open.bytes.len() >= CAPTURE_CHUNK_BYTES {
            lines.seal();
        }
        Appended::Kept
    }

    /// What is there now.
    fn share(&self) -> Vec<Arc<Chunk>> {
        let mut lines = lock(&self.0);
        lines.seal();
        lines.full.clone()
    }

    /// Frees everything, and takes no more.
    pub(crate) fn close(&self) {
        let gone = {
            let mut lines = lock(&self.0);
            std::mem::replace(&mut *lines, Lines { is_closed: true, ..Lines::default() })
        };
        drop(gone);
    }
}

impl Lines {
    fn seal(&mut self) {
        if self.open.lines.is_empty() {
            return;
        }
        let mut chunk = std::mem::take(&mut self.open);
        if chunk.bytes.len() < chunk.bytes.capacity() / 2 {
            chunk.bytes.shrink_to_fit();
            chunk.lines.shrink_to_fit();
        }
        self.full.push(Arc::new(chunk));
    }
}

/// The lines of several tapes in their order, in pieces of some size.
#[derive(Debug)]
pub(crate) struct Reader {
    tapes: Vec<Cursor>,
}

#[derive(Debug)]
struct Cursor {
    chunks: std::vec::IntoIter<Arc<Chunk>>,
    current: Option<Arc<Chunk>>,
    line: usize,
}

impl Reader {
    pub(crate) fn new<'a>(tapes: impl IntoIterator<Item = &'a Tape>) -> Self {
        let cursor = |tape: &Tape| {
            let mut chunks = tape.share().into_iter();
            Cursor { current: chunks.next(), chunks, line: 0 }
        };
        Self { tapes: tapes.into_iter().map(cursor).collect() }
    }
}

impl Iterator for Reader {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        while piece.len() < CAPTURE_PIECE_BYTES {
            let next = self.tapes.iter_mut().filter_map(|tape| tape.number().map(|number| (number, tape)));
            let Some((_, tape)) = next.min_by_key(|(number, _)| *number) else { break };
            tape.copy_line(&mut piece);
        }
        (!piece.is_empty()).then_some(piece)
    }
}

impl Cursor {
    /// The number of the next line.
    fn number(&self) -> Option<u64> {
        self.current.as_ref()?.lines.get(self.line).map(|&(number, _)| number)
    }

    fn copy_line(&mut self, out: &mut Vec<u8>) {
        let Some(chunk) = &self.current else { return };
        let end_of = |line: usize| chunk.lines.get(line).map_or(0, |&(_, end)| end);
        let start = self.line.checked_sub(1).map_or(0, end_of);
        out.extend_from_slice(chunk.bytes.get(start..end_of(self.line)).unwrap_or_default());
        self.line += 1;
        if self.line >= chunk.lines.len() {
            self.current = self.chunks.next();
            self.line = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tapes: &[Tape]) -> String {
        Reader::new(tapes).map(|piece| String::from_utf8(piece).unwrap()).collect()
    }

    #[test]
    fn lines_of_several_workers_come_in_their_order() {
        let tapes = [Tape::default(), Tape::default(), Tape::default()];
        let mut expected = String::new();
        for number in 0..10_000_u64 {
            let worker = usize::try_from(number * number % 3).unwrap();
            let line = format!("{number} {}", "x".repeat(100));
            let place = |len| (len == line.len() as u64 + 3).then_some(number);
            assert_eq!(tapes[worker].append(&line, place), Appended::Kept);
            expected += &format!("\"{line}\"\n");
        }
        let reader = Reader::new(&tapes);
        assert!(reader.tapes.iter().take(2).all(|tape| tape.chunks.len() > 0), "several chunks");
        assert_eq!(text(&tapes), expected);
        assert_eq!(text(&tapes), expected, "reading takes nothing away");
        assert!(Reader::new(&tapes).all(|piece| piece.len() < CAPTURE_PIECE_BYTES + 200));
    }

    #[test]
    fn a_line_that_is_too_long_or_has_no_room_leaves_nothing() {
        let tape = Tape::default();
        tape.append(&1, |_| Some(0));
        let long = "x".repeat(CAPTURE_LINE_BYTES_MAX);
        assert_eq!(tape.append(&long, |_| panic!("it has no place")), Appended::TooLarge);
        assert_eq!(tape.append(&3, |_| None), Appended::NoRoom);
        tape.append(&2, |_| Some(1));
        assert_eq!(text(&[tape]), "1\n2\n");
    }

    #[test]
    fn a_closed_tape_keeps_nothing_and_a_reader_what_it_has() {
        let tapes = [Tape::default()];
        tapes[0].append(&1, |_| Some(0));
        let reader = Reader::new(&tapes);
        tapes[0].close();
        assert_eq!(tapes[0].append(&2, |_| Some(1)), Appended::Closed);
        assert_eq!(text(&tapes), "");
        assert_eq!(reader.map(|piece| piece.len()).sum::<usize>(), 2);
    }
}
