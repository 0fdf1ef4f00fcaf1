//! The description of the API for programs, made from the handlers themselves. `docs/openapi.json` is its copy
//! in the repository; a test compares the two.

use super::problem::{self, ProblemDocument};
use super::{
    Handlers, Shared, audit, capture, console, dead_letters, dictionaries, explain, groups, health, history,
    messages, plugins, policies, profiles, publish, sessions, tail, trials, users,
};
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;
use utoipa::openapi::Ref;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "WaspMQ admin API",
        description = "Every refusal is a problem document (RFC 9457). docs/ADMIN.md explains the endpoints.",
        license(name = "Apache-2.0 OR MIT")
    ),
    components(schemas(ProblemDocument<'static>)),
    modifiers(&BearerToken),
    security(("token" = []))
)]
struct Api;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        api.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// Every endpoint with its description.
pub(crate) fn endpoints() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(console::page))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(health::status))
        .routes(routes!(openapi))
        .routes(routes!(publish::publish))
        .routes(routes!(messages::show))
        .routes(routes!(explain::show))
        .routes(routes!(tail::show))
        .routes(routes!(history::show))
        .routes(routes!(dead_letters::list, dead_letters::purge_all))
        .routes(routes!(dead_letters::requeue_all))
        .routes(routes!(dead_letters::show, dead_letters::purge))
        .routes(routes!(dead_letters::requeue))
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::show, sessions::close))
        .routes(routes!(users::show))
        .routes(routes!(groups::list))
        .routes(routes!(groups::show, groups::create, groups::remove))
        .routes(routes!(groups::members))
        .routes(routes!(groups::member, groups::add, groups::take_out))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::show, plugins::remove))
        .routes(routes!(plugins::upload))
        .routes(routes!(policies::list))
        .routes(routes!(policies::show, policies::put, policies::remove))
        .routes(routes!(policies::rollback))
        .routes(routes!(dictionaries::list))
        .routes(routes!(dictionaries::show, dictionaries::remove))
        .routes(routes!(dictionaries::push))
        .routes(routes!(audit::list))
        .routes(routes!(trials::promote))
        .routes(routes!(capture::show, capture::start, capture::remove))
        .routes(routes!(capture::records))
        .routes(routes!(profiles::cpu))
        .routes(routes!(profiles::heap))
}

/// The endpoints as they are described: a parameter that takes slashes has the router's asterisk there no more.
fn described() -> utoipa::openapi::OpenApi {
    let mut api = endpoints().into_openapi();
    let paths = std::mem::take(&mut api.paths.paths);
    api.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    api
}

/// The whole description. What every operation may answer besides its own, a problem document, is added here.
pub(crate) fn describe() -> utoipa::openapi::OpenApi {
    let mut api = described();
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let refusal = ResponseBuilder::new()
        .description("a refusal: any status of 400 and above")
        .content("application/problem+json", problem)
        .build();
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let answers = &mut operation.responses.responses;
            answers.insert("default".to_owned(), refusal.clone().into());
        }
    }
    api
}

/// `METHOD /path` of every endpoint.
pub(crate) fn list() -> Vec<String> {
    let api = described();
    let mut found = Vec::new();
    for (path, item) in &api.paths.paths {
        let methods =
            [("GET", &item.get), ("PUT", &item.put), ("POST", &item.post), ("DELETE", &item.delete)];
        let there = methods.iter().filter(|(_, operation)| operation.is_some());
        found.extend(there.map(|(method, _)| format!("{method} {path}")));
    }
    found
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "health", responses((status = 200, description = "OpenAPI 3.1")))]
async fn openapi(_: Handlers) -> Response {
    problem::json(StatusCode::OK, &describe())
}
