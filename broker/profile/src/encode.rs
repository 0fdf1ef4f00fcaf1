//! A profile as the protocol buffer `perftools.profiles.Profile`, which is what `go tool pprof` reads.
//!
//! ```text
//!   Profile   1 sample_type*  2 sample*  3 mapping*  4 location*  5 function*  6 string_table*
//!             9 time_nanos  10 duration_nanos  11 period_type  12 period  13 comment*  14 default_sample_type
//!   ValueType 1 type  2 unit                Sample   1 location_id*  2 value*  3 label*
//!   Label     1 key   2 str                 Mapping  1 id  5 filename  7 has_functions
//!   Location  1 id  2 mapping_id  3 address  4 line*          Line  1 function_id
//!   Function  1 id  2 name  3 system_name  4 filename
//! ```
//!
//! Texts are numbers in the string table, of which the first one is empty; ids begin at 1. Functions are named here, so
//! readers need no binary.

use crate::profile::{Kind, Profile};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::io::Write;

pub(crate) fn pprof(profile: &Profile) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&message(profile))?;
    gzip.finish()
}

fn message(profile: &Profile) -> Vec<u8> {
    let mut out = Message::default();
    let mut texts = Texts::default();
    texts.number("");
    for kind in &profile.kinds {
        out.message(1, &value_type(*kind, &mut texts));
    }
    let thread_key = texts.number("thread");
    for sample in &profile.samples {
        let mut encoded = Message::default();
        encoded.packed(1, sample.stack.iter().map(|place| u64::from(*place) + 1));
        encoded.packed(2, sample.values.iter().map(|value| value.cast_unsigned()));
        if let Some(thread) = &sample.thread {
            let mut label = Message::default();
            label.number(1, thread_key);
            label.number(2, texts.number(thread));
            encoded.message(3, &label);
        }
        out.message(2, &encoded);
    }
    places(profile, &mut out, &mut texts);
    let notes: Vec<u64> = profile.notes.iter().map(|note| texts.number(note)).collect();
    out.number(9, profile.started_unix_ns.cast_unsigned());
    out.number(10, profile.duration_ns.cast_unsigned());
    out.message(11, &value_type(profile.period_kind, &mut texts));
    out.number(12, profile.period.cast_unsigned());
    out.packed(13, notes);
    if let Some(kind) = profile.kinds.get(profile.main_kind) {
        out.number(14, texts.number(kind.name));
    }
    for text in texts.in_order() {
        out.bytes(6, text.as_bytes());
    }
    out.0
}

/// Mappings, functions and locations.
fn places<'a>(profile: &'a Profile, out: &mut Message, texts: &mut Texts<'a>) {
    let mut mappings = Numbers::default();
    let mut functions = Numbers::default();
    for (frame, id) in profile.frames.iter().zip(1..) {
        let file = texts.number(&frame.file);
        let (mapping, is_new) = mappings.number(file);
        if is_new {
            let mut encoded = Message::default();
            encoded.number(1, mapping);
            encoded.number(5, file);
            encoded.number(7, 1);
            out.message(3, &encoded);
        }
        let name = texts.number(&frame.name);
        let (function, is_new) = functions.number((name, file));
        if is_new {
            let mut encoded = Message::default();
            encoded.number(1, function);
            encoded.number(2, name);
            encoded.number(3, name);
            encoded.number(4, file);
            out.message(5, &encoded);
        }
        let mut line = Message::default();
        line.number(1, function);
        let mut location = Message::default();
        location.number(1, id);
        location.number(2, mapping);
        location.number(3, frame.address);
        location.message(4, &line);
        out.message(4, &location);
    }
}

fn value_type(kind: Kind, texts: &mut Texts<'_>) -> Message {
    let mut encoded = Message::default();
    encoded.number(1, texts.number(kind.name));
    encoded.number(2, texts.number(kind.unit));
    encoded
}

/// Things by number, from 1 in the order of their first use.
struct Numbers<T>(HashMap<T, u64>);

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: std::hash::Hash + Eq> Numbers<T> {
    /// Its number, and whether it was not there before.
    fn number(&mut self, thing: T) -> (u64, bool) {
        let next = self.0.len() as u64 + 1;
        let number = *self.0.entry(thing).or_insert(next);
        (number, number == next)
    }
}

/// The string table.
#[derive(Default)]
struct Texts<'a>(Numbers<&'a str>);

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a str) -> u64 {
        self.0.number(text).0 - 1
    }

    fn in_order(self) -> Vec<&'a str> {
        let mut texts: Vec<(&str, u64)> = self.0.0.into_iter().collect();
        texts.sort_unstable_by_key(|(_, number)| *number);
        texts.into_iter().map(|(text, _)| text).collect()
    }
}

/// The bytes of one message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn packed(&mut self, field: u32, values: impl IntoIterator<Item = u64>) {
        let mut packed = Self::default();
        for value in values {
            packed.varint(value);
        }
        if !packed.0.is_empty() {
            self.message(field, &packed);
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::tests::example;
    use flate2::read::GzDecoder;
    use std::io::Read;

    #[test]
    fn numbers_are_varints() {
        let check = |value, expected: &[u8]| {
            let mut message = Message::default();
            message.varint(value);
            assert_eq!(message.0, expected);
        };
        check(0, &[0]);
        check(127, &[127]);
        check(128, &[0x80, 1]);
        check(300, &[0xac, 2]);
        check(u64::MAX, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }

    #[test]
    fn a_sample_is_laid_out_as_drawn() {
        let bytes = message(&example());
        // `samples` and `count` are the first two texts behind the empty one.
        assert!(bytes.starts_with(&[0x0a, 4, 0x08, 1, 0x10, 2]), "{:?}", &bytes[..16]);
        // Locations 2 and 1; 3 samples and 30 ms; thread (text 5) worker-0 (text 6).
        let sample = [0x12, 17, 0x0a, 2, 2, 1, 0x12, 5, 3, 0x80, 0x87, 0xa7, 0x0e, 0x1a, 4, 0x08, 5, 0x10, 6];
        assert!(bytes.windows(sample.len()).any(|window| window == sample), "{bytes:?}");
        // The empty text comes first.
        let table = bytes.windows(2).position(|window| window == [0x32, 0]).unwrap();
        assert!(bytes[table..].starts_with(b"\x32\0\x32\x07samples\x32\x05count"), "{:?}", &bytes[table..]);
    }

    #[test]
    fn the_file_is_gzip() {
        let file = pprof(&example()).unwrap();
        let mut plain = Vec::new();
        GzDecoder::new(&*file).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, message(&example()));
    }
}
