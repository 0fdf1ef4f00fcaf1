//! Writing JSON by hand: texts, numbers, objects.

use crate::scan;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Appends `text` as a JSON string.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at_checked(scan::plain_run(rest)).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        let Some((&byte, behind)) = special.split_first() else { break };
        put_escape(out, byte);
        rest = behind;
    }
    out.push(b'"');
}

fn put_escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends a number in decimal.
pub(super) fn put_number(out: &mut Vec<u8>, number: impl Into<u64>) {
    let mut digits = [b'0'; 20];
    let mut left = number.into();
    let mut count = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
        count += 1;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(digits.len() - count..).unwrap_or_default());
}

/// Appends `bytes` as a string of base64.
pub(super) fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = out.get_mut(start..).map(|room| STANDARD.encode_slice(bytes, room));
    debug_assert!(matches!(written, Some(Ok(_))), "the room was computed for these bytes");
    out.push(b'"');
}

/// Appends `start` and a text behind it.
pub(super) fn put_field(out: &mut Vec<u8>, start: &[u8], text: &str) {
    out.extend_from_slice(start);
    put_text(out, text);
}

/// [`put_field`] when there is a text.
pub(super) fn put_maybe(out: &mut Vec<u8>, start: &[u8], text: Option<&str>) {
    if let Some(text) = text {
        put_field(out, start, text);
    }
}

/// Appends `start` and a number behind it.
pub(super) fn put_count(out: &mut Vec<u8>, start: &[u8], number: impl Into<u64>) {
    out.extend_from_slice(start);
    put_number(out, number);
}

/// [`put_count`] when there is a number.
pub(super) fn put_maybe_count(out: &mut Vec<u8>, start: &[u8], number: Option<impl Into<u64>>) {
    if let Some(number) = number {
        put_count(out, start, number);
    }
}

/// Appends a list of texts.
pub(super) fn put_list<'a>(out: &mut Vec<u8>, texts: impl Iterator<Item = &'a str>) {
    out.push(b'[');
    for (index, text) in texts.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_text(out, text);
    }
    out.push(b']');
}

/// Appends an object of texts.
pub(super) fn put_object<'a>(out: &mut Vec<u8>, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    out.push(b'{');
    for (index, (name, value)) in pairs.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_text(out, name);
        out.push(b':');
        put_text(out, value);
    }
    out.push(b'}');
}

pub(super) const fn word(value: bool) -> &'static [u8] {
    if value { b"true" } else { b"false" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_and_numbers_are_what_serde_reads(text in any::<String>(), number in any::<u64>()) {
            let mut out = Vec::new();
            put_text(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            out.clear();
            put_number(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }

        #[test]
        fn base64_is_base64(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            put_base64(&mut out, &bytes);
            prop_assert_eq!(out, format!("\"{}\"", STANDARD.encode(&bytes)).into_bytes());
        }
    }

    #[test]
    fn escapes() {
        let mut out = Vec::new();
        put_text(&mut out, "a\"b\\c\u{1}\n\r\t\u{1f}ü");
        assert_eq!(out, "\"a\\\"b\\\\c\\u0001\\n\\r\\t\\u001fü\"".as_bytes());
    }
}
