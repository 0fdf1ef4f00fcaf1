//! What the encoder writes, byte by byte.

use waspmq_transport::websocket::{
    HEADER_MAX, Opcode, begin_frame, close_code, end_frame, header_bytes, write_close, write_frame,
    write_header, write_ping, write_pong,
};

#[test]
fn headers_are_minimal() {
    for (length, expected) in [
        (0, &[0x82, 0][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (65_535, &[0x82, 126, 0xff, 0xff]),
        (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut out = vec![9];
        write_header(Opcode::Binary, length, &mut out);
        assert_eq!(out[1..], *expected, "{length}");
        assert_eq!(header_bytes(length), expected.len());
        assert!(expected.len() <= HEADER_MAX);
    }
}

/// A frame built in place has the bytes of one written at once, wherever it stands.
#[test]
fn frames_built_in_place() {
    for length in [0usize, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
        let payload: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut expected = b"before".to_vec();
        write_frame(Opcode::Text, &payload, &mut expected);
        write_frame(Opcode::Text, b"next", &mut expected);
        let mut built = b"before".to_vec();
        let start = begin_frame(&mut built);
        built.extend_from_slice(&payload);
        end_frame(&mut built, start, Opcode::Text);
        let start = begin_frame(&mut built);
        built.extend_from_slice(b"next");
        end_frame(&mut built, start, Opcode::Text);
        assert_eq!(built, expected, "{length}");
    }
}

#[test]
fn control_frames() {
    let mut out = Vec::new();
    write_ping(b"a", &mut out);
    write_pong(&[7; 125], &mut out);
    assert_eq!(out[..3], [0x89, 1, b'a']);
    assert_eq!(out[3..5], [0x8a, 125]);
    assert_eq!(out.len(), 5 + 125);
}

#[test]
fn close_frames() {
    let written = |code, reason: &str| {
        let mut out = Vec::new();
        write_close(code, reason, &mut out);
        out
    };
    assert_eq!(written(1000, ""), [0x88, 2, 0x03, 0xe8]);
    assert_eq!(written(4100, "drain"), [&[0x88, 7, 0x10, 0x04][..], b"drain"].concat());
    assert_eq!(written(close_code::NO_STATUS, "not sent"), [0x88, 0]);
    // A two-byte character that would straddle the end is left out.
    let long = written(1000, &"é".repeat(200));
    assert_eq!(long.len(), 2 + 2 + 122);
    assert_eq!(std::str::from_utf8(&long[4..]).unwrap(), "é".repeat(61));
}

#[test]
#[should_panic(expected = "close code 1006 is not for the wire")]
fn a_close_code_that_may_not_be_sent() {
    write_close(1006, "", &mut Vec::new());
}
