//! What a run came to: plain numbers, added up once everything has ended.

use super::latency::Summary;
use super::options::{Common, Pace};
use super::plan::Plan;
use super::run::{Received, Route, Running};
use super::schedule::behind_percent;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
use waspmq_client::Stats;

/// Why no more was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    Interrupted,
    /// A client has ended, or its task.
    Failed,
}

/// Who ran what where.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) plan: Plan,
    pub(super) run: String,
    pub(super) url: String,
    pub(super) transport: &'static str,
    pub(super) profile: &'static str,
    pub(super) threads: usize,
}

/// Messages of the whole run, the warm-up included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) sent: u64,
    /// What all receivers together ought to have.
    pub(super) expected: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) reordered: u64,
    pub(super) unreadable: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    /// Receipts that did not come.
    pub(super) unanswered: u64,
    /// What the broker says it dropped because a receiver was slow.
    pub(super) overflowed: u64,
    /// Repeats that the client library recognised and dropped: the wire is at-least-once.
    pub(super) dropped_repeats: u64,
    pub(super) reconnects: u64,
    /// Subscriptions that the broker took away.
    pub(super) withdrawn: u64,
}

/// Of the messages that were due behind the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Measured {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Until the sending ended, and until the last one was received.
    pub(super) sending: Duration,
    pub(super) receiving: Duration,
    /// Where there was a rate: by how much it was missed in the whole run.
    pub(super) behind_percent: Option<f64>,
    pub(super) stalls: u64,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) setting: Setting,
    pub(super) ended: Ended,
    pub(super) counts: Counts,
    pub(super) measured: Measured,
    pub(super) latency: Summary,
    pub(super) receipts: Option<Summary>,
    /// Where there was a rate: how late messages were sent.
    pub(super) delays: Option<Summary>,
    /// With the messages that are not in it.
    pub(super) spread: Option<(Summary, u64)>,
    /// What each member of the queue received.
    pub(super) members: Option<Vec<u64>>,
    pub(super) causes: BTreeMap<String, u64>,
}

impl Outcome {
    pub(super) fn new(
        running: &Running,
        (transport, common): (&'static str, &Common),
        ended: Ended,
        stats: &[Stats],
    ) -> anyhow::Result<Self> {
        let plan = &running.plan;
        let setting = Setting {
            plan: plan.clone(),
            run: running.run.name.clone(),
            url: common.url.clone(),
            transport,
            profile: running.profile_name(),
            threads: common.threads(),
        };
        let is_paced = matches!(plan.pace, Pace::Rate(_));
        let spread = match &running.spreads {
            Some(spreads) => Some((running.spread.summary()?, spreads.lock().unwrap().incomplete())),
            None => None,
        };
        Ok(Self {
            setting,
            ended,
            counts: count(running, stats),
            measured: measure(running),
            latency: running.latency.summary()?,
            receipts: plan.has_receipts().then(|| running.receipts.summary()).transpose()?,
            delays: is_paced.then(|| running.delays.summary()).transpose()?,
            spread,
            members: plan.is_queue.then(|| members(running)),
            causes: running.causes(),
        })
    }

    /// What must not happen, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        let counts = &self.counts;
        let is_ordered = !self.setting.plan.is_queue;
        let mut problems: Vec<String> = [
            (counts.lost, "lost"),
            (counts.repeated, "repeated"),
            (if is_ordered { counts.reordered } else { 0 }, "out of order"),
            (counts.unreadable, "changed on the way"),
            (counts.refused, "refused"),
            (counts.failed, "failed"),
            (counts.unanswered, "without a receipt"),
            (counts.overflowed, "dropped for slow receivers"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} messages {what}"))
        .collect();
        if counts.reconnects > 0 {
            problems.push(format!("{} connections lost and made again", counts.reconnects));
        }
        if counts.withdrawn > 0 {
            problems.push(format!("{} subscriptions taken away", counts.withdrawn));
        }
        if self.ended == Ended::Failed {
            problems.push("a client ended early".to_owned());
        }
        if counts.sent == 0 {
            problems.push("nothing was sent".to_owned());
        } else if self.measured.sent == 0 && self.ended == Ended::Done {
            problems.push("nothing was sent that was due behind the warm-up".to_owned());
        }
        problems
    }
}

fn count(running: &Running, stats: &[Stats]) -> Counts {
    let plan = &running.plan;
    let mut counts = Counts::default();
    for route in &running.routes {
        count_route(&mut counts, plan, route);
    }
    counts.expected = counts.sent * plan.copies();
    for stats in stats {
        counts.dropped_repeats += stats.duplicates;
        counts.reconnects += stats.reconnects;
    }
    // Those of the publishers are refused messages.
    counts.withdrawn = stats.iter().skip(plan.publishers).map(|stats| stats.refused).sum();
    counts
}

fn count_route(counts: &mut Counts, plan: &Plan, route: &Route) {
    let sent = route.sent();
    counts.sent += sent;
    counts.refused += route.refused();
    counts.failed += route.failed();
    counts.overflowed += route.overflowed();
    if plan.has_receipts() {
        // A message that could not be sent has failed, and is none of those that were sent.
        counts.unanswered += sent.saturating_sub(route.answered());
    }
    let mut missing = 0;
    let mut add = |sequence: &super::sequence::Sequence| {
        counts.received += sequence.received();
        counts.repeated += sequence.repeated();
        counts.reordered += sequence.reordered();
        missing += sequence.missing(sent);
    };
    if plan.is_queue {
        add(&route.together.lock().unwrap());
    }
    for received in &route.receivers {
        let received = received.lock().unwrap();
        if !plan.is_queue {
            add(&received.sequence);
        }
        counts.unreadable += received.unreadable;
    }
    // What the broker did not take in is told as that.
    counts.lost += missing.saturating_sub(route.refused() * plan.copies());
}

fn measure(running: &Running) -> Measured {
    let from_ns = running.measure_from_ns();
    let sent = running.routes.iter().map(|route| route.measured.load(Ordering::Relaxed)).sum();
    let sending = running.sending();
    let mut measured = Measured { sent, sending, ..Measured::default() };
    let mut last_ns = 0;
    for received in running.routes.iter().flat_map(|route| &route.receivers) {
        let Received { measured: count, last_ns: at_ns, .. } = *received.lock().unwrap();
        measured.received += count;
        last_ns = at_ns.max(last_ns);
    }
    // Who received nothing more while others still sent did not receive faster.
    measured.receiving = Duration::from_nanos(last_ns.saturating_sub(from_ns)).max(sending);
    measured.stalls = running.routes.iter().map(|route| route.stalls.load(Ordering::Relaxed)).sum();
    if let Pace::Rate(rate) = running.plan.pace {
        // Of the whole run: who fell behind in the warm-up has not sent anything else.
        measured.behind_percent = Some(behind_percent(rate, running.sent(), running.plan.warmup + sending));
    }
    measured
}

fn members(running: &Running) -> Vec<u64> {
    let receivers = running.routes.iter().flat_map(|route| &route.receivers);
    receivers.map(|received| received.lock().unwrap().count).collect()
}

impl Measured {
    /// So many a second.
    fn per_second(count: u64, time: Duration) -> f64 {
        if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
    }

    pub(super) fn sent_per_s(&self) -> f64 {
        Self::per_second(self.sent, self.sending)
    }

    pub(super) fn received_per_s(&self) -> f64 {
        Self::per_second(self.received, self.receiving)
    }
}
