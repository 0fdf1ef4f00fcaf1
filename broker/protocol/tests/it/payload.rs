//! The payload check against a table and against serde_json.

use proptest::prelude::*;
use serde_json::Value;
use waspmq_core::limits::JSON_DEPTH_MAX;
use waspmq_protocol::payload::{PayloadError, validate_json};

#[derive(Debug, PartialEq)]
enum Expect {
    Same,
    Line(&'static str),
    Bad(&'static str),
}
use Expect::{Bad, Line, Same};

fn check(payload: &[u8], expect: &Expect) {
    let shown = String::from_utf8_lossy(payload);
    match (validate_json(payload), expect) {
        (Ok(std::borrow::Cow::Borrowed(same)), Same) => assert_eq!(same, payload, "{shown}"),
        (Ok(std::borrow::Cow::Owned(line)), Line(expected)) => {
            assert_eq!(String::from_utf8_lossy(&line), *expected, "{shown}");
        }
        (Err(error), Bad(expected)) => assert_eq!(error.to_string(), *expected, "{shown}"),
        (found, expected) => panic!("{shown}: {found:?} instead of {expected:?}"),
    }
}

#[test]
fn values() {
    for payload in [
        "0",
        "-0",
        "10",
        "1.5",
        "1e9",
        "1E+9",
        "-1.25e-300",
        "1e999",
        "true",
        "false",
        "null",
        "\"\"",
        "{}",
        "[]",
        " [ ] ",
        "\t{ }\t",
        "[1,2]",
        "{\"a\":1}",
        "{\"a\":{\"b\":[{},[]]},\"a\":2}",
        "\"\u{7f}ü😀\"",
        r#""\"\\\/\b\f\n\r\tA""#,
        r#""\ud83d\ude00""#,
        r#""퟿""#,
        "\"\u{2028}\"",
        "[\"a long plain text\", 1]",
    ] {
        check(payload.as_bytes(), &Same);
    }
}

#[test]
fn line_breaks() {
    check(b"{\r\n\"a\":\n1}\n", &Line("{  \"a\": 1} "));
    check(b"\n1", &Line(" 1"));
    check(b"[1,\r2]", &Line("[1, 2]"));
    check(b"\"a\nb\"", &Bad("not JSON at byte 2: expected a string to end"));
    check(br#""a\nb""#, &Same);
}

#[test]
fn faults() {
    check(b"", &Bad("not JSON at byte 0: expected a value"));
    check(b"  ", &Bad("not JSON at byte 2: expected a value"));
    check(b"\xef\xbb\xbf1", &Bad("not JSON at byte 0: expected a value"));
    check(b"1 2", &Bad("not JSON at byte 2: expected the end"));
    check(b"{}}", &Bad("not JSON at byte 2: expected the end"));
    check(b"01", &Bad("not JSON at byte 1: expected the end"));
    check(b"+1", &Bad("not JSON at byte 0: expected a value"));
    check(b"-", &Bad("not JSON at byte 1: expected a digit"));
    check(b"1.", &Bad("not JSON at byte 2: expected a digit"));
    check(b".5", &Bad("not JSON at byte 0: expected a value"));
    check(b"1e", &Bad("not JSON at byte 2: expected a digit"));
    check(b"1e+", &Bad("not JSON at byte 3: expected a digit"));
    check(b"NaN", &Bad("not JSON at byte 0: expected a value"));
    check(b"nul", &Bad("not JSON at byte 0: expected a value"));
    check(b"truex", &Bad("not JSON at byte 4: expected the end"));
    check(b"[1,]", &Bad("not JSON at byte 3: expected a value"));
    check(b"[1 2]", &Bad("not JSON at byte 3: expected `,` or `]`"));
    check(b"[1}", &Bad("not JSON at byte 2: expected `,` or `]`"));
    check(b"{\"a\":1]", &Bad("not JSON at byte 6: expected `,` or `}`"));
    check(b"{\"a\":1,}", &Bad("not JSON at byte 7: expected a name"));
    check(b"{a:1}", &Bad("not JSON at byte 1: expected a name"));
    check(b"{\"a\" 1}", &Bad("not JSON at byte 5: expected `:`"));
    check(b"{\"a\":}", &Bad("not JSON at byte 5: expected a value"));
    check(b"[", &Bad("not JSON at byte 1: expected a value"));
    check(b"{\"a\":1", &Bad("not JSON at byte 6: expected `,` or `}`"));
    check(b"'a'", &Bad("not JSON at byte 0: expected a value"));
    check(b"1 // x", &Bad("not JSON at byte 2: expected the end"));
    check(b"\"a", &Bad("not JSON at byte 2: expected a string to end"));
    check(b"\"\x01\"", &Bad("not JSON at byte 1: expected a string to end"));
    check(br#""\x""#, &Bad("not JSON at byte 2: expected an escape"));
    check(br#""\u12g4""#, &Bad("not JSON at byte 5: expected a hexadecimal digit"));
    check(br#""\ud83d""#, &Bad("lone surrogate escape at byte 1"));
    check(br#""\ude00""#, &Bad("lone surrogate escape at byte 1"));
    check(br#""\ud83d\ud83d""#, &Bad("lone surrogate escape at byte 1"));
    check(br#""\ud83d\n""#, &Bad("lone surrogate escape at byte 1"));
    check(b"\"\xff\"", &Bad("not UTF-8 at byte 1"));
    check(b"\"\xed\xa0\x80\"", &Bad("not UTF-8 at byte 1"));
    check(b"[1,\x00]", &Bad("not JSON at byte 3: expected a value"));
    check(b"[1,\x0b2]", &Bad("not JSON at byte 3: expected a value"));
}

#[test]
fn depth() {
    let nested = |open: &str, close: &str, depth: usize| open.repeat(depth) + "1" + &close.repeat(depth);
    check(nested("[", "]", JSON_DEPTH_MAX).as_bytes(), &Same);
    check(nested("{\"a\":", "}", JSON_DEPTH_MAX).as_bytes(), &Same);
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        for depth in [JSON_DEPTH_MAX + 1, 200_000] {
            let found = validate_json(nested(open, close, depth).as_bytes()).unwrap_err();
            assert!(matches!(found, PayloadError::TooDeep { max: JSON_DEPTH_MAX, .. }), "{found:?}");
        }
    }
    // Which container closes is remembered at every level.
    let mixed = "[{\"a\":".repeat(JSON_DEPTH_MAX / 2) + "1" + &"}]".repeat(JSON_DEPTH_MAX / 2);
    check(mixed.as_bytes(), &Same);
    let crossed = "[{\"a\":".repeat(JSON_DEPTH_MAX / 2) + "1" + &"]}".repeat(JSON_DEPTH_MAX / 2);
    assert!(validate_json(crossed.as_bytes()).is_err());
}

/// Whether serde_json takes the payload, where it and the check may not differ.
fn serde_accepts(payload: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Value>(payload) {
        Ok(_) => Some(true),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(error) if error.to_string().starts_with("recursion limit") => None,
        Err(_) => Some(false),
    }
}

fn same_as_serde(payload: &[u8]) {
    let found = validate_json(payload);
    if matches!(found, Err(PayloadError::TooDeep { .. })) {
        return;
    }
    let shown = String::from_utf8_lossy(payload);
    if let Some(accepts) = serde_accepts(payload) {
        assert_eq!(found.is_ok(), accepts, "{shown}: {found:?}");
    }
    if let Ok(line) = found {
        assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n')), "{shown}");
        if serde_accepts(payload).is_some() {
            let (before, after): (Value, Value) =
                (serde_json::from_slice(payload).unwrap(), serde_json::from_slice(&line).unwrap());
            assert_eq!(before, after, "{shown}");
        }
    }
}

/// Pieces from which both valid and nearly valid JSON is made.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\"b\":", " ", "\n", "\r", "\t", "1", "-", "0", ".5",
            "e9", "E-", "true", "false", "null", "\\", "\\n", "\\u00", "\\ud83d", "\\ude00", "ü", "\u{0}", "\u{1f}",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Value::from)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nearly_json(payload in pieces()) {
        same_as_serde(&payload);
    }

    #[test]
    fn any_value(value in value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) }.unwrap();
        prop_assert!(validate_json(&text).is_ok());
        same_as_serde(&text);
    }

    #[test]
    fn one_byte_off(value in value(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = serde_json::to_vec(&value).unwrap();
        let at = at.index(text.len());
        text[at] = byte;
        same_as_serde(&text);
    }
}
