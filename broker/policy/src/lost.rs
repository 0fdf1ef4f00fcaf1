//! Versions of an earlier run that could not be brought back, beside those of their policy that could.
//!
//! They stay in the manifest, so that a file that is put right brings them back with the next start, until other versions
//! take their places. Deliberately not here: policies of which nothing came back (`registry.rs`).

use crate::manifest::{SavedCandidate, SavedPolicy, SavedProbation, SavedVersion};
use serde::Serialize;

/// By what they were for, each with the reason.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lost {
    pub(crate) active: Option<(SavedVersion, String)>,
    pub(crate) candidate: Option<(SavedCandidate, String)>,
    pub(crate) previous: Option<(SavedVersion, String)>,
    /// Of the active version, which is compared with the previous one once that is back.
    pub(crate) probation: Option<SavedProbation>,
}

/// A version of an earlier run that could not be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedVersion {
    /// `active`, `candidate` or `previous`.
    pub role: &'static str,
    /// `plugin@revision`, or `rules@` and the first eight digits of the digest.
    pub version: String,
    pub reason: String,
}

impl Lost {
    /// All of a policy that was refused for this reason.
    pub(crate) fn whole(saved: SavedPolicy, reason: &str) -> Self {
        Self {
            active: saved.active.map(|version| (version, reason.to_owned())),
            candidate: saved.candidate.map(|candidate| (candidate, reason.to_owned())),
            previous: saved.previous.map(|version| (version, reason.to_owned())),
            probation: None,
        }
    }

    /// What was made of a saved version; it is noted here where that failed.
    pub(crate) fn sort_out<T, S: Clone>(
        place: &mut Option<(S, String)>,
        saved: &S,
        made: Result<T, String>,
    ) -> Option<T> {
        made.map_err(|reason| *place = Some((saved.clone(), reason))).ok()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.active.is_none() && self.candidate.is_none() && self.previous.is_none()
    }

    /// Another version becomes the active one; what was that before is `previous` unless that came back.
    pub(crate) fn activate(&mut self, has_previous: bool) {
        let active = self.active.take();
        self.previous = if has_previous { None } else { active.or_else(|| self.previous.take()) };
        self.probation = None;
    }

    /// What the manifest says of them.
    pub(crate) fn saved(&self, generation: u64) -> SavedPolicy {
        SavedPolicy {
            generation,
            active: self.active.as_ref().map(|(version, _)| version.clone()),
            candidate: self.candidate.as_ref().map(|(candidate, _)| candidate.clone()),
            previous: self.previous.as_ref().map(|(version, _)| version.clone()),
            probation: self.probation,
        }
    }

    pub(crate) fn show(&self) -> Vec<RefusedVersion> {
        let all = [
            ("active", self.active.as_ref().map(|(version, reason)| (version, reason))),
            ("candidate", self.candidate.as_ref().map(|(candidate, reason)| (&candidate.version, reason))),
            ("previous", self.previous.as_ref().map(|(version, reason)| (version, reason))),
        ];
        let shown = |(role, lost): (&'static str, Option<(&SavedVersion, &String)>)| {
            let (version, reason) = lost?;
            Some(RefusedVersion { role, version: version.label(), reason: reason.clone() })
        };
        all.into_iter().filter_map(shown).collect()
    }
}
