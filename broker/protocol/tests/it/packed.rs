//! Compressed payloads and dictionaries on the wire, which the binary profile alone has.

use crate::vectors::check_file;
use std::fmt::Write as _;
use std::path::Path;
use waspmq_core::{MessageId, Position, Stream};
use waspmq_protocol::client::{Frame, Publish};
use waspmq_protocol::codec::{DICTIONARY_BYTES_MAX, Packed, PackedCodec, Unpacker};
use waspmq_protocol::server::{MessageFrame, Received, SentDictionary, Welcome};
use waspmq_protocol::{Content, EncodeError, HeaderBlock, Profile, decode, encode, server};

const CODECS: [PackedCodec; 3] =
    [PackedCodec::Lz4, PackedCodec::Zstd, PackedCodec::Dictionary { id: 0x0102_0304 }];

fn publish(codec: PackedCodec) -> Publish<'static> {
    let packed = Some(Packed { codec, plain_bytes: 1_000 });
    Publish {
        packed,
        key: Some("k".into()),
        headers: vec![("k".into(), "v".into())],
        ..Publish::new("user/bob", Content::Json, b"not JSON".as_slice())
    }
}

fn message(codec: PackedCodec) -> MessageFrame<'static> {
    MessageFrame {
        id: MessageId::from_bytes([7; 16]),
        to: "user/bob",
        from: Some("alice"),
        position: Position { stream: Stream { shard: 3, epoch: 1 }, offset: 57 },
        content: Content::Json,
        payload: b"packed",
        packed: Some(Packed { codec, plain_bytes: 1_000 }),
        headers: HeaderBlock::from_encoded(b"\x01\0\x01\0k\x01\0v"),
        key: None,
        priority: 0,
        reply_to: None,
        queue: None,
        attempt: Some(2),
        wants_ack: false,
        unix_ms: 1_790_000_000_000,
    }
}

fn dictionary() -> SentDictionary {
    SentDictionary { id: 0x0102_0304, digest: [9; 32], bytes: b"words".to_vec() }
}

fn binary(encode: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

#[test]
fn a_compressed_publish_is_not_looked_into() {
    for codec in CODECS {
        let frame = Frame::Publish(publish(codec));
        let bytes = binary(|out| encode::client(Profile::Binary, &frame, out).unwrap());
        assert_eq!(decode::binary(&bytes).unwrap(), frame);
        let refused = encode::client(Profile::Json, &frame, &mut Vec::new());
        assert_eq!(refused, Err(EncodeError::PackedText));
    }
}

#[test]
fn a_compressed_message_says_how() {
    for codec in CODECS {
        let bytes = binary(|out| encode::message(Profile::Binary, &message(codec), out));
        let (received, consumed) = decode::server_binary(&bytes).unwrap();
        assert_eq!(consumed, bytes.len());
        let Received::Message(mut received) = received else { panic!("{received:?}") };
        assert_eq!(received.packed, Some(Packed { codec, plain_bytes: 1_000 }));
        assert_eq!((&*received.payload, received.headers.len()), (b"packed".as_slice(), 1));
        assert!(received.unpack(&mut Unpacker::default(), None, 1_000).is_err());
    }
}

#[test]
fn a_codec_that_is_not_known_or_cut_is_an_error() {
    let frame = Frame::Publish(publish(PackedCodec::Zstd));
    let good = binary(|out| encode::client(Profile::Binary, &frame, out).unwrap());
    // The codec is 5 bytes in front of the payload.
    let at = good.len() - b"not JSON".len() - 5;
    for codec in [0, 4, 255] {
        let mut bad = good.clone();
        bad[at] = codec;
        assert!(decode::binary(&bad).is_err(), "codec {codec}");
    }
    for codec in CODECS {
        let whole = binary(|out| encode::message(Profile::Binary, &message(codec), out));
        for end in 6..whole.len() - b"packed".len() {
            let mut cut = whole[..end].to_vec();
            let body = u32::try_from(end - 6).unwrap();
            cut[2..6].copy_from_slice(&body.to_le_bytes());
            assert!(decode::server_binary(&cut).is_err(), "{codec:?} cut at {end}");
        }
    }
}

#[test]
fn a_dictionary_comes_as_it_is() {
    let bytes = binary(|out| encode::dictionary(&dictionary(), out));
    assert_eq!(decode::server_binary(&bytes).unwrap(), (Received::Dictionary(dictionary()), bytes.len()));
    let too_long = SentDictionary { bytes: vec![0; DICTIONARY_BYTES_MAX + 1], ..dictionary() };
    assert!(decode::server_binary(&binary(|out| encode::dictionary(&too_long, out))).is_err());
    let mut cut = bytes[..6 + 35].to_vec();
    cut[2..6].copy_from_slice(&35_u32.to_le_bytes());
    assert!(decode::server_binary(&cut).is_err());
}

#[test]
fn a_welcome_names_the_codecs_that_the_broker_takes() {
    let welcome = |codecs: &[&str]| Welcome {
        session: "0000010000000001".into(),
        resume_token: None,
        node: "n1".into(),
        resumed: false,
        recovered: false,
        heartbeat_ms: 25_000,
        max_message_bytes: 1_048_576,
        codecs: codecs.iter().map(ToString::to_string).collect(),
    };
    let frame = welcome(&["zstd", "lz4"]);
    let bytes = binary(|out| encode::control(Profile::Binary, &server::Frame::Welcome(frame.clone()), out));
    assert_eq!(decode::server_binary(&bytes).unwrap().0, Received::Welcome(frame));
    // An older broker says nothing of them.
    let none = binary(|out| encode::control(Profile::Binary, &server::Frame::Welcome(welcome(&[])), out));
    let mut older = none[..none.len() - 1].to_vec();
    let body = u32::try_from(older.len() - 6).unwrap();
    older[2..6].copy_from_slice(&body.to_le_bytes());
    assert_eq!(decode::server_binary(&older).unwrap().0, Received::Welcome(welcome(&[])));
}

/// The bytes for other implementations: name, then hexadecimal.
#[test]
fn the_file_is_what_is_encoded() {
    let mut page = String::new();
    let mut entry = |name: &str, bytes: Vec<u8>| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(page, "{name}\n{hex}\n").unwrap();
    };
    for codec in CODECS {
        let frame = Frame::Publish(publish(codec));
        let bytes = binary(|out| encode::client(Profile::Binary, &frame, out).unwrap());
        entry(&format!("publish {}", codec.name()), bytes);
        let bytes = binary(|out| encode::message(Profile::Binary, &message(codec), out));
        entry(&format!("message {}", codec.name()), bytes);
    }
    entry("dictionary", binary(|out| encode::dictionary(&dictionary(), out)));
    check_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/packed.txt"), &page);
}
