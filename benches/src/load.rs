//! The load generator: one thread, one epoll instance, flows of messages, and what came of them.
//!
//! A run is set-up, warm-up, the measured interval and a drain. CPU time and deliveries are taken at the two ends
//! of the measured interval; losses are counted after the drain, over the whole run. A connection that ends stops
//! the run, because from then on its figures mean nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::conn::{Conn, Gone};
use crate::flow::{Flow, Schedule};
use crate::latency::Recorder;
use crate::link::{Link, printable};
use crate::plan::{Pace, Plan, Traffic};
use crate::poll::{self, Event, Poller};
use crate::process::{self, Cpu};
use crate::sample::{Faults, Mark, Sample};
use crate::wire::{Kind, Target, Template, Wire};

/// No delivery for this long in a closed loop: something was lost, waiting on is pointless.
const STALL: Duration = Duration::from_secs(2);

/// The most a drain waits for messages under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Bytes one sender may have waiting in an open loop; more means that the server does not keep up with the rate.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest wait for events, so that the ends of intervals are seen.
const TICK: Duration = Duration::from_millis(20);

/// How often every connection says that it lives, well below the broker's heartbeat.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Runs one plan against a server that is up.
///
/// # Errors
/// When set-up fails or `/proc` cannot be read; faults during the run are in the sample.
pub(crate) fn run(plan: &Plan) -> Result<Sample> {
    run_with(plan, Traffic::LETTERS)
}

/// As [`run`], with other messages and readers.
///
/// # Errors
/// Those of [`run`].
pub(crate) fn run_with(plan: &Plan, traffic: Traffic<'_>) -> Result<Sample> {
    let mut load = Load::set_up(plan, traffic)?;
    let start_ns = load.now_ns();
    let begin_ns = start_ns + nanoseconds(plan.warm_up);
    let end_ns = begin_ns + nanoseconds(plan.measure);
    if let Some(recorder) = &mut load.ear.recorder {
        recorder.measure(begin_ns..end_ns);
    }
    match plan.pace {
        Pace::Window(_) => load.ready.extend(0..load.flows.len()),
        Pace::Rate(rate) => load.schedule = Some(Schedule::new(rate, start_ns)),
    }
    load.pump(begin_ns)?;
    let begin = load.mark()?;
    load.pump(end_ns)?;
    let end = load.mark()?;
    load.drain()?;
    let mut sample = Sample::between(&begin, &end, load.faults());
    sample.seconds_in_all = (load.now_ns() - start_ns) as f64 / 1e9;
    sample.published_in_all = load.published();
    sample.server_resident_bytes = process::resident_bytes(plan.pid)?;
    sample.latency = load.ear.recorder.as_ref().map(Recorder::summary);
    Ok(sample)
}

/// What receiving a frame touches; apart from [`Load`] so that a connection can be read at the same time.
#[derive(Debug)]
struct Ear {
    wire: Wire,
    payload_bytes: usize,
    recorder: Option<Recorder>,
    hint: usize,
    complaints: u64,
    first_complaint: Option<String>,
}

impl Ear {
    /// Takes one frame; true for a message.
    #[inline]
    fn hear(&mut self, frame: &[u8], now_ns: u64) -> bool {
        match self.wire.kind(frame) {
            Kind::Message => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.record(self.wire.stamp(frame, self.payload_bytes, &mut self.hint), now_ns);
                }
                true
            }
            Kind::Complaint => {
                self.complaints += 1;
                self.first_complaint.get_or_insert_with(|| printable(frame));
                false
            }
            Kind::Welcome | Kind::Ok | Kind::Aside => false,
        }
    }
}

struct Load<'a> {
    plan: &'a Plan,
    clock: Instant,
    poller: Poller,
    events: Vec<Event>,
    scratch: Vec<u8>,
    /// Receivers first, then one sender per flow.
    conns: Vec<Conn>,
    /// Messages each receiver has.
    received: Vec<u64>,
    flows: Vec<Flow>,
    /// Flows whose window is to be refilled.
    ready: Vec<usize>,
    schedule: Option<Schedule>,
    next_sign_ns: u64,
    ear: Ear,
    delivered: u64,
    strays: u64,
    disconnected: u64,
    stalled: bool,
}

impl<'a> Load<'a> {
    fn set_up(plan: &'a Plan, traffic: Traffic<'_>) -> Result<Self> {
        let poller = Poller::new()?;
        let receiver_count = plan.shape.receivers();
        let mut conns = Vec::with_capacity(receiver_count + plan.shape.flows());
        for i in 0..receiver_count {
            let mut link = if plan.is_secure {
                Link::secure(plan.wire, plan.port, None)?
            } else {
                Link::reading(plan.wire, plan.port, traffic.reads(i))?
            };
            link.connect(&format!("r{i}"), plan.batch)?;
            let target = plan.shape.target(plan.shape.flow_of(i));
            // A user's own address is subscribed by itself; the relay has no users.
            if plan.wire == Wire::Relay || !matches!(target, Target::Receiver(_)) {
                link.subscribe(target)?;
            }
            let (stream, rest) = link.into_stream();
            conns.push(Conn::new(&poller, conns.len(), stream, rest)?);
        }
        let mut flows = Vec::with_capacity(plan.shape.flows());
        for i in 0..plan.shape.flows() {
            let mut link = if plan.is_secure {
                Link::secure(plan.wire, plan.port, None)?
            } else {
                Link::open(plan.wire, plan.port, None)?
            };
            link.connect(&format!("s{i}"), false)?;
            let target = plan.shape.target(i);
            let template = match traffic.documents {
                [] => Template::new(plan.wire, target, plan.payload_bytes),
                documents => Template::of_documents(plan.wire, target, documents),
            };
            flows.push(Flow::new(template, plan.shape.receivers_of(i), conns.len()));
            let (stream, rest) = link.into_stream();
            conns.push(Conn::new(&poller, conns.len(), stream, rest)?);
        }
        let ear = Ear {
            wire: plan.wire,
            payload_bytes: plan.payload_bytes,
            recorder: if plan.latency { Some(Recorder::new()?) } else { None },
            hint: 0,
            complaints: 0,
            first_complaint: None,
        };
        Ok(Self {
            plan,
            clock: Instant::now(),
            poller,
            events: Vec::new(),
            scratch: Vec::new(),
            received: vec![0; receiver_count],
            conns,
            flows,
            ready: Vec::new(),
            schedule: None,
            next_sign_ns: nanoseconds(SIGN_OF_LIFE),
            ear,
            delivered: 0,
            strays: 0,
            disconnected: 0,
            stalled: false,
        })
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.clock.elapsed())
    }

    fn is_broken(&self) -> bool {
        self.disconnected > 0 || self.stalled
    }

    /// Sends and receives until `until_ns`, or until the run is broken.
    fn pump(&mut self, until_ns: u64) -> Result<()> {
        let mut progress = (self.delivered, self.now_ns());
        loop {
            let now_ns = self.now_ns();
            if now_ns >= until_ns || self.is_broken() {
                return Ok(());
            }
            if progress.0 != self.delivered {
                progress = (self.delivered, now_ns);
            } else if self.schedule.is_none() && now_ns - progress.1 > nanoseconds(STALL) {
                self.stalled = true;
            }
            if now_ns >= self.next_sign_ns {
                self.next_sign_ns = now_ns + nanoseconds(SIGN_OF_LIFE);
                self.say_alive();
            }
            self.refill_windows();
            let due_in = self.send_due(now_ns);
            self.turn(TICK.min(due_in).min(Duration::from_nanos(until_ns - now_ns)))?;
        }
    }

    /// Sends an unasked pong, which no server answers, on every connection.
    fn say_alive(&mut self) {
        let mut pong = Vec::new();
        Wire::push_pong(&mut pong, b"");
        for conn in &mut self.conns {
            conn.push(&pong);
            self.disconnected += u64::from(conn.flush(&self.poller).is_err());
        }
    }

    /// Receives until everything published has arrived, or for [`DRAIN`].
    fn drain(&mut self) -> Result<()> {
        let end_ns = self.now_ns() + nanoseconds(DRAIN);
        while !self.is_broken() && self.lost() > 0 && self.now_ns() < end_ns {
            self.turn(TICK)?;
        }
        Ok(())
    }

    /// One wait for events and their handling.
    fn turn(&mut self, timeout: Duration) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        self.poller.wait(&mut events, Some(timeout))?;
        for event in &events {
            let i = poll::key(event);
            let mut outcome = Ok(());
            if poll::is_writable(event) {
                outcome = self.conns[i].flush(&self.poller);
            }
            if poll::is_readable(event) && outcome.is_ok() {
                outcome = self.receive(i);
            }
            if outcome.is_err() {
                self.disconnected += 1;
                break;
            }
        }
        self.events = events;
        Ok(())
    }

    fn receive(&mut self, i: usize) -> Result<(), Gone> {
        let (conn, ear, clock) = (&mut self.conns[i], &mut self.ear, self.clock);
        let mut count = 0_u64;
        // One look at the clock per read, at its first frame: parsing the others is not the server's latency.
        let mut read_at_ns = None;
        conn.receive(self.plan.wire, &mut self.scratch, |frame| {
            let latency = ear.recorder.is_some();
            let now_ns =
                *read_at_ns.get_or_insert_with(|| if latency { nanoseconds(clock.elapsed()) } else { 0 });
            count += u64::from(ear.hear(frame, now_ns));
        })?;
        if conn.unwritten_bytes() > 0 {
            conn.flush(&self.poller)?;
        }
        let Some(received) = self.received.get_mut(i) else {
            self.strays += count;
            return Ok(());
        };
        let before = *received;
        *received += count;
        self.delivered += count;
        let flow = self.plan.shape.flow_of(i);
        if self.flows[flow].note(before, before + count) {
            self.ready.push(flow);
        }
        Ok(())
    }

    fn refill_windows(&mut self) {
        let Pace::Window(window) = self.plan.pace else { return };
        for i in std::mem::take(&mut self.ready) {
            let stamp_ns = self.plan.latency.then(|| nanoseconds(self.clock.elapsed()));
            let flow = &mut self.flows[i];
            let mut left = usize::try_from(flow.refill(u64::from(window), &self.received)).unwrap_or(0);
            let sender = &mut self.conns[flow.sender];
            while left > 0 {
                let count = left.min(flow.template.copies());
                sender.push(flow.template.frames(count, stamp_ns));
                if sender.flush(&self.poller).is_err() {
                    self.disconnected += 1;
                    return;
                }
                left -= count;
            }
        }
    }

    /// Sends what is due and returns how long nothing will be.
    fn send_due(&mut self, now_ns: u64) -> Duration {
        let Some(schedule) = &mut self.schedule else { return Duration::MAX };
        let mut touched = Vec::new();
        let wait = loop {
            let (number, due_ns) = schedule.next();
            if due_ns > now_ns {
                break Duration::from_nanos(due_ns - now_ns);
            }
            schedule.advance();
            let flow = usize::try_from(number).unwrap_or(0) % self.flows.len();
            let flow = &mut self.flows[flow];
            flow.sent += 1;
            let sender = &mut self.conns[flow.sender];
            sender.push(flow.template.frames(1, Some(due_ns)));
            touched.push(flow.sender);
            self.stalled |= sender.unwritten_bytes() > BACKLOG_BYTES_MAX;
        };
        touched.sort_unstable();
        touched.dedup();
        for i in touched {
            if self.conns[i].flush(&self.poller).is_err() {
                self.disconnected += 1;
            }
        }
        wait
    }

    fn mark(&self) -> Result<Mark> {
        let context = || format!("the server, process {}, is gone", self.plan.pid);
        Ok(Mark {
            ns: self.now_ns(),
            server: Cpu::of(self.plan.pid).with_context(context)?,
            generator: Cpu::of(std::process::id())?,
            delivered: self.delivered,
            published: self.published(),
            received_bytes: self.conns.iter().map(Conn::read_bytes).sum(),
        })
    }

    fn published(&self) -> u64 {
        self.flows.iter().map(|flow| flow.sent).sum()
    }

    /// Messages that some receiver should have had, and has not.
    fn lost(&self) -> u64 {
        self.sum_over_receivers(u64::saturating_sub)
    }

    fn sum_over_receivers(&self, difference: impl Fn(u64, u64) -> u64) -> u64 {
        let of = |flow: &Flow| -> u64 {
            self.received[flow.receivers.clone()].iter().map(|&count| difference(flow.sent, count)).sum()
        };
        self.flows.iter().map(of).sum()
    }

    fn faults(&self) -> Faults {
        Faults {
            lost: self.lost(),
            duplicated: self.strays + self.sum_over_receivers(|sent, count| count.saturating_sub(sent)),
            disconnected: self.disconnected,
            complaints: self.ear.complaints,
            first_complaint: self.ear.first_complaint.clone(),
            stalled: self.stalled,
        }
    }
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::Arc;
    use std::thread;

    use rustls::ServerConfig;

    use super::*;
    use crate::fake::{self, Fault};
    use crate::plan::Shape;
    use crate::relay::Relay;
    use crate::wire::Reads;

    fn plan(wire: Wire, port: u16, shape: Shape, pace: Pace) -> Plan {
        Plan {
            wire,
            port,
            is_secure: false,
            pid: std::process::id(),
            batch: false,
            shape,
            pace,
            payload_bytes: 128,
            latency: true,
            warm_up: Duration::from_millis(30),
            measure: Duration::from_millis(120),
        }
    }

    fn relay() -> u16 {
        relay_over(None)
    }

    fn relay_over(tls: Option<Arc<ServerConfig>>) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut relay = Relay::new(listener).unwrap();
            relay.tls = tls;
            while relay.turn(None).is_ok() {}
        });
        port
    }

    fn port(wire: Wire) -> u16 {
        if wire == Wire::Relay { relay() } else { fake::start(wire, Fault::None) }
    }

    #[test]
    fn every_dialect_shape_and_pace_is_clean() {
        for wire in [Wire::Relay, Wire::Binary, Wire::Json] {
            let topics = Shape::Topics { subscribers: 5, topics: 2, unread: 1 };
            for shape in [Shape::Fanout { subscribers: 5 }, Shape::Direct { pairs: 4 }, topics] {
                for pace in [Pace::Window(64), Pace::Window(1), Pace::Rate(2_000.0)] {
                    let sample = run(&plan(wire, port(wire), shape, pace)).unwrap();
                    assert!(sample.is_clean(), "{wire} {shape:?} {pace:?}: {sample:?}");
                    let latency = sample.latency.unwrap();
                    assert!(latency.samples > 0 && latency.p50_us > 0.0, "{latency:?}");
                    // CPU is not looked at: other tests are threads of this process and take theirs along when they end.
                }
            }
        }
    }

    #[test]
    fn documents_reach_readers_of_every_kind_and_bytes_are_counted() {
        const READERS: [Reads; 2] = [Reads::PLAIN, Reads { codecs: &["zstd", "lz4"], deflate: false }];
        let documents: Vec<Vec<u8>> =
            (0..5).map(|i| format!("[{}]", "7".repeat(100 + i)).into_bytes()).collect();
        let traffic = Traffic { documents: &documents, readers: &READERS };
        for wire in [Wire::Binary, Wire::Json] {
            let shape = Shape::Fanout { subscribers: 3 };
            let mut plan = plan(wire, port(wire), shape, Pace::Window(8));
            plan.latency = false;
            let sample = run_with(&plan, traffic).unwrap();
            assert!(sample.is_clean(), "{wire}: {sample:?}");
            assert!(sample.published_in_all * 3 >= sample.deliveries, "{wire}: {sample:?}");
            assert!(sample.seconds_in_all >= sample.seconds, "{wire}: {sample:?}");
            // The stand-in passes on the documents of the binary profile and an empty text in their place in JSON.
            let bytes = sample.received_bytes_per_delivery;
            assert!(
                if wire == Wire::Binary { (150.0..180.0).contains(&bytes) } else { bytes > 50.0 },
                "{bytes}"
            );
        }
    }

    #[test]
    fn an_open_loop_publishes_at_its_rate() {
        let shape = Shape::Fanout { subscribers: 2 };
        let sample = run(&plan(Wire::Relay, relay(), shape, Pace::Rate(1_000.0))).unwrap();
        let latency = sample.latency.unwrap();
        // 120 messages are due in the interval, for two receivers, give or take one at each end.
        assert!((238..=242).contains(&latency.samples), "{latency:?}");
    }

    #[test]
    fn large_payloads_pass_unharmed() {
        let mut plan = plan(Wire::Relay, relay(), Shape::Fanout { subscribers: 3 }, Pace::Window(16));
        plan.payload_bytes = 300_000;
        let sample = run(&plan).unwrap();
        assert!(sample.is_clean(), "{sample:?}");
    }

    #[test]
    fn messages_pass_over_tls_with_records_cut_and_full_sockets() {
        let tls = Arc::new(crate::tls::server(crate::stream::ALPN).unwrap());
        for (payload_bytes, window) in [(128, 64), (128, 1), (60_000, 64), (300_000, 16)] {
            let port = relay_over(Some(tls.clone()));
            let mut plan = plan(Wire::Relay, port, Shape::Direct { pairs: 3 }, Pace::Window(window));
            (plan.is_secure, plan.payload_bytes) = (true, payload_bytes);
            let sample = run(&plan).unwrap();
            assert!(sample.is_clean(), "{payload_bytes} {window}: {sample:?}");
        }
    }

    #[test]
    fn a_lost_message_is_counted() {
        let port = fake::start(Wire::Binary, Fault::Loses);
        let shape = Shape::Fanout { subscribers: 3 };
        let mut plan = plan(Wire::Binary, port, shape, Pace::Window(4));
        plan.measure = Duration::from_secs(3);
        let sample = run(&plan).unwrap();
        assert!(sample.faults.lost > 0 && sample.faults.stalled && !sample.is_clean(), "{sample:?}");
    }

    #[test]
    fn a_repeated_message_is_counted() {
        let port = fake::start(Wire::Json, Fault::Repeats);
        let sample = run(&plan(Wire::Json, port, Shape::Direct { pairs: 1 }, Pace::Window(8))).unwrap();
        assert!(sample.faults.duplicated > 0 && !sample.is_clean(), "{sample:?}");
    }

    #[test]
    fn a_closed_connection_ends_the_run() {
        let port = fake::start(Wire::Binary, Fault::Closes);
        let shape = Shape::Fanout { subscribers: 3 };
        let mut plan = plan(Wire::Binary, port, shape, Pace::Window(8));
        plan.warm_up = Duration::from_secs(60);
        let started = Instant::now();
        let sample = run(&plan).unwrap();
        assert!(sample.faults.disconnected > 0 && !sample.is_clean(), "{sample:?}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let port = fake::start(Wire::Json, Fault::Refuses);
        let outcome = run(&plan(Wire::Json, port, Shape::Direct { pairs: 1 }, Pace::Window(1)));
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.contains("unauthorized") && error.contains("r0"), "{error}");
    }
}
