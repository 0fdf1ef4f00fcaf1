//! Running a child: one line when a step starts, one with its duration when it ends, its exit code kept.
//!
//! Every child runs in the workspace's root and inherits stdout and stderr. Not here: which children there are.

use std::ffi::OsStr;
use std::fmt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// A child that ran and did not succeed. `main` exits with the child's own code.
#[derive(Debug)]
pub(crate) struct Failed {
    step: String,
    command: String,
    status: ExitStatus,
}

impl Failed {
    /// The child's exit code, or 1 where a signal ended it.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let code = self.status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
        ExitCode::from(code.unwrap_or(1))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} failed ({}): {}", self.step, self.status, self.command)
    }
}

impl std::error::Error for Failed {}

/// A named child process.
#[derive(Debug)]
pub(crate) struct Step {
    name: String,
    command: Command,
}

impl Step {
    /// `line` is the program and its arguments, separated by spaces; anything else goes through [`Step::arg`].
    pub(crate) fn new(workspace: &Workspace, name: &str, line: &str) -> Self {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(workspace.root());
        // Every child agrees with xtask on where the target directory is, wherever xtask was called from.
        command.env("CARGO_TARGET_DIR", workspace.target_dir());
        Self { name: name.to_owned(), command }
    }

    /// As [`Step::new`] for the cargo of the workspace's toolchain.
    pub(crate) fn cargo(workspace: &Workspace, name: &str, line: &str) -> Self {
        Self::new(workspace, name, &format!("cargo {line}"))
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs the child to its end.
    ///
    /// # Errors
    /// [`Failed`] where it ran and did not succeed; otherwise why it could not be started.
    pub(crate) fn run(mut self) -> Result<()> {
        let command = self.line();
        eprintln!("==> {}: {command}", self.name);
        let clock = Stopwatch::start();
        let status = self.command.status().with_context(|| format!("cannot start `{command}`"))?;
        if !status.success() {
            bail!(Failed { step: self.name, command, status });
        }
        eprintln!("    {}: done in {}", self.name, seconds(clock.elapsed()));
        Ok(())
    }

    /// Becomes the child, for the last step of a command: Ctrl-C then reaches the child alone, and the shell waits
    /// until it has stopped in order. Where a process cannot do that, as [`Step::run`].
    ///
    /// # Errors
    /// Why the child could not be started.
    #[cfg(unix)]
    pub(crate) fn become_it(mut self) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let command = self.line();
        eprintln!("==> {}: {command}", self.name);
        Err(self.command.exec()).with_context(|| format!("cannot start `{command}`"))
    }

    #[cfg(not(unix))]
    pub(crate) fn become_it(self) -> Result<()> {
        self.run()
    }

    /// Runs the child without a progress line and returns what it wrote to stdout.
    ///
    /// # Errors
    /// As [`Step::run`]; also where the output is not UTF-8. What the child wrote to stderr is part of the error.
    pub(crate) fn output(mut self) -> Result<String> {
        let command = self.line();
        let output = self.command.output().with_context(|| format!("cannot start `{command}`"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failed { step: self.name, command, status: output.status }).context(stderr);
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{command}` wrote no UTF-8"))
    }

    fn line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// Time since a step began.
#[derive(Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "a build tool measures its own steps; the broker's clock is not here"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A duration for people: `0.4 s`, `73.0 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(line: &str) -> Step {
        Step::new(&Workspace::find().unwrap(), "step", line)
    }

    #[test]
    fn the_exit_code_of_a_child_is_kept() {
        let error = step("sh -c").arg("exit 64").run().unwrap_err();
        let failed = error.downcast_ref::<Failed>().unwrap();
        assert_eq!(format!("{:?}", failed.exit_code()), format!("{:?}", ExitCode::from(64)));
    }

    #[test]
    fn a_child_ended_by_a_signal_is_a_failure() {
        let error = step("sh -c").arg("kill -9 $$").run().unwrap_err();
        let failed = error.downcast_ref::<Failed>().unwrap();
        assert_eq!(format!("{:?}", failed.exit_code()), format!("{:?}", ExitCode::from(1)));
    }

    #[test]
    fn a_failed_question_shows_what_the_child_said_and_keeps_its_code() {
        let error = step("sh -c").arg("echo no such thing >&2; exit 3").output().unwrap_err();
        assert!(format!("{error:#}").contains("no such thing"), "{error:#}");
        assert!(error.downcast_ref::<Failed>().is_some());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = step("waspmq-no-such-program --version").run().unwrap_err();
        assert!(format!("{error:#}").contains("waspmq-no-such-program"), "{error:#}");
    }

    #[test]
    fn children_run_in_the_root() {
        let output = step("cat rust-toolchain.toml").output().unwrap();
        assert!(output.contains("[toolchain]"), "{output}");
    }
}
