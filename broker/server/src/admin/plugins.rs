//! Plugins: uploading components, and what became of them. The policy host checks, and logs its changes.

use super::audit::Who;
use super::problem::{self, Problem};
use super::{Handlers, body};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use waspmq_policy::limits::PLUGIN_BYTES_MAX;
use waspmq_policy::{RemoveError, Unfit};

/// One upload of a plugin.
#[derive(Debug, Serialize, ToSchema)]
struct Revision {
    name: String,
    /// The n-th upload under this name, from 1; those before a removal count.
    revision: u32,
    /// BLAKE3 of the component, 64 hexadecimal digits.
    digest: String,
    hooks: Vec<&'static str>,
    #[schema(example = "waspmq:policy@0.1.0")]
    abi: &'static str,
    /// Bytes of the component.
    size_bytes: usize,
    /// How calls reach it: `core`, directly, or `component`, through the component API.
    lane: &'static str,
    /// Why it is not called directly; completes "the component …".
    #[serde(skip_serializing_if = "Option::is_none")]
    lane_reason: Option<String>,
}

impl From<waspmq_policy::Revision> for Revision {
    fn from(revision: waspmq_policy::Revision) -> Self {
        Self {
            name: revision.name,
            revision: revision.revision,
            digest: revision.digest,
            hooks: revision.hooks.iter().map(|hook| hook.as_str()).collect(),
            abi: revision.abi,
            size_bytes: revision.size,
            lane: revision.lane,
            lane_reason: revision.lane_reason,
        }
    }
}

/// The latest revision of every plugin, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
struct Plugins {
    plugins: Vec<Revision>,
    /// Revisions of an earlier run that cannot be used, of all plugins.
    refused: Vec<RefusedRevision>,
}

/// The kept revisions of one plugin, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct Plugin {
    name: String,
    revisions: Vec<Revision>,
    /// Revisions of an earlier run that cannot be used.
    refused: Vec<RefusedRevision>,
}

/// A revision of an earlier run whose component was changed on disk, or is not there.
#[derive(Debug, Serialize, ToSchema)]
struct RefusedRevision {
    name: String,
    revision: u32,
    /// BLAKE3 of the component as it was uploaded.
    digest: String,
    /// What was expected and what was found.
    reason: String,
}

impl From<waspmq_policy::RefusedRevision> for RefusedRevision {
    fn from(refused: waspmq_policy::RefusedRevision) -> Self {
        let waspmq_policy::RefusedRevision { name, revision, digest, reason } = refused;
        Self { name, revision, digest, reason }
    }
}

/// All plugins: their latest revisions, and what of an earlier run cannot be used.
#[utoipa::path(get, operation_id = "list_plugins", path = "/v1/plugins", tag = "plugins", responses((status = 200, body = Plugins)))]
pub(crate) async fn list(State(shared): Handlers) -> Response {
    let host = &shared.state.control.policies;
    let plugins = host.plugins().into_iter().map(Revision::from).collect();
    let refused = host.refused_revisions(None).into_iter().map(RefusedRevision::from).collect();
    problem::json(StatusCode::OK, &Plugins { plugins, refused })
}

/// One plugin with its kept revisions.
#[utoipa::path(get, operation_id = "show_plugin", path = "/v1/plugins/{name}", tag = "plugins", params(("name" = String, Path)), responses((status = 200, body = Plugin), (status = 404)))]
pub(crate) async fn show(State(shared): Handlers, Path(name): Path<String>) -> Result<Response, Problem> {
    let host = &shared.state.control.policies;
    let revisions = host.plugin(&name);
    let revisions = revisions.ok_or_else(|| Problem::not_found(format!("there is no plugin {name:?}")))?;
    let revisions = revisions.into_iter().map(Revision::from).collect();
    let refused = host.refused_revisions(Some(&name)).into_iter().map(RefusedRevision::from).collect();
    Ok(problem::json(StatusCode::OK, &Plugin { name, revisions, refused }))
}

/// Uploads a component as the next revision of a plugin. The bytes of the latest revision again give that one again.
#[utoipa::path(
    post, operation_id = "upload_revision", path = "/v1/plugins/{name}/revisions", tag = "plugins", params(("name" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/wasm", description = "the component; application/octet-stream is taken, too"),
    responses((status = 201, body = Revision), (status = 413), (status = 422), (status = 503), (status = 507))
)]
pub(crate) async fn upload(
    State(shared): Handlers,
    who: Who,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let types = ["application/wasm", "application/octet-stream"];
    let component = body::bytes(request, &types, PLUGIN_BYTES_MAX).await?;
    let uploaded =
        shared.blocking(move |control| control.policies.upload(&name, &component, &who.to_string())).await?;
    Ok(problem::json(StatusCode::CREATED, &Revision::from(uploaded?)))
}

/// Removes a plugin with all its revisions. Refused while a policy uses one, or could roll back to it.
#[utoipa::path(delete, operation_id = "remove_plugin", path = "/v1/plugins/{name}", tag = "plugins", params(("name" = String, Path)), responses((status = 204), (status = 404), (status = 409), (status = 503), (status = 507)))]
pub(crate) async fn remove(
    State(shared): Handlers,
    who: Who,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    shared.blocking(move |control| control.policies.remove_plugin(&name, &who.to_string())).await??;
    Ok(StatusCode::NO_CONTENT)
}

impl From<Unfit> for Problem {
    fn from(unfit: Unfit) -> Self {
        let detail = unfit.to_string();
        match unfit {
            Unfit::Name { .. } => Self::bad_request("invalid_name", detail).key("name"),
            Unfit::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail),
            Unfit::TooManyPlugins | Unfit::TooManyRevisions | Unfit::TooManyBytes | Unfit::NoCapacity => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_capacity", detail)
            }
            Unfit::NotKept(error) => error.into(),
            _ => Self::unprocessable("unfit_plugin", detail),
        }
    }
}

impl From<RemoveError> for Problem {
    fn from(error: RemoveError) -> Self {
        let detail = error.to_string();
        match error {
            RemoveError::UnknownPolicy { .. } | RemoveError::UnknownPlugin { .. } => Self::not_found(detail),
            RemoveError::InUse { .. } => Self::new(StatusCode::CONFLICT, "in_use", detail),
            RemoveError::NotKept(error) => error.into(),
        }
    }
}
