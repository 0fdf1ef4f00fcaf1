//! Where in a window a message is, by its id.
//!
//! An entry is an unchanging fact, what was sent in one go, so it may stay when its messages are gone. One message at several
//! addresses is a batch of its own at each, so that what begins with an id begins with it everywhere.

use super::{Key, Lane, Map, origin};
use crate::address::Address;
use crate::id::MessageId;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// What was sent in one go, by (origin, count) of its first message and once per address.
pub(super) type Ids = BTreeMap<(u32, u64), SmallVec<[Sent; 1]>>;

#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) to: Address,
    pub(super) key: Key,
    pub(super) messages: u16,
}

/// The index of all runs.
pub(super) fn index(lanes: &Map<Address, Lane>) -> Ids {
    let mut ids = Ids::new();
    for (to, run) in lanes.iter().flat_map(|(to, lane)| lane.runs().map(move |run| (to, run))) {
        if let Some(first) = run.batch.messages.get(usize::from(run.range.start)) {
            let sent = Sent { to: to.clone(), key: run.key, messages: run.len() };
            ids.entry((origin(first.id), first.id.count())).or_default().push(sent);
        }
    }
    ids
}

/// What was sent in one go with the message, at each of its addresses, and the count it began with.
pub(super) fn covering(ids: &Ids, id: MessageId) -> Option<(u64, impl Iterator<Item = &Sent>)> {
    let (&(from, count), sent) = ids.range(..=(origin(id), id.count())).next_back()?;
    let index = id.count().checked_sub(count).filter(|_| from == origin(id))?;
    Some((count, sent.iter().filter(move |sent| index < u64::from(sent.messages))))
}
