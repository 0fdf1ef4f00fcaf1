//! The index: which dictionaries there are, as it is kept. Its text is JSON with a checksum over all that it says.
//!
//! ```text
//! {"format":1,"digest":"<BLAKE3 of the text of contents>","contents":{"generation":7,"last_id":12,"dictionaries":{…}}}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// The number of the layout. A change that an older program would misread has the next one.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// The number of the whole set.
    pub(super) generation: u64,
    /// The last id that was given out, kept or not, so that none is given out again.
    pub(super) last_id: u32,
    pub(super) dictionaries: BTreeMap<String, SavedDictionary>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedDictionary {
    /// The number of the last push, whether or not it is kept.
    pub(super) last: u32,
    /// The kept ones, the oldest first.
    pub(super) revisions: Vec<SavedRevision>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedRevision {
    pub(super) revision: u32,
    pub(super) id: u32,
    pub(super) digest: String,
    pub(super) size: usize,
    #[serde(rename = "match")]
    pub(super) patterns: Vec<String>,
    pub(super) who: String,
    pub(super) unix_ms: u64,
}

/// Why an index cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadIndex {
    #[error("it was written by a newer version (format {format}, this one knows {FORMAT})")]
    Newer { format: u32 },
    #[error("it is damaged: {reason}")]
    Damaged { reason: String },
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    digest: String,
    #[serde(borrow)]
    contents: &'a RawValue,
}

/// All that every format has.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Index {
    pub(super) fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let contents = serde_json::value::to_raw_value(self)?;
        let digest = blake3::hash(contents.get().as_bytes()).to_hex().to_string();
        let mut bytes = serde_json::to_vec(&Envelope { format: FORMAT, digest, contents: &contents })?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadIndex> {
        let damaged = |reason: String| BadIndex::Damaged { reason };
        let unread = |error: serde_json::Error| damaged(error.to_string());
        let Format { format } = serde_json::from_slice(bytes).map_err(unread)?;
        if format > FORMAT {
            return Err(BadIndex::Newer { format });
        }
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(unread)?;
        let found = blake3::hash(envelope.contents.get().as_bytes()).to_hex();
        if found.as_str() != envelope.digest || format == 0 {
            return Err(damaged(format!("its BLAKE3 ought to be {} and is {found}", envelope.digest)));
        }
        let index: Self = serde_json::from_str(envelope.contents.get()).map_err(unread)?;
        let mut ids = BTreeSet::new();
        for (name, saved) in index.revisions() {
            if !(1..=index.last_id).contains(&saved.id) || !ids.insert(saved.id) {
                return Err(damaged(format!(
                    "the id {} of {name}@{} is not its own",
                    saved.id, saved.revision
                )));
            }
        }
        Ok(index)
    }

    /// All kept revisions with their names.
    pub(super) fn revisions(&self) -> impl Iterator<Item = (&str, &SavedRevision)> {
        self.dictionaries
            .iter()
            .flat_map(|(name, saved)| saved.revisions.iter().map(move |revision| (name.as_str(), revision)))
    }

    pub(super) fn uses(&self, digest: &str) -> bool {
        self.revisions().any(|(_, saved)| saved.digest == digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let revision = |revision, id| SavedRevision {
            revision,
            id,
            digest: "d".repeat(64),
            size: 9,
            patterns: vec!["topic/a.>".to_owned()],
            who: "admin".to_owned(),
            unix_ms: 17,
        };
        let orders = SavedDictionary { last: 3, revisions: vec![revision(2, 2), revision(3, 5)] };
        Index { generation: 6, last_id: 5, dictionaries: [("orders".to_owned(), orders)].into() }
    }

    #[test]
    fn an_index_comes_back_as_it_was() {
        let bytes = index().to_bytes().unwrap();
        assert_eq!(Index::parse(&bytes), Ok(index()));
        let mut text = String::from_utf8(bytes).unwrap();
        text = text.replace("\"format\":1", "\"format\":2");
        assert_eq!(Index::parse(text.as_bytes()), Err(BadIndex::Newer { format: 2 }));
    }

    #[test]
    fn no_changed_byte_goes_unseen() {
        let bytes = index().to_bytes().unwrap();
        for at in 0..bytes.len() - 1 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Index::parse(&changed).is_err(), "byte {at}");
            assert!(Index::parse(&bytes[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn ids_are_their_own_and_given_out() {
        for (id, last_id) in [(0, 5), (2, 5), (6, 5)] {
            let mut index = Index { last_id, ..index() };
            index.dictionaries.get_mut("orders").unwrap().revisions[1].id = id;
            let error = Index::parse(&index.to_bytes().unwrap()).unwrap_err().to_string();
            assert!(error.contains(&format!("the id {id} of orders@3")), "{error}");
        }
    }
}
