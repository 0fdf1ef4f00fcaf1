//! `waspmq plugin build`: the component of a project.

use super::check;
use crate::cli::failure::Failure;
use crate::cli::output;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use waspmq_plugin_kit::Build;
use waspmq_policy::limits::MEMORY_MB_MAX;

#[derive(Debug, Args)]
#[command(after_help = "\
Runs what the project's plugin.toml says, makes a component of a bare module, and checks it as an
upload would be. The component is NAME.wasm in the project's folder. Exit codes: 0 built, 1 not
built or a component that no broker takes, 2 no project.

Examples:
  waspmq plugin build
  waspmq plugin build policies/guard")]
pub(in crate::cli) struct Arguments {
    /// The project's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let build =
        Build::of(&arguments.dir).map_err(|bad| Failure::Usage(format!("{:#}", anyhow::Error::from(bad))))?;
    let (words, version) = build.tool()?;
    output::note(format_args!("using {version}"));
    output::note(format_args!("running {}", build.line(&words)));
    let built = build.run(&words)?;
    let component = std::fs::read(&built.path)?;
    let found = waspmq_policy::inspect(&component, None, MEMORY_MB_MAX)
        .map_err(|error| anyhow::anyhow!("{}: {error}", built.path.display()))?;
    let path = built.path.display().to_string();
    if as_json {
        return Ok(output::json(&json!({ "path": path, "component": found }))?);
    }
    let size = check::bytes(found.size_bytes);
    let how = if built.is_wrapped { ", made a component" } else { "" };
    output::line(format_args!("{path}: {size}, lane {}{how}", found.lane))?;
    if let Some(reason) = &found.lane_reason {
        output::note(format_args!(
            "called through the component API because it {}",
            output::printable(reason)
        ));
    }
    Ok(())
}
