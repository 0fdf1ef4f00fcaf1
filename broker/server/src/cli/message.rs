//! `waspmq message`: how far a message is with its recipients.

use super::api::Access;
use super::failure::Failure;
use super::output;
use clap::{Args, Subcommand};
use serde_json::Value;

/// Show the delivery of a message
#[derive(Debug, Args)]
#[command(after_help = "\
The id is in the receipt of the publish. Deliveries of level `delivered` are known while they are
under way and for a while after; those of stored messages as long as the ledger is kept. Stored
messages that were not tracked are looked for by the time in their id.

Examples:
  waspmq message show 0196f0c2a4b1000001000000000000a7
  waspmq message show 0196f0c2a4b1000001000000000000a7 --to user/bob --json")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Its state for every recipient and device
    Show {
        /// The message's id, from its receipt
        id: String,
        /// Its address, where more is stored than a search looks at, and for a message that was delayed
        #[arg(long, value_name = "ADDRESS")]
        to: Option<String>,
    },
}

/// The columns that say when.
const TIMES: [usize; 2] = [6, 7];

const HEADINGS: [&str; 9] =
    ["RECIPIENT", "ADDRESS", "DEVICE", "SESSION", "STATE", "ATTEMPT", "SENT", "SINCE", "CAUSE"];

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = arguments.access.open()?;
    let Command::Show { id, to } = &arguments.command;
    let query: Vec<_> = to.iter().map(|to| ("to", to.as_str())).collect();
    let ledger = api.get_query(&["messages", id], &query)?;
    if arguments.access.json {
        return Ok(output::json(&ledger)?);
    }
    let field = |name: &str| output::printable(&output::cell(ledger.get(name).unwrap_or_default()));
    output::line(format_args!(
        "{} to {} from {}, level {}, published {}: {} (from {})",
        field("id"),
        field("to"),
        field("from"),
        field("level"),
        output::time(ledger.get("ts").unwrap_or_default()),
        field("state"),
        field("source"),
    ))?;
    let recipients = ledger.get("recipients").and_then(Value::as_array);
    let rows: Vec<_> = recipients.into_iter().flatten().flat_map(rows_of).collect();
    Ok(output::line(format_args!("{}", output::table(&HEADINGS, &rows)))?)
}

/// A row for the recipient, and one for each of its devices; of equal ones in a row, such as looks for somebody who is away,
/// the last one with their number.
fn rows_of(recipient: &Value) -> Vec<Vec<String>> {
    let cell = |of: &Value, name: &str| output::cell(of.get(name).unwrap_or_default());
    let time = |of: &Value, name: &str| output::time(of.get(name).unwrap_or_default());
    let nothing = || "-".to_owned();
    let mut rows = vec![vec![
        cell(recipient, "recipient"),
        cell(recipient, "to"),
        nothing(),
        nothing(),
        cell(recipient, "state"),
        cell(recipient, "attempts"),
        nothing(),
        time(recipient, "at"),
        cell(recipient, "cause"),
    ]];
    let mut alike: Vec<(Vec<String>, usize)> = Vec::new();
    for device in recipient.get("devices").and_then(Value::as_array).into_iter().flatten() {
        let whose = match device.get("user") {
            Some(user) => format!("  user/{}", output::cell(user)),
            None => String::new(),
        };
        let row = vec![
            whose,
            String::new(),
            cell(device, "device"),
            cell(device, "session"),
            cell(device, "state"),
            cell(device, "attempt"),
            time(device, "sent_at"),
            time(device, "acked_at"),
            cell(device, "cause"),
        ];
        let is_like =
            |before: &Vec<String>| (0..row.len()).all(|i| TIMES.contains(&i) || before[i] == row[i]);
        match alike.last_mut() {
            Some((before, times)) if is_like(before) => (*before, *times) = (row, *times + 1),
            _ => alike.push((row, 1)),
        }
    }
    rows.extend(alike.into_iter().map(|(mut row, times)| {
        if let (2.., Some(cause)) = (times, row.last_mut()) {
            cause.push_str(&format!(", {times} times"));
        }
        row
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_recipient_is_followed_by_its_devices() {
        let rows = rows_of(&json!({
            "to": "topic/a", "recipient": "queue/pool", "state": "sent", "attempts": 2, "cause": null, "at": 1_790_000_000_000_u64,
            "devices": [
                {"device": null, "session": "01", "state": "failed", "attempt": 1, "sent_at": null, "acked_at": null, "cause": "timeout"},
                {"user": "w1", "device": "a", "session": "02", "state": "sent", "attempt": 2, "sent_at": 1_790_000_000_000_u64, "acked_at": null, "cause": null},
            ],
        }));
        let time = "2026-09-21T14:13:20Z";
        assert_eq!(rows[0], ["queue/pool", "topic/a", "-", "-", "sent", "2", "-", time, "-"]);
        assert_eq!(rows[1], ["", "", "-", "01", "failed", "1", "-", "-", "timeout"]);
        assert_eq!(rows[2], ["  user/w1", "", "a", "02", "sent", "2", time, "-", "-"]);
    }

    #[test]
    fn equal_rows_are_one() {
        let look = |attempt: u64, sent_at: u64| {
            json!({"device": null, "session": null, "state": "failed", "attempt": attempt, "sent_at": sent_at,
                "acked_at": null, "cause": "offline"})
        };
        let at = 1_790_000_000_000_u64;
        let rows = rows_of(&json!({
            "recipient": "user/a", "state": "dead_lettered", "attempts": 0, "cause": "offline", "at": at,
            "devices": [look(1, at - 2_000), look(1, at - 1_000), look(1, at), look(2, at)],
        }));
        let time = "2026-09-21T14:13:20Z";
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1], ["", "", "-", "-", "failed", "1", time, "-", "offline, 3 times"]);
        assert_eq!(rows[2], ["", "", "-", "-", "failed", "2", time, "-", "offline"]);
    }
}
