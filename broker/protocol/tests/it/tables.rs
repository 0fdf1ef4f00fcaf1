//! Frames by example: what the contract shows is read as it says, and each fault gets its code.

use std::borrow::Cow;
use waspmq_core::Code;
use waspmq_protocol::client::{Acked, Frame, Publish};
use waspmq_protocol::server::Received;
use waspmq_protocol::{Content, HeaderBlock, HeaderError, Level, Profile, decode, encode};

fn json(text: &str) -> Frame<'_> {
    decode::json(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn publish(text: &str) -> Publish<'_> {
    match json(text) {
        Frame::Publish(publish) => publish,
        other => panic!("{text}: {other:?}"),
    }
}

/// One bad JSON frame: its code, the reference that was found, and a part of the message.
fn check_bad(text: &str, code: Code, reference: Option<u64>, part: &str) {
    let error = decode::json(text.as_bytes()).expect_err(text);
    let reject = error.reject();
    assert_eq!((reject.code, error.reference), (code, reference), "{text}: {}", reject.message);
    assert!(reject.message.contains(part), "{text}: {}", reject.message);
}

#[test]
fn frames_of_the_contract() {
    let frames = r#"
{"type":"connect","user":"alice","device":"phone","token":"…","codecs":["zstd","lz4"],"batch":false,"resume":{"token":"…","positions":["s3e1:57"]}}
{"type":"publish","ref":1,"to":"user/bob","payload":{"text":"hi"},"headers":{"k":"v"},"ack":"delivered","dedup":"order-7-v2","ttl_ms":60000,"delay_ms":0,"priority":3,"key":"order-7","reply_to":"user/alice","exclude_self":true}
{"type":"subscribe","ref":2,"to":"topic/orders.>","queue":"workers","from":"now"}
{"type":"unsubscribe","ref":3,"to":"topic/orders.>"}
{"type":"join","ref":4,"group":"eng"}   {"type":"leave","ref":5,"group":"eng"}
{"type":"ack","ids":["01a0c41b780000000102000000000001"],"queue":"workers"}   {"type":"ack","to":"user/bob","upto":"s3e1:57"}
{"type":"nack","id":"01a0c41b780000000102000000000001","reason":"busy","retry_ms":500}
{"type":"history","ref":6,"of":"group/eng","after":"s3e1:40","limit":100}   {"type":"read","of":"group/eng","upto":"s3e1:40"}
{"type":"presence","ref":7,"of":"group/eng"}   {"type":"watch","ref":8,"users":["bob","carol"]}
{"type":"refresh","ref":9,"token":"…"}   {"type":"ping"}   {"type":"disconnect"}
"#;
    let found: Vec<_> = decode::json_frames(frames.as_bytes()).map(Result::unwrap).collect();
    let names: Vec<_> = found.iter().map(|frame| (frame.type_name(), frame.reference())).collect();
    assert_eq!(
        names,
        [
            ("connect", None),
            ("publish", Some(1)),
            ("subscribe", Some(2)),
            ("unsubscribe", Some(3)),
            ("join", Some(4)),
            ("leave", Some(5)),
            ("ack", None),
            ("ack", None),
            ("nack", None),
            ("history", Some(6)),
            ("read", None),
            ("presence", Some(7)),
            ("watch", Some(8)),
            ("refresh", Some(9)),
            ("ping", None),
            ("disconnect", None),
        ]
    );
    assert!(matches!(&found[6], Frame::Ack { what: Acked::Ids(ids), .. } if ids.len() == 1));
    let server = r#"
{"type":"welcome","session":"…","resume_token":"…","node":"…","resumed":false,"recovered":true,"heartbeat_ms":25000,"limits":{"max_message_bytes":1048576}}
{"type":"message","id":"01a0c41b780000000102000000000001","to":"user/bob","from":"alice","pos":"s3e1:57","payload":{"text":"hi"},"headers":{"k":"v"},"ts":1790000000000}
{"type":"receipt","ref":1,"id":"01a0c41b780000000102000000000001","level":"delivered","recipients":1}
{"type":"ok","ref":2}   {"type":"error","ref":1,"code":1403,"name":"forbidden","message":"…","retry_ms":0}
{"type":"overflow","to":"topic/ticks","dropped":17}   {"type":"overflow","to":"topic/ticks","dropped":17,"action":"drop_oldest"}   {"type":"overflow","to":"topic/ticks","dropped":1,"action":"new"}
{"type":"history","ref":6,"of":"group/eng","messages":[{"type":"message","id":"01a0c41b780000000102000000000001","to":"group/eng","pos":"s3e1:57","payload":1,"ts":1,"ack":true}],"more":true,"gap":false,"unread":3}
{"type":"presence","ref":7,"of":"group/eng","users":[{"user":"bob","online":true,"sessions":2,"last_seen":1790000000000,"seq":12}],"more":false}
{"type":"presence","user":"bob","online":false,"last_seen":1790000000000,"seq":13}   {"type":"read","of":"group/eng","upto":"s3e1:40","unread":0}
{"type":"goaway","reason":"drain","reconnect_ms":1500}   {"type":"pong"}   {"type":"close","code":4002,"name":"kicked","message":""}
"#;
    let mut rest = server.as_bytes();
    let mut count = 0;
    while !rest.is_empty() {
        let (received, consumed) = decode::server_json(rest).unwrap();
        assert!(!matches!(received, Received::Unknown { .. }), "{received:?}");
        rest = &rest[consumed..];
        count += 1;
    }
    assert_eq!(count, 15);
}

#[test]
fn publish_defaults() {
    let expected = Publish::new("all", Content::Json, b"1".as_slice());
    assert_eq!(publish(r#"{"type":"publish","to":"all","payload":1}"#), expected);
    let with_reference = Publish { reference: Some(5), ack: Level::Accepted, ..expected.clone() };
    assert_eq!(publish(r#"{"type":"publish","to":"all","payload":1,"ref":5}"#), with_reference);
    let silent = Publish { ack: Level::None, ..with_reference };
    assert_eq!(publish(r#"{"type":"publish","to":"all","payload":1,"ref":5,"ack":"none"}"#), silent);
    // `null` is a payload, and elsewhere the same as absent.
    let null = Publish { payload: b"null".as_slice().into(), ..expected };
    assert_eq!(publish(r#"{"type":"publish","to":"all","payload":null,"ref":null,"key":null}"#), null);
    let bytes = publish(r#"{"type":"publish","to":"all","payload_b64":"AAH+/w=="}"#);
    assert_eq!((bytes.content, bytes.payload.as_ref()), (Content::Bytes, [0, 1, 0xfe, 0xff].as_slice()));
}

#[test]
fn fields_of_other_types_are_unknown_fields() {
    let text =
        r#"{"type":"ping","to":1,"payload":[1],"id":7,"users":{},"headers":0,"batch":"x","resume":[]}"#;
    assert_eq!(json(text), Frame::Ping);
    let odd = publish(
        r#"{"type":"publish","to":"all","payload":1,"id":7,"from":{},"limit":-1,"users":1,"new":[[]]}"#,
    );
    assert_eq!(odd, Publish::new("all", Content::Json, b"1".as_slice()));
    let text = br#"{"type":"ok","ref":2,"level":5,"to":[],"limits":{},"code":"x"}"#;
    assert_eq!(decode::server_json(text).unwrap().0, Received::Ok { reference: Some(2) });
}

#[test]
fn json_borrows_what_has_no_escapes() {
    let plain = publish(r#"{"type":"publish","to":"user/bob","payload":"x","key":"k","headers":{"a":"b"}}"#);
    assert!(matches!(
        plain,
        Publish { to: Cow::Borrowed(_), payload: Cow::Borrowed(_), key: Some(Cow::Borrowed("k")), .. }
    ));
    assert!(matches!(plain.headers[..], [(Cow::Borrowed("a"), Cow::Borrowed("b"))]));
    let escaped = publish(r#"{"type":"publ\u0069sh","to":"user\/b","payload":"\u0041"}"#);
    assert_eq!((escaped.to.as_ref(), escaped.payload.as_ref()), ("user/b", br#""\u0041""#.as_slice()));
}

#[test]
fn one_frame_over_several_lines() {
    let text = "{\n \"type\": \"publish\",\r\n \"to\": \"all\",\n \"payload\": {\n\"a\": [1,\n2]\n}\n}\n";
    let frames: Vec<_> = decode::json_frames(text.as_bytes()).map(Result::unwrap).collect();
    assert_eq!(frames, [json(text)]);
    assert_eq!(publish(text).payload.as_ref(), br#"{ "a": [1, 2] }"#);
}

#[test]
fn a_bad_frame_does_not_hide_the_next() {
    let read = |text: &str| -> Vec<String> {
        let word = |result: Result<Frame<'_>, waspmq_protocol::DecodeError>| match result {
            Ok(frame) => frame.type_name().to_owned(),
            Err(error) => format!("{} {:?}", error.reject().code.name(), error.reference),
        };
        decode::json_frames(text.as_bytes()).map(word).collect()
    };
    assert_eq!(read(""), [""; 0]);
    assert_eq!(read(" \n\r\n "), [""; 0]);
    assert_eq!(read("{\"type\":\"ping\"}\n\n{\"type\":\"ping\"}\n"), ["ping", "ping"]);
    assert_eq!(
        read(r#"{"type":"join","ref":1,"group":5} {"type":"x","ref":2} [1] 7 "a" {"type":"ping"}"#),
        [
            "invalid_frame Some(1)",
            "unknown_type Some(2)",
            "invalid_frame None",
            "invalid_frame None",
            "invalid_frame None",
            "ping"
        ]
    );
    assert_eq!(
        read(r#"{"type":"ping"} {"type":"ping"} {"type": x} {"type":"ping"}"#),
        ["ping", "ping", "invalid_frame None"]
    );
    assert_eq!(read(r#"{"type":"ping"},{"type":"ping"}"#), ["ping", "invalid_frame None"]);
    let found: Vec<_> =
        decode::json_frames(b"\xff").map(|result| result.unwrap_err().reject().code).collect();
    assert_eq!(found, [Code::WrongProfile]);
}

#[test]
fn json_faults() {
    use Code::{InvalidAddress, InvalidFrame, InvalidPayload, UnknownType};
    check_bad("", InvalidFrame, None, "a frame is a JSON object");
    check_bad("x", InvalidFrame, None, "a frame is a JSON object");
    check_bad("{}", InvalidFrame, None, "missing field `type`");
    check_bad("[]", InvalidFrame, None, "a frame is a JSON object");
    check_bad(r#"{"type":5}"#, InvalidFrame, None, "expected a string");
    check_bad(r#"{"type":"ping"} x"#, InvalidFrame, None, "trailing characters");
    check_bad(r#"{"type":"presence2","ref":3}"#, UnknownType, Some(3), "unknown frame type \"presence2\"");
    check_bad(r#"{"type":"later","ref":3,"to":{}}"#, UnknownType, Some(3), "unknown frame type \"later\"");
    check_bad(r#"{"type":"Publish"}"#, UnknownType, None, "Publish");
    check_bad(r#"{"type":"publish","ref":1,"payload":1}"#, InvalidFrame, Some(1), "missing field `to`");
    check_bad(r#"{"type":"publish","ref":1,"to":"all"}"#, InvalidFrame, Some(1), "missing field `payload`");
    check_bad(
        r#"{"type":"publish","ref":1,"to":5,"payload":1}"#,
        InvalidFrame,
        Some(1),
        "`to`: invalid type: integer `5`",
    );
    check_bad(r#"{"type":"publish","ref":-1,"to":"all","payload":1}"#, InvalidFrame, None, "expected u64");
    check_bad(r#"{"type":"publish","ref":1.5,"to":"all","payload":1}"#, InvalidFrame, None, "expected u64");
    check_bad(
        r#"{"type":"publish","ref":1,"to":"all","to":"all","payload":1}"#,
        InvalidFrame,
        Some(1),
        "duplicate",
    );
    let publish = |more: &str| format!(r#"{{"type":"publish","ref":9,"to":"all",{more}}}"#);
    let bad = |more: &str, code, part| check_bad(&publish(more), code, Some(9), part);
    bad(r#""payload":1,"payload_b64":"AA==""#, InvalidFrame, "both");
    bad(r#""payload_b64":"AA""#, InvalidPayload, "base64");
    bad(r#""payload_b64":"A-==""#, InvalidPayload, "base64");
    bad(r#""payload":"\ud800""#, InvalidPayload, "lone surrogate");
    bad(
        &format!(r#""payload":{}{}"#, "[".repeat(65), "]".repeat(65)),
        InvalidPayload,
        "nested deeper than 64",
    );
    bad(r#""payload":1,"ack":"received""#, InvalidFrame, "`ack` must be");
    bad(r#""payload":1,"priority":10"#, InvalidFrame, "priority is 10, the highest is 9");
    bad(r#""payload":1,"priority":-1"#, InvalidFrame, "`priority` is not a number in its range");
    bad(r#""payload":1,"priority":100000"#, InvalidFrame, "`priority` is not a number in its range");
    bad(r#""payload":1,"ttl_ms":1.0"#, InvalidFrame, "`ttl_ms` is not a number in its range");
    bad(r#""payload":1,"delay_ms":"5""#, InvalidFrame, "`delay_ms` is not a number in its range");
    bad(r#""payload":1,"dedup":"""#, InvalidFrame, "`dedup` is empty");
    bad(
        &format!(r#""payload":1,"key":"{}""#, "k".repeat(257)),
        InvalidFrame,
        "`key` has 257 bytes, the limit is 256",
    );
    bad(r#""payload":1,"reply_to":"bob""#, InvalidAddress, "reply_to");
    bad(r#""payload":1,"reply_to":"topic/*""#, InvalidAddress, "wildcards");
    bad(r#""payload":1,"headers":{"a":1}"#, InvalidFrame, "expected a string");
    bad(r#""payload":1,"headers":["a"]"#, InvalidFrame, "`headers`: invalid type: sequence");
    bad(r#""payload":1,"headers":{"":"x"}"#, InvalidFrame, "empty name");
    bad(r#""payload":1,"headers":{"a":"x","a":"y"}"#, InvalidFrame, "\"a\" is there twice");
    bad(&format!(r#""payload":1,"headers":{{"a":"{}"}}"#, "x".repeat(8192)), InvalidFrame, "8192 bytes");
    bad(r#""payload":1,"exclude_self":"yes""#, InvalidFrame, "`exclude_self` is neither true nor false");
    check_bad(r#"{"type":"subscribe","ref":1}"#, InvalidFrame, Some(1), "missing field `to`");
    check_bad(r#"{"type":"unsubscribe","ref":1}"#, InvalidFrame, Some(1), "missing field `to`");
    check_bad(r#"{"type":"join","ref":1}"#, InvalidFrame, Some(1), "missing field `group`");
    check_bad(r#"{"type":"leave","ref":1}"#, InvalidFrame, Some(1), "missing field `group`");
    for ack in [
        r#""ids":[]"#,
        r#""to":"all""#,
        r#""upto":"s1e1:1""#,
        r#""ids":["0"],"to":"all""#,
        r#""x":1"#,
        r#""to":"all","upto":"s1e1:1","queue":"q""#,
    ] {
        check_bad(&format!(r#"{{"type":"ack","ref":1,{ack}}}"#), InvalidFrame, Some(1), "ack needs either");
    }
    check_bad(r#"{"type":"ack","ids":["0"]}"#, InvalidFrame, None, "32 hexadecimal digits");
    check_bad(r#"{"type":"nack"}"#, InvalidFrame, None, "missing field `id`");
    check_bad(
        r#"{"type":"history","of":"all","after":"57"}"#,
        InvalidFrame,
        None,
        "`after` is not a position",
    );
    check_bad(r#"{"type":"read","of":"all"}"#, InvalidFrame, None, "missing field `upto`");
    check_bad(r#"{"type":"presence"}"#, InvalidFrame, None, "missing field `of`");
    check_bad(r#"{"type":"presence","of":"group/a","after":1}"#, InvalidFrame, None, "`after`");
    check_bad(r#"{"type":"watch"}"#, InvalidFrame, None, "missing field `users`");
    check_bad(r#"{"type":"refresh"}"#, InvalidFrame, None, "missing field `token`");
    check_bad(r#"{"type":"connect","resume":{}}"#, InvalidFrame, None, "missing field `resume.token`");
    check_bad(r#"{"type":"connect","resume":["t",[]]}"#, InvalidFrame, None, "`resume` is not an object");
    check_bad(
        r#"{"type":"connect","resume":{"token":"t","positions":["x"]}}"#,
        InvalidFrame,
        None,
        "not a position",
    );
}

/// A binary frame of `kind` around `body`.
fn frame(kind: u8, version: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, version];
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn check_bad_binary(bytes: &[u8], code: Code, reference: Option<u64>, part: &str) {
    let error = decode::binary(bytes).expect_err(part);
    let reject = error.reject();
    assert_eq!((reject.code, error.reference), (code, reference), "{bytes:?}: {}", reject.message);
    assert!(reject.message.contains(part), "{bytes:?}: {}", reject.message);
}

#[test]
fn binary_faults() {
    use Code::{InvalidAddress, InvalidFrame, InvalidPayload, UnknownType};
    check_bad_binary(&[], InvalidFrame, None, "0 bytes are not a whole frame prefix");
    check_bad_binary(&[1, 1, 0], InvalidFrame, None, "3 bytes");
    check_bad_binary(&[0x0e, 1, 5, 0, 0, 0, 1], InvalidFrame, None, "announces 5 bytes of body, 1 are there");
    check_bad_binary(&[0x0e, 1, 0, 0, 0, 0, 1], InvalidFrame, None, "1 bytes follow the frame");
    check_bad_binary(&frame(0x00, 1, &[]), UnknownType, None, "0x00");
    check_bad_binary(&frame(0x10, 1, &[]), UnknownType, None, "0x10");
    check_bad_binary(&frame(0x82, 1, &[]), UnknownType, None, "0x82");
    check_bad_binary(&frame(0x05, 2, &[]), InvalidFrame, None, "body version 2 of frame type 0x05");
    check_bad_binary(&frame(0x02, 0, &[]), InvalidFrame, None, "body version 0");
    // The reference is read although the group is missing or not text.
    check_bad_binary(&frame(0x05, 1, &[1, 9]), InvalidFrame, Some(9), "the body ends");
    check_bad_binary(&frame(0x05, 1, &[1, 9, 1, 0xff]), InvalidFrame, Some(9), "not UTF-8");
    check_bad_binary(&frame(0x07, 1, &[1, 9, 0, 0, 0, 0]), InvalidFrame, Some(9), "ack needs either");
    let publish = |flags: u16, fixed: [u8; 4], to_len: u16, rest: &[u8]| {
        let mut body = flags.to_le_bytes().to_vec();
        body.extend_from_slice(&fixed);
        body.extend_from_slice(&to_len.to_le_bytes());
        body.extend_from_slice(&9_u64.to_le_bytes());
        body.extend_from_slice(rest);
        frame(0x02, 1, &body)
    };
    let bad = |flags, fixed, to_len, rest: &[u8], code, part| {
        check_bad_binary(&publish(flags, fixed, to_len, rest), code, Some(9), part);
    };
    assert!(decode::binary(&publish(1, [1, 0, 0, 0], 3, b"all1")).is_ok());
    assert!(decode::binary(&publish(1, [0, 0, 0, 0], 3, b"all")).is_ok(), "no bytes are a payload of bytes");
    bad(1 | 256, [1, 0, 0, 0], 3, b"all1", InvalidFrame, "unknown flags");
    bad(1, [1, 0, 0, 1], 3, b"all1", InvalidFrame, "reserved");
    bad(1, [2, 0, 0, 0], 3, b"all1", InvalidFrame, "content");
    bad(1, [1, 4, 0, 0], 3, b"all1", InvalidFrame, "ack level");
    bad(1, [1, 0, 10, 0], 3, b"all1", InvalidFrame, "priority is 10");
    bad(1, [1, 0, 0, 0], 9, b"all1", InvalidFrame, "ends early");
    bad(1, [1, 0, 0, 0], 3, b"a\xff\xff1", InvalidFrame, "not UTF-8");
    bad(1, [1, 0, 0, 0], 3, b"all", InvalidPayload, "expected a value");
    bad(1, [1, 0, 0, 0], 3, b"all\"\xff\"", InvalidPayload, "not UTF-8");
    bad(1 | 8, [1, 0, 0, 0], 3, b"all\x00\x001", InvalidFrame, "`key` is empty");
    bad(1 | 16, [1, 0, 0, 0], 3, b"all\x01\x00x1", InvalidAddress, "reply_to");
    bad(1 | 32, [1, 0, 0, 0], 3, b"all\x41\x00", InvalidFrame, "more than 64 headers");
    bad(1 | 32, [1, 0, 0, 0], 3, b"all\x01\x00\x01\x00k", InvalidFrame, "headers end early");
    bad(1 | 32, [1, 0, 0, 0], 3, b"all\x01\x00\x00\x00\x00\x00", InvalidFrame, "empty name");
    bad(1 | 64, [1, 0, 0, 0], 3, b"all1", InvalidFrame, "ends early");
}

#[test]
fn a_bad_binary_frame_does_not_hide_the_next() {
    let mut bytes = frame(0x05, 1, &[1, 9]);
    bytes.extend(frame(0x0e, 1, &[]));
    bytes.extend(frame(0x7f, 1, b"later"));
    bytes.extend(frame(0x0e, 1, b"more"));
    bytes.extend_from_slice(&[0x0e, 1, 0]);
    let found: Vec<_> =
        decode::binary_frames(&bytes).map(|result| result.map_err(|e| e.reject().code)).collect();
    let bad = |code| Err(code);
    assert_eq!(
        found,
        [
            bad(Code::InvalidFrame),
            Ok(Frame::Ping),
            bad(Code::UnknownType),
            Ok(Frame::Ping),
            bad(Code::InvalidFrame)
        ]
    );
}

#[test]
fn a_json_payload_is_one_line_from_either_profile() {
    let mut bytes = Vec::new();
    let sent = Publish::new("all", Content::Json, b"\n {\r\n\"a\":1}\t".as_slice());
    encode::client(Profile::Binary, &Frame::Publish(sent), &mut bytes).unwrap();
    let Frame::Publish(found) = decode::binary(&bytes).unwrap() else { panic!("a publish") };
    assert_eq!(found.payload.as_ref(), br#"{  "a":1}"#);
}

#[test]
fn clients_ignore_what_they_do_not_know() {
    let unknown = |bytes: &[u8]| {
        let (received, consumed) = decode::server_binary(bytes).unwrap();
        assert!(matches!(received, Received::Unknown { .. }), "{received:?}");
        assert_eq!(consumed, bytes.len());
    };
    unknown(&frame(0x8f, 1, b"of tomorrow"));
    unknown(&frame(0x8a, 2, b"a history of tomorrow"));
    unknown(&frame(0xff, 1, &[]));
    unknown(&frame(0x82, 2, b"a message of tomorrow"));
    let text = br#"{"type":"weather","to":{"other":"shape"}} {"type":"pong"}"#;
    let (received, consumed) = decode::server_json(text).unwrap();
    assert_eq!(received, Received::Unknown { kind: "weather".into() });
    assert_eq!(decode::server_json(&text[consumed..]).unwrap().0, Received::Pong);
    let (received, _) =
        decode::server_json(br#"{"type":"error","code":3999,"name":"new","message":"m"}"#).unwrap();
    assert!(
        matches!(received, Received::Error { refusal, .. } if refusal.code().is_none() && refusal.number == 3999)
    );
}

#[test]
fn clients_refuse_to_send_what_would_be_refused() {
    let check = |publish: Publish<'static>, part: &str| {
        for profile in Profile::ALL {
            let mut out = b"before".to_vec();
            let error = encode::client(profile, &Frame::Publish(publish.clone()), &mut out).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(out, b"before");
        }
    };
    let plain = Publish::new("all", Content::Json, b"1".as_slice());
    check(Publish { payload: b"{".as_slice().into(), ..plain.clone() }, "payload: not JSON");
    check(Publish { priority: 10, ..plain.clone() }, "the highest is 9");
    check(Publish { key: Some("".into()), ..plain.clone() }, "key is empty");
    check(Publish { dedup: Some("x".repeat(257).into()), ..plain.clone() }, "dedup has 257");
    check(Publish { to: "x".repeat(65_536).into(), ..plain.clone() }, "to has 65536");
    check(Publish { headers: vec![("".into(), "".into())], ..plain }, "headers: header with an empty name");
}

#[test]
fn header_blocks() {
    let mut out = Vec::new();
    HeaderBlock::encode(&[("a", "1"), ("b", "")], &mut out).unwrap();
    let block = HeaderBlock::from_encoded(&out);
    assert_eq!(block.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "")]);
    assert!(!block.is_empty());
    for len in 0..out.len() {
        assert!(HeaderBlock::from_encoded(&out[..len]).iter().count() < 2);
    }
    out.clear();
    HeaderBlock::encode(&[("", ""); 0], &mut out).unwrap();
    assert!(
        out.is_empty()
            && HeaderBlock::from_encoded(&out).is_empty()
            && HeaderBlock::from_encoded(&[0, 0]).is_empty()
    );
    let many: Vec<(String, String)> = (0..65).map(|i| (i.to_string(), String::new())).collect();
    assert_eq!(HeaderBlock::encode(&many, &mut out), Err(HeaderError::TooMany { max: 64 }));
    assert_eq!(
        HeaderBlock::encode(&[("a", ""), ("a", "")], &mut out),
        Err(HeaderError::Duplicate { name: "a".into() })
    );
    let long = "x".repeat(8192);
    assert_eq!(HeaderBlock::encode(&[("a", &long)], &mut out), Err(HeaderError::TooLong { max: 8192 }));
    assert!(out.is_empty());
}

#[test]
fn subprotocols() {
    for profile in Profile::ALL {
        assert_eq!(Profile::from_subprotocol(profile.subprotocol()), Some(profile));
    }
    assert_eq!(Profile::from_subprotocol("waspmq.v2.json"), None);
    for level in Level::ALL {
        assert_eq!((Level::parse(level.as_str()), Level::from_u8(level.as_u8())), (Some(level), Some(level)));
    }
}
