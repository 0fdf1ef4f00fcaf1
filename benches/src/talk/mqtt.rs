//! MQTT 3.1.1 (OASIS standard) at quality of service 1: a publisher is acknowledged by the server when it took the
//! message, the server by the receiver, one PUBACK per message each.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};

use super::{Heard, Publishes, Slot};
use crate::conn::Gone;
use crate::link::{dial, printable};

const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBACK: u8 = 0x90;
const PINGRESP: u8 = 0xd0;

/// Flag of a PUBLISH that was sent before.
const DUP: u8 = 0x08;

/// One packet: type and flags, what follows the length, and the bytes of all of it.
#[derive(Debug, Clone, Copy)]
struct Packet<'a> {
    first: u8,
    body: &'a [u8],
    bytes: usize,
}

pub(super) fn topic(i: usize) -> String {
    format!("bench/r{i}")
}

/// A clean session without keep-alive; subscribed to `topic` if one is given.
pub(super) fn connect(port: u16, client: &str, topic: Option<&str>) -> Result<(TcpStream, Vec<u8>)> {
    let mut stream = dial(port, None, None)?;
    let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
    push_string(&mut body, client);
    stream.write_all(&packet(0x10, &body))?;
    let mut read = Vec::new();
    let answer = await_packet(&mut stream, &mut read)?;
    ensure!(answer == [CONNACK, 2, 0, 0], "the MQTT server refused {client}: {}", printable(&answer));
    if let Some(topic) = topic {
        let mut body = vec![0, 1];
        push_string(&mut body, topic);
        body.push(1);
        stream.write_all(&packet(0x82, &body))?;
        let answer = await_packet(&mut stream, &mut read)?;
        ensure!(answer == [SUBACK, 3, 0, 1, 1], "the MQTT server refused {topic}: {}", printable(&answer));
    }
    Ok((stream, read))
}

pub(super) fn publishes(address: &str, payload: &[u8]) -> Publishes {
    let mut body = Vec::new();
    push_string(&mut body, address);
    let packet_id = body.len();
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(payload);
    let frame = packet(PUBLISH | 0x02, &body);
    let at = frame.len() - body.len() + packet_id;
    Publishes::new(&frame, Slot::Packet { at })
}

pub(super) fn hear(bytes: &[u8], out: &mut Vec<u8>, mut take: impl FnMut(Heard)) -> Result<usize, Gone> {
    let mut at = 0;
    while let Some(Packet { first, body, bytes: used }) = split(&bytes[at..])? {
        match first & 0xf0 {
            PUBLISH => {
                let topic_bytes =
                    body.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
                let packet_id: &[u8; 2] =
                    body.get(2 + topic_bytes..).and_then(<[u8]>::first_chunk).ok_or(Gone::Malformed)?;
                out.extend_from_slice(&[PUBACK, 2, packet_id[0], packet_id[1]]);
                take(Heard::Message { repeat: first & DUP != 0 });
            }
            PUBACK => {
                let packet_id = u16::from_be_bytes(*body.first_chunk().ok_or(Gone::Malformed)?);
                take(Heard::Receipt(u64::from(packet_id).wrapping_sub(1)));
            }
            PINGRESP => {}
            _ => take(Heard::Complaint(printable(&bytes[at..at + used]))),
        }
        at += used;
    }
    Ok(at)
}

/// The packet at the start of `bytes`; `None` while it is incomplete.
fn split(bytes: &[u8]) -> Result<Option<Packet<'_>>, Gone> {
    let mut length = 0_usize;
    for i in 0..4 {
        let Some(&byte) = bytes.get(1 + i) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let start = 2 + i;
            let packet = |body| Packet { first: bytes[0], body, bytes: start + length };
            return Ok(bytes.get(start..start + length).map(packet));
        }
    }
    Err(Gone::Malformed)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7f).unwrap_or(0);
        length >>= 7;
        packet.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

fn push_string(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

fn await_packet(stream: &mut TcpStream, read: &mut Vec<u8>) -> Result<Vec<u8>> {
    loop {
        if let Ok(Some(packet)) = split(read) {
            let used = packet.bytes;
            return Ok(read.drain(..used).collect());
        }
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).context("no answer")?;
        ensure!(count > 0, "the MQTT server closed the connection");
        read.extend_from_slice(&bytes[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_however_the_stream_is_cut() {
        let message = {
            let mut body = Vec::new();
            push_string(&mut body, "bench/r1");
            body.extend_from_slice(&[0x12, 0x34]);
            body.extend_from_slice(&[b'x'; 200]);
            body
        };
        let stream = [
            packet(PUBLISH | 0x02, &message),
            packet(PUBACK, &[0, 1]),
            packet(PUBLISH | DUP | 0x02, &message),
        ]
        .concat();
        for cut in 0..=stream.len() {
            let (mut seen, mut out) = (Vec::new(), Vec::new());
            let taken = hear(&stream[..cut], &mut out, |heard| seen.push(heard)).unwrap();
            let all = hear(&stream[taken..], &mut out, |heard| seen.push(heard)).unwrap();
            assert_eq!(taken + all, stream.len(), "cut at {cut}");
            assert_eq!(
                seen,
                [Heard::Message { repeat: false }, Heard::Receipt(0), Heard::Message { repeat: true }]
            );
            assert_eq!(out, [[PUBACK, 2, 0x12, 0x34]; 2].concat());
        }
    }

    #[test]
    fn a_publish_carries_its_packet_id() {
        let mut publishes = publishes("bench/r1", &[b'x'; 128]);
        let frames = publishes.frames(&[0, 0x01ff]).to_vec();
        let Packet { first, body, bytes: used } = split(&frames).unwrap().unwrap();
        assert_eq!((first, used), (0x32, frames.len() / 2));
        assert_eq!(&body[..12], b"\x00\x08bench/r1\x00\x01");
        let body = split(&frames[used..]).unwrap().unwrap().body;
        assert_eq!(&body[10..12], [0x02, 0x00]);
    }

    #[test]
    fn what_is_not_a_packet_is_malformed_or_a_complaint() {
        assert_eq!(hear(&[0x30, 0xff, 0xff, 0xff, 0xff, 1], &mut Vec::new(), |_| ()), Err(Gone::Malformed));
        let mut seen = Vec::new();
        hear(&[0x20, 2, 0, 0], &mut Vec::new(), |heard| seen.push(heard)).unwrap();
        assert!(matches!(seen.as_slice(), [Heard::Complaint(_)]));
    }
}
