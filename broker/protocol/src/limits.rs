//! Bounds of the encoding itself. Those of the domain (names, headers, payloads) are in [`waspmq_core::limits`].

/// Bytes a control frame may claim while its body is decoded. More: `invalid_frame`. Costs at most this much
/// memory per frame, whatever lengths the frame pretends to have.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;

/// Entries of any list in a frame: codecs, positions, ids, users. More: `invalid_frame`.
pub const LIST_ITEMS_MAX: usize = 1_024;

/// Messages of one history answer. A page of this many says `more` when there are more.
pub const HISTORY_MESSAGES_MAX: usize = 1_000;

/// Bytes of the encoded messages of one history answer, behind which the broker ends a page and says `more`; a page
/// is longer by at most one message. Clients take WebSocket messages of this size and that of a message.
pub const HISTORY_BYTES_MAX: usize = 1024 * 1024;

/// Users of one presence answer. More: the rest is left out and the answer says `more`.
pub const PRESENCE_USERS_MAX: usize = 1_000;

/// Bytes a presence answer may claim while its body is decoded: it holds a full list of the longest names.
pub const PRESENCE_BYTES_MAX: usize = 512 * 1024;

/// Unread messages that are counted. More: this number, which then means "at least".
pub const UNREAD_MAX: u32 = 1_000;

/// Bad frames in one WebSocket message, after which the rest of that message is not read: each is answered
/// by an error frame that is longer than the shortest bad frame.
pub const BAD_FRAMES_MAX: usize = 16;

/// Bytes of an error text made here. Longer: cut, because such a text may quote what the peer sent.
pub const ERROR_TEXT_BYTES_MAX: usize = 200;

/// Bytes of an unknown frame type that an error quotes. Longer: cut.
pub const TYPE_NAME_BYTES_MAX: usize = 64;

const _: () =
    assert!(LIST_ITEMS_MAX * size_of::<&str>() <= CONTROL_BYTES_MAX, "a full list must be decodable");
const _: () = assert!(
    PRESENCE_USERS_MAX * (waspmq_core::limits::NAME_BYTES_MAX + 128) <= PRESENCE_BYTES_MAX,
    "a full list must be decodable"
);
const _: () =
    assert!(waspmq_core::limits::JSON_DEPTH_MAX <= 64, "open containers are one bit each of a word");
const _: () =
    assert!(waspmq_core::limits::HEADER_BYTES_MAX <= u16::MAX as usize, "headers have 16-bit lengths");
const _: () = assert!(waspmq_core::limits::KEY_BYTES_MAX <= u16::MAX as usize, "keys have 16-bit lengths");
