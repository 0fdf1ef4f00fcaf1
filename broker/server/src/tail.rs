//! Tails: what is published, shown to operators as it happens.
//!
//! The worker that published a batch, or refused it, takes down what tails are to see of it and hands that to each tail
//! that wants it, through a queue of its own that is bounded in entries and bytes. What finds no room is dropped and
//! counted, and the count goes where in the order of messages they are missing: nobody waits for a reader.
//!
//! *Invariants.* While no tail is open, a publish pays one relaxed load. A tail sees every publish that is decided
//! behind its opening, or is told how many it missed. Deliberately not here: what is asked for over HTTP, and JSON.

use crate::worker::counters::Outcome;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use waspmq_core::message::{Batch, Envelope};
use waspmq_core::{Address, Code, Level, MessageId, Name, Pattern, Position, Reject, limits as bounds};
use waspmq_protocol::HeaderBlock;

pub mod limits;

/// What one tail shows.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Of the addresses published to, or those that policies chose instead. None is all.
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) from: Option<Name>,
    /// With payload and headers.
    pub(crate) payload: bool,
}

/// Where a publish goes and whom it is from: what a tail chooses by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) to: &'a Address,
    pub(crate) from: Option<&'a Name>,
    /// The addresses that policies chose instead.
    pub(crate) instead: &'a [Address],
}

impl Wanted {
    fn takes(&self, Subject { to, from, instead }: Subject<'_>) -> bool {
        self.from.as_ref().is_none_or(|wanted| from == Some(wanted))
            && (self.patterns.is_empty()
                || self.patterns.iter().any(|pattern| {
                    pattern.matches(to) || instead.iter().any(|address| pattern.matches(address))
                }))
    }
}

/// What was published in one go, and what became of it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) to: Address,
    pub(crate) from: Option<Name>,
    pub(crate) unix_ms: u64,
    pub(crate) level: Level,
    pub(crate) instead: Vec<Address>,
    pub(crate) delay_ms: u64,
    pub(crate) messages: Vec<Line>,
    pub(crate) fate: Fate,
}

/// One message of it.
#[derive(Debug)]
pub(crate) struct Line {
    /// Of a message that was refused before it got one: none.
    pub(crate) id: Option<MessageId>,
    pub(crate) payload_bytes: usize,
    pub(crate) priority: u8,
    /// Where a tail wants it.
    pub(crate) content: Option<Content>,
}

/// What a message carries, as far as it is shown.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) is_json: bool,
    pub(crate) payload: Box<[u8]>,
    pub(crate) headers: Vec<(String, String)>,
    /// Whether there is more.
    pub(crate) is_cut: bool,
}

/// What became of a publish.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) outcome: Outcome,
    /// The position of the first message, where they have one address.
    pub(crate) first: Option<Position>,
    /// Of each message, where that is known.
    pub(crate) recipients: Option<u32>,
    /// Why it was refused.
    pub(crate) refusal: Option<(Code, Box<str>)>,
}

impl Fate {
    pub(crate) const fn accepted(first: Option<Position>, recipients: Option<u32>) -> Self {
        Self { outcome: Outcome::Accepted, first, recipients, refusal: None }
    }

    /// A repeat, whose first publish had so many recipients.
    pub(crate) const fn duplicate(recipients: u32) -> Self {
        Self { outcome: Outcome::Duplicate, first: None, recipients: Some(recipients), refusal: None }
    }

    pub(crate) fn refused(reject: &Reject) -> Self {
        let refusal = Some((reject.code, reject.message.as_str().into()));
        Self { outcome: Outcome::of_refusal(reject.code), first: None, recipients: None, refusal }
    }
}

impl Content {
    pub(crate) fn new<N: AsRef<str>, V: AsRef<str>>(
        (payload, is_json): (&[u8], bool),
        headers: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let shown = payload.get(..limits::PAYLOAD_BYTES_MAX).unwrap_or(payload);
        let mut content =
            Self { is_json, payload: shown.into(), headers: Vec::new(), is_cut: shown.len() < payload.len() };
        // Of what is refused, they may be more than a message has.
        let mut left_bytes = bounds::HEADER_BYTES_MAX;
        for (name, value) in headers {
            let (name, value) = (name.as_ref(), value.as_ref());
            let Some(left) = left_bytes.checked_sub(name.len() + value.len()) else {
                content.is_cut = true;
                break;
            };
            left_bytes = left;
            content.headers.push((name.to_owned(), value.to_owned()));
        }
        content
    }

    fn size_bytes(&self) -> usize {
        let headers = self.headers.iter();
        let pair =
            |(name, value): &(String, String)| size_of::<(String, String)>() + name.len() + value.len();
        self.payload.len() + headers.map(pair).sum::<usize>()
    }
}

impl Line {
    fn of(batch: &Batch, envelope: &Envelope, has_content: bool) -> Self {
        let payload = batch.slice(envelope.payload);
        let headers = HeaderBlock::from_encoded(batch.slice(envelope.headers));
        Self {
            id: Some(envelope.id),
            payload_bytes: payload.len(),
            priority: envelope.priority,
            content: has_content.then(|| Content::new((payload, envelope.is_json), headers)),
        }
    }
}

impl Seen {
    fn subject(&self) -> Subject<'_> {
        Subject { to: &self.to, from: self.from.as_ref(), instead: &self.instead }
    }

    /// Memory it holds.
    fn size_bytes(&self) -> usize {
        let line = |line: &Line| size_of::<Line>() + line.content.as_ref().map_or(0, Content::size_bytes);
        let reason = self.fate.refusal.as_ref().map_or(0, |(_, reason)| reason.len());
        size_of::<Self>()
            + self.messages.iter().map(line).sum::<usize>()
            + self.instead.len() * size_of::<Address>()
            + reason
    }
}

/// The tails that are open.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    is_open: AtomicBool,
    open: ArcSwap<Vec<Arc<Feed>>>,
    changes: Mutex<Changes>,
    /// Messages that tails were handed, and those that found no room.
    taken: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Changes {
    /// Whether none opens any more.
    is_closed: bool,
    count: u64,
}

/// Why no tail opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unopened {
    TooMany,
    Closed,
}

/// The workers' end of a tail.
#[derive(Debug)]
struct Feed {
    number: u64,
    wanted: Arc<Wanted>,
    queue: mpsc::Sender<Queued>,
    load: Arc<Load>,
}

/// What is in a tail's queue.
#[derive(Debug, Default)]
struct Load {
    bytes: AtomicUsize,
    /// Messages that were dropped since something entered.
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Queued {
    seen: Arc<Seen>,
    /// Messages that are missing before it.
    dropped: u64,
}

impl Tails {
    /// Whether somebody looks at all.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) -> usize {
        self.open.load().len()
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// A tail that sees what is decided from now on.
    pub(crate) fn open(self: &Arc<Self>, wanted: Wanted) -> Result<Tail, Unopened> {
        let mut changes = self.changes();
        if changes.is_closed {
            return Err(Unopened::Closed);
        }
        let mut open = Vec::clone(&self.open.load());
        if open.len() >= limits::TAILS_MAX {
            return Err(Unopened::TooMany);
        }
        changes.count += 1;
        let (number, wanted, load) = (changes.count, Arc::new(wanted), Arc::<Load>::default());
        let (sender, queue) = mpsc::channel(limits::QUEUE_ENTRIES_MAX);
        open.push(Arc::new(Feed { number, wanted: wanted.clone(), queue: sender, load: load.clone() }));
        self.replace(open);
        Ok(Tail { number, wanted, load, queue, current: None, tails: self.clone() })
    }

    /// Ends all tails when they have shown what is queued for them; no other one opens.
    pub(crate) fn close(&self) {
        let mut changes = self.changes();
        changes.is_closed = true;
        self.replace(Vec::new());
    }

    fn remove(&self, number: u64) {
        let changes = self.changes();
        let mut open = Vec::clone(&self.open.load());
        open.retain(|feed| feed.number != number);
        self.replace(open);
        drop(changes);
    }

    fn replace(&self, open: Vec<Arc<Feed>>) {
        let is_open = !open.is_empty();
        self.open.store(Arc::new(open));
        self.is_open.store(is_open, Ordering::SeqCst);
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap()
    }

    /// Whether so many messages are to be taken down, and if so whether with what they carry. They are dropped here
    /// where nobody who wants them has room.
    fn wants(&self, subject: Subject<'_>, messages: usize) -> Option<bool> {
        let open = self.open.load();
        let takers = || open.iter().filter(|feed| feed.wanted.takes(subject));
        if takers().any(|feed| feed.has_room()) {
            return Some(takers().any(|feed| feed.wanted.payload && feed.has_room()));
        }
        for feed in takers() {
            self.drop_for(feed, messages as u64);
        }
        None
    }

    /// What is to be seen of a batch, as long as nothing has become of it.
    pub(crate) fn see(&self, batch: &Batch) -> Option<Box<Seen>> {
        let subject = Subject { to: &batch.to, from: batch.from.as_ref(), instead: &[] };
        let has_content = self.wants(subject, batch.messages.len())?;
        let line = |envelope: &Envelope| Line::of(batch, envelope, has_content);
        Some(Box::new(Seen {
            to: batch.to.clone(),
            from: batch.from.clone(),
            unix_ms: batch.unix_ms,
            level: batch.level,
            instead: Vec::new(),
            delay_ms: 0,
            messages: batch.messages.iter().map(line).collect(),
            fate: Fate::accepted(None, None),
        }))
    }

    /// Shows one message that is no part of a batch; `seen` is told whether with what it carries.
    pub(crate) fn show_one(&self, subject: Subject<'_>, seen: impl FnOnce(bool) -> Seen) {
        if let Some(has_content) = self.wants(subject, 1) {
            self.show(seen(has_content));
        }
    }

    pub(crate) fn show(&self, seen: Seen) {
        let seen = Arc::new(seen);
        let (messages, bytes) = (seen.messages.len() as u64, seen.size_bytes());
        for feed in self.open.load().iter().filter(|feed| feed.wanted.takes(seen.subject())) {
            if feed.push(&seen, bytes) {
                self.taken.fetch_add(messages, Ordering::Relaxed);
            } else {
                self.drop_for(feed, messages);
            }
        }
    }

    fn drop_for(&self, feed: &Feed, messages: u64) {
        feed.load.dropped.fetch_add(messages, Ordering::Relaxed);
        self.dropped.fetch_add(messages, Ordering::Relaxed);
    }
}

impl Feed {
    fn has_room(&self) -> bool {
        self.queue.capacity() > 0 && self.load.bytes.load(Ordering::Relaxed) < limits::QUEUE_BYTES_MAX
    }

    /// False when there is no room. What is larger than the whole bound has room in an empty queue.
    fn push(&self, seen: &Arc<Seen>, bytes: usize) -> bool {
        if !self.has_room() {
            return false;
        }
        let Ok(place) = self.queue.try_reserve() else { return false };
        self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        let dropped = self.load.dropped.swap(0, Ordering::Relaxed);
        place.send(Queued { seen: seen.clone(), dropped });
        true
    }
}

/// The reader's end of a tail, which is open as long as this is there.
#[derive(Debug)]
pub(crate) struct Tail {
    number: u64,
    wanted: Arc<Wanted>,
    load: Arc<Load>,
    queue: mpsc::Receiver<Queued>,
    /// What is being shown, and the message that is next.
    current: Option<(Arc<Seen>, usize)>,
    tails: Arc<Tails>,
}

/// What a tail shows next.
#[derive(Debug)]
pub(crate) enum Shown {
    /// This message of what was published.
    Message(Arc<Seen>, usize),
    /// So many messages found no room.
    Dropped(u64),
}

impl Tail {
    pub(crate) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What is next; `None` when there is nothing any more.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Shown>> {
        loop {
            if let Some((seen, next)) = &mut self.current
                && *next < seen.messages.len()
            {
                *next += 1;
                return Poll::Ready(Some(Shown::Message(seen.clone(), *next - 1)));
            }
            self.current = None;
            let queued = self.queue.poll_recv(context);
            if let Poll::Ready(Some(Queued { seen, dropped })) = queued {
                self.load.bytes.fetch_sub(seen.size_bytes(), Ordering::Relaxed);
                self.current = Some((seen, 0));
                if dropped > 0 {
                    return Poll::Ready(Some(Shown::Dropped(dropped)));
                }
                continue;
            }
            // Something may be there all the same, for when this task has its turn again.
            if !self.queue.is_empty() {
                return Poll::Pending;
            }
            // Nothing has entered behind these.
            return match self.load.dropped.swap(0, Ordering::Relaxed) {
                0 => queued.map(|_| None),
                dropped => Poll::Ready(Some(Shown::Dropped(dropped))),
            };
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.tails.remove(self.number);
    }
}

#[cfg(test)]
mod tests;
