//! The broker's binary profile with references, receipts and cumulative acks; [`crate::wire`] has the rest.
//!
//! ```text
//! publish  flags u16 = 1 | content u8 = 0 | ack u8 = level | priority u8 | 0 | to length u16 | ref u64 | to | payload
//! message  flags u16 | content u8 | priority u8 | id 16 | shard u16 | epoch u32 | offset u64 | time u64 | to length u16 | …
//! ack      ref: none | ids: none | to | upto "s<shard>e<epoch>:<offset>" | queue: none
//! receipt  ref: varint | id 16 | level u8 | recipients: varint
//! error    ref: option varint | code: varint | name | message | retry_ms: varint
//! ```
//!
//! Whatever one read brought is acknowledged by one ack per address and stream, for the last message that wants it.

use std::net::TcpStream;

use anyhow::Result;

use super::{Heard, Level, Publishes, Slot};
use crate::conn::{self, Gone};
use crate::link::{Link, printable};
use crate::wire::{MASK, Wire, binary_frame, push_string};
use crate::ws;

/// The publish carries a reference.
const REFERENCE: u16 = 1;
/// The message is a redelivery.
const ATTEMPT: u16 = 512;
/// The message is to be acknowledged.
const ACK_WANTED: u16 = 2048;

/// What an ack names is not in flight to this session: told without harm.
const NOT_IN_FLIGHT: u64 = 1430;
/// There is no room for a publish.
const OVERLOADED: u64 = 1503;

/// Bytes of a frame before its body.
const PREFIX_BYTES: usize = 6;

pub(super) fn connect(port: u16, user: &str, batch: bool) -> Result<(TcpStream, Vec<u8>)> {
    let mut link = Link::open(Wire::Binary, port, None)?;
    link.connect(user, batch)?;
    Ok(link.into_parts())
}

pub(super) fn publishes(level: Level, address: &str, payload: &[u8]) -> Publishes {
    let referenced = level != Level::None;
    let flags = if referenced { REFERENCE } else { 0 };
    let mut body = flags.to_le_bytes().to_vec();
    body.extend_from_slice(&[0, level as u8, 0, 0]);
    body.extend_from_slice(&u16::try_from(address.len()).unwrap_or(u16::MAX).to_le_bytes());
    let reference_at = PREFIX_BYTES + body.len();
    if referenced {
        body.extend_from_slice(&[0; 8]);
    }
    body.extend_from_slice(address.as_bytes());
    body.extend_from_slice(payload);
    let frame = binary_frame(0x02, &body);
    let mut masked = Vec::new();
    ws::push_frame(&mut masked, ws::BINARY, Some(MASK), &frame);
    let mut mask = [0; 8];
    for (i, byte) in mask.iter_mut().enumerate() {
        *byte = MASK[(reference_at + i) % MASK.len()];
    }
    let at = masked.len() - frame.len() + reference_at;
    Publishes::new(&masked, if referenced { Slot::Masked { at, mask } } else { Slot::Nowhere })
}

/// The last message of an address and stream that wants an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted<'a> {
    to: &'a [u8],
    shard: u16,
    epoch: u32,
    offset: u64,
}

pub(super) fn hear(
    level: Level,
    bytes: &[u8],
    out: &mut Vec<u8>,
    mut take: impl FnMut(Heard),
) -> Result<usize, Gone> {
    let mut acks = Vec::new();
    let mut wanted: Option<Wanted<'_>> = None;
    let taken = conn::walk(Wire::Binary, bytes, out, |frame| {
        take(match frame.first() {
            Some(0x82) => match message(frame) {
                Some((heard, None)) => heard,
                Some((heard, Some(next))) => {
                    if let Some(last) = wanted.replace(next)
                        && (last.to, last.shard, last.epoch) != (next.to, next.shard, next.epoch)
                    {
                        push_ack(&mut acks, &last);
                    }
                    heard
                }
                None => complaint(frame),
            },
            Some(0x83) => {
                receipt(&frame[PREFIX_BYTES.min(frame.len())..], level).unwrap_or_else(|| complaint(frame))
            }
            Some(0x87 | 0x89) => return,
            _ => complaint(frame),
        });
    })?;
    if let Some(last) = wanted {
        push_ack(&mut acks, &last);
    }
    out.append(&mut acks);
    Ok(taken)
}

/// What a message frame is, and what there is to acknowledge.
#[inline]
fn message(frame: &[u8]) -> Option<(Heard, Option<Wanted<'_>>)> {
    let body = frame.get(PREFIX_BYTES..)?;
    let flags = u16::from_le_bytes(*body.first_chunk()?);
    let heard = Heard::Message { repeat: flags & ATTEMPT != 0 };
    if flags & ACK_WANTED == 0 {
        return Some((heard, None));
    }
    let to_bytes = usize::from(u16::from_le_bytes(*body.get(42..)?.first_chunk()?));
    let wanted = Wanted {
        shard: u16::from_le_bytes(*body.get(20..)?.first_chunk()?),
        epoch: u32::from_le_bytes(*body.get(22..)?.first_chunk()?),
        offset: u64::from_le_bytes(*body.get(26..)?.first_chunk()?),
        to: body.get(46..46 + to_bytes)?,
    };
    Some((heard, Some(wanted)))
}

fn push_ack(out: &mut Vec<u8>, wanted: &Wanted<'_>) {
    let Wanted { to, shard, epoch, offset } = wanted;
    // No reference, no ids; then `to` and `upto`.
    let mut body = vec![0, 0, 1];
    push_string(&mut body, &String::from_utf8_lossy(to));
    body.push(1);
    push_string(&mut body, &format!("s{shard}e{epoch}:{offset}"));
    body.push(0);
    ws::push_frame(out, ws::BINARY, Some(MASK), &binary_frame(0x07, &body));
}

/// A receipt of a lower level than was asked is a complaint.
fn receipt(body: &[u8], level: Level) -> Option<Heard> {
    let (reference, rest) = varint(body)?;
    let reached = *rest.get(16)?;
    if reached < level as u8 {
        return Some(Heard::Complaint(format!("a receipt of level {reached}, asked for {level:?}")));
    }
    Some(Heard::Receipt(reference))
}

/// A bincode varint and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    match first {
        251 => rest.split_first_chunk::<2>().map(|(value, rest)| (u16::from_le_bytes(*value).into(), rest)),
        252 => rest.split_first_chunk::<4>().map(|(value, rest)| (u32::from_le_bytes(*value).into(), rest)),
        253 => rest.split_first_chunk::<8>().map(|(value, rest)| (u64::from_le_bytes(*value), rest)),
        254.. => None,
        small => Some((small.into(), rest)),
    }
}

fn complaint(frame: &[u8]) -> Heard {
    let words = frame.get(PREFIX_BYTES..).filter(|_| frame.first() == Some(&0x85)).and_then(error);
    match words {
        Some(Error { code: NOT_IN_FLIGHT, .. }) => Heard::LateAck,
        Some(Error { code: OVERLOADED, reference: Some(slot), retry_ms, words }) => {
            Heard::Overloaded { slot, retry_ms, words }
        }
        Some(Error { words, .. }) => Heard::Complaint(words),
        None => Heard::Complaint(printable(frame)),
    }
}

struct Error {
    reference: Option<u64>,
    code: u64,
    words: String,
    retry_ms: u64,
}

fn error(body: &[u8]) -> Option<Error> {
    let (&referenced, mut rest) = body.split_first()?;
    let mut reference = None;
    if referenced == 1 {
        let (slot, behind) = varint(rest)?;
        (reference, rest) = (Some(slot), behind);
    }
    let (code, rest) = varint(rest)?;
    let text = |bytes| -> Option<(String, _)> {
        let (length, rest) = varint(bytes)?;
        let (text, rest): (&[u8], &[u8]) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        Some((String::from_utf8_lossy(text).into_owned(), rest))
    };
    let (name, rest) = text(rest)?;
    let (message, rest) = text(rest)?;
    let (retry_ms, _) = varint(rest)?;
    Some(Error { reference, code, words: format!("error {code} {name}: {message}"), retry_ms })
}

#[cfg(test)]
mod tests;
