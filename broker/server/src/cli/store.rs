//! `waspmq store`: the store of a broker that does not run.

use super::failure::Failure;
use super::output;
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use waspmq_store::Report;

/// Check and repair the store of a stopped broker
#[derive(Debug, Args)]
#[command(after_help = "\
A check changes nothing and exits with 1 when something is damaged. A repair removes what cannot
be read and keeps the rest; where it has to build the database anew, it leaves the old one aside.

Examples:
  waspmq store check --data-dir waspmq-data
  waspmq store repair --data-dir waspmq-data")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The broker's data directory
    #[arg(long, value_name = "DIR", env = "WASPMQ_DATA_DIR", default_value = "waspmq-data", global = true)]
    data_dir: PathBuf,
    /// Print the report as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read everything and say what is damaged
    Check,
    /// Remove what cannot be read and keep the rest
    Repair,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let _lock = lock(&arguments.data_dir)?;
    let store = arguments.data_dir.join("store");
    let is_repair = matches!(arguments.command, Command::Repair);
    let report = if is_repair { waspmq_store::repair(&store) } else { waspmq_store::check(&store) }?;
    tell(&report, arguments.json)?;
    if is_repair || report.is_whole() {
        return Ok(());
    }
    Err(Failure::Failed(anyhow!("{} damaged; `waspmq store repair` keeps the rest", report.damaged)))
}

/// Keeps brokers, and other checks, away for as long as it is held.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("lock");
    let file = File::open(&path)
        .with_context(|| format!("{} is not a broker's data directory", data_dir.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(anyhow!("a broker runs on {}; stop it first", data_dir.display()))
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn tell(report: &Report, is_json: bool) -> std::io::Result<()> {
    if is_json {
        return output::json(&json!({
            "records": report.records,
            "messages": report.messages,
            "addresses": report.addresses,
            "bytes": report.bytes,
            "damaged": report.damaged,
            "unreadable": report.unreadable,
            "missing": report.missing,
            "findings": report.findings,
            "removed": report.removed,
            "kept_aside": report.kept_aside,
        }));
    }
    for finding in &report.findings {
        output::line(format_args!("damaged: {}", output::printable(finding)))?;
    }
    for removed in &report.removed {
        output::line(format_args!("removed: {}", output::printable(removed)))?;
    }
    if report.unreadable > 0 || report.missing > 0 {
        output::line(format_args!(
            "stretches of tables that cannot be read: {}, messages missing: {}",
            report.unreadable, report.missing
        ))?;
    }
    if let Some(aside) = &report.kept_aside {
        output::line(format_args!("the old database is kept in {}", aside.display()))?;
    }
    output::line(format_args!(
        "records: {}, messages: {}, addresses: {}, bytes: {}, damaged: {}",
        report.records, report.messages, report.addresses, report.bytes, report.damaged
    ))
}
