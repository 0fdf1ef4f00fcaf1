//! The dictionaries of one connection: those it was sent, and those its client has from before.

use super::framing::Framing;
use crate::dictionaries::Dictionary;
use std::sync::Arc;
use waspmq_core::limits::{DICTIONARIES_HELD_MAX, DICTIONARIES_PER_CONNECTION_MAX, DICTIONARIES_PER_RUN_MAX};
use waspmq_protocol::server::SentDictionary;
use waspmq_protocol::{Profile, codec, encode};

/// What a client names in `connect` besides the codec, for each dictionary it has: the digest, in hexadecimal.
const HELD_PREFIX: &str = "zstd-dict:";

/// The dictionaries of one connection. Empty, it takes no more than a pointer.
#[derive(Debug, Default)]
pub(crate) struct Dictionaries(Option<Box<Known>>);

/// How a connection is told of a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Telling {
    /// Its number, to who has the bytes.
    Number,
    Bytes,
}

/// The frame as a message, the same for all that are told alike.
pub(crate) fn frame(dictionary: &Dictionary, (telling, framing): (Telling, Framing)) -> Vec<u8> {
    let bytes = match telling {
        Telling::Number => Vec::new(),
        Telling::Bytes => dictionary.bytes.to_vec(),
    };
    let frame = SentDictionary { id: dictionary.id, digest: dictionary.digest, bytes };
    let mut out = Vec::with_capacity(frame.bytes.len() + 64);
    let begun = framing.begin(&mut out);
    encode::dictionary(&frame, &mut out);
    begun.end(&mut out, Profile::Binary);
    out
}

#[derive(Debug, Default)]
struct Known {
    /// What the connection was told. Each stays as long as it, also where it is removed or replaced meanwhile.
    sent: Vec<Arc<Dictionary>>,
    /// Digests of those the client has, from before or since.
    held: Vec<[u8; 32]>,
}

impl Dictionaries {
    /// Those that the client has from an earlier connection.
    pub(crate) fn held<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let digests = names.filter_map(|name| name.strip_prefix(HELD_PREFIX)).filter_map(codec::parse_digest);
        let held: Vec<_> = digests.take(DICTIONARIES_HELD_MAX).collect();
        Self((!held.is_empty()).then(|| Box::new(Known { sent: Vec::new(), held })))
    }

    /// What must precede messages compressed with `dictionary` on this connection: the frame with its bytes, or, where the
    /// client has them, without. `None` when the connection was sent it.
    pub(crate) fn tell(&mut self, dictionary: &Arc<Dictionary>) -> Option<Telling> {
        let known = self.0.get_or_insert_default();
        if known.sent.iter().any(|sent| sent.id == dictionary.id) {
            return None;
        }
        known.sent.push(Arc::clone(dictionary));
        if known.held.contains(&dictionary.digest) {
            return Some(Telling::Number);
        }
        known.held.push(dictionary.digest);
        Some(Telling::Bytes)
    }

    /// The one that the connection was told of by this number.
    pub(crate) fn sent(&self, id: u32) -> Option<&Dictionary> {
        self.0.as_ref()?.sent.iter().find(|sent| sent.id == id).map(Arc::as_ref)
    }

    /// Whether no others can be sent.
    pub(crate) fn is_full(&self) -> bool {
        let most = DICTIONARIES_PER_CONNECTION_MAX - DICTIONARIES_PER_RUN_MAX;
        self.0.as_ref().is_some_and(|known| known.sent.len() > most)
    }
}
