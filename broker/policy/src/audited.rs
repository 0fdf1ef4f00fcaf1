//! What the audit log says of a policy's versions: their names, what they are made of, and in which keys their documents differ.
//!
//! A change that leaves the plugin's revision alone is told from no change by this.

use crate::document::PolicyDocument;
use crate::registry::Version;
use serde_json::{Map, Value};

/// What decided before a change, or the candidate that it drops: what stands for it, and the version where it could be asked.
pub(crate) type Before = (String, Option<Version>);

pub(crate) fn before(version: Option<&Version>) -> Before {
    (label(version), version.cloned())
}

/// What stands for a version; nothing where there is none.
pub(crate) fn label(version: Option<&Version>) -> String {
    version.map_or_else(String::new, Version::label)
}

/// Digests of what decided and of what decides now, and of both their documents, with the keys in which these differ.
pub(crate) fn details(from: Option<&Version>, to: Option<&Version>) -> Vec<(&'static str, String)> {
    let mut details = Vec::new();
    if let (Some(from), Some(to)) = (from, to) {
        details.push(("changed", changed(&from.document, &to.document)));
    }
    if let Some(from) = from {
        details.extend([
            ("from_digest", from.source.digest().to_owned()),
            ("from_document", from.document.digest()),
        ]);
    }
    if let Some(to) = to {
        details.extend([("to_digest", to.source.digest().to_owned()), ("to_document", to.document.digest())]);
    }
    details
}

/// The keys with other values, or only in one of two documents, by name.
fn changed(from: &PolicyDocument, to: &PolicyDocument) -> String {
    let [from, to] = [from, to].map(keys);
    let mut keys: Vec<&str> = from.keys().chain(to.keys()).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.retain(|key| from.get(*key) != to.get(*key));
    keys.join(" ")
}

fn keys(document: &PolicyDocument) -> Map<String, Value> {
    match serde_json::to_value(document) {
        Ok(Value::Object(keys)) => keys,
        _ => Map::new(),
    }
}
