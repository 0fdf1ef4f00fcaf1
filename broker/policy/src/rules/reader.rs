//! Reading parts of a rule so that every fault is named by its place, such as `rules[3].then.to`.

use crate::json::Object;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Display;
use std::ops::RangeInclusive;

/// What is wrong with a rule, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct BadRule {
    /// Such as `rules[3].then.to`, counted from 0.
    pub path: String,
    pub reason: String,
}

/// One text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a text or a list of texts")]
pub(crate) enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    pub(crate) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// A place in a document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a>(pub(crate) &'a str);

impl At<'_> {
    pub(crate) fn bad(self, reason: impl Into<String>) -> BadRule {
        BadRule { path: self.0.to_owned(), reason: reason.into() }
    }

    /// The same for a key below this place.
    pub(crate) fn bad_key(self, key: impl Display, reason: impl Into<String>) -> BadRule {
        BadRule { path: format!("{}.{key}", self.0), reason: reason.into() }
    }

    /// Gives an object of the document its type; unknown keys and wrong types are named.
    pub(crate) fn read<T: DeserializeOwned>(self, value: &Value) -> Result<T, BadRule> {
        self.read_any(value).map(|Object(read)| read)
    }

    /// The same for what need not be one.
    pub(crate) fn read_any<T: DeserializeOwned>(self, value: &Value) -> Result<T, BadRule> {
        serde_path_to_error::deserialize(value).map_err(|error| {
            let (path, reason) = (error.path().to_string(), error.inner().to_string());
            match path.as_str() {
                "." => self.bad(reason),
                below if below.starts_with('[') => BadRule { path: format!("{}{below}", self.0), reason },
                below => self.bad_key(below, reason),
            }
        })
    }

    /// Checks that a number is within its bounds.
    pub(crate) fn within<T: PartialOrd + Display>(
        self,
        key: &str,
        value: T,
        bounds: RangeInclusive<T>,
    ) -> Result<T, BadRule> {
        if bounds.contains(&value) {
            return Ok(value);
        }
        Err(self.bad_key(key, format!("must be {} to {}", bounds.start(), bounds.end())))
    }

    /// Finds a word among those there are; one may be written with hyphens as in the WIT, or with underscores as in the
    /// configuration.
    pub(crate) fn word<T: Copy>(self, word: &str, words: &[(&str, T)]) -> Result<T, BadRule> {
        let plain = word.replace('-', "_");
        let found = words.iter().find(|(known, _)| *known == plain).map(|(_, value)| *value);
        found.ok_or_else(|| {
            let known: Vec<_> = words.iter().map(|(known, _)| format!("{known:?}")).collect();
            self.bad(format!("{word:?} is none of {}", known.join(", ")))
        })
    }
}
