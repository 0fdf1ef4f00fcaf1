//! The decoder on hand-made frames: the cases of RFC 6455, section by section.

mod support;

use support::{FIN, KEY, Seen, close, decode_all, decode_reads, frame};
use waspmq_transport::websocket::{Decoder, Event, Limits, Violation};

const TEXT: u8 = FIN | 1;
const BINARY: u8 = FIN | 2;
const CLOSE: u8 = FIN | 8;
const PING: u8 = FIN | 9;
const PONG: u8 = FIN | 10;

fn text(content: &str) -> Seen {
    Seen::Text(content.to_owned())
}

/// Frames in, events out.
fn check(frames: &[Vec<u8>], expected: &[Seen]) {
    assert_eq!(decode_all(&frames.concat(), &Limits::SESSION), expected, "{frames:x?}");
}

fn check_fails(frames: &[Vec<u8>], violation: Violation) {
    check(frames, &[Seen::Failed(violation)]);
}

#[test]
fn example_of_the_rfc() {
    let hello = vec![0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    check(&[hello], &[text("Hello")]);
}

#[test]
fn every_length_form() {
    for length in [0, 1, 124, 125, 126, 127, 128, 65_535, 65_536, 65_537] {
        let payload: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        check(&[frame(BINARY, &payload)], &[Seen::Binary(payload)]);
        check(&[frame(TEXT, &vec![b'*'; length])], &[text(&"*".repeat(length))]);
    }
}

#[test]
fn control_frames() {
    let longest = vec![0xfe; 125];
    check(&[frame(PING, b"")], &[Seen::Ping(vec![])]);
    check(&[frame(PING, &longest)], &[Seen::Ping(longest.clone())]);
    check(
        &[frame(PONG, b"unasked"), frame(PING, b"x")],
        &[Seen::Pong(b"unasked".to_vec()), Seen::Ping(b"x".to_vec())],
    );
    for opcode in [PING, PONG, CLOSE] {
        check_fails(&[frame(opcode, &[0xfe; 126])], Violation::ControlTooLong);
        check_fails(&[frame(opcode & 0x7f, b"")], Violation::ControlFragmented);
    }
}

#[test]
fn reserved_bits_and_opcodes() {
    for bits in 1..=7u8 {
        for opcode in [1, 2, 8, 9, 10] {
            check_fails(&[frame(FIN | bits << 4 | opcode, b"")], Violation::ReservedBits);
        }
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        check_fails(&[frame(FIN | opcode, b"")], Violation::ReservedOpcode);
        check(
            &[frame(TEXT, b"before"), frame(opcode, b"x"), frame(TEXT, b"after")],
            &[text("before"), Seen::Failed(Violation::ReservedOpcode)],
        );
    }
}

#[test]
fn unmasked_frames() {
    for first in [TEXT, BINARY, CLOSE, PING, PONG] {
        check_fails(&[vec![first, 0]], Violation::Unmasked);
    }
}

#[test]
fn length_forms_that_are_not_minimal_or_too_big_for_the_field() {
    let long = |length: u64| [&[BINARY, 0xff][..], &length.to_be_bytes(), &KEY].concat();
    let short = |length: u16| [&[BINARY, 0xfe][..], &length.to_be_bytes(), &KEY].concat();
    check_fails(&[short(125)], Violation::LengthNotMinimal);
    check_fails(&[short(0)], Violation::LengthNotMinimal);
    check_fails(&[long(65_535)], Violation::LengthNotMinimal);
    check_fails(&[long(1)], Violation::LengthNotMinimal);
    check_fails(&[long(1 << 63)], Violation::LengthTopBit);
    check_fails(&[long(u64::MAX)], Violation::LengthTopBit);
    check_fails(&[long(u64::MAX >> 1)], Violation::MessageTooLong);
}

#[test]
fn fragments_and_control_frames_between_them() {
    check(&[frame(1, b"fragment1"), frame(FIN, b"fragment2")], &[text("fragment1fragment2")]);
    check(&[frame(2, b"a"), frame(0, b""), frame(0, b"b"), frame(FIN, b"")], &[Seen::Binary(b"ab".to_vec())]);
    check(&[frame(1, b""), frame(0, b""), frame(FIN, b"")], &[text("")]);
    check(
        &[
            frame(1, b"1"),
            frame(PING, b"p"),
            frame(0, b"2"),
            frame(PONG, b"q"),
            frame(FIN, b"3"),
            frame(TEXT, b"4"),
        ],
        &[Seen::Ping(b"p".to_vec()), Seen::Pong(b"q".to_vec()), text("123"), text("4")],
    );
    check(&[frame(1, b"1"), frame(CLOSE, b"")], &[Seen::Close(1005, String::new())]);
}

#[test]
fn fragments_out_of_order() {
    check_fails(&[frame(FIN, b"x")], Violation::UnexpectedContinuation);
    check_fails(&[frame(0, b"x")], Violation::UnexpectedContinuation);
    check(
        &[frame(1, b"1"), frame(FIN, b"2"), frame(0, b"3")],
        &[text("12"), Seen::Failed(Violation::UnexpectedContinuation)],
    );
    for first in [1, 2, TEXT, BINARY] {
        check_fails(&[frame(1, b"1"), frame(first, b"2")], Violation::UnfinishedMessage);
    }
}

#[test]
fn close_frames() {
    check(&[frame(CLOSE, b"")], &[Seen::Close(1005, String::new())]);
    check(&[frame(CLOSE, &close(1000, b""))], &[Seen::Close(1000, String::new())]);
    let reason = "é".repeat(61) + "x";
    check(&[frame(CLOSE, &close(4001, reason.as_bytes()))], &[Seen::Close(4001, reason)]);
    check_fails(&[frame(CLOSE, &[3])], Violation::CloseTooShort);
    check_fails(&[frame(CLOSE, &close(1000, &[0xce, 0xba, 0xed, 0xa0, 0x80]))], Violation::CloseReasonUtf8);
    check_fails(&[frame(CLOSE, &close(1000, &[0xce]))], Violation::CloseReasonUtf8);
    check(&[frame(CLOSE, b""), frame(TEXT, b"late"), vec![0xff; 9]], &[Seen::Close(1005, String::new())]);
}

#[test]
fn every_close_code() {
    for code in 0..=u16::MAX {
        let expected = match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Seen::Close(code, String::new()),
            _ => Seen::Failed(Violation::CloseCode),
        };
        assert_eq!(decode_reads([&frame(CLOSE, &close(code, b""))[..]], &Limits::SESSION).0, [expected]);
    }
}

#[test]
fn text_is_utf8() {
    let valid = [
        "κόσμε",
        "Hello-µ@ßöäüàá-UTF-8!!",
        "\u{0}",
        "\u{7f}\u{80}\u{7ff}\u{800}",
        "\u{d7ff}\u{e000}\u{fffd}\u{ffff}",
        "\u{10000}\u{10ffff}",
    ];
    for content in valid {
        let bytes = content.as_bytes();
        check(&[frame(TEXT, bytes)], &[text(content)]);
        for cut in 0..=bytes.len() {
            check(
                &[frame(1, &bytes[..cut]), frame(PING, b""), frame(FIN, &bytes[cut..])],
                &[Seen::Ping(vec![]), text(content)],
            );
        }
    }
    let invalid: [&[u8]; 21] = [
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80",
        b"\xc0 \xc1 ",
        b"\xc0\xaf",
        b"\xc1\xbf",
        b"\xe0\x80\xaf",
        b"\xe0\x9f\xbf",
        b"\xf0\x80\x80\xaf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf4\x90\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xfe",
        b"\xff",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xe2\x82",
    ];
    for bytes in invalid {
        check_fails(&[frame(TEXT, bytes)], Violation::TextUtf8);
        for cut in 0..=bytes.len() {
            check_fails(&[frame(1, &bytes[..cut]), frame(FIN, &bytes[cut..])], Violation::TextUtf8);
        }
        check(&[frame(BINARY, bytes)], &[Seen::Binary(bytes.to_vec())]);
    }
}

/// The first wrong byte ends it: the rest of the frame, or of the message, need not arrive.
#[test]
fn wrong_text_fails_with_its_first_wrong_byte() {
    let wrong = b"\xce\xba\xe1\xbd\xb9\xf4\x90";
    let whole = frame(TEXT, &[&wrong[..], &[0x80; 1000]].concat());
    let header_bytes = 8;
    let enough = header_bytes + wrong.len();
    assert_eq!(decode_reads([&whole[..enough - 1]], &Limits::SESSION), (vec![], enough - 1));
    assert_eq!(decode_reads([&whole[..enough]], &Limits::SESSION).0, [Seen::Failed(Violation::TextUtf8)]);

    let open = frame(1, &wrong[..6]);
    let next = frame(FIN, &[&wrong[6..], &[0x80; 1000]].concat());
    let stream = [&open[..], &next[..header_bytes + 1]].concat();
    assert_eq!(decode_reads([&stream[..]], &Limits::SESSION).0, [Seen::Failed(Violation::TextUtf8)]);
}

#[test]
fn limits() {
    let limits = Limits { message_bytes_max: 200, fragments_max: 3, control_frames_max: 2 };
    let check = |frames: &[Vec<u8>], expected: &[Seen]| {
        assert_eq!(decode_all(&frames.concat(), &limits), expected, "{frames:x?}");
    };
    let failed = |violation| [Seen::Failed(violation)];
    check(&[frame(BINARY, &[7; 200])], &[Seen::Binary(vec![7; 200])]);
    // The header is enough for a refusal.
    check(&[frame(BINARY, &[7; 201])[..8].to_vec()], &failed(Violation::MessageTooLong));
    check(&[frame(2, &[7; 150]), frame(FIN, &[7; 50])], &[Seen::Binary(vec![7; 200])]);
    check(&[frame(2, &[7; 150]), frame(0, &[7; 51])[..6].to_vec()], &failed(Violation::MessageTooLong));
    check(&[frame(2, b""), frame(0, b""), frame(FIN, b"")], &[Seen::Binary(vec![])]);
    check(
        &[frame(2, b""), frame(0, b""), frame(0, b""), frame(FIN, b"")],
        &failed(Violation::TooManyFragments),
    );
    let ping = Seen::Ping(vec![]);
    check(
        &[frame(2, b""), frame(PING, b""), frame(PING, b""), frame(PONG, b"")],
        &[ping.clone(), ping.clone(), Seen::Failed(Violation::TooManyControlFrames)],
    );
    check(
        &[frame(2, b""), frame(PING, b""), frame(PING, b""), frame(CLOSE, b"")],
        &[ping.clone(), ping, Seen::Close(1005, String::new())],
    );
}

#[test]
fn limits_may_grow_between_messages() {
    let mut decoder = Decoder::new();
    let long = vec![1; Limits::STRANGER.message_bytes_max + 1];
    let mut bytes = frame(BINARY, &long);
    assert!(decoder.decode(&mut bytes, None, &Limits::SESSION).is_ok());
    let mut bytes = frame(BINARY, &long);
    assert_eq!(decoder.decode(&mut bytes, None, &Limits::STRANGER), Err(Violation::MessageTooLong));
}

#[test]
fn need_more_tells_how_much() {
    let mut whole = frame(BINARY, &[1; 300]);
    for (length, expected) in [(0, 6), (1, 6), (2, 8), (7, 8), (8, 308), (307, 308)] {
        let decoded = Decoder::new().decode(&mut whole[..length], None, &Limits::SESSION).unwrap();
        assert_eq!(
            (decoded.consumed, decoded.event),
            (0, Event::NeedMore { at_least: expected }),
            "{length}"
        );
        whole = frame(BINARY, &[1; 300]);
    }
}

/// An announced length costs nothing; fragments cost what has arrived.
#[test]
fn memory_follows_what_arrived() {
    let mut decoder = Decoder::new();
    let mut announced = [&[2, 0xff][..], &(1_000_000u64).to_be_bytes(), &KEY].concat();
    decoder.decode(&mut announced, None, &Limits::SESSION).unwrap();
    assert_eq!(decoder.held_bytes(), 0);
    let mut decoder = Decoder::new();
    let mut fragments = [frame(2, &[1; 100]), frame(0, &[1; 100])].concat();
    decoder.decode(&mut fragments, None, &Limits::SESSION).unwrap();
    assert!((200..=400).contains(&decoder.held_bytes()), "{}", decoder.held_bytes());

    let mut broken = vec![0xff; 2];
    assert_eq!(decoder.decode(&mut broken, None, &Limits::SESSION), Err(Violation::ReservedBits));
    assert_eq!(decoder.held_bytes(), 0, "nothing is kept for a connection that ends");
}
