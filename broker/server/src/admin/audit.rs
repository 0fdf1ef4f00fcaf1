//! One event of the target `audit` for every change that the policy host does not log by itself.

use super::Shared;
use super::guard::Peer;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::convert::Infallible;
use std::fmt;

/// Who asks for a change. There is one operator, so the address is what tells two of them apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who(Option<Peer>);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Peer(address)) => write!(f, "admin {address}"),
            None => f.write_str("admin"),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get().copied()))
    }
}

/// What changed.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) what: &'static str,
    pub(crate) name: &'a dyn fmt::Display,
    pub(crate) from: &'a dyn fmt::Display,
    pub(crate) to: &'a dyn fmt::Display,
}

/// Logs a change that was made.
pub(crate) fn record(shared: &Shared, who: Who, change: Change<'_>) {
    let generation = shared.state.control.policies.generation();
    tracing::info!(
        target: "audit",
        %who,
        what = change.what,
        name = %change.name,
        from = %change.from,
        to = %change.to,
        generation,
    );
}
