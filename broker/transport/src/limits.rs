//! The bounds of this crate: what one connection may make the broker hold or do before it is a session.
//!
//! The size of a message is a bound of the domain and comes from `waspmq_core::limits`.

/// Bytes of a request head, from the method to the empty line. Longer: 431 and the connection is closed.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Header lines of a request. More: 431 and the connection is closed.
pub const HEADERS_MAX: usize = 64;

/// Fragments of one WebSocket message. More: close code 1008. Bounds the work that one message can cost when its
/// fragments are empty, which the limit of its bytes does not.
pub const FRAGMENTS_MAX: u32 = 1_024;

/// Control frames between the first and the last fragment of one message. More: close code 1008. Outside a
/// fragmented message, control frames are events like any other and fall under the session's rate.
pub const CONTROL_FRAMES_MAX: u32 = 1_024;

/// Bytes of a control frame's payload (RFC 6455, 5.5). More: close code 1002.
pub const CONTROL_BYTES_MAX: usize = 125;

const _: () = assert!(CONTROL_BYTES_MAX < 126, "a control frame's length has no extended form");
