//! A user who was away: messages are stored for them, then they connect and read everything. Times to the first
//! and to the last message, and how much memory the server takes for it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Serialize;
use serde_json::json;

use crate::conn::READ_BYTES;
use crate::exchange::{self, Plan};
use crate::link::Link;
use crate::options::{Broker, Disk, Output};
use crate::report::{self, Journal, Samples, Subject as _, Turns};
use crate::server::{Kind, Server, Site};
use crate::talk::{Dialect, Heard, Level};
use crate::watch::{Resident, Watch};
use crate::wire::Wire;

/// Milliseconds to the first message.
const FIRST_MS_MAX: f64 = 50.0;

/// Publishers that fill the inbox, and what each has outstanding.
const PUBLISHERS: usize = 16;
const WINDOW: u16 = 256;

/// No message for this long ends a replay.
const SILENCE: Duration = Duration::from_secs(10);

/// For what a server does after the last receipt.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    disk: Disk,
    /// Messages in the inbox
    #[arg(long, default_value_t = 100_000)]
    messages: u64,
    /// Bytes of payload
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Let the broker put several frames into one WebSocket message
    #[arg(long)]
    batch: bool,
}

#[derive(Debug, Serialize)]
struct Sample {
    fill_seconds: f64,
    #[serde(flatten)]
    replay: Replay,
    expected: u64,
    messages_per_s: f64,
    resident: Resident,
}

/// What a user got who connected.
#[derive(Debug, Serialize)]
pub(crate) struct Replay {
    /// From before the TCP connection, in all three.
    pub(crate) welcome_ms: f64,
    pub(crate) first_message_ms: f64,
    pub(crate) all_seconds: f64,
    pub(crate) received: u64,
    /// Messages that came again and said so.
    pub(crate) redelivered: u64,
}

/// True when every message arrived once.
///
/// # Errors
/// When an argument is out of range, the broker does not start or refuses to store, messages stop coming, or results
/// cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { output, disk, messages, payload, batch, .. } = arguments;
    ensure!((1..=100_000_000).contains(messages), "--messages is between 1 and 100000000");
    ensure!((1..=512 * 1024).contains(payload), "--payload is between 1 and 524288");
    let filesystem = disk.check()?;
    let mut journal = Journal::open("inbox", &output.results)?;
    let parameters = json!({
        "messages": messages, "payload": payload, "batch": batch, "dir": disk.path, "filesystem": filesystem,
    });
    let turns = Turns {
        subjects: &[Kind::Broker],
        repetitions: output.repetitions,
        back_and_forth: false,
        profile: Wire::Binary,
    };
    let samples = Samples::in_turn(&turns, &mut journal, &parameters, |_| take(arguments))?;
    print!("{}", report::table(&rows(&samples)));
    let first = samples.of(Kind::Broker, |sample| sample.replay.first_message_ms);
    println!("first message, ms: {}", report::at_most(first, FIRST_MS_MAX));
    println!("samples: {}", journal.path().display());
    Ok(samples.all(|sample| sample.replay.received == sample.expected))
}

fn take(arguments: &Arguments) -> Result<Sample> {
    let Arguments { broker, disk, messages, payload, batch, .. } = arguments;
    let server = Server::broker(&Site { broker, dir: &disk.path, data: None, configuration: "" })?;
    let each = messages.div_ceil(PUBLISHERS as u64);
    let plan = Plan {
        dialect: Dialect::Waspmq { level: Level::Stored, batch: false },
        port: server.port(),
        pid: server.pid(),
        addresses: vec![vec!["user/x".to_owned()]; PUBLISHERS],
        receivers: false,
        window: WINDOW,
        refill_at: WINDOW / 2,
        payload_bytes: *payload,
    };
    let filled = exchange::fill(&plan, each).context("filling the inbox")?;
    std::thread::sleep(SETTLE);
    let expected = each * PUBLISHERS as u64;
    let watch = Watch::start(server.pid(), Duration::from_millis(5))?;
    let replay = replay(server.port(), "x", expected, *batch)?;
    let resident = watch.finish()?;
    eprintln!(
        "{:>14}: first message after {:.1} ms, {} of {expected} in {:.2} s, {:.1} MiB more memory",
        Kind::Broker.name(),
        replay.first_message_ms,
        replay.received,
        replay.all_seconds,
        resident.growth_bytes() as f64 / 1_048_576.0
    );
    Ok(Sample {
        fill_seconds: filled.time.as_secs_f64(),
        messages_per_s: replay.received as f64 / replay.all_seconds,
        replay,
        expected,
        resident,
    })
}

/// Connects as `user`, acknowledges what comes and waits for `expected` messages.
///
/// # Errors
/// When the server refuses, complains, closes or is silent before they are there.
pub(crate) fn replay(port: u16, user: &str, expected: u64, batch: bool) -> Result<Replay> {
    let dialect = Dialect::Waspmq { level: Level::None, batch };
    let start = Instant::now();
    let ms = || start.elapsed().as_secs_f64() * 1e3;
    let mut link = Link::open(Wire::Binary, port, None)?;
    link.connect(user, batch)?;
    let welcome_ms = ms();
    let (mut stream, mut bytes) = link.into_parts();
    stream.set_read_timeout(Some(SILENCE))?;
    let (mut received, mut redelivered, mut first_message_ms) = (0, 0, f64::NAN);
    let mut out = Vec::new();
    loop {
        let mut complaint = None;
        let taken = dialect.hear(&bytes, &mut out, |heard| match heard {
            Heard::Message { repeat: true } => redelivered += 1,
            Heard::Message { repeat: false } => received += 1,
            Heard::Receipt(_) | Heard::LateAck => {}
            Heard::Overloaded { words, .. } | Heard::Complaint(words) => drop(complaint.get_or_insert(words)),
        });
        let taken = taken.map_err(|gone| anyhow::anyhow!("the connection is over: {gone:?}"))?;
        if let Some(complaint) = complaint {
            bail!("the server said: {complaint}");
        }
        if first_message_ms.is_nan() && received + redelivered > 0 {
            first_message_ms = ms();
        }
        bytes.drain(..taken);
        stream.write_all(&out)?;
        out.clear();
        if received >= expected {
            break;
        }
        fill(&mut stream, &mut bytes).with_context(|| format!("{received} of {expected} messages came"))?;
    }
    Ok(Replay { welcome_ms, first_message_ms, all_seconds: ms() / 1e3, received, redelivered })
}

fn fill(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<()> {
    let kept = into.len();
    into.resize(kept + READ_BYTES, 0);
    let count = stream.read(&mut into[kept..])?;
    into.truncate(kept + count);
    ensure!(count > 0, "the server closed the connection");
    Ok(())
}

fn rows(samples: &Samples<Sample>) -> Vec<Vec<String>> {
    let header =
        ["messages", "stored/s", "welcome ms", "first ms", "all s", "messages/s", "again", "growth MiB"];
    let cell = |figure: fn(&Sample) -> f64, digits| report::median(samples.of(Kind::Broker, figure), digits);
    let row = vec![
        cell(|sample| sample.expected as f64, 0),
        cell(|sample| sample.expected as f64 / sample.fill_seconds, 0),
        cell(|sample| sample.replay.welcome_ms, 1),
        cell(|sample| sample.replay.first_message_ms, 1),
        cell(|sample| sample.replay.all_seconds, 2),
        cell(|sample| sample.messages_per_s, 0),
        cell(|sample| sample.replay.redelivered as f64, 0),
        cell(|sample| sample.resident.growth_bytes() as f64 / 1_048_576.0, 1),
    ];
    vec![header.map(str::to_owned).to_vec(), row]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Fault};

    #[test]
    fn what_was_stored_is_replayed_and_timed() {
        let port = fake::start(Wire::Binary, Fault::None);
        let plan = Plan {
            dialect: Dialect::Waspmq { level: Level::Stored, batch: false },
            port,
            pid: std::process::id(),
            addresses: vec![vec!["user/x".to_owned(), "user/y".to_owned()]; 2],
            receivers: false,
            window: 8,
            refill_at: 4,
            payload_bytes: 3_000,
        };
        let filled = exchange::fill(&plan, 50).unwrap();
        for (user, i) in [("x", 0), ("y", 1)] {
            let expected: u64 = filled.counts.iter().map(|counts| counts[i]).sum();
            let replay = replay(port, user, expected, false).unwrap();
            assert_eq!((replay.received, replay.redelivered), (expected, 0));
            assert!(replay.welcome_ms > 0.0 && replay.first_message_ms >= replay.welcome_ms, "{replay:?}");
            assert!(replay.all_seconds * 1e3 >= replay.first_message_ms, "{replay:?}");
        }
    }

    #[test]
    fn a_replay_that_is_refused_says_so() {
        let port = fake::start(Wire::Binary, Fault::Refuses);
        assert!(format!("{:#}", replay(port, "x", 1, false).unwrap_err()).contains("connecting as x"));
    }
}
