//! Addresses whose messages are left to the store until a connection has caught up with them.

use super::Class;
use crate::address::Address;
use crate::id::Position;
use crate::limits::SPILLED_ADDRESSES_MAX;
use crate::settings::Overflow;

/// Messages of an address that a connection is to get from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spilled {
    pub to: Address,
    /// The first message that is not queued.
    pub first: Position,
    /// The last message that was spilled; those behind it are spilled too while this one is not queued.
    pub last: Position,
}

#[derive(Debug, Default)]
pub(super) struct Marks(Vec<Spilled>);

impl Marks {
    pub(super) fn all(&self) -> &[Spilled] {
        &self.0
    }

    /// Begins to spill an address; false when there are too many.
    pub(super) fn mark(&mut self, class: &Class) -> bool {
        if self.0.len() >= SPILLED_ADDRESSES_MAX {
            return false;
        }
        self.0.push(Spilled { to: class.to.clone(), first: class.first, last: class.last() });
        true
    }

    /// Whether the segment's address is spilled, and the segment with it.
    pub(super) fn has(&self, class: &Class) -> bool {
        !class.of_queue && self.0.iter().any(|spilled| spilled.to == class.to)
    }

    /// What is to be done with a segment because its address is spilled: messages that the store has come
    /// from there in their turn, others are dropped, because they must not pass those before them.
    pub(super) fn extend(&mut self, class: &Class) -> Option<Overflow> {
        if self.0.is_empty() || class.of_queue {
            return None;
        }
        let spilled = self.0.iter_mut().find(|spilled| spilled.to == class.to)?;
        if !class.is_stored {
            return Some(Overflow::DropNewest);
        }
        spilled.last = class.last();
        Some(Overflow::Spill)
    }

    pub(super) fn handle_replayed(&mut self, to: &Address, upto: Position) -> bool {
        let Some(index) = self.0.iter().position(|spilled| spilled.to == *to) else { return true };
        let Some(spilled) = self.0.get_mut(index) else { return true };
        if upto.stream != spilled.last.stream || upto.offset < spilled.first.offset {
            return false;
        }
        if upto.offset < spilled.last.offset {
            spilled.first.offset = upto.offset + 1;
            return false;
        }
        self.0.swap_remove(index);
        true
    }
}
