//! The three dialects inside WebSocket messages: the relay's, and the broker's binary and JSON profiles.
//!
//! The few control frames are laid out by hand (integers little-endian; strings and options of a control body as
//! bincode's standard configuration has them), so that the load generator stays an independent reader of the
//! documented format and needs no crate of the broker.
//!
//! ```text
//! relay   publish/subscribe: op 'P' or 'S' | channel u16 | payload      delivery: payload      answer: "ok"
//! binary  frame: type u8 | body version u8 = 1 | body length u32 | body
//!         publish body: flags u16 = 0 | content u8 = 0 | ack u8 = 0 | priority u8 | 0 | to length u16 | to | payload
//!         content 1 for a JSON value
//! json    one object per WebSocket message, newline-delimited after connect with "batch":true
//! ```

use std::fmt;
use std::str::FromStr;

use crate::latency::{STAMP_BYTES, decode_stamp, encode_stamp};
use crate::ws;

/// A fixed mask that is not zero: the server has to unmask, and frames can be built before the run.
pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Bytes of one write of publishes.
const WRITE_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Relay,
    Binary,
    Json,
}

/// What a client says it can read besides plain messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Codecs of payloads, best first; the binary profile has them.
    pub(crate) codecs: &'static [&'static str],
    /// permessage-deflate.
    pub(crate) deflate: bool,
}

impl Reads {
    pub(crate) const PLAIN: Self = Self { codecs: &[], deflate: false };
}

/// Where a published message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// `topic/bench`; the relay's channel 0.
    Topic,
    /// The receiver of a pair, `user/r<n>`; the relay's channel n.
    Receiver(u16),
    /// `topic/bench.<n>`; the relay's channel n.
    Numbered(u16),
}

/// What a frame from a server is, by its type alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Message,
    Welcome,
    Ok,
    /// Neither awaited nor a fault: `pong`, `presence`, a dictionary.
    Aside,
    /// `error`, `overflow`, `goaway`, a receipt nobody asked for, anything unknown.
    Complaint,
}

/// A batch of binary frames whose lengths do not add up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic => f.write_str("topic/bench"),
            Self::Receiver(pair) => write!(f, "user/r{pair}"),
            Self::Numbered(topic) => write!(f, "topic/bench.{topic}"),
        }
    }
}

impl FromStr for Wire {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "binary" => Ok(Self::Binary),
            "json" => Ok(Self::Json),
            other => Err(format!("{other} is neither binary nor json")),
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Binary => "binary",
            Self::Json => "json",
        })
    }
}

impl Wire {
    /// The HTTP request that opens a connection.
    pub(crate) fn upgrade_request(self, port: u16, offers_deflate: bool) -> String {
        let protocol = match self {
            Self::Relay => "",
            Self::Binary => "Sec-WebSocket-Protocol: waspmq.v1.bin\r\n",
            Self::Json => "Sec-WebSocket-Protocol: waspmq.v1.json\r\n",
        };
        let extensions = if offers_deflate { "Sec-WebSocket-Extensions: permessage-deflate\r\n" } else { "" };
        format!(
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{protocol}{extensions}\r\n"
        )
    }

    /// The masked WebSocket frame that makes a session of a connection; `None` where there is no such thing.
    pub(crate) fn connect(self, user: &str, batch: bool, codecs: &[&str]) -> Option<Vec<u8>> {
        self.connect_message(user, batch, codecs).map(|message| self.masked(&message))
    }

    /// As [`Wire::connect`], what is inside the frame.
    pub(crate) fn connect_message(self, user: &str, batch: bool, codecs: &[&str]) -> Option<Vec<u8>> {
        match self {
            Self::Relay => None,
            Self::Binary => {
                let mut body = Vec::new();
                body.push(1);
                push_string(&mut body, user);
                // No device, no token; then the codecs, a list of strings; batch; no resume.
                body.extend_from_slice(&[0, 0]);
                push_string_list(&mut body, codecs);
                body.extend_from_slice(&[u8::from(batch), 0]);
                Some(binary_frame(0x01, &body))
            }
            Self::Json => {
                Some(format!(r#"{{"type":"connect","user":"{user}","batch":{batch}}}"#).into_bytes())
            }
        }
    }

    /// The masked WebSocket frame that subscribes to `target`, answered by [`Kind::Ok`].
    pub(crate) fn subscribe(self, target: Target) -> Vec<u8> {
        self.masked(&self.subscribe_message(target))
    }

    /// As [`Wire::subscribe`], what is inside the frame.
    pub(crate) fn subscribe_message(self, target: Target) -> Vec<u8> {
        match self {
            Self::Relay => relay_frame(b'S', target),
            Self::Binary => {
                let mut body = vec![1, 1];
                push_string(&mut body, &target.to_string());
                // No queue, no starting position.
                body.extend_from_slice(&[0, 0]);
                binary_frame(0x03, &body)
            }
            Self::Json => format!(r#"{{"type":"subscribe","ref":1,"to":"{target}"}}"#).into_bytes(),
        }
    }

    /// A message that publishes so many letters, without a WebSocket frame around it.
    pub(crate) fn publish_message(self, target: Target, payload_bytes: usize) -> Vec<u8> {
        self.publish(target, Payload::Letters(&vec![b'x'; payload_bytes])).0
    }

    /// The masked WebSocket frame that publishes a JSON value.
    pub(crate) fn publish_document(self, target: Target, document: &[u8]) -> Vec<u8> {
        self.masked(&self.publish(target, Payload::Document(document)).0)
    }

    /// One publish without `ref` and without acknowledgement, and where its payload starts.
    fn publish(self, target: Target, payload: Payload<'_>) -> (Vec<u8>, usize) {
        let is_document = matches!(payload, Payload::Document(_));
        let (Payload::Letters(payload) | Payload::Document(payload)) = payload;
        let quote = if is_document { "" } else { "\"" };
        let mut frame = match self {
            Self::Relay => relay_frame(b'P', target),
            Self::Binary => {
                let to = target.to_string();
                let mut body = vec![0, 0, u8::from(is_document), 0, 0, 0];
                body.extend_from_slice(&u16::try_from(to.len()).unwrap_or(u16::MAX).to_le_bytes());
                body.extend_from_slice(to.as_bytes());
                body.extend_from_slice(payload);
                let start = body.len() - payload.len() + 6;
                return (binary_frame(0x02, &body), start);
            }
            Self::Json => format!(r#"{{"type":"publish","to":"{target}","payload":{quote}"#).into_bytes(),
        };
        let start = frame.len();
        frame.extend_from_slice(payload);
        if self == Self::Json {
            frame.extend_from_slice(quote.as_bytes());
            frame.push(b'}');
        }
        (frame, start)
    }

    /// Appends the answer to a WebSocket ping.
    pub(crate) fn push_pong(out: &mut Vec<u8>, payload: &[u8]) {
        ws::push_frame(out, ws::PONG, Some(MASK), payload);
    }

    /// Hands each frame inside one WebSocket message to `take`.
    ///
    /// # Errors
    /// When the lengths of concatenated binary frames do not add up; the frames before are handed over.
    #[inline]
    pub(crate) fn each_frame<'a>(
        self,
        mut message: &'a [u8],
        mut take: impl FnMut(&'a [u8]),
    ) -> Result<(), Malformed> {
        match self {
            Self::Relay => take(message),
            // Looking for one byte is much cheaper than splitting at it.
            Self::Json if !message.is_empty() && !message.contains(&b'\n') => take(message),
            Self::Json => message.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).for_each(take),
            Self::Binary => {
                while !message.is_empty() {
                    let length =
                        message.get(2..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Malformed)?;
                    let body_bytes = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Malformed)?;
                    let (frame, rest) = message.split_at_checked(6 + body_bytes).ok_or(Malformed)?;
                    take(frame);
                    message = rest;
                }
            }
        }
        Ok(())
    }

    /// The relay has no types on its deliveries, so its answer is told apart by being awaited.
    #[inline]
    pub(crate) fn kind(self, frame: &[u8]) -> Kind {
        match self {
            Self::Relay if frame == b"ok" => Kind::Ok,
            Self::Relay => Kind::Message,
            Self::Binary => match frame.first() {
                Some(0x82) => Kind::Message,
                Some(0x81) => Kind::Welcome,
                Some(0x84) => Kind::Ok,
                Some(0x87 | 0x89 | 0x8c) => Kind::Aside,
                _ => Kind::Complaint,
            },
            Self::Json => match frame.strip_prefix(br#"{"type":""#) {
                Some(rest) if rest.starts_with(b"message\"") => Kind::Message,
                Some(rest) if rest.starts_with(b"welcome\"") => Kind::Welcome,
                Some(rest) if rest.starts_with(b"ok\"") => Kind::Ok,
                Some(rest) if rest.starts_with(b"pong\"") || rest.starts_with(b"presence\"") => Kind::Aside,
                _ => Kind::Complaint,
            },
        }
    }

    /// What stands for a WebSocket message compressed by permessage-deflate, which is not inflated: a delivery, for
    /// the broker compresses nothing else. Without `batch` it holds one. `None` where the extension is not offered.
    #[inline]
    pub(crate) fn compressed(self) -> Option<&'static [u8]> {
        (self == Self::Json).then_some(br#"{"type":"message""#)
    }

    /// The stamp at the start of a delivered message's payload. `hint` remembers where JSON had it last.
    pub(crate) fn stamp(self, frame: &[u8], payload_bytes: usize, hint: &mut usize) -> Option<u64> {
        const MARK: &[u8] = br#""payload":""#;
        match self {
            Self::Relay => decode_stamp(frame),
            Self::Binary => decode_stamp(frame.get(frame.len().checked_sub(payload_bytes)?..)?),
            Self::Json => {
                if !frame.get(*hint..).is_some_and(|rest| rest.starts_with(MARK)) {
                    *hint = frame.windows(MARK.len()).position(|window| window == MARK)?;
                }
                decode_stamp(frame.get(*hint + MARK.len()..)?)
            }
        }
    }

    fn masked(self, frame: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(frame.len() + 14);
        ws::push_frame(&mut out, self.opcode(), Some(MASK), frame);
        out
    }

    fn opcode(self) -> u8 {
        if self == Self::Json { ws::TEXT } else { ws::BINARY }
    }
}

/// What is published.
#[derive(Debug, Clone, Copy)]
enum Payload<'a> {
    /// Bytes; in JSON a text that needs no escapes.
    Letters(&'a [u8]),
    /// A JSON value.
    Document(&'a [u8]),
}

/// Publishes laid out before the run: only the stamp changes.
#[derive(Debug)]
pub(crate) struct Template {
    /// The different ones, and then as many of them again that [`Self::copies`] in a row begin at each.
    frames: Vec<u8>,
    /// Where each begins, and the end of the last.
    bounds: Vec<usize>,
    different: usize,
    /// Which one is next.
    next: usize,
    stamp_at: Option<usize>,
    stamp_mask: [u8; STAMP_BYTES],
}

impl Template {
    /// A payload of `payload_bytes` letters; stamped ones need [`STAMP_BYTES`] at least.
    pub(crate) fn new(wire: Wire, target: Target, payload_bytes: usize) -> Self {
        let (frame, payload_at) = wire.publish(target, Payload::Letters(&vec![b'x'; payload_bytes]));
        let one = wire.masked(&frame);
        let header_bytes = one.len() - frame.len();
        let mut stamp_mask = [0; STAMP_BYTES];
        for (i, byte) in stamp_mask.iter_mut().enumerate() {
            *byte = MASK[(payload_at + i) % MASK.len()];
        }
        Self { stamp_at: Some(header_bytes + payload_at), stamp_mask, ..Self::laid_out(&[one]) }
    }

    /// These JSON values in turn, of which there is one at least. They take no stamps.
    pub(crate) fn of_documents(wire: Wire, target: Target, documents: &[Vec<u8>]) -> Self {
        let frames: Vec<_> =
            documents.iter().map(|document| wire.publish_document(target, document)).collect();
        Self::laid_out(&frames)
    }

    fn laid_out(different: &[Vec<u8>]) -> Self {
        let longest = different.iter().map(Vec::len).max().unwrap_or(0);
        let copies = (WRITE_BYTES / longest.max(1)).clamp(1, 64);
        let (mut frames, mut bounds) = (Vec::new(), vec![0]);
        for frame in different.iter().cycle().take(different.len() + copies - 1) {
            frames.extend_from_slice(frame);
            bounds.push(frames.len());
        }
        let different = different.len();
        Self { frames, bounds, different, next: 0, stamp_at: None, stamp_mask: [0; STAMP_BYTES] }
    }

    /// How many publishes [`Template::frames`] can give at once.
    pub(crate) fn copies(&self) -> usize {
        self.bounds.len() - self.different
    }

    /// The bytes of the next `count` publishes, all with the same stamp if one is given.
    pub(crate) fn frames(&mut self, count: usize, stamp_ns: Option<u64>) -> &[u8] {
        let (first, count) = (self.next, count.min(self.copies()));
        let bounds = &self.bounds[first..=first + count];
        if let (Some(ns), Some(stamp_at)) = (stamp_ns, self.stamp_at) {
            let mut stamp = encode_stamp(ns);
            stamp.iter_mut().zip(self.stamp_mask).for_each(|(byte, key)| *byte ^= key);
            for start in &bounds[..count] {
                let at = start + stamp_at;
                self.frames[at..at + STAMP_BYTES].copy_from_slice(&stamp);
            }
        }
        self.next = (first + count) % self.different;
        &self.frames[bounds[0]..bounds[count]]
    }
}

fn relay_frame(op: u8, target: Target) -> Vec<u8> {
    let channel = match target {
        Target::Topic => 0,
        Target::Receiver(number) | Target::Numbered(number) => number,
    };
    let [low, high] = channel.to_le_bytes();
    vec![op, low, high]
}

/// Bodies built here are far below 4 GiB; a longer one would get a length that no server takes.
pub(crate) fn binary_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 1];
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

/// A string of a bincode body: lengths below 251 are one byte, and every string sent here is short.
pub(crate) fn push_string(body: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(250)];
    body.push(u8::try_from(text.len()).unwrap_or(250));
    body.extend_from_slice(text);
}

/// A list of strings of a bincode body: as many as the byte before them says, and far fewer than 251.
fn push_string_list(body: &mut Vec<u8>, texts: &[&str]) {
    let texts = &texts[..texts.len().min(250)];
    body.push(u8::try_from(texts.len()).unwrap_or(250));
    texts.iter().for_each(|text| push_string(body, text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::Head;

    fn unmasked(frame: &[u8]) -> Vec<u8> {
        let head = Head::parse(frame).unwrap().unwrap();
        assert_eq!(head.frame_bytes(), frame.len());
        let mut payload = frame[head.header_bytes..].to_vec();
        ws::apply_mask(&mut payload, head.mask.unwrap());
        payload
    }

    fn frames(wire: Wire, message: &[u8]) -> (Vec<Vec<u8>>, Result<(), Malformed>) {
        let mut seen = Vec::new();
        let outcome = wire.each_frame(message, |frame| seen.push(frame.to_vec()));
        (seen, outcome)
    }

    #[test]
    fn golden_control_frames() {
        let connect = unmasked(&Wire::Binary.connect("s1", true, &[]).unwrap());
        assert_eq!(connect, [1, 1, 9, 0, 0, 0, 1, 2, b's', b'1', 0, 0, 0, 1, 0]);
        let subscribe = unmasked(&Wire::Binary.subscribe(Target::Receiver(7)));
        assert_eq!(subscribe, [b"\x03\x01\x0c\x00\x00\x00\x01\x01\x07user/r7".as_slice(), &[0, 0]].concat());
        assert_eq!(
            unmasked(&Wire::Json.connect("s1", false, &[]).unwrap()),
            br#"{"type":"connect","user":"s1","batch":false}"#
        );
        assert_eq!(unmasked(&Wire::Relay.subscribe(Target::Receiver(0x0102))), [b'S', 2, 1]);
    }

    #[test]
    fn an_upgrade_offers_compression_to_who_asks_for_it() {
        for wire in [Wire::Binary, Wire::Json] {
            let mark = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
            let (plain, offering) = (wire.upgrade_request(80, false), wire.upgrade_request(80, true));
            assert!(!plain.contains(mark) && offering.contains(mark), "{offering}");
            assert!(offering.ends_with("\r\n\r\n") && offering.matches("\r\n\r\n").count() == 1);
        }
    }

    #[test]
    fn golden_publishes() {
        let first = |wire| unmasked(Template::new(wire, Target::Topic, 3).frames(1, None));
        assert_eq!(first(Wire::Json), br#"{"type":"publish","to":"topic/bench","payload":"xxx"}"#);
        assert_eq!(first(Wire::Binary), b"\x02\x01\x16\0\0\0\0\0\0\0\0\0\x0b\0topic/benchxxx");
        assert_eq!(first(Wire::Relay), b"P\0\0xxx");
        let document = |wire: Wire| unmasked(&wire.publish_document(Target::Topic, b"[1]"));
        assert_eq!(document(Wire::Json), br#"{"type":"publish","to":"topic/bench","payload":[1]}"#);
        assert_eq!(document(Wire::Binary), b"\x02\x01\x16\0\0\0\0\0\x01\0\0\0\x0b\0topic/bench[1]");
    }

    #[test]
    fn documents_come_in_turn_however_many_are_asked_for_at_once() {
        let documents: Vec<Vec<u8>> = (0..5).map(|i| b"1234567"[..i + 1].to_vec()).collect();
        let frame = |i: usize| Wire::Binary.publish_document(Target::Topic, &documents[i % 5]);
        let mut template = Template::of_documents(Wire::Binary, Target::Topic, &documents);
        assert_eq!(template.copies(), 64);
        let mut next = 0;
        for count in [1, 2, 64, 5, 1, 63, 7] {
            let expected: Vec<u8> = (next..next + count).flat_map(frame).collect();
            // Documents have no room for a stamp, and take none.
            assert_eq!(template.frames(count, Some(7)), expected, "{count} from {next} on");
            next += count;
        }
        let large = vec![vec![b'1'; 100_000], b"2".to_vec()];
        assert_eq!(Template::of_documents(Wire::Json, Target::Topic, &large).copies(), 1);
    }

    #[test]
    fn stamps_survive_masking_in_every_dialect_and_length() {
        for wire in [Wire::Relay, Wire::Binary, Wire::Json] {
            for payload_bytes in [16, 17, 128, 300, 70_000] {
                let mut template = Template::new(wire, Target::Receiver(3), payload_bytes);
                let one = template.frames(1, None).len();
                let count = template.copies().min(2);
                let sent = template.frames(count, Some(0xfeed)).to_vec();
                assert_eq!(sent.len(), count * one);
                let frame = unmasked(&sent[sent.len() - one..]);
                // A publish ends, or in JSON names, its payload just as a delivery does.
                let delivered = if wire == Wire::Relay { &frame[3..] } else { &frame };
                assert_eq!(
                    wire.stamp(delivered, payload_bytes, &mut 0),
                    Some(0xfeed),
                    "{wire} {payload_bytes}"
                );
            }
        }
    }

    #[test]
    fn the_json_hint_is_corrected_when_positions_grow() {
        let message =
            |pos: &str| format!(r#"{{"type":"message","pos":"{pos}","payload":"00000000000000ff"}}"#);
        let mut hint = 0;
        for pos in ["s3e1:9", "s3e1:10", "s3e1:9"] {
            assert_eq!(Wire::Json.stamp(message(pos).as_bytes(), 16, &mut hint), Some(255));
            assert_eq!(hint, 27 + pos.len());
        }
        assert_eq!(Wire::Json.stamp(br#"{"type":"message"}"#, 16, &mut hint), None);
    }

    #[test]
    fn concatenated_binary_frames_are_told_apart() {
        let (one, two) = (binary_frame(0x82, b"abc"), binary_frame(0x84, b""));
        assert_eq!(
            frames(Wire::Binary, &[one.clone(), two.clone()].concat()),
            (vec![one.clone(), two], Ok(()))
        );
        let mut cut = [one.clone(), one.clone()].concat();
        cut.pop();
        assert_eq!(frames(Wire::Binary, &cut), (vec![one], Err(Malformed)));
        assert_eq!(frames(Wire::Binary, &[0x82, 1, 0xff, 0xff, 0xff, 0xff]).1, Err(Malformed));
    }

    #[test]
    fn json_lines_are_told_apart() {
        let (seen, outcome) = frames(Wire::Json, b"{\"type\":\"ok\"}\n{\"type\":\"pong\"}\n");
        assert_eq!((seen.len(), outcome), (2, Ok(())));
        assert_eq!(Wire::Json.kind(&seen[0]), Kind::Ok);
        assert_eq!(Wire::Json.kind(&seen[1]), Kind::Aside);
    }

    #[test]
    fn what_is_unknown_is_a_complaint() {
        assert_eq!(Wire::Json.kind(br#"{"type":"error","code":1403}"#), Kind::Complaint);
        assert_eq!(Wire::Json.kind(b""), Kind::Complaint);
        for kind in [0x83, 0x85, 0x86, 0x88, 0x00] {
            assert_eq!(Wire::Binary.kind(&[kind, 1, 0, 0, 0, 0]), Kind::Complaint, "{kind:#x}");
        }
    }

    mod against_the_protocol_crate {
        use super::*;
        use waspmq_core::{MessageId, Position, Stream};
        use waspmq_protocol::client::Frame;
        use waspmq_protocol::server::MessageFrame;
        use waspmq_protocol::{Content, HeaderBlock, Level, Profile, decode, encode, server};

        const BOTH: [(Wire, Profile); 2] = [(Wire::Binary, Profile::Binary), (Wire::Json, Profile::Json)];

        fn decoded(profile: Profile, frame: &[u8]) -> Frame<'_> {
            match profile {
                Profile::Binary => decode::binary(frame).unwrap(),
                Profile::Json => decode::json(frame).unwrap(),
            }
        }

        #[test]
        fn what_is_sent_is_understood() {
            for (wire, profile) in BOTH {
                let connect = unmasked(&wire.connect("s1", true, &[]).unwrap());
                let Frame::Connect(connect) = decoded(profile, &connect) else { panic!("{wire}") };
                assert_eq!((connect.user.as_deref(), connect.batch), (Some("s1"), true));
                assert!(connect.device.is_none() && connect.token.is_none() && connect.resume.is_none());

                let subscribe = unmasked(&wire.subscribe(Target::Topic));
                let Frame::Subscribe { reference, to, queue, from } = decoded(profile, &subscribe) else {
                    panic!("{wire}")
                };
                assert_eq!(
                    (reference, to.as_ref(), queue.is_none(), from.is_none()),
                    (Some(1), "topic/bench", true, true)
                );

                let publish = unmasked(Template::new(wire, Target::Receiver(9), 128).frames(1, Some(77)));
                let Frame::Publish(publish) = decoded(profile, &publish) else { panic!("{wire}") };
                assert_eq!(
                    (publish.reference, publish.to.as_ref(), publish.ack),
                    (None, "user/r9", Level::None)
                );
                let quotes = usize::from(wire == Wire::Json);
                assert_eq!(publish.payload.len(), 128 + 2 * quotes);
                assert_eq!(decode_stamp(&publish.payload[quotes..]), Some(77));
            }
        }

        #[test]
        fn what_a_client_reads_and_documents_are_understood() {
            let codecs = ["zstd-dict", "zstd", "lz4"];
            let connect = unmasked(&Wire::Binary.connect("s1", false, &codecs).unwrap());
            let Frame::Connect(connect) = decode::binary(&connect).unwrap() else { panic!("no connect") };
            assert_eq!(connect.codecs, codecs);
            assert!(!connect.batch && connect.token.is_none() && connect.resume.is_none());
            for (wire, profile) in BOTH {
                let publish = unmasked(&wire.publish_document(Target::Topic, br#"{"a":"b"}"#));
                let Frame::Publish(publish) = decoded(profile, &publish) else { panic!("{wire}") };
                assert_eq!((publish.content, publish.packed), (Content::Json, None));
                assert_eq!(&*publish.payload, br#"{"a":"b"}"#);
                assert_eq!(publish.ack, Level::None);
            }
        }

        #[test]
        fn a_dictionary_is_nothing_and_a_packed_message_is_one() {
            let dictionary = server::SentDictionary { id: 3, digest: [7; 32], bytes: vec![1; 300] };
            let mut bytes = Vec::new();
            encode::dictionary(&dictionary, &mut bytes);
            let length = bytes.len();
            bytes.extend_from_slice(&binary_frame(0x82, b"packed or not"));
            let (seen, outcome) = frames(Wire::Binary, &bytes);
            assert_eq!((seen[0].len(), outcome), (length, Ok(())));
            let kinds: Vec<_> = seen.iter().map(|frame| Wire::Binary.kind(frame)).collect();
            assert_eq!(kinds, [Kind::Aside, Kind::Message]);
        }

        #[test]
        fn what_is_received_is_told_apart_and_its_stamp_found() {
            for (wire, profile) in BOTH {
                let mut payload = encode_stamp(4_711).to_vec();
                payload.resize(128, b'x');
                let quoted = [b"\"".as_slice(), &payload, b"\""].concat();
                let json = profile == Profile::Json;
                let message = MessageFrame {
                    id: MessageId::new(1_790_000_000_000, 1, 0, 5),
                    to: "topic/bench",
                    from: Some("s0"),
                    position: Position { stream: Stream { shard: 3, epoch: 1 }, offset: 57 },
                    content: if json { Content::Json } else { Content::Bytes },
                    payload: if json { &quoted } else { &payload },
                    packed: None,
                    headers: HeaderBlock::EMPTY,
                    key: None,
                    priority: 0,
                    reply_to: None,
                    queue: None,
                    attempt: None,
                    wants_ack: false,
                    unix_ms: 1_790_000_000_000,
                };
                let mut bytes = Vec::new();
                encode::message(profile, &message, &mut bytes);
                assert_eq!(wire.kind(&bytes), Kind::Message);
                assert_eq!(wire.stamp(&bytes, 128, &mut 0), Some(4_711));

                for (frame, kind) in [
                    (server::Frame::Ok { reference: Some(1) }, Kind::Ok),
                    (server::Frame::Pong, Kind::Aside),
                    (
                        server::Frame::Overflow(server::Overflow {
                            to: "topic/bench".to_owned(),
                            dropped: 1,
                            action: None,
                        }),
                        Kind::Complaint,
                    ),
                ] {
                    bytes.clear();
                    encode::control(profile, &frame, &mut bytes);
                    assert_eq!(wire.kind(&bytes), kind, "{wire} {frame:?}");
                }
            }
        }
    }
}
