//! The bounds of a capture, what it takes down, and how it ends and is freed.

use super::*;
use crate::stats::now;
use serde_json::Value;
use waspmq_core::address::{Kind, Name};
use waspmq_core::policy::Message;
use waspmq_core::registry::Loads;
use waspmq_core::settings::Settings;

fn request(patterns: &[&str]) -> CaptureRequest {
    CaptureRequest {
        patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        seconds: 60,
        messages_max: 10,
        payload: false,
        headers: false,
    }
}

fn message<'a>(to: &'a str, payload: &'a [u8]) -> Message<'a> {
    Message {
        from: "alice",
        session: None,
        to,
        kind: Kind::Topic,
        key: "",
        payload,
        is_json: false,
        headers: &[],
        priority: 0,
        unix_ms: 5,
    }
}

fn publish(captures: &Captures, recorder: &mut Recorder, to: &str) {
    if recorder.wants(captures, to) {
        recorder.message(captures, &message(to, b"1"), &Settings::of_kind(Kind::Topic));
    }
}

/// The first line, and the addresses (or patterns) of the others.
fn read(capture: &Capture) -> (Value, Vec<String>) {
    let bytes: Vec<u8> = capture.records().flatten().collect();
    let text = String::from_utf8(bytes).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let header = lines.next().unwrap();
    let about = |line: Value| {
        let record = line.as_object().unwrap().values().next().unwrap().clone();
        record.get("address").or_else(|| record.get("pattern")).unwrap().as_str().unwrap().to_owned()
    };
    (header, lines.map(about).collect())
}

#[test]
fn only_what_matches_is_taken_down_by_all_workers_in_order() {
    let captures = Captures::default();
    let mut workers = [Recorder::new(0), Recorder::new(1)];
    publish(&captures, &mut workers[0], "topic/a.early");
    let capture = captures.start(request(&["topic/a.>", "user/*"]), 2, now()).unwrap();
    let all = ["topic/a.1", "topic/b.1", "user/bob", "group/a", "topic/a", "topic/a.1", "topic/a.2"];
    for (index, to) in all.iter().enumerate() {
        publish(&captures, &mut workers[index % 2], to);
    }
    let (header, addresses) = read(&capture);
    assert_eq!(addresses, ["topic/a.1", "user/bob", "topic/a.1", "topic/a.2"]);
    assert_eq!(
        (&header["capture"], &header["recorded"], &header["ended"]),
        (&1.into(), &4.into(), &Value::Null)
    );
    assert_eq!(header["match"], serde_json::json!(["topic/a.>", "user/*"]));
}

#[test]
fn it_ends_at_its_number_of_records_and_costs_nothing_behind() {
    let captures = Captures::default();
    let mut recorder = Recorder::new(0);
    let capture = captures.start(request(&["topic/>"]), 1, now()).unwrap();
    for _ in 0..25 {
        publish(&captures, &mut recorder, "topic/a");
    }
    assert_eq!(captures.running(), 0);
    let status = capture.status();
    assert_eq!((status.recorded, status.ended.map(|(_, by)| by)), (10, Some(CaptureEnd::Messages)));
    assert_eq!(read(&capture).1.len(), 10);
    assert!(captures.start(request(&["all"]), 1, now()).is_ok(), "a complete one makes room");
    assert_eq!(read(&capture).1.len(), 0, "and is freed");
}

#[test]
fn members_are_taken_down_where_they_concern_it_and_do_not_count() {
    let captures = Captures::default();
    let capture =
        captures.start(CaptureRequest { messages_max: 1, ..request(&["topic/a.>"]) }, 1, now()).unwrap();
    let of = |pattern: &str, version| QueueMembers {
        pattern: pattern.to_owned(),
        queue: Name::parse("q").unwrap(),
        version,
        members: vec!["u/d/s".to_owned()],
        loads: Loads::default(),
    };
    let queues = Queues::default();
    queues.change(of("topic/a.*", 1));
    queues.change(of("topic/b.>", 2));
    capture.begin_with(&captures, &queues);
    captures.members(&capture, &of("topic/>", 3));
    publish(&captures, &mut Recorder::new(0), "topic/a.1");
    captures.members(&capture, &of("topic/>", 4));
    assert_eq!(read(&capture).1, ["topic/a.*", "topic/>", "topic/a.1"]);
}

#[test]
fn it_ends_with_its_time_and_is_freed_an_hour_behind_that() {
    let captures = Captures::default();
    let started = now();
    let after = |seconds| started + Duration::from_secs(seconds);
    let capture = captures.start(request(&["topic/>"]), 1, started).unwrap();
    publish(&captures, &mut Recorder::new(0), "topic/a");
    assert_eq!(captures.tend(after(59)), Some(after(60)));
    assert_eq!(captures.start(request(&["topic/>"]), 1, after(59)).unwrap_err(), CaptureError::Running);
    assert_eq!(captures.tend(after(60)), Some(after(60 + 3_600)));
    assert_eq!(capture.status().ended.map(|(_, by)| by), Some(CaptureEnd::Seconds));
    assert_eq!(captures.running(), 0);
    assert_eq!(read(&capture).1.len(), 1, "what it holds stays");
    assert_eq!(captures.tend(after(60 + 3_600)), None);
    assert!(captures.current().is_none());
    assert_eq!(read(&capture).1.len(), 0);
    assert_eq!(captures.counts().recorded, 1, "counts stay");
}

#[test]
fn it_ends_when_its_memory_is_full() {
    let captures = Captures::default();
    let mut recorder = Recorder::new(0);
    let capture = captures.start(request(&["topic/>"]), 1, now()).unwrap();
    publish(&captures, &mut recorder, "topic/first");
    let line_bytes = capture.bytes.load(Relaxed);
    capture.bytes.store(limits::CAPTURE_BYTES_MAX - line_bytes, Relaxed);
    publish(&captures, &mut recorder, "topic/fit_s");
    publish(&captures, &mut recorder, "topic/over_");
    publish(&captures, &mut recorder, "topic/late_");
    let status = capture.status();
    assert_eq!((status.recorded, status.bytes), (2, limits::CAPTURE_BYTES_MAX));
    assert_eq!(status.ended.map(|(_, by)| by), Some(CaptureEnd::Bytes));
    assert_eq!(status.left_out, [("too_large", 0), ("no_room", 1), ("payload", 0)]);
    assert_eq!(read(&capture).1, ["topic/first", "topic/fit_s"]);
    assert_eq!(captures.counts(), CaptureCounts { recorded: 2, left_out: status.left_out });
}

#[test]
fn what_is_too_large_is_left_out_and_counted() {
    let captures = Captures::default();
    let wanted = CaptureRequest { payload: true, ..request(&["topic/>"]) };
    let capture = captures.start(wanted, 1, now()).unwrap();
    let mut recorder = Recorder::new(0);
    assert!(recorder.wants(&captures, "topic/a"));
    let large = vec![0; limits::CAPTURE_PAYLOAD_BYTES_MAX + 1];
    recorder.message(&captures, &message("topic/a", &large), &Settings::of_kind(Kind::Topic));
    let members = (0..20_000).map(|n| format!("{n}/{}/s", "x".repeat(60))).collect();
    let queue = Name::parse("q").unwrap();
    let crowd =
        QueueMembers { pattern: "topic/>".to_owned(), queue, version: 1, members, loads: Loads::default() };
    captures.members(&capture, &crowd);
    let status = capture.status();
    assert_eq!(status.left_out, [("too_large", 1), ("no_room", 0), ("payload", 1)]);
    assert_eq!((status.recorded, status.ended), (1, None));
}

#[test]
fn a_removed_capture_keeps_nothing_and_a_late_worker_does_no_harm() {
    let captures = Captures::default();
    let mut recorder = Recorder::new(0);
    let first = captures.start(request(&["topic/>"]), 1, now()).unwrap();
    assert!(recorder.wants(&captures, "topic/a"));
    assert!(captures.remove(&first) && !captures.remove(&first));
    recorder.message(&captures, &message("topic/a", b"late"), &Settings::of_kind(Kind::Topic));
    assert_eq!(read(&first).1.len(), 0);
    let second = captures.start(request(&["topic/b"]), 1, now()).unwrap();
    assert!(!recorder.wants(&captures, "topic/a"), "an answer of the capture before does not count");
    publish(&captures, &mut recorder, "topic/b");
    assert!(!captures.remove(&first), "nor can its end be the end of another one");
    assert_eq!(read(&second).1, ["topic/b"]);
}

#[test]
fn requests_out_of_bounds_are_refused_by_field() {
    let refused =
        |request: CaptureRequest| Captures::default().start(request, 1, now()).unwrap_err().to_string();
    let good = || request(&["topic/a"]);
    assert_eq!(refused(CaptureRequest { seconds: 0, ..good() }), "seconds: must be 1 to 3600");
    assert_eq!(refused(CaptureRequest { seconds: 3_601, ..good() }), "seconds: must be 1 to 3600");
    assert_eq!(refused(CaptureRequest { messages_max: 0, ..good() }), "messages_max: must be 1 to 100000");
    assert_eq!(
        refused(CaptureRequest { messages_max: 100_001, ..good() }),
        "messages_max: must be 1 to 100000"
    );
    assert_eq!(refused(request(&[])), "match: must have 1 to 64 patterns");
    assert_eq!(refused(request(&["all"; 65])), "match: must have 1 to 64 patterns");
    assert!(refused(request(&["topic/a", "user/a*"])).starts_with("match: \"user/a*\": "));
}

/// What a reading of the capture's messages gives, line by line.
fn messages(capture: &Capture) -> Vec<Option<CapturedMessage>> {
    let bytes: Vec<u8> = capture.records().flatten().collect();
    let mut lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut messages = CapturedMessages::new(lines.next().unwrap()).unwrap();
    lines.map(|line| messages.line(line).unwrap()).collect()
}

#[test]
fn payloads_are_read_back() {
    let (captures, mut recorder) = (Captures::default(), Recorder::new(0));
    let asked = CaptureRequest { payload: true, ..request(&["topic/a"]) };
    let capture = captures.start(asked, 1, now()).unwrap();
    let large = vec![b'x'; limits::CAPTURE_PAYLOAD_BYTES_MAX + 1];
    let payloads: [&[u8]; 3] = [b"{\"a\":1}", &[0xff, 0, 1], &large];
    for payload in payloads {
        assert!(recorder.wants(&captures, "topic/a"));
        recorder.message(&captures, &message("topic/a", payload), &Settings::of_kind(Kind::Topic));
    }
    let found = messages(&capture);
    let found: Vec<_> = found.into_iter().flatten().map(|message| message.payload).collect();
    assert_eq!(found, [Some(payloads[0].to_vec()), Some(payloads[1].to_vec()), None]);
}

#[test]
fn lines_that_are_no_messages_are_passed_over_or_refused() {
    let header = br#"{"capture":1,"version":"0","started":1,"ended":null,"ended_by":null,"match":[],"payload":false,"headers":false,"recorded":0,"left_out":{}}"#;
    let mut messages = CapturedMessages::new(header).unwrap();
    assert!(!messages.has_payloads());
    let members = br#"{"members":{"ts":9,"pattern":"topic/>","queue":"w","version":4,"members":[]}}"#;
    assert_eq!(messages.line(members).unwrap(), None);
    for bad in [&b"{}"[..], b"\xff", b"", &vec![b' '; limits::CAPTURE_LINE_BYTES_MAX + 1]] {
        assert!(messages.line(bad).is_err());
    }
    assert_eq!(messages.line(b"x").unwrap_err().line, 7, "each line counts");
    assert!(CapturedMessages::new(b"{\"capture\":2}").is_err());
}
