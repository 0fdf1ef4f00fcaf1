//! What goes out at once of what was read and what is held.

use super::state::Reading;
use super::{Start, before, place};
use crate::worker::acks;
use std::sync::Arc;
use waspmq_core::SessionId;
use waspmq_core::delivery::Window;
use waspmq_core::message::Batch;
use waspmq_store::Page;

/// A page with what was held in front of its end, as far as the session may have it now.
pub(super) struct Portion {
    /// In the order of positions, each message once.
    pub(super) run: Vec<Arc<Batch>>,
    /// How many of the held batches it is about.
    pub(super) held: usize,
    /// Where the next page begins.
    pub(super) next: Start,
    /// Whether it is about something that was read.
    pub(super) has_stored: bool,
    /// Whether nothing is left to be read.
    pub(super) is_over: bool,
    /// Bytes of the batch behind it that finds no room in the session's window.
    pub(super) left: Option<usize>,
}

impl Portion {
    /// Of a page that began at `start`. What sessions published that have one of these ids, and want left out, is.
    pub(super) fn of(
        reading: &Reading,
        (start, page): (Start, Page),
        own: &[SessionId],
        window: &Window,
    ) -> Self {
        let first = page.messages.first().map(|batch| batch.first);
        let last = page.messages.last().map(|batch| batch.first);
        // Without a message to go on behind, the next page begins as this one did.
        let next = last.map_or(start, Start::After);
        let is_over = !page.more && !reading.is_behind(next.after());
        let held = if is_over { reading.held.len() } else { reading.held_upto(last) };
        let messages = page.messages.into_iter().map(Arc::new);
        let mut run = in_order(messages.chain(reading.held.iter().take(held).cloned()).collect());
        let is_own = |batch: &Batch| batch.origin.is_some_and(|origin| own.contains(&origin));
        run.retain(|batch| !(batch.exclude_origin && is_own(batch)));
        let fits = acks::fits(window, &run);
        let Some(behind) = run.get(fits).cloned() else {
            return Self { run, held, next, has_stored: first.is_some(), is_over, left: None };
        };
        run.truncate(fits);
        let upto = before(behind.first);
        Self {
            run,
            held: reading.held_upto(Some(upto)),
            next: Start::After(upto),
            has_stored: first.is_some_and(|first| place(first) <= place(upto)),
            is_over: false,
            left: Some(behind.size_bytes()),
        }
    }
}

/// In the order of positions, each message once.
fn in_order(mut messages: Vec<Arc<Batch>>) -> Vec<Arc<Batch>> {
    messages.sort_by_key(|batch| place(batch.first));
    messages.dedup_by_key(|batch| place(batch.first));
    messages
}
