//! `waspmq policy capture`: what policies are asked in live traffic, in a file.
//!
//! One capture from its beginning to the file. The broker's copy is removed only when the file is complete, so that
//! whatever fails before loses nothing.

use super::api::Api;
use super::failure::Failure;
use super::output;
use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::signal::unix::{SignalKind, signal};
use waspmq_policy::limits::{
    CAPTURE_BYTES_MAX, CAPTURE_LINE_BYTES_MAX, CAPTURE_MESSAGES_MAX, CAPTURE_SECONDS_MAX,
};

/// How often the broker is asked how far it is, and after how many of these the person is told.
const POLL: Duration = Duration::from_millis(250);
const POLLS_PER_NOTE: u32 = 8;

#[derive(Debug, Args)]
#[command(after_help = "\
Whether policies are bound to the addresses or not, what they are asked is taken down: messages as they are published, failed
attempts, full queues, members of queues. Ctrl-C ends it early and saves what there is. The file is for `waspmq plugin replay`.

Examples:
  waspmq policy capture --match 'topic/orders.>' --seconds 60 --out orders.jsonl
  waspmq policy capture --match 'user/*' --match all --payload --headers --out all.jsonl")]
pub(super) struct Arguments {
    /// A pattern of addresses; may be given several times
    #[arg(long = "match", value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// How long
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=CAPTURE_SECONDS_MAX))]
    seconds: u64,
    /// Records at most; those of queue members are not counted
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=CAPTURE_MESSAGES_MAX))]
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
    let mut file = beside(out)?;
    let document = json!({
        "match": patterns, "seconds": seconds, "messages_max": messages_max, "payload": payload, "headers": headers
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut status = runtime.block_on(capture(api, &document, *seconds))?;
    save(api, &mut file, out).with_context(|| format!("{}: the broker keeps the records", out.display()))?;
    file.persist(out).with_context(|| format!("cannot write {}", out.display()))?;
    api.delete(&["capture"])?;
    if as_json {
        status["file"] = out.display().to_string().into();
        return Ok(output::json(&status)?);
    }
    Ok(output::line(format_args!("{}", output::printable(&summary(&status, out))))?)
}

/// Captures until the end, or Ctrl-C; answers how the capture is then.
async fn capture(api: &Api, document: &Value, seconds: u64) -> anyhow::Result<Value> {
    // Heard from here on, so that no capture is left behind.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let started = api.post(&["capture"], "application/json", document.to_string().as_bytes())?;
    output::note(format_args!(
        "capturing for up to {seconds} s; Ctrl-C ends it early and saves what there is"
    ));
    let mut polls = 0;
    loop {
        let is_interrupted = tokio::select! {
            _ = interrupt.recv() => true,
            () = tokio::time::sleep(POLL) => false,
        };
        let status = api.get(&["capture"])?;
        if status["started_unix_ms"] != started["started_unix_ms"] {
            bail!("somebody removed this capture and began another one");
        }
        if is_interrupted || status["state"] == "complete" {
            return Ok(status);
        }
        polls += 1;
        if polls % POLLS_PER_NOTE == 0 {
            let recorded = output::cell(&status["recorded"]);
            output::note(format_args!("{recorded} records, {} bytes", output::cell(&status["bytes"])));
        }
    }
}

fn save(api: &Api, file: &mut NamedTempFile, out: &Path) -> anyhow::Result<()> {
    let bytes_max = CAPTURE_BYTES_MAX + CAPTURE_LINE_BYTES_MAX as u64;
    api.download(&["capture", "records"], bytes_max, file.as_file_mut())?;
    File::sync_all(file.as_file()).with_context(|| format!("cannot write {}", out.display()))
}

/// A file in the directory of `out`, to be renamed to it, that only its owner reads: messages may be in it.
fn beside(out: &Path) -> Result<NamedTempFile, Failure> {
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
    fn a_place_that_cannot_be_written_is_a_usage_error() {
        let missing = Path::new("/there is no such directory/a.jsonl");
        assert!(matches!(beside(missing), Err(Failure::Usage(text)) if text.starts_with("cannot write ")));
    }
}
