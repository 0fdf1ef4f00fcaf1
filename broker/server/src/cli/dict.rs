//! `waspmq dict`: compression dictionaries, made here and kept by the broker.

mod samples;
mod savings;
mod train;

use super::api::Access;
use super::failure::Failure;
use super::output;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use waspmq_protocol::codec::DICTIONARY_BYTES_MAX;

/// Train, push, list and remove compression dictionaries
#[derive(Debug, Args)]
#[command(after_help = "\
A dictionary holds what the messages of some addresses have in common, so that small messages are
sent smaller to clients that take `zstd-dict`. These clients are sent the dictionary, and pieces
of the messages it was trained from are in it.

Examples:
  waspmq policy capture --match 'topic/orders.>' --messages-max 5000 --payload --out orders.jsonl
  waspmq dict train --from orders.jsonl -o orders.dict
  waspmq dict push orders orders.dict --match 'topic/orders.>'
  waspmq dict show orders
  waspmq dict rm orders")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a dictionary of messages, and say what it saves; needs no broker
    Train(train::Arguments),
    /// Make a file the next revision of a dictionary
    Push {
        /// The dictionary's name; the file becomes its next revision
        name: String,
        /// What `waspmq dict train` wrote
        file: PathBuf,
        /// A pattern of the addresses it is for; may be given several times
        #[arg(long = "match", value_name = "PATTERN", required = true)]
        patterns: Vec<String>,
    },
    /// The latest revision of every dictionary
    List,
    /// The kept revisions of a dictionary
    Show {
        /// The dictionary's name
        name: String,
    },
    /// Remove a dictionary; messages to its addresses go on without
    Rm {
        /// The dictionary's name
        name: String,
    },
}

const HEADINGS: [&str; 6] = ["NAME", "REVISION", "ID", "BYTES", "MATCH", "DIGEST"];
const COLUMNS: [&str; 6] = ["/name", "/revision", "/id", "/bytes", "/match", "/digest"];

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = || arguments.access.open();
    let document = match &arguments.command {
        Command::Train(train) => return train::run(train, arguments.access.json),
        Command::Push { name, file, patterns } => {
            let bytes = read(file)?;
            let query: Vec<_> = patterns.iter().map(|pattern| ("match", pattern.as_str())).collect();
            let pushed = api()?.post_bytes(&["dictionaries", name, "revisions"], &query, &bytes)?;
            if !arguments.access.json {
                let [name, revision] = ["/name", "/revision"].map(|at| cell(&pushed, at));
                return Ok(output::line(format_args!("{name}@{revision}"))?);
            }
            pushed
        }
        Command::List => api()?.get(&["dictionaries"])?,
        Command::Show { name } => api()?.get(&["dictionaries", name])?,
        Command::Rm { name } => {
            api()?.delete(&["dictionaries", name])?;
            return Ok(());
        }
    };
    if arguments.access.json {
        return Ok(output::json(&document)?);
    }
    let items = document.get("dictionaries").or_else(|| document.get("revisions")).unwrap_or_default();
    output::line(format_args!("{}", output::table(&HEADINGS, &output::rows(items, &COLUMNS))))?;
    for reason in refusals(items) {
        output::line(format_args!("{}", output::printable(&reason)))?;
    }
    Ok(())
}

/// A file's bytes. Those of a larger one the broker would not read either.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unusable(&error))?;
    file.take(DICTIONARY_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|error| unusable(&error))?;
    if bytes.len() > DICTIONARY_BYTES_MAX {
        return Err(unusable(&format_args!("more than {DICTIONARY_BYTES_MAX} bytes are no dictionary")));
    }
    Ok(bytes)
}

/// Why revisions are not used, those that are not.
fn refusals(revisions: &Value) -> Vec<String> {
    let reason = |revision: &Value| {
        let reason = revision.pointer("/refused")?.as_str()?;
        let [name, number] = ["/name", "/revision"].map(|at| cell(revision, at));
        Some(format!("{name}@{number} is not used: {reason}"))
    };
    revisions.as_array().into_iter().flatten().filter_map(reason).collect()
}

fn cell(document: &Value, pointer: &str) -> String {
    output::cell(document.pointer(pointer).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn revisions_say_why_they_are_not_used() {
        let revisions = json!([
            { "name": "d", "revision": 1, "refused": "d.dict is missing" },
            { "name": "d", "revision": 2 },
        ]);
        assert_eq!(refusals(&revisions), ["d@1 is not used: d.dict is missing"]);
    }
}
