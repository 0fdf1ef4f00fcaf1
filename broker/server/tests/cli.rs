//! The binary as people run it: a broker in one process, the other commands against it, exit codes and output.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests: a failure here is a failure of the test"
)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use waspmq_client::{Client, Payload, PublishOptions};

/// A running `waspmq serve`.
struct Broker {
    process: Child,
    data: tempfile::TempDir,
    url: String,
    admin: String,
    /// The rest of its standard error.
    log: mpsc::Receiver<String>,
}

fn waspmq(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
    // What the environment of the test says must not matter.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WASPMQ_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    waspmq(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Ends with this code, and standard error holds every part.
#[track_caller]
fn check(output: &Output, code: i32, parts: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

impl Broker {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let directory = data.path().to_str().unwrap();
        let mut process =
            waspmq(&["serve", "--data-dir", directory, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
                .spawn()
                .unwrap();
        let (lines, log) = mpsc::sync_channel(1_000);
        let stderr = BufReader::new(process.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().try_for_each(|line| lines.send(line.unwrap())));
        let (mut url, mut admin) = (None, None);
        while url.is_none() || admin.is_none() {
            let line = log.recv().expect("the banner names both listeners");
            let word_of = |scheme: &str| {
                line.split_whitespace().find(|word| word.starts_with(scheme)).map(str::to_owned)
            };
            url = url.or_else(|| word_of("ws://"));
            admin = admin.or_else(|| word_of("http://"));
        }
        Self { process, data, url: url.unwrap(), admin: admin.unwrap(), log }
    }

    fn directory(&self) -> &str {
        self.data.path().to_str().unwrap()
    }

    /// A thin client of the admin API.
    fn ask(&self, arguments: &[&str]) -> Output {
        run(&[arguments, &["--admin", &self.admin, "--data-dir", self.directory()]].concat())
    }

    /// The answer of a command that must work.
    #[track_caller]
    fn told(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        check(&output, 0, &[]);
        text(&output.stdout)
    }

    /// A subscriber that is subscribed: it has said so.
    fn subscriber(&self, arguments: &[&str]) -> Child {
        let mut child = waspmq(&[&["sub"], arguments, &["--url", &self.url]].concat()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("receiving from"), "{said}");
        child
    }

    fn publish(&self, arguments: &[&str]) -> Output {
        run(&[&["pub"], arguments, &["--url", &self.url]].concat())
    }

    fn signal(&self) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn wrong_configuration_is_64_and_wrong_usage_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("waspmq.toml");
    std::fs::write(&file, "workers = 1\n[limits]\nheartbeat = 5\n").unwrap();
    let path = file.to_str().unwrap();
    check(&run(&["serve", "--config", path]), 64, &[&format!("{path}:3: limits.heartbeat"), "heartbeat_ms"]);
    check(&run(&["serve", "--config", "/nowhere.toml"]), 64, &["/nowhere.toml", "No such file"]);
    check(&run(&["serve", "--listen", "0.0.0.0:9470"]), 64, &["flag --listen", "allow_anonymous = true"]);
    check(&waspmq(&["serve"]).env("WASPMQ_LIMITS__X", "1").output().unwrap(), 64, &["WASPMQ_LIMITS__X"]);
    check(&run(&["serve", "--listen", "nonsense"]), 2, &["--listen"]);
    check(&run(&["pub", "user/", "x"]), 2, &["name is empty"]);
    check(&run(&["sub", "all", "--queue", "q"]), 2, &["--queue"]);
    check(
        &run(&["policy", "set", "p", "--plugin", "x", "--match", "all", "--config", "[]"]),
        2,
        &["JSON object"],
    );
    check(&run(&["demo", "--listen", "0.0.0.0:0", "--plugins", path]), 1, &["cargo xtask plugins"]);
}

#[test]
fn the_printed_configuration_is_one() {
    let output = waspmq(&["serve", "--print-config"]).env("WASPMQ_PROFILE", "low-latency").output().unwrap();
    check(&output, 0, &[]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("waspmq.toml");
    std::fs::write(&file, &output.stdout).unwrap();
    let again = run(&["serve", "--config", file.to_str().unwrap(), "--print-config"]);
    check(&again, 0, &[]);
    let without_comments = |output: &Output| -> Vec<String> {
        text(&output.stdout).lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect()
    };
    assert_eq!(without_comments(&again), without_comments(&output));
    assert!(
        text(&output.stdout).contains("profile = \"low-latency\"  # environment variable WASPMQ_PROFILE")
    );
}

#[test]
fn messages_go_from_command_to_command() {
    let broker = Broker::start();
    let topic = broker.subscriber(&["topic/orders.>", "user/bob", "--as", "bob", "--count", "2"]);
    let json = broker.subscriber(&["group/eng", "--as", "carol", "--count", "1", "--json"]);

    let published = broker.publish(&["topic/orders.eu", "{\"n\": 1}", "--as", "alice"]);
    check(&published, 0, &[]);
    assert!(
        text(&published.stdout).starts_with("accepted ") && text(&published.stdout).contains("recipients: 1")
    );
    check(&broker.publish(&["user/bob", "two words", "--as", "alice", "--ack", "none"]), 0, &[]);
    let output = topic.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "topic/orders.eu alice {\"n\": 1}\nuser/bob alice \"two words\"\n");

    let mut child =
        waspmq(&["pub", "group/eng", "-", "--bytes", "--header", "k=v", "--key", "x", "--url", &broker.url])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\x00").unwrap();
    check(&child.wait_with_output().unwrap(), 0, &[]);
    let message: Value = serde_json::from_slice(&json.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(
        (&message["payload_b64"], &message["headers"]["k"], &message["key"]),
        (&"/wA=".into(), &"v".into(), &"x".into())
    );

    let stored = broker.publish(&["user/nobody", "x", "--ack", "stored"]);
    check(&stored, 0, &[]);
    assert!(text(&stored.stdout).starts_with("stored "), "it waits for the user");
    check(&broker.publish(&["topic/nobody", "x", "--ack", "stored"]), 1, &["no_recipients"]);
    let surrogate = "error: payload: lone surrogate escape at byte 1\n";
    check(&broker.publish(&["topic/nobody", "\"\\ud800\""]), 1, &[surrogate]);
    check(&run(&["sub", "user/alice", "--as", "bob", "--url", &broker.url]), 1, &["forbidden"]);
    check(
        &run(&["pub", "all", "x", "--url", "ws://127.0.0.1:1/ws"]),
        1,
        &["cannot connect to ws://127.0.0.1:1/ws"],
    );
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let broker = Broker::start();
    let mut subscriber = broker.subscriber(&["topic/a"]);
    drop(subscriber.stdout.take());
    check(&broker.publish(&["topic/a", "1"]), 0, &[]);
    let mut rest = String::new();
    subscriber.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!((subscriber.wait().unwrap().code(), rest.as_str()), (Some(0), ""));
}

#[test]
fn an_inbox_that_is_not_asked_for_is_left_alone() {
    let broker = Broker::start();
    check(&broker.publish(&["user/bob", "1", "--ack", "stored"]), 0, &[]);
    broker.told(&["group", "add", "eng", "bob"]);
    let subscriber = broker.subscriber(&["topic/a", "--as", "bob", "--count", "1"]);
    check(&broker.publish(&["user/bob", "2", "--ack", "stored"]), 0, &[]);
    check(&broker.publish(&["group/eng", "2"]), 0, &[]);
    // Nobody has read it, and the publisher is told so.
    let unread = broker.publish(&["user/bob", "gone", "--ack", "delivered", "--ttl-ms", "200"]);
    check(&unread, 1, &["expired"]);
    check(&broker.publish(&["topic/a", "3"]), 0, &[]);
    assert_eq!(text(&subscriber.wait_with_output().unwrap().stdout), "topic/a cli 3\n");
    let inbox = broker.subscriber(&["user/bob", "--as", "bob", "--count", "2"]);
    assert_eq!(text(&inbox.wait_with_output().unwrap().stdout), "user/bob cli 1\nuser/bob cli 2\n");
}

#[test]
fn what_could_not_be_written_is_not_acknowledged() {
    let broker = Broker::start();
    for payload in ["1", "2"] {
        check(&broker.publish(&["user/bob", payload, "--ack", "stored"]), 0, &[]);
    }
    for _ in 0..2 {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut reading = waspmq(&["sub", "user/bob", "--as", "bob", "--url", &broker.url]);
        check(&reading.stdout(full).output().unwrap(), 1, &["No space left"]);
    }
    for payload in ["1", "2"] {
        let inbox = broker.subscriber(&["user/bob", "--as", "bob", "--count", "1"]);
        assert_eq!(text(&inbox.wait_with_output().unwrap().stdout), format!("user/bob cli {payload}\n"));
    }
}

#[test]
fn interrupting_a_subscriber_is_clean() {
    let broker = Broker::start();
    let subscriber = broker.subscriber(&["topic/a"]);
    let id = rustix::process::Pid::from_child(&subscriber);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    check(&subscriber.wait_with_output().unwrap(), 0, &[]);
}

#[test]
fn what_is_asked_for_first_does_not_hold_up_the_rest_and_comes_once() {
    let broker = Broker::start();
    let count = 3_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, _messages) = Client::builder(&broker.url).user("alice").connect().await.unwrap();
        for number in 0..count {
            let payload = Payload::bytes(number.to_string().into_bytes());
            client.send("user/bob", payload, PublishOptions::default()).await.unwrap();
        }
        client.ping().await.unwrap();
        client.close().await.unwrap();
    });
    let wanted = count.to_string();
    let arguments =
        ["user/bob", "topic/>", "topic/a.>", "--as", "bob", "--from", "earliest", "--count", &wanted];
    let inbox = run(&[&["sub"], &arguments[..], &["--url", &broker.url]].concat());
    let expected: String = (0..count).map(|number| format!("user/bob alice {number}\n")).collect();
    assert!(text(&inbox.stdout) == expected, "{}", text(&inbox.stdout).lines().count());
    assert_eq!(text(&inbox.stderr).matches("receiving from").count(), 1);
}

#[test]
fn a_subscriber_that_waits_for_an_answer_can_be_interrupted() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/ws", silent.local_addr().unwrap());
    let subscriber = waspmq(&["sub", "topic/a", "--url", &url]).spawn().unwrap();
    let _connected = silent.accept().unwrap();
    let id = rustix::process::Pid::from_child(&subscriber);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    check(&subscriber.wait_with_output().unwrap(), 0, &[]);
}

#[test]
fn a_subscriber_whose_lines_nobody_reads_can_be_ended() {
    let broker = Broker::start();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut subscriber = broker.subscriber(&["topic/a"]);
        // More than a pipe holds; the end of the standard output that is read stays open.
        let long = "x".repeat(100_000);
        check(&broker.publish(&["topic/a", &long]), 0, &[]);
        let mut begun = [0; 1];
        subscriber.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&subscriber), signal).unwrap();
        assert_eq!(subscriber.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn the_admin_commands_say_what_there_is() {
    let broker = Broker::start();
    broker.told(&["group", "create", "eng"]);
    broker.told(&["group", "add", "eng", "alice", "bob"]);
    assert!(broker.told(&["group", "list"]).contains("eng    2"));
    assert_eq!(broker.told(&["group", "show", "eng"]), "MEMBER\nalice\nbob\n");
    broker.told(&["group", "remove", "eng", "bob"]);
    let group: Value = serde_json::from_str(&broker.told(&["group", "show", "eng", "--json"])).unwrap();
    assert_eq!(group, serde_json::json!({"group": "eng", "members": ["alice"]}));
    broker.told(&["group", "rm", "eng"]);
    check(&broker.ask(&["group", "show", "eng"]), 1, &["there is no group eng"]);

    let mut subscriber = broker.subscriber(&["topic/a", "--as", "dave"]);
    let sessions: Value = serde_json::from_str(&broker.told(&["session", "list", "--json"])).unwrap();
    let id = sessions[0]["id"].as_str().unwrap();
    assert!(broker.told(&["session", "list"]).contains("dave"));
    assert!(broker.told(&["session", "show", id]).contains(id));
    broker.told(&["session", "close", id]);
    assert_eq!(subscriber.wait().unwrap().code(), Some(1), "the broker ended it for good");
    check(&broker.ask(&["session", "show", id]), 1, &["there is no session"]);

    assert!(broker.told(&["plugin", "list"]).starts_with("NAME"));
    let wrong = broker.data.path().join("wrong.wasm");
    std::fs::write(&wrong, b"\0asm").unwrap();
    check(
        &broker.ask(&["plugin", "push", wrong.to_str().unwrap()]),
        1,
        &["The component cannot be a plugin"],
    );
    assert!(broker.told(&["policy", "list"]).starts_with("NAME"));
    let set = ["policy", "set", "p", "--plugin", "missing@1", "--match", "topic/a"];
    check(&broker.ask(&set), 1, &["missing"]);
    check(&broker.ask(&["policy", "rollback", "p"]), 1, &["there is no policy"]);
}

#[test]
fn the_token_is_found_or_asked_for() {
    let broker = Broker::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().to_str().unwrap();
    let list = ["group", "list", "--admin", &broker.admin, "--data-dir", elsewhere];
    check(&run(&list), 1, &["no --token, no WASPMQ_ADMIN_TOKEN", elsewhere]);
    check(
        &waspmq(&list).env("WASPMQ_ADMIN_TOKEN", "wrong").output().unwrap(),
        1,
        &["admin token is missing or wrong"],
    );
    let beside = ["group", "list", "--admin", &broker.admin, "--data-dir", broker.directory()];
    check(&waspmq(&beside).env("WASPMQ_ADMIN_TOKEN", "").output().unwrap(), 0, &[]);
    let token = std::fs::read_to_string(broker.data.path().join("admin-token")).unwrap();
    check(&run(&[&list[..], &["--token", token.trim()]].concat()), 0, &[]);
    check(&run(&["group", "list", "--admin", "127.0.0.1:1", "--token", "x"]), 1, &["is the broker running?"]);
}

#[test]
fn a_signal_drains() {
    let mut broker = Broker::start();
    let subscriber = broker.subscriber(&["topic/a"]);
    // A second broker on the same data is refused meanwhile.
    let second =
        ["serve", "--data-dir", broker.directory(), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    check(&run(&second), 1, &["in use by another broker", broker.directory()]);
    broker.signal();
    assert_eq!(broker.process.wait().unwrap().code(), Some(0));
    assert!(broker.log.iter().any(|line| line.starts_with("draining")));
    let id = rustix::process::Pid::from_child(&subscriber);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    check(&subscriber.wait_with_output().unwrap(), 0, &[]);
}

/// Where `cargo xtask plugins` leaves components: beside the build of this test.
fn plugins() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_waspmq")).ancestors().nth(2).unwrap().join("plugins")
}

#[test]
fn the_demo_loses_nothing() {
    let plugins = plugins();
    let output = run(&["demo", "--once", "--plugins", plugins.to_str().unwrap()]);
    check(&output, 0, &["broker on ws://127.0.0.1:"]);
    let table = text(&output.stdout);
    for phase in [
        "direct",
        "group",
        "topic",
        "queue",
        "broadcast",
        "policy swap",
        "sticky queue",
        "0 lost, 0 repeated",
    ] {
        assert!(table.contains(phase), "{phase:?} is not in {table}");
    }
}

#[test]
fn the_doctor_looks_at_everything() {
    let output = run(&["doctor"]);
    check(&output, 0, &[]);
    let json = run(&["doctor", "--json"]);
    check(&json, 0, &[]);
    let checks: Value = serde_json::from_str(&text(&json.stdout)).unwrap();
    let names = [
        "open files",
        "somaxconn",
        "ephemeral ports",
        "rmem_max",
        "wmem_max",
        "offload",
        "max_map_count",
        "cores",
    ];
    for name in names {
        assert!(text(&output.stdout).contains(name), "{name}");
        let is_it = |check: &&Value| check["check"].as_str().unwrap().contains(name);
        let found = checks.as_array().unwrap().iter().find(is_it).unwrap_or_else(|| panic!("{name}"));
        assert!(!found["found"].as_str().unwrap().is_empty() && found.get("advice").is_some(), "{found}");
    }
}
