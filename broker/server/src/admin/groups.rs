//! Groups and their members.

use super::audit::{self, Change, Who};
use super::body::{self, Page};
use super::problem::{self, Problem};
use super::{Handlers, Shared};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use waspmq_core::Name;
use waspmq_core::registry::Added;

#[derive(Debug, Serialize, ToSchema)]
struct Group {
    group: String,
    member_count: usize,
}

/// A group with the first 100 of its members, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
struct GroupShown {
    group: String,
    member_count: usize,
    members: Vec<String>,
}

/// A page of groups, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
struct Groups {
    /// Groups there are, on this page or not.
    total: usize,
    limit: usize,
    offset: usize,
    groups: Vec<Group>,
}

/// A page of a group's members, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
struct Members {
    group: String,
    /// Members there are, on this page or not.
    total: usize,
    limit: usize,
    offset: usize,
    members: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Member {
    group: String,
    user: String,
}

/// All groups, page by page.
#[utoipa::path(get, operation_id = "list_groups", path = "/v1/groups", tag = "groups", params(Page), responses((status = 200, body = Groups)))]
pub(crate) async fn list(State(shared): Handlers, uri: Uri) -> Result<Response, Problem> {
    let page = body::query::<Page>(&uri)?.checked()?;
    let groups = shared
        .blocking(move |control| {
            let all = control.registry.groups();
            let total = all.len();
            let show = |(name, member_count): (Name, usize)| Group { group: name.to_string(), member_count };
            let groups = page.cut(all).map(show).collect();
            Groups { total, limit: page.limit, offset: page.offset, groups }
        })
        .await?;
    Ok(problem::json(StatusCode::OK, &groups))
}

/// One group with its first members.
#[utoipa::path(get, operation_id = "show_group", path = "/v1/groups/{g}", tag = "groups", params(("g" = String, Path)), responses((status = 200, body = GroupShown), (status = 404)))]
pub(crate) async fn show(State(shared): Handlers, Path(group): Path<String>) -> Result<Response, Problem> {
    let members = read(&shared, &body::name("group", &group)?).await?;
    let member_count = members.len();
    let members = Page::default().cut(members).map(|user| user.to_string()).collect();
    Ok(problem::json(StatusCode::OK, &GroupShown { group, member_count, members }))
}

/// Makes a group without members. One that exists stays as it is.
#[utoipa::path(put, operation_id = "create_group", path = "/v1/groups/{g}", tag = "groups", params(("g" = String, Path)), responses((status = 200, body = Group), (status = 201, body = Group), (status = 503), (status = 507)))]
pub(crate) async fn create(
    State(shared): Handlers,
    who: Who,
    Path(group): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    body::none(&headers)?;
    let name = body::name("group", &group)?;
    let asked = name.clone();
    let existing = shared
        .blocking(move |control| {
            let existing = control.registry.group_members(&asked);
            control.create_group(&asked).map(|()| existing)
        })
        .await??;
    if let Some(members) = existing {
        return Ok(problem::json(StatusCode::OK, &Group { group, member_count: members.len() }));
    }
    audit::record(&shared, who, Change { what: "group create", name: &name, from: &"", to: &name }).await;
    Ok(problem::json(StatusCode::CREATED, &Group { group, member_count: 0 }))
}

/// Ends all memberships of a group, and the group.
#[utoipa::path(delete, operation_id = "remove_group", path = "/v1/groups/{g}", tag = "groups", params(("g" = String, Path)), responses((status = 204), (status = 404), (status = 503), (status = 507)))]
pub(crate) async fn remove(
    State(shared): Handlers,
    who: Who,
    Path(group): Path<String>,
) -> Result<StatusCode, Problem> {
    let name = body::name("group", &group)?;
    let asked = name.clone();
    let removed = shared
        .blocking(move |control| {
            let member_count = control.registry.group_members(&asked).map_or(0, |members| members.len());
            control.remove_group(&asked).map(|()| member_count)
        })
        .await??;
    let from = format!("{removed} members");
    audit::record(&shared, who, Change { what: "group remove", name: &name, from: &from, to: &"" }).await;
    Ok(StatusCode::NO_CONTENT)
}

/// A group's members, page by page.
#[utoipa::path(get, operation_id = "list_members", path = "/v1/groups/{g}/members", tag = "groups", params(("g" = String, Path), Page), responses((status = 200, body = Members), (status = 404)))]
pub(crate) async fn members(
    State(shared): Handlers,
    Path(group): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let page = body::query::<Page>(&uri)?.checked()?;
    let all = read(&shared, &body::name("group", &group)?).await?;
    let total = all.len();
    let members = page.cut(all).map(|user| user.to_string()).collect();
    Ok(problem::json(
        StatusCode::OK,
        &Members { group, total, limit: page.limit, offset: page.offset, members },
    ))
}

/// Whether a user is a member.
#[utoipa::path(get, operation_id = "show_member", path = "/v1/groups/{g}/members/{user}", tag = "groups", params(("g" = String, Path), ("user" = String, Path)), responses((status = 200, body = Member), (status = 404)))]
pub(crate) async fn member(
    State(shared): Handlers,
    Path((group, user)): Path<(String, String)>,
) -> Result<Response, Problem> {
    if !shared.state.control.registry.is_member(&body::name("user", &user)?, &body::name("group", &group)?) {
        return Err(Problem::not_found(format!("user {user} is not in group {group}")));
    }
    Ok(problem::json(StatusCode::OK, &Member { group, user }))
}

/// Makes a user a member, on all their sessions, whatever their rights. Makes the group if there is none.
#[utoipa::path(put, operation_id = "add_member", path = "/v1/groups/{g}/members/{user}", tag = "groups", params(("g" = String, Path), ("user" = String, Path)), responses((status = 200, body = Member), (status = 201, body = Member), (status = 409), (status = 503), (status = 507)))]
pub(crate) async fn add(
    State(shared): Handlers,
    who: Who,
    Path((group, user)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    body::none(&headers)?;
    let (group_name, user_name) = (body::name("group", &group)?, body::name("user", &user)?);
    let control = &shared.state.control;
    let Some(added) = control.add_member(&group_name, &user_name)? else {
        return Ok(problem::json(StatusCode::OK, &Member { group, user }));
    };
    audit::record(
        &shared,
        who,
        Change { what: "group member add", name: &group_name, from: &"", to: &user_name },
    )
    .await;
    let status = if added == Added::TakenOver { StatusCode::OK } else { StatusCode::CREATED };
    Ok(problem::json(status, &Member { group, user }))
}

/// Ends a membership.
#[utoipa::path(delete, operation_id = "remove_member", path = "/v1/groups/{g}/members/{user}", tag = "groups", params(("g" = String, Path), ("user" = String, Path)), responses((status = 204), (status = 404), (status = 503), (status = 507)))]
pub(crate) async fn take_out(
    State(shared): Handlers,
    who: Who,
    Path((group, user)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (group, user) = (body::name("group", &group)?, body::name("user", &user)?);
    shared.state.control.remove_member(&group, &user)?;
    audit::record(&shared, who, Change { what: "group member remove", name: &group, from: &user, to: &"" })
        .await;
    Ok(StatusCode::NO_CONTENT)
}

async fn read(shared: &Shared, group: &Name) -> Result<Vec<Name>, Problem> {
    let asked = group.clone();
    let members = shared.blocking(move |control| control.registry.group_members(&asked)).await?;
    members.ok_or_else(|| Problem::not_found(format!("there is no group {group}")))
}
