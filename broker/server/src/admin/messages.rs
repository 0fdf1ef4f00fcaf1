//! The delivery ledger: how far a message is with each of its recipients.
//!
//! The worker that published it knows while it is under way and for a while after; then the store does, for
//! messages that are kept; then its history and the cursors that have passed it, or that it waits for its time. A history
//! is named by the caller, or found by the time in the id. What is in nobody's memory and was never stored is not known.

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
use waspmq_store::{Found as Stored, Query, Search, Store, StoreError};

/// Where else to look.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// The message's address, where a stored message whose delivery was not tracked is looked for. Needed for one that
    /// was delayed, and where more is stored than a search looks at.
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
    match ledger {
        Known::Ledger(ledger) => Ok(problem::json(StatusCode::OK, &*ledger)),
        Known::Nothing => {
            Err(Problem::not_found(format!("nothing is known about the delivery of message {id}")))
        }
        Known::Unfinished => Err(Problem::not_found(format!(
            "nothing was found about the delivery of message {id} among as much of the store as is looked at; name its \
             address with `to`"
        ))),
    }
}

/// What is known of a message.
enum Known {
    Ledger(Box<Ledger>),
    Nothing,
    /// Nothing so far, and there is more to look at than a request may.
    Unfinished,
}

fn put_together(
    control: &Control,
    id: MessageId,
    to: Option<&Address>,
    found: &[Found],
) -> Result<Known, StoreError> {
    let store = control.settled_store();
    let tracked = found.iter().find_map(|found| Ledger::of(&found.entries));
    let letters = store.dead_letter(id)?;
    let mut ledger = match tracked {
        Some(ledger) => Some(ledger),
        None => kept(store, id)?,
    };
    let now_unix_ms = control.clock.now().unix_ms;
    let wanted = Search { id, looks_max: limits::SEARCH_LOOKS_MAX, now_unix_ms };
    let mut is_unfinished = false;
    if ledger.is_none() {
        let batch = match to.or_else(|| letters.first().map(|letter| &letter.batch.to)) {
            Some(to) => search(control, id, to)?,
            None => {
                let found = store.find(&wanted)?;
                is_unfinished = matches!(found, Stored::Unfinished);
                if let Stored::Message(batch) = found { Some(*batch) } else { None }
            }
        };
        ledger = batch.map(|batch| in_history(store, id, &batch)).transpose()?;
    }
    if ledger.is_none() {
        match store.find_delayed(&wanted)? {
            Stored::Delayed(delayed) => ledger = Some(Ledger::of_delayed(&delayed, id)),
            found => is_unfinished |= matches!(found, Stored::Unfinished),
        }
    }
    let Some(mut ledger) = ledger.or_else(|| Ledger::of_letters(id, &letters)) else {
        return Ok(if is_unfinished { Known::Unfinished } else { Known::Nothing });
    };
    found.iter().for_each(|found| ledger.add_in_flight(&found.in_flight));
    ledger.add_letters(&letters);
    Ok(Known::Ledger(Box::new(ledger)))
}

/// What the store kept of a delivery that has ended.
fn kept(store: &dyn Store, id: MessageId) -> Result<Option<Ledger>, StoreError> {
    let Some(body) = store.ledger(id)? else { return Ok(None) };
    let corrupt = |_| StoreError::Corrupt { what: format!("the ledger of message {id}") };
    let ledger: Ledger = serde_json::from_slice(&body).map_err(corrupt)?;
    Ok(Some(ledger.read_back()))
}

/// Of a message that was found in the history of its address.
fn in_history(store: &dyn Store, id: MessageId, batch: &Batch) -> Result<Ledger, StoreError> {
    let to = &batch.to;
    let user = Some(to).filter(|to| to.kind() == Kind::User).and_then(|to| Name::parse(to.name()).ok());
    let cursors = match &user {
        Some(user) => store.cursors(user, to, limits::CURSORS_MAX)?,
        None => Vec::new(),
    };
    Ok(Ledger::of_stored(batch, id, user.as_ref(), cursors))
}

/// Looks for the message in the history of an address, from its publish time on.
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
