//! `waspmq plugin`: components, from a new project to an upload.

mod bench;
mod build;
pub(super) mod check;
mod new;
mod vectors;

use super::api::{Access, Api};
use super::failure::Failure;
use super::output;
use super::replay;
use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Make, build, check and test plugins; upload, list, remove and compare them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  waspmq plugin new orders --lang rust
  waspmq plugin build orders
  waspmq plugin test orders/orders.wasm --vectors orders/vectors.toml
  waspmq plugin push target/plugins/route-mirror.wasm
  waspmq plugin show route-mirror
  waspmq plugin list --json
  waspmq plugin replay old.wasm new.wasm orders.jsonl")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Begin a project: a small policy in one of six languages, with vectors that say what it has to decide
    New(new::Arguments),
    /// Build a project's component, and check it
    Build(build::Arguments),
    /// Whether a broker would take a component, and how it would call it
    Check(check::Arguments),
    /// Put vectors to a component, and show which decisions are not as expected
    Test(vectors::Arguments),
    /// Measure what a component's decisions cost
    Bench(bench::Arguments),
    /// Upload a component as the next revision of a plugin
    Push {
        /// The component
        file: PathBuf,
        /// The plugin's name; the file's name without its ending unless given
        #[arg(long)]
        name: Option<String>,
    },
    /// The latest revision of every plugin
    List,
    /// All revisions of a plugin
    Show {
        /// The plugin's name
        name: String,
    },
    /// Remove a plugin that no policy uses
    Rm {
        /// The plugin's name
        name: String,
    },
    /// Put what `waspmq policy capture` took down to two components, and show which decisions differ
    Replay(replay::Arguments),
}

const HEADINGS: [&str; 6] = ["NAME", "REVISION", "HOOKS", "SIZE", "LANE", "DIGEST"];
const COLUMNS: [&str; 6] = ["/name", "/revision", "/hooks", "/size_bytes", "/lane", "/digest"];

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let api = || arguments.access.open();
    let as_json = arguments.access.json;
    let document = match &arguments.command {
        Command::New(new) => return new::run(new, as_json),
        Command::Build(build) => return build::run(build, as_json),
        Command::Check(check) => return check::run(check, as_json),
        Command::Test(test) => return vectors::run(test, as_json),
        Command::Bench(bench) => return bench::run(bench, as_json),
        Command::Push { file, name } => {
            let name = match name {
                Some(name) => name.clone(),
                None => name_of(file)
                    .ok_or_else(|| Failure::Usage(format!("{}: give a --name", file.display())))?,
            };
            let revision = push(&api()?, file, &name)?;
            if !as_json {
                let [name, revision] = ["/name", "/revision"]
                    .map(|pointer| output::cell(revision.pointer(pointer).unwrap_or_default()));
                output::line(format_args!("{name}@{revision}"))?;
                return Ok(());
            }
            revision
        }
        Command::List => api()?.get(&["plugins"])?,
        Command::Show { name } => api()?.get(&["plugins", name])?,
        Command::Rm { name } => {
            api()?.delete(&["plugins", name])?;
            return Ok(());
        }
        Command::Replay(replay) => return replay::run(replay, as_json),
    };
    if as_json {
        return Ok(output::json(&document)?);
    }
    let items = document.get("plugins").or_else(|| document.get("revisions")).unwrap_or_default();
    output::line(format_args!("{}", output::table(&HEADINGS, &output::rows(items, &COLUMNS))))?;
    for reason in lane_reasons(items).into_iter().chain(refusals(&document)) {
        output::line(format_args!("{}", output::printable(&reason)))?;
    }
    Ok(())
}

/// Why revisions are not called directly, those that are not.
fn lane_reasons(revisions: &Value) -> Vec<String> {
    let reason = |revision: &Value| {
        let reason = revision.pointer("/lane_reason")?.as_str()?;
        let [name, number] =
            ["/name", "/revision"].map(|at| output::cell(revision.pointer(at).unwrap_or_default()));
        Some(format!("{name}@{number} is called through the component API because it {reason}"))
    };
    revisions.as_array().into_iter().flatten().filter_map(reason).collect()
}

/// Why revisions of an earlier run are not there, those that are not.
fn refusals(document: &Value) -> Vec<String> {
    let refused = document.get("refused").and_then(Value::as_array).into_iter().flatten();
    let refusal = |refused: &Value| {
        let [name, number, reason] =
            ["/name", "/revision", "/reason"].map(|at| output::cell(refused.pointer(at).unwrap_or_default()));
        format!("{name}@{number} is refused since the start: {reason}")
    };
    refused.map(refusal).collect()
}

/// Uploads a file; the answer is the revision.
pub(super) fn push(api: &Api, file: &Path, name: &str) -> anyhow::Result<Value> {
    let component = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    api.post(&["plugins", name, "revisions"], "application/wasm", &component)
}

fn name_of(file: &Path) -> Option<String> {
    Some(file.file_stem()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refused_revisions_are_told_with_their_reasons() {
        let document =
            json!({ "plugins": [], "refused": [{ "name": "p", "revision": 2, "reason": "changed" }] });
        assert_eq!(refusals(&document), ["p@2 is refused since the start: changed"]);
        assert_eq!(refusals(&json!({ "name": "p", "revisions": [] })), [""; 0]);
    }

    #[test]
    fn revisions_say_why_they_are_not_called_directly() {
        let revisions = json!([
            { "name": "p", "revision": 1, "lane": "component", "lane_reason": "contains a resource" },
            { "name": "p", "revision": 2, "lane": "core" },
        ]);
        let expected = "p@1 is called through the component API because it contains a resource";
        assert_eq!(lane_reasons(&revisions), [expected]);
    }
}
