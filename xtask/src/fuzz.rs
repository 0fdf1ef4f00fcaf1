//! Runs the fuzz targets of `tests/fuzz`, each for a fixed time, and stops at the first finding.
//!
//! cargo-fuzz is installed for this tree only, at a fixed version, where the machine has none. The sanitizer needs
//! unstable compiler flags: a nightly at least as new as the pinned toolchain serves, otherwise the pinned one is
//! told to accept them.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Step, Stopwatch, seconds};
use crate::workspace::Workspace;

const CARGO_FUZZ_VERSION: &str = "0.13.2";
const FOLDER: &str = "tests/fuzz";

/// Bytes of the largest input: enough for several frames and their bodies, small enough to stay fast.
const INPUT_BYTES_MAX: u32 = 64 * 1024;

/// How the unstable flags are made available: a name and a value for the child's environment.
type Toolchain = (&'static str, &'static str);

const NIGHTLY: Toolchain = ("RUSTUP_TOOLCHAIN", "nightly");
const PINNED: Toolchain = ("RUSTC_BOOTSTRAP", "1");

/// Runs `only`, or every target, for `seconds_each`.
pub(crate) fn run(workspace: &Workspace, seconds_each: u32, only: Option<&str>) -> Result<()> {
    ensure!(workspace.root().join(FOLDER).join("Cargo.toml").is_file(), "there is no {FOLDER}/Cargo.toml");
    let path = search_path(workspace)?;
    ensure_cargo_fuzz(workspace, &path)?;
    let toolchain = choose_toolchain(workspace);
    let list = cargo_fuzz(workspace, "fuzz targets", "list", (&path, toolchain)).output()?;
    let targets = select(&list, only)?;
    let clock = Stopwatch::start();
    for (index, target) in targets.iter().enumerate() {
        eprintln!("    fuzz target {} of {}: {target}", index + 1, targets.len());
        let limits = format!("-- -max_total_time={seconds_each} -max_len={INPUT_BYTES_MAX} -timeout=10");
        let line = format!("run {target} {limits}");
        cargo_fuzz(workspace, target, &line, (&path, toolchain)).run()?;
    }
    let fuzzed = Duration::from_secs(u64::from(seconds_each)) * u32::try_from(targets.len())?;
    eprintln!("    no finding: {} fuzzed, {} with the builds", seconds(fuzzed), seconds(clock.elapsed()));
    Ok(())
}

/// Checks the targets with the workspace's own compiler: they are a workspace apart, where an interface that
/// changed would show only once somebody fuzzes.
pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    let manifest = format!("--manifest-path {FOLDER}/Cargo.toml");
    Step::cargo(workspace, "formatting, fuzz targets", &format!("fmt {manifest} --check")).run()?;
    let clippy = format!("clippy {manifest} --locked --all-targets -- -D warnings");
    Step::cargo(workspace, "clippy, fuzz targets", &clippy)
        .env("CARGO_TARGET_DIR", target_dir(workspace))
        // Nothing is linked here, so libFuzzer's C++ need not be compiled.
        .env("CUSTOM_LIBFUZZER_PATH", "unlinked/libfuzzer.a")
        .run()
}

fn cargo_fuzz(
    workspace: &Workspace,
    name: &str,
    line: &str,
    (path, toolchain): (&OsString, Toolchain),
) -> Step {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    let step = Step::cargo(workspace, name, &format!("fuzz {command} --fuzz-dir {FOLDER} {rest}"));
    step.env("PATH", path).env(toolchain.0, toolchain.1).env("CARGO_TARGET_DIR", target_dir(workspace))
}

/// Apart from the main one: cargo-fuzz sets flags of its own, with which everything would be built anew each time.
fn target_dir(workspace: &Workspace) -> PathBuf {
    workspace.target_dir().join("fuzz")
}

/// `PATH` with this tree's own tools behind it: a cargo-fuzz of the machine comes first.
fn search_path(workspace: &Workspace) -> Result<OsString> {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let tools = workspace.tools_dir().join("bin");
    env::join_paths(env::split_paths(&inherited).chain([tools])).context("PATH cannot be extended")
}

fn ensure_cargo_fuzz(workspace: &Workspace, path: &OsString) -> Result<()> {
    if Step::cargo(workspace, "cargo-fuzz check", "fuzz --version").env("PATH", path).output().is_ok() {
        return Ok(());
    }
    let install = format!("install cargo-fuzz --version ={CARGO_FUZZ_VERSION} --locked --root");
    Step::cargo(workspace, "cargo-fuzz", &install).arg(workspace.tools_dir()).run()
}

fn choose_toolchain(workspace: &Workspace) -> Toolchain {
    let version = |step: Step| step.output().ok().and_then(|text| minor_version(&text));
    let pinned = version(Step::new(workspace, "version", "rustc --version"));
    let nightly = version(Step::new(workspace, "version", "rustc --version").env(NIGHTLY.0, NIGHTLY.1));
    if nightly.is_some() && nightly >= pinned { NIGHTLY } else { PINNED }
}

/// 95 of `rustc 1.95.0 (f2d3ce0bd 2026-03-21)`.
fn minor_version(text: &str) -> Option<u32> {
    text.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

fn select<'list>(list: &'list str, only: Option<&str>) -> Result<Vec<&'list str>> {
    let targets: Vec<_> = list.split_whitespace().collect();
    ensure!(!targets.is_empty(), "{FOLDER} has no fuzz target");
    let Some(only) = only else { return Ok(targets) };
    let selected: Vec<_> = targets.iter().copied().filter(|target| *target == only).collect();
    ensure!(!selected.is_empty(), "no fuzz target is called {only}; there are {}", targets.join(", "));
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_any_channel() {
        assert_eq!(minor_version("rustc 1.95.0 (f2d3ce0bd 2026-03-21)\n"), Some(95));
        assert_eq!(minor_version("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\n"), Some(97));
        assert_eq!(minor_version("error: toolchain 'nightly' is not installed"), None);
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        assert_eq!(select("frames\njson\n", None).unwrap(), ["frames", "json"]);
        assert_eq!(select("frames\njson\n", Some("json")).unwrap(), ["json"]);
        let error = select("frames\njson\n", Some("jsn")).unwrap_err().to_string();
        assert!(error.contains("frames, json"), "{error}");
        assert!(select("", None).is_err());
    }
}
