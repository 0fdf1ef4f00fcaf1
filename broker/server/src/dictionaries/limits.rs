//! Every bound of dictionaries, with what happens when it is reached. How large one may be is the protocol's.

/// Bytes of a dictionary's name, of a-z, 0-9, '-', '_' and '.'. More: 400.
pub const NAME_BYTES_MAX: usize = 64;

/// Names. More: 507.
pub const NAMES_MAX: usize = 64;

/// Revisions kept of one name, each with its bytes and its tables. More: the oldest one goes.
pub const REVISIONS_KEPT: usize = 4;

/// Patterns of one revision. More: 400.
pub const PATTERNS_MAX: usize = 64;
