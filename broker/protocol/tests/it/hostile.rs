//! Input made to break: nothing panics, nothing grows, and what is refused is refused with the right code.

use proptest::prelude::*;
use waspmq_core::Code;
use waspmq_protocol::limits::{
    BAD_FRAMES_MAX, ERROR_TEXT_BYTES_MAX, HISTORY_MESSAGES_MAX, LIST_ITEMS_MAX, PRESENCE_USERS_MAX,
};
use waspmq_protocol::server::{self, Presence, Received, UserPresence};
use waspmq_protocol::{Profile, decode, encode};

use crate::vectors;

fn code(result: Result<waspmq_protocol::client::Frame<'_>, waspmq_protocol::DecodeError>) -> Code {
    let reject = result.unwrap_err().reject();
    assert!(reject.message.len() <= ERROR_TEXT_BYTES_MAX + 32, "{}", reject.message);
    reject.code
}

#[test]
fn nesting_of_two_hundred_thousand() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let deep_objects = "{\"a\":".repeat(200_000) + "1" + &"}".repeat(200_000);
    for deep in [deep, deep_objects] {
        let ignored = format!(r#"{{"type":"publish","to":"all","unknown":{deep},"payload":1}}"#);
        assert!(decode::json(ignored.as_bytes()).is_ok());
        let payload = format!(r#"{{"type":"publish","ref":7,"to":"all","payload":{deep}}}"#);
        let error = decode::json(payload.as_bytes()).unwrap_err();
        assert_eq!((error.reference, error.reject().code), (Some(7), Code::InvalidPayload));
        for (kind, field) in [
            ("join", "group"),
            ("publish", "headers"),
            ("publish", "key"),
            ("publish", "priority"),
            ("publish", "exclude_self"),
            ("ack", "ids"),
            ("watch", "users"),
            ("connect", "codecs"),
            ("connect", "resume"),
            ("ping", "ref"),
            ("ping", "type"),
        ] {
            let typed = format!(r#"{{"{field}":{deep},"type":"{kind}","to":"all","payload":1}}"#);
            assert_eq!(code(decode::json(typed.as_bytes())), Code::InvalidFrame, "{field}");
        }
        assert_eq!(code(decode::json(deep.as_bytes())), Code::InvalidFrame);
        assert_eq!(decode::json_frames(ignored.as_bytes()).filter(Result::is_ok).count(), 1);
        assert!(decode::server_json(format!(r#"{{"type":"pong","x":{deep}}}"#).as_bytes()).is_ok());
        assert!(decode::server_json(format!(r#"{{"type":"new","to":{deep}}}"#).as_bytes()).is_ok());
    }
    let open = "{\"type\":".to_owned() + &"[".repeat(200_000);
    assert_eq!(code(decode::json(open.as_bytes())), Code::InvalidFrame);
}

#[test]
fn every_truncation_is_an_error_or_a_shorter_frame() {
    for (frame, json, binary) in vectors::client_frames() {
        for len in 0..json.len() {
            assert!(decode::json(&json[..len]).is_err(), "{frame:?} {len}");
            for result in decode::json_frames(&json[..len]) {
                assert!(result.is_err(), "{frame:?} {len}");
            }
        }
        for len in 0..binary.len() {
            assert_eq!(code(decode::binary(&binary[..len])), Code::InvalidFrame, "{frame:?} {len}");
            assert!(decode::binary_frames(&binary[..len]).all(|result| result.is_err()));
            if let Some(body_len) = len.checked_sub(6) {
                // The prefix agrees with the shorter body: never a panic, and the fixed part must be whole.
                let mut short = binary[..len].to_vec();
                short[2..6].copy_from_slice(&u32::try_from(body_len).unwrap().to_le_bytes());
                drop(decode::binary(&short));
            }
        }
    }
    for (received, json, binary) in vectors::server_frames() {
        for len in 0..json.len() {
            assert!(decode::server_json(&json[..len]).is_err(), "{received:?} {len}");
        }
        for len in 0..binary.len() {
            assert!(decode::server_binary(&binary[..len]).is_err(), "{received:?} {len}");
        }
    }
}

#[test]
fn lengths_that_lie() {
    for (frame, _, binary) in vectors::client_frames() {
        for at in 0..binary.len() {
            for value in [0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x80, 0x00] {
                let mut bytes = binary.clone();
                bytes[at] = value;
                for result in decode::binary_frames(&bytes) {
                    drop(result);
                }
                drop(decode::server_binary(&bytes));
                let end = (at + 8).min(bytes.len());
                bytes[at..end].fill(value);
                drop(decode::binary(&bytes));
                drop(decode::server_binary(&bytes));
            }
        }
        drop(frame);
    }
    // A list of 2^60 texts in five bytes: refused before memory is taken for it.
    let mut watch = vec![0x0c, 1, 10, 0, 0, 0, 0, 0xfd];
    watch.extend_from_slice(&(1_u64 << 60).to_le_bytes());
    assert_eq!(code(decode::binary(&watch)), Code::InvalidFrame);
    // More than any broker takes by default.
    let huge = [0x02, 1, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(code(decode::binary(&huge)), Code::MessageTooLarge);
}

#[test]
fn lists_and_headers_end_at_their_bound() {
    let list = |count: usize| format!(r#"{{"type":"watch","users":[{}]}}"#, vec!["\"a\""; count].join(","));
    assert!(decode::json(list(LIST_ITEMS_MAX).as_bytes()).is_ok());
    assert_eq!(code(decode::json(list(LIST_ITEMS_MAX + 1).as_bytes())), Code::InvalidFrame);
    let pairs: Vec<String> = (0..100).map(|i| format!("\"h{i}\":\"\"")).collect();
    let headers = |count: usize| {
        format!(r#"{{"type":"publish","to":"all","payload":1,"headers":{{{}}}}}"#, pairs[..count].join(","))
    };
    assert!(decode::json(headers(64).as_bytes()).is_ok());
    assert_eq!(code(decode::json(headers(65).as_bytes())), Code::InvalidFrame);
}

/// The longest answer there is can be read in both profiles; a longer list is cut and says so.
#[test]
fn presence_answers_end_at_their_bound() {
    let user = |number: usize| UserPresence {
        user: format!("{number:0>256}"),
        online: true,
        sessions: u32::MAX,
        last_seen_unix_ms: Some(u64::MAX),
        seq: u64::MAX,
    };
    for (count, more) in [(PRESENCE_USERS_MAX, false), (PRESENCE_USERS_MAX + 1, true)] {
        let presence = Presence {
            reference: Some(1),
            of: "all".into(),
            users: (0..count).map(user).collect(),
            more: false,
        };
        for profile in Profile::ALL {
            let mut bytes = Vec::new();
            encode::control(profile, &server::Frame::Presence(presence.clone()), &mut bytes);
            let (received, _) = match profile {
                Profile::Json => decode::server_json(&bytes),
                Profile::Binary => decode::server_binary(&bytes),
            }
            .unwrap();
            let Received::Presence(found) = received else { panic!("{received:?}") };
            assert_eq!((found.users.len(), found.more), (PRESENCE_USERS_MAX, more));
            assert_eq!(found.users[..], presence.users[..PRESENCE_USERS_MAX]);
        }
    }
}

#[test]
fn answers_that_lie_are_refused() {
    let json = |text: String| {
        let error = decode::server_json(text.as_bytes()).unwrap_err();
        assert!(error.to_string().len() <= ERROR_TEXT_BYTES_MAX + 32, "{error}");
        error.to_string()
    };
    let history = |messages: &str| {
        json(format!(r#"{{"type":"history","of":"all","messages":{messages},"more":false,"gap":false}}"#))
    };
    assert!(history("5").contains("`messages`"));
    assert!(history("[5]").contains("something else than an object"));
    assert!(history("[[]]").contains("something else than an object"));
    assert!(history("[{}]").contains("missing field"));
    let many = vec!["1"; HISTORY_MESSAGES_MAX + 1].join(",");
    assert!(history(&format!("[{many}]")).contains("at most 1000"));
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert!(history(&deep).contains("something else than an object"));
    let users =
        |users: &str| json(format!(r#"{{"type":"presence","of":"all","users":{users},"more":false}}"#));
    assert!(users("{}").contains("`users`"));
    assert!(users("[null]").contains("something else than an object"));
    assert!(users(r#"[{"user":"a","online":1,"sessions":0,"seq":0}]"#).contains("neither true nor false"));
    assert!(json(r#"{"type":"presence"}"#.to_owned()).contains("missing field `user`"));

    // A page whose messages are said to be longer than the frame, and one that holds a pong.
    let page = |messages_bytes: u8, rest: &[u8]| {
        let mut bytes = vec![0x8a, 1, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 0, messages_bytes];
        bytes.extend_from_slice(rest);
        let body_len = u32::try_from(bytes.len() - 6).unwrap();
        bytes[2..6].copy_from_slice(&body_len.to_le_bytes());
        decode::server_binary(&bytes)
    };
    assert!(page(0, b"").is_ok());
    assert!(page(1, b"").unwrap_err().to_string().contains("longer than the frame"));
    assert!(page(6, b"\x89\x01\0\0\0\0").unwrap_err().to_string().contains("something else than a message"));
    assert!(page(3, b"\x82\x01\0").is_err());
    // A message of a later body version is skipped.
    assert!(
        matches!(page(6, b"\x82\x02\0\0\0\0"), Ok((Received::History(page), _)) if page.messages.is_empty())
    );
    // A list of 2^60 users is refused before memory is taken for it.
    let mut users = vec![0x87, 1, 12, 0, 0, 0, 0, 0, 0xfd];
    users.extend_from_slice(&(1_u64 << 60).to_le_bytes());
    users.push(0);
    assert!(decode::server_binary(&users).is_err());
}

#[test]
fn bad_frames_in_one_message_are_bounded() {
    let errors = decode::json_frames("{}".repeat(1_000).as_bytes()).count();
    assert_eq!(errors, BAD_FRAMES_MAX);
    let errors = decode::binary_frames(&[0x02, 1, 0, 0, 0, 0].repeat(1_000)).count();
    assert_eq!(errors, BAD_FRAMES_MAX);
    let pings =
        decode::json_frames(br#"{"type":"ping"}"#.repeat(1_000).as_slice()).filter(Result::is_ok).count();
    assert_eq!(pings, 1_000);
}

#[test]
fn long_texts_are_not_echoed() {
    let long = "x".repeat(100_000);
    assert_eq!(code(decode::json(format!(r#"{{"type":"{long}"}}"#).as_bytes())), Code::UnknownType);
    assert_eq!(
        code(decode::json(format!(r#"{{"type":"publish","ref":"{long}"}}"#).as_bytes())),
        Code::InvalidFrame
    );
    let escapes = "\\u0001".repeat(10_000);
    assert_eq!(
        code(decode::json(format!(r#"{{"type":"publish","ref":"{escapes}"}}"#).as_bytes())),
        Code::InvalidFrame
    );
}

proptest! {
    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for result in decode::binary_frames(&bytes) {
            drop(result);
        }
        for result in decode::json_frames(&bytes) {
            drop(result);
        }
        drop(decode::server_binary(&bytes));
        drop(decode::server_json(&bytes));
    }

    /// Whatever is accepted means the same after a trip through either profile.
    #[test]
    fn mutated_frames(index in any::<prop::sample::Index>(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let frames = vectors::client_frames();
        let (_, json, binary) = &frames[index.index(frames.len())];
        for (original, profile) in [(json, Profile::Json), (binary, Profile::Binary)] {
            let mut bytes = original.clone();
            for (at, value) in &edits {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let found = match profile {
                Profile::Json => decode::json(&bytes),
                Profile::Binary => decode::binary(&bytes),
            };
            let Ok(frame) = found else { continue };
            let (mut as_json, mut as_binary) = (Vec::new(), Vec::new());
            encode::client(Profile::Json, &frame, &mut as_json).unwrap();
            encode::client(Profile::Binary, &frame, &mut as_binary).unwrap();
            prop_assert_eq!(&decode::json(&as_json).unwrap(), &frame);
            prop_assert_eq!(&decode::binary(&as_binary).unwrap(), &frame);
        }
    }
}
