//! The records of dedup keys: to which publish each belongs, and what a repeat of it is answered.
//!
//! ```text
//! number(8) id(16) recipients(4) level(1) key(2+n)
//! ```
//! A key is written together with the message of its publish and overwritten by a later one of its shard: the number is that
//! of the publish there, and says where the record is. When the publish was says its id.

use crate::record::{Reader, put_text};
use crate::store::StoreError;
use waspmq_core::dedup::{Key, Remembered};
use waspmq_core::{Level, MessageId};

/// Without the shard, which is told apart.
pub(crate) fn put(out: &mut Vec<u8>, key: &Key) -> Result<(), StoreError> {
    let Remembered { id, recipients, level } = key.answer;
    out.extend_from_slice(&key.number.to_be_bytes());
    out.extend_from_slice(&id.to_bytes());
    out.extend_from_slice(&recipients.to_be_bytes());
    out.push(level.as_u8());
    put_text(out, &key.text, "a dedup key")
}

pub(crate) fn parse(shard: u16, reader: &mut Reader<'_>) -> Option<Key> {
    let number = reader.u64()?;
    let (id, recipients) = (MessageId::from_bytes(reader.array()?), reader.u32()?);
    let answer = Remembered { id, recipients, level: Level::from_u8(reader.u8()?)? };
    Some(Key { shard, number, text: reader.text()?.into(), answer })
}
