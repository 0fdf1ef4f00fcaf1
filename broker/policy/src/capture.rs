//! What policies are asked in live traffic, taken down for a while, to be replayed.
//!
//! At most one capture is there, running or complete. It takes down the questions about addresses that match its patterns,
//! whether policies are bound or not, until one of its bounds is reached; the records stay for an hour, or until they are
//! removed or another capture begins. Each worker writes to a tape of its own, which only a reader contends for.
//! Deliberately not here: HTTP, files, and what is done with the records (`replay`).

mod admin;
mod payloads;
mod record;
mod recorder;
mod tape;

pub use payloads::{CapturedMessage, CapturedMessages};
pub(crate) use record::{Configured, Delivered, FORM, Failed, Full, Header, Members, Published, Record};
pub(crate) use recorder::Recorder;

use crate::binding::lock;
use crate::clock;
use crate::limits;
use crate::queues::Queues;
use record::With;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tape::{Appended, Reader, Tape};
use waspmq_core::address::{Address, Pattern};
use waspmq_core::policy::QueueMembers;

/// What an operator wants to be taken down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Patterns of addresses; also `user/*` and `group/*`.
    pub patterns: Vec<String>,
    pub seconds: u64,
    /// Records at most, those of queue members not counted.
    pub messages_max: u64,
    pub payload: bool,
    pub headers: bool,
}

/// Why a capture does not begin, or is not removed. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    #[error("a capture is running; wait for its end, or remove it")]
    Running,
    #[error("there is no capture")]
    None,
    #[error("the capture that is there is another one, which began at {started_unix_ms}")]
    Other { started_unix_ms: u64 },
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
}

/// What ended a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureEnd {
    /// It took down as many records as it may.
    Messages,
    /// Its time is over.
    Seconds,
    /// Its memory is full.
    Bytes,
}

/// How a capture is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureStatus {
    pub request: CaptureRequest,
    pub started_unix_ms: u64,
    /// When it ended, and why; none while it runs.
    pub ended: Option<(u64, CaptureEnd)>,
    pub recorded: u64,
    pub bytes: u64,
    /// What is not in the records, by reason.
    pub left_out: Vec<(&'static str, u64)>,
}

/// Counts over all captures since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureCounts {
    pub recorded: u64,
    /// By reason: `too_large` a record over its bound, `no_room` one behind the last that fit, `payload` of a record that has
    /// none because it is over its bound.
    pub left_out: Vec<(&'static str, u64)>,
}

/// The records of a capture as JSON lines, in pieces.
#[derive(Debug)]
pub struct CaptureRecords {
    header: Option<Vec<u8>>,
    lines: Reader,
}

impl Iterator for CaptureRecords {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        self.header.take().or_else(|| self.lines.next())
    }
}

impl CaptureEnd {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

/// The one capture that is there, and what all of them took down.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    /// The number of the capture that runs; 0: none.
    running: AtomicU64,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    capture: Option<Arc<Capture>>,
    last_number: u64,
    /// Counts of the captures that are gone.
    gone: Counts,
}

/// One capture.
#[derive(Debug)]
pub(crate) struct Capture {
    number: u64,
    request: CaptureRequest,
    patterns: Vec<Pattern>,
    started_unix_ms: u64,
    due: Instant,
    /// Records so far that count for `messages_max`, and the place of the next line.
    offered: AtomicU64,
    places: AtomicU64,
    bytes: AtomicU64,
    counts: Counts,
    end: OnceLock<End>,
    /// Of each worker, and the last one of whoever tells members.
    tapes: Box<[Tape]>,
}

#[derive(Debug)]
struct End {
    by: CaptureEnd,
    unix_ms: u64,
    free_at: Instant,
}

#[derive(Debug, Default)]
struct Counts {
    recorded: AtomicU64,
    too_large: AtomicU64,
    no_room: AtomicU64,
    payload: AtomicU64,
}

impl Counts {
    fn left_out(&self) -> Vec<(&'static str, u64)> {
        let all = [("too_large", &self.too_large), ("no_room", &self.no_room), ("payload", &self.payload)];
        all.into_iter().map(|(reason, count)| (reason, count.load(Relaxed))).collect()
    }

    fn add(&self, other: &Self) {
        let both = [
            (&self.recorded, &other.recorded),
            (&self.too_large, &other.too_large),
            (&self.no_room, &other.no_room),
            (&self.payload, &other.payload),
        ];
        both.into_iter().for_each(|(sum, count)| _ = sum.fetch_add(count.load(Relaxed), Relaxed));
    }
}

impl Captures {
    /// Begins a capture in place of a complete one. `workers` will write to it.
    pub(crate) fn start(
        &self,
        request: CaptureRequest,
        workers: usize,
        now: Instant,
    ) -> Result<Arc<Capture>, CaptureError> {
        let patterns = check(&request)?;
        let mut current = lock(&self.current);
        if current.capture.as_ref().is_some_and(|capture| capture.end.get().is_none()) {
            return Err(CaptureError::Running);
        }
        current.free();
        current.last_number += 1;
        let capture = Arc::new(Capture {
            number: current.last_number,
            patterns,
            started_unix_ms: clock::read_unix_ms(),
            due: now + Duration::from_secs(request.seconds),
            request,
            offered: AtomicU64::new(0),
            places: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            counts: Counts::default(),
            end: OnceLock::new(),
            tapes: (0..=workers).map(|_| Tape::default()).collect(),
        });
        current.capture = Some(Arc::clone(&capture));
        self.running.store(capture.number, Relaxed);
        Ok(capture)
    }

    /// The number of the capture that runs; 0 when none does.
    #[inline]
    pub(crate) fn running(&self) -> u64 {
        self.running.load(Relaxed)
    }

    pub(crate) fn current(&self) -> Option<Arc<Capture>> {
        lock(&self.current).capture.clone()
    }

    /// Removes a capture, running or not; false when it is not there any more.
    pub(crate) fn remove(&self, capture: &Arc<Capture>) -> bool {
        let mut current = lock(&self.current);
        let is_there = current.capture.as_ref().is_some_and(|there| Arc::ptr_eq(there, capture));
        if is_there {
            self.running.store(0, Relaxed);
            current.free();
        }
        is_there
    }

    /// Ends and frees what is due. Answers when it is to be called again.
    pub(crate) fn tend(&self, now: Instant) -> Option<Instant> {
        let mut current = lock(&self.current);
        let capture = current.capture.clone()?;
        if now >= capture.due {
            self.end(&capture, CaptureEnd::Seconds, now);
        }
        let free_at = capture.end.get().map(|end| end.free_at);
        if free_at.is_some_and(|free_at| now >= free_at) {
            current.free();
            return None;
        }
        free_at.or(Some(capture.due))
    }

    /// Takes a record down on the tape of `worker`.
    pub(crate) fn take(&self, capture: &Capture, worker: usize, record: &Record<'_>) {
        if capture.end.get().is_some() {
            return;
        }
        let is_counted = !matches!(record, Record::Members(_));
        let number = if is_counted { capture.offered.fetch_add(1, Relaxed) + 1 } else { 0 };
        if number > capture.request.messages_max {
            return;
        }
        match capture.append(worker, record) {
            Appended::Kept => capture.note_kept(record),
            Appended::TooLarge => _ = capture.counts.too_large.fetch_add(1, Relaxed),
            Appended::NoRoom => {
                capture.counts.no_room.fetch_add(1, Relaxed);
                self.end(capture, CaptureEnd::Bytes, crate::stats::now());
            }
            Appended::Closed => return,
        }
        if number == capture.request.messages_max {
            self.end(capture, CaptureEnd::Messages, crate::stats::now());
        }
    }

    /// Takes the members of a queue down where the capture concerns it.
    pub(crate) fn members(&self, capture: &Capture, members: &QueueMembers) {
        if capture.concerns(&members.pattern) {
            let record = Record::Members(Members::new(members, clock::read_unix_ms()));
            self.take(capture, capture.tapes.len() - 1, &record);
        }
    }

    fn end(&self, capture: &Capture, by: CaptureEnd, now: Instant) {
        let free_at = now + Duration::from_secs(limits::CAPTURE_KEPT_S);
        // Whoever is first is the reason.
        capture.end.get_or_init(|| End { by, unix_ms: clock::read_unix_ms(), free_at });
        // Another one may run by now.
        _ = self.running.compare_exchange(capture.number, 0, Relaxed, Relaxed);
    }

    /// Counts over all captures.
    pub(crate) fn counts(&self) -> CaptureCounts {
        let current = lock(&self.current);
        let sum = Counts::default();
        sum.add(&current.gone);
        current.capture.iter().for_each(|capture| sum.add(&capture.counts));
        CaptureCounts { recorded: sum.recorded.load(Relaxed), left_out: sum.left_out() }
    }
}

impl Current {
    /// Frees the capture that is there.
    fn free(&mut self) {
        if let Some(capture) = self.capture.take() {
            capture.tapes.iter().for_each(Tape::close);
            self.gone.add(&capture.counts);
        }
    }
}

impl Capture {
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) const fn with(&self) -> With {
        With { payload: self.request.payload, headers: self.request.headers }
    }

    pub(crate) fn matches(&self, address: &Address) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(address))
    }

    /// Whether messages for a queue on this pattern may be among those taken down.
    fn concerns(&self, pattern: &str) -> bool {
        let parsed = Pattern::parse(pattern);
        parsed.is_ok_and(|pattern| self.patterns.iter().any(|wanted| wanted.overlaps(&pattern)))
    }

    fn note_kept(&self, record: &Record<'_>) {
        self.counts.recorded.fetch_add(1, Relaxed);
        if record.is_cut() {
            self.counts.payload.fetch_add(1, Relaxed);
        }
    }

    fn append(&self, worker: usize, record: &Record<'_>) -> Appended {
        let Some(tape) = self.tapes.get(worker) else { return Appended::Closed };
        tape.append(record, |len| {
            let before = self.bytes.fetch_add(len, Relaxed);
            if before + len > limits::CAPTURE_BYTES_MAX {
                self.bytes.fetch_sub(len, Relaxed);
                return None;
            }
            Some(self.places.fetch_add(1, Relaxed))
        })
    }

    /// Takes down the members of all queues that are there.
    pub(crate) fn begin_with(&self, captures: &Captures, queues: &Queues) {
        queues.all().queues.iter().for_each(|members| captures.members(self, members));
    }

    pub(crate) fn status(&self) -> CaptureStatus {
        CaptureStatus {
            request: self.request.clone(),
            started_unix_ms: self.started_unix_ms,
            ended: self.end.get().map(|end| (end.unix_ms, end.by)),
            recorded: self.counts.recorded.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            left_out: self.counts.left_out(),
        }
    }

    /// What is there now, as JSON lines; also while it runs.
    pub(crate) fn records(&self) -> CaptureRecords {
        let lines = Reader::new(&self.tapes);
        let status = self.status();
        let left_out = status.left_out.iter().map(|&(reason, count)| (reason.to_owned(), count));
        let header = Header {
            capture: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: status.started_unix_ms,
            ended: status.ended.map(|(unix_ms, _)| unix_ms),
            ended_by: status.ended.map(|(_, by)| by.as_str().to_owned()),
            patterns: status.request.patterns.clone(),
            payload: status.request.payload,
            headers: status.request.headers,
            recorded: status.recorded,
            left_out: left_out.collect::<BTreeMap<_, _>>(),
        };
        let mut header = serde_json::to_vec(&header).unwrap_or_default();
        header.push(b'\n');
        CaptureRecords { header: Some(header), lines }
    }
}

fn check(request: &CaptureRequest) -> Result<Vec<Pattern>, CaptureError> {
    let within = |field, value: u64, most: u64| {
        let reason = || format!("must be 1 to {most}");
        let is_within = (1..=most).contains(&value);
        is_within.then_some(()).ok_or_else(|| CaptureError::Invalid { field, reason: reason() })
    };
    within("seconds", request.seconds, limits::CAPTURE_SECONDS_MAX)?;
    within("messages_max", request.messages_max, limits::CAPTURE_MESSAGES_MAX)?;
    if request.patterns.is_empty() || request.patterns.len() > limits::PATTERNS_MAX {
        let reason = format!("must have 1 to {} patterns", limits::PATTERNS_MAX);
        return Err(CaptureError::Invalid { field: "match", reason });
    }
    let parse = |text: &String| {
        let reason = |error| CaptureError::Invalid { field: "match", reason: format!("{text:?}: {error}") };
        Pattern::parse_scope(text).map_err(reason)
    };
    request.patterns.iter().map(parse).collect()
}

#[cfg(test)]
mod tests;
