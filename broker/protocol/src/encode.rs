//! Frames to bytes. Everything appends to a buffer the caller owns and reuses.
//!
//! [`message`] is on the path of every delivery: it is written by hand for both profiles and allocates nothing
//! but room in the buffer. [`control`], [`history`] and [`client()`] are the other frames of each
//! direction.

mod binary;
mod check;
mod client_binary;
mod client_json;
mod json;
mod text;

use crate::client;
use crate::error::EncodeError;
use crate::profile::Profile;
use crate::server::{Frame, HistoryHead, MessageFrame, SentDictionary};

/// Appends one control frame; JSON without a line break behind it.
pub fn control(profile: Profile, frame: &Frame, out: &mut Vec<u8>) {
    match profile {
        Profile::Json => json::control(frame, out),
        Profile::Binary => binary::control(frame, out),
    }
}

/// Appends one message frame; JSON without a line break behind it.
pub fn message(profile: Profile, frame: &MessageFrame<'_>, out: &mut Vec<u8>) {
    match profile {
        Profile::Json => json::message(frame, out),
        Profile::Binary => binary::message(frame, out),
    }
}

/// Appends one history answer with these messages; JSON without a line break behind it.
///
/// The caller ends a page at [`crate::limits::HISTORY_MESSAGES_MAX`] messages and behind
/// [`crate::limits::HISTORY_BYTES_MAX`] bytes.
pub fn history<'a>(
    profile: Profile,
    head: &HistoryHead<'_>,
    messages: impl IntoIterator<Item = MessageFrame<'a>>,
    out: &mut Vec<u8>,
) {
    match profile {
        Profile::Json => json::history(head, messages.into_iter(), out),
        Profile::Binary => binary::history(head, messages.into_iter(), out),
    }
}

/// Appends one dictionary frame, which the binary profile alone has.
pub fn dictionary(frame: &SentDictionary, out: &mut Vec<u8>) {
    binary::dictionary(frame, out);
}

/// Appends one client frame; JSON without a line break behind it.
///
/// # Errors
/// When a text, list, header or priority is out of bounds, or a JSON payload is not valid; `out` is unchanged then.
pub fn client(profile: Profile, frame: &client::Frame<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    check::frame(profile, frame)?;
    match profile {
        Profile::Json => client_json::frame(frame, out),
        Profile::Binary => client_binary::frame(frame, out),
    }
    Ok(())
}
