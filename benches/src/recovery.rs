//! A broker that is killed with a full store: how long until a new one on the same folder is ready, and whether a
//! user's messages are there then.
//!
//! The files are in the page cache when the broker starts again, because it was just there: a start after a power
//! cut reads the disk besides.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::json;

use crate::exchange::{self, Plan};
use crate::inbox;
use crate::options::{Broker, Disk, Output};
use crate::process;
use crate::report::{self, Journal, Samples, Subject as _, Turns};
use crate::scrape;
use crate::server::{Kind, Server, Site};
use crate::talk::{Dialect, Level};
use crate::wire::Wire;

/// Seconds until the broker is ready.
const READY_S_MAX: f64 = 10.0;

/// How long is waited for it.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Publishers that fill the store.
const PUBLISHERS: usize = 32;
/// Addresses of each of them.
const ADDRESSES_EACH: usize = 32;
/// What each has outstanding.
const WINDOW: u16 = 256;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    disk: Disk,
    /// Bytes of payload to store
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: u64,
    /// Bytes of payload of one message
    #[arg(long, default_value_t = 1024)]
    payload: usize,
    /// A data folder to use and to keep; it is filled only if its files have less than --bytes
    #[arg(long)]
    fill: Option<std::path::PathBuf>,
}

#[derive(Debug, Serialize)]
struct Sample {
    store_bytes: u64,
    /// From starting the process to a ready answer.
    ready_seconds: f64,
    resident_bytes: u64,
    /// What the user that is looked at should have, and got; `None` where the store was there before.
    expected: Option<u64>,
    received: u64,
}

/// True when the messages of the user that is looked at were there.
///
/// # Errors
/// When the broker does not start or refuses to store, or results cannot be written.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let Arguments { output, disk, bytes, payload, fill, .. } = arguments;
    ensure!((1..=512 * 1024).contains(payload), "--payload is between 1 and 524288");
    let filesystem = disk.check()?;
    let own = tempfile::Builder::new().prefix("bench-store-").tempdir_in(&disk.path)?;
    let data = fill.clone().unwrap_or_else(|| own.path().join("data"));
    let mut journal = Journal::open("recovery", &output.results)?;
    let parameters = json!({
        "bytes": bytes, "payload": payload, "addresses": PUBLISHERS * ADDRESSES_EACH, "dir": data,
        "filesystem": filesystem,
    });
    let site = Site { broker: &arguments.broker, dir: &disk.path, data: Some(&data), configuration: "" };
    let mut expected = None;
    if size(&data) < *bytes {
        expected = Some(fill_store(&site, arguments)?);
    }
    let turns = Turns {
        subjects: &[Kind::Broker],
        repetitions: output.repetitions,
        back_and_forth: false,
        profile: Wire::Binary,
    };
    let samples = Samples::in_turn(&turns, &mut journal, &parameters, |_| {
        // Its messages are acknowledged in the first repetition, so they are looked at once.
        take(&site, expected.take())
    })?;
    print!("{}", report::table(&rows(&samples)));
    let ready = samples.of(Kind::Broker, |sample| sample.ready_seconds);
    println!("ready after, s: {}", report::at_most(ready, READY_S_MAX));
    println!("samples: {}", journal.path().display());
    Ok(samples.all(|sample| sample.expected.is_none_or(|expected| sample.received == expected)))
}

/// Fills the store, kills the broker, and returns how many messages the first address has.
fn fill_store(site: &Site<'_>, arguments: &Arguments) -> Result<u64> {
    let server = Server::broker(site)?;
    let addresses =
        |i| (0..ADDRESSES_EACH).map(move |k| format!("user/f{:05}", i * ADDRESSES_EACH + k)).collect();
    let plan = Plan {
        dialect: Dialect::Waspmq { level: Level::Stored, batch: false },
        port: server.port(),
        pid: server.pid(),
        addresses: (0..PUBLISHERS).map(addresses).collect(),
        receivers: false,
        window: WINDOW,
        refill_at: WINDOW / 2,
        payload_bytes: arguments.payload,
    };
    let each = arguments.bytes.div_ceil(arguments.payload as u64 * PUBLISHERS as u64);
    let filled = exchange::fill(&plan, each).context("filling the store")?;
    let seconds = filled.time.as_secs_f64();
    let messages = each * PUBLISHERS as u64;
    eprintln!("{:>14}: {messages} messages in {seconds:.1} s, {:.0}/s", "filled", messages as f64 / seconds);
    let first = filled.counts.first().and_then(|counts| counts.first()).copied();
    // Ending a server is SIGKILL.
    drop(server);
    first.context("nothing was published")
}

fn take(site: &Site<'_>, expected: Option<u64>) -> Result<Sample> {
    let store_bytes = site.data.map_or(0, size);
    let start = Instant::now();
    let server = Server::broker(site)?;
    while let Err(error) = scrape::get(server.admin(), "/readyz") {
        ensure!(start.elapsed() < READY_WITHIN, "not ready within {READY_WITHIN:?}: {error:#}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let ready_seconds = start.elapsed().as_secs_f64();
    let resident_bytes = process::resident_bytes(server.pid())?;
    let mut received = 0;
    if let Some(expected) = expected {
        received = inbox::replay(server.port(), "f00000", expected, false)?.received;
    }
    eprintln!(
        "{:>14}: {:.0} MB on disk, ready after {ready_seconds:.2} s, {:.0} MiB resident",
        Kind::Broker.name(),
        store_bytes as f64 / 1e6,
        resident_bytes as f64 / 1_048_576.0
    );
    Ok(Sample { store_bytes, ready_seconds, resident_bytes, expected, received })
}

/// Bytes of all files below a folder, 0 where there is none.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn rows(samples: &Samples<Sample>) -> Vec<Vec<String>> {
    let header = ["store MB", "ready s", "resident MiB"];
    let cell = |figure: fn(&Sample) -> f64, digits| report::median(samples.of(Kind::Broker, figure), digits);
    let row = vec![
        cell(|sample| sample.store_bytes as f64 / 1e6, 0),
        cell(|sample| sample.ready_seconds, 2),
        cell(|sample| sample.resident_bytes as f64 / 1_048_576.0, 0),
    ];
    vec![header.map(str::to_owned).to_vec(), row]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_as_large_as_all_its_files() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(size(&folder.path().join("absent")), 0);
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("one"), [0; 100]).unwrap();
        fs::write(folder.path().join("a/b/two"), [0; 23]).unwrap();
        assert_eq!(size(folder.path()), 123);
    }
}
