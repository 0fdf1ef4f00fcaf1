//! Nanoseconds per message of tracking: window and tracker together, for batches of several sizes.
//!
//! `cargo run --release -p waspmq-core --example delivery_cost`. Each batch is sent, acknowledged cumulatively and
//! told to its publisher, with 64 batches in flight. The last lines acknowledge by id, and one message at a time.
//! What counts is the time this thread had the processor, so that a busy machine does not matter much.

#![expect(clippy::print_stdout, reason = "prints its results")]

use smallvec::smallvec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use waspmq_core::delivery::{
    AckPlan, Acked, Bounds, Flight, Recipient, References, Report, Sending, Tracker, Turn, Window, window,
};
use waspmq_core::message::{Batch, Envelope, Slice};
use waspmq_core::policy::BySettings;
use waspmq_core::{Address, Level, MessageId, Name, Position, SessionId, Stream};

const MESSAGES: u64 = 4_000_000;
const IN_FLIGHT: usize = 64;

fn main() {
    for (size, acks) in [
        (512, Acks::Upto),
        (64, Acks::Upto),
        (8, Acks::Upto),
        (1, Acks::Upto),
        (64, Acks::Ids),
        (64, Acks::Each),
    ] {
        let (batches, count) = batches(size);
        let (elapsed, reached) = run(&batches, acks);
        assert_eq!(reached, count, "every message is told");
        let nanos = elapsed.as_nanos() / u128::from(count);
        println!("{size:>4} messages a batch, {acks:?}: {nanos} ns per message");
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Acks {
    Upto,
    Ids,
    Each,
}

/// Batches made beforehand, as publishing makes them anyway.
fn batches(size: u64) -> (Vec<Arc<Batch>>, u64) {
    let to = Address::all();
    let batches = MESSAGES / size / 8;
    let made = (0..batches).map(|batch| {
        let first = batch * size;
        let envelope = |index| Envelope {
            id: MessageId::new(1, 1, 0, first + index),
            is_json: true,
            priority: 0,
            expires_unix_ms: 0,
            payload: Slice::default(),
            headers: Slice::default(),
            key: Slice::default(),
            reply_to: Slice::default(),
        };
        Arc::new(Batch {
            to: to.clone(),
            from: None,
            origin: None,
            exclude_origin: false,
            level: Level::Delivered,
            is_kept: true,
            unix_ms: 1,
            published_us: 1_000,
            first: Position { stream: Stream { shard: 0, epoch: 1 }, offset: first },
            messages: (0..size).map(envelope).collect(),
            bytes: Vec::new(),
        })
    });
    (made.collect(), batches * size)
}

fn run(batches: &[Arc<Batch>], acks: Acks) -> (Duration, u64) {
    let user = Recipient::User(name("bob"));
    let session = SessionId::new(1, 0, 1);
    let mut window = Window::new(window::Bounds { messages_max: usize::MAX, bytes_max: usize::MAX });
    let mut tracker = Tracker::new(Bounds::default(), 1);
    let (mut events, mut acked, mut sent, mut reached) = (Vec::new(), Vec::new(), VecDeque::new(), 0);
    let (start, mut now_ms) = (cpu_time(), 1);
    for (index, batch) in batches.iter().chain(std::iter::repeat_n(&batches[0], IN_FLIGHT)).enumerate() {
        if index % 16 == 0 {
            now_ms += 1;
            tracker.advance(&mut Turn { now_ms, acking: &mut BySettings, out: &mut events });
        }
        if index < batches.len() {
            let messages = u16::try_from(batch.messages.len()).unwrap_or(u16::MAX);
            let mut references = References::default();
            (0..messages)
                .for_each(|message| references.push(index as u64 * 512 + u64::from(message), message));
            let flight = Flight {
                batch: batch.clone(),
                recipients: smallvec![user.clone()],
                offline: Vec::new(),
                plan: AckPlan::default(),
                publisher: Some(session),
                references,
            };
            tracker.begin(flight, &mut Turn { now_ms, acking: &mut BySettings, out: &mut events });
            window.sent(batch, 0..messages, Sending { queue: None, attempt: 1, now_ms });
            sent.push_back(batch);
        }
        if index < IN_FLIGHT {
            continue;
        }
        let Some(batch) = sent.pop_front() else { break };
        ack(&mut window, batch, acks, &mut acked);
        for acked in acked.drain(..) {
            let report = Report {
                first: acked.first().unwrap_or(MessageId::new(0, 0, 0, 0)),
                messages: acked.messages(),
                to: &acked.batch.to,
                recipient: &user,
                device: None,
                session: Some(session),
                attempt: acked.attempt,
                sent_ms: acked.sent_ms,
            };
            tracker.handle_acked(&report, now_ms, &mut events);
        }
        for event in events.drain(..) {
            if let waspmq_core::delivery::Event::Reached { range, .. } = event {
                reached += range.len() as u64;
            }
        }
    }
    assert!(window.is_empty() && tracker.stats().timers == 0);
    (cpu_time().saturating_sub(start), reached)
}

fn ack(window: &mut Window, batch: &Batch, acks: Acks, out: &mut Vec<Acked>) {
    let ids = || batch.messages.iter().map(|envelope| envelope.id);
    match acks {
        Acks::Upto => {
            let upto = batch.position(batch.messages.len() - 1);
            assert_eq!(window.ack_upto(&batch.to, upto, out), Ok(()));
        }
        Acks::Ids => assert_eq!(window.ack_ids(&ids().collect::<Vec<_>>(), None, out), 0),
        // Every ack is reported by itself.
        Acks::Each => {
            for message in 0..batch.messages.len() {
                assert_eq!(window.ack_upto(&batch.to, batch.position(message), out), Ok(()));
            }
        }
    }
}

#[expect(clippy::expect_used, reason = "a constant")]
fn name(text: &str) -> Name {
    Name::parse(text).expect("a valid name")
}

/// Linux tells it in the first number of this file, in nanoseconds; elsewhere there is nothing to see.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}
