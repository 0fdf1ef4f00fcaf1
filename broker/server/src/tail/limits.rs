//! Every bound of tails, with what happens when it is reached.

use std::time::Duration;

/// Tails at once. More: 503.
pub const TAILS_MAX: usize = 8;

/// Patterns of one tail. More: 400.
pub const PATTERNS_MAX: usize = 64;

/// Entries that wait for one tail's reader; consecutive messages of one session to one address are one entry. More: they are
/// dropped, and the reader is told how many.
pub const QUEUE_ENTRIES_MAX: usize = 4 * 1024;

/// Bytes of the entries that wait for one tail's reader, and one entry more of each worker. More: as above.
pub const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of a payload that are shown. More: the message says that there is more.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes of events from which a piece of them is handed out.
pub const PIECE_BYTES: usize = 16 * 1024;

/// How long nothing is said: then it is said that the tail lives.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);
