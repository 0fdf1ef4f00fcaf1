//! Every frame, in both profiles and both directions, comes back as it went in.

use proptest::option::of;
use proptest::prelude::*;
use std::borrow::Cow;
use waspmq_core::settings::Overflow as OverflowAction;
use waspmq_core::{Code, MessageId, Position, Reject, Stream};
use waspmq_protocol::client::{Acked, Connect, Frame, Publish, Resume};
use waspmq_protocol::server::{
    self, Close, Goaway, History, HistoryHead, Message, MessageFrame, Overflow, Presence, PresenceChange,
    Read, Receipt, Received, UserPresence, Welcome,
};
use waspmq_protocol::{Content, HeaderBlock, Level, Profile, Secret, decode, encode};

type Text = Cow<'static, str>;

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![any::<String>(), "[ -~]{0,20}", "user/[a-z]{1,8}"].prop_map(Cow::Owned)
}

fn key() -> impl Strategy<Value = Text> {
    "\\PC{1,40}".prop_map(Cow::Owned)
}

fn position() -> impl Strategy<Value = Position> {
    (any::<u16>(), any::<u32>(), any::<u64>())
        .prop_map(|(shard, epoch, offset)| Position { stream: Stream { shard, epoch }, offset })
}

fn id() -> impl Strategy<Value = MessageId> {
    any::<[u8; 16]>().prop_map(MessageId::from_bytes)
}

fn level() -> impl Strategy<Value = Level> {
    prop::sample::select(Level::ALL.to_vec())
}

fn body() -> impl Strategy<Value = (Content, Vec<u8>)> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80).prop_map(|bytes| (Content::Bytes, bytes)),
        any::<String>().prop_map(|text| (Content::Json, serde_json::to_vec(&[text]).unwrap())),
        prop::sample::select(vec!["null", "{ }", "[1, {\"a\":-1.5e3}]", "true"])
            .prop_map(|text| (Content::Json, text.as_bytes().to_vec())),
    ]
}

fn headers() -> impl Strategy<Value = Vec<(Text, Text)>> {
    prop::collection::btree_map("\\PC{1,12}", any::<String>(), 0..5)
        .prop_map(|pairs| pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

fn publish() -> impl Strategy<Value = Frame<'static>> {
    let options = (of(any::<u64>()), level(), of(key()), of(any::<u64>()), any::<u64>());
    let more = (0u8..10, of(key()), of("user/[a-z]{1,9}".prop_map(Cow::Owned)), any::<bool>());
    (text(), body(), headers(), options, more).prop_map(|(to, (content, payload), headers, options, more)| {
        let (reference, ack, dedup, ttl_ms, delay_ms) = options;
        let (priority, key, reply_to, exclude_self) = more;
        let payload = Cow::Owned(payload);
        Frame::Publish(Publish {
            reference,
            to,
            content,
            payload,
            packed: None,
            headers,
            ack,
            dedup,
            ttl_ms,
            delay_ms,
            priority,
            key,
            reply_to,
            exclude_self,
        })
    })
}

fn connect() -> impl Strategy<Value = Frame<'static>> {
    let resume = (text(), prop::collection::vec(position(), 0..4))
        .prop_map(|(token, positions)| Resume { token: Secret::new(token), positions });
    let codecs = prop::collection::vec(text(), 0..3);
    let beside = (any::<bool>(), any::<bool>());
    (of(text()), of(text()), of(text()), codecs, any::<bool>(), of(resume), beside).prop_map(
        |(user, device, token, codecs, batch, resume, (datagrams, streams))| {
            let token = token.map(Secret::new);
            Frame::Connect(Connect { user, device, token, codecs, batch, resume, datagrams, streams })
        },
    )
}

fn acked() -> impl Strategy<Value = Acked<'static>> {
    prop_oneof![
        prop::collection::vec(id(), 1..5).prop_map(Acked::Ids),
        (text(), position()).prop_map(|(to, upto)| Acked::UpTo { to, upto }),
    ]
}

fn client_frame() -> impl Strategy<Value = Frame<'static>> {
    let reference = || of(any::<u64>());
    prop_oneof![
        4 => publish(),
        2 => connect(),
        1 => (reference(), text(), of(text()), of(text()))
            .prop_map(|(reference, to, queue, from)| Frame::Subscribe { reference, to, queue, from }),
        1 => (reference(), text(), of(text()))
            .prop_map(|(reference, to, queue)| Frame::Unsubscribe { reference, to, queue }),
        1 => (reference(), text()).prop_map(|(reference, group)| Frame::Join { reference, group }),
        1 => (reference(), text()).prop_map(|(reference, group)| Frame::Leave { reference, group }),
        1 => (reference(), acked(), of(text()))
            .prop_map(|(reference, what, queue)| {
                let queue = queue.filter(|_| matches!(what, Acked::Ids(_)));
                Frame::Ack { reference, what, queue }
            }),
        1 => (reference(), id(), of(text()), of(text()), of(any::<u64>())).prop_map(
            |(reference, id, queue, reason, retry_ms)| Frame::Nack { reference, id, queue, reason, retry_ms }),
        1 => (reference(), text(), of(position()), of(any::<u32>()))
            .prop_map(|(reference, of, after, limit)| Frame::History { reference, of, after, limit }),
        1 => (reference(), text(), position())
            .prop_map(|(reference, of, upto)| Frame::Read { reference, of, upto }),
        1 => (reference(), text(), of(text()))
            .prop_map(|(reference, of, after)| Frame::Presence { reference, of, after }),
        1 => (reference(), prop::collection::vec(text(), 0..4))
            .prop_map(|(reference, users)| Frame::Watch { reference, users }),
        1 => (reference(), text())
            .prop_map(|(reference, token)| Frame::Refresh { reference, token: Secret::new(token) }),
        1 => Just(Frame::Ping),
        1 => Just(Frame::Disconnect),
    ]
}

fn control() -> impl Strategy<Value = server::Frame> {
    let string = || text().prop_map(Cow::into_owned);
    let numbers = (any::<bool>(), any::<bool>(), any::<u32>(), any::<u32>());
    let welcome =
        (string(), of(string()), string(), numbers).prop_map(|(session, resume_token, node, numbers)| {
            let (resumed, recovered, heartbeat_ms, max_message_bytes) = numbers;
            let resume_token = resume_token.map(Secret::new);
            let codecs = Vec::new();
            Welcome {
                session,
                resume_token,
                node,
                resumed,
                recovered,
                heartbeat_ms,
                max_message_bytes,
                codecs,
            }
        });
    let reject = (prop::sample::select(Code::ALL.to_vec()), string(), any::<u32>())
        .prop_map(|(code, message, retry_ms)| Reject { code, message, retry_ms });
    prop_oneof![
        welcome.prop_map(server::Frame::Welcome),
        (any::<u64>(), id(), level(), any::<u32>()).prop_map(|(reference, id, level, recipients)| {
            server::Frame::Receipt(Receipt { reference, id, level, recipients })
        }),
        of(any::<u64>()).prop_map(|reference| server::Frame::Ok { reference }),
        (of(any::<u64>()), reject).prop_map(|(reference, reject)| server::Frame::Error { reference, reject }),
        (string(), any::<u64>(), of(prop::sample::select(OverflowAction::ALL.to_vec())))
            .prop_map(|(to, dropped, action)| server::Frame::Overflow(Overflow { to, dropped, action })),
        (of(any::<u64>()), string(), prop::collection::vec(user(), 0..4), any::<bool>()).prop_map(
            |(reference, of, users, more)| {
                server::Frame::Presence(Presence { reference, of, users, more })
            }
        ),
        user().prop_map(|UserPresence { user, online, last_seen_unix_ms, seq, .. }| {
            server::Frame::PresenceChange(PresenceChange { user, online, last_seen_unix_ms, seq })
        }),
        (string(), position(), of(any::<u32>())).prop_map(|(of, upto, unread)| server::Frame::Read(Read {
            of,
            upto,
            unread
        })),
        (string(), any::<u32>())
            .prop_map(|(reason, reconnect_ms)| server::Frame::Goaway(Goaway { reason, reconnect_ms })),
        (any::<u16>(), string(), string()).prop_map(|(code, name, message)| server::Frame::Close(Close {
            code,
            name,
            message
        })),
        Just(server::Frame::Pong),
    ]
}

fn user() -> impl Strategy<Value = UserPresence> {
    (text(), any::<bool>(), any::<u32>(), of(any::<u64>()), any::<u64>()).prop_map(
        |(user, online, sessions, last_seen_unix_ms, seq)| UserPresence {
            user: user.into_owned(),
            online,
            sessions,
            last_seen_unix_ms,
            seq,
        },
    )
}

fn history() -> impl Strategy<Value = History> {
    let head = (of(any::<u64>()), text(), any::<bool>(), any::<bool>(), of(any::<u32>()));
    (head, prop::collection::vec(message(), 0..4)).prop_map(
        |((reference, of, more, gap, unread), messages)| History {
            reference,
            of: of.into_owned(),
            messages,
            more,
            gap,
            unread,
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let string = || text().prop_map(Cow::into_owned);
    let place = (id(), string(), of(string()), position());
    let options = (
        of(string()),
        any::<u8>(),
        of(string()),
        of(string()),
        of(any::<u16>()),
        any::<u64>(),
        any::<bool>(),
    );
    (place, body(), headers(), options).prop_map(|(place, (content, payload), headers, options)| {
        let (id, to, from, position) = place;
        let (key, priority, reply_to, queue, attempt, unix_ms, wants_ack) = options;
        let headers =
            headers.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        Message {
            id,
            to,
            from,
            position,
            content,
            payload,
            packed: None,
            headers,
            key,
            priority,
            reply_to,
            queue,
            attempt,
            wants_ack,
            unix_ms,
        }
    })
}

fn encode_message(profile: Profile, message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode::message(profile, &borrowed(message, &block(message)), &mut out);
    out
}

fn encode_history(profile: Profile, history: &History) -> Vec<u8> {
    let head = HistoryHead {
        reference: history.reference,
        of: &history.of,
        more: history.more,
        gap: history.gap,
        unread: history.unread,
    };
    let blocks: Vec<_> = history.messages.iter().map(block).collect();
    let messages = history.messages.iter().zip(&blocks).map(|(message, block)| borrowed(message, block));
    let mut out = b"before".to_vec();
    encode::history(profile, &head, messages, &mut out);
    out.split_off(6)
}

fn block(message: &Message) -> Vec<u8> {
    let mut block = Vec::new();
    HeaderBlock::encode(&message.headers, &mut block).unwrap();
    block
}

fn borrowed<'a>(message: &'a Message, block: &'a [u8]) -> MessageFrame<'a> {
    MessageFrame {
        id: message.id,
        to: &message.to,
        from: message.from.as_deref(),
        position: message.position,
        content: message.content,
        payload: &message.payload,
        packed: None,
        headers: HeaderBlock::from_encoded(block),
        key: message.key.as_deref(),
        priority: message.priority,
        reply_to: message.reply_to.as_deref(),
        queue: message.queue.as_deref(),
        attempt: message.attempt,
        wants_ack: message.wants_ack,
        unix_ms: message.unix_ms,
    }
}

fn received(profile: Profile, bytes: &[u8]) -> (Received, usize) {
    match profile {
        Profile::Json => decode::server_json(bytes),
        Profile::Binary => decode::server_binary(bytes),
    }
    .unwrap()
}

proptest! {
    #[test]
    fn client_frames(frames in prop::collection::vec(client_frame(), 1..5)) {
        let (mut json, mut binary) = (Vec::new(), Vec::new());
        for frame in &frames {
            let (json_start, binary_start) = (json.len(), binary.len());
            encode::client(Profile::Json, frame, &mut json).unwrap();
            encode::client(Profile::Binary, frame, &mut binary).unwrap();
            prop_assert_eq!(&decode::json(&json[json_start..]).unwrap(), frame);
            prop_assert_eq!(&decode::binary(&binary[binary_start..]).unwrap(), frame);
            json.push(b'\n');
        }
        let found: Vec<_> = decode::json_frames(&json).map(Result::unwrap).collect();
        prop_assert_eq!(&found, &frames);
        let found: Vec<_> = decode::binary_frames(&binary).map(Result::unwrap).collect();
        prop_assert_eq!(&found, &frames);
    }

    #[test]
    fn control_frames(frame in control()) {
        for profile in Profile::ALL {
            let mut out = Vec::new();
            encode::control(profile, &frame, &mut out);
            prop_assert_eq!(received(profile, &out), (frame.clone().into(), out.len()));
            if profile == Profile::Json {
                prop_assert!(!out.contains(&b'\n'));
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
            }
        }
    }

    #[test]
    fn messages(message in message()) {
        for profile in Profile::ALL {
            let out = encode_message(profile, &message);
            prop_assert_eq!(received(profile, &out), (Received::Message(message.clone()), out.len()));
            if profile == Profile::Json {
                prop_assert!(!out.contains(&b'\n'));
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
            }
        }
    }

    #[test]
    fn histories(history in history()) {
        for profile in Profile::ALL {
            let out = encode_history(profile, &history);
            prop_assert_eq!(received(profile, &out), (Received::History(history.clone()), out.len()));
            if profile == Profile::Json {
                prop_assert!(!out.contains(&b'\n'));
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
            }
        }
    }

    #[test]
    fn batches_are_read_one_by_one(messages in prop::collection::vec(message(), 1..4)) {
        for profile in Profile::ALL {
            let mut batch = Vec::new();
            for message in &messages {
                batch.extend(encode_message(profile, message));
                if profile == Profile::Json {
                    batch.push(b'\n');
                }
            }
            let mut rest = batch.as_slice();
            for message in &messages {
                let (found, consumed) = received(profile, rest);
                prop_assert_eq!(found, Received::Message(message.clone()));
                rest = &rest[consumed..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
