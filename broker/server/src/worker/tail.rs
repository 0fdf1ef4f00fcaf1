//! What tails are shown of the publishes of this worker, at the places where it is known what became of them.

use super::Worker;
use super::alone::Alone;
use super::batch::Source;
use crate::clock::Moment;
use crate::tail::{Content, Fate, Line, Seen, Subject};
use waspmq_core::message::Batch;
use waspmq_core::publish::{Destination, Plan};
use waspmq_core::{Address, MessageId, Name, Reject};
use waspmq_protocol::client::Publish;

/// A message that is no part of a batch, as it is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct One<'a> {
    pub(super) to: &'a Address,
    pub(super) from: Option<&'a Name>,
    pub(super) now: Moment,
    pub(super) publish: &'a Publish<'a>,
    /// Of one that was taken in: its id, and what was decided about it.
    pub(super) decided: Option<(MessageId, &'a Plan)>,
}

impl<'a> One<'a> {
    fn of(alone: &Alone<'a>, to: &'a Address, id: MessageId) -> Self {
        let Alone { plan, publish, source: Source { from, now, .. }, .. } = *alone;
        Self { to, from, now, publish, decided: Some((id, plan)) }
    }

    fn seen(self, instead: &[Address], has_content: bool, fate: Fate) -> Seen {
        let Self { to, from, now, publish, decided } = self;
        let plan = decided.map(|(_, plan)| plan);
        // What a stranger compressed was not looked into.
        let is_json = publish.content == waspmq_protocol::Content::Json && publish.packed.is_none();
        let payload = (&*publish.payload, is_json);
        let content = || match plan.and_then(|plan| plan.headers.as_ref()) {
            Some(headers) => Content::new(payload, headers.iter().map(|(name, value)| (name, value))),
            None => Content::new(payload, publish.headers.iter().map(|(name, value)| (name, value))),
        };
        let line = Line {
            id: decided.map(|(id, _)| id),
            payload_bytes: publish.payload.len(),
            priority: publish.priority,
            content: has_content.then(content),
        };
        Seen {
            to: to.clone(),
            from: from.cloned(),
            unix_ms: now.unix_ms,
            level: plan.map_or(publish.ack, |plan| plan.level),
            instead: instead.to_vec(),
            delay_ms: publish.delay_ms,
            messages: vec![line],
            fate,
        }
    }
}

impl Worker {
    /// What tails are to see of a batch that is on its way. Without a tail, nothing.
    pub(super) fn see(&self, batch: &Batch) -> Option<Box<Seen>> {
        if self.shared.tails.is_open() { self.shared.tails.see(batch) } else { None }
    }

    /// Shows a batch to the tails that are to see it.
    pub(super) fn show(&self, seen: Option<Box<Seen>>, fate: impl FnOnce() -> Fate) {
        if let Some(seen) = seen {
            self.shared.tails.show(Seen { fate: fate(), ..*seen });
        }
    }

    /// Shows a message that was taken in, or is the repeat of one with this id.
    pub(super) fn show_alone(&self, alone: &Alone<'_>, id: MessageId, fate: impl FnOnce() -> Fate) {
        let instead = match &alone.plan.destination {
            Destination::Instead(addresses) => addresses.as_slice(),
            Destination::AsAddressed(_) => &[],
        };
        self.show_one(One::of(alone, &alone.target.0, id), instead, fate);
    }

    /// Shows that one of the addresses which policies chose for a message did not take it.
    pub(super) fn show_refused_part(&self, alone: &Alone<'_>, to: &Address, reject: &Reject) {
        self.show_one(One::of(alone, to, alone.id), &[], || Fate::refused(reject));
    }

    /// Shows a message that was refused.
    pub(super) fn show_refused(&self, one: One<'_>, reject: &Reject) {
        self.show_one(one, &[], || Fate::refused(reject));
    }

    fn show_one(&self, one: One<'_>, instead: &[Address], fate: impl FnOnce() -> Fate) {
        if self.shared.tails.is_open() {
            let subject = Subject { to: one.to, from: one.from, instead };
            self.shared.tails.show_one(subject, |has_content| one.seen(instead, has_content, fate()));
        }
    }
}

#[cfg(test)]
mod tests;
