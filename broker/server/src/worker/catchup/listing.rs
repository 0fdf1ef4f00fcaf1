//! The addresses of a wildcard: looked up in the store in parts, of which each address is read.
//!
//! One part is on its way per session, and the next one is asked for when most addresses of those before have been read. What
//! is published to an address that the listing has not come to is read from the store when it does; what is not stored
//! is held until then. Not here: the look-up (`worker::scan`), and what the session keeps of it (`state`).

use super::state::Part;
use super::{Entry, Start, hand_over, passes, place};
use crate::worker::Worker;
use crate::worker::connection::Connection;
use crate::worker::resume::Seen;
use crate::worker::scan::{self, Scan};
use std::sync::Arc;
use waspmq_core::message::Batch;
use waspmq_core::registry::Registry;
use waspmq_core::{Address, Code, Pattern, Position, Reject, SessionId, limits};
use waspmq_protocol::server;
use waspmq_store::{Store, StoreError};

/// A part of the addresses of a wildcard with stored messages, for one session.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(super) session: SessionId,
    pub(super) number: u64,
    pub(super) scan: Result<Scan, StoreError>,
}

/// What is to be asked of the store.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) pattern: Pattern,
    /// What a resumed session has seen, where it is one that asks.
    pub(super) seen: Option<Arc<Seen>>,
    pub(super) after: Option<Address>,
    pub(super) number: u64,
}

impl Worker {
    /// Reads every address of a pattern because the client asks for it. Of a resumed session what is being read is
    /// left to that.
    pub(in crate::worker) fn catch_up_pattern(
        &mut self,
        connection: &mut Connection,
        pattern: &Pattern,
        start: Start,
    ) {
        if let Some(address) = pattern.to_address() {
            return self.catch_up_anew(connection, &address, start);
        }
        connection.catching.begin_listing(pattern, start);
        self.mark_unsaved(connection);
        self.list_on(connection);
    }

    /// Asks for the next part of what is to be listed, when there is room for it and none is on its way. Without room in the
    /// journal the sweep asks again.
    pub(super) fn list_on(&mut self, connection: &mut Connection) {
        let Some(session) = connection.session_id else { return };
        let now_us = self.shared.clock.now_us();
        let Some(Wanted { pattern, seen, after, number }) = connection.catching.next_listing(now_us) else {
            return;
        };
        let (mailboxes, worker, registry) =
            (self.shared.mailboxes.clone(), self.number, self.shared.registry.clone());
        let list = move |store: &dyn Store| {
            let is_wanted = |to: &Address| match &seen {
                Some(seen) => is_unseen(store, (seen, &registry), to),
                None => Ok(true),
            };
            let most = limits::CATCH_UP_ADDRESSES_MAX;
            let scan = scan::scan(store, (&pattern, after), most, is_wanted);
            let listing = Listing { session, number, scan };
            hand_over(&mailboxes, worker, Entry::Listing(Box::new(listing)));
        };
        if self.shared.journal.read(Box::new(list)).is_err() {
            connection.catching.handle_unlisted(number);
        }
    }

    /// A part of the addresses of a wildcard is known: each is read, what is only live goes on.
    pub(in crate::worker) fn handle_listing(&mut self, listing: Listing) {
        let Listing { session, number, scan } = listing;
        self.with_session(session, |worker, connection| {
            let scan = match scan {
                Ok(scan) => scan,
                Err(error) if passes(&error) => {
                    tracing::warn!(%error, "stored messages cannot be listed now");
                    connection.catching.handle_unlisted(number);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "stored messages cannot be listed");
                    worker.tell_unlisted(connection, number);
                    Scan { found: Vec::new(), upto: None }
                }
            };
            if let Some(part) = connection.catching.handle_scan(number, scan) {
                worker.take_part(connection, part);
            }
            worker.list_on(connection);
        });
    }

    fn take_part(&mut self, connection: &mut Connection, part: Part) {
        let Part { start, addresses, held } = part;
        for to in addresses {
            let shard = self.shared.registry.shard_of(&to);
            match &start {
                Start::Seen(seen) => {
                    let may_go_back = self.may_go_back(connection, &to);
                    let Some((start, is_ordered)) = seen.start(&to, shard, may_go_back) else { continue };
                    if !is_ordered {
                        connection.catching.note_passed(shard);
                    }
                    self.catch_up_resumed(connection, &to, start);
                }
                start => {
                    connection.catching.note_passed(shard);
                    self.catch_up_anew(connection, &to, start.of_shard(shard));
                }
            }
        }
        connection.catching.tidy_resumed();
        for batch in held {
            let run = std::slice::from_ref(&batch);
            match connection.catching.hold(run, self.shared.kept.may_have(&batch.to)) {
                Some(dropped) => self.tell_dropped(connection, run, dropped),
                None => self.deliver_alone(connection, run),
            }
        }
    }

    /// More messages came that are not stored than may be held.
    fn tell_dropped(&mut self, connection: &mut Connection, run: &[Arc<Batch>], dropped: u64) {
        let Some(to) = run.first().map(|batch| batch.to.clone()).filter(|_| dropped > 0) else { return };
        let action = self.terms(run, &to).overflow;
        self.outbox.note_dropped(connection, (&to, action), dropped);
        self.counters().dropped_catching_up.add(dropped);
    }

    /// Tells the client that stored messages of some addresses cannot be sent, because the store cannot say which these are.
    fn tell_unlisted(&mut self, connection: &mut Connection, number: u64) {
        let Some(pattern) = connection.catching.listed_pattern(number) else { return };
        connection.catching.has_gap = true;
        let overflow = server::Overflow { to: "*".into(), dropped: 0, action: None };
        self.send(connection, &server::Frame::Overflow(overflow));
        let message = format!("stored messages of {pattern} cannot be listed");
        self.refuse(connection, None, Reject::new(Code::StorageFailed, message).retry_after(1_000));
    }
}

/// Whether an address may have something behind what the client of a resumed session has seen.
fn is_unseen(
    store: &dyn Store,
    (seen, registry): (&Seen, &Registry),
    to: &Address,
) -> Result<bool, StoreError> {
    let Some((Start::After(upto), _)) = seen.start(to, registry.shard_of(to), true) else { return Ok(true) };
    Ok(store.last(to)?.is_some_and(|last| place(last) > place(upto)))
}

impl Start {
    /// Where an address of this shard begins.
    fn of_shard(&self, shard: u16) -> Self {
        let Self::LastUpto(ends) = self else { return self.clone() };
        let end = ends.iter().find(|end| end.stream.shard == shard);
        end.map_or(Self::Last, |end| Self::LastBefore(Position { offset: end.offset + 1, ..*end }))
    }
}
