//! Compressed messages through the decoder (RFC 7692, 6 and 7.2), on hand-made frames.

mod support;

use support::{FIN, Seen, decode_all, decode_all_deflate, decode_reads_with, deflated, frame, payload_of};
use waspmq_transport::limits::DEFLATE_OVERHEAD_BYTES;
use waspmq_transport::websocket::{
    Decoded, Decoder, Deflater, Event, Inflater, Limits, Opcode, Violation, begin_frame,
};

const COMPRESSED: u8 = 0x40;
const TEXT: u8 = FIN | 1;
const BINARY: u8 = FIN | 2;
const PING: u8 = FIN | 9;

/// Frames in, events out.
fn check(frames: &[Vec<u8>], expected: &[Seen]) {
    assert_eq!(decode_all_deflate(&frames.concat(), &Limits::SESSION), expected, "{frames:x?}");
}

fn check_fails(frames: &[Vec<u8>], violation: Violation) {
    check(frames, &[Seen::Failed(violation)]);
}

fn text(content: &str) -> Seen {
    Seen::Text(content.to_owned())
}

fn ping() -> (Vec<u8>, Seen) {
    (frame(PING, b"p"), Seen::Ping(b"p".to_vec()))
}

#[test]
fn messages_in_one_frame() {
    check(&[frame(COMPRESSED | TEXT, &deflated("Grüße".as_bytes()))], &[text("Grüße")]);
    check(&[frame(COMPRESSED | BINARY, &deflated(&[0xfe; 70_000]))], &[Seen::Binary(vec![0xfe; 70_000])]);
    check(&[frame(COMPRESSED | TEXT, &deflated(b""))], &[text("")]);
    check(&[frame(COMPRESSED | TEXT, b"")], &[text("")]);
}

/// Compression is a matter of each message (RFC 7692, 6).
#[test]
fn plain_and_compressed_messages_alternate() {
    check(
        &[
            frame(TEXT, b"plain"),
            frame(COMPRESSED | TEXT, &deflated(b"compressed")),
            frame(BINARY, b"plain"),
            frame(COMPRESSED | BINARY, &deflated(b"compressed")),
        ],
        &[
            text("plain"),
            text("compressed"),
            Seen::Binary(b"plain".to_vec()),
            Seen::Binary(b"compressed".to_vec()),
        ],
    );
}

/// Fragments are cut from the compressed bytes, wherever; only the first has the bit (RFC 7692, 6.1).
#[test]
fn fragments() {
    let content = "ein Text über alles Mögliche ".repeat(9);
    let compressed = deflated(content.as_bytes());
    let (ping, pinged) = ping();
    for cut in 0..=compressed.len() {
        let (first, last) = compressed.split_at(cut);
        check(
            &[
                frame(COMPRESSED | 1, first),
                ping.clone(),
                frame(0, b""),
                frame(FIN, last),
                frame(TEXT, "é".as_bytes()),
            ],
            &[pinged.clone(), text(&content), text("é")],
        );
    }
}

#[test]
fn the_bit_where_it_may_not_be() {
    let compressed = deflated(b"Hello");
    for opcode in [8, 9, 10] {
        check_fails(&[frame(COMPRESSED | FIN | opcode, b"")], Violation::ReservedBits);
    }
    check_fails(&[frame(COMPRESSED | 1, &compressed), frame(COMPRESSED | FIN, b"")], Violation::ReservedBits);
    check_fails(&[frame(1, b"a"), frame(COMPRESSED | FIN, b"")], Violation::ReservedBits);
    for bits in [0x10, 0x20, 0x30, 0x50, 0x60, 0x70] {
        check_fails(&[frame(bits | TEXT, &compressed)], Violation::ReservedBits);
    }
    for opcode in [3, 7, 11, 15] {
        check_fails(&[frame(COMPRESSED | FIN | opcode, b"")], Violation::ReservedBits);
    }
    // Not negotiated.
    let events = decode_all(&frame(COMPRESSED | TEXT, &compressed), &Limits::SESSION);
    assert_eq!(events, [Seen::Failed(Violation::ReservedBits)]);
}

#[test]
fn broken_streams_and_broken_texts() {
    check_fails(&[frame(COMPRESSED | TEXT, &[0xff; 9])], Violation::CompressedData);
    let compressed = deflated(b"a message that is cut");
    check_fails(&[frame(COMPRESSED | TEXT, &compressed[..7])], Violation::CompressedData);
    for wrong in [&b"\xff"[..], b"half \xc3", b"\xed\xa0\x80"] {
        check_fails(&[frame(COMPRESSED | TEXT, &deflated(wrong))], Violation::TextUtf8);
        check(&[frame(COMPRESSED | BINARY, &deflated(wrong))], &[Seen::Binary(wrong.to_vec())]);
    }
}

/// The limit is of the plain bytes; a stream that is longer than its message may pass it a little.
#[test]
fn limits() {
    let limits = Limits { message_bytes_max: 1_000, ..Limits::SESSION };
    let seen = |frames: &[Vec<u8>]| decode_all_deflate(&frames.concat(), &limits);
    assert_eq!(seen(&[frame(COMPRESSED | BINARY, &deflated(&[7; 1_000]))]), [Seen::Binary(vec![7; 1_000])]);
    let too_long = [Seen::Failed(Violation::MessageTooLong)];
    assert_eq!(seen(&[frame(COMPRESSED | BINARY, &deflated(&[7; 1_001]))]), too_long);
    let empty_block = [0x00, 0x00, 0x00, 0xff, 0xff];
    let padded = |blocks: usize| [empty_block.repeat(blocks), deflated(&[7; 1_000])].concat();
    let most = (1_000 + DEFLATE_OVERHEAD_BYTES - deflated(&[7; 1_000]).len()) / empty_block.len();
    let (fits, passes) = (padded(most), padded(most + 1));
    assert_eq!(seen(&[frame(COMPRESSED | BINARY, &fits)]), [Seen::Binary(vec![7; 1_000])]);
    assert_eq!(seen(&[frame(COMPRESSED | BINARY, &passes)]), too_long);
    assert_eq!(
        seen(&[frame(COMPRESSED | 2, &passes[..2_000]), frame(FIN, &passes[2_000..])]),
        too_long,
        "refused from the header"
    );
    let stranger = decode_all_deflate(
        &frame(COMPRESSED | BINARY, &deflated(&vec![0; Limits::STRANGER.message_bytes_max + 1])),
        &Limits::STRANGER,
    );
    assert_eq!(stranger, too_long);
}

/// A plain message costs a connection that negotiated nothing: it is not copied, and the inflater stays empty.
#[test]
fn plain_messages_do_not_touch_the_inflater() {
    let mut inflater = Inflater::default();
    let mut bytes = frame(BINARY, &[1; 2_000]);
    let decoded = Decoder::new().decode(&mut bytes, Some(&mut inflater), &Limits::SESSION).unwrap();
    let Event::Message { data: std::borrow::Cow::Borrowed(data), compressed_bytes: None, .. } = decoded.event
    else {
        panic!("{decoded:?}")
    };
    assert_eq!(data, [1; 2_000]);
    assert_eq!(inflater.held_bytes(), 0);
}

#[test]
fn a_message_says_how_long_it_was_on_the_wire() {
    let compressed = deflated(&[7; 500]);
    let frames = [frame(COMPRESSED | 2, &compressed[..4]), frame(FIN, &compressed[4..])];
    for mut bytes in [frame(COMPRESSED | BINARY, &compressed), frames.concat()] {
        let mut inflater = Inflater::default();
        let decoded = Decoder::new().decode(&mut bytes, Some(&mut inflater), &Limits::SESSION).unwrap();
        let Event::Message { compressed_bytes, data, .. } = decoded.event else { panic!("{decoded:?}") };
        assert_eq!((compressed_bytes, &data[..]), (Some(compressed.len()), &[7; 500][..]));
    }
}

/// Connections whose messages arrive at the same time share one inflater.
#[test]
fn an_inflater_serves_many_connections_at_once() {
    let streams: Vec<(String, Vec<u8>)> = (0..20)
        .map(|i| {
            let content = format!("message of connection {i} ").repeat(30);
            let compressed = deflated(content.as_bytes());
            let (first, last) = compressed.split_at(i);
            (content, [frame(COMPRESSED | 1, first), frame(FIN, last)].concat())
        })
        .collect();
    let mut inflater = Inflater::default();
    let mut connections: Vec<_> = streams.iter().map(|_| (Decoder::new(), Vec::new(), Vec::new())).collect();
    let longest = streams.iter().map(|(_, bytes)| bytes.len()).max().unwrap();
    for at in (0..longest).step_by(7) {
        for ((_, stream), (decoder, buffer, seen)) in streams.iter().zip(&mut connections) {
            buffer.extend_from_slice(stream.get(at..stream.len().min(at + 7)).unwrap_or_default());
            let Decoded { consumed, event } =
                decoder.decode(buffer, Some(&mut inflater), &Limits::SESSION).unwrap();
            seen.extend(support::seen(event));
            buffer.drain(..consumed);
        }
    }
    for ((content, _), (_, _, seen)) in streams.iter().zip(&connections) {
        assert_eq!(*seen, [text(content)]);
    }
}

/// The frames of the broker are those of a client but for the mask.
#[test]
fn what_the_broker_writes_is_read_back() {
    let mut deflater = Deflater::new(6);
    for length in [0usize, 1, 100, 125, 126, 4_000, 65_535, 65_536, 400_000] {
        let payload: Vec<u8> = (0..length).map(|i| b'a' + u8::try_from(i * i % 23).unwrap()).collect();
        let mut out = Vec::new();
        let start = begin_frame(&mut out);
        out.extend_from_slice(&payload);
        let is_compressed = deflater.end_frame(&mut out, start, Opcode::Text);
        assert_eq!(is_compressed, length > 20, "{length}");
        let bytes = frame(out[0], payload_of(&out));
        let mut inflater = Inflater::default();
        let (seen, _) = decode_reads_with([&bytes[..]], Some(&mut inflater), &Limits::SESSION);
        assert_eq!(seen, [Seen::Text(String::from_utf8(payload).unwrap())], "{length}");
    }
}
