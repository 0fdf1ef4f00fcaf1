//! What tests write to a store where its content does not matter: one message of one address.
//!
//! Deliberately not here: messages whose payload, time or sender a test is about, which it makes itself.

use crate::store::Write;
use std::sync::Arc;
use waspmq_core::message::{Batch, Envelope, Slice};
use waspmq_core::settings::Retention;
use waspmq_core::{Address, Level, MessageId, Position, Stream};

/// One message without a payload.
pub(crate) fn message(to: &str, offset: u64, retention: Retention) -> Write {
    let (first, none) = (Position { stream: Stream { shard: 3, epoch: 1 }, offset }, Slice::default());
    let envelope = Envelope {
        id: MessageId::new(1, 1, 0, offset),
        is_json: true,
        priority: 0,
        expires_unix_ms: 0,
        payload: none,
        headers: none,
        key: none,
        reply_to: none,
    };
    let batch = Batch {
        to: Address::parse(to).unwrap(),
        from: None,
        origin: None,
        exclude_origin: false,
        level: Level::Stored,
        is_kept: true,
        unix_ms: 1,
        published_us: 0,
        first,
        messages: vec![envelope],
        bytes: Vec::new(),
    };
    Write::Messages { batch: Arc::new(batch), retention }
}
