//! Dead letters: messages that were given up for a recipient, kept until somebody publishes them anew or removes them.
//!
//! A letter is found by its message, its recipient and the address of the message, of which policies may give it several. Changes to letters are made one request after the other, so that
//! none is published twice; what is answered has been done. Deliberately not here: when a message is given up.

mod requeue;
mod selection;

use super::audit::{self, Change, Who};
use super::body;
use super::limits;
use super::problem::{self, Problem};
use super::stored::{Carried, message_id, no_query, page_limit};
use super::{Handlers, Shared};
use crate::control::Control;
use crate::worker::storage_error;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use requeue::Requeued;
use selection::{Key, Selection, Wanted, is_for, page, parse_key, show_key};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;
use waspmq_core::MessageId;
use waspmq_store::{DeadLetter, StoreError};

/// A message that was given up for a recipient.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct Letter {
    /// The message's id, 32 hexadecimal digits.
    id: String,
    /// For whom it was given up: `user/<name>`, or `queue/<name>/<pattern>` for the members of a queue.
    recipient: String,
    /// The address it was published to.
    to: String,
    /// The publishing user; null for the admin API.
    from: Option<String>,
    /// `timeout`, `nack`, `queue_full`, `offline`, `connection_lost` or `stopped`.
    cause: String,
    /// Deliveries that were made.
    attempts: u16,
    /// The cause in words.
    detail: String,
    /// When it was given up, milliseconds since 1970.
    at: u64,
    /// When it was published, milliseconds since 1970.
    ts: u64,
    /// The generation of the policies that decided it; null where none did.
    generation: Option<u64>,
    #[serde(flatten)]
    carried: Carried,
}

impl Letter {
    fn of(letter: &DeadLetter) -> Option<Self> {
        let batch = &letter.batch;
        Some(Self {
            id: letter.id.to_string(),
            recipient: letter.recipient.clone(),
            to: batch.to.to_string(),
            from: batch.from.as_ref().map(ToString::to_string),
            cause: letter.cause.clone(),
            attempts: letter.attempts,
            detail: letter.detail.clone(),
            at: letter.unix_ms,
            ts: batch.unix_ms,
            generation: None,
            carried: Carried::of(batch, batch.messages.first()?),
        })
    }
}

/// A page of dead letters, in the order of their messages' ids.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetters {
    dead_letters: Vec<Letter>,
    /// The `after` of the next page; null when there is none.
    next: Option<String>,
}

/// How many letters a request removed.
#[derive(Debug, Serialize, ToSchema)]
struct Purged {
    purged: usize,
    /// Whether a bound was reached first: the same request goes on.
    more: bool,
}

/// Whose letters, where a message has several.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfMessage {
    /// `user/<name>`, `queue/<name>/<pattern>`, or `queue/<name>` for all patterns; without it, all letters of the message.
    recipient: Option<String>,
}

/// Which letters, all conditions holding together. Without any, all letters.
#[derive(Debug, Default, Deserialize, ToSchema, utoipa::IntoParams)]
#[schema(as = DeadLetterFilter)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// `timeout`, `nack`, `queue_full`, `offline`, `connection_lost` or `stopped`.
    cause: Option<String>,
    /// The address they were published to, or a pattern such as `topic/orders.>` or `user/*`.
    to: Option<String>,
    /// `user/<name>`, `queue/<name>/<pattern>`, or `queue/<name>` for all patterns.
    recipient: Option<String>,
}

/// A filter in an audit line.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions = [("cause", &self.cause), ("to", &self.to), ("recipient", &self.recipient)];
        let mut separator = "";
        for (name, value) in conditions {
            if let Some(value) = value {
                write!(f, "{separator}{name}={value}")?;
                separator = " ";
            }
        }
        if separator.is_empty() { f.write_str("all") } else { Ok(()) }
    }
}

/// Dead letters, page by page. A page also ends at 4 MiB, or after 10000 letters that were passed over; `next` goes on.
#[utoipa::path(
    get, operation_id = "list_dead_letters", path = "/v1/dead-letters", tag = "dead letters", params(Wanted),
    responses((status = 200, body = DeadLetters), (status = 503))
)]
pub(crate) async fn list(State(shared): Handlers, uri: Uri) -> Result<Response, Problem> {
    let wanted: Wanted = body::query(&uri)?;
    let limit = page_limit(wanted.limit)?;
    let after = wanted.after.as_deref().map(parse_key).transpose()?;
    let selection = Selection::of(&wanted.filter(), None)?;
    let found = read(&shared, move |control| page(control.settled_store(), &selection, after, limit)).await?;
    let dead_letters = found.letters.iter().filter_map(Letter::of).collect();
    let next = found.next.as_ref().map(show_key);
    Ok(problem::json(StatusCode::OK, &DeadLetters { dead_letters, next }))
}

/// The dead letters of one message, one for each recipient and address it was given up for.
#[utoipa::path(
    get, operation_id = "show_dead_letter", path = "/v1/dead-letters/{id}", tag = "dead letters",
    params(("id" = String, Path, description = "32 hexadecimal digits"), OfMessage),
    responses((status = 200, body = DeadLetters), (status = 404), (status = 503))
)]
pub(crate) async fn show(
    State(shared): Handlers,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let letters = of_message(&shared, &id, &uri).await?;
    let dead_letters = letters.iter().filter_map(Letter::of).collect();
    Ok(problem::json(StatusCode::OK, &DeadLetters { dead_letters, next: None }))
}

/// Publishes the letters of a message anew, each to its recipient, and removes those that were accepted. Refused while the
/// store has no room or fails.
#[utoipa::path(
    post, operation_id = "requeue_dead_letter", path = "/v1/dead-letters/{id}/requeue", tag = "dead letters",
    params(("id" = String, Path, description = "32 hexadecimal digits"), OfMessage),
    responses((status = 200, body = Requeued), (status = 404), (status = 409), (status = 503), (status = 507))
)]
pub(crate) async fn requeue(
    State(shared): Handlers,
    who: Who,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let changing = shared.letters.lock().await;
    let letters = of_message(&shared, &id, &uri).await?;
    let mut requeued = Requeued::default();
    let mut refused = None;
    for letter in &letters {
        refused = requeue::one(&shared.state.control, letter, &mut requeued).await.err().or(refused);
    }
    drop(changing);
    if let (0, Some(reject)) = (requeued.requeued, refused) {
        return Err(reject.into());
    }
    let to = requeued.to_string();
    audit::record(&shared, who, Change { what: "dead letter requeue", name: &id, from: &"", to: &to }).await;
    Ok(problem::json(StatusCode::OK, &requeued))
}

/// Publishes all letters that a filter selects anew, as one by one, up to 1000 of those there are now. Refused while the
/// store has no room or fails.
#[utoipa::path(
    post, operation_id = "requeue_dead_letters", path = "/v1/dead-letters/requeue", tag = "dead letters",
    request_body = Filter, responses((status = 200, body = Requeued), (status = 422), (status = 503), (status = 507))
)]
pub(crate) async fn requeue_all(
    State(shared): Handlers,
    who: Who,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let filter: Filter = body::document(request, limits::DOCUMENT_BYTES_MAX).await?;
    let control = &shared.state.control;
    control.check_room()?;
    let changing = shared.letters.lock().await;
    // What fails again while this goes on is not requeued again.
    let selection = Selection::of(&filter, Some(control.clock.now().unix_ms))?;
    let mut requeued = Requeued::default();
    let mut after = None;
    loop {
        let limit = limits::LETTERS_CHANGED_MAX - requeued.tried();
        let (selection, from) = (selection.clone(), after.take());
        let found =
            read(&shared, move |control| page(control.settled_store(), &selection, from, limit)).await?;
        for letter in &found.letters {
            if let Err(reject) = requeue::one(control, letter, &mut requeued).await {
                tracing::debug!(id = %letter.id, %reject, "a dead letter was not accepted anew");
            }
        }
        requeued.more = found.next.is_some();
        after = found.next;
        if after.is_none() || requeued.tried() >= limits::LETTERS_CHANGED_MAX {
            break;
        }
    }
    drop(changing);
    if requeued.requeued > 0 {
        let to = requeued.to_string();
        audit::record(
            &shared,
            who,
            Change { what: "dead letter requeue", name: &filter, from: &"", to: &to },
        )
        .await;
    }
    Ok(problem::json(StatusCode::OK, &requeued))
}

/// Removes the dead letters of one message.
#[utoipa::path(
    delete, operation_id = "purge_dead_letter", path = "/v1/dead-letters/{id}", tag = "dead letters",
    params(("id" = String, Path, description = "32 hexadecimal digits"), OfMessage),
    responses((status = 200, body = Purged), (status = 404), (status = 503))
)]
pub(crate) async fn purge(
    State(shared): Handlers,
    who: Who,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, Problem> {
    let changing = shared.letters.lock().await;
    let letters = of_message(&shared, &id, &uri).await?;
    let purged = letters.len();
    let keys = letters.iter().map(|letter| (letter.id, letter.place())).collect();
    shared.state.control.forget_letters(keys).await?;
    drop(changing);
    let from = format!("{purged} letters");
    audit::record(&shared, who, Change { what: "dead letter purge", name: &id, from: &from, to: &"" }).await;
    Ok(problem::json(StatusCode::OK, &Purged { purged, more: false }))
}

/// Removes all letters that the query selects, up to 1000 at once. Without a query, all.
#[utoipa::path(
    delete, operation_id = "purge_dead_letters", path = "/v1/dead-letters", tag = "dead letters", params(Filter),
    responses((status = 200, body = Purged), (status = 503))
)]
pub(crate) async fn purge_all(State(shared): Handlers, who: Who, uri: Uri) -> Result<Response, Problem> {
    let filter: Filter = body::query(&uri)?;
    let changing = shared.letters.lock().await;
    let mut after: Option<Key> = None;
    let mut purged = Purged { purged: 0, more: false };
    loop {
        let limit = limits::LETTERS_CHANGED_MAX - purged.purged;
        let (selection, from) = (Selection::of(&filter, None)?, after.take());
        let found =
            read(&shared, move |control| page(control.settled_store(), &selection, from, limit)).await?;
        let keys: Vec<Key> = found.letters.iter().map(|letter| (letter.id, letter.place())).collect();
        purged.purged += keys.len();
        if !keys.is_empty() {
            shared.state.control.forget_letters(keys).await?;
        }
        purged.more = found.next.is_some();
        after = found.next;
        if after.is_none() || purged.purged >= limits::LETTERS_CHANGED_MAX {
            break;
        }
    }
    drop(changing);
    if purged.purged > 0 {
        let from = format!("{} letters", purged.purged);
        audit::record(
            &shared,
            who,
            Change { what: "dead letter purge", name: &filter, from: &from, to: &"" },
        )
        .await;
    }
    Ok(problem::json(StatusCode::OK, &purged))
}

/// The letters of one message that a request is about; a refusal when there is none.
async fn of_message(shared: &Shared, id: &str, uri: &Uri) -> Result<Vec<DeadLetter>, Problem> {
    let OfMessage { recipient } = body::query(uri)?;
    let id: MessageId = message_id(id)?;
    let mut letters = read(shared, move |control| control.settled_store().dead_letter(id)).await?;
    if let Some(recipient) = recipient {
        letters.retain(|letter| is_for(letter, &recipient));
    }
    if letters.is_empty() {
        return Err(Problem::not_found(format!("there is no dead letter of message {id}")));
    }
    Ok(letters)
}

async fn read<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce(&Control) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    shared.blocking(work).await?.map_err(|error| storage_error(&error).into())
}
