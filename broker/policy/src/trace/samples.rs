//! Samples of what shadows decided differently, until their messages have ids.
//!
//! Mostly there is none, and then a message costs one look at a length. Not here: which samples are kept (`shadow.rs`).

use crate::limits::SAMPLES_UNNAMED_MAX;
use crate::shadow::Differences;
use std::collections::VecDeque;
use std::sync::Arc;
use waspmq_core::MessageId;

#[derive(Debug, Default)]
pub(super) struct Samples {
    waiting: VecDeque<Sample>,
}

#[derive(Debug)]
struct Sample {
    ticket: u64,
    differences: Arc<Differences>,
    number: u64,
}

impl Samples {
    pub(super) fn push(&mut self, ticket: u64, differences: &Arc<Differences>, number: u64) {
        if self.waiting.len() >= SAMPLES_UNNAMED_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Sample { ticket, differences: Arc::clone(differences), number });
    }

    /// The message with this ticket was refused, and the next one gets it.
    #[inline]
    pub(super) fn forget(&mut self, ticket: u64) {
        if !self.waiting.is_empty() {
            self.waiting.retain(|sample| sample.ticket != ticket);
        }
    }

    /// The message with this ticket has this id.
    #[inline]
    pub(super) fn name(&mut self, ticket: u64, id: MessageId) {
        if !self.waiting.is_empty() {
            self.name_waiting(ticket, id);
        }
    }

    #[cold]
    fn name_waiting(&mut self, ticket: u64, id: MessageId) {
        self.waiting.retain(|sample| {
            let is_of_another = sample.ticket != ticket;
            if !is_of_another {
                sample.differences.name(sample.number, id);
            }
            is_of_another
        });
    }
}
