//! `waspmq plugin new`: a project from a template.

use crate::cli::failure::Failure;
use crate::cli::output;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use waspmq_plugin_kit::{Hook, Language, Project, ScaffoldError};

#[derive(Debug, Args)]
#[command(after_help = "\
The project has a small policy with a configuration, vectors that say what it has to decide, the
contract, and a README that says which tools it needs. Nothing is overwritten.

Examples:
  waspmq plugin new orders --lang rust
  waspmq plugin new guard --lang c --hook admission --dir policies/guard")]
pub(in crate::cli) struct Arguments {
    /// The plugin's name: a-z, 0-9 and '-', a letter first
    name: String,
    /// The language
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    lang: Lang,
    /// What it decides
    #[arg(long, value_enum, default_value = "routing")]
    hook: Decides,
    /// Where it goes: a folder that is new or empty; one of the plugin's name unless given
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The folder of the Rust SDK in a checkout; without it the SDK's source becomes part of the project
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Lang {
    Rust,
    C,
    Zig,
    Assemblyscript,
    Javascript,
    Python,
}

impl From<Lang> for Language {
    fn from(lang: Lang) -> Self {
        match lang {
            Lang::Rust => Self::Rust,
            Lang::C => Self::C,
            Lang::Zig => Self::Zig,
            Lang::Assemblyscript => Self::AssemblyScript,
            Lang::Javascript => Self::JavaScript,
            Lang::Python => Self::Python,
        }
    }
}

/// The hooks that there are templates for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Decides {
    Routing,
    Ack,
    Admission,
    Overflow,
}

impl From<Decides> for Hook {
    fn from(decides: Decides) -> Self {
        match decides {
            Decides::Routing => Self::Routing,
            Decides::Ack => Self::Ack,
            Decides::Admission => Self::Admission,
            Decides::Overflow => Self::Overflow,
        }
    }
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let Arguments { name, lang, sdk, .. } = arguments;
    let folder = arguments.dir.clone().unwrap_or_else(|| PathBuf::from(name));
    let project =
        Project { name, language: (*lang).into(), hook: arguments.hook.into(), sdk: sdk.as_deref() };
    let files = project.write(&folder).map_err(|error| match error {
        ScaffoldError::Io { .. } | ScaffoldError::NotEmpty(_) => Failure::Failed(error.into()),
        ScaffoldError::Name(_) | ScaffoldError::SdkNotNeeded(_) | ScaffoldError::NoSdk(_) => {
            Failure::Usage(error.to_string())
        }
    })?;
    let files: Vec<_> = files.iter().map(|file| folder.join(file).display().to_string()).collect();
    if as_json {
        return Ok(output::json(&json!({ "files": files }))?);
    }
    for file in &files {
        output::line(format_args!("{file}"))?;
    }
    let folder = folder.display();
    output::note(format_args!(
        "next: read {folder}/README.md for the tools it needs, then `waspmq plugin build {folder}`"
    ));
    Ok(())
}
