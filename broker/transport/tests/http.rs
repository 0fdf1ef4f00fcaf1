//! Request heads and the opening handshake.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use waspmq_transport::http::{
    Answer, Asker, Refusal, Request, accept_response, error_response, events_response, parse,
    preflight_response,
};
use waspmq_transport::limits::HEAD_BYTES_MAX;

/// RFC 6455, 1.2.
const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn parsed(head: &str) -> Request<'_> {
    parse(head.as_bytes()).unwrap().unwrap()
}

/// The handshake with one part exchanged.
fn handshake_with(from: &str, to: &str) -> String {
    assert!(HANDSHAKE.contains(from), "{from}");
    HANDSHAKE.replacen(from, to, 1)
}

fn check_refused(head: &str, status: u16) -> Refusal {
    let refusal = parse(head.as_bytes()).expect_err(head);
    assert_eq!(refusal.status, status, "{refusal} for {head}");
    assert!(refusal.body.ends_with('.'), "{refusal}");
    refusal
}

#[test]
fn example_of_the_rfc() {
    let request = parsed(HANDSHAKE);
    assert_eq!((request.method, request.path, request.query), ("GET", "/chat", None));
    assert_eq!(request.host, Some("server.example.com"));
    assert_eq!(request.origin, Some("http://example.com"));
    assert_eq!(request.head_bytes, HANDSHAKE.len());
    let upgrade = request.upgrade.unwrap();
    assert_eq!(upgrade.key, "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(upgrade.subprotocols, ["chat", "superchat"]);
    let mut answer = Vec::new();
    accept_response(upgrade.key, Some("chat"), None, &mut answer);
    assert_eq!(
        String::from_utf8(answer).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    );
}

#[test]
fn a_head_may_arrive_in_any_pieces_with_bytes_behind_it() {
    for end in 0..HANDSHAKE.len() {
        assert_eq!(parse(&HANDSHAKE.as_bytes()[..end]), Ok(None), "{end}");
    }
    let with_frames = [HANDSHAKE.as_bytes(), &[0xff; 3 * HEAD_BYTES_MAX]].concat();
    assert_eq!(parse(&with_frames).unwrap().unwrap(), parsed(HANDSHAKE));
}

#[test]
fn tokens_in_any_case_and_in_lists() {
    for (from, to) in [
        ("Upgrade: websocket", "upgrade: h2c, WebSocket"),
        ("Upgrade: websocket", "Upgrade: h2c\r\nUPGRADE: WEBSOCKET"),
        ("Connection: Upgrade", "connection: keep-alive, upgrade"),
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: UPGRADE"),
        ("Host: server.example.com", "hOST:  server.example.com \t"),
    ] {
        let head = handshake_with(from, to);
        let request = parsed(&head);
        assert!(request.upgrade.is_some(), "{head}");
        assert_eq!(request.host, Some("server.example.com"));
    }
    let head = handshake_with("chat, superchat", "a\r\nSec-WebSocket-Protocol: b,,c");
    let upgrade = parsed(&head).upgrade.unwrap();
    assert_eq!(upgrade.subprotocols, ["a", "b", "c"]);
}

/// The answer to a handshake with these offers, each a header of its own.
fn answer_to(offers: &[&str]) -> Option<String> {
    let lines: String = offers.iter().map(|offer| format!("Sec-WebSocket-Extensions: {offer}\r\n")).collect();
    let head = handshake_with("Origin:", &format!("{lines}Origin:"));
    let upgrade = parsed(&head).upgrade.unwrap();
    let mut answer = Vec::new();
    accept_response(upgrade.key, None, upgrade.deflate, &mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let mut lines = answer.lines().filter_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    let extension = lines.next().map(str::to_owned);
    assert_eq!(lines.next(), None);
    assert_eq!(extension.is_some(), upgrade.deflate.is_some());
    extension
}

#[test]
fn offers_of_compression_that_are_taken() {
    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    const WINDOW: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                          server_max_window_bits=12";
    for (offers, answer) in [
        (&["permessage-deflate"][..], PLAIN),
        (&["PerMessage-Deflate"], PLAIN),
        // Browsers, Node's `ws` and Python's `websockets`; a client with little memory; Go's.
        (&["permessage-deflate; client_max_window_bits"], PLAIN),
        (&["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"], WINDOW),
        (&["permessage-deflate; client_no_context_takeover; server_no_context_takeover"], PLAIN),
        (&["permessage-deflate;client_max_window_bits=8"], PLAIN),
        (&["permessage-deflate ; server_max_window_bits = \"15\" "], WINDOW),
        (&[r#"permessage-deflate; server_max_window_bits="1\5""#], WINDOW),
        (&["x-webkit-deflate-frame, permessage-deflate"], PLAIN),
        (&[r#"x-a; b="c\d"; e, ,permessage-deflate,"#], PLAIN),
        (&["permessage-bzip2; level=5", "permessage-deflate"], PLAIN),
        (&["permessage-deflate; server_max_window_bits=10, permessage-deflate"], PLAIN),
        (&["permessage-deflate; server_max_window_bits=13", "permessage-deflate"], WINDOW),
        (&["permessage-deflate", "permessage-deflate; server_max_window_bits=13"], PLAIN),
        (&["permessage-deflate; unknown, permessage-deflate; client_max_window_bits"], PLAIN),
    ] {
        assert_eq!(answer_to(offers).as_deref(), Some(answer), "{offers:?}");
    }
}

#[test]
fn offers_of_compression_that_are_declined() {
    assert_eq!(answer_to(&[]), None);
    for offer in [
        "",
        "deflate",
        "permessage-deflate2",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=11",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=012",
        "permessage-deflate; server_max_window_bits=+12",
        "permessage-deflate; server_max_window_bits=99999999999",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=x",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=\"true\"",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; level=9",
        "permessage-deflate; Client_Max_Window_Bits",
    ] {
        assert_eq!(answer_to(&[offer]), None, "{offer}");
    }
}

#[test]
fn offers_that_are_malformed_are_refused() {
    for offer in [
        "permessage deflate",
        "permessage-deflate;",
        "permessage-deflate; =10",
        "permessage-deflate; a=",
        r#"permessage-deflate; a="b"#,
        r#"permessage-deflate; a="b c""#,
        r#"permessage-deflate; a="b\"#,
        r#"permessage-deflate; a="""#,
        // In quotes, too, only a token may stand (RFC 6455, 9.1).
        r#"x-a; b="c,d", permessage-deflate"#,
        "permessage-deflate / x",
        "; a",
        "\"permessage-deflate\"",
    ] {
        let head = handshake_with("Origin:", &format!("Sec-WebSocket-Extensions: {offer}\r\nOrigin:"));
        check_refused(&head, 400);
    }
}

#[test]
fn handshakes_that_miss_something() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (from, to, status) in [
        ("GET", "POST", 405),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("Host: server.example.com\r\n", "", 400),
        ("Connection: Upgrade", "Connection: close", 400),
        ("Connection: Upgrade\r\n", "", 400),
        ("Version: 13", "Version: 8", 426),
        ("Version: 13", "Version: 13, 8", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        (key, "", 400),
        (key, "Sec-WebSocket-Key: \r\n", 400),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ\r\n", 400),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZTEy\r\n", 400),
        (key, "Sec-WebSocket-Key: !GhlIHNhbXBsZSBub25jZQ==\r\n", 400),
        (key, &key.repeat(2), 400),
        ("chat, superchat", "chat, super chat", 400),
        ("Origin: http://example.com", "Origin: http://a\r\nOrigin: http://b", 400),
        ("Host: server.example.com", "Host: a\r\nHost: b", 400),
        ("Origin: http://example.com", "Content-Length: 5", 400),
        ("Origin: http://example.com", "Transfer-Encoding: chunked", 411),
    ] {
        check_refused(&handshake_with(from, to), status);
    }
}

#[test]
fn requests_that_do_not_ask_for_websocket() {
    let head = "POST /publish?to=topic/a&x HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nauthorization: Bearer t\r\n\r\n";
    let request = parsed(head);
    assert_eq!((request.method, request.path, request.query), ("POST", "/publish", Some("to=topic/a&x")));
    assert_eq!(request.content_length, Some(12));
    assert_eq!(request.header("Authorization"), Some("Bearer t"));
    assert_eq!(request.header("Accept"), None);
    assert_eq!((request.upgrade, request.origin), (None, None));
    assert_eq!(parsed("GET / HTTP/1.0\r\n\r\n").host, None);
    assert_eq!(
        parsed("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n").upgrade,
        None
    );
}

#[test]
fn absolute_targets() {
    for (target, host, path, query) in [
        ("http://b.example:9470/ws?x=1", "b.example:9470", "/ws", Some("x=1")),
        ("ws://b.example", "b.example", "/", None),
        ("http://b.example?x=/1", "b.example", "/", Some("x=/1")),
        ("/ws?u=http://c", "a.example", "/ws", Some("u=http://c")),
        ("*", "a.example", "*", None),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let request = parsed(&head);
        assert_eq!((request.host, request.path, request.query), (Some(host), path, query));
    }
}

#[test]
fn heads_that_are_not_http() {
    check_refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    check_refused("\u{1}\u{2}\u{3}", 400);
    check_refused("GET / HTTP/1.1\r\nHost: a\r\nbad header: x\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400);
    check_refused("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400);
    assert!(parse(&[0x16]).unwrap_err().body.contains("TLS"));
}

#[test]
fn heads_that_are_too_large() {
    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4))
    };
    let largest = head(HEAD_BYTES_MAX);
    assert_eq!(parsed(&largest).head_bytes, HEAD_BYTES_MAX);
    let larger = head(HEAD_BYTES_MAX + 1);
    assert_eq!(parse(&larger.as_bytes()[..HEAD_BYTES_MAX - 1]), Ok(None));
    check_refused(&larger[..HEAD_BYTES_MAX], 431);
    check_refused(&larger, 431);
    let headers = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    assert!(parse(headers(64).as_bytes()).unwrap().is_some());
    check_refused(&headers(65), 431);
}

#[test]
fn refusals_say_what_to_do_instead() {
    let answer = |status, reason, body| {
        let mut out = Vec::new();
        error_response(&Refusal { status, reason, body }, Asker::default(), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        answer(404, "Not Found", "Nothing here."),
        "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: 14\r\n\r\nNothing here.\n"
    );
    assert!(answer(426, "Upgrade Required", "x").contains("\r\nSec-WebSocket-Version: 13\r\n"));
    assert!(answer(405, "Method Not Allowed", "x").contains("\r\nAllow: GET\r\n"));
}

#[test]
fn who_asks_for_the_head_gets_no_body() {
    let request = parsed("\r\nHEAD /publish HTTP/1.1\r\nHost: h\r\nOrigin: http://a\r\n\r\n");
    let asker = Asker { origin: Some("http://a"), is_head: true };
    assert_eq!(request.asker(), asker);
    assert!(!parsed("GET /HEAD HTTP/1.1\r\nHost: h\r\n\r\n").asker().is_head);
    assert!(Asker::of_bytes(b"HEAD /sse HTTP/1.1\r\n\r\n").is_head, "it has no Host");
    let refusal = Refusal { status: 404, reason: "Not Found", body: "Nothing here." };
    let refused = text(|out| error_response(&refusal, asker, out));
    assert!(refused.ends_with("Content-Length: 14\r\n\r\n"), "{refused}");
    let (status, reason) = (405, "Method Not Allowed");
    let answer =
        Answer { status, reason, body: b"{}", allow: "POST", retry_after_s: 0, asker, is_kept: false };
    let answered = text(|out| answer.write(out));
    assert!(answered.contains("Content-Length: 2\r\n") && answered.ends_with("\r\n\r\n"), "{answered}");
    assert!(answered.contains("\r\nAllow: POST\r\n"), "{answered}");
}

#[test]
fn what_a_request_says_of_itself() {
    let request = parsed(
        "POST /frames HTTP/1.1\r\nHost: h\r\nauthorization: BEARER  s3cret \r\nExpect: 100-Continue\r\n\
         Connection: te, Close\r\nContent-Length: 3\r\n\r\n",
    );
    assert_eq!(request.bearer(), Some("s3cret"));
    assert!(request.expects_continue() && request.is_last());
    for other in ["Basic s3cret", "Bearer", "Bearer ", "s3cret"] {
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {other}\r\n\r\n");
        let request = parsed(&head);
        assert_eq!(request.bearer(), None, "{other}");
        assert!(!request.expects_continue() && !request.is_last());
    }
}

fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn answers_are_for_the_page_that_asked() {
    let answer = Answer {
        status: 503,
        reason: "Service Unavailable",
        body: b"{}",
        allow: "",
        retry_after_s: 2,
        asker: Asker { origin: Some("http://a"), is_head: false },
        is_kept: true,
    };
    assert_eq!(
        text(|out| answer.write(out)),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
         Cache-Control: no-store\r\nRetry-After: 2\r\nAccess-Control-Allow-Origin: http://a\r\nVary: Origin\r\n\
         Connection: keep-alive\r\n\r\n{}"
    );
    let plain = text(|out| events_response(None, out));
    assert!(plain.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"), "{plain}");
    assert!(!plain.contains("Access-Control") && plain.ends_with("Connection: close\r\n\r\n"), "{plain}");
    let asked = text(|out| preflight_response(Some("http://a"), true, out));
    assert!(asked.contains("Access-Control-Allow-Origin: http://a\r\n"), "{asked}");
    assert!(asked.contains("Last-Event-ID"), "{asked}");
}
