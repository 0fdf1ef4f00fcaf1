//! Properties of the decoder over generated streams.

mod support;

use proptest::collection::vec;
use proptest::prelude::*;
use support::{FIN, Seen, decode_reads, decode_reads_with, deflated, frame, payload_of};
use waspmq_transport::http;
use waspmq_transport::websocket::{Deflater, Inflater, Limits, Opcode, Violation, begin_frame};

/// A frame a peer might send: mostly sensible, sometimes not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        4 => vec(any::<u8>(), 0..20),
        4 => "\\PC{0,40}".prop_map(String::into_bytes),
        1 => vec(b'a'..=b'z', 120..140),
        1 => vec(b'a'..=b'z', 65_530..65_540),
    ];
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81, 0x82, 0x89, 0x8a]),
        6 => prop::sample::select(vec![0x01, 0x02, 0x00, 0x80]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    (first, payload).prop_map(|(first, payload)| {
        let is_control = first & 8 != 0;
        frame(first, if is_control { &payload[..payload.len().min(125)] } else { &payload })
    })
}

/// A message that is compressed, well or not, in one frame or in two.
fn any_compressed() -> impl Strategy<Value = Vec<u8>> {
    let plain = prop_oneof![
        3 => "\\PC{0,200}".prop_map(String::into_bytes),
        2 => vec(any::<u8>(), 0..300),
        1 => (any::<u8>(), 0usize..80_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let payload = prop_oneof![
        6 => plain.prop_map(|plain| deflated(&plain)),
        1 => vec(any::<u8>(), 0..60),
    ];
    (any::<bool>(), payload, prop::option::of(0usize..300)).prop_map(|(is_text, payload, cut)| {
        let first = 0x40 | if is_text { 1 } else { 2 };
        match cut.and_then(|cut| payload.split_at_checked(cut)) {
            Some((start, end)) => [frame(first, start), frame(FIN, end)].concat(),
            None => frame(FIN | first, &payload),
        }
    })
}

/// A payload of which more or less is alike.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![4 => 0usize..300, 2 => 0usize..5_000, 3 => 0usize..90_000];
    (length, any::<u64>(), any::<u8>()).prop_map(|(length, seed, noise)| {
        let mut state = seed | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let [first, second, ..] = state.to_be_bytes();
            if first <= noise { second } else { b'a' }
        };
        (0..length).map(next).collect()
    })
}

/// `bytes` in pieces: the cuts are given as lengths, the last piece is the rest.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for &length in lengths {
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

proptest! {
    /// Each message is whole by itself, whatever its compressor and the other side's inflater had before.
    #[test]
    fn what_is_compressed_comes_back_in_any_order(
        messages in vec((0usize..3, any_payload()), 1..12),
        levels in prop::array::uniform3(0u8..=9),
        damage in vec(any::<u8>(), 1..40),
    ) {
        let mut deflaters = levels.map(Deflater::new);
        let mut inflater = Inflater::default();
        for (which, payload) in messages {
            let mut out = Vec::new();
            let start = begin_frame(&mut out);
            out.extend_from_slice(&payload);
            let is_compressed = deflaters[which].end_frame(&mut out, start, Opcode::Binary);
            let sent = payload_of(&out);
            if is_compressed {
                prop_assert!(sent.len() < payload.len());
                prop_assert_eq!(inflater.inflate(sent, payload.len()), Ok(&payload[..]));
                let too_long = inflater.inflate(sent, payload.len() - 1);
                prop_assert_eq!(too_long, Err(Violation::MessageTooLong));
                let cut = inflater.inflate(&sent[..sent.len() / 2], payload.len());
                prop_assert_ne!(cut, Ok(&payload[..]));
            } else {
                prop_assert_eq!(sent, &payload[..]);
            }
            _ = inflater.inflate(&damage, 100_000);
            let mut whole = Vec::new();
            deflaters[which].write_frame(Opcode::Binary, &payload, &mut whole);
            prop_assert_eq!(whole[0], 0xc2);
            prop_assert_eq!(inflater.inflate(payload_of(&whole), payload.len()), Ok(&payload[..]));
        }
    }

    #[test]
    fn events_do_not_depend_on_the_reads(
        frames in vec(any_frame(), 0..12),
        lengths in vec(prop_oneof![0usize..8, 0usize..200, 0usize..70_000], 0..40),
    ) {
        let limits = Limits { message_bytes_max: 66_000, fragments_max: 4, control_frames_max: 3 };
        let stream = frames.concat();
        let whole = decode_reads([&stream[..]], &limits);
        prop_assert_eq!(decode_reads(pieces(&stream, &lengths), &limits), whole);
    }

    #[test]
    fn events_of_compressed_messages_do_not_depend_on_the_reads(
        frames in vec(prop_oneof![3 => any_compressed(), 1 => any_frame()], 0..12),
        lengths in vec(prop_oneof![0usize..8, 0usize..200, 0usize..70_000], 0..40),
    ) {
        let limits = Limits { message_bytes_max: 66_000, fragments_max: 4, control_frames_max: 3 };
        let stream = frames.concat();
        let mut inflater = Inflater::default();
        let whole = decode_reads_with([&stream[..]], Some(&mut inflater), &limits);
        let cut = decode_reads_with(pieces(&stream, &lengths), Some(&mut inflater), &limits);
        prop_assert_eq!(cut, whole);
        prop_assert!(inflater.held_bytes() <= 66_001);
    }

    #[test]
    fn compressed_messages_come_back(messages in vec((any::<bool>(), "\\PC{0,300}", 1usize..50), 0..6)) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (is_text, content, times) in messages {
            let content = content.repeat(times);
            let opcode = if is_text { 1 } else { 2 };
            stream.extend(frame(FIN | 0x40 | opcode, &deflated(content.as_bytes())));
            expected.push(if is_text { Seen::Text(content) } else { Seen::Binary(content.into_bytes()) });
        }
        let seen = decode_reads_with([&stream[..]], Some(&mut Inflater::default()), &Limits::SESSION);
        prop_assert_eq!(seen, (expected, 0));
    }

    #[test]
    fn any_fragmentation_is_the_same_message(
        is_text: bool,
        content in "\\PC{0,60}",
        cuts in vec(0usize..30, 0..8),
        pings in vec(any::<bool>(), 8),
    ) {
        let pieces = pieces(content.as_bytes(), &cuts);
        let mut stream = Vec::new();
        for (i, piece) in pieces.iter().enumerate() {
            let opcode = if i > 0 { 0 } else if is_text { 1 } else { 2 };
            let fin = if i + 1 == pieces.len() { FIN } else { 0 };
            stream.extend(frame(fin | opcode, piece));
            if fin == 0 && pings[i] {
                stream.extend(frame(0x89, b"p"));
            }
        }
        let (mut events, rest) = decode_reads([&stream[..]], &Limits::SESSION);
        events.retain(|event| *event != Seen::Ping(b"p".to_vec()));
        let expected = if is_text { Seen::Text(content) } else { Seen::Binary(content.into_bytes()) };
        prop_assert_eq!((events, rest), (vec![expected], 0));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), lengths in vec(0usize..20, 0..20)) {
        decode_reads(pieces(&bytes, &lengths), &Limits::STRANGER);
        decode_reads_with(pieces(&bytes, &lengths), Some(&mut Inflater::default()), &Limits::STRANGER);
    }

    #[test]
    fn random_heads_never_panic(
        lines in vec("(GET|Host|Origin|Upgrade|Connection|Sec-WebSocket-Key|Sec-WebSocket-Extensions|Content-Length|\\PC)(: |/| )[ -~]{0,12}", 0..8),
        noise in vec(any::<u8>(), 0..60),
    ) {
        let head = format!("GET /ws HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        for bytes in [head.as_bytes(), &noise] {
            for end in 0..=bytes.len() {
                match http::parse(&bytes[..end]) {
                    Ok(Some(request)) => prop_assert!(request.head_bytes <= end),
                    Ok(None) => {}
                    Err(refusal) => prop_assert!((400..600).contains(&refusal.status)),
                }
            }
        }
    }
}
