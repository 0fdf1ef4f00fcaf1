//! Bounds of the encoding itself. Those of the domain (names, headers, payloads) are in [`waspmq_core::limits`].

/// Bytes a control frame may claim while its body is decoded. More: `invalid_frame`. Costs at most this much
/// memory per frame, whatever lengths the frame pretends to have.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Entries of any list in a frame: codecs, positions, ids, users. More: `invalid_frame`.
pub const LIST_ITEMS_MAX: usize = 1_024;

/// Bad frames in one WebSocket message, after which the rest of that message is not read: each is answered
/// by an error frame that is longer than the shortest bad frame.
pub const BAD_FRAMES_MAX: usize = 16;

/// Bytes of an error text made here. Longer: cut, because such a text may quote what the peer sent.
pub const ERROR_TEXT_BYTES_MAX: usize = 200;

/// Bytes of an unknown frame type that an error quotes. Longer: cut.
pub const TYPE_NAME_BYTES_MAX: usize = 64;

const _: () =
    assert!(LIST_ITEMS_MAX * size_of::<&str>() <= CONTROL_BYTES_MAX, "a full list must be decodable");
const _: () =
    assert!(waspmq_core::limits::JSON_DEPTH_MAX <= 64, "open containers are one bit each of a word");
const _: () =
    assert!(waspmq_core::limits::HEADER_BYTES_MAX <= u16::MAX as usize, "headers have 16-bit lengths");
const _: () = assert!(waspmq_core::limits::KEY_BYTES_MAX <= u16::MAX as usize, "keys have 16-bit lengths");
