//! Leaving service: every session is told to go, finishes what is in flight, and is closed; what nobody acknowledges until
//! then is kept.
//!
//! | a session | is closed |
//! | --- | --- |
//! | has nothing in flight, waits for no receipt and is owed no byte | with its `goaway`, or as soon as that is so |
//! | anything else | at the end of the drain time, behind the answers to all it published |
//!
//! Recipients that have no session get no other here: what waits for them ends at once, and so does the wait of its
//! publishers. Where the store can have it for the recipient's next session, it does; else it becomes a dead letter
//! with the cause `stopped`. Not here: accepting ([`super::tasks`]), and what an end means ([`super::tracking`]).

use super::connection::Connection;
use super::counters::Ended;
use super::events::retry;
use super::link;
use super::receipts::INTERNAL;
use super::tasks::Cell;
use super::{Shared, Worker};
use hashbrown::HashSet;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::Instant;
use waspmq_core::delivery::{Recipient, Share, Stopping, Turn};
use waspmq_core::message::Batch;
use waspmq_core::settings::Keep;
use waspmq_core::{Close, Code, Kind, Reject, SessionId};
use waspmq_protocol::server;

/// How often a draining worker looks which sessions have finished, and whether its last connection is gone.
const POLL: Duration = Duration::from_millis(5);
/// How often it looks for what waits for recipients that are gone.
const AWAY_EVERY: Duration = Duration::from_millis(50);
/// From one connection that is told to the next, while the time is there: clients that come back at this pace are no
/// load for the next broker, and a stop waits no longer for idle ones.
const TOLD_EVERY: Duration = Duration::from_millis(2);
/// Connections told before others run.
const TOLD_PER_TURN: usize = 256;
/// What is ended before others run. Every worker does so while the journal has room, of which it keeps 32 MiB behind that
/// for what is pushed at once.
const PER_TURN: Share = Share { deliveries: 4_096, bytes: 1024 * 1024 };
/// How often a worker without connections looks whether everything is saved that queues' members acknowledged, and
/// whether the journal has room for what is kept.
const LOOKS_MAX: u32 = 100;

/// How long a drain takes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    /// Over how long the sessions are told at most, evenly: few are told at once, see [`TOLD_EVERY`].
    pub(crate) spread: Duration,
    /// When those that have not finished are closed.
    pub(crate) most: Duration,
}

/// Sends every session away and waits until the last connection is gone.
pub(super) async fn drain_connections(worker: &Cell) {
    let Span { spread, most } = worker.borrow().drain_span;
    let numbers: Vec<u32> =
        worker.borrow().connections.iter().filter_map(|(number, _)| u32::try_from(number).ok()).collect();
    let started = Instant::now();
    let (count, mut next, mut told) = (numbers.len().max(1), 0, Vec::new());
    let spread = paced(spread, count);
    let part = |span: Duration, index: usize| {
        u64::try_from(span.as_micros() * index as u128 / count as u128).map_or(span, Duration::from_micros)
    };
    let (mut away_due, mut away_from) = (started, 0);
    loop {
        let now = Instant::now();
        if now >= started + most {
            break;
        }
        let due = numbers.iter().enumerate().skip(next).take(TOLD_PER_TURN);
        let due: Vec<_> = due.take_while(|(index, _)| started + part(spread, *index) <= now).collect();
        if now >= away_due {
            let more = worker.borrow_mut().stop_for_those_away(away_from);
            (away_from, away_due) = more.map_or((0, now + AWAY_EVERY), |from| (from, now));
        }
        next += due.len();
        for &(index, &number) in &due {
            // Clients come back spread over a second, or the next broker has them all at once.
            let wait = Duration::from_millis(500) + part(Duration::from_secs(1), index);
            worker.borrow_mut().say_goaway(number, u32::try_from(wait.as_millis()).unwrap_or(1_500));
            told.push(number);
        }
        worker.borrow_mut().close_finished(&mut told);
        if next == numbers.len() && is_empty(worker) {
            return;
        }
        match due.len() {
            TOLD_PER_TURN => yield_now().await,
            _ => tokio::time::sleep(POLL).await,
        }
    }
    for &number in numbers.iter().skip(next) {
        worker.borrow_mut().say_goaway(number, 1_500);
    }
    stop_deliveries(worker).await;
    let left: Vec<u32> = {
        let worker = worker.borrow();
        worker.connections.iter().filter_map(|(number, _)| u32::try_from(number).ok()).collect()
    };
    for numbers in left.chunks(TOLD_PER_TURN) {
        worker.borrow_mut().close_drained(numbers);
        yield_now().await;
    }
    while !is_empty(worker) {
        tokio::time::sleep(POLL).await;
    }
}

/// Over how long so many connections are told.
fn paced(most: Duration, count: usize) -> Duration {
    let needed = u32::try_from(count).ok().and_then(|count| TOLD_EVERY.checked_mul(count));
    needed.map_or(most, |needed| needed.min(most))
}

fn is_empty(worker: &Cell) -> bool {
    worker.borrow().connections.is_empty() && link::finishing() == 0
}

/// Waits for the last sessions of the other workers, whose acknowledgements may be for queues that have their home here, and
/// saves how far these are, and changes of membership that the journal had no room for.
pub(super) async fn drain_acks(worker: &Cell) {
    let shared = worker.borrow().shared.clone();
    while shared.mailboxes.iter().any(|mailbox| mailbox.counters.connections.load() > 0) {
        tokio::time::sleep(POLL).await;
    }
    // The turn in which a connection ends is over a moment later, and the store may have to be asked.
    for _ in 0..LOOKS_MAX {
        tokio::time::sleep(POLL).await;
        while worker.borrow_mut().take_mail() {
            yield_now().await;
        }
        worker.borrow_mut().save_moved();
        let has_saved = worker.borrow_mut().save_memberships();
        if has_saved && !worker.borrow().has_unsaved_queues() {
            return;
        }
    }
    tracing::warn!(
        "not everything could be saved: messages of queues may be given out again, ended memberships may come back"
    );
}

/// Ends everything that publishers of this worker wait for, as fast as the journal takes what is kept of it. Only one that
/// stands still is not waited for any more.
pub(super) async fn stop_deliveries(worker: &Cell) {
    let shared = worker.borrow().shared.clone();
    // What sessions of other workers have acknowledged may not be taken yet.
    let mut looks = 0;
    while worker.borrow_mut().take_mail() && looks < LOOKS_MAX {
        looks += 1;
        yield_now().await;
    }
    looks = 0;
    loop {
        while !shared.journal.has_room() && looks < LOOKS_MAX {
            looks += 1;
            tokio::time::sleep(POLL).await;
        }
        if shared.journal.has_room() {
            looks = 0;
        }
        if worker.borrow_mut().stop_flights(&|_| true, 0).is_none() {
            return;
        }
        yield_now().await;
    }
}

impl Worker {
    /// Tells one connection to go. Who has no session is closed behind what it is owed.
    fn say_goaway(&mut self, number: u32, reconnect_ms: u32) {
        let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        if connection.has_asked() {
            // A session has its frames; it is told so, and that is the last.
            connection.end_behind_answer();
        } else if connection.session_id.is_some() && !connection.is_closing() {
            connection.session.handle_drain();
            let goaway = server::Goaway { reason: "drain".to_owned(), reconnect_ms };
            self.send(&mut connection, &server::Frame::Goaway(goaway));
            if connection.events().is_some() {
                self.outbox.push_own(&mut connection, &retry(reconnect_ms));
            }
        } else {
            self.end_drained(&mut connection);
        }
        self.put_back(number, connection);
        self.settle();
    }

    /// Closes those of the connections that have finished, and forgets them.
    fn close_finished(&mut self, told: &mut Vec<u32>) {
        if told.is_empty() {
            return;
        }
        let waiting = self.receipts.askers(self.tracker.is_waited_for(INTERNAL));
        let finished: Vec<u32> = told.extract_if(.., |number| self.has_finished(*number, &waiting)).collect();
        self.close_drained(&finished);
    }

    /// Whether nothing is in flight to a connection and nothing is owed to it. One that is gone has finished.
    fn has_finished(&self, number: u32, waiting: &HashSet<SessionId>) -> bool {
        let Some(Some(connection)) = self.connections.get(number as usize) else { return true };
        let is_told = |asker| self.tracker.is_waited_for(asker) || waiting.contains(&asker);
        connection.is_closing()
            || !connection.has_asked()
                && connection.window.is_empty()
                && !connection.owes_something()
                && connection.held.is_none()
                && !connection.asker.is_some_and(is_told)
    }

    /// Closes connections behind the answers to what their sessions published.
    fn close_drained(&mut self, numbers: &[u32]) {
        let asker = |number: &u32| self.connections.get(*number as usize)?.as_ref()?.asker;
        let askers = numbers.iter().filter_map(asker).collect();
        let mut unanswered = self.receipts.take_references(&askers);
        for &number in numbers {
            let Some(mut connection) = self.connections.get_mut(number as usize).and_then(Option::take)
            else {
                continue;
            };
            let references = connection.asker.and_then(|asker| unanswered.remove(&asker));
            for reference in references.into_iter().flatten() {
                let reject =
                    Reject::new(Code::Draining, "the broker left service before the message had its level");
                self.refuse(&mut connection, Some(reference), reject.retry_after(1_000));
            }
            self.end_drained(&mut connection);
            self.put_back(number, connection);
            self.settle();
        }
    }

    fn end_drained(&mut self, connection: &mut Connection) {
        let close = Close::Draining;
        self.close_with(connection, (close.number(), close.name()), Ended::Drained);
    }

    /// Ends a share of what waits for recipients that have no session: who left does not come back here. Gives where there
    /// is more.
    fn stop_for_those_away(&mut self, from: u64) -> Option<u64> {
        if !self.shared.journal.has_room() {
            return Some(from);
        }
        let registry = self.shared.registry.clone();
        let is_away = |recipient: &Recipient| match recipient {
            Recipient::User(user) => !registry.is_online(user),
            Recipient::Queue(queue) => registry.queue(queue).is_none(),
        };
        self.stop_flights(&is_away, from)
    }

    /// Ends a share of the deliveries as far as their recipients are named, beginning with the message of this count; gives
    /// where there are more.
    fn stop_flights(&mut self, is_over: &dyn Fn(&Recipient) -> bool, from: u64) -> Option<u64> {
        if self.tracker.stats().deliveries == 0 {
            return None;
        }
        let now_ms = self.shared.clock.now_us() / 1_000;
        let shared = self.shared.clone();
        let is_kept = |batch: &Batch, recipient: &Recipient| is_kept_for(&shared, batch, recipient);
        let Self { tracker, policies, events, .. } = self;
        let turn = &mut Turn { now_ms, acking: policies, out: events };
        let stopping = Stopping { is_over, is_kept: &is_kept };
        let more = tracker.handle_stop(&stopping, (from, PER_TURN), turn);
        self.settle();
        more
    }
}

/// Whether the recipient's next session, or the queue's next member, reads the messages from the store. A topic, and `all`, is only
/// read by a session that goes on.
fn is_kept_for(shared: &Shared, batch: &Batch, recipient: &Recipient) -> bool {
    match (recipient, batch.to.kind()) {
        (_, Kind::User) => batch.is_kept || shared.rules.of(&batch.to).keep != Keep::Never,
        (Recipient::Queue(_), _) | (_, Kind::Group) => batch.is_kept,
        (Recipient::User(user), _) => {
            let goes_on = || {
                shared.resumes.is_on() && shared.registry.is_online(user)
                    || shared.resumes.reads_later(&batch.to, shared.clock.now().unix_ms)
            };
            batch.is_kept && goes_on()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::alone::tests::worker;
    use super::super::delivery::tests::Bench;
    use super::super::mailbox::Entry;
    use super::*;
    use std::sync::Arc;
    use waspmq_core::delivery::{AckPlan, Cause, Flight, References, State};
    use waspmq_core::settings::Overflow;
    use waspmq_core::{Address, Level, Name, Position, Stream};

    #[test]
    fn idle_clients_do_not_hold_a_stop() {
        let half = Duration::from_secs(5);
        assert_eq!(paced(half, 20), Duration::from_millis(40));
        assert_eq!(paced(half, 100_000), half, "crowds are spread over the time there is");
        assert_eq!(paced(half, usize::MAX), half);
        assert_eq!(paced(Duration::ZERO, 20), Duration::ZERO);
    }

    /// Workers come to the end of a drain one behind the other: what the first closes is in flight for the publishers of the next.
    #[test]
    fn the_close_that_ends_a_drain_is_no_attempt() {
        let mut bench = Bench::new(Overflow::DropOldest, Keep::Requested);
        let (number, _client) = bench.connect();
        let batch = Arc::new(bench.batch("user/reader", Level::Delivered, &[("", 0, 0)]));
        let id = batch.messages[0].id;
        let worker = &mut bench.worker;
        worker.begin_flight(Flight {
            batch: batch.clone(),
            recipients: [Recipient::User(Name::parse("reader").unwrap())].into(),
            offline: Vec::new(),
            plan: AckPlan { attempts: 1, ..AckPlan::default() },
            publisher: None,
            references: References::default(),
        });
        let entry = Entry::Deliver { batch, plain: true, queues: Vec::new() };
        worker.shared.mailboxes.send(0, entry).unwrap();
        worker.take_mail();
        let fate = |worker: &Worker| {
            let row = worker.tracker.entries(id)[0].recipients.remove(0);
            (row.state, row.cause, row.attempts)
        };
        assert!(!bench.connection(number).window.is_empty());
        bench.worker.close_drained(&[number]);
        assert!(bench.connection(number).window.is_empty());
        assert_eq!(fate(&bench.worker), (State::Sent, None, 1));
        bench.worker.stop_flights(&|_| true, 0);
        assert_eq!(fate(&bench.worker), (State::Stored, Some(Cause::Stopped), 1));
    }

    #[test]
    fn a_topic_is_left_to_the_store_only_for_sessions_that_go_on() {
        let (worker, _) = worker();
        let bob = Recipient::User(Name::parse("bob").unwrap());
        let is_kept = |to: &str, is_kept: bool| {
            let batch = Batch {
                to: Address::parse(to).unwrap(),
                from: None,
                origin: None,
                exclude_origin: false,
                level: Level::Delivered,
                is_kept,
                unix_ms: 0,
                published_us: 0,
                first: Position { stream: Stream { shard: 0, epoch: 1 }, offset: 1 },
                messages: Vec::new(),
                bytes: Vec::new(),
            };
            is_kept_for(&worker.shared, &batch, &bob)
        };
        assert!(is_kept("user/bob", false) && is_kept("group/eng", true));
        assert!(!is_kept("group/eng", false));
        assert!(!is_kept("topic/a", true) && !is_kept("all", true), "nobody is there who reads it later");
    }
}
