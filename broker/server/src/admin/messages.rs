//! The delivery ledger: how far a message is with each of its recipients.
//!
//! The worker that published it knows while it is under way and for a while after; then the store does, for
//! messages that are kept; then its history and the cursors that have passed it, where the caller names its
//! address. What is in nobody's memory and was never stored is not known.

use super::Handlers;
use super::body;
use super::history;
use super::limits;
use super::problem::{self, Problem};
use super::stored::message_id;
use crate::control::Control;
use crate::ledger::Ledger;
use crate::worker::ledger::Found;
use crate::worker::storage_error;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use waspmq_core::message::Batch;
use waspmq_core::{Address, Kind, MessageId, Name};
use waspmq_store::{Query, Store, StoreError};

/// Where else to look.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// The message's address: a stored message whose delivery was not tracked is found in its history.
    to: Option<String>,
}

/// The delivery of one message: its state per recipient and device, with times and causes.
#[utoipa::path(
    get, operation_id = "show_message", path = "/v1/messages/{id}", tag = "messages",
    params(("id" = String, Path, description = "32 hexadecimal digits"), Wanted),
    responses((status = 200, body = Ledger), (status = 404), (status = 503))
)]
pub(crate) async fn show(
    State(shared): Handlers,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let wanted: Wanted = body::query(&uri)?;
    let id = message_id(&id)?;
    let to = wanted.to.map(|to| history::address("to", &to)).transpose()?;
    let found = shared.state.control.find_delivery(id).await?;
    let ledger = shared.blocking(move |control| put_together(control, id, to.as_ref(), &found)).await?;
    let ledger = ledger.map_err(|error| Problem::from(storage_error(&error)))?;
    let ledger = ledger.ok_or_else(|| {
        let detail = format!(
            "nothing is known about the delivery of message {id}; one that was stored and not tracked is found when \
             `to` names its address"
        );
        Problem::not_found(detail)
    })?;
    Ok(problem::json(StatusCode::OK, &ledger))
}

fn put_together(
    control: &Control,
    id: MessageId,
    to: Option<&Address>,
    found: &[Found],
) -> Result<Option<Ledger>, StoreError> {
    let store = control.settled_store();
    let tracked = found.iter().find_map(|found| found.entry.as_ref());
    let letters = store.dead_letter(id)?;
    let mut ledger = match tracked {
        Some(entry) => Some(Ledger::of(entry)),
        None => kept(store, id)?,
    };
    if let (None, Some(to)) = (&ledger, to) {
        ledger = in_history(control, id, to)?;
    }
    let Some(mut ledger) = ledger.or_else(|| Ledger::of_letters(id, &letters)) else { return Ok(None) };
    found.iter().for_each(|found| ledger.add_in_flight(&found.in_flight));
    ledger.add_letters(&letters);
    Ok(Some(ledger))
}

/// What the store kept of a delivery that has ended.
fn kept(store: &dyn Store, id: MessageId) -> Result<Option<Ledger>, StoreError> {
    let Some(body) = store.ledger(id)? else { return Ok(None) };
    let corrupt = |_| StoreError::Corrupt { what: format!("the ledger of message {id}") };
    let ledger: Ledger = serde_json::from_slice(&body).map_err(corrupt)?;
    Ok(Some(Ledger { source: "ledger".to_owned(), ..ledger }))
}

/// Looks for the message in the history of an address, from its publish time on.
fn in_history(control: &Control, id: MessageId, to: &Address) -> Result<Option<Ledger>, StoreError> {
    let store = &*control.store;
    let Some(batch) = search(control, id, to)? else { return Ok(None) };
    if to.kind() != Kind::User {
        return Ok(Some(Ledger::of_stored(&batch, id, None, Vec::new())));
    }
    let Ok(user) = Name::parse(to.name()) else { return Ok(None) };
    let cursors = store.cursors(&user, to, limits::CURSORS_MAX)?;
    Ok(Some(Ledger::of_stored(&batch, id, Some(&user), cursors)))
}

fn search(control: &Control, id: MessageId, to: &Address) -> Result<Option<Batch>, StoreError> {
    let mut query = Query {
        address: to.clone(),
        after: None,
        from_unix_ms: Some(id.unix_ms().saturating_sub(limits::HISTORY_SEARCH_BEFORE_MS)),
        last: None,
        limit: limits::PAGE_ITEMS_MAX,
        max_bytes: limits::STORED_PAGE_BYTES_MAX,
        now_unix_ms: control.clock.now().unix_ms,
    };
    for _ in 0..limits::HISTORY_SEARCH_PAGES_MAX {
        let page = control.store.messages(&query)?;
        let Some(last) = page.messages.last().map(|batch| batch.first) else { return Ok(None) };
        let is_it = |batch: &Batch| batch.messages.first().is_some_and(|envelope| envelope.id == id);
        if let Some(batch) = page.messages.into_iter().find(is_it) {
            return Ok(Some(batch));
        }
        if !page.more {
            return Ok(None);
        }
        query.after = Some(last);
    }
    Ok(None)
}
