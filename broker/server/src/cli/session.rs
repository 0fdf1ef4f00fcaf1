//! `waspmq session`: who is connected.

use super::api::Access;
use super::failure::Failure;
use super::output;
use clap::{Args, Subcommand};
use serde_json::Value;

/// Show and close sessions
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  waspmq session list
  waspmq session close 0000010000000001")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All sessions
    List,
    /// One session
    Show {
        /// The session's id, from `waspmq session list`
        id: String,
    },
    /// End a session; its client is told not to come back by itself
    Close {
        /// The session's id, from `waspmq session list`
        id: String,
    },
}

const HEADINGS: [&str; 7] = ["SESSION", "USER", "DEVICE", "TRANSPORT", "WORKER", "REMOTE", "CONNECTED"];
const COLUMNS: [&str; 6] = ["/id", "/user", "/device", "/transport", "/worker", "/remote"];

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = arguments.access.open()?;
    let sessions = match &arguments.command {
        Command::List => api.get_all(&["sessions"], "sessions")?,
        Command::Show { id } => Value::Array(vec![api.get(&["sessions", id])?]),
        Command::Close { id } => {
            api.delete(&["sessions", id])?;
            return Ok(());
        }
    };
    if arguments.access.json {
        return Ok(output::json(&sessions)?);
    }
    let mut rows = output::rows(&sessions, &COLUMNS);
    for (row, session) in rows.iter_mut().zip(sessions.as_array().into_iter().flatten()) {
        row.push(output::time(session.get("connected_unix_ms").unwrap_or_default()));
    }
    Ok(output::line(format_args!("{}", output::table(&HEADINGS, &rows)))?)
}
