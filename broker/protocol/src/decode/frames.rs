//! The frames of one WebSocket message.

use super::{binary, json};
use crate::client::Frame;
use crate::error::{DecodeError, Problem};
use crate::limits::BAD_FRAMES_MAX;
use crate::wire;

/// What [`json_frames`] and [`binary_frames`] give.
pub trait Frames<'a>: Iterator<Item = Result<Frame<'a>, DecodeError>> {
    /// What of the message has not been read: the frames that come next.
    fn rest(&self) -> &'a [u8];
}

/// Reads consecutive JSON values, each a frame, with any white space between them: one frame over several
/// lines is as good as one frame per line.
///
/// A value that is JSON but not a frame yields an error and reading goes on behind it. Where the text is not
/// JSON, and after [`BAD_FRAMES_MAX`] bad frames, the iterator yields the error and ends.
pub fn json_frames(message: &[u8]) -> JsonFrames<'_> {
    match std::str::from_utf8(message) {
        Ok(rest) => JsonFrames { rest, bad_count: 0, not_utf8: false },
        Err(_) => JsonFrames { rest: "", bad_count: 0, not_utf8: true },
    }
}

/// Iterator of [`json_frames`].
#[derive(Debug, Clone)]
pub struct JsonFrames<'a> {
    rest: &'a str,
    bad_count: usize,
    not_utf8: bool,
}

impl<'a> Iterator for JsonFrames<'a> {
    type Item = Result<Frame<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if std::mem::take(&mut self.not_utf8) {
            return Some(Err(DecodeError::new(None, Problem::NotUtf8)));
        }
        let text = self.rest;
        let mut values = serde_json::Deserializer::from_str(text).into_iter();
        let fields = values.next()?;
        let len = if fields.is_ok() { Some(values.byte_offset()) } else { json::value_len(text) };
        self.rest = len.and_then(|len| text.get(len..)).unwrap_or_default();
        let frame = json::frame(fields, text);
        if frame.is_err() {
            self.bad_count += 1;
            if self.bad_count == BAD_FRAMES_MAX {
                self.rest = "";
            }
        }
        Some(frame)
    }
}

impl<'a> Frames<'a> for JsonFrames<'a> {
    fn rest(&self) -> &'a [u8] {
        self.rest.as_bytes()
    }
}

/// Reads concatenated binary frames.
///
/// A frame that is whole but not valid yields an error and reading goes on behind it. At an incomplete frame,
/// and after [`BAD_FRAMES_MAX`] bad ones, the iterator yields the error and ends.
pub const fn binary_frames(message: &[u8]) -> BinaryFrames<'_> {
    BinaryFrames { rest: message, bad_count: 0 }
}

/// Iterator of [`binary_frames`].
#[derive(Debug, Clone)]
pub struct BinaryFrames<'a> {
    rest: &'a [u8],
    bad_count: usize,
}

impl<'a> Iterator for BinaryFrames<'a> {
    type Item = Result<Frame<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = match wire::split(self.rest) {
            Ok(raw) => {
                self.rest = self.rest.get(raw.consumed..).unwrap_or_default();
                binary::frame(raw)
            }
            Err(problem) => {
                self.rest = &[];
                Err(DecodeError::new(None, problem))
            }
        };
        if frame.is_err() {
            self.bad_count += 1;
            if self.bad_count == BAD_FRAMES_MAX {
                self.rest = &[];
            }
        }
        Some(frame)
    }
}

impl<'a> Frames<'a> for BinaryFrames<'a> {
    fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a message from each of its frames on: what is left of it gives the frames that are left.
    fn check<'a, F: Frames<'a>>(message: &'a [u8], read: impl Fn(&'a [u8]) -> F, count: usize) {
        let all: Vec<_> = read(message).collect();
        assert_eq!(all.len(), count);
        let mut frames = read(message);
        for begun in 0..count {
            assert_eq!(read(frames.rest()).collect::<Vec<_>>(), all[begun..], "{begun}");
            frames.next();
        }
        assert_eq!((frames.rest().trim_ascii(), frames.next()), (&[][..], None));
    }

    #[test]
    fn what_is_left_of_a_message_is_a_message() {
        let text = b"{\"type\":\"ping\"}\n {\"type\":\"nonsense\"}{\"type\":\"disconnect\"}\n";
        check(text, json_frames, 3);
        let ping = [0x0e, 1, 0, 0, 0, 0];
        check(&[ping, [0x7f, 1, 0, 0, 0, 0], ping].concat(), binary_frames, 3);
    }
}
