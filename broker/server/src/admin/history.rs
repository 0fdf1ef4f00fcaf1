//! Stored messages of an address, page by page.

use super::Handlers;
use super::body;
use super::limits;
use super::problem::{self, Problem};
use super::stored::{Carried, page_limit};
use crate::worker::storage_error;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waspmq_core::message::Batch;
use waspmq_core::{Address, Code, Position};
use waspmq_store::Query;

/// A stored message, with the names that frames have.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StoredMessage)]
struct Stored {
    /// 32 hexadecimal digits.
    id: String,
    to: String,
    /// The publishing user; null for the admin API.
    from: Option<String>,
    /// Its place in its address, to go on behind.
    pos: String,
    /// When it was published, milliseconds since 1970.
    ts: u64,
    #[serde(flatten)]
    carried: Carried,
}

impl Stored {
    fn of(batch: &Batch) -> Option<Self> {
        let envelope = batch.messages.first()?;
        Some(Self {
            id: envelope.id.to_string(),
            to: batch.to.to_string(),
            from: batch.from.as_ref().map(ToString::to_string),
            pos: batch.first.to_string(),
            ts: batch.unix_ms,
            carried: Carried::of(batch, envelope),
        })
    }
}

/// A page of an address's stored messages, oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct History {
    address: String,
    messages: Vec<Stored>,
    /// The `after` of the next page; null when there is nothing behind this one now.
    next: Option<String>,
    /// Whether messages behind `after` have been removed for their age or to make room.
    gap: bool,
}

/// Which messages are wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// Only messages behind this position, such as `s3e1:57`.
    after: Option<String>,
    /// Messages at most, 1 to 1000. A page also ends at 4 MiB.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Stored messages of an address, page by page. An address that never had any has an empty history.
#[utoipa::path(
    get, operation_id = "show_history", path = "/v1/history/{*address}", tag = "messages",
    params(("address" = String, Path, description = "such as `user/alice`; the slash may be there as it is"), Wanted),
    responses((status = 200, body = History), (status = 503))
)]
pub(crate) async fn show(
    State(shared): Handlers,
    Path(address): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let wanted: Wanted = body::query(&uri)?;
    let address = self::address("address", &address)?;
    let position = |text: String| {
        let said = "after: not a position such as s3e1:57";
        text.parse::<Position>().map_err(|_| Problem::bad_request("invalid_query", said).key("after"))
    };
    let after = wanted.after.map(position).transpose()?;
    let limit = page_limit(wanted.limit)?;
    let history = shared
        .blocking(move |control| {
            let query = Query {
                address: address.clone(),
                after,
                from_unix_ms: None,
                last: None,
                limit,
                max_bytes: limits::STORED_PAGE_BYTES_MAX,
                now_unix_ms: control.clock.now().unix_ms,
            };
            let page = control.settled_store().messages(&query).map_err(|error| storage_error(&error))?;
            let last = page.messages.last().map(|batch| batch.first.to_string());
            let messages = page.messages.iter().filter_map(Stored::of).collect();
            let next = last.filter(|_| page.more);
            Ok::<_, Problem>(History { address: address.to_string(), messages, next, gap: page.gap })
        })
        .await??;
    Ok(problem::json(StatusCode::OK, &history))
}

/// An address from a path or a query.
pub(crate) fn address(key: &'static str, text: &str) -> Result<Address, Problem> {
    Address::parse(text).map_err(|error| {
        Problem::bad_request(Code::InvalidAddress.name(), format!("{key}: {error}")).key(key)
    })
}
