//! Tokens and rules: who gets in, what they may do, and what ends while they are connected.
//!
//! Tokens are made by the real command line, keys by `waspmq token keygen`; forged ones are put together by hand.

use crate::harness::{Broker, Peer};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the broker promises for everything that has to take effect while a session lives.
const SECOND: Duration = Duration::from_secs(1);

/// A broker with a configuration file, and the issuer of its tokens.
struct Site {
    broker: Broker,
    folder: tempfile::TempDir,
    algorithm: &'static str,
}

/// Keys of the configuration, one `[[access.keys]]` each, by the name of their files.
fn configuration(folder: &tempfile::TempDir, keys: &[(&str, &str)], rules: &str) -> String {
    let mut text = String::new();
    for (name, algorithm) in keys {
        let (field, ending) =
            if *algorithm == "HS256" { ("secret_file", "secret") } else { ("public_key_file", "pub.pem") };
        let path = folder.path().join(format!("{name}.{ending}"));
        text.push_str(&format!(
            "[[access.keys]]\nid = \"{name}\"\nalgorithm = \"{algorithm}\"\n{field} = {path:?}\n"
        ));
    }
    text + rules
}

fn waspmq(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_waspmq")).arg("token").args(arguments).output().unwrap()
}

impl Site {
    /// The issuer's key is called `k`.
    fn start(algorithm: &'static str, rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        keygen(&folder, "k", algorithm);
        Self::start_in(folder, algorithm, &[("k", algorithm)], rules)
    }

    fn start_in(
        folder: tempfile::TempDir,
        algorithm: &'static str,
        keys: &[(&str, &str)],
        rules: &str,
    ) -> Self {
        let path = folder.path().join("waspmq.toml");
        std::fs::write(&path, configuration(&folder, keys, rules)).unwrap();
        let broker = Broker::start_with(&[("WASPMQ_CONFIG", path.to_str().unwrap())]);
        Self { broker, folder, algorithm }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mint(&self, arguments: &[&str]) -> String {
        mint(&self.folder, ("k", self.algorithm), arguments)
    }

    /// Replaces the configuration and tells the broker.
    fn reload(&self, keys: &[(&str, &str)], rules: &str) {
        self.reload_text(&configuration(&self.folder, keys, rules));
    }

    fn reload_text(&self, text: &str) {
        // At once: the broker may be reading on behalf of the signal before.
        std::fs::write(self.file("next.toml"), text).unwrap();
        std::fs::rename(self.file("next.toml"), self.file("waspmq.toml")).unwrap();
        self.broker.signal("HUP");
    }

    async fn open(&self) -> Peer {
        self.broker.open(Some("waspmq.v1.json")).await
    }

    async fn connect(&self, token: &str) -> Peer {
        let mut peer = self.open().await;
        let welcome = peer.ask(json!({"type": "connect", "token": token})).await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        peer
    }

    /// The token is refused with 1401, the connection closed with 4001, and nothing of the token is told.
    async fn refused(&self, token: &str) {
        let mut peer = self.open().await;
        let started = Instant::now();
        peer.send(&json!({"type": "connect", "token": token})).await;
        let error = peer.expect_error(1401).await;
        assert_eq!(peer.expect_close().await, 4001);
        assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
        let told = error.to_string();
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!told.contains(part), "{told}");
        }
    }
}

fn keygen(folder: &tempfile::TempDir, name: &str, algorithm: &str) {
    let out = folder.path().join(name);
    let made = waspmq(&["keygen", "--algorithm", algorithm, "--out", out.to_str().unwrap()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn mint(folder: &tempfile::TempDir, (name, algorithm): (&str, &str), arguments: &[&str]) -> String {
    let (flag, ending) = if algorithm == "HS256" { ("--secret-file", "secret") } else { ("--key", "pem") };
    let path = folder.path().join(format!("{name}.{ending}"));
    let mut all = vec!["mint", "--kid", name, "--algorithm", algorithm, flag, path.to_str().unwrap()];
    all.extend(arguments);
    let output = waspmq(&all);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A token's `exp`.
fn end_of(token: &str) -> Duration {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    Duration::from_secs(claims["exp"].as_u64().unwrap())
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

const RULES: &str = "
[[access.rules]]
match = [\"topic/open.>\", \"topic/u.{sub}.>\"]
allow = [\"publish\", \"subscribe\"]
[[access.rules]]
match = [\"group/{claims.team}\"]
allow = [\"join\", \"publish\"]
";

fn publish(to: &str) -> Value {
    json!({"type": "publish", "ref": 1, "to": to, "payload": 1, "ack": "accepted"})
}

#[tokio::test]
async fn every_algorithm_lets_its_holders_in() {
    for algorithm in ["HS256", "RS256", "ES256", "EdDSA"] {
        let site = Site::start(algorithm, RULES);
        let mut alice = site.connect(&site.mint(&["--sub", "alice"])).await;
        assert_eq!(alice.ask(publish("topic/u.alice.x")).await["type"], "receipt", "{algorithm}");
        assert_eq!(alice.ask(publish("topic/u.bob.x")).await["code"], 1403);
        // A key of the same kind and name that is not the broker's.
        let stranger = tempfile::tempdir().unwrap();
        keygen(&stranger, "k", algorithm);
        site.refused(&mint(&stranger, ("k", algorithm), &["--sub", "alice"])).await;
    }
}

#[tokio::test]
async fn what_no_rule_grants_is_forbidden() {
    let site = Site::start("EdDSA", RULES);
    let mut peer = site.connect(&site.mint(&["--sub", "alice", "--claim", "team=red"])).await;
    let ask = async |peer: &mut Peer, frame: Value| {
        let started = Instant::now();
        let answer = peer.ask(frame).await;
        assert!(started.elapsed() < SECOND);
        answer
    };
    for to in ["topic/other", "topic/u.bob.x", "topic/u.alice", "user/bob", "user/alice", "group/blue", "all"]
    {
        for _ in 0..2 {
            assert_eq!(ask(&mut peer, publish(to)).await["code"], 1403, "{to}");
        }
    }
    // Wildcards that reach beyond the rules, other users' addresses, and what only looks like one's own.
    for to in [
        "topic/>",
        "topic/*",
        "topic/*.alice.>",
        "topic/u.>",
        "topic/u.*.x",
        "topic/u.bob.>",
        "topic/open",
        "user/bob",
    ] {
        let answer = ask(&mut peer, json!({"type": "subscribe", "ref": 2, "to": to})).await;
        assert_eq!(answer["code"], 1403, "{to}: {answer}");
        let answer = ask(&mut peer, json!({"type": "subscribe", "ref": 2, "to": to, "queue": "q"})).await;
        assert!(answer["code"] == 1403 || answer["code"] == 1410, "{to}: {answer}");
    }
    for to in ["user/*", "user/>", "user/ali*", ">", "*", "user/"] {
        let answer = ask(&mut peer, json!({"type": "subscribe", "ref": 2, "to": to})).await;
        assert_eq!(answer["code"], 1410, "{to}: {answer}");
    }
    for to in ["topic/open.>", "topic/open.*.x", "topic/u.alice.>", "user/alice", "all"] {
        let answer = ask(&mut peer, json!({"type": "subscribe", "ref": 2, "to": to})).await;
        assert_eq!(answer["type"], "ok", "{to}: {answer}");
    }
    assert_eq!(ask(&mut peer, json!({"type": "join", "ref": 3, "group": "blue"})).await["code"], 1403);
    assert_eq!(ask(&mut peer, json!({"type": "join", "ref": 3, "group": "red"})).await["type"], "ok");
    let mut to_the_others = publish("group/red");
    to_the_others["exclude_self"] = true.into();
    assert_eq!(ask(&mut peer, to_the_others).await["type"], "receipt");
}

#[tokio::test]
async fn a_claim_never_widens_a_rule() {
    let site = Site::start("HS256", RULES);
    for team in ["*", ">", "red/../blue", "", "{sub}"] {
        let claim = format!("team={team}");
        let mut peer = site.connect(&site.mint(&["--sub", "a.b", "--claim", &claim])).await;
        assert_eq!(peer.ask(json!({"type": "join", "ref": 1, "group": "blue"})).await["code"], 1403);
        // The dot of this user's name is no border of tokens.
        assert_eq!(peer.ask(publish("topic/u.a.b.x")).await["code"], 1403);
    }
}

#[tokio::test]
async fn the_token_says_who_connects() {
    let site = Site::start("ES256", RULES);
    let token = site.mint(&["--sub", "alice", "--device", "phone"]);
    let connect = async |frame: Value| {
        let mut peer = site.open().await;
        (peer.ask(frame).await, peer)
    };
    for wrong in [json!({"user": "bob"}), json!({"user": "alice", "device": "tablet"})] {
        let mut frame = json!({"type": "connect", "token": token});
        frame.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let (answer, mut peer) = connect(frame).await;
        assert_eq!(answer["code"], 1403, "{answer}");
        assert_eq!(peer.expect_close().await, 4001);
    }
    let (answer, mut peer) = connect(json!({"type": "connect", "user": "alice"})).await;
    assert_eq!(answer["code"], 1401, "{answer}");
    assert_eq!(peer.expect_close().await, 4001);
    let (welcome, _alice) = connect(json!({"type": "connect", "user": "alice", "token": token})).await;
    assert_eq!(welcome["type"], "welcome");
    let (_, sessions) = site.broker.admin("GET", "/v1/sessions", None);
    let session = &sessions["sessions"][0];
    assert_eq!((&session["user"], &session["device"]), (&json!("alice"), &json!("phone")), "{sessions}");
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let site = Site::start("RS256", RULES);
    let token = site.mint(&["--sub", "alice"]);
    let parts: Vec<&str> = token.split('.').collect();
    let encode = |document: Value| URL_SAFE_NO_PAD.encode(document.to_string());
    let claims = encode(json!({"sub": "root", "exp": unix_s() + 3_600}));
    // The public key, which everybody has, as a secret.
    std::fs::copy(site.file("k.pub.pem"), site.file("confused.secret")).unwrap();
    let confused = mint(&site.folder, ("confused", "HS256"), &["--sub", "root"]);
    let confused: Vec<&str> = confused.split('.').collect();
    let header = encode(json!({"alg": "HS256", "kid": "k", "typ": "JWT"}));
    let tokens = [
        format!("{}.{claims}.{}", parts[0], parts[2]),
        format!("{}.{claims}.", encode(json!({"alg": "none"}))),
        format!("{}.{claims}.", encode(json!({"alg": "none", "kid": "k"}))),
        format!("{header}.{claims}.{}", confused[2]),
        confused.join("."),
        token[..token.len() - 1].to_owned(),
        token[..token.len() / 2].to_owned(),
        parts[..2].join("."),
        format!("{token}."),
        "garbage".to_owned(),
        "\u{0}.\u{fffd}.\u{202e}".to_owned(),
        "a".repeat(8 * 1024 + 1),
        format!("{}.{}.{}", "e".repeat(4_000), "e".repeat(4_000), "e".repeat(100)),
        String::new(),
    ];
    for forged in &tokens {
        site.refused(forged).await;
    }
    // More than a stranger may send at all.
    let mut peer = site.open().await;
    peer.send(&json!({"type": "connect", "token": "a".repeat(64 * 1024)})).await;
    peer.expect_error(1413).await;
    site.connect(&token).await.expect_quiet().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let site = Site::start("HS256", RULES);
    let token = site.mint(&["--sub", "alice", "--ttl", "2s"]);
    let mut peer = site.connect(&token).await;
    peer.expect_quiet().await;
    peer.expect_error(1402).await;
    let late = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().checked_sub(end_of(&token));
    assert!(late.expect("not before its end") < SECOND, "{late:?}");
    assert_eq!(peer.expect_close().await, 4004);
    site.refused(&token).await;
}

#[tokio::test]
async fn refresh_carries_a_session_over_the_end_of_its_token() {
    let site = Site::start("EdDSA", RULES);
    let grant = ["--allow", "subscribe,publish:topic/extra"];
    let short = [&["--sub", "alice", "--ttl", "2s"][..], &grant].concat();
    let short = site.mint(&short);
    let mut peer = site.connect(&short).await;
    for to in ["topic/extra", "topic/open.a"] {
        assert_eq!(peer.ask(json!({"type": "subscribe", "ref": 1, "to": to})).await["type"], "ok");
    }
    let refresh = |token: String| json!({"type": "refresh", "ref": 9, "token": token});
    let other = peer.ask(refresh(site.mint(&["--sub", "bob"]))).await;
    assert_eq!((&other["code"], &other["ref"]), (&json!(1403), &json!(9)), "{other}");
    // The new token grants less: what it does not grant ends, and is named.
    peer.send(&refresh(site.mint(&["--sub", "alice", "--ttl", "1h"]))).await;
    let ended = peer.expect_error(1403).await;
    assert!(ended["message"].as_str().unwrap().contains("topic/extra"), "{ended}");
    assert_eq!(peer.receive().await, json!({"type": "ok", "ref": 9}));
    assert_eq!(peer.ask(publish("topic/extra")).await["code"], 1403);
    // It is there the whole second in which the first token would have ended it.
    while unix_s() <= end_of(&short).as_secs() + 1 {
        peer.expect_quiet().await;
    }
    // Its subscription lives on.
    let mut sender = site.connect(&site.mint(&["--sub", "bob"])).await;
    assert_eq!(sender.ask(publish("topic/open.a")).await["recipients"], 1);
    assert_eq!(peer.receive().await["to"], "topic/open.a");
    // A token that is none ends the session.
    peer.send(&refresh("garbage".to_owned())).await;
    peer.expect_error(1401).await;
    assert_eq!(peer.expect_close().await, 4001);
}

#[tokio::test]
async fn changed_rules_reach_live_sessions() {
    let site = Site::start("ES256", RULES);
    let arguments = ["--sub", "alice", "--claim", "team=red"];
    // Several, so that both workers have one.
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = site.connect(&site.mint(&arguments)).await;
        for to in ["topic/open.a", "topic/u.alice.>"] {
            assert_eq!(peer.ask(json!({"type": "subscribe", "ref": 1, "to": to})).await["type"], "ok");
        }
        assert_eq!(peer.ask(publish("topic/u.alice")).await["code"], 1403);
        peers.push(peer);
    }
    let first = &mut peers[0];
    assert_eq!(first.ask(json!({"type": "join", "ref": 1, "group": "red"})).await["type"], "ok");
    assert!(site.broker.admin_text("GET", "/v1/groups/red", None).1.contains("alice"));
    site.reload(
        &[("k", "ES256")],
        "[[access.rules]]\nmatch = [\"topic/open.>\", \"topic/new\"]\nallow = [\"publish\", \"subscribe\"]\n",
    );
    let started = Instant::now();
    // All of them received what the user joined.
    for peer in &mut peers {
        let told = [peer.expect_error(1403).await, peer.expect_error(1403).await];
        for what in ["topic/u.alice.>", "group/red"] {
            assert!(told.iter().any(|e| e["message"].as_str().unwrap().contains(what)), "{told:?}");
        }
    }
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
    assert!(!site.broker.admin_text("GET", "/v1/groups/red", None).1.contains("alice"));
    for peer in &mut peers[1..] {
        assert_eq!(
            peer.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/u.alice.>"})).await["code"],
            1403
        );
    }
    let mut last = peers.pop().unwrap();
    assert_eq!(last.ask(publish("topic/new")).await["recipients"], 0);
    last.send(&publish("topic/open.a")).await;
    for peer in &mut peers {
        assert_eq!(peer.receive().await["to"], "topic/open.a");
    }
}

/// Whom a session may not watch any more is left out when it is resumed, the others stay.
#[tokio::test]
async fn a_resumed_watch_list_goes_on_without_whom_it_may_not_have() {
    let rules = |users: &str| format!("[[access.rules]]\nmatch = [{users}]\nallow = [\"presence\"]\n");
    let site = Site::start("ES256", &rules("\"user/*\""));
    let token = site.mint(&["--sub", "alice"]);
    let resume = async |welcome: &Value| {
        let resume = json!({"token": welcome["resume_token"], "positions": []});
        let mut peer = site.open().await;
        let welcome = peer.ask(json!({"type": "connect", "token": token, "resume": resume})).await;
        assert_eq!(welcome["resumed"], json!(true), "{welcome}");
        (peer, welcome)
    };
    let mut alice = site.open().await;
    let welcome = alice.ask(json!({"type": "connect", "token": token})).await;
    let watch = json!({"type": "watch", "ref": 1, "users": ["bob", "carol", "dave"]});
    assert_eq!(alice.ask(watch).await["type"], "ok");
    for _ in 0..3 {
        assert_eq!(alice.receive().await["type"], "presence");
    }
    // Told while the session is there: the resume does not tell it again.
    site.reload(&[("k", "ES256")], &rules("\"user/carol\", \"user/dave\""));
    assert!(alice.expect_error(1403).await["message"].as_str().unwrap().contains("user/bob"));
    let (mut alice, welcome) = resume(&welcome).await;
    for user in ["carol", "dave"] {
        assert_eq!(alice.receive().await["user"], user);
    }
    alice.expect_quiet().await;
    // Lost while it is away: the resume tells it.
    drop(alice);
    site.reload(&[("k", "ES256")], &rules("\"user/dave\""));
    let mut other = site.connect(&token).await;
    let refused = json!({"type": "watch", "ref": 1, "users": ["carol"]});
    let started = Instant::now();
    while other.ask(refused.clone()).await["type"] == "ok" {
        other.receive().await;
        assert!(started.elapsed() < SECOND);
    }
    let (mut alice, _) = resume(&welcome).await;
    let told = [alice.receive().await, alice.receive().await];
    assert!(told.iter().any(|told| told["user"] == "dave"), "{told:?}");
    let has_error =
        |told: &Value| told["code"] == 1403 && told["message"].as_str().unwrap().contains("user/carol");
    assert!(told.iter().any(has_error), "{told:?}");
    let _dave = site.connect(&site.mint(&["--sub", "dave"])).await;
    let change = alice.receive().await;
    assert_eq!((&change["user"], &change["online"]), (&json!("dave"), &json!(true)));
}

/// A session that is away while the right to join goes is told when it comes back.
#[tokio::test]
async fn a_resumed_session_is_told_of_a_group_that_ended_meanwhile() {
    let site = Site::start("ES256", RULES);
    let token = site.mint(&["--sub", "alice", "--claim", "team=red"]);
    let mut lost = site.open().await;
    let welcome = lost.ask(json!({"type": "connect", "token": token})).await;
    assert_eq!(lost.ask(json!({"type": "join", "ref": 1, "group": "red"})).await["type"], "ok");
    drop(lost);
    let mut other = site.connect(&token).await;
    site.reload(
        &[("k", "ES256")],
        "[[access.rules]]\nmatch = [\"topic/open.>\"]\nallow = [\"publish\", \"subscribe\"]\n",
    );
    other.expect_error(1403).await;
    let resume = json!({"token": welcome["resume_token"], "positions": []});
    let mut back = site.open().await;
    let welcome = back.ask(json!({"type": "connect", "token": token, "resume": resume})).await;
    assert_eq!((&welcome["resumed"], &welcome["recovered"]), (&json!(true), &json!(false)), "{welcome}");
    let told = back.expect_error(1403).await;
    assert!(told["message"].as_str().unwrap().contains("group/red"), "{told}");
    back.expect_quiet().await;
}

/// The right to join that is taken away ends what the user joined, by whichever session that was.
#[tokio::test]
async fn what_was_joined_before_a_reconnect_ends_with_the_right() {
    let site = Site::start("HS256", RULES);
    let strong = |user: &str| site.mint(&["--sub", user, "--claim", "team=red"]);
    let join = json!({"type": "join", "ref": 1, "group": "red"});
    let members = || site.broker.admin_text("GET", "/v1/groups/red", None).1;
    for how in ["again", "connected", "resumed"] {
        let mut first = site.open().await;
        let welcome = first.ask(json!({"type": "connect", "token": strong(how)})).await;
        assert_eq!(first.ask(join.clone()).await["type"], "ok");
        drop(first);
        let mut connect = json!({"type": "connect", "token": strong(how)});
        if how == "resumed" {
            connect["resume"] = json!({"token": welcome["resume_token"], "positions": []});
        }
        let mut peer = site.open().await;
        assert_eq!(peer.ask(connect).await["resumed"], how == "resumed");
        if how == "again" {
            assert_eq!(peer.ask(join.clone()).await["type"], "ok");
        }
        let weak = site.mint(&["--sub", how]);
        peer.send(&json!({"type": "refresh", "ref": 2, "token": weak})).await;
        let left = peer.expect_error(1403).await;
        assert!(left["message"].as_str().unwrap().contains("group/red"), "{how}: {left}");
        assert_eq!(peer.receive().await, json!({"type": "ok", "ref": 2}));
        assert!(!members().contains(how), "{how}: {}", members());
    }
    // Who was put in by an operator stays, whatever they joined by themselves before.
    let mut peer = site.connect(&strong("put-in")).await;
    assert_eq!(peer.ask(join).await["type"], "ok");
    assert_eq!(site.broker.admin_text("PUT", "/v1/groups/red/members/put-in", None).0, 200);
    let weak = site.mint(&["--sub", "put-in"]);
    assert_eq!(peer.ask(json!({"type": "refresh", "ref": 2, "token": weak})).await["type"], "ok");
    assert!(members().contains("put-in"), "{}", members());
}

#[test]
fn a_subscriber_is_told_what_it_may_not_read_any_more() {
    let rule = |patterns: &str| format!("[[access.rules]]\nmatch = [{patterns}]\nallow = [\"subscribe\"]\n");
    let site = Site::start("HS256", &rule("\"topic/a\", \"topic/b\""));
    let url = site.broker.url();
    let subscriber = Command::new(env!("CARGO_BIN_EXE_waspmq"))
        .args(["sub", "topic/a", "topic/b", "--url", &url, "--token", &site.mint(&["--sub", "alice"])])
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut subscriber = subscriber.unwrap();
    let mut lines = BufReader::new(subscriber.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("receiving"));
    site.reload(&[("k", "HS256")], &rule("\"topic/b\""));
    let told = lines.next().unwrap();
    assert!(told.contains("refused topic/a: forbidden"), "{told}");
    site.reload(&[("k", "HS256")], &rule("\"topic/c\""));
    let told = lines.next().unwrap();
    assert!(told.contains("refused topic/b: forbidden"), "{told}");
    assert!(lines.next().unwrap().contains("everything that was asked for"));
    assert_eq!(subscriber.wait().unwrap().code(), Some(1));
}

#[tokio::test]
async fn what_may_not_be_read_any_more_is_not_replayed_to_its_end() {
    let keeps = "[[address]]\nmatch = \"topic/>\"\nkeep = \"always\"\n";
    let rules = |rights: &str| {
        format!("{keeps}[[access.rules]]\nmatch = [\"topic/open.>\"]\nallow = [\"publish\"{rights}]\n")
    };
    let site = Site::start("HS256", &rules(", \"subscribe\", \"history\""));
    let mut alice = site.connect(&site.mint(&["--sub", "alice"])).await;
    let body = "x".repeat(60_000);
    let count = 400; // 24 MB: more than the kernel and the outbound queue hold
    for i in 0..count {
        let publish = json!({"type": "publish", "ref": i, "to": "topic/open.a", "payload": [i, body]});
        assert_eq!(alice.ask(publish).await["type"], "receipt");
    }
    for pattern in ["topic/open.a", "topic/open.>"] {
        site.reload(&[("k", "HS256")], &rules(", \"subscribe\", \"history\""));
        let mut reader = site.connect(&site.mint(&["--sub", "reader"])).await;
        let subscribe = json!({"type": "subscribe", "ref": 1, "to": pattern, "from": "earliest"});
        while reader.ask(subscribe.clone()).await["type"] != "ok" {}
        assert_eq!(reader.receive().await["payload"][0], 0);
        site.reload(&[("k", "HS256")], &rules(""));
        // Somebody else sees that the new rules hold; the reader has not read meanwhile.
        let judged = json!({"type": "subscribe", "ref": 1, "to": pattern});
        while alice.ask(judged.clone()).await["code"] != 1403 {
            tokio::time::sleep(SECOND / 20).await;
        }
        tokio::time::sleep(SECOND / 2).await;
        let mut received = 1;
        loop {
            let frame = reader.receive().await;
            if frame["type"] == "error" {
                assert_eq!(frame["code"], 1403);
                break;
            }
            received += 1;
        }
        assert!(received < count, "{received} of {count}");
        reader.expect_quiet().await;
    }
}

#[tokio::test]
async fn a_key_that_is_gone_ends_the_sessions_of_its_tokens() {
    let site = Site::start("EdDSA", RULES);
    keygen(&site.folder, "next", "EdDSA");
    let mut old = site.connect(&site.mint(&["--sub", "alice"])).await;
    site.reload(&[("k", "EdDSA"), ("next", "EdDSA")], RULES);
    let token = mint(&site.folder, ("next", "EdDSA"), &["--sub", "bob"]);
    // The signal is on its way: tokens of the new key are refused until it has arrived.
    let started = Instant::now();
    let mut new = loop {
        let mut peer = site.open().await;
        if peer.ask(json!({"type": "connect", "token": token})).await["type"] == "welcome" {
            break peer;
        }
        assert!(started.elapsed() < SECOND);
    };
    old.expect_quiet().await;
    site.reload(&[("next", "EdDSA")], RULES);
    let started = Instant::now();
    old.expect_error(1402).await;
    assert_eq!(old.expect_close().await, 4004);
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
    new.expect_quiet().await;
    site.refused(&site.mint(&["--sub", "alice"])).await;
    // What cannot be read changes nothing.
    for wrong in ["[[access.keys]]\nid = 3\n", "", "[access]\nallow_anonymous = true\n"] {
        site.reload_text(wrong);
    }
    site.reload(&[("nowhere", "EdDSA")], RULES);
    site.refused(&site.mint(&["--sub", "alice"])).await;
    new.expect_quiet().await;
    // Another key takes the id over: the old one's tokens are no longer good.
    for file in ["next.pem", "next.pub.pem"] {
        std::fs::remove_file(site.file(file)).unwrap();
    }
    keygen(&site.folder, "next", "EdDSA");
    site.reload(&[("next", "EdDSA")], RULES);
    new.expect_error(1402).await;
    assert_eq!(new.expect_close().await, 4004);
}

#[tokio::test]
async fn anonymous_sessions_get_a_name_and_the_rules() {
    let site = Site::start("HS256", &format!("{RULES}\n[access]\nallow_anonymous = true\n"));
    let mut named = site.open().await;
    assert_eq!(named.ask(json!({"type": "connect", "user": "alice"})).await["code"], 1403);
    let mut peer = site.open().await;
    assert_eq!(peer.ask(json!({"type": "connect"})).await["type"], "welcome");
    assert_eq!(peer.ask(publish("topic/open.a")).await["type"], "receipt");
    assert_eq!(peer.ask(publish("user/alice")).await["code"], 1403);
    site.reload(&[("k", "HS256")], RULES);
    peer.expect_error(1402).await;
    assert_eq!(peer.expect_close().await, 4004);
}

#[tokio::test]
async fn who_connected_before_there_were_keys_needs_a_token_then() {
    let folder = tempfile::tempdir().unwrap();
    keygen(&folder, "k", "HS256");
    let site = Site::start_in(folder, "HS256", &[], "");
    let mut claimed = site.broker.connect("alice").await;
    let mut unnamed = site.open().await;
    assert_eq!(unnamed.ask(json!({"type": "connect"})).await["type"], "welcome");
    assert_eq!(unnamed.ask(publish("user/bob")).await["type"], "receipt");
    site.reload(&[("k", "HS256")], &format!("{RULES}\n[access]\nallow_anonymous = true\n"));
    // A name that was only claimed is no identity; one that the broker gave may stay, under the rules.
    claimed.expect_error(1402).await;
    assert_eq!(claimed.expect_close().await, 4004);
    let mut token = site.connect(&site.mint(&["--sub", "alice"])).await;
    token.expect_quiet().await;
    let started = Instant::now();
    while unnamed.ask(publish("user/bob")).await["code"] != 1403 {
        assert!(started.elapsed() < SECOND);
    }
    assert_eq!(unnamed.ask(publish("topic/open.a")).await["type"], "receipt");
}

#[tokio::test]
async fn presence_is_a_matter_of_rules() {
    let may_see = "[[access.rules]]\nmatch = [\"user/*\"]\nallow = [\"presence\"]\n";
    let site = Site::start("HS256", may_see);
    let mut peer = site.connect(&site.mint(&["--sub", "alice"])).await;
    assert_eq!(peer.ask(json!({"type": "presence", "ref": 1, "of": "user/bob"})).await["of"], "user/bob");
    assert_eq!(peer.ask(json!({"type": "presence", "ref": 1, "of": "group/g"})).await["code"], 1403);
    assert_eq!(peer.ask(json!({"type": "watch", "ref": 2, "users": ["bob"]})).await["type"], "ok");
    assert_eq!(peer.receive().await["user"], "bob");
    site.reload(&[("k", "HS256")], "");
    let ended = peer.expect_error(1403).await;
    assert!(ended["message"].as_str().unwrap().contains("user/bob"), "{ended}");
    // Nothing is told about bob any more, and nothing can be asked.
    let _bob = site.connect(&site.mint(&["--sub", "bob"])).await;
    peer.expect_quiet().await;
    assert_eq!(peer.ask(json!({"type": "watch", "ref": 2, "users": ["bob"]})).await["code"], 1403);
    assert_eq!(peer.ask(json!({"type": "presence", "ref": 1, "of": "user/bob"})).await["code"], 1403);
}

#[tokio::test]
async fn logins_follow_the_configuration() {
    let policy = |login: &str| format!("[access]\nlogin = \"{login}\"\nsessions_per_user = 2\n");
    for login in ["replace", "limit", "coexist"] {
        let site = Site::start("HS256", &policy(login));
        let token = site.mint(&["--sub", "alice"]);
        let mut first = site.connect(&token).await;
        let _second = site.connect(&token).await;
        let mut third = site.open().await;
        let answer = third.ask(json!({"type": "connect", "token": token})).await;
        match login {
            "replace" => assert_eq!(first.expect_close().await, 4003),
            "limit" => assert_eq!(answer["code"], 1421, "{answer}"),
            _ => assert_eq!(answer["type"], "welcome", "{answer}"),
        }
        if login != "replace" {
            first.expect_quiet().await;
        }
        // Somebody else is not counted.
        site.connect(&site.mint(&["--sub", "bob"])).await;
    }
}

#[tokio::test]
async fn a_membership_outlives_the_session_of_its_token() {
    let site = Site::start("HS256", RULES);
    let token = site.mint(&["--sub", "alice", "--claim", "team=red"]);
    let mut first = site.connect(&token).await;
    assert_eq!(first.ask(json!({"type": "join", "ref": 1, "group": "red"})).await["type"], "ok");
    first.send(&json!({"type": "disconnect"})).await;
    assert_eq!(first.expect_close().await, 1000);
    let members = || site.broker.admin_text("GET", "/v1/groups/red", None).1;
    assert!(members().contains("alice"), "{}", members());
    let mut again = site.connect(&token).await;
    assert_eq!(again.ask(json!({"type": "subscribe", "ref": 1, "to": "group/red"})).await["type"], "ok");
}

#[test]
fn a_public_listener_with_keys_needs_no_other_decision() {
    let folder = tempfile::tempdir().unwrap();
    keygen(&folder, "k", "EdDSA");
    let path = folder.path().join("waspmq.toml");
    std::fs::write(&path, configuration(&folder, &[("k", "EdDSA")], RULES)).unwrap();
    let print = |listen: &str| {
        let data = tempfile::tempdir().unwrap();
        let mut command = Broker::command(&data);
        command.args(["--print-config", "--listen", listen, "--config", path.to_str().unwrap()]);
        command.output().unwrap()
    };
    assert!(print("0.0.0.0:0").status.success());
    std::fs::write(&path, "").unwrap();
    assert_eq!(print("0.0.0.0:0").status.code(), Some(64));
}

#[test]
fn secrets_are_neither_printed_nor_told() {
    let data = tempfile::tempdir().unwrap();
    let keys = |secret: &str| format!("[{{ id = \"k\", algorithm = \"HS256\", secret = \"{secret}\" }}]");
    let run = |secret: &str| {
        let mut command = Broker::command(&data);
        command.env("WASPMQ_ACCESS__KEYS", keys(secret)).arg("--print-config").output().unwrap()
    };
    let secret = "hunter2-hunter2-hunter2-hunter2-hunter2";
    for (secret, code) in [(secret, 0), ("hunter2", 64)] {
        let output = run(secret);
        assert_eq!(output.status.code(), Some(code));
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("access.keys") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_command_line_shows_its_token() {
    let site = Site::start("HS256", RULES);
    let token = site.mint(&["--sub", "alice"]);
    let publish = |variable: Option<&str>, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
        command.args(["pub", "topic/open.a", "1", "--url", &site.broker.url()]).args(arguments);
        let output = command.envs(variable.map(|token| ("WASPMQ_TOKEN", token))).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!told.contains(&token), "{told}");
        output.status.code()
    };
    assert_eq!(publish(None, &[]), Some(1));
    assert_eq!(publish(Some(&token), &[]), Some(0));
    assert_eq!(publish(None, &["--token", &token, "--as", "alice"]), Some(0));
    assert_eq!(publish(Some(&token), &["--as", "bob"]), Some(1));
}

#[test]
fn the_load_generator_says_which_right_is_missing() {
    let site = Site::start("HS256", RULES);
    let check = |allow: Option<&str>, pairs: &str, code: i32, expected: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
        command.args(["bench", "throughput", "--messages", "20", "--pairs", pairs]);
        command.args(["--url", &site.broker.url()]).env_remove("WASPMQ_TOKEN");
        if let Some(allow) = allow {
            command.args(["--token", &site.mint(&["--sub", "alice", "--allow", allow])]);
        }
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), told.contains(expected)), (Some(code), true), "{allow:?}: {told}");
    };
    let advice = "allow `publish` and `subscribe` for topic/bench.>";
    check(None, "1", 1, "(--token, or WASPMQ_TOKEN)");
    check(Some("publish,subscribe:topic/other.>"), "1", 1, advice);
    check(Some("publish,subscribe:topic/other.>"), "1", 1, "cannot subscribe to topic/bench.");
    check(Some("subscribe:topic/bench.>"), "1", 1, "cannot publish to topic/bench.");
    check(Some("publish,subscribe:topic/bench.>"), "2", 0, "");
    check(Some("publish,subscribe:topic/bench.>"), "40", 1, "access.sessions_per_user");

    // With the key, each client is a user of its own.
    for scenario in
        [&["throughput", "--messages", "5", "--pairs", "40"][..], &["connections", "--hold", "0s"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
        command.arg("bench").args(scenario).args(["--url", &site.broker.url(), "--kid", "k"]);
        command.arg("--secret-file").arg(site.file("k.secret"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn show_says_what_a_token_says_and_that_nobody_checked_it() {
    let folder = tempfile::tempdir().unwrap();
    keygen(&folder, "k", "HS256");
    let token = mint(&folder, ("k", "HS256"), &["--sub", "alice", "--claim", "team=red", "--ttl", "1d"]);
    let shown = waspmq(&["show", &token]);
    let (told, warned) = (String::from_utf8(shown.stdout).unwrap(), String::from_utf8(shown.stderr).unwrap());
    assert!(told.contains("alice") && told.contains("red") && told.contains("HS256"), "{told}");
    assert!(warned.contains("not verified"), "{warned}");
    let document = waspmq(&["show", "--json", &token]);
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!((&document["verified"], &document["claims"]["sub"]), (&json!(false), &json!("alice")));
    assert_eq!(waspmq(&["show", "garbage"]).status.code(), Some(1));
}
