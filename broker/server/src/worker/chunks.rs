//! What a stream of QUIC is handed in one write: shared segments as they are, and what is small copied together.
//!
//! quinn holds what it is handed until the peer has acknowledged it. A segment that many connections get is in memory
//! once for all of them, as it is in their queues.

use super::segment::Shared;
use bytes::Bytes;
use std::io;
use waspmq_core::outbound::{Piece, Queue};
use waspmq_transport::quic::Channel;

/// From so many bytes on a segment is shared. Below, a copy is cheaper than a reference.
const SHARED_FROM_BYTES: usize = 1024;
/// A longer segment is copied: a peer that leaves a little of it unacknowledged would hold all of it.
const SHARED_UPTO_BYTES: usize = 256 * 1024;
/// Bytes copied for one write, which are copied again if the window does not take them.
const COPY_BYTES: usize = 16 * 1024;
/// Chunks of one write.
const CHUNKS: usize = 64;
/// Bytes after which a write begins.
const WRITE_BYTES: usize = 64 * 1024;

/// Chunks of the write that is made, and the copies that become one.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: Vec<Bytes>,
    scratch: Vec<u8>,
}

impl Chunks {
    /// Hands a stream what it takes of a queue; gives how many bytes.
    ///
    /// # Errors
    /// As [`Channel::try_write_chunks`].
    pub(super) fn write(&mut self, channel: &Channel, out: &Queue<Shared>) -> io::Result<usize> {
        self.gather(out);
        let written = channel.try_write_chunks(&mut self.chunks);
        // What was not taken is still in the queue.
        self.chunks.clear();
        written
    }

    fn gather(&mut self, out: &Queue<Shared>) {
        let (mut gathered, mut copied) = (0, 0);
        for Piece { bytes, segment } in out.owned_pieces(usize::MAX) {
            if self.chunks.len() >= CHUNKS || gathered >= WRITE_BYTES {
                break;
            }
            if let Some(segment) = segment.filter(|segment| is_shared(segment, bytes)) {
                self.end_copy();
                self.chunks.push(segment.bytes().slice_ref(bytes));
                gathered += bytes.len();
                continue;
            }
            let taken = bytes.get(..COPY_BYTES - copied).unwrap_or(bytes);
            self.scratch.extend_from_slice(taken);
            copied += taken.len();
            gathered += taken.len();
            if taken.len() < bytes.len() {
                break;
            }
        }
        self.end_copy();
    }

    fn end_copy(&mut self) {
        if !self.scratch.is_empty() {
            self.chunks.push(Bytes::copy_from_slice(&self.scratch));
            self.scratch.clear();
        }
    }
}

/// Whether what is left of a segment is handed on as it is.
fn is_shared(segment: &Shared, rest: &[u8]) -> bool {
    rest.len() >= SHARED_FROM_BYTES && segment.len() <= SHARED_UPTO_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(queue: &mut Queue<Shared>, bytes: usize) -> Shared {
        let fill = u8::try_from(queue.len()).unwrap();
        let segment = Shared::of_dictionary(vec![fill; bytes]);
        queue.push_bare(segment.clone());
        segment
    }

    fn gathered(queue: &Queue<Shared>) -> Vec<Bytes> {
        let mut chunks = Chunks::default();
        chunks.gather(queue);
        assert!(chunks.scratch.is_empty());
        // Whatever is cut off, nothing is left out or moved.
        let (all, wanted) = (chunks.chunks.concat(), queue.pieces(usize::MAX).collect::<Vec<_>>().concat());
        assert!(all[..] == wanted[..all.len()]);
        chunks.chunks
    }

    #[test]
    fn large_segments_are_the_memory_that_others_have_and_what_is_small_is_one_copy() {
        let mut queue = Queue::default();
        queue.push_own(b"welcome");
        segment(&mut queue, 100);
        let first = segment(&mut queue, SHARED_FROM_BYTES);
        let second = segment(&mut queue, 20_000);
        segment(&mut queue, SHARED_FROM_BYTES - 1);
        queue.push_own(b"receipt");
        let chunks = gathered(&queue);
        let lengths: Vec<_> = chunks.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [107, SHARED_FROM_BYTES, 20_000, SHARED_FROM_BYTES - 1 + 7]);
        assert_eq!((chunks[1].as_ptr(), chunks[2].as_ptr()), (first.as_ptr(), second.as_ptr()));
        // A part was written, which ends within the second segment.
        queue.handle_written(107 + SHARED_FROM_BYTES + 5_000).for_each(drop);
        let chunks = gathered(&queue);
        assert_eq!((chunks[0].as_ptr(), chunks[0].len()), (second[5_000..].as_ptr(), 15_000));
    }

    #[test]
    fn a_write_is_bounded_however_long_the_queue_is() {
        let mut queue = Queue::default();
        (0..100).for_each(|_| drop(segment(&mut queue, SHARED_FROM_BYTES)));
        assert_eq!(gathered(&queue).len(), CHUNKS);
        let mut queue = Queue::default();
        (0..100).for_each(|_| drop(segment(&mut queue, 20_000)));
        assert_eq!(gathered(&queue).len(), 4);
        let mut queue = Queue::default();
        let long = segment(&mut queue, SHARED_UPTO_BYTES + 1);
        let chunks = gathered(&queue);
        assert_eq!((chunks.len(), chunks[0].len()), (1, COPY_BYTES));
        assert_ne!(chunks[0].as_ptr(), long.as_ptr(), "who leaves a little of it does not hold all of it");
        let mut queue = Queue::default();
        queue.push_own(&[7; 3 * COPY_BYTES]);
        assert_eq!(gathered(&queue).concat().len(), COPY_BYTES);
    }
}
