//! The list of addresses that a queue has not given out completely: parts of it, which follow each other.
//!
//! Invariant: a pass goes from the first address to the last, and what finds no place here ends a part, so that the next
//! one begins with it. The store has nothing that is not known here when a pass left nothing out.

use super::Backlog;
use crate::address::Address;
use crate::limits;

#[derive(Debug, Default)]
pub(super) struct List {
    /// The last address of the parts before; `None` where a pass begins.
    pub(super) upto: Option<Address>,
    /// Whether something was published, since the pass began, for which there was no place.
    pub(super) has_left_out: bool,
}

impl Backlog {
    /// Addresses that have something for the queue, as they were asked for. `upto` is the last one that was looked at, `None`
    /// at the end.
    pub fn handle_addresses(&mut self, number: u64, addresses: Vec<Address>, upto: Option<Address>) {
        if self.asked.take_if(|asked| asked.number == number && asked.to.is_none()).is_none() {
            return;
        }
        // What is known of them is in the store by now.
        self.addresses.retain(|_, progress| !progress.is_settled());
        for to in addresses {
            if !self.addresses.contains_key(&to) {
                if self.addresses.len() >= limits::QUEUE_ADDRESSES_MAX {
                    self.is_stalled |= self.turns.is_empty();
                    return;
                }
                self.read_later(&to);
            }
            self.list.upto = Some(to);
        }
        self.list.upto = upto;
        if self.list.upto.is_none() {
            self.is_complete = !std::mem::take(&mut self.list.has_left_out);
            self.is_stalled |= self.turns.is_empty() && !self.is_complete;
        }
    }
}
