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
            Self::Failed(error) => (format!("{error:#}{}", options(error)), FAILED),
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

/// The options for what the client library asks for in its own words.
fn options(error: &anyhow::Error) -> &'static str {
    use waspmq_client::{Code, Error};
    match error.downcast_ref::<Error>() {
        Some(Error::Connect { message, .. } | Error::Tls { message }) if message.contains("fingerprint") => {
            if message.contains("name a file") {
                " (--tls-ca, --tls-fingerprint)"
            } else {
                " (--tls-fingerprint)"
            }
        }
        Some(Error::Refused(refusal))
            if matches!(refusal.code(), Some(Code::Unauthorized | Code::Forbidden))
                && refusal.message.contains("token") =>
        {
            " (--token, or WASPMQ_TOKEN)"
        }
        _ => "",
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_client::{Code, Error, Refusal};

    #[test]
    fn what_is_missing_is_named_as_an_option() {
        let check = |error: Error, expected: &str| assert_eq!(options(&error.into()), expected);
        let refused = |code: Code, message: &str| {
            let (number, name) = (code.number(), code.name().to_owned());
            Error::Refused(Refusal { number, name, message: message.to_owned(), retry_ms: 0 })
        };
        check(refused(Code::Unauthorized, "`connect` needs a token"), " (--token, or WASPMQ_TOKEN)");
        check(refused(Code::Forbidden, "a user's name needs a token"), " (--token, or WASPMQ_TOKEN)");
        check(refused(Code::Forbidden, "no rule allows this session to publish on topic/a"), "");
        let connect =
            |message: &str| Error::Connect { url: "quic://a:1".to_owned(), message: message.to_owned() };
        check(
            connect("of an unknown issuer: name a file, or its fingerprint"),
            " (--tls-ca, --tls-fingerprint)",
        );
        check(connect("the certificate is for another name: name its fingerprint"), " (--tls-fingerprint)");
        check(connect("nobody answers over UDP"), "");
    }
}
