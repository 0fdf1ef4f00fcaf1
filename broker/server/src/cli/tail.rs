//! `waspmq tail`: what is published, as it happens, through the admin API.
//!
//! The events are read and printed on a thread of their own, which is left behind at a signal: whoever reads the lines may
//! take their time, and so may the broker.

use super::api::{Access, Api};
use super::failure::Failure;
use super::output;
use super::serve::Signals;
use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use waspmq_core::{Name, Pattern};

/// Bytes of lines that are written in one go. Who stops reading has not been given much more than they read.
const LINES_BYTES: usize = 4 * 1024;

/// Bytes of one line of an event: the broker's are shorter. More: the command fails.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// Watch what is published: from whom, to what address, and what became of it
#[derive(Debug, Args)]
#[command(after_help = "\
A line is the time, what became of the message, its address, its sender, how many recipients it
has, and the bytes of its payload; `-` is what is not known. Then come, where there are such, the
addresses that policies chose instead, why it was refused, and the payload. What became of it is
a word of the metric `waspmq_messages_published_total`. --json prints the events of the API, with
id, position, level and headers, too.

What is published from now on is shown, also what is refused; what is delivered again, or late
because of a delay, is not published again. A reader that is too slow is told how many messages it
missed, and slows nobody down. Ctrl-C ends it.

Examples:
  waspmq tail
  waspmq tail 'topic/orders.>' 'user/*' --payload
  waspmq tail --from alice --count 10 --json")]
pub(super) struct Arguments {
    /// Addresses, or patterns such as `topic/orders.>` and `user/*`; all where there is none
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
    /// Only what this user publishes
    #[arg(long, value_name = "USER")]
    from: Option<String>,
    /// With payloads, of which the first 16 KiB, and headers
    #[arg(long)]
    payload: bool,
    /// End after this many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    for pattern in &arguments.patterns {
        Pattern::parse_scope(pattern).map_err(|error| Failure::Usage(format!("{pattern}: {error}")))?;
    }
    if let Some(from) = &arguments.from {
        Name::parse(from).map_err(|error| Failure::Usage(format!("--from {from}: {error}")))?;
    }
    let api = arguments.access.open()?;
    let mut query: Vec<_> =
        arguments.patterns.iter().map(|pattern| ("match".to_owned(), pattern.clone())).collect();
    query.extend(arguments.from.iter().map(|from| ("from".to_owned(), from.clone())));
    if arguments.payload {
        query.push(("payload".to_owned(), "true".to_owned()));
    }
    let follower = Follower { api, query, left: arguments.count, is_json: arguments.access.json };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        // Neither is needed any more when the other has ended.
        tokio::select! {
            biased;
            ended = tokio::task::spawn_blocking(move || follower.run()) => ended?,
            () = signals.next() => Ok(()),
        }
    });
    runtime.shutdown_background();
    Ok(ended?)
}

/// Reads events and prints them.
struct Follower {
    api: Api,
    query: Vec<(String, String)>,
    /// Messages that are still to be printed, where somebody said how many.
    left: Option<u64>,
    is_json: bool,
}

impl Follower {
    fn run(mut self) -> anyhow::Result<()> {
        let query: Vec<_> = self.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut events = self.api.stream(&["tail"], &query)?;
        let (mut line, mut name, mut out) = (String::new(), String::new(), String::new());
        loop {
            // Lines are gathered as long as more is here already.
            if out.len() >= LINES_BYTES || !out.is_empty() && !events.buffer().contains(&b'\n') {
                output::lines(&std::mem::take(&mut out))?;
            }
            line.clear();
            let read =
                events.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).context("the tail broke off")?;
            let Some(text) = line.strip_suffix('\n') else {
                match read {
                    0 => bail!("the broker has ended the tail: it leaves service"),
                    _ => bail!("the tail broke off within a line, or has one that is too long"),
                }
            };
            if let Some(event) = text.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = text.strip_prefix("data: ") {
                let event = Event::parse(data).context("these are no events of a WaspMQ admin API")?;
                self.take(&name, (data, &event), &mut out);
                if self.left == Some(0) {
                    return Ok(output::lines(&out)?);
                }
            }
        }
    }

    fn take(&mut self, name: &str, (data, event): (&str, &Event<'_>), out: &mut String) {
        match name {
            "ready" => {
                let node = output::printable(&output::cell(&event.fields["node"]));
                output::note(format_args!("watching what is published at node {node}; Ctrl-C ends it"));
            }
            "message" => {
                out.push_str(&if self.is_json { data.to_owned() } else { line(event) });
                out.push('\n');
                self.left = self.left.map(|left| left - 1);
            }
            "dropped" => {
                let count = output::cell(&event.fields["count"]);
                output::note(format_args!(
                    "{count} messages are missing here, because this reader was too slow"
                ));
            }
            // Of a later version.
            _ => {}
        }
    }
}

/// The data of an event.
struct Event<'a> {
    fields: Value,
    /// As its publisher wrote it: JSON has numbers that fit nowhere here.
    payload: Option<&'a RawValue>,
}

impl<'a> Event<'a> {
    fn parse(data: &'a str) -> serde_json::Result<Self> {
        let mut all: BTreeMap<String, &RawValue> = serde_json::from_str(data)?;
        let payload = all.remove("payload");
        let mut fields = Map::new();
        for (name, value) in all {
            fields.insert(name, serde_json::from_str(value.get())?);
        }
        Ok(Self { fields: Value::Object(fields), payload })
    }
}

fn line(Event { fields: event, payload }: &Event<'_>) -> String {
    let field = |name: &str| output::cell(event.get(name).unwrap_or_default());
    let columns = ["outcome", "to", "from", "recipients", "size"].map(field);
    let mut text = format!("{} {}", time(&event["ts"]), columns.join(" "));
    if let Some(instead) = event.get("instead") {
        text.push_str(" -> ");
        text.push_str(&output::cell(instead));
    }
    if event.get("error").is_some() {
        text.push_str(&format!(" {}: {}", field("error"), field("reason")));
    }
    match (payload, event.get("payload_b64")) {
        (Some(payload), _) => text.push_str(&format!(" {}", payload.get())),
        (None, Some(Value::String(base64))) => {
            let bytes = BASE64_STANDARD.decode(base64).ok();
            match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
                Some(payload) => text.push_str(&format!(" {payload}")),
                None => text.push_str(&format!(" base64:{base64}")),
            }
        }
        (None, _) => {}
    }
    if event["truncated"] == true {
        text.push_str(" ...");
    }
    output::printable(&text)
}

/// Milliseconds since 1970 as UTC time.
fn time(value: &Value) -> String {
    let moment = value.as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| "-".to_owned(), |moment| moment.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_publish_is_a_line() {
        let ts = 1_790_000_000_123_u64;
        let check = |event: Value, expected: &str| {
            let mut event = event;
            event["ts"] = ts.into();
            let data = event.to_string();
            assert_eq!(line(&Event::parse(&data).unwrap()), format!("2026-09-21T14:13:20.123Z {expected}"));
        };
        check(
            json!({"outcome": "accepted", "to": "topic/a", "from": "al", "recipients": 3, "size": 2, "payload": {"x": "1\n"}}),
            "accepted topic/a al 3 2 {\"x\":\"1\\n\"}",
        );
        check(
            json!({"outcome": "accepted", "to": "topic/a", "size": 2, "instead": ["topic/b", "user/c"], "payload_b64": "/w==", "truncated": true}),
            "accepted topic/a - - 2 -> topic/b,user/c base64:/w== ...",
        );
        check(
            json!({"outcome": "duplicate", "to": "user/b", "from": "al", "recipients": 1, "size": 2, "payload_b64": "aGk="}),
            "duplicate user/b al 1 2 hi",
        );
        check(
            json!({"outcome": "dropped_by_policy", "to": "all", "from": "bo", "size": 0, "error": "dropped_by_policy", "reason": "a\u{1b}[2J"}),
            "dropped_by_policy all bo - 0 dropped_by_policy: a\\u{1b}[2J",
        );
    }

    #[test]
    fn a_payload_is_shown_as_it_was_published() {
        for payload in ["1e999", "123456789012345678901234567890", "{\"b\": 1, \"a\": 2, \"b\": 3}", "null"] {
            let data = format!("{{\"ts\":0,\"outcome\":\"accepted\",\"to\":\"all\",\"payload\":{payload}}}");
            let shown = line(&Event::parse(&data).unwrap());
            assert!(shown.ends_with(&format!(" accepted all - - - {payload}")), "{shown}");
        }
    }
}
