//! Ordered records by key: the little that keeping messages needs of a disk or of memory.
//!
//! [`Disk`](crate::disk::Disk) and [`Memory`] are the two; everything above is written once, in `records`.

use crate::store::{Durability, StoreError};
use fjall::Slice;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{RwLock, RwLockReadGuard};

/// Messages are many and only added and removed at the end; everything else is small and changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Messages,
    State,
}

/// A record's new value, or `None` to remove it.
#[derive(Debug)]
pub struct Change {
    pub space: Space,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// Key and value of a record.
pub type Entry = Result<(Slice, Slice), StoreError>;

/// Records in the order of their keys, readable from both ends.
pub type Entries<'a> = Box<dyn DoubleEndedIterator<Item = Entry> + 'a>;

/// Where records are. One writer at a time, any number of readers.
pub trait Shelf: Send + Sync + fmt::Debug {
    type View<'a>: View
    where
        Self: 'a;

    /// All records as they are now; later writes do not show.
    fn view(&self) -> Result<Self::View<'_>, StoreError>;

    /// All or nothing. No change and [`Durability::Synced`]: makes everything before durable.
    fn write(&self, changes: Vec<Change>, durability: Durability) -> Result<(), StoreError>;

    /// Called by the writer before it reads: opens again what has failed. An error when that is not possible yet.
    fn ready(&self) -> Result<(), StoreError>;

    /// An error when there is no space for more, with `pending_bytes` that are yet to come.
    fn room(&self, pending_bytes: u64) -> Result<(), StoreError>;

    /// Bytes that are free where the records are; `None` where that is no disk, or it does not say.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

/// See [`Shelf::view`].
pub trait View {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError>;

    /// Records with `from <= key < to`.
    fn range(&self, space: Space, from: &[u8], to: &[u8]) -> Entries<'_>;
}

/// Records in memory. Everything is gone with it, so every commit is as durable as the other.
#[derive(Default)]
pub struct Memory {
    trees: RwLock<Trees>,
}

#[derive(Default)]
struct Trees {
    messages: BTreeMap<Vec<u8>, Slice>,
    state: BTreeMap<Vec<u8>, Slice>,
}

impl Trees {
    const fn of(&self, space: Space) -> &BTreeMap<Vec<u8>, Slice> {
        match space {
            Space::Messages => &self.messages,
            Space::State => &self.state,
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Shelf for Memory {
    type View<'a> = MemoryView<'a>;

    fn view(&self) -> Result<MemoryView<'_>, StoreError> {
        Ok(MemoryView(self.trees.read().unwrap()))
    }

    fn write(&self, changes: Vec<Change>, _durability: Durability) -> Result<(), StoreError> {
        let mut trees = self.trees.write().unwrap();
        for Change { space, key, value } in changes {
            let tree = match space {
                Space::Messages => &mut trees.messages,
                Space::State => &mut trees.state,
            };
            match value {
                Some(value) => tree.insert(key, value.into()),
                None => tree.remove(&key),
            };
        }
        Ok(())
    }

    fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn room(&self, _pending_bytes: u64) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Holds writers off while it lives.
pub struct MemoryView<'a>(RwLockReadGuard<'a, Trees>);

impl fmt::Debug for MemoryView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryView")
    }
}

impl View for MemoryView<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, StoreError> {
        Ok(self.0.of(space).get(key).cloned())
    }

    fn range(&self, space: Space, from: &[u8], to: &[u8]) -> Entries<'_> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let entries = self.0.of(space).range::<[u8], _>(bounds);
        Box::new(entries.map(|(key, value)| Ok((key.as_slice().into(), value.clone()))))
    }
}
