//! Sessions: who is there, and ending one.

use super::Handlers;
use super::audit::{self, Change, Who};
use super::body::{self, Page};
use super::problem::{self, Problem};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waspmq_core::SessionId;
use waspmq_core::registry::SessionEntry;

#[derive(Debug, Serialize, ToSchema)]
struct Session {
    /// 16 hexadecimal digits.
    id: String,
    user: String,
    device: Option<String>,
    /// Transport and profile: `websocket+json`, `websocket+binary`, `quic` or `webtransport`.
    transport: &'static str,
    worker: u8,
    /// The client's address, or its proxy's.
    remote: String,
    connected_unix_ms: u64,
}

impl From<SessionEntry> for Session {
    fn from(entry: SessionEntry) -> Self {
        Self {
            id: entry.session.id.to_string(),
            user: entry.session.user.to_string(),
            device: entry.session.device.map(|device| device.to_string()),
            transport: entry.transport,
            worker: entry.session.worker,
            remote: entry.remote.to_string(),
            connected_unix_ms: entry.connected_unix_ms,
        }
    }
}

/// A page of sessions, in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
struct Sessions {
    /// Sessions there are, on this page or not.
    total: usize,
    limit: usize,
    offset: usize,
    sessions: Vec<Session>,
}

/// Which sessions are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// Sessions of this user only.
    user: Option<String>,
    /// Sessions at most, 1 to 1000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Sessions passed over.
    #[param(default = 0)]
    offset: Option<usize>,
}

/// All sessions, page by page.
#[utoipa::path(get, operation_id = "list_sessions", path = "/v1/sessions", tag = "sessions", params(Wanted), responses((status = 200, body = Sessions)))]
pub(crate) async fn list(State(shared): Handlers, uri: Uri) -> Result<Response, Problem> {
    let wanted: Wanted = body::query(&uri)?;
    let user = wanted.user.map(|user| body::name("user", &user)).transpose()?;
    let default = Page::default();
    let page = Page { limit: wanted.limit.unwrap_or(default.limit), offset: wanted.offset.unwrap_or(0) }
        .checked()?;
    let sessions = shared
        .blocking(move |control| {
            let mut found = control.sessions();
            if let Some(user) = user {
                found.retain(|entry| entry.session.user == user);
            }
            let total = found.len();
            let sessions = page.cut(found).map(Session::from).collect();
            Sessions { total, limit: page.limit, offset: page.offset, sessions }
        })
        .await?;
    Ok(problem::json(StatusCode::OK, &sessions))
}

/// One session.
#[utoipa::path(
    get, operation_id = "show_session", path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "16 hexadecimal digits")),
    responses((status = 200, body = Session), (status = 404))
)]
pub(crate) async fn show(State(shared): Handlers, Path(id): Path<String>) -> Result<Response, Problem> {
    let id = parse(&id)?;
    let entry = shared.blocking(move |control| control.registry.session(id)).await?;
    let entry = entry.ok_or_else(|| Problem::not_found(format!("there is no session {id}")))?;
    Ok(problem::json(StatusCode::OK, &Session::from(entry)))
}

/// Ends a session. Its client is told not to reconnect by itself.
#[utoipa::path(
    delete, operation_id = "close_session", path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "16 hexadecimal digits")),
    responses((status = 204), (status = 404), (status = 503))
)]
pub(crate) async fn close(
    State(shared): Handlers,
    who: Who,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = parse(&id)?;
    shared.blocking(move |control| control.close_session(id)).await??;
    audit::record(&shared, who, Change { what: "session close", name: &id, from: &"connected", to: &"" })
        .await;
    Ok(StatusCode::NO_CONTENT)
}

fn parse(id: &str) -> Result<SessionId, Problem> {
    id.parse()
        .map_err(|_| Problem::bad_request("invalid_id", "a session id has 16 hexadecimal digits").key("id"))
}
