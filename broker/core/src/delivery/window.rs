//! What one session was sent and has not acknowledged: its window.
//!
//! A message is in flight at most once plain and once per queue it was chosen for; sending it again replaces the
//! earlier entry. One that a policy gave several addresses is in flight once for each: an ack by id is for all of them. A
//! cumulative ack from the front costs the same for a batch as for a message. Acks by id need an index, which is made with the
//! first such ack, so that sessions that ack cumulatively never pay for it.
//!
//! What was in flight outside queues when the session's connection ended is not in flight to the one that goes on, and does not
//! count against its bounds; but it was sent, and an ack of it counts until it is sent again ([`Window::left`]). A cumulative ack covers
//! of it what one that named the same message did in the old connection, and of this one nothing, as what is sent again may have been
//! dropped on its way there, or refused. One that names another message may be of a client that never got it. Of a queue,
//! another member may have it by then.
//!
//! Not here: deadlines (they are the origin worker's, see [`super::Tracker`]), what an ack means to a publisher, and how far
//! a device has got ([`super::Cursors`]).

mod ids;

use super::lane::{Key, Lane, Run};
use crate::address::{Address, Name};
use crate::id::{MessageId, Position};
use crate::limits;
use crate::message::Batch;
use crate::queue::QueueId;
use hashbrown::HashMap;
use ids::{Ids, Sent, covering, index};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::Arc;

/// What a session may have in flight. A bound that is reached closes the window: [`Window::has_room`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub messages_max: usize,
    /// Memory of batches that unacknowledged messages keep alive.
    pub bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { messages_max: limits::WINDOW_MESSAGES_MAX, bytes_max: limits::WINDOW_BYTES_MAX }
    }
}

/// How messages are sent to the session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sending<'a> {
    /// The queue they were chosen for.
    pub queue: Option<&'a QueueId>,
    /// 1 for the first delivery.
    pub attempt: u16,
    pub now_ms: u64,
}

/// Messages that left the window.
#[derive(Debug, Clone)]
pub struct Acked {
    pub batch: Arc<Batch>,
    /// Indexes of the messages in the batch; never empty.
    pub range: Range<u16>,
    pub queue: Option<QueueId>,
    pub attempt: u16,
    pub sent_ms: u64,
}

impl Acked {
    /// The first message, by which the origin worker finds the flight.
    pub fn first(&self) -> Option<MessageId> {
        self.batch.messages.get(usize::from(self.range.start)).map(|envelope| envelope.id)
    }

    pub fn messages(&self) -> u16 {
        self.range.end - self.range.start
    }
}

/// The ack covers something this session was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not in flight to this session")]
pub struct NotInFlight;

/// Who numbered a message: epoch and worker in one number.
pub(super) const fn origin(id: MessageId) -> u32 {
    (id.epoch() << 8) | id.worker() as u32
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The lanes of queues of one name: more than one of a queue while messages are in flight that have one id at several
/// addresses.
type OfName = SmallVec<[(QueueId, Lane); 1]>;

#[derive(Debug, Clone, Default)]
pub struct Window {
    bounds: Bounds,
    lanes: Map<Address, Lane>,
    /// By the queue's name and by who numbered the messages: one lane for each pattern with a queue of this name.
    queues: Map<(Name, u32), OfName>,
    /// How many of each there are when it is looked for idle ones.
    tidy_at: (usize, usize),
    ids: Option<Ids>,
    messages: usize,
    bytes: usize,
    /// What earlier connections of the session left, the latest first. A message is in one of all these at most.
    before: Vec<Self>,
}

impl Window {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Goes on from what the connections before this one left.
    pub fn go_on(&mut self, before: Vec<Self>) {
        self.before = before;
    }

    /// Whether `messages` of a batch of `bytes` may be sent. An empty window takes any one batch.
    pub const fn has_room(&self, messages: usize, bytes: usize) -> bool {
        self.messages == 0
            || (self.messages + messages <= self.bounds.messages_max
                && self.bytes + bytes <= self.bounds.bytes_max)
    }

    /// How many of these may be sent, one behind the other: each with its messages and the bytes of its batch.
    pub fn fits(&self, batches: impl IntoIterator<Item = (usize, usize)>) -> usize {
        let mut ahead =
            Self { bounds: self.bounds, messages: self.messages, bytes: self.bytes, ..Self::default() };
        let fit = |(messages, bytes)| {
            let has_room = messages == 0 || ahead.has_room(messages, bytes);
            (ahead.messages, ahead.bytes) = (ahead.messages + messages, ahead.bytes + bytes);
            has_room
        };
        batches.into_iter().map(fit).take_while(|has_room| *has_room).count()
    }

    /// Whether a window that was full is worth filling again: half of it is free, and there is room for a batch of
    /// `bytes`.
    pub const fn is_half_free(&self, bytes: usize) -> bool {
        self.messages == 0
            || self.messages <= self.bounds.messages_max / 2
                && self.bytes <= self.bounds.bytes_max / 2
                && self.has_room(1, bytes)
    }

    /// Notes that messages of `batch` are on their way to the session. `range` must lie within the batch.
    pub fn sent(&mut self, batch: &Arc<Batch>, range: Range<u16>, sending: Sending<'_>) {
        let Some(first) = batch.messages.get(usize::from(range.start)) else { return };
        if range.is_empty() || usize::from(range.end) > batch.messages.len() {
            return;
        }
        let position = batch.position(usize::from(range.start));
        let key = match sending.queue {
            None => (position.stream.epoch, position.offset),
            Some(_) => (0, first.id.count()),
        };
        let run = Run {
            key,
            batch: batch.clone(),
            range,
            attempt: sending.attempt,
            sent_ms: sending.now_ms,
            turn: 0,
            is_late: false,
        };
        let sent = (origin(first.id), first.id.count(), run.len());
        let lane = match sending.queue {
            None => lane((&mut self.lanes, &mut self.tidy_at.0), &batch.to),
            Some(queue) => {
                queue_lane((&mut self.queues, &mut self.tidy_at.1), queue, (sent.0, key, &batch.to))
            }
        };
        lane.shard = position.stream.shard;
        let before = (lane.messages, lane.bytes);
        lane.insert(run);
        self.messages = self.messages + lane.messages - before.0;
        self.bytes = self.bytes + lane.bytes - before.1;
        if sending.queue.is_some() {
            return;
        }
        if self.ids.is_some() {
            self.index(sent, &batch.to, key);
        }
        let last_offset = position.offset + u64::from(sent.2 - 1);
        self.before.retain_mut(|before| {
            before.lose(&batch.to, position, last_offset, &mut Vec::new());
            !before.is_empty()
        });
    }

    /// Acknowledges everything this session was sent for `to` outside queues, up to and with `upto`. Repeating it
    /// changes nothing. A message that was sent out of order (a repeat that was not in flight any more) is covered
    /// if `upto` is its own position or names a message sent behind it: an ack that was under way when the repeat
    /// was sent does not mean that.
    pub fn ack_upto(
        &mut self,
        to: &Address,
        upto: Position,
        out: &mut Vec<Acked>,
    ) -> Result<(), NotInFlight> {
        // Whatever this connection was sent of before that message came behind it: the ack says nothing of it.
        if let Some(before) = self.before.iter_mut().find(|before| before.holds(to, upto)) {
            before.ack_before(to, upto, out);
            return Ok(());
        }
        let lane = self.lanes.get(to).ok_or(NotInFlight)?;
        if lane.shard != upto.stream.shard || !lane.was_sent((upto.stream.epoch, upto.offset)) {
            return Err(NotInFlight);
        }
        self.ack_before(to, upto, out);
        Ok(())
    }

    /// As [`Self::ack_upto`], where `upto` is known to be of a message that was sent but is not tracked.
    pub fn ack_before(&mut self, to: &Address, upto: Position, out: &mut Vec<Acked>) {
        let key = (upto.stream.epoch, upto.offset);
        let Some(lane) = self.lanes.get_mut(to).filter(|lane| lane.shard == upto.stream.shard) else {
            return;
        };
        let before = (lane.messages, lane.bytes);
        let turn = lane.turn_of(key);
        while let Some(run) = lane.pop_upto(key, turn) {
            out.push(acked(run, None));
        }
        self.messages -= before.0 - lane.messages;
        self.bytes -= before.1 - lane.bytes;
    }

    /// Acknowledges single messages, plain ones or those of all queues with this name. Gives how many were not in
    /// flight.
    pub fn ack_ids(&mut self, ids: &[MessageId], queue: Option<&Name>, out: &mut Vec<Acked>) -> usize {
        let is_missing = |id: &&MessageId| {
            let mut is_taken = self.take(**id, queue, out);
            for before in self.before.iter_mut().filter(|_| queue.is_none()) {
                is_taken |= before.take_plain(**id, out);
            }
            !is_taken
        };
        ids.iter().filter(is_missing).count()
    }

    /// Takes a message back that the session refused, plain or of all queues with this name. False when it was not in
    /// flight.
    pub fn nack(&mut self, id: MessageId, queue: Option<&Name>, out: &mut Vec<Acked>) -> bool {
        self.take(id, queue, out)
    }

    /// Takes messages of `to` outside queues back that were dropped before they reached the session: `first` and
    /// those behind it, up to and with `last_offset`, as far as they are in flight.
    pub fn lose(&mut self, to: &Address, first: Position, last_offset: u64, out: &mut Vec<Acked>) {
        let Some(lane) = self.lanes.get_mut(to).filter(|lane| lane.shard == first.stream.shard) else {
            return;
        };
        let before = (lane.messages, lane.bytes);
        let (mut lost, epoch) = (Vec::new(), first.stream.epoch);
        lane.lose((epoch, first.offset), (epoch, last_offset.saturating_add(1)), &mut lost);
        // Taking out the middle of a run may charge its batch twice.
        self.messages = self.messages + lane.messages - before.0;
        self.bytes = self.bytes + lane.bytes - before.1;
        out.extend(lost.into_iter().map(|run| acked(run, None)));
    }

    /// Takes a message of `to` that a queue gave back, which was dropped before it reached the session.
    pub fn lose_of_queue(&mut self, id: MessageId, queue: &QueueId, to: &Address) -> Option<Acked> {
        let lanes = self.queues.get_mut(&(queue.name().clone(), origin(id)))?;
        let has = |lane: &Lane| lane.find((0, id.count())).is_some_and(|run| run.batch.to == *to);
        let (_, lane) = lanes.iter_mut().find(|(of, lane)| of == queue && has(lane))?;
        let run = take_of_queue(lane, id, (&mut self.messages, &mut self.bytes))?;
        Some(acked(run, Some(queue)))
    }

    /// What the session can acknowledge in its next connection: what is in flight outside queues, and what earlier connections
    /// left, as far as [`limits::WINDOW_LEFT_BYTES_MAX`] has room for it without the payloads.
    pub fn left(&self) -> Vec<Self> {
        let mut room_bytes = limits::WINDOW_LEFT_BYTES_MAX;
        let windows = [self].into_iter().chain(&self.before);
        let left = windows.map(|window| window.copy(&mut room_bytes)).filter(|left| !left.is_empty());
        left.take(limits::WINDOW_LEFT_CONNECTIONS_MAX).collect()
    }

    /// What is in flight outside queues, in the order in which each address was sent it, as far as there is room.
    fn copy(&self, room_bytes: &mut usize) -> Self {
        let mut copy = Self::new(self.bounds);
        let mut runs: Vec<_> = self.lanes.values().flat_map(Lane::runs).collect();
        runs.sort_by_key(|run| run.turn);
        for run in runs {
            let batch = run.batch.without_payloads(run.range.start.into()..run.range.end.into());
            let Some(rest_bytes) = room_bytes.checked_sub(batch.size_bytes()) else { break };
            *room_bytes = rest_bytes;
            let sending = Sending { queue: None, attempt: run.attempt, now_ms: run.sent_ms };
            copy.sent(&Arc::new(batch), 0..run.len(), sending);
        }
        copy
    }

    /// Everything in flight, plain messages first, in the order of the addresses: the connection is lost. The
    /// window is empty afterwards, but for what it has left.
    pub fn drain(&mut self) -> impl Iterator<Item = Acked> + use<> {
        let empty = Self { before: self.left(), ..Self::new(self.bounds) };
        let Self { lanes, queues, .. } = std::mem::replace(self, empty);
        let plain = sorted(lanes).flat_map(|(_, lane)| lane.into_runs().map(|run| acked(run, None)));
        let queues = sorted(queues).flat_map(|(_, lanes)| lanes);
        plain
            .chain(queues.flat_map(|(queue, lane)| lane.into_runs().map(move |run| acked(run, Some(&queue)))))
    }

    /// Messages in flight.
    pub const fn len(&self) -> usize {
        self.messages
    }

    pub const fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Memory charged.
    pub const fn pinned_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the message at this position of an address is in flight outside queues.
    pub fn holds(&self, to: &Address, position: Position) -> bool {
        let lane = self.lanes.get(to).filter(|lane| lane.shard == position.stream.shard);
        lane.is_some_and(|lane| lane.find((position.stream.epoch, position.offset)).is_some())
    }

    /// Whether a message of a queue is in flight that has the id of this one and another address: a policy may give a
    /// message several, and an ack could not tell them apart.
    pub fn has_elsewhere(&self, batch: &Batch, queue: &QueueId) -> bool {
        let Some(id) = batch.messages.first().map(|envelope| envelope.id) else { return false };
        let lanes = self.queues.get(&(queue.name().clone(), origin(id)));
        let is_elsewhere =
            |lane: &Lane| lane.find((0, id.count())).is_some_and(|run| run.batch.to != batch.to);
        lanes.is_some_and(|lanes| lanes.iter().any(|(of, lane)| of == queue && is_elsewhere(lane)))
    }

    /// The addresses at which a message is in flight in any way, with when it was sent and the number of the attempt. Looks at all
    /// runs: for the ledger, not for the message path.
    pub fn find(&self, id: MessageId) -> impl Iterator<Item = (&Address, u64, u16)> {
        let queues = self.queues.values().flatten().map(|(_, lane)| lane);
        let runs = self.lanes.values().chain(queues).flat_map(Lane::runs);
        let runs = runs.filter(move |run| index_of(run, id).is_some());
        runs.map(|run| (&run.batch.to, run.sent_ms, run.attempt))
    }

    /// Takes a message out of flight; false when it is not.
    fn take(&mut self, id: MessageId, queue: Option<&Name>, out: &mut Vec<Acked>) -> bool {
        let Some(name) = queue else { return self.take_plain(id, out) };
        let Some(lanes) = self.queues.get_mut(&(name.clone(), origin(id))) else { return false };
        let mut is_taken = false;
        for (queue, lane) in lanes {
            if let Some(run) = take_of_queue(lane, id, (&mut self.messages, &mut self.bytes)) {
                push(out, run, Some(queue));
                is_taken = true;
            }
        }
        is_taken
    }

    fn take_plain(&mut self, id: MessageId, out: &mut Vec<Acked>) -> bool {
        let Self { lanes, ids, messages, bytes, .. } = self;
        let Some((count, sent)) = covering(ids.get_or_insert_with(|| index(lanes)), id) else { return false };
        let mut is_taken = false;
        for sent in sent {
            let key = (sent.key.0, sent.key.1 + (id.count() - count));
            // Counts alone could be forged.
            let has = |lane: &&mut Lane| lane.find(key).is_some_and(|run| index_of(run, id).is_some());
            let Some(lane) = lanes.get_mut(&sent.to).filter(has) else { continue };
            let before = lane.bytes;
            let Some(run) = lane.take(key) else { continue };
            *messages -= 1;
            *bytes = *bytes + lane.bytes - before;
            push(out, run, None);
            is_taken = true;
        }
        is_taken
    }

    /// Adds what was sent to the index, which is made anew when half of it may be of the past, or when the
    /// messages are known in another order.
    fn index(&mut self, (origin, count, messages): (u32, u64, u16), to: &Address, key: Key) {
        let Some(ids) = &mut self.ids else { return };
        let end = count + u64::from(messages);
        let is_of = |sent: &&Sent| sent.to == *to;
        let before = ids.range(..(origin, end)).next_back().filter(|(known, _)| known.0 == origin);
        let before = before.and_then(|((_, start), sent)| Some((*start, sent.iter().find(is_of)?.messages)));
        match before {
            Some((start, known)) if start + u64::from(known) > count => {
                if start > count || start + u64::from(known) < end {
                    self.ids = Some(index(&self.lanes));
                }
            }
            _ if ids.len() > 2 * self.messages + 64 => self.ids = Some(index(&self.lanes)),
            _ => ids.entry((origin, count)).or_default().push(Sent { to: to.clone(), key, messages }),
        }
    }
}

/// Lets idle ones go when there are many, once as many have come as were left the last time.
fn tidy<K, V>((known, tidy_at): (&mut Map<K, V>, &mut usize), is_idle: impl Fn(&V) -> bool) {
    if known.len() >= (*tidy_at).max(limits::WINDOW_IDLE_LANES_MAX) {
        known.retain(|_, of| !is_idle(of));
        *tidy_at = 2 * known.len();
    }
}

/// The lane of `key`; a new one may let others go.
fn lane<'a>((lanes, tidy_at): (&'a mut Map<Address, Lane>, &mut usize), key: &Address) -> &'a mut Lane {
    if !lanes.contains_key(key) {
        tidy((lanes, tidy_at), Lane::is_idle);
    }
    lanes.entry_ref(key).or_default()
}

/// The lane of a queue for messages of one origin, as above, in which there is no other address's message with this key.
fn queue_lane<'a>(
    (queues, tidy_at): (&'a mut Map<(Name, u32), OfName>, &mut usize),
    queue: &QueueId,
    (origin, at, to): (u32, Key, &Address),
) -> &'a mut Lane {
    let key = (queue.name().clone(), origin);
    if !queues.contains_key(&key) {
        tidy((queues, tidy_at), |lanes| lanes.iter().all(|(_, lane)| lane.is_idle()));
    }
    let lanes = queues.entry(key).or_default();
    let fits = |lane: &Lane| lane.find(at).is_none_or(|run| run.batch.to == *to);
    let index = match lanes.iter().position(|(of, lane)| of == queue && fits(lane)) {
        Some(index) => index,
        None => {
            lanes.retain(|(_, lane)| !lane.is_idle());
            lanes.push((queue.clone(), Lane::default()));
            lanes.len() - 1
        }
    };
    #[expect(clippy::indexing_slicing, reason = "found or pushed right above")]
    &mut lanes[index].1
}

/// Takes a message of a queue out of its lane; `of` are the window's messages and bytes.
fn take_of_queue(lane: &mut Lane, id: MessageId, of: (&mut usize, &mut usize)) -> Option<Run> {
    let key = (0, id.count());
    // Counts alone could be forged.
    index_of(lane.find(key)?, id)?;
    let before = lane.bytes;
    let run = lane.take(key)?;
    *of.0 -= 1;
    *of.1 = *of.1 + lane.bytes - before;
    Some(run)
}

/// Adds what was taken; to the last one, if it goes on where that ends.
fn push(out: &mut Vec<Acked>, run: Run, queue: Option<&QueueId>) {
    match out.last_mut() {
        Some(last) if continues(last, &run, queue) => last.range.end = run.range.end,
        _ => out.push(acked(run, queue)),
    }
}

fn sorted<K: Ord, V>(lanes: Map<K, V>) -> impl Iterator<Item = (K, V)> {
    let mut lanes: Vec<_> = lanes.into_iter().collect();
    lanes.sort_by(|a, b| a.0.cmp(&b.0));
    lanes.into_iter()
}

/// Which message of the batch `id` is, when the run holds it.
fn index_of(run: &Run, id: MessageId) -> Option<u16> {
    let first = run.batch.messages.first()?.id.count();
    let index = u16::try_from(id.count().checked_sub(first)?).ok()?;
    let envelope = run.batch.messages.get(usize::from(index))?;
    (run.range.contains(&index) && envelope.id == id).then_some(index)
}

fn acked(run: Run, queue: Option<&QueueId>) -> Acked {
    let Run { batch, range, attempt, sent_ms, .. } = run;
    Acked { batch, range, queue: queue.cloned(), attempt, sent_ms }
}

/// Whether `run` goes on where `last` ends, so that both are one.
fn continues(last: &Acked, run: &Run, queue: Option<&QueueId>) -> bool {
    Arc::ptr_eq(&last.batch, &run.batch)
        && last.range.end == run.range.start
        && (last.attempt, last.sent_ms) == (run.attempt, run.sent_ms)
        && last.queue.as_ref() == queue
}

#[cfg(test)]
mod tests;
