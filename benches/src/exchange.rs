//! The load generator for acknowledged messages: publishers with a window each, on one thread and one epoll
//! instance, and optionally a receiver for each of them.
//!
//! A message is outstanding until its receipt is there (where the dialect has receipts) and until its receiver has
//! it (where there are receivers): the slower of the two counts, so that no server has more than the window waiting.
//! The latency of a message ends with its receipt; where there is none, with its arrival.
//!
//! A run is set-up, warm-up, the measured interval and a drain, as in [`crate::load`]. A complaint of the server or
//! the end of a connection ends the run with an error: from then on its figures mean nothing.

mod flow;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::conn::{Conn, Gone};
use crate::latency::{Recorder, Summary};
use crate::load::nanoseconds;
use crate::poll::{self, Event, Poller};
use crate::process::{self, Cpu};
use crate::sample::{Faults, Mark, Sample};
use crate::talk::{Dialect, Heard};
use flow::Flow;

/// No progress for this long ends the run.
const STALL: Duration = Duration::from_secs(10);

/// The longest that a server may refuse everything for want of room.
const REFUSED_MAX: Duration = Duration::from_secs(120);

/// The most a drain waits for messages under way.
const DRAIN: Duration = Duration::from_secs(5);

/// The longest wait for events, so that the ends of intervals are seen.
const TICK: Duration = Duration::from_millis(20);

/// How often every connection says that it lives, well below the broker's heartbeat.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// The longest that a run goes on for the sake of `bytes_min`.
const RUN_MAX: Duration = Duration::from_secs(600);

/// Who exchanges what with whom.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) dialect: Dialect,
    pub(crate) port: u16,
    /// Process whose CPU time is measured.
    pub(crate) pid: u32,
    /// Addresses of each publisher, which it publishes to in turn.
    pub(crate) addresses: Vec<Vec<String>>,
    /// Whether each publisher has a receiver, of the dialect's address with its number.
    pub(crate) receivers: bool,
    pub(crate) window: u16,
    /// A publisher publishes again when at most so many of its messages are outstanding.
    pub(crate) refill_at: u16,
    pub(crate) payload_bytes: usize,
}

impl Plan {
    /// Messages of a flow that are not done in every way that is waited for.
    fn outstanding(&self, flow: &Flow) -> u64 {
        let receipts = if self.dialect.has_receipts() { flow.receipts } else { flow.sent };
        let received = if self.receivers { flow.received } else { flow.sent };
        flow.sent - receipts.min(received).min(flow.sent)
    }
}

/// For how long a run is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interval {
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
    /// Bytes of payload that are acknowledged in the measured interval at least, however long that takes.
    pub(crate) bytes_min: u64,
}

/// A sample in which a delivery is a message that is no longer outstanding.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) sample: Sample,
    /// Messages that came again and said so.
    pub(crate) redelivered: u64,
    /// Acks of what was not in flight any more.
    pub(crate) late_acks: u64,
}

/// Runs a plan against a server that is up; `at_ends` is called at both ends of the measured interval.
///
/// # Errors
/// When set-up fails, the server complains, closes a connection or stops answering.
pub(crate) fn run(
    plan: &Plan,
    interval: Interval,
    mut at_ends: impl FnMut() -> Result<()>,
) -> Result<Outcome> {
    let mut exchange = Exchange::set_up(plan, u64::MAX)?;
    let begin_ns = exchange.now_ns() + nanoseconds(interval.warm_up);
    exchange.recorder.measure(begin_ns..u64::MAX);
    exchange.pump(|exchange| exchange.now_ns() >= begin_ns)?;
    at_ends()?;
    let begin = exchange.mark()?;
    let (end_ns, latest_ns) = (begin.ns + nanoseconds(interval.measure), begin.ns + nanoseconds(RUN_MAX));
    let done_min = begin.delivered + interval.bytes_min / plan.payload_bytes.max(1) as u64;
    exchange.pump(|exchange| {
        let now_ns = exchange.now_ns();
        (now_ns >= end_ns && exchange.done >= done_min) || now_ns >= latest_ns
    })?;
    let end = exchange.mark()?;
    at_ends()?;
    exchange.drain()?;
    let mut sample = Sample::between(&begin, &end, exchange.faults());
    sample.server_resident_bytes = process::resident_bytes(plan.pid)?;
    sample.latency = Some(exchange.recorder.summary());
    Ok(Outcome { sample, redelivered: exchange.redelivered, late_acks: exchange.late_acks })
}

/// What [`fill`] did.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) time: Duration,
    /// Messages published to each address of each publisher.
    pub(crate) counts: Vec<Vec<u64>>,
}

/// Publishes `count` messages per publisher and waits for all of them to be acknowledged. What the server has no room
/// for is published again when it says.
///
/// # Errors
/// As [`run`].
pub(crate) fn fill(plan: &Plan, count: u64) -> Result<Filled> {
    let mut exchange = Exchange::set_up(plan, count)?;
    exchange.refused = Some(Refused::default());
    let start = Instant::now();
    let all = count * plan.addresses.len() as u64;
    exchange.pump(|exchange| exchange.done >= all)?;
    let time = start.elapsed();
    Ok(Filled { time, counts: exchange.flows.into_iter().map(|flow| flow.counts).collect() })
}

impl Outcome {
    pub(crate) fn latency(&self) -> Summary {
        self.sample.latency.unwrap_or_default()
    }

    /// One line per sample while the run goes on; faults in full.
    pub(crate) fn progress(&self, subject: &str) {
        let (sample, latency) = (&self.sample, self.latency());
        eprintln!(
            "{subject:>14}: {:.3} us/message, {:.1}k/s, p50 {:.0} us, p99 {:.0} us, server {:.2} cores, generator \
             {:.3} us",
            sample.server_us_per_delivery,
            sample.deliveries_per_s / 1e3,
            latency.p50_us,
            latency.p99_us,
            sample.server_cores,
            sample.generator_us_per_delivery,
        );
        if !sample.is_clean() {
            let Faults { lost, duplicated, .. } = &sample.faults;
            eprintln!(
                "                not clean: {} messages, {lost} lost, {duplicated} duplicated",
                sample.deliveries
            );
        }
    }
}

struct Exchange<'a> {
    plan: &'a Plan,
    clock: Instant,
    poller: Poller,
    events: Vec<Event>,
    scratch: Vec<u8>,
    /// One publisher per flow first, then one receiver per flow if there are any.
    conns: Vec<Conn>,
    flows: Vec<Flow>,
    /// Flows that may publish.
    ready: Vec<usize>,
    slots: Vec<u16>,
    /// Messages that each flow publishes.
    quota: u64,
    recorder: Recorder,
    done: u64,
    strays: u64,
    redelivered: u64,
    late_acks: u64,
    complaint: Option<String>,
    /// Publishes for which there was no room, when set; otherwise these are complaints.
    refused: Option<Refused>,
    next_sign_ns: u64,
}

/// Publishes that are to be sent again.
#[derive(Debug, Default)]
struct Refused {
    /// By when they are due: flow and slot.
    due: BTreeSet<(u64, usize, u64)>,
    count: u64,
}

impl<'a> Exchange<'a> {
    fn set_up(plan: &'a Plan, quota: u64) -> Result<Self> {
        let poller = Poller::new()?;
        let (count, dialect) = (plan.addresses.len(), plan.dialect);
        let mut conns = Vec::with_capacity(count * 2);
        for i in 0..count {
            let (stream, rest) = dialect.publisher(plan.port, i)?;
            conns.push(Conn::new(&poller, conns.len(), stream, rest)?);
        }
        for i in 0..if plan.receivers { count } else { 0 } {
            let (stream, rest) = dialect.receiver(plan.port, i)?;
            conns.push(Conn::new(&poller, conns.len(), stream, rest)?);
        }
        let publishes = |(i, addresses): (usize, &Vec<String>)| {
            let of = |address: &String| dialect.publishes(i, address, plan.payload_bytes);
            Flow::new(addresses.iter().map(of).collect(), plan.window)
        };
        Ok(Self {
            plan,
            clock: Instant::now(),
            poller,
            events: Vec::new(),
            scratch: Vec::new(),
            conns,
            flows: plan.addresses.iter().enumerate().map(publishes).collect(),
            ready: (0..count).collect(),
            slots: Vec::new(),
            quota,
            recorder: Recorder::new()?,
            done: 0,
            strays: 0,
            redelivered: 0,
            late_acks: 0,
            complaint: None,
            refused: None,
            next_sign_ns: nanoseconds(SIGN_OF_LIFE),
        })
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.clock.elapsed())
    }

    /// Publishes and receives until `is_over`.
    fn pump(&mut self, is_over: impl Fn(&Self) -> bool) -> Result<()> {
        let refusals = |exchange: &Self| exchange.refused.as_ref().map_or(0, |refused| refused.count);
        let mut progress = (self.done, self.now_ns());
        let mut answer = (refusals(self), progress.1);
        while !is_over(self) {
            let now_ns = self.now_ns();
            if progress.0 != self.done {
                progress = (self.done, now_ns);
            }
            if answer.0 != refusals(self) {
                answer = (refusals(self), now_ns);
            }
            if now_ns - progress.1.max(answer.1) > nanoseconds(STALL) {
                bail!("{} messages are outstanding and nothing came for {STALL:?}", self.outstanding());
            }
            if now_ns - progress.1 > nanoseconds(REFUSED_MAX) {
                bail!("the server has had no room for {REFUSED_MAX:?}");
            }
            if now_ns >= self.next_sign_ns {
                self.next_sign_ns = now_ns + nanoseconds(SIGN_OF_LIFE);
                self.say_alive()?;
            }
            self.publish_again()?;
            self.publish()?;
            self.turn()?;
        }
        Ok(())
    }

    /// Publishes what was refused and is due.
    fn publish_again(&mut self) -> Result<()> {
        let now_ns = self.now_ns();
        let Some(refused) = &mut self.refused else { return Ok(()) };
        while let Some(&(due_ns, i, slot)) = refused.due.first()
            && due_ns <= now_ns
        {
            refused.due.pop_first();
            self.conns[i].push(self.flows[i].frame_again(slot));
            self.conns[i].flush(&self.poller).map_err(|gone| over(i, &gone))?;
        }
        Ok(())
    }

    /// Receives until nothing is outstanding, or for [`DRAIN`].
    fn drain(&mut self) -> Result<()> {
        let end_ns = self.now_ns() + nanoseconds(DRAIN);
        while self.outstanding() > 0 && self.now_ns() < end_ns {
            self.turn()?;
        }
        Ok(())
    }

    fn say_alive(&mut self) -> Result<()> {
        let mut sign = Vec::new();
        self.plan.dialect.push_sign_of_life(&mut sign);
        for (i, conn) in self.conns.iter_mut().enumerate() {
            conn.push(&sign);
            conn.flush(&self.poller).map_err(|gone| over(i, &gone))?;
        }
        Ok(())
    }

    /// Fills the windows of the flows that are ready.
    fn publish(&mut self) -> Result<()> {
        for i in std::mem::take(&mut self.ready) {
            let now_ns = nanoseconds(self.clock.elapsed()).max(1);
            let flow = &mut self.flows[i];
            let room = u64::from(self.plan.window) - self.plan.outstanding(flow);
            let count = room.min(self.quota - flow.sent);
            flow.take_slots(count, now_ns, self.plan.dialect.has_receipts(), &mut self.slots);
            let mut slots = self.slots.as_slice();
            while !slots.is_empty() {
                let (frames, count) = flow.next_frames(slots);
                self.conns[i].push(frames);
                slots = &slots[count..];
            }
            self.conns[i].flush(&self.poller).map_err(|gone| over(i, &gone))?;
        }
        Ok(())
    }

    /// One wait for events and their handling.
    fn turn(&mut self) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        self.poller.wait(&mut events, Some(TICK))?;
        for event in &events {
            let i = poll::key(event);
            let mut outcome = Ok(());
            if poll::is_writable(event) {
                outcome = self.conns[i].flush(&self.poller);
            }
            if poll::is_readable(event) && outcome.is_ok() {
                outcome = self.receive(i);
            }
            if let Some(complaint) = self.complaint.take() {
                bail!("the server said: {complaint}");
            }
            outcome.map_err(|gone| over(i, &gone))?;
        }
        self.events = events;
        Ok(())
    }

    fn receive(&mut self, i: usize) -> Result<(), Gone> {
        let (plan, clock) = (self.plan, self.clock);
        let number = i % self.flows.len();
        let (flow, recorder) = (&mut self.flows[number], &mut self.recorder);
        let (strays, redelivered, complaint) = (&mut self.strays, &mut self.redelivered, &mut self.complaint);
        let (late_acks, refused) = (&mut self.late_acks, &mut self.refused);
        let before = plan.outstanding(flow);
        // One look at the clock per read, at its first frame: parsing the others is not the server's latency.
        let mut read_at_ns = None;
        let conn = &mut self.conns[i];
        conn.read(&mut self.scratch, |bytes, out| {
            plan.dialect.hear(bytes, out, |heard| {
                let now_ns = *read_at_ns.get_or_insert_with(|| nanoseconds(clock.elapsed()));
                match heard {
                    Heard::Message { repeat: true } => *redelivered += 1,
                    Heard::Message { .. } if !plan.receivers => *strays += 1,
                    Heard::Message { .. } => {
                        if let Some(sent_ns) = flow.note_message(plan.dialect.has_receipts()) {
                            recorder.record(Some(sent_ns), now_ns);
                        }
                    }
                    Heard::Receipt(slot) => match flow.note_receipt(slot) {
                        Some(sent_ns) => recorder.record(Some(sent_ns), now_ns),
                        None => *strays += 1,
                    },
                    Heard::LateAck => *late_acks += 1,
                    Heard::Overloaded { slot, retry_ms, words } => match refused {
                        Some(refused) => refused.note((now_ns, retry_ms), number, slot),
                        None => drop(complaint.get_or_insert(words)),
                    },
                    Heard::Complaint(words) => drop(complaint.get_or_insert(words)),
                }
            })
        })?;
        if conn.unwritten_bytes() > 0 {
            conn.flush(&self.poller)?;
        }
        let after = plan.outstanding(flow);
        self.done += before.saturating_sub(after);
        let refill_at = u64::from(plan.refill_at);
        if before > refill_at && after <= refill_at && flow.sent < self.quota {
            self.ready.push(number);
        }
        Ok(())
    }

    fn mark(&self) -> Result<Mark> {
        let context = || format!("the server, process {}, is gone", self.plan.pid);
        Ok(Mark {
            ns: self.now_ns(),
            server: Cpu::of(self.plan.pid).with_context(context)?,
            generator: Cpu::of(std::process::id())?,
            delivered: self.done,
            published: self.flows.iter().map(|flow| flow.sent).sum(),
            received_bytes: self.conns.iter().map(Conn::read_bytes).sum(),
        })
    }

    fn outstanding(&self) -> u64 {
        self.flows.iter().map(|flow| self.plan.outstanding(flow)).sum()
    }

    fn faults(&self) -> Faults {
        let excess = |flow: &Flow| flow.received.saturating_sub(flow.sent);
        Faults {
            lost: self.outstanding(),
            duplicated: self.strays + self.flows.iter().map(excess).sum::<u64>(),
            ..Faults::default()
        }
    }
}

impl Refused {
    fn note(&mut self, (now_ns, retry_ms): (u64, u64), flow: usize, slot: u64) {
        self.count += 1;
        self.due.insert((now_ns + retry_ms.max(1) * 1_000_000, flow, slot));
    }
}

fn over(i: usize, gone: &Gone) -> anyhow::Error {
    anyhow::anyhow!("connection {i} is over: {gone:?}")
}

#[cfg(test)]
mod tests;
