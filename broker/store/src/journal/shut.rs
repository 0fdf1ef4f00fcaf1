//! What a reading is given that cannot wait until the store has what was pushed before it: a store that answers
//! everything with one error. Older state instead would be taken for all there is, and what is missing never asked for.

use crate::store::{
    DeadLetter, DelayedPage, Durability, Found, Maintained, Member, Page, Query, QueueRecord, ResumeRecord,
    Search, Seen, Store, StoreError, Usage, Write,
};
use waspmq_core::dedup;
use waspmq_core::delivery::QueueCursor;
use waspmq_core::{Address, MessageId, Name, Pattern, Position, QueueId};

#[derive(Debug)]
pub(super) struct Shut(pub(super) StoreError);

impl Shut {
    fn error<T>(&self) -> Result<T, StoreError> {
        Err(self.0.clone())
    }
}

impl Store for Shut {
    fn commit(&self, _: &[Write], _: Durability) -> Result<(), StoreError> {
        self.error()
    }

    fn applied(&self) -> Result<u64, StoreError> {
        self.error()
    }

    fn room(&self, _: u64) -> Result<(), StoreError> {
        self.error()
    }

    fn messages(&self, _: &Query) -> Result<Page, StoreError> {
        self.error()
    }

    fn find(&self, _: &Search) -> Result<Found, StoreError> {
        self.error()
    }

    fn find_delayed(&self, _: &Search) -> Result<Found, StoreError> {
        self.error()
    }

    fn first(&self, _: &Address) -> Result<Option<Position>, StoreError> {
        self.error()
    }

    fn last(&self, _: &Address) -> Result<Option<Position>, StoreError> {
        self.error()
    }

    fn count_after(&self, _: &Address, _: Option<Position>, _: usize) -> Result<usize, StoreError> {
        self.error()
    }

    fn addresses(&self, _: &Pattern, _: Option<&Address>, _: usize) -> Result<Vec<Address>, StoreError> {
        self.error()
    }

    fn cursor(&self, _: &Name, _: Option<&Name>, _: &Address) -> Result<Option<Position>, StoreError> {
        self.error()
    }

    fn cursors(&self, _: &Name, _: &Address, _: usize) -> Result<Vec<(Option<Name>, Position)>, StoreError> {
        self.error()
    }

    fn read_mark(&self, _: &Name, _: &Address) -> Result<Option<Position>, StoreError> {
        self.error()
    }

    fn groups(&self, _: &mut dyn FnMut(Name)) -> Result<(), StoreError> {
        self.error()
    }

    fn members(&self, _: &mut dyn FnMut(Member)) -> Result<(), StoreError> {
        self.error()
    }

    fn member_since(&self, _: &Name, _: &Name) -> Result<Option<Position>, StoreError> {
        self.error()
    }

    fn resumes(&self, _: &mut dyn FnMut(ResumeRecord)) -> Result<(), StoreError> {
        self.error()
    }

    fn resume(&self, _: &[u8; 32]) -> Result<Option<ResumeRecord>, StoreError> {
        self.error()
    }

    fn dead_letters(&self, _: Option<(MessageId, &str)>, _: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.error()
    }

    fn dead_letter(&self, _: MessageId) -> Result<Vec<DeadLetter>, StoreError> {
        self.error()
    }

    fn ledger(&self, _: MessageId) -> Result<Option<Vec<u8>>, StoreError> {
        self.error()
    }

    fn delayed(&self, _: Option<(u64, MessageId)>, _: (usize, usize)) -> Result<DelayedPage, StoreError> {
        self.error()
    }

    fn seen(&self, _: &Name) -> Result<Option<Seen>, StoreError> {
        self.error()
    }

    fn queues(&self, _: &mut dyn FnMut(QueueRecord)) -> Result<(), StoreError> {
        self.error()
    }

    fn queue_cursor(&self, _: &QueueId, _: u64, _: &Address) -> Result<Option<QueueCursor>, StoreError> {
        self.error()
    }

    fn dedup_keys(&self, _: u16) -> Result<(Vec<dedup::Key>, usize), StoreError> {
        self.error()
    }

    fn maintain(&self, _: u64) -> Result<Maintained, StoreError> {
        self.error()
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
}
