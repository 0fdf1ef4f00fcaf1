//! Who a command connects as: `--as`, `--device` and `--token`, the same for every command that is a client.

use clap::Args;
use std::fmt;
use waspmq_client::Builder;

/// Whom the broker is told.
#[derive(Args)]
pub(super) struct Identity {
    /// The user to connect as; `cli` unless there is a token, which says who
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// The access token, where the broker wants one; other users of this machine see arguments, not variables
    #[arg(long, env = "WASPMQ_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The device to connect as; each device of a user has read up to a place of its own
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
}

impl Identity {
    pub(super) fn tell(&self, builder: Builder) -> Builder {
        let builder = match self.user() {
            Some(user) => builder.user(user),
            None => builder,
        };
        let builder = match &self.device {
            Some(device) => builder.device(device),
            None => builder,
        };
        match &self.token {
            Some(token) => builder.token(token.trim()),
            None => builder,
        }
    }

    /// The user, where it is known before the broker is asked.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref().or_else(|| self.token.is_none().then_some("cli"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("user", &self.user)
            .field("device", &self.device)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_who_unless_somebody_else_does() {
        let check = |user: Option<&str>, token: Option<&str>, expected| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let identity = Identity { user: own(user), token: own(token), device: None };
            assert_eq!(identity.user(), expected);
            assert!(!format!("{identity:?}").contains("hunter2"));
        };
        check(None, None, Some("cli"));
        check(Some("a"), None, Some("a"));
        check(None, Some("hunter2"), None);
        check(Some("a"), Some("hunter2"), Some("a"));
    }
}
