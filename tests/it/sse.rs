//! Server-sent events and requests, as the wire has them.

use crate::bridge::events::{Event, Http};
use crate::harness::{Broker, PATIENCE};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Opens the events of a session; gives its `welcome` and the id behind it.
async fn open(broker: &Broker, query: &str, headers: &str) -> (Http, Value, String) {
    let mut events = Http::connect(broker).await;
    events.write("GET", &format!("/sse?{query}"), headers, "").await;
    let answer = events.answer().await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("text/event-stream"), "{answer:?}");
    let Event::Frame(welcome) = events.event().await else { panic!("a welcome") };
    assert_eq!(welcome["type"], "welcome");
    let Event::Id(id) = events.event().await else { panic!("an id") };
    (events, welcome, id)
}

fn token(welcome: &Value) -> &str {
    welcome["resume_token"].as_str().unwrap()
}

async fn next_id(events: &mut Http) -> String {
    loop {
        match events.event().await {
            Event::Id(id) => return id,
            Event::End => panic!("the events ended"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_browser_that_comes_back_gets_what_it_missed_and_nothing_twice() {
    let broker = Broker::start_with_config("[[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\n");
    let mut alice = broker.connect("alice").await;
    let query = "user=bob&to=topic/a&to=topic/b.%3E&from=earliest";
    let publish = |n: u32| json!({"type": "publish", "ref": n, "to": if n.is_multiple_of(2) { "topic/a" } else { "topic/b.c" }, "payload": n, "ack": "stored"});
    for n in 0..4 {
        assert_eq!(alice.ask(publish(n)).await["type"], "receipt");
    }
    let (mut events, first, mut id) = open(&broker, query, "").await;
    assert_eq!(first["resumed"], false);
    assert!(id.starts_with(token(&first)), "{id}");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        match events.event().await {
            Event::Frame(frame) => seen.push(frame["payload"].as_u64().unwrap()),
            Event::Id(next) => id = next,
            other => panic!("{other:?}"),
        }
    }
    let last = next_id(&mut events).await;
    assert!(last.split(',').count() >= 2 && last != id, "{last}");
    drop(events);
    for n in 4..8 {
        assert_eq!(alice.ask(publish(n)).await["type"], "receipt");
    }
    // The same address as at first, as a browser has it.
    let (mut events, again, _) = open(&broker, query, &format!("Last-Event-ID: {last}\r\n")).await;
    assert_eq!((&again["resumed"], &again["recovered"]), (&json!(true), &json!(true)), "{again}");
    assert_ne!(token(&again), token(&first), "a token is used once");
    while seen.len() < 8 {
        seen.push(events.frame().await.unwrap()["payload"].as_u64().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..8).collect::<Vec<_>>(), "nothing missing, nothing twice");
}

#[tokio::test]
async fn requests_are_answered_by_what_they_did() {
    let broker = Broker::start();
    let (mut events, welcome, _) = open(&broker, "user=alice", "").await;
    let token = token(&welcome).to_owned();
    let mut posts = Http::connect(&broker).await;
    let publish = r#"{"type":"publish","ref":1,"to":"user/alice","payload":1,"ack":"accepted"}"#;
    assert_eq!(posts.post("/publish", &token, publish).await, (202, json!({"frames": 1})));
    let (first, second) = (events.frame().await.unwrap(), events.frame().await.unwrap());
    let types = [first["type"].as_str().unwrap(), second["type"].as_str().unwrap()];
    assert!(types.contains(&"receipt") && types.contains(&"message"), "{first} {second}");
    // The connection is kept, and every fault is told with a reason.
    for (path, body, code) in [
        ("/ack", publish, 1400),
        ("/publish", r#"{"type":"ping"}"#, 1400),
        ("/frames", r#"{"type":"connect","user":"alice"}"#, 1400),
        ("/frames", "nonsense", 1400),
        ("/frames", "  ", 1400),
        ("/frames", r#"{"type":"frobnicate"}"#, 1405),
    ] {
        let (status, error) = posts.post(path, &token, body).await;
        assert_eq!((status, &error["code"]), (400, &json!(code)), "{path} {body}: {error}");
    }
    let body = "{\"type\":\"ping\"}\n{\"type\":\"subscribe\",\"ref\":5,\"to\":\"topic/t\"}";
    assert_eq!(posts.post("/frames", &token, body).await, (202, json!({"frames": 2})));
    assert_eq!(events.frame().await.unwrap(), json!({"type": "pong"}));
    assert_eq!(events.frame().await.unwrap(), json!({"type": "ok", "ref": 5}));
    let ack = r#"{"type":"ack","ref":6,"ids":["00000000000000000000000000000001"]}"#;
    assert_eq!(posts.post("/ack", &token, ack).await.0, 202);
    assert_eq!(events.frame().await.unwrap()["code"], 1430, "what a frame came to is an event");
    assert_eq!(broker.metric("waspmq_connections{transport=\"sse\"}"), Some(2.0));
}

#[tokio::test]
async fn requests_of_nobody_are_refused_and_end_the_connection() {
    let broker = Broker::start();
    let (_events, welcome, _) = open(&broker, "user=alice", "").await;
    let bearer = format!("Authorization: Bearer {}\r\n", token(&welcome));
    let ping = r#"{"type":"ping"}"#;
    let twice = format!("{bearer}{bearer}");
    let long = format!("{bearer}Content-Length: 99999999\r\n");
    let foreign = format!("{bearer}Origin: http://elsewhere.example\r\n");
    for (method, target, headers, body, status) in [
        ("POST", "/frames", "", ping, 401),
        ("POST", "/frames", "Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n", ping, 401),
        ("POST", "/frames", "Authorization: Basic YTpi\r\n", ping, 401),
        ("POST", "/frames", &*twice, ping, 401),
        ("GET", "/frames", &*bearer, "", 405),
        ("POST", "/frames", &*bearer, "", 411),
        ("POST", "/frames", &*long, "", 413),
        ("POST", "/frames", &*foreign, ping, 403),
        ("POST", "/sse", "", ping, 405),
        ("POST", "/elsewhere", &*bearer, ping, 404),
        ("GET", "/sse?user=a%20b", "", "", 400),
        ("GET", "/sse?user=a", "Last-Event-ID: a,b,c\r\n", "", 400),
        ("GET", "/sse?user=a", "Origin: http://elsewhere.example\r\n", "", 403),
        // An image of a page elsewhere, which has no origin.
        ("GET", "/sse?user=a", "Sec-Fetch-Site: cross-site\r\n", "", 403),
        // What stands behind it is no request of its own.
        ("OPTIONS", "/publish", "", "GET /sse?user=a HTTP/1.1\r\nHost: h\r\n\r\n", 204),
    ] {
        let mut http = Http::connect(&broker).await;
        http.write(method, target, headers, body).await;
        let answer = http.answer().await.unwrap();
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        assert!(http.answer().await.is_none(), "{method} {target} ends the connection");
    }
    let (_events, welcome, _) = open(&broker, "user=alice", "").await;
    let mut posts = Http::connect(&broker).await;
    assert_eq!(posts.post("/frames", token(&welcome), ping).await.0, 202, "others are served");
}

#[test]
fn who_asks_for_the_head_alone_gets_no_body() {
    let broker = Broker::start();
    for (target, headers, status, also) in [
        ("/", "Host: localhost\r\n", 404, ""),
        ("/ws", "Host: localhost\r\n", 426, ""),
        ("/sse?user=a", "Host: localhost\r\n", 405, "\r\nAllow: GET\r\n"),
        ("/publish", "Host: localhost\r\n", 405, "\r\nAllow: POST\r\n"),
        ("/frames", "Host: localhost\r\n", 405, "\r\nAllow: POST\r\n"),
        ("/sse", "", 400, ""),
    ] {
        let mut socket = TcpStream::connect(&broker.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "HEAD {target} HTTP/1.1\r\n{headers}\r\n").unwrap();
        let mut said = String::new();
        socket.read_to_string(&mut said).unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {said}");
        assert!(said.contains(also), "{target}: {said}");
        assert!(said.contains("Content-Length: ") && said.ends_with("\r\n\r\n"), "{target}: {said}");
    }
}

#[tokio::test]
async fn requests_may_follow_one_another_at_once_and_may_wait_to_be_let_in() {
    let broker = Broker::start();
    let (mut events, welcome, _) = open(&broker, "user=alice", "").await;
    let bearer = format!("Authorization: Bearer {}", token(&welcome));
    let mut posts = Http::connect(&broker).await;
    let request = |n: u32| {
        let body = json!({"type": "subscribe", "ref": n, "to": "topic/t"}).to_string();
        format!(
            "POST /frames HTTP/1.1\r\nHost: {}\r\n{bearer}\r\nContent-Length: {}\r\n\r\n{body}",
            broker.address,
            body.len()
        )
    };
    let all: String = (0..20).map(request).collect();
    posts.write_raw(&all).await;
    for n in 0..20 {
        assert_eq!(posts.answer().await.unwrap().status, 202);
        assert_eq!(events.frame().await.unwrap(), json!({"type": "ok", "ref": n}));
    }
    // In pieces, the body behind the permission.
    let body = r#"{"type":"ping"}"#;
    let head = format!(
        "POST /frames HTTP/1.1\r\nHost: {}\r\n{bearer}\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        broker.address,
        body.len()
    );
    posts.write_raw(&head).await;
    assert_eq!(posts.answer().await.unwrap().status, 100);
    posts.write_raw(&body[..5]).await;
    posts.write_raw(&body[5..]).await;
    assert_eq!(posts.answer().await.unwrap().status, 202);
    assert_eq!(events.frame().await.unwrap(), json!({"type": "pong"}));
    assert!(posts.answer().await.is_none(), "as was asked for");
}

#[tokio::test]
async fn a_session_goes_on_over_another_transport_and_its_requests_are_told_so() {
    let broker = Broker::start();
    let (mut events, welcome, _) = open(&broker, "user=alice&device=d", "").await;
    let mut socket = broker.open(Some("waspmq.v1.json")).await;
    let resume = json!({"token": token(&welcome), "positions": []});
    socket.send(&json!({"type": "connect", "user": "alice", "device": "d", "resume": resume})).await;
    let taken = socket.receive().await;
    assert_eq!((&taken["type"], &taken["resumed"]), (&json!("welcome"), &json!(true)));
    let close = events.frame().await.unwrap();
    assert_eq!((&close["type"], &close["code"]), (&json!("close"), &json!(4003)), "{close}");
    assert_eq!(events.event().await, Event::End);
    let mut posts = Http::connect(&broker).await;
    let (status, error) = posts.post("/frames", token(&taken), r#"{"type":"ping"}"#).await;
    assert_eq!((status, &error["code"]), (409, &json!(1406)), "{error}");
    let mut posts = Http::connect(&broker).await;
    assert_eq!(
        posts.post("/frames", token(&welcome), r#"{"type":"ping"}"#).await.0,
        401,
        "the token is used up"
    );
}

#[tokio::test]
async fn a_session_without_a_connection_takes_nothing() {
    let mut broker = Broker::start();
    let (events, welcome, id) = open(&broker, "user=alice", "").await;
    let ping = r#"{"type":"ping"}"#;
    drop(events);
    loop {
        let (status, error) = Http::connect(&broker).await.post("/frames", token(&welcome), ping).await;
        if status == 409 {
            assert_eq!(error["code"], 1406);
            break;
        }
        assert_eq!(status, 202, "until it is noticed: {error}");
    }
    // A session of an earlier run is with no worker of this one, however many there were.
    broker.restart_after("TERM");
    let (status, error) = Http::connect(&broker).await.post("/frames", token(&welcome), ping).await;
    assert_eq!((status, &error["code"]), (409, &json!(1406)), "{error}");
    let (_events, again, _) = open(&broker, "user=alice", &format!("Last-Event-ID: {id}\r\n")).await;
    assert_eq!(again["resumed"], true);
    assert_eq!(Http::connect(&broker).await.post("/frames", token(&again), ping).await.0, 202);
}

#[tokio::test]
async fn events_need_sessions_that_can_be_resumed() {
    let broker = Broker::start_with(&[("WASPMQ_STORE__RESUME_WINDOW_MS", "0")]);
    let mut events = Http::connect(&broker).await;
    events.write("GET", "/sse?user=alice", "", "").await;
    let answer = events.answer().await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("resume_window_ms"), "{answer:?}");
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_by_name() {
    let broker = Broker::start_with(&[("WASPMQ_ACCESS__ALLOWED_ORIGINS", "http://app.example")]);
    let origin = "Origin: http://app.example\r\n";
    let mut http = Http::connect(&broker).await;
    http.write("OPTIONS", "/publish", &format!("{origin}Access-Control-Request-Method: POST\r\n"), "").await;
    let answer = http.answer().await.unwrap();
    assert_eq!(answer.status, 204);
    assert!(answer.head.contains("Access-Control-Allow-Origin: http://app.example"), "{answer:?}");
    assert!(answer.head.contains("Authorization"), "{answer:?}");
    let mut events = Http::connect(&broker).await;
    events.write("GET", "/sse?user=alice", origin, "").await;
    let answer = events.answer().await.unwrap();
    assert!(answer.status == 200 && answer.head.contains("Access-Control-Allow-Origin: http://app.example"));
    let welcome = events.frame().await.unwrap();
    let headers = format!("{origin}Authorization: Bearer {}\r\n", token(&welcome));
    // The connection that was asked for permission serves the request, too.
    http.write("POST", "/frames", &headers, r#"{"type":"ping"}"#).await;
    let answer = http.answer().await.unwrap();
    assert!(answer.status == 202 && answer.head.contains("Access-Control-Allow-Origin: http://app.example"));
}

#[tokio::test]
async fn whoever_leaves_service_says_when_to_come_back() {
    let mut broker = Broker::start_with(&[("WASPMQ_LIMITS__HEARTBEAT_MS", "1000")]);
    let (mut events, ..) = open(&broker, "user=alice", "").await;
    assert_eq!(events.event().await, Event::Comment, "something comes when nothing is said");
    broker.signal("TERM");
    let (mut goaway, mut retry) = (false, false);
    loop {
        match events.event().await {
            Event::Frame(frame) if frame["type"] == "goaway" => goaway = true,
            Event::Frame(frame) => {
                assert_eq!((&frame["type"], &frame["code"]), (&json!("close"), &json!(4100)))
            }
            Event::Retry(ms) => retry = ms > 0,
            Event::End => break,
            Event::Id(_) | Event::Comment => {}
        }
    }
    assert!(goaway && retry);
    assert!(broker.wait().success());
}

#[tokio::test]
async fn a_session_that_says_something_behind_its_request_is_closed() {
    let broker = Broker::start();
    let (mut events, ..) = open(&broker, "user=alice", "").await;
    events.write_raw("GET /sse HTTP/1.1\r\n").await;
    let close = events.frame().await.unwrap();
    assert_eq!((&close["type"], &close["code"]), (&json!("close"), &json!(4000)), "{close}");
    assert_eq!(events.event().await, Event::End);
}
