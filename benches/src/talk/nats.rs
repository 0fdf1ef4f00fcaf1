//! NATS with JetStream, as its client protocol documents it (docs.nats.io, "Client Protocol" and "JetStream wire API").
//!
//! Each publisher listens to `_INBOX.g<i>.*` and publishes with the reply subject `_INBOX.g<i>.<slot>`, where the
//! stream's acknowledgement comes to: `{"stream":"BENCH","seq":1}`, or an object with `error`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Heard, Publishes, Slot};
use crate::conn::Gone;
use crate::link::{dial, printable};

const CONNECT: &str = concat!(
    r#"CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"name":"bench","lang":"rust","#,
    r#""version":"1","protocol":1,"headers":true,"no_responders":true}"#,
    "\r\n"
);

/// The longest line of the protocol that is taken.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// How long `JetStream` may take to be there once the port is open.
const READY_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn subject(i: usize) -> String {
    format!("bench.r{i}")
}

pub(super) fn connect(port: u16, i: usize) -> Result<(TcpStream, Vec<u8>)> {
    let mut stream = dial(port, None, None)?;
    stream.write_all(format!("{CONNECT}SUB _INBOX.g{i}.* 1\r\nPING\r\n").as_bytes())?;
    let mut read = Vec::new();
    let end = loop {
        if let Some(at) = read.windows(6).position(|window| window == b"PONG\r\n") {
            break at + 6;
        }
        ensure!(!contains(&read, b"-ERR"), "the NATS server said {}", printable(&read));
        fill(&mut stream, &mut read)?;
    };
    Ok((stream, read.split_off(end)))
}

/// Makes the stream that takes every [`subject`], in files.
///
/// # Errors
/// With the server's words when it refuses, or when `JetStream` does not come up.
pub(crate) fn create_stream(port: u16) -> Result<()> {
    const REQUEST: &str = concat!(
        r#"{"name":"BENCH","subjects":["bench.>"],"retention":"limits","storage":"file","discard":"old","#,
        r#""max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msg_size":-1,"num_replicas":1}"#
    );
    let start = Instant::now();
    loop {
        let (mut stream, mut read) = connect(port, 0)?;
        let request =
            format!("PUB $JS.API.STREAM.CREATE.BENCH _INBOX.g0.0 {}\r\n{REQUEST}\r\n", REQUEST.len());
        stream.write_all(request.as_bytes())?;
        while !contains(&read, b"}\r\n") && !contains(&read, b"NATS/1.0 503") {
            fill(&mut stream, &mut read)?;
        }
        if contains(&read, b"\"error\"") {
            bail!("the NATS server refused the stream: {}", printable(&read));
        }
        if contains(&read, b"\"config\"") {
            return Ok(());
        }
        ensure!(start.elapsed() < READY_WITHIN, "JetStream does not come up: {}", printable(&read));
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(super) fn publishes(i: usize, address: &str, payload: &[u8]) -> Publishes {
    let reply = format!("PUB {address} _INBOX.g{i}.");
    let mut frame = format!("{reply}00000 {}\r\n", payload.len()).into_bytes();
    frame.extend_from_slice(payload);
    frame.extend_from_slice(b"\r\n");
    Publishes::new(&frame, Slot::Digits { at: reply.len() })
}

pub(super) fn hear(bytes: &[u8], out: &mut Vec<u8>, mut take: impl FnMut(Heard)) -> Result<usize, Gone> {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let Some(length) = rest.windows(2).position(|window| window == b"\r\n") else {
            return if rest.len() > LINE_BYTES_MAX { Err(Gone::Malformed) } else { Ok(at) };
        };
        let line = &rest[..length];
        let mut used = length + 2;
        if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
            let payload_bytes = line.rsplit(|&byte| byte == b' ').next().and_then(decimal);
            let payload_bytes = payload_bytes.ok_or(Gone::Malformed)?;
            let end = used + usize::try_from(payload_bytes).map_err(|_| Gone::Malformed)?;
            if rest.len() < end + 2 {
                return Ok(at);
            }
            take(acknowledgement(line, &rest[used..end]));
            used = end + 2;
        } else if line == b"PING" {
            out.extend_from_slice(b"PONG\r\n");
        } else if line != b"PONG" && line != b"+OK" && !line.starts_with(b"INFO ") {
            take(Heard::Complaint(printable(line)));
        }
        at += used;
    }
}

/// What came to a reply subject.
fn acknowledgement(line: &[u8], payload: &[u8]) -> Heard {
    let subject = line.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
    let slot = subject.rsplit(|&byte| byte == b'.').next().and_then(decimal);
    match slot {
        Some(slot) if contains(payload, b"\"seq\"") && !contains(payload, b"\"error\"") => {
            Heard::Receipt(slot)
        }
        _ => Heard::Complaint(printable(&[line, b" ", payload].concat())),
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn fill(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<()> {
    let mut bytes = [0; 8192];
    let count = stream.read(&mut bytes).context("no answer")?;
    ensure!(count > 0, "the NATS server closed the connection: {}", printable(into));
    into.extend_from_slice(&bytes[..count]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8]) -> (Vec<Heard>, Vec<u8>, Result<usize, Gone>) {
        let (mut seen, mut out) = (Vec::new(), Vec::new());
        let taken = hear(bytes, &mut out, |heard| seen.push(heard));
        (seen, out, taken)
    }

    #[test]
    fn acknowledgements_are_found_however_the_stream_is_cut() {
        let stream = b"MSG _INBOX.g3.00042 1 28\r\n{\"stream\":\"BENCH\",\"seq\": 17}\r\nPING\r\n\
                       MSG _INBOX.g3.00007 1 27\r\n{\"stream\":\"BENCH\",\"seq\":18}\r\n";
        for cut in 0..=stream.len() {
            let (mut seen, mut out, taken) = heard(&stream[..cut]);
            let (more, pong, all) = heard(&stream[taken.unwrap()..]);
            seen.extend(more);
            out.extend(pong);
            assert_eq!(seen, [Heard::Receipt(42), Heard::Receipt(7)], "cut at {cut}");
            assert_eq!((out.as_slice(), all.is_ok()), (b"PONG\r\n".as_slice(), true));
        }
    }

    #[test]
    fn refusals_are_complaints() {
        let refused =
            b"MSG _INBOX.g0.00001 1 46\r\n{\"error\":{\"code\":503},\"stream\":\"BENCH\",\"seq\":0}\r\n";
        assert!(matches!(heard(refused).0.as_slice(), [Heard::Complaint(_)]));
        assert!(matches!(heard(b"-ERR 'Maximum Payload Violation'\r\n").0.as_slice(), [Heard::Complaint(_)]));
        let nobody = b"HMSG _INBOX.g0.00001 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n";
        assert!(matches!(heard(nobody).0.as_slice(), [Heard::Complaint(_)]));
        assert_eq!(heard(b"MSG _INBOX.g0.1 1 many\r\n").2, Err(Gone::Malformed));
    }

    #[test]
    fn a_publish_names_its_slot_in_the_reply_subject() {
        let mut publishes = publishes(12, &subject(9), b"abc");
        assert_eq!(
            publishes.frames(&[7, 64_000]),
            b"PUB bench.r9 _INBOX.g12.00007 3\r\nabc\r\nPUB bench.r9 _INBOX.g12.64000 3\r\nabc\r\n"
        );
    }
}
