//! Bodies of binary control frames: one struct per frame and body version, encoded by bincode 2.
//!
//! The order of fields is the format; a new field is appended and optional, and an older reader skips it as
//! trailing bytes. A change that is not an append is a new struct and a new body version. Every read has a
//! limit, so a length that lies is refused before memory is taken for it.
//! In all client bodies but `connect` the reference comes first: it can be read when the rest cannot.

use crate::error::Problem;
use crate::limits::{CONTROL_BYTES_MAX, PRESENCE_BYTES_MAX};
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::error::DecodeError as DecodeFault;
use bincode::{BorrowDecode, Encode};

const CONFIG: Configuration<LittleEndian, Varint, Limit<CONTROL_BYTES_MAX>> =
    bincode::config::standard().with_limit::<CONTROL_BYTES_MAX>();

/// Reads a body and skips what a later minor revision may have appended.
pub(crate) fn read<'a, T: BorrowDecode<'a, ()>>(body: &'a [u8]) -> Result<T, Problem> {
    read_front(body).map(|(value, _rest)| value)
}

/// What is wrong with a body, in the words of the protocol.
fn unreadable(error: &DecodeFault) -> Problem {
    Problem::invalid(match error {
        DecodeFault::UnexpectedEnd { .. } => "the body ends within its fields",
        DecodeFault::LimitExceeded => "the body has more bytes of fields than it may have",
        DecodeFault::Utf8 { .. } => "a text of the body is not UTF-8",
        DecodeFault::InvalidBooleanValue(_) => "a byte of the body that says yes or no is neither 1 nor 0",
        DecodeFault::UnexpectedVariant { .. } => {
            "a byte of the body that says whether a field is there is neither 1 nor 0"
        }
        _ => "a field of the body has a value that it cannot have",
    })
}

/// [`read`], with the bytes behind the known fields.
pub(crate) fn read_front<'a, T: BorrowDecode<'a, ()>>(body: &'a [u8]) -> Result<(T, &'a [u8]), Problem> {
    match bincode::borrow_decode_from_slice(body, CONFIG) {
        Ok((value, consumed)) => Ok((value, body.get(consumed..).unwrap_or_default())),
        Err(error) => Err(unreadable(&error)),
    }
}

/// [`read_front`] of fields that an earlier minor revision did not have.
pub(crate) fn read_appended<'a, T: BorrowDecode<'a, ()> + Default>(
    body: &'a [u8],
) -> Result<(T, &'a [u8]), Problem> {
    if body.is_empty() { Ok((T::default(), body)) } else { read_front(body) }
}

/// [`read`] for the one body that may be longer than the others.
pub(crate) fn read_present(body: &[u8]) -> Result<PresentV1<'_>, Problem> {
    let config = CONFIG.with_limit::<PRESENCE_BYTES_MAX>();
    match bincode::borrow_decode_from_slice(body, config) {
        Ok((value, _consumed)) => Ok(value),
        Err(error) => Err(unreadable(&error)),
    }
}

/// The reference of a body that could not be read as a whole.
pub(crate) fn read_reference(body: &[u8]) -> Option<u64> {
    read::<Option<u64>>(body).ok().flatten()
}

/// Appends a body.
#[expect(
    clippy::expect_used,
    reason = "plain structs of numbers and text written to a Vec have no way to fail"
)]
pub(crate) fn write(body: impl Encode, out: &mut Vec<u8>) {
    bincode::encode_into_std_write(body, out, CONFIG).expect("writing to a Vec does not fail");
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct ConnectV1<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) device: Option<&'a str>,
    pub(crate) token: Option<&'a str>,
    pub(crate) codecs: Vec<&'a str>,
    pub(crate) batch: bool,
    pub(crate) resume: Option<ResumeV1<'a>>,
}

/// Appended to [`ConnectV1`]; not there when the client is older.
#[derive(Encode, BorrowDecode, Default)]
pub(crate) struct ConnectMoreV1 {
    pub(crate) datagrams: bool,
}

/// Appended behind [`ConnectMoreV1`]; not there when the client is older.
#[derive(Encode, BorrowDecode, Default)]
pub(crate) struct ConnectMoreV2 {
    pub(crate) streams: bool,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct ResumeV1<'a> {
    pub(crate) token: &'a str,
    /// In text form.
    pub(crate) positions: Vec<&'a str>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct SubscribeV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) to: &'a str,
    pub(crate) queue: Option<&'a str>,
    pub(crate) from: Option<&'a str>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct UnsubscribeV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) to: &'a str,
    pub(crate) queue: Option<&'a str>,
}

/// `join` and `leave`.
#[derive(Encode, BorrowDecode)]
pub(crate) struct MembershipV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) group: &'a str,
}

/// Either `ids`, or `to` with `upto`.
#[derive(Encode, BorrowDecode)]
pub(crate) struct AckV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) ids: Vec<[u8; 16]>,
    pub(crate) to: Option<&'a str>,
    pub(crate) upto: Option<&'a str>,
    pub(crate) queue: Option<&'a str>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct NackV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) id: [u8; 16],
    pub(crate) queue: Option<&'a str>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) retry_ms: Option<u64>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct HistoryV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) of: &'a str,
    pub(crate) after: Option<&'a str>,
    pub(crate) limit: Option<u32>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct ReadV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) of: &'a str,
    pub(crate) upto: &'a str,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct PresenceV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) of: &'a str,
}

/// Appended to [`PresenceV1`]; not there when the client is older.
#[derive(Encode, BorrowDecode)]
pub(crate) struct PresenceMoreV1<'a> {
    pub(crate) after: Option<&'a str>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct WatchV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) users: Vec<&'a str>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct RefreshV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) token: &'a str,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct WelcomeV1<'a> {
    pub(crate) session: &'a str,
    pub(crate) resume_token: Option<&'a str>,
    pub(crate) node: &'a str,
    pub(crate) resumed: bool,
    pub(crate) recovered: bool,
    pub(crate) heartbeat_ms: u32,
    pub(crate) max_message_bytes: u32,
}

/// Appended to [`WelcomeV1`]; not there when the broker is older.
#[derive(Encode, BorrowDecode)]
pub(crate) struct WelcomeMoreV1<'a> {
    pub(crate) codecs: Vec<&'a str>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct ReceiptV1 {
    pub(crate) reference: u64,
    pub(crate) id: [u8; 16],
    pub(crate) level: u8,
    pub(crate) recipients: u32,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct OkV1 {
    pub(crate) reference: Option<u64>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct ErrorV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) code: u16,
    pub(crate) name: &'a str,
    pub(crate) message: &'a str,
    pub(crate) retry_ms: u32,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct OverflowV1<'a> {
    pub(crate) to: &'a str,
    pub(crate) dropped: u64,
}

/// Appended to [`OverflowV1`]; not there when the broker is older.
#[derive(Encode, BorrowDecode)]
pub(crate) struct OverflowMoreV1<'a> {
    pub(crate) action: Option<&'a str>,
}

/// Presence from the broker. With `of` an answer; without it an event, which has exactly one user and no count of
/// sessions.
#[derive(Encode, BorrowDecode)]
pub(crate) struct PresentV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) of: Option<&'a str>,
    pub(crate) users: Vec<PresentUserV1<'a>>,
    pub(crate) more: bool,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct PresentUserV1<'a> {
    pub(crate) user: &'a str,
    pub(crate) online: bool,
    pub(crate) sessions: u32,
    pub(crate) last_seen: Option<u64>,
    pub(crate) seq: u64,
}

/// A history answer. The last `messages_bytes` bytes of the body are whole message frames, so what a later
/// revision appends to these fields lies between the two.
#[derive(Encode, BorrowDecode)]
pub(crate) struct PageV1<'a> {
    pub(crate) reference: Option<u64>,
    pub(crate) of: &'a str,
    pub(crate) more: bool,
    pub(crate) gap: bool,
    pub(crate) unread: Option<u32>,
    pub(crate) messages_bytes: u32,
}

/// A read mark that another session of the user has set.
#[derive(Encode, BorrowDecode)]
pub(crate) struct MarkV1<'a> {
    pub(crate) of: &'a str,
    pub(crate) upto: &'a str,
    pub(crate) unread: Option<u32>,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct GoawayV1<'a> {
    pub(crate) reason: &'a str,
    pub(crate) reconnect_ms: u32,
}

#[derive(Encode, BorrowDecode)]
pub(crate) struct CloseV1<'a> {
    pub(crate) code: u16,
    pub(crate) name: &'a str,
    pub(crate) message: &'a str,
}
