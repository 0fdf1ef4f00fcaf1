//! Fields of JSON frames: found as raw values in one pass, read once the frame's type says which ones count.
//!
//! A field that the type does not have is unknown and ignored, whatever its value, even when another type has
//! one of that name. Text borrows unless it has escapes. Lists and headers stop at their bound while they
//! are read, so a large frame cannot become a much larger value.

use crate::error::Problem;
use crate::limits::LIST_ITEMS_MAX;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use waspmq_core::limits::HEADERS_MAX;

/// A field that may be there.
pub(super) type Raw<'a> = Option<&'a RawValue>;

/// Keeps an explicit `null` apart from an absent field.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Raw<'de>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What a required field holds.
pub(super) fn need<T>(field: Option<T>, name: &str) -> Result<T, Problem> {
    field.ok_or_else(|| Problem::missing(name))
}

/// Text.
pub(super) fn maybe_text<'a>(field: Raw<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
    let Some(raw) = field else { return Ok(None) };
    // The first pass has checked the string, so without escapes it is what stands between the quotes.
    let inner = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.contains('\\') => Ok(Some(Cow::Borrowed(inner))),
        _ => parse::<Text<'a>>(raw, name).map(|text| Some(text.0)),
    }
}

pub(super) fn text<'a>(field: Raw<'a>, name: &str) -> Result<Cow<'a, str>, Problem> {
    need(maybe_text(field, name)?, name)
}

/// A number without sign, fraction and exponent that fits `N`.
pub(super) fn maybe_number<N: TryFrom<u64>>(field: Raw<'_>, name: &str) -> Result<Option<N>, Problem> {
    let Some(raw) = field else { return Ok(None) };
    let number = raw.get().parse::<u64>().ok().and_then(|number| N::try_from(number).ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(Problem::invalid(format!("`{name}` is not a number in its range"))),
    }
}

pub(super) fn maybe_bool(field: Raw<'_>, name: &str) -> Result<Option<bool>, Problem> {
    match field.map(RawValue::get) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Problem::invalid(format!("`{name}` is neither true nor false"))),
    }
}

/// A list of at most [`LIST_ITEMS_MAX`] texts.
pub(super) fn maybe_list<'a>(field: Raw<'a>, name: &str) -> Result<Option<Vec<Cow<'a, str>>>, Problem> {
    field.map(|raw| parse::<List<'a>>(raw, name).map(|list| list.0)).transpose()
}

/// A list of at most `max` values of any kind.
pub(super) fn raw_list<'a>(field: Raw<'a>, name: &str, max: usize) -> Result<Vec<&'a RawValue>, Problem> {
    let raw = need(field, name)?;
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let list = deserializer.deserialize_seq(RawListVisitor { max });
    list.map_err(|error| Problem::invalid(format!("`{name}`: {error}")))
}

struct RawListVisitor {
    max: usize,
}

impl<'de> Visitor<'de> for RawListVisitor {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} entries", self.max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            if list.len() == self.max {
                return Err(A::Error::invalid_length(list.len() + 1, &self));
            }
            list.push(value);
        }
        Ok(list)
    }
}

/// Headers, not checked but for their count; none when the field is absent.
pub(super) fn headers(field: Raw<'_>) -> Result<crate::headers::Borrowed<'_>, Problem> {
    field.map_or_else(|| Ok(Vec::new()), |raw| parse::<Headers<'_>>(raw, "headers").map(|headers| headers.0))
}

/// Reads a raw value. A place in it would mislead, as it does not count from the start of the frame.
pub(super) fn parse<'a, T: Deserialize<'a>>(raw: &'a RawValue, name: &str) -> Result<T, Problem> {
    serde_json::from_str(raw.get()).map_err(|error| {
        let error = error.to_string();
        let (what, _place) = error.rsplit_once(" at line ").unwrap_or((&error, ""));
        Problem::invalid(format!("`{name}`: {what}"))
    })
}

/// Text, borrowed unless it has escapes.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

struct List<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for List<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = List<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {LIST_ITEMS_MAX} texts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(text) = seq.next_element::<Text<'de>>()? {
            if list.len() == LIST_ITEMS_MAX {
                return Err(A::Error::invalid_length(list.len() + 1, &self));
            }
            list.push(text.0);
        }
        Ok(List(list))
    }
}

/// An object of texts, in order; names may repeat here.
struct Headers<'a>(crate::headers::Borrowed<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Headers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Headers<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {HEADERS_MAX} texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers<'de>, A::Error> {
        let mut pairs = Vec::new();
        while let Some((name, value)) = map.next_entry::<Text<'de>, Text<'de>>()? {
            if pairs.len() == HEADERS_MAX {
                return Err(A::Error::invalid_length(pairs.len() + 1, &self));
            }
            pairs.push((name.0, value.0));
        }
        Ok(Headers(pairs))
    }
}
