//! `waspmq deadletter`: messages that were given up for a recipient.

use super::api::{Access, Api};
use super::failure::Failure;
use super::output;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

/// Show, publish anew and remove messages that were given up
#[derive(Debug, Args)]
#[command(after_help = "\
A message that a recipient did not acknowledge in all its attempts is kept for that recipient.
Published anew, it goes to that user alone; a message for a queue goes to the address it was
published to.

Examples:
  waspmq deadletter list --cause timeout
  waspmq deadletter requeue 0196f0c2a4b1000001000000000000a7
  waspmq deadletter requeue --to 'topic/orders.>'
  waspmq deadletter purge --recipient user/bob
  waspmq deadletter purge --all")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Letters in the order of their messages
    List {
        #[command(flatten)]
        filter: Filter,
        /// Letters at most
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
    },
    /// The letters of one message, with what it carries
    Show {
        /// The message's id, from its receipt
        id: String,
    },
    /// Publish letters anew and remove those that are accepted
    Requeue(Which),
    /// Remove letters
    Purge(Which),
}

/// Conditions that hold together.
#[derive(Debug, Args)]
struct Filter {
    /// timeout, nack, queue_full, offline, connection_lost or stopped
    #[arg(long)]
    cause: Option<String>,
    /// The address they were published to, or a pattern such as 'topic/orders.>' or 'user/*'
    #[arg(long, value_name = "PATTERN")]
    to: Option<String>,
    /// For whom they were given up: user/NAME or queue/NAME
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Option<String>,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = true, args = ["ids", "cause", "to", "recipient", "all"])]
struct Which {
    /// Messages
    #[arg(value_name = "ID", conflicts_with_all = ["cause", "to", "all"])]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// All letters
    #[arg(long, conflicts_with_all = ["cause", "to", "recipient"])]
    all: bool,
}

impl Filter {
    fn parts(&self) -> Vec<(&str, &str)> {
        let parts = [("cause", &self.cause), ("to", &self.to), ("recipient", &self.recipient)];
        parts.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }

    fn document(&self) -> Value {
        let parts = self.parts().into_iter();
        Value::Object(parts.map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<_, _>>())
    }
}

const HEADINGS: [&str; 7] = ["MESSAGE", "RECIPIENT", "TO", "FROM", "CAUSE", "ATTEMPTS", "SINCE"];
const COLUMNS: [&str; 6] = ["/id", "/recipient", "/to", "/from", "/cause", "/attempts"];

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = arguments.access.open()?;
    let is_json = arguments.access.json;
    match &arguments.command {
        Command::List { filter, limit } => {
            let letters = api.get_pages(&["dead-letters"], &filter.parts(), "dead_letters", *limit)?;
            if is_json {
                return Ok(output::json(&letters)?);
            }
            Ok(output::line(format_args!("{}", table(&letters)))?)
        }
        Command::Show { id } => {
            let page = api.get(&["dead-letters", id])?;
            if is_json {
                return Ok(output::json(&page)?);
            }
            let letters = page.get("dead_letters").unwrap_or_default();
            output::line(format_args!("{}", table(letters)))?;
            for letter in letters.as_array().into_iter().flatten() {
                let carried = ["headers", "key", "reply_to", "payload", "payload_b64", "detail"];
                let recipient = output::cell(letter.get("recipient").unwrap_or_default());
                output::line(format_args!("\n{}", output::printable(&recipient)))?;
                for name in carried {
                    if let Some(value) = letter.get(name) {
                        output::line(format_args!("  {name}: {}", output::printable(&output::cell(value))))?;
                    }
                }
            }
            Ok(())
        }
        Command::Requeue(which) => change(which, is_json, |which, id| requeue(&api, which, id), "requeued"),
        Command::Purge(which) => change(which, is_json, |which, id| purge(&api, which, id), "purged"),
    }
}

fn requeue(api: &Api, which: &Which, id: Option<&str>) -> anyhow::Result<Value> {
    match id {
        Some(id) => api.post_query(&["dead-letters", id, "requeue"], &which.filter.parts()),
        None => {
            let document = which.filter.document().to_string();
            api.post(&["dead-letters", "requeue"], "application/json", document.as_bytes())
        }
    }
}

fn purge(api: &Api, which: &Which, id: Option<&str>) -> anyhow::Result<Value> {
    match id {
        Some(id) => api.delete_query(&["dead-letters", id], &which.filter.parts()),
        None => api.delete_query(&["dead-letters"], &which.filter.parts()),
    }
}

/// Does it for every message named, or again and again while the broker says that there is more.
fn change(
    which: &Which,
    is_json: bool,
    one: impl Fn(&Which, Option<&str>) -> anyhow::Result<Value>,
    done: &str,
) -> Result<(), Failure> {
    let mut answers = Vec::new();
    if which.ids.is_empty() {
        loop {
            let answer = one(which, None)?;
            // What was refused is still there and would be refused again and again.
            let goes_on = answer.get("more") == Some(&Value::Bool(true)) && count(&answer, done) > 0;
            answers.push(answer);
            if !goes_on {
                break;
            }
        }
    }
    for id in &which.ids {
        answers.push(one(which, Some(id))?);
    }
    let total = |name: &str| answers.iter().map(|answer| count(answer, name)).sum::<u64>();
    let (changed, failed) = (total(done), total("failed"));
    if is_json {
        output::json(&json!(answers))?;
    } else {
        output::line(format_args!("{done}: {changed}"))?;
    }
    if failed == 0 {
        return Ok(());
    }
    let failures = answers.iter().filter_map(|answer| answer.get("failures")?.as_array()).flatten();
    let first =
        failures.filter_map(|failure| failure.get("detail")?.as_str()).next().unwrap_or("no reason given");
    Err(Failure::Failed(anyhow::anyhow!("{failed} were not accepted: {}", output::printable(first))))
}

fn count(answer: &Value, name: &str) -> u64 {
    answer.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn table(letters: &Value) -> String {
    let mut rows = output::rows(letters, &COLUMNS);
    for (row, letter) in rows.iter_mut().zip(letters.as_array().into_iter().flatten()) {
        row.push(output::time(letter.get("at").unwrap_or_default()));
    }
    output::table(&HEADINGS, &rows)
}
