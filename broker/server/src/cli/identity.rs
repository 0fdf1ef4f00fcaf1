//! Who a command connects as, how, and whom it takes for the broker: `--as`, `--device`, `--token`, `--transport`, `--tls-ca`
//! and `--tls-fingerprint`, the same for every command that is a client.

use clap::{Args, ValueEnum};
use std::fmt;
use std::path::PathBuf;
use waspmq_client::{Builder, Transport};

/// What carries the frames.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Carrier {
    /// QUIC where it works within a second, else WebSocket; no ws:// with a --tls option
    Auto,
    /// WebSocket, with TLS unless the URL begins with ws://
    Ws,
    /// QUIC
    Quic,
    /// WebTransport
    Wt,
}

impl Carrier {
    const fn transport(self) -> Transport {
        match self {
            Self::Auto => Transport::Auto,
            Self::Ws => Transport::WebSocket,
            Self::Quic => Transport::Quic,
            Self::Wt => Transport::WebTransport,
        }
    }
}

/// Whom the broker is told.
#[derive(Debug, Args)]
pub(super) struct Identity {
    /// The user to connect as; `cli` unless there is a token, which says who
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    /// The device to connect as; each device of a user has read up to a place of its own
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

/// What lets a client in, what carries its frames, and whom it takes for the broker.
#[derive(Args)]
pub(super) struct Reach {
    /// The access token, where the broker wants one; other users of this machine see arguments, not variables
    #[arg(long, env = "WASPMQ_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// What to connect with, instead of what the URL says, to the same host and port
    #[arg(long, value_enum)]
    transport: Option<Carrier>,
    /// With TLS (all but ws://): a PEM file with the authorities that vouch for the broker, instead of those of this system
    #[arg(long, value_name = "FILE", conflicts_with = "tls_fingerprint")]
    tls_ca: Option<PathBuf>,
    /// With TLS (all but ws://): the SHA-256 of the one certificate that the broker may have, as it prints it at its start
    #[arg(long, value_name = "SHA256")]
    tls_fingerprint: Option<String>,
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
        self.reach.tell(builder)
    }

    /// The user, where it is known before the broker is asked.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref().or_else(|| self.reach.token().is_none().then_some("cli"))
    }
}

impl Reach {
    pub(super) fn tell(&self, builder: Builder) -> Builder {
        let builder = match (&self.tls_ca, &self.tls_fingerprint) {
            (_, Some(fingerprint)) => builder.tls_fingerprint(fingerprint),
            (Some(file), None) => builder.tls_ca(file),
            (None, None) => builder,
        };
        let builder = match self.transport {
            Some(carrier) => builder.transport(carrier.transport()),
            None => builder,
        };
        match self.token() {
            Some(token) => builder.token(token),
            None => builder,
        }
    }

    /// A variable that is set to nothing is none.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref().map(str::trim).filter(|token| !token.is_empty())
    }
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach")
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("transport", &self.transport)
            .field("tls_ca", &self.tls_ca)
            .field("tls_fingerprint", &self.tls_fingerprint)
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
            let reach = Reach { token: own(token), transport: None, tls_ca: None, tls_fingerprint: None };
            let identity = Identity { user: own(user), device: None, reach };
            assert_eq!(identity.user(), expected);
            assert!(!format!("{identity:?}").contains("hunter2"));
        };
        check(None, None, Some("cli"));
        check(Some("a"), None, Some("a"));
        check(None, Some("hunter2"), None);
        check(Some("a"), Some("hunter2"), Some("a"));
        check(None, Some(""), Some("cli"));
        check(None, Some(" \n"), Some("cli"));
    }
}
