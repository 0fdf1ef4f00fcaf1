//! Pages of stored messages and read marks, for clients.
//!
//! Both are answered by the store's reader threads behind everything published before, so that a client that
//! has just had a receipt of level `stored` finds its message.

use super::Worker;
use super::catchup::{busy, hand_over};
use super::connection::Connection;
use super::enqueue::journal_full;
use super::mailbox::Entry;
use super::segment::frame;
use waspmq_core::access::Action;
use waspmq_core::message::Batch;
use waspmq_core::settings::Keep;
use waspmq_core::{Address, Code, Kind, Name, Position, Reject, SessionId};
use waspmq_protocol::limits::{HISTORY_BYTES_MAX, HISTORY_MESSAGES_MAX, UNREAD_MAX};
use waspmq_protocol::server::{self, HistoryHead, MessageFrame};
use waspmq_store::{Page, Query, Store, StoreError, Write};

/// Messages of a page when the client names no number.
const PAGE_DEFAULT: u32 = 100;
/// Pages that a connection may wait for. With more it is refused, so that a peer that does not read holds no more
/// memory than that of these, and leaves the store's readers to others.
const HISTORIES_MAX: u8 = 2;
/// An answer that takes this long is not waited for: it may be lost.
const HISTORY_LOST_US: u64 = 10_000_000;

/// A page for the client that asked.
#[derive(Debug)]
pub(crate) struct HistoryOf {
    asker: SessionId,
    reference: Option<u64>,
    of: Address,
    page: Result<(Page, usize), StoreError>,
}

impl HistoryOf {
    /// Memory of the messages.
    pub(super) fn size_bytes(&self) -> usize {
        self.page.iter().flat_map(|(page, _)| &page.messages).map(Batch::size_bytes).sum()
    }
}

/// A read mark that was moved, for the other sessions of its user.
#[derive(Debug, Clone)]
pub(crate) struct ReadOf {
    /// Those to be told.
    sessions: Vec<SessionId>,
    of: Address,
    upto: Position,
    unread: Option<u32>,
}

impl Worker {
    pub(super) fn take_history(
        &mut self,
        connection: &mut Connection,
        (reference, of): (Option<u64>, &str),
        (after, limit): (Option<Position>, Option<u32>),
    ) -> Result<(), Reject> {
        let of = Address::parse(of)?;
        let Some(identity) = connection.session.identity() else { return Ok(()) };
        self.may_read(connection, &identity.user, &of)?;
        self.check_kept(&of)?;
        let Some(asker) = connection.asker else { return Ok(()) };
        let now = self.shared.clock.now();
        let (waiting, asked_us) = connection.histories;
        let waiting = if now.us.saturating_sub(asked_us) < HISTORY_LOST_US { waiting } else { 0 };
        if waiting >= HISTORIES_MAX || connection.out.owes_much() {
            let message = format!("a connection may wait for {HISTORIES_MAX} pages of history at once");
            return Err(Reject::new(Code::Overloaded, message).retry_after(100));
        }
        let known = after.filter(|after| self.is_position_of(&of, *after));
        let is_unknown = known != after;
        let limit = usize::try_from(limit.unwrap_or(PAGE_DEFAULT)).unwrap_or(usize::MAX);
        let query = Query {
            address: of.clone(),
            after: known,
            from_unix_ms: None,
            last: None,
            limit: limit.clamp(1, HISTORY_MESSAGES_MAX),
            max_bytes: HISTORY_BYTES_MAX,
            now_unix_ms: now.unix_ms,
        };
        let user = identity.user.clone();
        let (mailboxes, worker) = (self.shared.mailboxes.clone(), self.number);
        let read = move |store: &dyn Store| {
            let page = store.messages(&query).and_then(|mut page| {
                page.gap |= is_unknown;
                let mark = store.read_mark(&user, &of)?;
                Ok((page, store.count_after(&of, mark, UNREAD_MAX as usize)?))
            });
            let answer = HistoryOf { asker, reference, of, page };
            hand_over(&mailboxes, worker, Entry::History(Box::new(answer)));
        };
        self.shared.journal.read(Box::new(read)).map_err(|_| busy())?;
        connection.histories = (waiting + 1, now.us);
        Ok(())
    }

    pub(super) fn handle_history(&mut self, history: HistoryOf) {
        let HistoryOf { asker, reference, of, page } = history;
        self.with_asker(asker, |worker, connection| {
            connection.histories.0 = connection.histories.0.saturating_sub(1);
            let (page, unread) = match page {
                Ok(page) => page,
                Err(error) => return worker.refuse(connection, reference, storage(&error)),
            };
            let is_own_echo = |origin, excluded: bool| excluded && connection.has_id(origin);
            let messages =
                page.messages.iter().filter(|batch| !is_own_echo(batch.origin, batch.exclude_origin));
            let frames = messages.flat_map(|batch| {
                let messages = batch.messages.iter().enumerate();
                // A page is an answer, not a delivery: there is nothing to acknowledge.
                messages.map(move |(index, envelope)| MessageFrame {
                    wants_ack: false,
                    ..frame(batch, index, envelope, (None, None))
                })
            });
            let head = HistoryHead {
                reference,
                of: of.as_str(),
                more: page.more,
                gap: page.gap,
                unread: u32::try_from(unread).ok(),
            };
            worker.control.push_history(connection.encoding, &head, frames);
            worker.send_control(connection);
        });
    }

    /// Moves the user's read mark in an address; the user's other sessions are told.
    pub(super) fn take_read(
        &mut self,
        connection: &mut Connection,
        of: &str,
        upto: Position,
    ) -> Result<(), Reject> {
        let of = Address::parse(of)?;
        let Some(identity) = connection.session.identity() else { return Ok(()) };
        self.may_read(connection, &identity.user, &of)?;
        self.check_kept(&of)?;
        self.check_position(&of, upto)?;
        if !self.shared.journal.has_room() {
            return Err(journal_full());
        }
        let user = identity.user.clone();
        let write = Write::ReadMark { user: user.clone(), address: of.clone(), position: upto };
        self.shared.journal.push(write, None).map_err(|_| busy())?;
        let others = self.shared.registry.sessions_of(&user);
        let others: Vec<_> = others.into_iter().filter(|other| other.id != identity.id).collect();
        if others.is_empty() {
            return Ok(());
        }
        let mailboxes = self.shared.mailboxes.clone();
        let tell = move |store: &dyn Store| {
            let mark = store.read_mark(&user, &of);
            let Some(upto) = kept_mark(mark, upto) else { return };
            let unread = store.count_after(&of, Some(upto), UNREAD_MAX as usize).ok();
            let unread = unread.and_then(|unread| u32::try_from(unread).ok());
            let mut workers: Vec<u8> = others.iter().map(|other| other.worker).collect();
            workers.sort_unstable();
            workers.dedup();
            for worker in workers {
                let sessions = others.iter().filter(|other| other.worker == worker).map(|other| other.id);
                let read = ReadOf { sessions: sessions.collect(), of: of.clone(), upto, unread };
                hand_over(&mailboxes, worker, Entry::Read(Box::new(read)));
            }
        };
        self.shared.journal.read(Box::new(tell)).map_err(|_| busy())
    }

    pub(super) fn handle_read(&mut self, read: ReadOf) {
        let ReadOf { sessions, of, upto, unread } = read;
        for session in sessions {
            let frame = server::Frame::Read(server::Read { of: of.to_string(), upto, unread });
            self.send_to_session(session, [frame]);
        }
    }

    /// Whether a session may read what is stored of an address: its own and its groups', `all`, and topics it
    /// could subscribe to.
    pub(super) fn may_read(&self, connection: &Connection, user: &Name, of: &Address) -> Result<(), Reject> {
        let forbidden = |message: String| Err(Reject::new(Code::Forbidden, message));
        match of.kind() {
            Kind::User if of.name() == user.as_str() => return Ok(()),
            Kind::User => return forbidden(format!("{of} is another user's address")),
            Kind::Group => {
                let group = super::inbound::name(of.name())?;
                if !self.shared.registry.is_member(user, &group) {
                    return forbidden(format!("not a member of {of}; send `join` first"));
                }
            }
            Kind::Topic | Kind::All => {}
        }
        Self::access_check(connection, Action::History, of)
    }

    /// Whether an address can have had a position. One that it cannot have had yet is of another data directory, or made
    /// up: what is behind it would never come.
    pub(super) fn is_position_of(&self, of: &Address, position: Position) -> bool {
        let end = self.end_of(of);
        let place = |position: Position| (position.stream.epoch, position.offset);
        position.stream.shard == end.stream.shard && place(position) <= place(end)
    }

    /// Refuses a position that the address cannot have had yet: a read mark there would hide what comes.
    fn check_position(&self, of: &Address, position: Position) -> Result<(), Reject> {
        if self.is_position_of(of, position) {
            return Ok(());
        }
        Err(Reject::new(Code::InvalidFrame, format!("{position} is no position of {of}")))
    }

    /// Refuses to speak about the past of an address that has none.
    fn check_kept(&self, of: &Address) -> Result<(), Reject> {
        if self.shared.rules.of(of).keep == Keep::Never {
            return Err(Reject::new(Code::NotStored, format!("{of} keeps no messages")));
        }
        Ok(())
    }
}

/// Where a read mark is that was to be moved. One that was further already has stayed there; where that cannot be read it is
/// not known.
fn kept_mark(found: Result<Option<Position>, StoreError>, upto: Position) -> Option<Position> {
    found.ok().map(|mark| mark.unwrap_or(upto))
}

/// The refusal for an error of the store.
pub(crate) fn storage(error: &StoreError) -> Reject {
    match error {
        StoreError::Full { .. } => Reject::new(Code::StorageFull, error.to_string()).retry_after(1_000),
        StoreError::Stopped => Reject::new(Code::Draining, error.to_string()).retry_after(1_000),
        _ => Reject::new(Code::StorageFailed, error.to_string()).retry_after(1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_core::Stream;

    #[test]
    fn a_read_mark_that_cannot_be_read_is_not_taken_for_the_one_that_came() {
        let at = |offset| Position { stream: Stream { shard: 0, epoch: 1 }, offset };
        assert_eq!(kept_mark(Ok(Some(at(9))), at(5)), Some(at(9)));
        assert_eq!(kept_mark(Ok(None), at(5)), Some(at(5)));
        assert_eq!(kept_mark(Err(StoreError::Stopped), at(5)), None);
    }
}
