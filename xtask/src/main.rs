//! `cargo xtask <command>`: everything a contributor or the build machine runs, by one name each.
//!
//! Invariants: every command works from a fresh clone with nothing but rustup and a C compiler; what a command
//! needs beyond that it fetches itself, pinned. The exit code of a failed child is the exit code of xtask.
//!
//! Not here: what the commands run. The demo is a subcommand of the broker, the load generator is a binary of
//! `benches`, the checks of the tree are `tests/tidy`.

#![expect(clippy::print_stderr, reason = "a command line tool: stderr is where it shows its progress")]

mod browser;
mod fuzz;
mod guests;
mod process;
mod templates;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use process::{Failed, Step};
use workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Build, test and run WaspMQ", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the plugins and the test guests as WebAssembly components into target/plugins, and plugins from the templates
    /// in Rust, C and AssemblyScript into target/templates
    Plugins {
        /// Templates in all languages, with their vectors put to them and a policy of each in a broker
        #[arg(long)]
        all: bool,
    },
    /// Build everything and show a broker, real clients and one live policy swap
    Demo {
        /// Go through the demo once and exit instead of waiting for Ctrl-C
        #[arg(long)]
        once: bool,
        /// Further arguments for `waspmq demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Build the plugins and run all tests of the workspace, documentation tests included
    Test {
        /// Unit tests and the tidy rules only: no integration tests over sockets, no documentation tests
        #[arg(long, conflicts_with_all = ["long", "rest"])]
        fast: bool,
        /// The tests that take minutes, in the release build, and nothing else
        #[arg(long)]
        long: bool,
        /// With --long, arguments for the test binary, such as a filter
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, requires = "long")]
        rest: Vec<String>,
    },
    /// Check the broker and the example page in headless Chromium; not part of `test`, because it needs a browser: the
    /// command `chromium` (Debian's package of that name), or the one that the variable CHROMIUM names
    Browser,
    /// Check formatting and run clippy; warnings are errors
    Lint,
    /// Format, and apply what clippy can mend by itself
    Fix,
    /// Build the documentation; warnings are errors
    Docs,
    /// Run every fuzz target for a while
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// Only this target
        #[arg(long)]
        target: Option<String>,
    },
    /// Run a benchmark of the release build: cargo xtask bench fanout …
    Bench {
        /// Scenario and its arguments, handed to the bench binary
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match Workspace::find().and_then(|workspace| run(&workspace, arguments.task)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            error.downcast_ref::<Failed>().map_or(ExitCode::FAILURE, Failed::exit_code)
        }
    }
}

fn run(workspace: &Workspace, task: Task) -> Result<()> {
    match task {
        Task::Plugins { all } => plugins(workspace, all),
        Task::Demo { once, rest } => demo(workspace, once, &rest),
        Task::Test { long: true, rest, .. } => long(workspace, &rest),
        Task::Test { fast, .. } => test(workspace, fast),
        Task::Browser => browser::run(workspace),
        Task::Lint => lint(workspace),
        Task::Fix => fix(workspace),
        Task::Docs => docs(workspace),
        Task::Fuzz { seconds, target } => fuzz::run(workspace, seconds, target.as_deref()),
        Task::Bench { rest } => bench(workspace, &rest),
    }
}

fn plugins(workspace: &Workspace, all: bool) -> Result<()> {
    guests::build(workspace)?;
    if all { templates::build_all(workspace) } else { templates::build_quick(workspace) }
}

fn demo(workspace: &Workspace, once: bool, rest: &[String]) -> Result<()> {
    guests::build(workspace)?;
    // Built as a step of its own, so that the first lines of the demo follow its start at once.
    Step::cargo(workspace, "broker, release build", "build --release -p waspmq --bin waspmq").run()?;
    let mut step =
        Step::cargo(workspace, "demo", "run --quiet --release -p waspmq --bin waspmq -- demo --plugins")
            .arg(workspace.display_path(&workspace.plugins_dir()));
    if once {
        step = step.arg("--once");
    }
    step.args(rest).become_it()
}

fn test(workspace: &Workspace, fast: bool) -> Result<()> {
    plugins(workspace, false)?;
    let (name, command) = if fast {
        ("unit tests and tidy", "test --workspace --lib --bins --test tidy")
    } else {
        // One failure does not hide those behind it: a run is long.
        ("all tests", "test --workspace --no-fail-fast")
    };
    Step::cargo(workspace, name, command).run()
}

fn lint(workspace: &Workspace) -> Result<()> {
    Step::cargo(workspace, "formatting", "fmt --all --check").run()?;
    Step::cargo(workspace, "clippy", "clippy --workspace --all-targets -- -D warnings").run()?;
    // Targets that `cargo test` leaves out are left out by `--all-targets`, too.
    if workspace.root().join("tests/long/main.rs").is_file() {
        Step::cargo(workspace, "clippy, long tests", "clippy -p waspmq --test long -- -D warnings").run()?;
    }
    fuzz::lint(workspace)
}

fn fix(workspace: &Workspace) -> Result<()> {
    let clippy = "clippy --fix --allow-dirty --allow-staged --workspace --all-targets";
    Step::cargo(workspace, "clippy --fix", clippy).run()?;
    // Last, because what clippy writes is not formatted.
    Step::cargo(workspace, "formatting", "fmt --all").run()
}

fn docs(workspace: &Workspace) -> Result<()> {
    Step::cargo(workspace, "documentation", "doc --workspace --no-deps")
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()
}

fn bench(workspace: &Workspace, rest: &[String]) -> Result<()> {
    guests::build(workspace)?;
    if rest.first().is_some_and(|scenario| scenario == "policy") {
        let build = "build --release -p waspmq-policy --example call_cost";
        Step::cargo(workspace, "calls, release build", build).run()?;
    }
    // The broker's link takes minutes, and what is measured inside of a process does without it.
    if rest.iter().all(|argument| argument != "--in-process") {
        Step::cargo(workspace, "broker, release build", "build --release -p waspmq --bin waspmq").run()?;
    }
    Step::cargo(workspace, "bench", "run --release -p waspmq-benches --bin bench --").args(rest).become_it()
}

fn long(workspace: &Workspace, rest: &[String]) -> Result<()> {
    guests::build(workspace)?;
    Step::cargo(workspace, "long tests", "test --release -p waspmq --test long -- --nocapture")
        .args(rest)
        .become_it()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Task, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.task)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn arguments_behind_a_scenario_are_passed_on() {
        let Ok(Task::Bench { rest }) = parse("xtask bench fanout --subscribers 1000") else {
            panic!("not a bench")
        };
        assert_eq!(rest, ["fanout", "--subscribers", "1000"]);
    }

    #[test]
    fn once_belongs_to_the_demo_and_the_rest_to_the_broker() {
        let Ok(Task::Demo { once, rest }) = parse("xtask demo --once -- --port 0") else {
            panic!("not a demo")
        };
        assert!(once);
        assert_eq!(rest, ["--port", "0"]);
    }

    #[test]
    fn long_tests_take_a_filter_and_others_do_not() {
        let Ok(Task::Test { long: true, rest, .. }) = parse("xtask test --long kills --exact") else {
            panic!("not the long tests")
        };
        assert_eq!(rest, ["kills", "--exact"]);
        assert!(parse("xtask test kills").is_err() && parse("xtask test --fast --long").is_err());
    }

    #[test]
    fn a_bench_without_a_scenario_and_a_fuzz_run_without_time_are_usage_errors() {
        assert!(parse("xtask bench").is_err());
        assert!(parse("xtask fuzz --seconds 0").is_err());
    }
}
