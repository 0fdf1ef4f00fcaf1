//! Looking through the addresses of a pattern that have something stored, a part at a time. Runs on a reader thread.
//!
//! Invariant: the parts follow each other, so that whatever is left out of one is in a later one. Not here: what is done
//! with the addresses, and when the next part is asked for.

use waspmq_core::{Address, Pattern, limits};
use waspmq_store::{Store, StoreError};

/// Addresses that are taken from the store at once.
const CHUNK: usize = 1_024;

/// A part of a pattern's addresses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Those that are wanted, in the order of their texts.
    pub(super) found: Vec<Address>,
    /// The last one that was looked at; `None` at the end.
    pub(super) upto: Option<Address>,
}

/// Looks at the addresses behind `after`, at no more than [`limits::ADDRESSES_LOOKED_AT_MAX`], until so many are found.
pub(super) fn scan(
    store: &dyn Store,
    (pattern, after): (&Pattern, Option<Address>),
    most: usize,
    mut is_wanted: impl FnMut(&Address) -> Result<bool, StoreError>,
) -> Result<Scan, StoreError> {
    let mut scan = Scan { found: Vec::new(), upto: after };
    for _ in 0..limits::ADDRESSES_LOOKED_AT_MAX / CHUNK {
        let chunk = store.addresses(pattern, scan.upto.as_ref(), CHUNK)?;
        let is_last = chunk.len() < CHUNK;
        for to in chunk {
            if scan.found.len() >= most {
                return Ok(scan);
            }
            if is_wanted(&to)? {
                scan.found.push(to.clone());
            }
            scan.upto = Some(to);
        }
        if is_last {
            return Ok(Scan { upto: None, ..scan });
        }
    }
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use waspmq_core::message::{Batch, Envelope, Slice};
    use waspmq_core::settings::Retention;
    use waspmq_core::{Level, MessageId, Position, Stream};
    use waspmq_store::{Bounds, Durability, MemoryStore, Write};

    /// A store with one message in each of these.
    fn stored<'a>(addresses: impl Iterator<Item = &'a str>) -> MemoryStore {
        let store = MemoryStore::new(Bounds::default());
        let retention = Retention { age_ms: u64::MAX, ..Retention::default() };
        let write = |(offset, to): (u64, &str)| {
            let nothing = Slice::default();
            let message = Envelope {
                id: MessageId::new(1, 1, 0, offset),
                is_json: false,
                priority: 0,
                expires_unix_ms: 0,
                payload: nothing,
                headers: nothing,
                key: nothing,
                reply_to: nothing,
            };
            let batch = Batch {
                to: Address::parse(to).unwrap(),
                from: None,
                origin: None,
                exclude_origin: false,
                level: Level::Stored,
                is_kept: true,
                unix_ms: 1,
                published_us: 0,
                first: Position { stream: Stream { shard: 1, epoch: 1 }, offset },
                messages: vec![message],
                bytes: Vec::new(),
            };
            Write::Messages { batch: Arc::new(batch), retention }
        };
        let writes: Vec<_> = (1..).zip(addresses).map(write).collect();
        store.commit(&writes, Durability::Buffered).unwrap();
        store
    }

    #[test]
    fn parts_follow_each_other_and_leave_nothing_out() {
        let names: Vec<_> = (0..2_500).map(|index| format!("topic/a.n{index:05}")).collect();
        let store = stored(names.iter().map(String::as_str).chain(["topic/b"]));
        let pattern = Pattern::parse("topic/a.*").unwrap();
        let is_even = |to: &Address| Ok(to.as_str().ends_with(['0', '2', '4', '6', '8']));
        let (mut found, mut after, mut parts) = (Vec::new(), None, 0);
        loop {
            let part = scan(&store, (&pattern, after), 500, is_even).unwrap();
            found.extend(part.found.iter().map(|to| to.as_str().to_owned()));
            (after, parts) = (part.upto, parts + 1);
            if after.is_none() {
                break;
            }
        }
        let even: Vec<_> = names.iter().step_by(2).cloned().collect();
        assert_eq!((found, parts), (even, 3));
    }

    #[test]
    fn one_part_looks_at_a_bounded_number() {
        let most = limits::ADDRESSES_LOOKED_AT_MAX;
        let names: Vec<_> = (0..=most).map(|index| format!("topic/n{index:06}")).collect();
        let store = stored(names.iter().map(String::as_str));
        let pattern = Pattern::parse("topic/>").unwrap();
        let only_last = |to: &Address| Ok(to.as_str() == names[most]);
        let part = scan(&store, (&pattern, None), 1, only_last).unwrap();
        assert_eq!((part.found.len(), part.upto.as_ref().map(Address::as_str)), (0, Some(&*names[most - 1])));
        let part = scan(&store, (&pattern, part.upto), 1, only_last).unwrap();
        assert_eq!((part.found.len(), part.upto), (1, None));
    }
}
