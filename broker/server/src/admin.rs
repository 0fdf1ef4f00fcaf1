//! The admin API: health, metrics, sessions, groups, publishing, plugins, policies and dictionaries over HTTP.
//!
//! `docs/ADMIN.md` is the page for people, `GET /v1/openapi.json` the one for programs. Handlers only translate:
//! between documents and [`Control`], between refusals and problem documents. Invariants: every request passes
//! `guard`, every refusal is a problem document, every change is one audit line, and nothing that takes long
//! runs on the listener's own thread. Deliberately not here: rights (there is one operator), TLS.

mod audit;
mod body;
mod capture;
mod console;
mod dead_letters;
mod dictionaries;
mod explain;
mod groups;
mod guard;
mod health;
mod history;
pub mod limits;
mod messages;
mod openapi;
mod places;
mod plugins;
mod policies;
mod problem;
mod profiles;
mod publish;
mod serve;
mod sessions;
mod stored;
mod tail;
mod token;
mod trials;
mod users;

pub use serve::serve;
pub use token::Token;

use crate::control::Control;
use crate::metrics::Metrics;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::{Router, http::Uri};
use problem::Problem;
use std::sync::{Arc, LazyLock};
use tokio::sync::{Mutex, Semaphore};

/// What the admin API works on, and who may use it.
#[derive(Debug, Clone)]
pub struct AdminState {
    pub control: Control,
    pub token: Token,
    /// Origins of pages, next to this host's own, that may use the API.
    pub allowed_origins: Vec<String>,
    /// Host names, next to loopback's, that the broker answers by.
    pub allowed_hosts: Vec<String>,
    /// Whether probes need no token wherever they come from.
    pub open_probes: bool,
}

impl AdminState {
    /// For pages and host names of loopback only.
    pub fn new(control: Control, token: impl AsRef<str>) -> Self {
        let token = Token::new(token.as_ref());
        Self { control, token, allowed_origins: Vec::new(), allowed_hosts: Vec::new(), open_probes: false }
    }

    #[must_use]
    pub fn allow_origins(self, allowed_origins: Vec<String>) -> Self {
        Self { allowed_origins, ..self }
    }

    #[must_use]
    pub fn allow_hosts(self, allowed_hosts: Vec<String>) -> Self {
        Self { allowed_hosts, ..self }
    }

    #[must_use]
    pub fn open_probes(self, open_probes: bool) -> Self {
        Self { open_probes, ..self }
    }
}

/// What handlers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: AdminState,
    metrics: Metrics,
    blocking: Arc<Semaphore>,
    /// Held by every request that the token let in.
    requests: Arc<Semaphore>,
    /// Held by whoever waits until a message has reached its level.
    publishes: Semaphore,
    /// Held by whoever reads the records of a capture, which are in memory as long.
    capture_readers: Arc<Semaphore>,
    profiles: profiles::Places,
    /// Held by whoever changes dead letters, so that none is published twice.
    letters: Mutex<()>,
}

type Handlers = State<Arc<Shared>>;

/// All endpoints behind their checks. Whoever serves it must tell each request's peer as [`serve`] does;
/// requests without one need the token everywhere.
pub fn router(state: AdminState) -> Router {
    let metrics = Metrics::new(state.control.clone());
    let blocking = Arc::new(Semaphore::new(limits::BLOCKING_CALLS_MAX));
    let shared = Arc::new(Shared {
        state,
        metrics,
        blocking,
        requests: Arc::new(Semaphore::new(limits::REQUESTS_MAX)),
        publishes: Semaphore::new(limits::PUBLISHES_WAITING_MAX),
        capture_readers: Arc::new(Semaphore::new(limits::CAPTURE_READERS_MAX)),
        profiles: profiles::Places::default(),
        letters: Mutex::default(),
    });
    let (router, _) = openapi::endpoints().split_for_parts();
    router
        .merge(console::files())
        .fallback(no_such_endpoint)
        .layer(from_fn_with_state(Arc::clone(&shared), guard::guard))
        .with_state(shared)
}

impl Shared {
    /// Runs what takes long on a thread of its own; at most [`limits::BLOCKING_CALLS_MAX`] at once, the others wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Control) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let failed = |detail| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", detail);
        let place = Arc::clone(&self.blocking).acquire_owned().await;
        let control = self.state.control.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let worked = work(&control);
            drop(place);
            worked
        });
        worked.await.map_err(|error| {
            tracing::error!(%error, "an admin request failed");
            failed("the broker failed to carry this out; its log says more")
        })
    }
}

async fn no_such_endpoint(uri: Uri) -> Problem {
    static ENDPOINTS: LazyLock<Vec<String>> = LazyLock::new(openapi::list);
    let detail = format!("there is nothing at {}; `endpoints` lists what there is", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "no_such_endpoint", detail).listing(&ENDPOINTS)
}

#[cfg(test)]
mod reference;
#[cfg(test)]
pub(crate) mod tests;
