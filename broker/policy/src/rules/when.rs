//! Which messages a rule is about.
//!
//! Everything is parsed once; looking at a message allocates nothing, and looks at headers last and only where a rule
//! asks for one. What a rule looked at says how long its verdict holds.

use super::glob::{Glob, any_matches};
use super::reader::{At, BadRule, Texts};
use crate::bindings::Cache;
use crate::hook::Hook;
use crate::limits;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use waspmq_core::address::Pattern;
use waspmq_core::limits::{HEADER_BYTES_MAX, PRIORITY_MAX};

/// The conditions of a rule; all of them have to hold, and without any the rule is about everything.
#[derive(Debug, Clone)]
pub(crate) struct When {
    addresses: Box<[Pattern]>,
    /// Of the sender, or of the recipient where queues overflow.
    users: Box<[Glob]>,
    keys: Box<[Glob]>,
    headers: Headers,
    sizes: RangeInclusive<usize>,
    priority_min: u8,
    /// What its answer holds for where the address is one of its own.
    cache: Cache,
}

/// What is asked of headers, by their names.
type Headers = Box<[(Box<str>, Header)]>;

/// What is asked of one header.
#[derive(Debug, Clone)]
enum Header {
    Present,
    Absent,
    Like(Box<[Glob]>),
}

/// What is known about a message when a question comes up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) to: &'a str,
    pub(crate) user: &'a str,
    pub(crate) key: &'a str,
    pub(crate) size: usize,
    pub(crate) priority: u8,
    /// Those that hide others come first.
    pub(crate) headers: [&'a [(String, String)]; 2],
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    address: Option<Texts>,
    sender: Option<Texts>,
    recipient: Option<Texts>,
    key: Option<Texts>,
    header: BTreeMap<String, Option<HeaderDocument>>,
    size_min: Option<u32>,
    size_max: Option<u32>,
    priority_min: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "must be a text or a list of texts, true or null (it is there), or false (it is not)"
)]
enum HeaderDocument {
    Is(bool),
    Like(Texts),
}

impl When {
    pub(crate) fn parse(at: At<'_>, value: &Value, hook: Hook) -> Result<Self, BadRule> {
        let document: Document = at.read(value)?;
        document.check_known(at, hook)?;
        let Document { address, sender, recipient, key, header, size_min, size_max, priority_min } = document;
        let sizes = size_min.map_or(0, |n| n as usize)..=size_max.map_or(usize::MAX, |n| n as usize);
        if sizes.is_empty() {
            return Err(at.bad_key("size_max", "must not be less than size_min"));
        }
        let priority_min = at.within("priority_min", priority_min.unwrap_or(0), 0..=PRIORITY_MAX)?;
        let users = if hook == Hook::Overflow { ("recipient", recipient) } else { ("sender", sender) };
        let mut when = Self {
            addresses: list(at, "address", address, |text| {
                Pattern::parse_scope(text).map_err(|error| format!("{text:?}: {error}"))
            })?,
            users: list(at, users.0, users.1, Glob::parse)?,
            keys: list(at, "key", key, Glob::parse)?,
            headers: headers(at, header)?,
            sizes,
            priority_min,
            cache: Cache::Never,
        };
        when.cache = when.holds_for();
        Ok(when)
    }

    /// Whether it looks at nothing but the address and the user, which are known long after the publish, too.
    pub(crate) const fn is_lasting(&self) -> bool {
        !matches!(self.cache, Cache::Never)
    }

    pub(crate) fn patterns_count(&self) -> usize {
        let of_header = |(_, header): &(_, Header)| match header {
            Header::Like(globs) => globs.len(),
            Header::Present | Header::Absent => 1,
        };
        let headers: usize = self.headers.iter().map(of_header).sum();
        self.addresses.len() + self.users.len() + self.keys.len() + headers
    }

    /// How many of the patterns for headers look through a whole value.
    pub(crate) fn searches_count(&self) -> usize {
        let of_header = |(_, header): &(_, Header)| match header {
            Header::Like(globs) => globs.iter().filter(|glob| glob.searches()).count(),
            Header::Present | Header::Absent => 0,
        };
        self.headers.iter().map(of_header).sum()
    }

    fn holds_for(&self) -> Cache {
        let any_size = self.sizes == (0..=usize::MAX);
        match self.keys.is_empty() && self.headers.is_empty() && any_size && self.priority_min == 0 {
            false => Cache::Never,
            // A connection has one user.
            true if !self.users.is_empty() => Cache::Connection,
            true => Cache::Address,
        }
    }

    #[inline]
    fn has_address(&self, to: &str) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|pattern| pattern.covers(to))
    }

    /// Whether all holds but the address, which was looked at before.
    #[inline]
    fn has_rest(&self, facts: &Facts<'_>) -> bool {
        facts.priority >= self.priority_min
            && self.sizes.contains(&facts.size)
            && any_matches(&self.users, facts.user)
            && any_matches(&self.keys, facts.key)
            && self.headers.iter().all(|(name, header)| header.holds(facts.header(name)))
    }
}

impl<'a> Facts<'a> {
    /// Of a question about messages of which no more is known.
    pub(crate) const fn of_address(to: &'a str) -> Self {
        Self { to, user: "", key: "", size: 0, priority: 0, headers: [&[], &[]] }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.into_iter().flatten();
        all.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Header {
    fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Present, value) => value.is_some(),
            (Self::Absent, value) => value.is_none(),
            (Self::Like(globs), Some(value)) => any_matches(globs, value),
            (Self::Like(_), None) => false,
        }
    }
}

impl Document {
    /// Refuses what nobody knows when the hook is asked.
    fn check_known(&self, at: At<'_>, hook: Hook) -> Result<(), BadRule> {
        let overflow = hook == Hook::Overflow;
        let unknown = [
            ("sender", overflow && self.sender.is_some()),
            ("key", overflow && self.key.is_some()),
            ("header", overflow && !self.header.is_empty()),
            ("recipient", !overflow && self.recipient.is_some()),
        ];
        match unknown.into_iter().find(|(_, asked)| *asked) {
            Some((key, _)) => {
                Err(at.bad_key(key, format!("is not known when hook {} is asked", hook.as_str())))
            }
            None => Ok(()),
        }
    }
}

fn list<T>(
    at: At<'_>,
    key: &str,
    texts: Option<Texts>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Box<[T]>, BadRule> {
    let Some(texts) = texts else { return Ok(Box::default()) };
    let texts = texts.as_slice();
    if texts.is_empty() {
        return Err(at.bad_key(key, "must have one pattern or more; without the key, everything matches"));
    }
    texts.iter().map(|text| parse(text).map_err(|reason| at.bad_key(key, reason))).collect()
}

fn headers(at: At<'_>, document: BTreeMap<String, Option<HeaderDocument>>) -> Result<Headers, BadRule> {
    if document.len() > limits::RULE_HEADERS_MAX {
        return Err(at.bad_key("header", format!("has more than {} headers", limits::RULE_HEADERS_MAX)));
    }
    let read = |(name, asked): (String, Option<HeaderDocument>)| {
        if name.is_empty() || name.len() > HEADER_BYTES_MAX {
            return Err(at.bad_key("header", "a header has a name"));
        }
        let header = match asked {
            None | Some(HeaderDocument::Is(true)) => Header::Present,
            Some(HeaderDocument::Is(false)) => Header::Absent,
            Some(HeaderDocument::Like(texts)) => {
                Header::Like(list(at, &format!("header.{name}"), Some(texts), Glob::parse)?)
            }
        };
        Ok((name.into(), header))
    };
    document.into_iter().map(read).collect()
}

/// Rules about one question, in their order, each with its answer.
#[derive(Debug)]
pub(crate) struct List<T>(pub(crate) Vec<(When, T)>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> List<T> {
    /// The answer of the first rule that matches, and what it holds for: as much as everything that was looked at for
    /// it has in common. A rule for other addresses was not looked at for this one.
    #[inline]
    pub(crate) fn first(&self, facts: &Facts<'_>) -> (Option<&T>, Cache) {
        let mut cache = Cache::Address;
        for (when, answer) in &self.0 {
            if !when.has_address(facts.to) {
                continue;
            }
            cache = narrower(cache, when.cache);
            if when.has_rest(facts) {
                return (Some(answer), cache);
            }
        }
        (None, cache)
    }
}

const fn narrower(a: Cache, b: Cache) -> Cache {
    match (a, b) {
        (Cache::Never, _) | (_, Cache::Never) => Cache::Never,
        (Cache::Connection, _) | (_, Cache::Connection) => Cache::Connection,
        (Cache::Address, Cache::Address) => Cache::Address,
    }
}
