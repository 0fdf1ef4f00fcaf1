//! `waspmq policy capture`: what policies are asked in live traffic, in a file.
//!
//! One capture from its beginning to the file. The broker's copy is removed only when the file is complete, so that
//! whatever fails before loses nothing.

use super::api::Api;
use super::failure::Failure;
use super::output;
use super::serve::Signals;
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;
use tempfile::NamedTempFile;
use waspmq_policy::limits::{
    CAPTURE_BYTES_MAX, CAPTURE_LINE_BYTES_MAX, CAPTURE_MESSAGES_DEFAULT, CAPTURE_MESSAGES_MAX,
    CAPTURE_SECONDS_DEFAULT, CAPTURE_SECONDS_MAX,
};

/// How often the broker is asked how far it is, and after how many of these the person is told.
const POLL: Duration = Duration::from_millis(250);
const POLLS_PER_NOTE: u32 = 8;

#[derive(Debug, Args)]
#[command(after_help = "\
Whether policies are bound to the addresses or not, what they are asked is taken down: messages as
they are published, failed attempts, full queues, members of queues. Ctrl-C or SIGTERM ends it
early and saves what there is, a second one ends the command at once. The file is for `waspmq plugin
replay`, and with payloads for `waspmq dict train`.

Examples:
  waspmq policy capture --match 'topic/orders.>' --seconds 60 --out orders.jsonl
  waspmq policy capture --match 'user/*' --match all --payload --headers --out all.jsonl")]
pub(super) struct Arguments {
    /// A pattern of addresses; may be given several times
    #[arg(long = "match", value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// How long
    #[arg(long, default_value_t = CAPTURE_SECONDS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=CAPTURE_SECONDS_MAX))]
    seconds: u64,
    /// Records at most; those of queue members are not counted
    #[arg(long, value_name = "N", default_value_t = CAPTURE_MESSAGES_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=CAPTURE_MESSAGES_MAX))]
    messages_max: u64,
    /// With payloads, those of up to 64 KiB
    #[arg(long)]
    payload: bool,
    /// With headers
    #[arg(long)]
    headers: bool,
    /// Where the records go; what is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(api: &Api, arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let Arguments { patterns, seconds, messages_max, payload, headers, out } = arguments;
    // A place to write is looked for before anything is captured.
    let file = beside(out)?;
    let document = json!({
        "match": patterns, "seconds": seconds, "messages_max": messages_max, "payload": payload, "headers": headers
    });
    let writable = file.as_file().try_clone().with_context(|| format!("cannot write {}", out.display()))?;
    let (stop, stopped) = mpsc::sync_channel(1);
    let work = Work { api: api.clone(), document, seconds: *seconds, out: out.clone(), stopped };
    let mut status = until_interrupted_twice(stop, move || work.run(writable))?;
    let saved = file.persist(out).map_err(|error| error.error);
    saved.with_context(|| format!("cannot write {}", out.display()))?;
    remove(api, &status);
    if as_json {
        status["file"] = out.display().to_string().into();
        return Ok(output::json(&status)?);
    }
    Ok(output::line(format_args!("{}", output::printable(&summary(&status, out))))?)
}

/// Does the work on another thread, which the first Ctrl-C or SIGTERM tells to come to its end, and the second one leaves behind.
fn until_interrupted_twice(
    stop: SyncSender<()>,
    work: impl FnOnce() -> anyhow::Result<Value> + Send + 'static,
) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        // Heard from here on, so that no capture is left behind.
        let mut signals = Signals::new()?;
        let mut work = tokio::task::spawn_blocking(work);
        let mut is_interrupted = false;
        loop {
            // Both can be dropped and waited for again.
            tokio::select! {
                biased;
                ended = &mut work => return ended?,
                () = signals.next() => {
                    if is_interrupted {
                        bail!(
                            "interrupted twice: nothing is saved, and the broker keeps the capture until \
                             `DELETE /v1/capture`, or an hour behind its end"
                        );
                    }
                    is_interrupted = true;
                    // Full: it was told already.
                    _ = stop.try_send(());
                }
            }
        }
    });
    // A request that nobody answers is not waited for.
    runtime.shutdown_background();
    ended
}

/// One capture, from its beginning to the file.
struct Work {
    api: Api,
    document: Value,
    seconds: u64,
    out: PathBuf,
    stopped: Receiver<()>,
}

impl Work {
    /// Answers how the capture is at its end, when its records are in the file.
    fn run(self, file: File) -> anyhow::Result<Value> {
        let status = self.capture()?;
        let saved = self.save(&status, file);
        saved.with_context(|| format!("{}: the broker keeps the records", self.out.display()))?;
        Ok(status)
    }

    /// Captures until the end, or until told to stop.
    fn capture(&self) -> anyhow::Result<Value> {
        let document = self.document.to_string();
        let started = self.api.post(&["capture"], "application/json", document.as_bytes())?;
        output::note(format_args!(
            "capturing for up to {} s; Ctrl-C ends it early and saves what there is, a second one ends this at once",
            self.seconds
        ));
        let (mut polls, mut told) = (0, Value::from(0));
        loop {
            let is_stopped = match self.stopped.recv_timeout(POLL) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => bail!("nobody waits for this capture any more"),
            };
            let status = self.api.get(&["capture"])?;
            if status["started_unix_ms"] != started["started_unix_ms"] {
                bail!(ANOTHER);
            }
            if is_stopped || status["state"] == "complete" {
                return Ok(status);
            }
            polls += 1;
            if polls % POLLS_PER_NOTE == 0 && status["recorded"] != told {
                told = status["recorded"].clone();
                let bytes = output::cell(&status["bytes"]);
                output::note(format_args!("records so far: {}, bytes: {bytes}", output::cell(&told)));
            }
        }
    }

    fn save(&self, status: &Value, mut file: File) -> anyhow::Result<()> {
        let bytes_max = CAPTURE_BYTES_MAX + CAPTURE_LINE_BYTES_MAX as u64;
        self.api.download(&["capture", "records"], &[], bytes_max, &mut file)?;
        file.rewind()?;
        let mut header = Vec::new();
        BufReader::new(&file).take(CAPTURE_LINE_BYTES_MAX as u64).read_until(b'\n', &mut header)?;
        check_header(status, &header)?;
        file.sync_all().with_context(|| format!("cannot write {}", self.out.display()))
    }
}

/// Whether records are those of the capture that was begun here.
fn check_header(status: &Value, header: &[u8]) -> anyhow::Result<()> {
    let header: Value = serde_json::from_slice(header).context("these are no records of a capture")?;
    if header["started"] != status["started_unix_ms"] {
        bail!(ANOTHER);
    }
    Ok(())
}

const ANOTHER: &str = "somebody removed this capture and began another one";

/// Removes the broker's copy, which is not needed any more. Whoever removed it before did the same, and what prevents it
/// takes nothing from the file.
fn remove(api: &Api, status: &Value) {
    let started = status["started_unix_ms"].to_string();
    if let Err(error) = api.delete_if_there(&["capture"], &[("started", &started)]) {
        output::note(format_args!("the records are saved, and the broker's copy was not removed: {error:#}"));
    }
}

/// A file in the directory of `out`, to be renamed to it, that only its owner reads: messages may be in it.
pub(super) fn beside(out: &Path) -> Result<NamedTempFile, Failure> {
    let directory = out.parent().filter(|parent| !parent.as_os_str().is_empty());
    let file = NamedTempFile::new_in(directory.unwrap_or_else(|| Path::new(".")));
    file.map_err(|error| Failure::Usage(format!("cannot write {}: {error}", out.display())))
}

fn summary(status: &Value, out: &Path) -> String {
    let recorded = output::cell(&status["recorded"]);
    let ended = match status["ended_by"].as_str() {
        Some("messages") => "as many as asked for",
        Some("bytes") => "as many as there is room for",
        Some(_) => "its time is over",
        None => "ended early",
    };
    let left_out = status["left_out"].as_object().into_iter().flatten();
    let left_out = left_out.filter(|(_, count)| count.as_u64() > Some(0));
    let left_out = left_out.map(|(reason, count)| format!(", left out {reason}: {count}"));
    format!("{}: {recorded} records, {ended}{}", out.display(), left_out.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_why_it_ended_and_what_is_missing() {
        let check = |ended_by: Value, left_out: Value, expected: &str| {
            let status = json!({ "recorded": 7, "ended_by": ended_by, "left_out": left_out });
            assert_eq!(summary(&status, Path::new("a.jsonl")), expected);
        };
        check(json!(null), json!({"payload": 0}), "a.jsonl: 7 records, ended early");
        check(json!("seconds"), json!({}), "a.jsonl: 7 records, its time is over");
        check(
            json!("bytes"),
            json!({"no_room": 1, "payload": 0, "too_large": 2}),
            "a.jsonl: 7 records, as many as there is room for, left out no_room: 1, left out too_large: 2",
        );
    }

    #[test]
    fn records_of_another_capture_are_not_taken_for_its_own() {
        let status = json!({ "started_unix_ms": 5 });
        assert!(check_header(&status, b"{\"capture\":1,\"started\":5}\n").is_ok());
        let other = check_header(&status, b"{\"capture\":1,\"started\":6}\n").unwrap_err();
        assert_eq!(other.to_string(), ANOTHER);
        assert!(check_header(&status, b"").is_err());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_a_usage_error() {
        let missing = Path::new("/there is no such directory/a.jsonl");
        assert!(matches!(beside(missing), Err(Failure::Usage(text)) if text.starts_with("cannot write ")));
    }
}
