//! The router as a client meets it, and the listener's bounds over loopback.

mod capture;
mod console;
mod dictionaries;
mod messages;
mod profiles;
mod tail;

use super::guard::Peer;
use super::*;
use crate::clock::Clock;
use crate::control::{Control, Published};
use crate::phase::{Phase, PhaseCell};
use crate::storage::in_memory::{break_log, open_bounded, open_logged};
use crate::worker::mailbox::{Entry, Mailboxes};
use axum::body::Body;
use axum::http::{Request, header};
use futures_util::{FutureExt, StreamExt};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;
use waspmq_core::registry::{Registry, Session, SessionEntry};
use waspmq_core::{Close, Level, MessageId, Name, SessionId};
use waspmq_policy::{Host, HostOptions, Nobody};

const TOKEN: &str = "test-token";
const LOOPBACK: &str = "127.0.0.1:50000";
const ELSEWHERE: &str = "192.0.2.1:50000";

pub(crate) fn control() -> Control {
    let (clock, mailboxes) = (Clock::new(), Arc::new(Mailboxes::new(2)));
    let (store, journal) = crate::storage::in_memory::open(clock, &mailboxes);
    Control {
        clock,
        node: "node-1".into(),
        phase: Arc::new(PhaseCell::default()),
        registry: Arc::new(Registry::new(7, 0)),
        policies: Host::start(
            HostOptions { workers: 2, policies_max: 2, ..HostOptions::default() },
            Arc::new(Nobody),
        )
        .unwrap(),
        access: Arc::default(),
        tls: None,
        quic: Arc::default(),
        dictionaries: Arc::default(),
        tails: Arc::default(),
        mailboxes,
        store,
        store_bytes_max: 1 << 30,
        journal,
        audit: None,
    }
}

fn state(control: Control) -> AdminState {
    AdminState::new(control, TOKEN)
        .allow_origins(vec!["https://console.example".to_owned()])
        .allow_hosts(vec!["broker.example".to_owned()])
}

/// What came back.
struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks the shape of a problem document and gives it.
    #[track_caller]
    fn problem(&self, status: u16, name: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["type"], format!("urn:waspmq:problem:{name}"), "{problem}");
        assert_eq!(problem["status"], status);
        for key in ["title", "detail", "instance"] {
            assert!(problem[key].as_str().is_some_and(|text| !text.is_empty()), "{key} of {problem}");
        }
        problem
    }
}

struct Api {
    control: Control,
    router: Router,
}

impl Api {
    fn new() -> Self {
        Self::of(control())
    }

    fn of(control: Control) -> Self {
        Self { router: router(state(control.clone())), control }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// As the operator, from loopback, without a body.
    async fn call(&self, method: &str, path: &str) -> Answer {
        self.send(operator(method, path).body(Body::empty()).unwrap()).await
    }

    /// As the operator, with a JSON body.
    async fn call_with(&self, method: &str, path: &str, body: &str) -> Answer {
        let request = operator(method, path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len());
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    fn connect(&self, user: &str, count: u32) -> SessionId {
        let session = Session {
            id: SessionId::new(7, 1, count),
            worker: 1,
            user: Name::parse(user).unwrap(),
            device: Some(Name::parse("phone").unwrap()),
        };
        let id = session.id;
        let remote = "127.0.0.1:4000".parse().unwrap();
        let entry = SessionEntry {
            session,
            transport: "websocket+json",
            remote,
            connected_unix_ms: 1_790_000_000_000,
            is_generated: false,
        };
        self.control.registry.connect(entry, &*self.control.mailboxes).unwrap();
        id
    }
}

/// From `peer`, to loopback's name, without a token.
fn stranger(peer: &str, method: &str, path: &str) -> axum::http::request::Builder {
    let peer: SocketAddr = peer.parse().unwrap();
    Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:9471").extension(Peer(peer))
}

fn operator(method: &str, path: &str) -> axum::http::request::Builder {
    stranger(LOOPBACK, method, path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
}

fn empty(request: axum::http::request::Builder) -> Request<Body> {
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn who_needs_the_token() {
    let api = Api::new();
    api.control.phase.advance(Phase::Ready);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(api.send(empty(stranger(LOOPBACK, "GET", path))).await.status, 200, "{path}");
        assert_eq!(
            api.send(empty(stranger("[::ffff:127.0.0.1]:5", "GET", path))).await.status,
            200,
            "{path}"
        );
        api.send(empty(stranger(ELSEWHERE, "GET", path))).await.problem(401, "unauthorized");
        let unknown = Request::builder().uri(path).header(header::HOST, "localhost");
        api.send(empty(unknown)).await.problem(401, "unauthorized");
        let known = stranger(ELSEWHERE, "GET", path).header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
        assert_eq!(api.send(empty(known)).await.status, 200, "{path}");
    }
    for path in ["/v1/status", "/v1/openapi.json", "/v1/nowhere", "/metrics/"] {
        let refused = api.send(empty(stranger(LOOPBACK, "GET", path))).await;
        refused.problem(401, "unauthorized");
        assert!(refused.header("www-authenticate").starts_with("Bearer"));
    }
    let wrong = stranger(LOOPBACK, "GET", "/v1/status").header(header::AUTHORIZATION, "Bearer test-tokem");
    api.send(empty(wrong)).await.problem(401, "unauthorized");
    assert_eq!(api.call("GET", "/v1/status").await.status, 200);
}

#[tokio::test]
async fn open_probes_open_nothing_else() {
    let control = control();
    control.phase.advance(Phase::Ready);
    let api = Api { router: router(state(control.clone()).open_probes(true)), control };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(api.send(empty(stranger(ELSEWHERE, "GET", path))).await.status, 200, "{path}");
        let named = stranger(ELSEWHERE, "GET", path).header(header::ORIGIN, "https://evil.example");
        api.send(empty(named)).await.problem(403, "forbidden_origin");
    }
    for path in ["/metrics", "/v1/status", "/healthz/", "/readyz/"] {
        api.send(empty(stranger(ELSEWHERE, "GET", path))).await.problem(401, "unauthorized");
    }
    let forged = Request::builder().uri("/healthz").header(header::HOST, "evil.example");
    api.send(empty(forged)).await.problem(403, "forbidden_host");
}

#[tokio::test]
async fn forged_hosts_and_origins_are_refused_before_anything_else() {
    let api = Api::new();
    let with = |name: header::HeaderName, value: &'static str| {
        let mut request = empty(operator("GET", "/healthz"));
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    for host in ["evil.example", "127.0.0.1.evil.example:9471", ""] {
        api.send(with(header::HOST, host)).await.problem(403, "forbidden_host");
    }
    let mut without = empty(operator("GET", "/healthz"));
    without.headers_mut().remove(header::HOST);
    api.send(without).await.problem(403, "forbidden_host");
    let mut twice = empty(operator("GET", "/healthz"));
    twice.headers_mut().append(header::HOST, "127.0.0.1:9471".parse().unwrap());
    api.send(twice).await.problem(400, "bad_request");
    assert_eq!(api.send(with(header::HOST, "broker.example:9471")).await.status, 200);
    let target = |uri: &str| empty(operator("GET", uri));
    api.send(target("http://evil.example/healthz")).await.problem(403, "forbidden_host");
    assert_eq!(api.send(target("http://broker.example:9471/healthz")).await.status, 200);
    for origin in ["https://evil.example", "null", "http://127.0.0.1:9470", "http://localhost:9471"] {
        api.send(with(header::ORIGIN, origin)).await.problem(403, "forbidden_origin");
    }
    for origin in ["http://127.0.0.1:9471", "https://console.example"] {
        assert_eq!(api.send(with(header::ORIGIN, origin)).await.status, 200, "{origin}");
    }
}

#[tokio::test]
async fn bodies_that_a_page_can_send_without_asking_are_refused() {
    let api = Api::new();
    let put = |kind: Option<&str>, path: &str| {
        let mut request = operator("POST", path).header(header::CONTENT_LENGTH, 2);
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        request.body(Body::from("{}")).unwrap()
    };
    let simple = [
        "text/plain",
        "Text/Plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ];
    for kind in simple.into_iter().map(Some).chain([None]) {
        for path in ["/v1/publish", "/v1/plugins/p/revisions", "/v1/policies/p/rollback"] {
            api.send(put(kind, path)).await.problem(415, "unsupported_media_type");
        }
    }
    let told = api
        .send(put(Some("text/plain"), "/v1/plugins/p/revisions"))
        .await
        .problem(415, "unsupported_media_type");
    assert!(told["detail"].as_str().unwrap().contains("application/wasm"), "{told}");
    let mut twice = put(Some("application/json"), "/v1/publish");
    twice.headers_mut().append(header::CONTENT_TYPE, "text/plain".parse().unwrap());
    api.send(twice).await.problem(400, "bad_request");
    for path in ["/v1/groups/eng", "/v1/groups/eng/members/bob"] {
        api.call_with("PUT", path, "{}").await.problem(400, "bad_request");
    }
    assert_eq!(api.call("GET", "/v1/groups").await.json()["total"], 0);
    api.send(put(Some("application/wasm"), "/v1/publish")).await.problem(415, "unsupported_media_type");
    api.send(put(Some("application/json"), "/v1/plugins/p/revisions"))
        .await
        .problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    let api = Api::new();
    let problem = api.call("GET", "/v1/nowhere").await.problem(404, "no_such_endpoint");
    let endpoints = problem["endpoints"].as_array().unwrap();
    assert!(endpoints.contains(&json!("PUT /v1/policies/{name}")), "{problem}");
    assert!(endpoints.contains(&json!("GET /v1/history/{address}")), "{problem}");
    assert_eq!(problem["instance"], "/v1/nowhere");
    let refused = api.call("PATCH", "/v1/groups/eng").await;
    refused.problem(405, "method_not_allowed");
    for method in ["GET", "PUT", "DELETE"] {
        assert!(refused.header("allow").contains(method), "{}", refused.header("allow"));
    }
    api.call("GET", "/v1/groups/%ff").await.problem(400, "bad_request");
    api.call("PUT", "/v1/groups/a%20b").await.problem(400, "invalid_name");
    api.call("GET", "/v1/sessions/xyz").await.problem(400, "invalid_id");
    api.call("GET", "/v1/sessions?limit=0").await.problem(400, "invalid_query");
    api.call("GET", "/v1/sessions?limit=1001").await.problem(400, "invalid_query");
    let unknown = api.call("GET", "/v1/sessions?colour=red").await.problem(400, "invalid_query");
    assert!(unknown["detail"].as_str().unwrap().contains("colour"), "{unknown}");
}

#[tokio::test]
async fn health_follows_the_phase() {
    let api = Api::new();
    api.call("GET", "/readyz").await.problem(503, "not_ready");
    assert_eq!(api.call("GET", "/healthz").await.text, "ok\n");
    assert!(api.call("GET", "/metrics").await.text.contains("\nwaspmq_ready 0\n"));
    api.control.phase.advance(Phase::Ready);
    assert_eq!(api.call("GET", "/readyz").await.text, "ready\n");
    assert!(api.call("GET", "/metrics").await.text.contains("\nwaspmq_ready 1\n"));
    api.control.policies.note_missing("limits", "its component is damaged");
    assert!(api.call("GET", "/metrics").await.text.contains("\nwaspmq_ready 0\n"));
    let missing = api.call("GET", "/readyz").await.problem(503, "policy_not_ready");
    assert_eq!(missing["detail"], "policy \"limits\": its component is damaged");
    let status = api.call("GET", "/v1/status").await.json();
    assert_eq!(
        (&status["phase"], &status["node"], &status["epoch"]),
        (&json!("ready"), &json!("node-1"), &json!(7))
    );
    assert_eq!((&status["workers"], &status["generation"]), (&json!(2), &json!(0)));
    api.control.phase.advance(Phase::Draining);
    api.call("GET", "/readyz").await.problem(503, "not_ready");
    assert_eq!(api.call("HEAD", "/healthz").await.status, 200);
}

#[tokio::test]
async fn sessions_are_listed_and_ended() {
    let api = Api::new();
    let ids: Vec<_> = (1..=3).map(|count| api.connect("alice", count)).collect();
    api.connect("bob", 4);
    let page = api.call("GET", "/v1/sessions?user=alice&limit=2&offset=1").await.json();
    assert_eq!((&page["total"], &page["limit"], &page["offset"]), (&json!(3), &json!(2), &json!(1)));
    let expected = json!({
        "id": ids[1].to_string(), "user": "alice", "device": "phone", "transport": "websocket+json",
        "worker": 1, "remote": "127.0.0.1:4000", "connected_unix_ms": 1_790_000_000_000_u64,
    });
    assert_eq!(page["sessions"][0], expected);
    assert_eq!(page["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(api.call("GET", &format!("/v1/sessions/{}", ids[1])).await.json(), expected);
    assert_eq!(api.call("GET", "/v1/sessions").await.json()["total"], 4);
    assert_eq!(api.call("DELETE", &format!("/v1/sessions/{}", ids[0])).await.status, 204);
    let entry = api.control.mailboxes.of(1).pop();
    let expected =
        |entry: &Entry| matches!(entry, Entry::Close { session, close: Close::Kicked } if *session == ids[0]);
    assert!(entry.as_ref().is_some_and(expected), "{entry:?}");
    api.call("DELETE", "/v1/sessions/00000000000000ff").await.problem(404, "not_found");
}

#[tokio::test]
async fn groups_stay_as_they_are_where_the_journal_cannot_write_changes() {
    let directory = tempfile::tempdir().unwrap();
    let control = control();
    let (store, journal) = open_logged(directory.path(), (control.clock, &control.mailboxes));
    let api = Api::of(Control { store, journal, ..control });
    api.control.phase.advance(Phase::Ready);
    assert_eq!(api.call("PUT", "/v1/groups/eng/members/bob").await.status, 201);
    break_log(directory.path(), &api.control.journal);
    let before = api.call("GET", "/v1/groups/eng").await.json();
    for (method, path) in [
        ("PUT", "/v1/groups/ops"),
        ("PUT", "/v1/groups/eng/members/alice"),
        ("DELETE", "/v1/groups/eng/members/bob"),
        ("DELETE", "/v1/groups/eng"),
    ] {
        api.call(method, path).await.problem(503, "storage_failed");
    }
    assert_eq!(api.call("GET", "/v1/groups/eng").await.json(), before);
    assert_eq!(api.call("GET", "/v1/groups").await.json()["total"], 1);
}

#[tokio::test]
async fn groups_and_members_come_and_go() {
    let api = Api::new();
    assert_eq!(api.call("PUT", "/v1/groups/eng").await.status, 201);
    assert_eq!(api.call("PUT", "/v1/groups/eng").await.status, 200);
    assert_eq!(api.call("PUT", "/v1/groups/eng/members/bob").await.status, 201);
    assert_eq!(api.call("PUT", "/v1/groups/eng/members/bob").await.status, 200);
    assert_eq!(api.call("PUT", "/v1/groups/eng/members/alice").await.status, 201);
    assert_eq!(api.call("PUT", "/v1/groups/b%C3%BCro/members/bob").await.status, 201);
    for name in ["%2E", "%2e%2E", "a%E2%80%AEb"] {
        let path = format!("/v1/groups/{name}");
        api.call("PUT", &path).await.problem(400, "invalid_name");
        api.call("PUT", &format!("{path}/members/bob")).await.problem(400, "invalid_name");
    }
    let groups = api.call("GET", "/v1/groups").await.json();
    assert_eq!(
        groups["groups"],
        json!([{"group": "büro", "member_count": 1}, {"group": "eng", "member_count": 2}])
    );
    assert_eq!(
        api.call("GET", "/v1/groups/eng").await.json(),
        json!({"group": "eng", "member_count": 2, "members": ["alice", "bob"]})
    );
    let members = api.call("GET", "/v1/groups/eng/members?limit=1").await.json();
    assert_eq!(members, json!({"group": "eng", "total": 2, "limit": 1, "offset": 0, "members": ["alice"]}));
    assert_eq!(api.call("GET", "/v1/groups/eng/members/bob").await.status, 200);
    assert_eq!(api.call("DELETE", "/v1/groups/eng/members/bob").await.status, 204);
    api.call("GET", "/v1/groups/eng/members/bob").await.problem(404, "not_found");
    api.call("DELETE", "/v1/groups/eng/members/bob").await.problem(404, "not_found");
    assert_eq!(api.call("DELETE", "/v1/groups/eng").await.status, 204);
    api.call("GET", "/v1/groups/eng").await.problem(404, "not_found");
    api.call("DELETE", "/v1/groups/eng").await.problem(404, "not_found");
}

#[tokio::test]
async fn what_cannot_be_published_is_said() {
    let api = Api::new();
    let check = async |body: &str, status, name: &str, key: Option<&str>| {
        let problem = api.call_with("POST", "/v1/publish", body).await.problem(status, name);
        assert_eq!(problem["key"].as_str(), key, "{problem}");
        problem
    };
    let bad = check("{\n  \"to\": \"all\",\n  oops\n}", 400, "invalid_json", None).await;
    assert_eq!(bad["line"], 3, "{bad}");
    let unknown =
        check("{\"to\":\"all\",\n\"payload\":1,\n\"ttl\":5}", 422, "invalid_document", Some("ttl")).await;
    assert_eq!(unknown["line"], 3, "{unknown}");
    assert!(unknown["detail"].as_str().unwrap().contains("unknown field `ttl`"), "{unknown}");
    check(r#"{"to":"all","payload":1,"priority":"high"}"#, 422, "invalid_document", Some("priority")).await;
    check(r#"{"to":"all","payload":1} {}"#, 400, "invalid_json", None).await;
    check(r#"{"payload":1}"#, 422, "invalid_document", None).await;
    for other in [r#"["all",1,null,null,null,null,null,null,null]"#, "3", "null"] {
        let problem = check(other, 422, "invalid_document", None).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("expected an object") && !detail.contains("struct"), "{problem}");
    }
    check(r#"{"to":"topic/a.*","payload":1}"#, 422, "invalid_address", Some("to")).await;
    check(r#"{"to":"all"}"#, 422, "invalid_payload", Some("payload")).await;
    check(r#"{"to":"all","payload":1,"payload_b64":"AA=="}"#, 422, "invalid_payload", Some("payload")).await;
    check(r#"{"to":"all","payload_b64":"?"}"#, 422, "invalid_payload", Some("payload_b64")).await;
    check(r#"{"to":"all","payload":"\ud800"}"#, 422, "invalid_payload", Some("payload")).await;
    check(r#"{"to":"all","payload":1,"priority":10}"#, 422, "invalid_document", Some("priority")).await;
    check(
        r#"{"to":"all","payload":1,"headers":{"a":"1","a":"2"}}"#,
        422,
        "invalid_document",
        Some("headers"),
    )
    .await;
    let large = format!(r#"{{"to":"all","payload":"{}"}}"#, "x".repeat(limits::PUBLISH_BYTES_MAX));
    check(&large, 413, "body_too_large", None).await;
}

#[tokio::test]
async fn a_message_reaches_the_first_worker_and_its_answer_comes_back() {
    let api = Api::new();
    let body = r#"{"to":"topic/a","payload":null,"headers":{"z":"1","a":"2"},"key":"k","priority":9}"#;
    let answer = async {
        let mailbox = api.control.mailboxes.of(0);
        mailbox.woken().await;
        let Some(Entry::Publish { publication, answer }) = mailbox.pop() else { panic!("no publication") };
        let id = MessageId::new(1, 7, 0, 1);
        answer.try_send(Ok(Published { id, level: Level::Accepted, recipients: 3 })).unwrap();
        (publication, id)
    };
    let (sent, (publication, id)) = tokio::join!(api.call_with("POST", "/v1/publish", body), answer);
    assert_eq!(
        (sent.status, sent.json()),
        (200, json!({"id": id.to_string(), "level": "accepted", "recipients": 3}))
    );
    assert_eq!(publication.payload, b"null");
    assert!(publication.is_json && publication.priority == 9 && publication.key == "k");
    let headers = [("z", "1"), ("a", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(publication.headers, headers);
}

#[tokio::test]
async fn plugins_and_policies_are_refused_readably() {
    let api = Api::new();
    let upload = |name: &str, body: Vec<u8>| {
        let request = operator("POST", &format!("/v1/plugins/{name}/revisions"))
            .header(header::CONTENT_TYPE, "application/wasm")
            .header(header::CONTENT_LENGTH, body.len());
        api.send(request.body(Body::from(body)).unwrap())
    };
    let unfit = upload("p", b"hello".to_vec()).await.problem(422, "unfit_plugin");
    assert!(unfit["detail"].as_str().unwrap().contains("not WebAssembly"), "{unfit}");
    for name in ["Not-a-name", "%2E", "%2E%2E"] {
        upload(name, b"hello".to_vec()).await.problem(400, "invalid_name");
    }
    let large = vec![0; waspmq_policy::limits::PLUGIN_BYTES_MAX + 1];
    upload("p", large).await.problem(413, "body_too_large");
    assert_eq!(api.call("GET", "/v1/plugins").await.json(), json!({"plugins": [], "refused": []}));
    api.call("GET", "/v1/plugins/p").await.problem(404, "not_found");
    api.call("DELETE", "/v1/plugins/p").await.problem(404, "not_found");
    let put = async |body: &str| api.call_with("PUT", "/v1/policies/p", body).await;
    let unknown = put(r#"{"hook":"routing","plugin":"p","match":["all"],"limits":{"cpu":1}}"#).await;
    assert_eq!(unknown.problem(422, "invalid_document")["key"], "limits.cpu");
    let bounds = put(r#"{"hook":"routing","plugin":"p","match":["all"],"limits":{"deadline_ms":1}}"#).await;
    assert_eq!(bounds.problem(422, "invalid_document")["key"], "limits.deadline_ms");
    let twice =
        put(r#"{"hook":"routing","match":["all"],"rules":[{"then":"deliver","then":{"drop":"x"}}]}"#).await;
    let twice = twice.problem(422, "invalid_document");
    assert_eq!(twice["key"], "rules[0].then", "{twice}");
    put(r#"{"hook":"routing","plugin":"p","match":["all"]}"#).await.problem(422, "unknown_plugin");
    let share =
        put(r#"{"hook":"routing","plugin":"p","match":["all"],"mode":"off","canary_percent":5}"#).await;
    assert_eq!(share.problem(422, "invalid_document")["key"], "canary_percent");
    assert_eq!(api.call("GET", "/v1/policies").await.json(), json!({"generation": 0, "policies": []}));
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/rollback"), ("POST", "/promote")] {
        api.call(method, &format!("/v1/policies/p{path}")).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_policy_is_on_trial_while_nothing_but_its_candidate_decides() {
    let api = Api::new();
    let put = async |more: &str| {
        let body = format!(r#"{{"hook":"routing","match":["all"],"rules":[{{"then":"deliver"}}]{more}}}"#);
        api.call_with("PUT", "/v1/policies/p", &body).await.json()["state"].clone()
    };
    assert_eq!(put(r#","canary_percent":99"#).await, "trial");
    assert_eq!(put(r#","mode":"off""#).await, "off");
    assert_eq!(put(r#","canary_percent":99"#).await, "trial");
    assert_eq!(put("").await, "active");
    assert_eq!(put(r#","canary_percent":99"#).await, "active");
}

/// `WASPMQ_BLESS=1 cargo test -p waspmq openapi` writes the file anew.
#[test]
fn openapi_is_the_copy_in_docs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let mut text = serde_json::to_string_pretty(&openapi::describe()).unwrap();
    text.push('\n');
    if std::env::var_os("WASPMQ_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    assert!(
        kept == text,
        "docs/openapi.json is not what the handlers say; run with WASPMQ_BLESS=1 and look at the difference"
    );
}

#[test]
fn operations_have_names_of_their_own() {
    let api = serde_json::to_value(openapi::describe()).unwrap();
    let items = api["paths"].as_object().unwrap().values();
    let operations: Vec<&Value> = items.flat_map(|item| item.as_object().unwrap().values()).collect();
    let names: std::collections::BTreeSet<_> =
        operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!((names.len(), operations.len()), (50, 50), "{names:?}");
    assert!(api["components"]["schemas"]["Problem"]["properties"]["detail"].is_object());
}

#[test]
fn every_endpoint_is_in_the_guide() {
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ADMIN.md")).unwrap();
    for endpoint in openapi::list() {
        assert!(guide.contains(&format!("`{endpoint}`")), "docs/ADMIN.md does not have `{endpoint}`");
    }
}

/// Lines of the target `audit`, as they are written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "current_thread")]
async fn every_change_is_one_line() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter("audit=info")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let directory = tempfile::tempdir().unwrap();
    let audit = waspmq_store::AuditLog::open(directory.path().join("audit.log")).unwrap();
    let control = Control { audit: Some(Arc::new(audit)), ..control() };
    let api = Api { router: router(state(control.clone())), control };
    let id = api.connect("alice", 1);
    for (method, path) in [
        ("PUT", "/v1/groups/eng".to_owned()),
        ("PUT", "/v1/groups/eng".to_owned()),
        ("PUT", "/v1/groups/eng/members/alice".to_owned()),
        ("DELETE", "/v1/groups/eng/members/alice".to_owned()),
        ("DELETE", "/v1/groups/eng/members/alice".to_owned()),
        ("DELETE", "/v1/groups/eng".to_owned()),
        ("DELETE", format!("/v1/sessions/{id}")),
        ("GET", "/v1/sessions".to_owned()),
    ] {
        api.call(method, &path).await;
    }
    let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let expected =
        ["group create", "group member add", "group member remove", "group remove", "session close"];
    assert_eq!(written.lines().count(), expected.len(), "{written}");
    for (line, what) in written.lines().zip(expected) {
        assert!(line.contains(&format!("what=\"{what}\"")), "{line}");
        assert!(
            line.contains(&format!("who=\"admin {LOOPBACK}\"")) && line.contains("generation=0"),
            "{line}"
        );
    }
    let kept = api.call("GET", "/v1/audit").await.json();
    let changes = kept["changes"].as_array().unwrap();
    let kept: Vec<_> = changes.iter().map(|change| change["what"].as_str().unwrap()).collect();
    assert_eq!(kept, expected);
    assert_eq!(
        (&changes[1]["name"], &changes[1]["to"], &changes[1]["seq"]),
        (&json!("eng"), &json!("alice"), &json!(2))
    );
    assert!(changes.iter().all(|change| change["who"] == format!("admin {LOOPBACK}")));
}

#[tokio::test]
async fn the_audit_log_is_paged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let audit = Arc::new(waspmq_store::AuditLog::open(&path).unwrap());
    let control = Control { audit: Some(audit), ..control() };
    let api = Api { router: router(state(control.clone())), control };
    for n in 0..5 {
        api.call("PUT", &format!("/v1/groups/g{n}")).await;
    }
    let page = async |query: &str| {
        let page = api.call("GET", &format!("/v1/audit{query}")).await.json();
        let changes = page["changes"].as_array().unwrap().iter();
        (changes.map(|change| change["seq"].as_u64().unwrap()).collect::<Vec<_>>(), page["next"].clone())
    };
    assert_eq!(page("").await, (vec![1, 2, 3, 4, 5], Value::Null));
    assert_eq!(page("?limit=2").await, (vec![4, 5], Value::Null));
    assert_eq!(page("?limit=2&after=0").await, (vec![1, 2], json!("2")));
    assert_eq!(page("?limit=2&after=3").await, (vec![4, 5], Value::Null));
    assert_eq!(page("?after=5").await, (vec![], Value::Null));
    for query in ["?limit=0", "?limit=1001", "?after=x", "?before=1"] {
        api.call("GET", &format!("/v1/audit{query}")).await.problem(400, "invalid_query");
    }
    // A file that cannot be read is an error, and no empty log.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    api.call("GET", "/v1/audit").await.problem(503, "storage_failed");
}

/// Serves on loopback while `client` runs; the listener must end by itself afterwards.
async fn served<T>(client: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = serve(listener, state(control()), async {
        drop(stopped.await);
    });
    let client = async {
        let result = client(address).await;
        drop(stop);
        result
    };
    let (ended, result) = tokio::join!(server, client);
    ended.unwrap();
    result
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes).await);
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn the_listener_tells_the_peer_and_ends() {
    let answer = served(async |address| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer}");
}

/// The clock jumps whenever nothing else is to do, so no time passes.
#[tokio::test(start_paused = true)]
async fn a_slow_head_a_slow_body_and_an_idle_connection_end() {
    served(async |address| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc").await.unwrap();
        assert!(!read_to_end(&mut stream).await.contains("200"));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /v1/publish HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 408"));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(read_to_end(&mut stream).await.ends_with("ok\n"), "an idle connection is closed");
    })
    .await;
}

#[tokio::test]
async fn connections_above_the_bound_take_the_place_of_those_that_wait() {
    served(async |address| {
        let mut held = Vec::new();
        for _ in 0..2 * limits::CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(format!("POST /v1/publish HTTP/1.1\r\nHost: {address}\r\n").as_bytes())
                .await
                .unwrap();
            held.push(stream);
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        probe.write_all(request.as_bytes()).await.unwrap();
        assert!(read_to_end(&mut probe).await.ends_with("ok\n"));
        assert_eq!(read_to_end(&mut held[0]).await, "", "closed");
        let mut byte = [0; 1];
        let last = held.last().unwrap().try_read(&mut byte);
        assert!(last.is_err(), "the last ones still wait: {last:?}");
    })
    .await;
}

#[tokio::test]
async fn publishes_that_wait_leave_room_for_other_requests() {
    served(async |address| {
        let body = r#"{"to":"user/nobody","payload":1,"ack":"delivered"}"#;
        let head = |line: &str, length: usize| {
            format!(
                "{line} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            )
        };
        let mut waiting = Vec::new();
        for _ in 0..limits::CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all((head("POST /v1/publish", body.len()) + body).as_bytes()).await.unwrap();
            waiting.push(stream);
        }
        let ask = async |line: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head(line, 0).as_bytes()).await.unwrap();
            read_to_end(&mut stream).await
        };
        assert!(ask("GET /healthz").await.ends_with("ok\n"));
        assert!(ask("GET /v1/status").await.starts_with("HTTP/1.1 200"));
        let answers: futures_util::stream::FuturesUnordered<_> =
            waiting.iter_mut().map(read_to_end).collect();
        let refused = limits::CONNECTIONS_MAX - limits::PUBLISHES_WAITING_MAX;
        let refused: Vec<_> = answers.take(refused).collect().await;
        for answer in refused {
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("problem:overloaded"), "{answer}");
            assert!(answer.contains("retry-after: 1"), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn requests_above_the_bound_are_refused_and_probes_are_not() {
    let api = Api::new();
    let body = r#"{"to":"topic/a","payload":1}"#;
    let mut served: futures_util::stream::FuturesUnordered<_> =
        (0..limits::REQUESTS_MAX).map(|_| api.call_with("POST", "/v1/publish", body)).collect();
    // Nobody answers them.
    assert!(served.next().now_or_never().is_none());
    let refused = api.call("GET", "/v1/status").await.problem(503, "overloaded");
    assert_eq!(refused["retry_ms"], 1_000);
    assert_eq!(api.call("GET", "/healthz").await.status, 200);
    drop(served);
    assert_eq!(api.call("GET", "/v1/status").await.status, 200);
}
