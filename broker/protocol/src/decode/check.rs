//! Checks that both profiles share, made once a frame's fields are known.

use crate::client::{Frame, Publish};
use crate::codec::Packed;
use crate::error::Problem;
use crate::limits::LIST_ITEMS_MAX;
use crate::wire::Reader;
use waspmq_core::limits::{KEY_BYTES_MAX, PRIORITY_MAX};
use waspmq_core::settings::Overflow;
use waspmq_core::{Address, Position};

/// Said of an ack that is neither form.
pub(super) const ACK_SHAPE: &str = "ack needs either `ids`, at least one, or `to` and `upto` without `queue`";

/// Checks the bounds of a publish whose payload and headers were checked while they were read.
pub(super) fn publish(publish: Publish<'_>) -> Result<Frame<'_>, Problem> {
    if publish.priority > PRIORITY_MAX {
        return Err(Problem::invalid(format!(
            "priority is {}, the highest is {PRIORITY_MAX}",
            publish.priority
        )));
    }
    key("dedup", publish.dedup.as_deref())?;
    key("key", publish.key.as_deref())?;
    if let Some(reply_to) = &publish.reply_to {
        Address::check(reply_to)?;
    }
    Ok(Frame::Publish(publish))
}

/// How a payload is compressed.
pub(super) fn packed(reader: &mut Reader<'_>) -> Result<Packed, Problem> {
    Packed::read(reader)
        .ok_or_else(|| Problem::invalid("the payload's codec is not known, or the body ends early"))
}

fn key(field: &'static str, key: Option<&str>) -> Result<(), Problem> {
    match key.map(str::len) {
        Some(0) => Err(Problem::invalid(format!("`{field}` is empty"))),
        Some(len) if len > KEY_BYTES_MAX => {
            Err(Problem::invalid(format!("`{field}` has {len} bytes, the limit is {KEY_BYTES_MAX}")))
        }
        _ => Ok(()),
    }
}

pub(super) fn list<T>(field: &'static str, list: &[T]) -> Result<(), Problem> {
    if list.len() > LIST_ITEMS_MAX {
        return Err(Problem::invalid(format!(
            "`{field}` has {} entries, the limit is {LIST_ITEMS_MAX}",
            list.len()
        )));
    }
    Ok(())
}

pub(super) fn position(field: &'static str, text: &str) -> Result<Position, Problem> {
    text.parse().map_err(|_| Problem::invalid(format!("`{field}` is not a position")))
}

pub(super) fn positions<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> Result<Vec<Position>, Problem> {
    texts.map(|text| position("positions", text)).collect()
}

/// The action an overflow frame names, when it is one that this version knows.
pub(super) fn action(text: &str) -> Option<Overflow> {
    Overflow::ALL.into_iter().find(|action| action.as_str() == text)
}
