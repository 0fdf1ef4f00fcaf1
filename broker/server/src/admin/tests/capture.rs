//! Captures over the API: what is asked for, one at a time, read as lines, and on the audit log.

use super::*;
use std::task::Poll;
use waspmq_core::policy::Policies;
use waspmq_core::settings::Settings;
use waspmq_core::{Address, Kind};

/// Takes down one message to `to`, as a worker does, if it is captured.
fn publish(control: &Control, to: &str) {
    let mut policies = control.policies.worker(0);
    if policies.bound(to).captured {
        let message = waspmq_core::policy::Message {
            from: "alice",
            session: None,
            to,
            kind: Address::parse(to).unwrap().kind(),
            key: "",
            payload: b"{}",
            is_json: true,
            headers: &[],
            priority: 0,
            unix_ms: 1,
        };
        policies.capture(&message, &Settings::of_kind(Kind::Topic));
    }
}

#[tokio::test]
async fn a_capture_is_begun_read_and_removed() {
    let api = Api::new();
    for (method, path) in [("GET", "/v1/capture"), ("GET", "/v1/capture/records"), ("DELETE", "/v1/capture")]
    {
        api.call(method, path).await.problem(404, "not_found");
    }
    let started = api.call_with("POST", "/v1/capture", r#"{"match":["topic/a.>"],"payload":true}"#).await;
    let status = started.json();
    assert_eq!((started.status, &status["state"], &status["seconds"]), (201, &json!("running"), &json!(60)));
    assert_eq!((&status["messages_max"], &status["headers"]), (&json!(10_000), &json!(false)));
    ["topic/a.1", "topic/b", "topic/a.2"].iter().for_each(|to| publish(&api.control, to));
    let again = api.call_with("POST", "/v1/capture", r#"{"match":["all"]}"#).await;
    again.problem(409, "already_running");
    assert_eq!(api.call("GET", "/v1/capture").await.json()["recorded"], 2);
    let records = api.call("GET", "/v1/capture/records").await;
    assert_eq!((records.status, records.header("content-type")), (200, "application/jsonl"));
    let lines: Vec<Value> = records.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (lines.len(), &lines[0]["capture"], &lines[0]["match"][0]),
        (3, &json!(1), &json!("topic/a.>"))
    );
    assert_eq!(lines[2]["message"]["address"], "topic/a.2");
    assert_eq!(lines[2]["message"]["payload"], "{}");
    let metrics = api.call("GET", "/metrics").await.text;
    assert!(metrics.contains("waspmq_capture_records_total 2\n"), "{metrics}");
    assert!(metrics.contains("waspmq_capture_left_out_total{reason=\"no_room\"} 0\n"), "{metrics}");
    api.call("DELETE", "/v1/capture?start=1").await.problem(400, "invalid_query");
    let other = api.call("DELETE", "/v1/capture?started=1").await.problem(409, "other_capture");
    let began = status["started_unix_ms"].to_string();
    assert!(other["detail"].as_str().unwrap().contains(&began), "{other}");
    let path = format!("/v1/capture?started={began}");
    assert_eq!(api.call("DELETE", &path).await.status, 204);
    api.call("DELETE", &path).await.problem(404, "not_found");
    api.call("GET", "/v1/capture").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_complete_one_stays_and_says_what_ended_it() {
    let api = Api::new();
    api.call_with("POST", "/v1/capture", r#"{"match":["topic/a"],"messages_max":1}"#).await;
    publish(&api.control, "topic/a");
    let status = api.call("GET", "/v1/capture").await.json();
    assert_eq!((&status["state"], &status["ended_by"]), (&json!("complete"), &json!("messages")));
    assert!(status["ended_unix_ms"].as_u64() >= status["started_unix_ms"].as_u64());
    assert_eq!(api.call("GET", "/v1/capture/records").await.text.lines().count(), 2);
    assert_eq!(api.call_with("POST", "/v1/capture", r#"{"match":["all"]}"#).await.status, 201);
}

#[tokio::test]
async fn only_so_many_read_at_once() {
    let api = Api::new();
    api.call_with("POST", "/v1/capture", r#"{"match":["topic/a"]}"#).await;
    publish(&api.control, "topic/a");
    let read = || api.router.clone().oneshot(empty(operator("GET", "/v1/capture/records")));
    let mut answers = Vec::new();
    for _ in 0..limits::CAPTURE_READERS_MAX {
        answers.push(read().await.unwrap());
    }
    let mut late = std::pin::pin!(read());
    let polled = std::future::poll_fn(|context| Poll::Ready(late.as_mut().poll(context))).await;
    assert!(polled.is_pending());
    api.call("DELETE", "/v1/capture").await;
    let body = axum::body::to_bytes(answers.remove(0).into_body(), usize::MAX).await.unwrap();
    assert_eq!(body.split(|&byte| byte == b'\n').count(), 3, "what was begun is read to its end");
    assert_eq!(late.await.unwrap().status(), 404);
}

#[tokio::test]
async fn documents_out_of_bounds_are_refused_by_key() {
    let api = Api::new();
    for (document, key) in [
        (r#"{"match":[]}"#, "match"),
        (r#"{"match":["user/a*"]}"#, "match"),
        (r#"{"match":["all"],"seconds":0}"#, "seconds"),
        (r#"{"match":["all"],"messages_max":100001}"#, "messages_max"),
        (r#"{"match":["all"],"payloads":true}"#, "payloads"),
    ] {
        let problem = api.call_with("POST", "/v1/capture", document).await.problem(422, "invalid_document");
        assert_eq!(problem["key"], key, "{problem}");
    }
    api.call("GET", "/v1/capture").await.problem(404, "not_found");
}

#[tokio::test(flavor = "current_thread")]
async fn whoever_begins_reads_or_removes_one_is_on_the_audit_log() {
    let directory = tempfile::tempdir().unwrap();
    let audit = waspmq_store::AuditLog::open(directory.path().join("audit.log")).unwrap();
    let control = Control { audit: Some(Arc::new(audit)), ..control() };
    let api = Api { router: router(state(control.clone())), control };
    api.call_with("POST", "/v1/capture", r#"{"match":["topic/a","all"],"payload":true}"#).await;
    api.call("GET", "/v1/capture/records").await;
    api.call("GET", "/v1/capture").await;
    api.call("DELETE", "/v1/capture").await;
    let changes = api.call("GET", "/v1/audit").await.json();
    let lines: Vec<_> = changes["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            assert_eq!(
                (&line["name"], &line["who"]),
                (&json!("topic/a all"), &json!(format!("admin {LOOPBACK}")))
            );
            (line["what"].as_str().unwrap(), line["to"].as_str().unwrap())
        })
        .collect();
    let expected = [
        ("capture start", "60 s, 10000 records, with payload"),
        ("capture read", "0 records, with payload"),
        ("capture remove", "0 records, with payload"),
    ];
    assert_eq!(lines, expected);
}
