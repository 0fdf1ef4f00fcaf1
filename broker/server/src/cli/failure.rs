//! How a command ends when it does not succeed.

use super::output;
use crate::config::ConfigError;
use std::io;
use std::process::ExitCode;

pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;
pub(super) const BAD_CONFIGURATION: u8 = 64;

/// Each kind has its exit code.
#[derive(Debug)]
pub(super) enum Failure {
    Failed(anyhow::Error),
    /// What clap cannot check; it reports everything else itself.
    Usage(String),
    Configuration(ConfigError),
}

impl Failure {
    /// Says what went wrong and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let (text, code) = match self {
            Self::Failed(error) if is_broken_pipe(error) => return ExitCode::SUCCESS,
            Self::Failed(error) if is_wrong_url(error) => (format!("{error:#}"), USAGE),
            Self::Failed(error) => (format!("{error:#}"), FAILED),
            Self::Usage(text) => (text.clone(), USAGE),
            Self::Configuration(error) => (chain(error), BAD_CONFIGURATION),
        };
        output::note(format_args!("error: {text}"));
        ExitCode::from(code)
    }
}

/// Whoever read the output has seen enough, as in `waspmq sub all | head -1`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// What was typed is wrong, as an address would be, and trying again does not help.
fn is_wrong_url(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(waspmq_client::Error::Url { .. }))
}

fn chain(error: &ConfigError) -> String {
    match error {
        ConfigError::Unreadable { source, .. } => format!("{error}: {source}"),
        ConfigError::Syntax { .. } | ConfigError::Invalid(_) => error.to_string(),
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
