//! A stand-in for the broker in tests: accepts `connect`, `subscribe` and `publish` in both profiles, on blocking
//! threads, and can be told to misbehave. It says what a broker would say; it is no measure of anything.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::wire::Wire;
use crate::ws::{self, Head};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Every hundredth message reaches nobody.
    Loses,
    /// Every hundredth message arrives twice.
    Repeats,
    /// Closes a subscriber's connection after some messages.
    Closes,
    /// Answers `connect` with an error.
    Refuses,
    /// Answers a publish that wants a receipt with an error.
    NotSupported,
    /// Has no room for every third publish that wants a receipt.
    Overloaded,
    /// Answers every hundredth publish with no receipt.
    Forgets,
}

type Subscriptions = Arc<Mutex<Vec<(String, TcpStream)>>>;

/// A receipt that waits for the recipient's ack.
struct Pending {
    to: String,
    offset: u64,
    receipt: Vec<u8>,
    publisher: TcpStream,
}

type Waiting = Arc<Mutex<Vec<Pending>>>;

/// Message frames of level `stored`, by address, for who connects later; they want an ack.
type Kept = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Starts serving on a free port; the threads end with their connections and the test process.
pub(crate) fn start(wire: Wire, fault: Fault) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (subscriptions, waiting, kept) = (Subscriptions::default(), Waiting::default(), Kept::default());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_nodelay(true).unwrap();
            let peer = Peer {
                wire,
                fault,
                subscriptions: subscriptions.clone(),
                waiting: waiting.clone(),
                kept: kept.clone(),
                published: 0,
                refused: 0,
            };
            thread::spawn(move || peer.serve(stream));
        }
    });
    port
}

struct Peer {
    wire: Wire,
    fault: Fault,
    subscriptions: Subscriptions,
    waiting: Waiting,
    kept: Kept,
    published: u64,
    refused: u64,
}

impl Peer {
    /// Serves one connection; ends at the first read or write that fails.
    fn serve(mut self, mut stream: TcpStream) -> Option<()> {
        let mut bytes = Vec::new();
        let mut upgraded = false;
        let mut chunk = [0; 65_536];
        loop {
            let count = stream.read(&mut chunk).ok().filter(|&count| count > 0)?;
            bytes.extend_from_slice(&chunk[..count]);
            if !upgraded {
                let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
                stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").ok()?;
                bytes.drain(..end + 4);
                upgraded = true;
            }
            while let Some(head) = Head::parse(&bytes).unwrap() {
                if bytes.len() < head.frame_bytes() {
                    break;
                }
                let mut frame: Vec<u8> = bytes.drain(..head.frame_bytes()).collect();
                let payload = &mut frame[head.header_bytes..];
                ws::apply_mask(payload, head.mask.expect("clients mask"));
                match self.wire {
                    Wire::Json => self.json(payload, &stream)?,
                    _ => self.binary(payload, &stream)?,
                }
            }
        }
    }

    fn json(&mut self, payload: &[u8], stream: &TcpStream) -> Option<()> {
        let frame: serde_json::Value = serde_json::from_slice(payload).unwrap();
        let text = |name: &str| frame[name].as_str().unwrap_or_default().to_owned();
        match text("type").as_str() {
            "connect" if self.fault == Fault::Refuses => {
                self.send(stream, br#"{"type":"error","code":1401,"name":"unauthorized"}"#)
            }
            "connect" => {
                self.subscribe(format!("user/{}", text("user")), stream);
                self.send(stream, br#"{"type":"welcome","session":"1"}"#)
            }
            "subscribe" => {
                self.subscribe(text("to"), stream);
                self.send(stream, br#"{"type":"ok","ref":1}"#)
            }
            "publish" => {
                let (pos, to, body) = (self.published, text("to"), text("payload"));
                let message = format!(
                    r#"{{"type":"message","id":"a","to":"{to}","pos":"s1e1:{pos}","payload":"{body}","ts":1}}"#
                );
                self.publish(&to, message.as_bytes());
                Some(())
            }
            other => panic!("unexpected {other}"),
        }
    }

    fn binary(&mut self, payload: &[u8], stream: &TcpStream) -> Option<()> {
        let (prefix, body) = payload.split_at(6);
        assert_eq!(prefix[2..6], u32::try_from(body.len()).unwrap().to_le_bytes());
        let string =
            |at: usize| String::from_utf8(body[at + 1..at + 1 + usize::from(body[at])].to_vec()).unwrap();
        match prefix[0] {
            0x01 if self.fault == Fault::Refuses => self.send(stream, &frame(0x85, b"no")),
            0x01 => {
                let to = format!("user/{}", string(1));
                // Before the welcome: what is published behind that reaches the subscription.
                let kept = self.kept(&to);
                self.subscribe(to, stream);
                self.send(stream, &frame(0x81, b"later"))?;
                kept.iter().try_for_each(|message| self.send(stream, message))
            }
            0x03 => {
                self.subscribe(string(2), stream);
                self.send(stream, &frame(0x84, &[1, 1]))
            }
            0x02 => self.binary_publish(body, stream),
            0x07 => {
                // No reference and no ids; `to` and `upto`.
                assert_eq!(body[..3], [0, 0, 1]);
                let (to, upto) = (string(3), string(5 + usize::from(body[3])));
                let offset: u64 = upto.rsplit(':').next().unwrap().parse().unwrap();
                self.acknowledge(&to, offset)
            }
            other => panic!("unexpected {other:#x}"),
        }
    }

    fn binary_publish(&mut self, body: &[u8], stream: &TcpStream) -> Option<()> {
        let (referenced, level) = (body[0] & 1 == 1, body[3]);
        let rest = &body[if referenced { 16 } else { 8 }..];
        let (to, payload) = rest.split_at(usize::from(u16::from_le_bytes([body[6], body[7]])));
        let text = std::str::from_utf8(to).unwrap();
        let offset = self.published + 1;
        let mut message = vec![0; 42];
        message[26..34].copy_from_slice(&offset.to_le_bytes());
        if level >= 2 {
            message[..2].copy_from_slice(&2048_u16.to_le_bytes());
        }
        message.extend_from_slice(&body[6..8]);
        message.extend_from_slice(&[0, 0]);
        message.extend_from_slice(&[to, payload].concat());
        if referenced && self.fault == Fault::NotSupported {
            let error = [b"\0\xfb\xdd\x05\x0dnot_supported\x05level\0".as_slice()].concat();
            return self.send(stream, &frame(0x85, &error));
        }
        if referenced && self.fault == Fault::Overloaded && (self.published + self.refused).is_multiple_of(3)
        {
            self.refused += 1;
            let error = [b"\x01", &body[8..9], b"\xfb\xdf\x05\x0aoverloaded\x04full\x02"].concat();
            return self.send(stream, &frame(0x85, &error));
        }
        if referenced {
            // A reference below 251 is one byte of a varint; then id, level and one recipient.
            let receipt = frame(0x83, &[&[body[8]][..], &[0; 16], &[level, 1]].concat());
            let publisher = stream.try_clone().unwrap();
            self.waiting.lock().unwrap().push(Pending { to: text.to_owned(), offset, receipt, publisher });
        }
        let message = frame(0x82, &message);
        self.publish(text, &message);
        if level == 2 {
            self.kept.lock().unwrap().push((text.to_owned(), message));
        }
        if level < 3 { self.acknowledge(text, offset) } else { Some(()) }
    }

    /// What is kept for an address.
    fn kept(&self, to: &str) -> Vec<Vec<u8>> {
        let kept = self.kept.lock().unwrap();
        kept.iter().filter(|(address, _)| address == to).map(|(_, message)| message.clone()).collect()
    }

    /// Sends the receipts of what was published to `to` up to `offset`.
    fn acknowledge(&self, to: &str, offset: u64) -> Option<()> {
        let mut waiting = self.waiting.lock().unwrap();
        let reached = |pending: &mut Pending| pending.to == to && pending.offset <= offset;
        for Pending { offset, receipt, publisher, .. } in waiting.extract_if(.., reached) {
            if self.fault != Fault::Forgets || offset % 100 != 0 {
                self.send(&publisher, &receipt)?;
            }
        }
        Some(())
    }

    fn subscribe(&self, to: String, stream: &TcpStream) {
        self.subscriptions.lock().unwrap().push((to, stream.try_clone().unwrap()));
    }

    fn publish(&mut self, to: &str, message: &[u8]) {
        self.published += 1;
        let times = match self.fault {
            Fault::Loses if self.published.is_multiple_of(100) => 0,
            Fault::Repeats if self.published.is_multiple_of(100) => 2,
            _ => 1,
        };
        for (_, stream) in self.subscriptions.lock().unwrap().iter().filter(|(address, _)| address == to) {
            for _ in 0..times {
                // A receiver that left shows in what the generator counts.
                let _ = self.send(stream, message);
            }
            if self.fault == Fault::Closes && self.published == 100 {
                drop(stream.shutdown(std::net::Shutdown::Both));
            }
        }
    }

    fn send(&self, mut stream: &TcpStream, payload: &[u8]) -> Option<()> {
        let mut frame = Vec::new();
        ws::push_frame(
            &mut frame,
            if self.wire == Wire::Json { ws::TEXT } else { ws::BINARY },
            None,
            payload,
        );
        stream.write_all(&frame).ok()
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind, 1];
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    [frame.as_slice(), body].concat()
}
