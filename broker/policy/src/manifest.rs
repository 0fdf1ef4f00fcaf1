//! The manifest: what there is, as it is kept. Its text is JSON with a checksum over all that it says.
//!
//! ```text
//! {"format":1,"digest":"<BLAKE3 of the text of contents>","contents":{"generation":7,"plugins":{…},"policies":{…}}}
//! ```

use crate::hook::Hook;
use crate::lineup::Trial;
use crate::removed::Removed;
use crate::rules;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// The number of the layout. A change that an older program would misread has the next one.
const FORMAT: u32 = 1;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) generation: u64,
    pub(crate) plugins: BTreeMap<String, SavedPlugin>,
    pub(crate) policies: BTreeMap<String, SavedPolicy>,
    /// Of plugins that are not there any more.
    #[serde(default, skip_serializing_if = "Removed::is_empty")]
    pub(crate) removed: Removed,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedPlugin {
    /// The number of the last upload, whether or not it is kept.
    pub(crate) last: u32,
    /// The kept ones, the oldest first.
    pub(crate) revisions: Vec<SavedRevision>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedRevision {
    pub(crate) revision: u32,
    pub(crate) digest: String,
    pub(crate) size: usize,
    pub(crate) hooks: Vec<Hook>,
    /// Whether calls took the fast lane when it was taken in, and why not.
    #[serde(default)]
    pub(crate) is_direct: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lane_reason: Option<String>,
    pub(crate) who: String,
    pub(crate) unix_ms: u64,
}

/// A policy with its versions by what they are for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedPolicy {
    /// The generation it came with.
    pub(crate) generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) active: Option<SavedVersion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) candidate: Option<SavedCandidate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<SavedVersion>,
    /// While the active version is compared with the previous one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) probation: Option<SavedProbation>,
}

/// A probation that is not over; a start begins it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedProbation {
    /// Mean time of a call of the previous version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before_ns: Option<u64>,
}

/// A version that is tried out beside the active one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedCandidate {
    pub(crate) trial: Trial,
    #[serde(flatten)]
    pub(crate) version: SavedVersion,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedVersion {
    /// Empty, as no plugin's name is, when it has rules.
    pub(crate) plugin: String,
    /// 0 when it has rules.
    pub(crate) revision: u32,
    /// Of the component, or of the rules.
    pub(crate) digest: String,
    /// Read when the policy is restored: a document that this program does not know refuses its policy, not all.
    pub(crate) document: serde_json::Value,
    /// Of a previous version that was once the active one behind the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken_back: Option<TakenBack>,
}

/// Who took a version back. Nobody falls back on such a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TakenBack {
    Operator,
    Broker,
}

/// Why a manifest cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadManifest {
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

impl Manifest {
    pub(crate) fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let contents = serde_json::value::to_raw_value(self)?;
        let digest = blake3::hash(contents.get().as_bytes()).to_hex().to_string();
        let mut bytes = serde_json::to_vec(&Envelope { format: FORMAT, digest, contents: &contents })?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadManifest> {
        let damaged = |error: serde_json::Error| BadManifest::Damaged { reason: error.to_string() };
        let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format > FORMAT {
            return Err(BadManifest::Newer { format });
        }
        let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(damaged)?;
        let found = blake3::hash(envelope.contents.get().as_bytes()).to_hex();
        if found.as_str() != envelope.digest || format == 0 {
            return Err(BadManifest::Damaged {
                reason: "its checksum does not match what it says".to_owned(),
            });
        }
        serde_json::from_str(envelope.contents.get()).map_err(damaged)
    }

    /// The digests of all components that it names.
    pub(crate) fn digests(&self) -> BTreeSet<String> {
        let revisions = self.plugins.values().flat_map(|plugin| &plugin.revisions);
        revisions.map(|revision| revision.digest.clone()).collect()
    }
}

impl SavedVersion {
    pub(crate) fn is_required(&self) -> bool {
        self.document.get("required").and_then(serde_json::Value::as_bool).unwrap_or(false)
    }

    /// `plugin@revision`, or `rules@` and the first digits of the digest.
    pub(crate) fn label(&self) -> String {
        match self.revision {
            0 => rules::label(&self.digest),
            revision => format!("{}@{revision}", self.plugin),
        }
    }
}

impl SavedPolicy {
    /// Whether the broker must not be without it.
    pub(crate) fn is_required(&self) -> bool {
        let candidate = self.candidate.as_ref().map(|candidate| &candidate.version);
        self.active.as_ref().or(candidate).is_some_and(SavedVersion::is_required)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.versions().next().is_none()
    }

    /// Its versions, whatever they are for.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &SavedVersion> {
        let candidate = self.candidate.as_ref().map(|candidate| &candidate.version);
        [self.active.as_ref(), candidate, self.previous.as_ref()].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn version(revision: u32) -> SavedVersion {
        let document = json!({"hook": "routing", "plugin": "p", "match": ["all"], "config": {"a": 1.5}});
        SavedVersion { plugin: "p".to_owned(), revision, digest: "d".repeat(64), document, taken_back: None }
    }

    fn manifest() -> Manifest {
        let revision = SavedRevision {
            revision: 2,
            digest: "d".repeat(64),
            size: 9,
            hooks: vec![Hook::Routing],
            is_direct: true,
            lane_reason: None,
            who: "ann".to_owned(),
            unix_ms: 5,
        };
        let candidate = |trial| Some(SavedCandidate { trial, version: version(3) });
        let policy = |candidate| SavedPolicy {
            generation: 4,
            active: Some(version(2)),
            candidate,
            previous: Some(SavedVersion { taken_back: Some(TakenBack::Broker), ..version(1) }),
            probation: Some(SavedProbation { before_ns: Some(900) }),
        };
        let mut removed = Removed::default();
        removed.note("gone", 5);
        let policies = [
            ("plain", policy(None)),
            ("shadow", policy(candidate(Trial::Shadow))),
            ("canary", policy(candidate(Trial::Canary { percent: 5 }))),
        ];
        Manifest {
            generation: 7,
            plugins: [("p".to_owned(), SavedPlugin { last: 3, revisions: vec![revision] })].into(),
            policies: policies.map(|(name, policy)| (name.to_owned(), policy)).into(),
            removed,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = manifest().to_bytes().unwrap();
        assert_eq!(Manifest::parse(&bytes).unwrap(), manifest());
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(r#""trial":{"canary":{"percent":5}}"#), "{text}");
        assert_eq!(manifest().policies["shadow"].versions().count(), 3);
        assert_eq!(manifest().digests().len(), 1);
        let empty = Manifest::default();
        assert_eq!(Manifest::parse(&empty.to_bytes().unwrap()).unwrap(), empty);
    }

    #[test]
    fn every_changed_byte_and_every_torn_end_is_seen() {
        let bytes = manifest().to_bytes().unwrap();
        for at in 0..bytes.len() - 1 {
            assert!(Manifest::parse(&bytes[..at]).is_err(), "cut at {at}");
            for bit in [0x01, 0x20] {
                let mut changed = bytes.clone();
                changed[at] ^= bit;
                let parsed = Manifest::parse(&changed);
                // A key of the envelope that is not there, a checksum, or JSON that is none.
                assert!(parsed.is_err(), "{at}: {}", String::from_utf8_lossy(&changed));
            }
        }
        assert!(Manifest::parse(b"").is_err() && Manifest::parse(b"{}").is_err());
    }

    #[test]
    fn a_newer_format_is_told_apart() {
        let newer = br#"{"format":2,"whatever":true}"#;
        assert_eq!(Manifest::parse(newer).unwrap_err(), BadManifest::Newer { format: 2 });
    }
}
