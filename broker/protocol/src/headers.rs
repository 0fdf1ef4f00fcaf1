//! The encoded form of headers, in which a message carries them through the broker.
//!
//! ```text
//! count u16 | count x ( name_len u16 | name | value_len u16 | value )      little-endian
//! ```
//! No bytes at all also means no headers. Binary frames copy a block as it is, JSON frames walk it.

use crate::wire::{Reader, put_text16};
use std::borrow::Cow;
use waspmq_core::limits::{HEADER_BYTES_MAX, HEADERS_MAX};

/// Why headers are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("more than {max} headers")]
    TooMany { max: usize },
    #[error("headers have more than {max} bytes")]
    TooLong { max: usize },
    #[error("header with an empty name")]
    EmptyName,
    #[error("header {name:?} is there twice")]
    Duplicate { name: String },
    #[error("headers end early or are not UTF-8")]
    Malformed,
}

/// An encoded block of headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeaderBlock<'a>(&'a [u8]);

impl<'a> HeaderBlock<'a> {
    /// No headers.
    pub const EMPTY: Self = Self(&[]);

    /// A block written by [`Self::encode`]. Other bytes are safe to pass but make unreadable frames.
    pub const fn from_encoded(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Appends the block of `pairs` to `out`, nothing when there are none.
    ///
    /// # Errors
    /// When a bound of [`waspmq_core::limits`] is broken, a name is empty or there twice; `out` is unchanged then.
    pub fn encode(
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
        out: &mut Vec<u8>,
    ) -> Result<(), HeaderError> {
        check(pairs)?;
        write(pairs, out);
        Ok(())
    }

    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are no headers.
    pub const fn is_empty(self) -> bool {
        matches!(self.0, [] | [0, 0])
    }

    /// The pairs in order. A malformed block ends early.
    pub fn iter(self) -> Pairs<'a> {
        let mut reader = Reader::new(self.0);
        let left = reader.u16().unwrap_or(0);
        Pairs { reader, left }
    }
}

impl<'a> IntoIterator for HeaderBlock<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = Pairs<'a>;

    fn into_iter(self) -> Pairs<'a> {
        self.iter()
    }
}

/// Iterator over the names and values of a [`HeaderBlock`].
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    reader: Reader<'a>,
    left: u16,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some((self.reader.text16()?, self.reader.text16()?))
    }
}

/// Checks count, size, and that names are there and distinct.
pub(crate) fn check(pairs: &[(impl AsRef<str>, impl AsRef<str>)]) -> Result<(), HeaderError> {
    if pairs.len() > HEADERS_MAX {
        return Err(HeaderError::TooMany { max: HEADERS_MAX });
    }
    let mut bytes = 0_usize;
    for (index, (name, value)) in pairs.iter().enumerate() {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(HeaderError::EmptyName);
        }
        if pairs.iter().take(index).any(|(other, _)| other.as_ref() == name) {
            return Err(HeaderError::Duplicate { name: crate::error::prefix(name, 64).to_owned() });
        }
        bytes = bytes.saturating_add(name.len()).saturating_add(value.as_ref().len());
    }
    if bytes > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLong { max: HEADER_BYTES_MAX });
    }
    Ok(())
}

/// Appends the block of checked pairs, nothing when there are none.
pub(crate) fn write(pairs: &[(impl AsRef<str>, impl AsRef<str>)], out: &mut Vec<u8>) {
    if pairs.is_empty() {
        return;
    }
    let count = u16::try_from(pairs.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in pairs {
        put_text16(out, name.as_ref());
        put_text16(out, value.as_ref());
    }
}

/// The pairs of a decoded frame.
pub(crate) type Borrowed<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Reads a block off the front of `reader` and checks it.
pub(crate) fn read<'a>(reader: &mut Reader<'a>) -> Result<Borrowed<'a>, HeaderError> {
    let count = usize::from(reader.u16().ok_or(HeaderError::Malformed)?);
    if count > HEADERS_MAX {
        return Err(HeaderError::TooMany { max: HEADERS_MAX });
    }
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.text16().ok_or(HeaderError::Malformed)?;
        let value = reader.text16().ok_or(HeaderError::Malformed)?;
        pairs.push((Cow::Borrowed(name), Cow::Borrowed(value)));
    }
    check(&pairs)?;
    Ok(pairs)
}
