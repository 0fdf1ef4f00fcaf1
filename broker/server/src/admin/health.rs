//! Whether the broker lives, whether it serves, and its figures.

use super::Handlers;
use super::problem::{self, Problem};
use crate::control::Unready;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The content type of OpenMetrics 1.0, as its specification asks for it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the process lives. No token from loopback, nor from anywhere with `admin.open_probes`.
#[utoipa::path(get, path = "/healthz", tag = "health", security((), ("token" = [])), responses((status = 200, description = "`ok`")))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the broker serves clients, with every policy that is required. No token from loopback, nor from anywhere with `admin.open_probes`.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security((), ("token" = [])),
    responses((status = 200, description = "`ready`"), (status = 503, description = "starting or draining, a required policy does not serve, or the store fails"))
)]
pub(crate) async fn readyz(State(shared): Handlers) -> Result<&'static str, Problem> {
    let (kind, detail) = match shared.state.control.unready() {
        None => return Ok("ready\n"),
        Some(Unready::Phase(phase)) => ("not_ready", format!("the broker is {}", phase.as_str())),
        Some(Unready::Policies(policies)) => {
            let each =
                policies.iter().map(|unready| format!("policy {:?}: {}", unready.policy, unready.reason));
            ("policy_not_ready", each.collect::<Vec<_>>().join("; "))
        }
        Some(Unready::Storage) => {
            ("storage_failed", "the store does not take what was written; it is tried again".to_owned())
        }
    };
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail))
}

/// All metrics in the OpenMetrics text format. No token from loopback.
#[utoipa::path(
    get, path = "/metrics", tag = "health", security((), ("token" = [])),
    responses((status = 200, description = "see docs/METRICS.md", content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(State(shared): Handlers) -> Result<Response, Problem> {
    let text = shared.metrics.encode().map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the metrics could not be written")
    })?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// What the broker is and does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    pub(crate) node: String,
    pub(crate) version: &'static str,
    /// `starting`, `ready`, `draining` or `stopped`.
    pub(crate) phase: &'static str,
    pub(crate) uptime_ms: u64,
    pub(crate) workers: usize,
    /// Open connections, with and without a session.
    pub(crate) connections: u64,
    pub(crate) sessions: u64,
    /// The number of the active set of policies; 0 before the first change.
    pub(crate) generation: u64,
    /// The number of this start of the broker, greater than that of any earlier one; part of positions and ids.
    pub(crate) epoch: u32,
}

impl Status {
    pub(crate) fn of(control: &crate::control::Control) -> Self {
        Self {
            node: control.node.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            phase: control.phase().as_str(),
            uptime_ms: control.clock.now_us() / 1_000,
            workers: control.counters().count(),
            connections: control.counters().map(|counters| counters.connections.load()).sum(),
            sessions: control.counters().map(|counters| counters.sessions.load()).sum(),
            generation: control.policies.generation(),
            epoch: control.registry.epoch(),
        }
    }
}

/// What the broker is and does.
#[utoipa::path(get, path = "/v1/status", tag = "health", responses((status = 200, body = Status)))]
pub(crate) async fn status(State(shared): Handlers) -> Response {
    problem::json(StatusCode::OK, &Status::of(&shared.state.control))
}
