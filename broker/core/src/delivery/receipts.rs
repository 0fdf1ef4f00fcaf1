//! What the publisher of a flight is told, and when.
//!
//! A message's receipt is told once: when as many recipients acknowledged as the quorum asks for, or when so many
//! failed that they cannot any more. As each recipient ends once, only one of both can be.

use super::event::{Event, References};
use super::{Cause, Quorum};
use crate::id::SessionId;
use crate::message::Batch;
use hashbrown::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Publishers that want receipts, with their flights of which any is left to be told. One that is absent is gone, or has them all.
pub(super) type Publishers = HashMap<SessionId, u32, foldhash::fast::RandomState>;

/// How a recipient ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Acked,
    Failed(Cause, u16),
}

#[derive(Debug)]
pub(super) struct Receipts {
    pub(super) publisher: Option<SessionId>,
    references: References,
    /// Messages with refs whose receipts were not told.
    awaited: usize,
    /// Whether the flight is among its publisher's.
    is_counted: bool,
    /// Per message, how many recipients acknowledged and how many failed; empty with a single recipient.
    counts: Vec<(u16, u16)>,
    recipients: u32,
    /// Acks that reach the level.
    needed: u32,
}

impl Receipts {
    pub(super) fn new(
        (publisher, references): (Option<SessionId>, References),
        (recipients, messages): (usize, u16),
        quorum: Quorum,
    ) -> Self {
        let counts = if recipients > 1 { vec![(0, 0); usize::from(messages)] } else { Vec::new() };
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        let awaited = count(&references, 0..messages);
        let needed = quorum.of(recipients);
        Self { publisher, references, awaited, is_counted: false, counts, recipients, needed }
    }

    /// Adds the flight to its publisher's where it has something to be told.
    pub(super) fn begin(&mut self, publishers: &mut Publishers) {
        if let Some(publisher) = self.publisher.filter(|_| self.awaited > 0) {
            *publishers.entry(publisher).or_default() += 1;
            self.is_counted = true;
        }
    }

    /// Whether everything was told and [`Self::end`] is to be called.
    pub(super) const fn is_over(&self) -> bool {
        self.is_counted && self.awaited == 0
    }

    /// Takes the flight from its publisher's.
    pub(super) fn end(&mut self, publishers: &mut Publishers) {
        let is_counted = std::mem::take(&mut self.is_counted);
        if let Some(publisher) = self.publisher.filter(|_| is_counted)
            && let Some(flights) = publishers.get_mut(&publisher)
        {
            *flights = flights.saturating_sub(1);
            if *flights == 0 {
                publishers.remove(&publisher);
            }
        }
    }

    /// Counts one recipient's end for each message of `range` and tells the publisher about those it settles.
    pub(super) fn settle(
        &mut self,
        (batch, range): (&Arc<Batch>, &Range<u16>),
        outcome: Outcome,
        publishers: &Publishers,
        out: &mut Vec<Event>,
    ) {
        let wants = self.publisher.is_some_and(|publisher| publishers.contains_key(&publisher));
        if self.counts.is_empty() {
            self.awaited = self.awaited.saturating_sub(count(&self.references, range.clone()));
            if wants {
                self.tell(batch, range.clone(), outcome, out);
            }
            return;
        }
        let failures = self.recipients - self.needed + 1;
        let mut settled: Option<Range<u16>> = None;
        for index in range.clone() {
            let Some((acked, failed)) = self.counts.get_mut(usize::from(index)) else { continue };
            let (ended, settling) = match outcome {
                Outcome::Acked => (acked, self.needed),
                Outcome::Failed(..) => (failed, failures),
            };
            *ended += 1;
            if u32::from(*ended) != settling {
                continue;
            }
            self.awaited = self.awaited.saturating_sub(count(&self.references, index..index + 1));
            if !wants {
                continue;
            }
            match &mut settled {
                Some(stretch) if stretch.end == index => stretch.end += 1,
                _ => {
                    if let Some(stretch) = settled.replace(index..index + 1) {
                        self.tell(batch, stretch, outcome, out);
                    }
                }
            }
        }
        if let Some(stretch) = settled {
            self.tell(batch, stretch, outcome, out);
        }
    }

    /// Tells the publisher about those messages of `range` that have refs.
    pub(super) fn tell(&self, batch: &Arc<Batch>, range: Range<u16>, outcome: Outcome, out: &mut Vec<Event>) {
        let Some(publisher) = self.publisher else { return };
        for (reference, range) in self.references.within(range) {
            let batch = batch.clone();
            out.push(match outcome {
                Outcome::Acked => {
                    Event::Reached { publisher, reference, batch, range, recipients: self.needed }
                }
                Outcome::Failed(cause, attempts) => {
                    Event::NotDelivered { publisher, reference, batch, range, cause, attempts }
                }
            });
        }
    }
}

/// How many messages of `range` have refs.
fn count(references: &References, range: Range<u16>) -> usize {
    references.within(range).map(|(_, range)| range.len()).sum()
}
