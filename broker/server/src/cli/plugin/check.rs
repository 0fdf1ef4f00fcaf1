//! `waspmq plugin check`: whether a broker would take a component, and what it would make of it.

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::policy::parse_config;
use anyhow::{Context, anyhow};
use clap::Args;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use waspmq_policy::limits::{
    FUNCTION_BYTES_MAX, MEMORY_MB_DEFAULT, MEMORY_MB_MAX, MEMORY_MB_MIN, PLUGIN_BYTES_MAX,
};
use waspmq_policy::{InspectError, Inspection};

/// A component, and how its instances are set up.
#[derive(Debug, Args)]
pub(super) struct Component {
    /// The component
    pub(super) file: PathBuf,
    /// Its configuration: a JSON object, or `@file` with one
    #[arg(long, value_name = "JSON")]
    pub(super) config: Option<String>,
    /// Memory of an instance, in MiB, as the policy's limit will be
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MB_DEFAULT, value_parser = clap::value_parser!(u32).range(i64::from(MEMORY_MB_MIN)..=i64::from(MEMORY_MB_MAX)))]
    pub(super) memory_mb: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Does what an upload does, and with --config what putting a policy in place does: validates,
compiles, links, instantiates, configures and self-tests. Exit codes: 0 a broker takes it, 1 it
does not, 2 there is no such file.

Examples:
  waspmq plugin check orders.wasm
  waspmq plugin check orders.wasm --config '{\"header\":\"region\",\"to\":\"topic/orders.\"}'")]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    component: Component,
}

impl Component {
    pub(super) fn read(&self) -> Result<Vec<u8>, Failure> {
        read(&self.file)
    }

    pub(super) fn config(&self) -> Result<Option<Map<String, Value>>, Failure> {
        self.config.as_deref().map(parse_config).transpose()
    }
}

pub(in crate::cli) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let component = &arguments.component;
    let (bytes, config) = (component.read()?, component.config()?);
    let found = waspmq_policy::inspect(&bytes, config.as_ref(), component.memory_mb).map_err(|error| {
        let path = component.file.display();
        match error {
            InspectError::Engine(_) => anyhow!("{error}"),
            InspectError::Unfit(_) | InspectError::Setup { .. } => anyhow!("{path}: {error}"),
        }
    })?;
    if as_json {
        return Ok(output::json(&serde_json::to_value(&found).context("no JSON")?)?);
    }
    Ok(output::line(format_args!("{}", report(&found, config.is_some())))?)
}

/// What is to be known, one line each.
fn report(found: &Inspection, is_configured: bool) -> String {
    let hooks: Vec<_> = found.hooks.iter().map(|hook| hook.as_str()).collect();
    let imports = if found.imports.is_empty() { "nothing".to_owned() } else { found.imports.join(", ") };
    let lane = match &found.lane_reason {
        None => found.lane.to_owned(),
        Some(reason) => format!("{}, because it {reason}", found.lane),
    };
    let configured = if is_configured { "configured" } else { "not configured" };
    let lines = [
        ("digest", found.digest.clone()),
        ("size", format!("{} of {}", bytes(found.size_bytes), bytes(PLUGIN_BYTES_MAX))),
        ("contract", found.abi.to_owned()),
        ("hooks", hooks.join(", ")),
        ("imports", imports),
        ("lane", lane),
        ("memory", format!("{}, {configured}", bytes(found.memory_bytes))),
        (
            "largest function",
            format!("{} of {}", bytes(found.largest_function_bytes), bytes(FUNCTION_BYTES_MAX)),
        ),
    ];
    let lines = lines.map(|(name, value)| format!("{name:<18}{}", output::printable(&value)));
    lines.join("\n")
}

/// A number of bytes for people.
pub(super) fn bytes(count: usize) -> String {
    let of = |unit: usize| count as f64 / unit as f64;
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", of(1024)),
        _ => format!("{:.1} MiB", of(1_048_576)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        let shown = [1023, 1024, 1_048_575, 1_048_576, 8 << 20].map(bytes);
        assert_eq!(shown, ["1023 B", "1.0 KiB", "1024.0 KiB", "1.0 MiB", "8.0 MiB"]);
    }

    #[test]
    fn a_report_says_why_calls_are_not_direct() {
        let found = Inspection {
            digest: "d".to_owned(),
            size_bytes: 10,
            abi: "a",
            hooks: vec![waspmq_policy::Hook::Routing, waspmq_policy::Hook::Ack],
            imports: Vec::new(),
            lane: "component",
            lane_reason: Some("contains\x1b a resource".to_owned()),
            largest_function_bytes: 5,
            memory_bytes: 65_536,
        };
        let text = report(&found, true);
        assert!(
            text.contains("lane              component, because it contains\\u{1b} a resource\n"),
            "{text}"
        );
        assert!(text.contains("hooks             routing, ack\nimports           nothing\n"), "{text}");
        assert!(text.contains("memory            64.0 KiB, configured\n"), "{text}");
    }
}
