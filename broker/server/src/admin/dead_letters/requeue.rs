//! Publishing a dead letter anew.
//!
//! A user's letter goes to that user alone, so that nobody else gets the message again; where it was published to
//! another address, a header says which. A queue has no address of its own: its letter goes to the address it was
//! published to, and to whoever listens there. The message keeps its sender, content and headers, gets a new id and
//! level `delivered`, and loses its time to live, which has usually ended. It is removed once it is accepted; a
//! broker that ends in between has both, so nothing is lost and something may come twice. While the store has no room or
//! fails nothing is requeued: what is given up again would leave no letter.

use super::super::limits;
use super::super::stored::headers;
use crate::control::{Control, Publication};
use serde::Serialize;
use std::fmt;
use utoipa::ToSchema;
use waspmq_core::{Address, Code, Level, Reject};
use waspmq_protocol::HeaderBlock;
use waspmq_store::DeadLetter;

/// The address that a message was published to at first, where it is requeued to another.
const ORIGINAL_TO: &str = "waspmq-original-to";
/// The id that a requeued message had before.
const ORIGINAL_ID: &str = "waspmq-original-id";

/// What became of letters.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Requeued {
    /// Letters that were published anew and removed.
    pub(super) requeued: usize,
    /// Letters that were not accepted and are still there.
    failed: usize,
    /// Whether a bound was reached first: the same request goes on.
    pub(super) more: bool,
    /// The new messages.
    messages: Vec<Anew>,
    /// The first of those that failed.
    failures: Vec<Failure>,
}

/// A letter that is on its way again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequeuedMessage)]
struct Anew {
    /// The message's new id.
    id: String,
    /// The id it had before.
    original_id: String,
    recipient: String,
    /// Where it was published to now.
    to: String,
}

/// A letter that was not accepted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequeueFailure)]
struct Failure {
    id: String,
    recipient: String,
    detail: String,
}

impl Requeued {
    pub(super) const fn tried(&self) -> usize {
        self.requeued + self.failed
    }
}

/// In an audit line.
impl fmt::Display for Requeued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requeued, {} failed", self.requeued, self.failed)
    }
}

/// Publishes one letter, removes it when it is accepted, and notes what became of it.
pub(super) async fn one(
    control: &Control,
    letter: &DeadLetter,
    requeued: &mut Requeued,
) -> Result<(), Reject> {
    match publish(control, letter).await {
        Ok(anew) => {
            requeued.requeued += 1;
            requeued.messages.push(anew);
            Ok(())
        }
        Err(reject) => {
            requeued.failed += 1;
            if requeued.failures.len() < limits::FAILURES_TOLD_MAX {
                requeued.failures.push(Failure {
                    id: letter.id.to_string(),
                    recipient: letter.recipient.clone(),
                    detail: reject.message.clone(),
                });
            }
            Err(reject)
        }
    }
}

async fn publish(control: &Control, letter: &DeadLetter) -> Result<Anew, Reject> {
    control.check_room()?;
    let publication = publication(letter)?;
    let to = publication.to.to_string();
    let published = control.publish(publication).await?;
    control.forget_letters(vec![(letter.id, letter.place())]).await?;
    Ok(Anew {
        id: published.id.to_string(),
        original_id: letter.id.to_string(),
        recipient: letter.recipient.clone(),
        to,
    })
}

fn publication(letter: &DeadLetter) -> Result<Publication, Reject> {
    let batch = &letter.batch;
    let Some(envelope) = batch.messages.first() else {
        return Err(Reject::new(Code::NotFound, "the letter has no message"));
    };
    let to = if letter.recipient.starts_with("user/") {
        Address::parse(&letter.recipient)?
    } else {
        batch.to.clone()
    };
    let own = headers(batch, envelope);
    let mut with_origin = own.clone();
    with_origin.retain(|(name, _)| name != ORIGINAL_ID);
    with_origin.push((ORIGINAL_ID.to_owned(), letter.id.to_string()));
    if to != batch.to && !own.iter().any(|(name, _)| name == ORIGINAL_TO) {
        with_origin.push((ORIGINAL_TO.to_owned(), batch.to.to_string()));
    }
    // A message that has as many headers as it may have goes without more.
    let fits = HeaderBlock::encode(&with_origin, &mut Vec::new()).is_ok();
    Ok(Publication {
        to,
        from: batch.from.clone(),
        payload: batch.slice(envelope.payload).to_vec(),
        is_json: envelope.is_json,
        headers: if fits { with_origin } else { own },
        key: batch.text(envelope.key).to_owned(),
        priority: envelope.priority,
        level: Level::Delivered,
        ttl_ms: None,
        delay_ms: 0,
        reply_to: batch.text(envelope.reply_to).to_owned(),
        answers_early: true,
    })
}
