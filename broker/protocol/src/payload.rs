//! The one check of a JSON payload: one complete value of RFC 8259, bounded in depth, without lone surrogates.
//!
//! A payload that passed can be copied into a frame of either profile: it is one line, and every JSON parser
//! with at least [`limits::JSON_DEPTH_MAX`] levels reads it. The walk is iterative, so no input can exhaust the
//! stack, and it touches each byte once. Deliberately not here: whether a number fits any machine type, and
//! whether an object names a member twice; RFC 8259 allows both.

use crate::profile::Content;
use crate::scan;
use std::borrow::Cow;
use waspmq_core::limits;

/// Why bytes are not an acceptable JSON payload. Offsets count bytes from the start of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("not UTF-8 at byte {at}")]
    NotUtf8 { at: usize },
    #[error("not JSON at byte {at}: expected {expected}")]
    Syntax { at: usize, expected: &'static str },
    #[error("nested deeper than {max} at byte {at}")]
    TooDeep { at: usize, max: usize },
    #[error("lone surrogate escape at byte {at}")]
    LoneSurrogate { at: usize },
    #[error("payload_b64 is not base64")]
    NotBase64,
}

/// Checks that `payload` is one JSON value and returns it as one line: raw CR and LF between tokens become
/// spaces. Borrowed when nothing had to change.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn validate_json(payload: &[u8]) -> Result<Cow<'_, [u8]>, PayloadError> {
    match std::str::from_utf8(payload) {
        Ok(text) => validate_text(text),
        Err(error) => Err(PayloadError::NotUtf8 { at: error.valid_up_to() }),
    }
}

/// A payload of the binary profile. One that claims to be JSON comes back as one line without white space around
/// it, as the JSON profile would have had it.
pub(crate) fn one_line(content: Content, payload: &[u8]) -> Result<Cow<'_, [u8]>, PayloadError> {
    match content {
        Content::Bytes => Ok(Cow::Borrowed(payload)),
        Content::Json => Ok(match validate_json(payload)? {
            Cow::Borrowed(line) => Cow::Borrowed(line.trim_ascii()),
            Cow::Owned(line) => Cow::Owned(line.trim_ascii().to_vec()),
        }),
    }
}

/// [`validate_json`] for what is known to be UTF-8.
pub(crate) fn validate_text(text: &str) -> Result<Cow<'_, [u8]>, PayloadError> {
    let mut walk = Walk { bytes: text.as_bytes(), at: 0, depth: 0, objects: 0, has_line_breaks: false };
    walk.document()?;
    if !walk.has_line_breaks {
        return Ok(Cow::Borrowed(text.as_bytes()));
    }
    // In a valid value line breaks occur only between tokens, where any white space is the same.
    let line = text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect();
    Ok(Cow::Owned(line))
}

/// A walk over one value. `objects` holds one bit for each open container, the innermost lowest: 1 for an
/// object, 0 for an array.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    objects: u64,
    has_line_breaks: bool,
}

impl Walk<'_> {
    fn document(&mut self) -> Result<(), PayloadError> {
        loop {
            let opened = self.value()?;
            if !opened && self.after_value()? {
                return Ok(());
            }
        }
    }

    /// Reads a scalar, an empty container, or the start of a container up to its first value; true for the last.
    fn value(&mut self) -> Result<bool, PayloadError> {
        match self.token() {
            Some(b'"') => self.string().map(|()| false),
            Some(b'{') => {
                self.open(1)?;
                if self.token() == Some(b'}') {
                    self.close();
                    return Ok(false);
                }
                self.name().map(|()| true)
            }
            Some(b'[') => {
                self.open(0)?;
                if self.token() == Some(b']') {
                    self.close();
                    return Ok(false);
                }
                Ok(true)
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b't') => self.word(b"true").map(|()| false),
            Some(b'f') => self.word(b"false").map(|()| false),
            Some(b'n') => self.word(b"null").map(|()| false),
            _ => Err(self.expected("a value")),
        }
    }

    /// Closes what ends here and stands before the next value; true when the whole document ended.
    fn after_value(&mut self) -> Result<bool, PayloadError> {
        loop {
            let next = self.token();
            if self.depth == 0 {
                return if next.is_none() { Ok(true) } else { Err(self.expected("the end")) };
            }
            let in_object = self.objects & 1 == 1;
            match next {
                Some(b',') => {
                    self.at += 1;
                    if in_object {
                        self.name()?;
                    }
                    return Ok(false);
                }
                Some(b'}') if in_object => self.close(),
                Some(b']') if !in_object => self.close(),
                _ if in_object => return Err(self.expected("`,` or `}`")),
                _ => return Err(self.expected("`,` or `]`")),
            }
        }
    }

    fn open(&mut self, object: u64) -> Result<(), PayloadError> {
        if self.depth == limits::JSON_DEPTH_MAX {
            return Err(PayloadError::TooDeep { at: self.at, max: limits::JSON_DEPTH_MAX });
        }
        self.depth += 1;
        self.objects = (self.objects << 1) | object;
        self.at += 1;
        Ok(())
    }

    const fn close(&mut self) {
        self.depth -= 1;
        self.objects >>= 1;
        self.at += 1;
    }

    /// A member's name and its colon.
    fn name(&mut self) -> Result<(), PayloadError> {
        if self.token() != Some(b'"') {
            return Err(self.expected("a name"));
        }
        self.string()?;
        if self.token() != Some(b':') {
            return Err(self.expected("`:`"));
        }
        self.at += 1;
        Ok(())
    }

    /// A string, from its opening quote.
    fn string(&mut self) -> Result<(), PayloadError> {
        self.at += 1;
        loop {
            self.at += scan::plain_run(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.expected("a string to end")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), PayloadError> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => match self.unit()? {
                0xdc00..=0xdfff => Err(PayloadError::LoneSurrogate { at: start }),
                0xd800..=0xdbff => self.low_surrogate(start),
                _ => Ok(()),
            },
            _ => Err(self.expected("an escape")),
        }
    }

    /// The second half of a pair whose first half began at `start`.
    fn low_surrogate(&mut self, start: usize) -> Result<(), PayloadError> {
        let lone = PayloadError::LoneSurrogate { at: start };
        if self.peek() != Some(b'\\') || self.bytes.get(self.at + 1) != Some(&b'u') {
            return Err(lone);
        }
        self.at += 1;
        if matches!(self.unit()?, 0xdc00..=0xdfff) { Ok(()) } else { Err(lone) }
    }

    /// The four digits of an escape, from its `u`.
    fn unit(&mut self) -> Result<u32, PayloadError> {
        self.at += 1;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.expected("a hexadecimal digit"));
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), PayloadError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), PayloadError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(self.expected("a digit")) } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), PayloadError> {
        if !self.bytes.get(self.at..).unwrap_or_default().starts_with(word) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// The next byte that is not white space.
    fn token(&mut self) -> Option<u8> {
        loop {
            let byte = self.peek();
            match byte {
                Some(b' ' | b'\t') => {}
                Some(b'\n' | b'\r') => self.has_line_breaks = true,
                _ => return byte,
            }
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    const fn expected(&self, expected: &'static str) -> PayloadError {
        PayloadError::Syntax { at: self.at, expected }
    }
}
