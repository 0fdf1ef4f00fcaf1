//! One user: whether they are online, and their groups.

use super::Handlers;
use super::body;
use super::problem::{self, Problem};
use crate::worker::storage_error;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
struct User {
    user: String,
    online: bool,
    sessions: u32,
    /// When the last session ended; absent while there is one, and when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_unix_ms: Option<u64>,
    /// Ascends with every change from offline to online and back.
    seq: u64,
    /// In the order of their names.
    groups: Vec<String>,
}

/// One user that the broker knows: by a session, now or before, or by a group.
#[utoipa::path(get, operation_id = "show_user", path = "/v1/users/{user}", tag = "users", params(("user" = String, Path)), responses((status = 200, body = User), (status = 404)))]
pub(crate) async fn show(State(shared): Handlers, Path(user): Path<String>) -> Result<Response, Problem> {
    let name = body::name("user", &user)?;
    let (presence, groups, last_seen_unix_ms) = shared
        .blocking(move |control| {
            let (presence, groups) = (control.registry.presence(&name), control.registry.groups_of(&name));
            // What this run does not know an earlier one may have written down.
            let last_seen = match presence.is_known {
                true => Ok(presence.last_seen_unix_ms),
                false => control.store.last_seen(&name),
            };
            last_seen.map(|last_seen| (presence, groups, last_seen)).map_err(|error| storage_error(&error))
        })
        .await??;
    if !presence.is_known && groups.is_empty() && last_seen_unix_ms.is_none() {
        return Err(Problem::not_found(format!("there is no user {user}")));
    }
    let shown = User {
        user,
        online: presence.online,
        sessions: presence.sessions,
        last_seen_unix_ms,
        seq: presence.seq,
        groups: groups.iter().map(ToString::to_string).collect(),
    };
    Ok(problem::json(StatusCode::OK, &shown))
}
