//! Which dead letters a request is about, and the bounded walk that finds them.

use super::super::limits;
use super::super::problem::Problem;
use super::super::stored::message_id;
use super::Filter;
use serde::Deserialize;
use waspmq_core::delivery::Cause;
use waspmq_core::{Code, MessageId, Pattern};
use waspmq_store::{DeadLetter, Store, StoreError};

/// What a letter is found by: its message and its place.
pub(super) type Key = (MessageId, String);

/// Behind every place of a message: no name begins with this character, which is the last one there is.
const LAST_PLACE: &str = "\u{10ffff}";

/// Which part of the list is wanted.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// Only letters behind this one: the `next` of a page, or a message's id.
    pub(super) after: Option<String>,
    /// Letters at most, 1 to 1000.
    #[param(default = 100, minimum = 1, maximum = 1000)]
    pub(super) limit: Option<usize>,
    /// `timeout`, `nack`, `queue_full`, `offline`, `connection_lost` or `stopped`.
    cause: Option<String>,
    /// The address they were published to, or a pattern such as `topic/orders.>` or `user/*`.
    to: Option<String>,
    /// `user/<name>`, `queue/<name>/<pattern>`, or `queue/<name>` for all patterns.
    recipient: Option<String>,
}

impl Wanted {
    pub(super) fn filter(self) -> Filter {
        Filter { cause: self.cause, to: self.to, recipient: self.recipient }
    }
}

/// A filter that was checked.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    cause: Option<Cause>,
    to: Option<Pattern>,
    recipient: Option<String>,
    /// Only messages published until then.
    until_unix_ms: Option<u64>,
}

impl Selection {
    pub(super) fn of(filter: &Filter, until_unix_ms: Option<u64>) -> Result<Self, Problem> {
        let cause = |text: &String| {
            let known = Cause::OF_DEAD_LETTERS.map(Cause::as_str).join(", ");
            let unknown = || Problem::bad_request("invalid_query", format!("cause: not one of {known}"));
            let cause = Cause::parse(text).filter(|cause| Cause::OF_DEAD_LETTERS.contains(cause));
            cause.ok_or_else(|| unknown().key("cause"))
        };
        let to = |text: &String| {
            Pattern::parse_scope(text).map_err(|error| {
                Problem::bad_request(Code::InvalidAddress.name(), format!("to: {error}")).key("to")
            })
        };
        Ok(Self {
            cause: filter.cause.as_ref().map(cause).transpose()?,
            to: filter.to.as_ref().map(to).transpose()?,
            recipient: filter.recipient.clone(),
            until_unix_ms,
        })
    }

    fn takes(&self, letter: &DeadLetter) -> bool {
        self.cause.is_none_or(|cause| letter.cause == cause.as_str())
            && self.to.as_ref().is_none_or(|to| to.matches(&letter.batch.to))
            && self.recipient.as_ref().is_none_or(|recipient| is_for(letter, recipient))
            && self.until_unix_ms.is_none_or(|until| letter.id.unix_ms() <= until)
    }
}

/// Whether a letter is for this recipient, or for a queue of this name whatever its pattern.
pub(super) fn is_for(letter: &DeadLetter, recipient: &str) -> bool {
    let behind = letter.recipient.strip_prefix(recipient);
    let is_name =
        || recipient.strip_prefix("queue/").is_some_and(|name| !name.is_empty() && !name.contains('/'));
    behind.is_some_and(|behind| behind.is_empty() || behind.starts_with('/') && is_name())
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) letters: Vec<DeadLetter>,
    /// Where the next walk begins, if there is anything behind.
    pub(super) next: Option<Key>,
}

/// Letters behind `after`, up to `limit`. Ends early at a bound of bytes or of letters that were passed over.
pub(super) fn page(
    store: &dyn Store,
    selection: &Selection,
    after: Option<Key>,
    limit: usize,
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let (mut last, mut bytes, mut seen) = (after, 0, 0);
    loop {
        let behind = last.as_ref().map(|(id, place)| (*id, place.as_str()));
        let letters = store.dead_letters(behind, limits::LETTERS_READ)?;
        if letters.is_empty() {
            return Ok(found);
        }
        for letter in letters {
            let is_full = found.letters.len() >= limit
                || bytes >= limits::STORED_PAGE_BYTES_MAX
                || seen >= limits::LETTERS_SCANNED_MAX;
            if is_full {
                found.next = last;
                return Ok(found);
            }
            seen += 1;
            last = Some((letter.id, letter.place()));
            if selection.takes(&letter) {
                bytes += letter.batch.size_bytes();
                found.letters.push(letter);
            }
        }
    }
}

/// `<id>:<recipient>//<address>`. No name is empty or has a slash.
pub(super) fn show_key((id, place): &Key) -> String {
    format!("{id}:{}", place.replace('\0', "//"))
}

/// What [`show_key`] has made, or an `<id>`.
pub(super) fn parse_key(text: &str) -> Result<Key, Problem> {
    let (id, place) = text.split_once(':').unwrap_or((text, LAST_PLACE));
    Ok((message_id(id).map_err(|problem| problem.key("after"))?, place.replace("//", "\0")))
}
