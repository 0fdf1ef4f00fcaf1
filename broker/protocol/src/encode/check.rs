//! What a client frame must satisfy before it is encoded: the bounds the broker's decoder will hold it to.

use crate::client::{Acked, Connect, Frame, Publish};
use crate::error::EncodeError;
use crate::limits::LIST_ITEMS_MAX;
use crate::profile::{Content, Profile};
use crate::{headers, payload};
use waspmq_core::limits::{KEY_BYTES_MAX, PRIORITY_MAX};

pub(super) fn frame(profile: Profile, frame: &Frame<'_>) -> Result<(), EncodeError> {
    match frame {
        Frame::Publish(Publish { packed: Some(_), .. }) if profile == Profile::Json => {
            Err(EncodeError::PackedText)
        }
        Frame::Publish(frame) => publish(frame),
        Frame::Connect(frame) => connect(frame),
        Frame::Ack { what: Acked::Ids(ids), .. } if ids.is_empty() => {
            Err(EncodeError::Empty { field: "ids" })
        }
        Frame::Ack { what: Acked::Ids(ids), .. } => list("ids", ids.len()),
        Frame::Watch { users, .. } => list("users", users.len()),
        _ => Ok(()),
    }
}

fn publish(frame: &Publish<'_>) -> Result<(), EncodeError> {
    length("to", &frame.to, usize::from(u16::MAX))?;
    for (field, text) in [("dedup", &frame.dedup), ("key", &frame.key)] {
        match text.as_deref() {
            Some("") => return Err(EncodeError::Empty { field }),
            Some(text) => length(field, text, KEY_BYTES_MAX)?,
            None => {}
        }
    }
    length("reply_to", frame.reply_to.as_deref().unwrap_or_default(), usize::from(u16::MAX))?;
    if frame.priority > PRIORITY_MAX {
        return Err(EncodeError::Priority { priority: frame.priority });
    }
    headers::check(&frame.headers)?;
    if frame.content == Content::Json && frame.packed.is_none() {
        payload::validate_json(&frame.payload)?;
    }
    Ok(())
}

fn connect(frame: &Connect<'_>) -> Result<(), EncodeError> {
    list("codecs", frame.codecs.len())?;
    list("positions", frame.resume.as_ref().map_or(0, |resume| resume.positions.len()))
}

const fn list(field: &'static str, len: usize) -> Result<(), EncodeError> {
    if len > LIST_ITEMS_MAX {
        return Err(EncodeError::TooMany { field, len, max: LIST_ITEMS_MAX });
    }
    Ok(())
}

const fn length(field: &'static str, text: &str, max: usize) -> Result<(), EncodeError> {
    if text.len() > max {
        return Err(EncodeError::TooLong { field, len: text.len(), max });
    }
    Ok(())
}
