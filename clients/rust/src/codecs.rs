//! What a client asks for to get fewer bytes: codecs, and the dictionaries it was sent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use waspmq_protocol::codec::{self, Dictionary, PackedCodec, UnpackError, Unpacker};
use waspmq_protocol::server::{Message, SentDictionary};

/// Dictionaries that are kept over connections. More: the one that came first is forgotten, and sent again when it is
/// needed. A broker sends no more than this on one connection.
const KEPT_MAX: usize = 16;

/// The codecs a client reads, the best first.
const NAMES: [&str; 3] = ["zstd-dict", "zstd", "lz4"];

/// The reading half of compression. Belongs to the client, not to one connection: dictionaries outlive those.
#[derive(Debug, Default)]
pub(crate) struct Codecs {
    unpacker: Unpacker,
    kept: VecDeque<Arc<Dictionary>>,
    /// What the connection at hand calls them.
    numbers: HashMap<u32, Arc<Dictionary>>,
    /// Whether something came that could not be read: the next connection goes without.
    is_off: bool,
}

/// Why what came is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Message(#[from] UnpackError),
    #[error("a dictionary is not what its digest says, or none at all")]
    Dictionary,
}

impl Codecs {
    /// What `connect` names: the codecs, and the dictionaries that need not be sent again. Those it does not name are
    /// forgotten here and never while a connection counts on them.
    pub(crate) fn names(&mut self) -> Vec<String> {
        if self.is_off {
            return Vec::new();
        }
        let surplus = self.kept.len().saturating_sub(KEPT_MAX);
        self.kept.drain(..surplus);
        let held = self.kept.iter().map(|kept| format!("zstd-dict:{}", codec::digest_text(kept.digest())));
        NAMES.iter().map(ToString::to_string).chain(held).collect()
    }

    /// A new connection has told nothing yet.
    pub(crate) fn begin(&mut self) {
        self.numbers.clear();
    }

    /// From now on messages may name this dictionary.
    pub(crate) fn take(&mut self, sent: &SentDictionary) -> Result<(), Unreadable> {
        let known = self.kept.iter().find(|kept| *kept.digest() == sent.digest).cloned();
        let dictionary = match known {
            Some(dictionary) => dictionary,
            None => self.keep(sent)?,
        };
        // A broker sends fewer.
        if self.numbers.len() >= 2 * KEPT_MAX {
            return Err(Unreadable::Dictionary);
        }
        self.numbers.insert(sent.id, dictionary);
        Ok(())
    }

    fn keep(&mut self, sent: &SentDictionary) -> Result<Arc<Dictionary>, Unreadable> {
        let dictionary = Dictionary::new(&sent.bytes).map_err(|_| Unreadable::Dictionary)?;
        if *dictionary.digest() != sent.digest {
            return Err(Unreadable::Dictionary);
        }
        let dictionary = Arc::new(dictionary);
        self.kept.push_back(dictionary.clone());
        Ok(dictionary)
    }

    /// Makes the payload of a message what was published.
    pub(crate) fn unpack(&mut self, message: &mut Message, max: usize) -> Result<(), Unreadable> {
        let dictionary = match message.packed.map(|packed| packed.codec) {
            Some(PackedCodec::Dictionary { id }) => self.numbers.get(&id),
            _ => None,
        };
        Ok(message.unpack(&mut self.unpacker, dictionary.map(|dictionary| &**dictionary), max)?)
    }

    /// Asks for nothing compressed from the next connection on.
    pub(crate) fn give_up(&mut self) {
        self.is_off = true;
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained(words: &str) -> SentDictionary {
        let samples: Vec<Vec<u8>> =
            (0..500).map(|i| format!("{words} {i} of {}", i * i).into_bytes()).collect();
        let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
        let bytes = codec::train(&samples, 1_024).unwrap();
        let digest = *Dictionary::new(&bytes).unwrap().digest();
        SentDictionary { id: 7, digest, bytes }
    }

    #[test]
    fn what_was_sent_once_is_named_and_needs_no_bytes() {
        let mut codecs = Codecs::default();
        assert_eq!(codecs.names(), NAMES);
        let sent = trained("orders");
        codecs.take(&sent).unwrap();
        let held = format!("zstd-dict:{}", codec::digest_text(&sent.digest));
        assert_eq!(codecs.names().last(), Some(&held));
        codecs.begin();
        codecs.take(&SentDictionary { bytes: Vec::new(), id: 9, ..sent }).unwrap();
        assert!(codecs.numbers.contains_key(&9) && !codecs.numbers.contains_key(&7));
    }

    #[test]
    fn a_dictionary_that_is_not_what_it_says_is_refused() {
        let mut codecs = Codecs::default();
        let (one, other) = (trained("orders"), trained("ticks"));
        let mixed = SentDictionary { digest: other.digest, ..one.clone() };
        assert_eq!(codecs.take(&mixed), Err(Unreadable::Dictionary));
        let unknown = SentDictionary { bytes: Vec::new(), ..one.clone() };
        assert_eq!(codecs.take(&unknown), Err(Unreadable::Dictionary));
        assert_eq!(codecs.names(), NAMES);
        codecs.take(&one).unwrap();
        codecs.give_up();
        assert!(codecs.names().is_empty());
    }

    #[test]
    fn no_more_are_kept_than_may_be() {
        let mut codecs = Codecs::default();
        for i in (0..).take(KEPT_MAX + 3) {
            codecs.begin();
            codecs.take(&SentDictionary { id: i, ..trained(&format!("{i} words of {i}")) }).unwrap();
        }
        assert_eq!(codecs.names().len(), NAMES.len() + KEPT_MAX);
    }
}
