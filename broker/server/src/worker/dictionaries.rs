//! The dictionaries of one connection: those it was sent, and those its client has from before.

use crate::dictionaries::Dictionary;
use std::sync::Arc;
use waspmq_protocol::server::SentDictionary;
use waspmq_protocol::{codec, encode};
use waspmq_transport::websocket::{self, Opcode};

/// Dictionaries that one connection is sent. More: its messages are compressed without any, until it connects again.
/// Clients keep as many, with all their bytes.
pub(crate) const SENT_MAX: usize = 16;

/// Dictionaries that a client may say it has. More: not looked at, and sent again.
const HELD_MAX: usize = 16;

/// What a client names in `connect` besides the codec, for each dictionary it has: the digest, in hexadecimal.
const HELD_PREFIX: &str = "zstd-dict:";

/// The dictionaries of one connection. Empty, it takes no more than a pointer.
#[derive(Debug, Default)]
pub(crate) struct Dictionaries(Option<Box<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By number, as the connection was told.
    sent: Vec<u32>,
    /// Digests of those the client has, from before or since.
    held: Vec<[u8; 32]>,
}

impl Dictionaries {
    /// Those that the client has from an earlier connection.
    pub(crate) fn held<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let digests = names.filter_map(|name| name.strip_prefix(HELD_PREFIX)).filter_map(codec::parse_digest);
        let held: Vec<_> = digests.take(HELD_MAX).collect();
        Self((!held.is_empty()).then(|| Box::new(Known { sent: Vec::new(), held })))
    }

    /// The frame, as a WebSocket message, that must precede messages compressed with `dictionary`; `None` when the
    /// connection was sent it. It has no bytes where the client has them.
    pub(crate) fn frame_for(&mut self, dictionary: &Arc<Dictionary>) -> Option<Vec<u8>> {
        let known = self.0.get_or_insert_default();
        if known.sent.contains(&dictionary.id) {
            return None;
        }
        known.sent.push(dictionary.id);
        let is_held = known.held.contains(&dictionary.digest);
        let bytes = if is_held { Vec::new() } else { dictionary.bytes.to_vec() };
        if !is_held {
            known.held.push(dictionary.digest);
        }
        let frame = SentDictionary { id: dictionary.id, digest: dictionary.digest, bytes };
        let mut out = Vec::with_capacity(frame.bytes.len() + 64);
        let start = websocket::begin_frame(&mut out);
        encode::dictionary(&frame, &mut out);
        websocket::end_frame(&mut out, start, Opcode::Binary);
        Some(out)
    }

    /// Whether no others can be sent.
    pub(crate) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|known| known.sent.len() >= SENT_MAX)
    }
}
