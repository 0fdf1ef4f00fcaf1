//! `waspmq top`: figures of real traffic for programs and for people, and the screen in a real terminal.

mod terminal;

use crate::harness::Broker;
use crate::policies::{set, upload};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use terminal::Terminal;

fn top(admin: &str, data: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
    command.arg("top").args(["--admin", admin]).arg("--data-dir").arg(data).args(arguments);
    command.env_remove("WASPMQ_ADMIN_TOKEN").env_remove("NO_COLOR").env("TERM", "xterm-256color");
    command
}

/// What the command says while messages are published and delivered.
async fn beside_traffic(broker: &Broker, arguments: &[&str]) -> Output {
    let mut alice = broker.connect("alice").await;
    alice.ask(json!({"type": "subscribe", "ref": 1, "to": "topic/orders.eu"})).await;
    let mut command = top(&broker.admin, broker.data.path(), arguments);
    let mut said = tokio::task::spawn_blocking(move || command.output().unwrap());
    loop {
        let exchange = async {
            alice.send(&json!({"type": "publish", "ref": 2, "to": "topic/orders.eu", "payload": 1})).await;
            // Its receipt and the message itself, in some order.
            alice.receive().await;
            alice.receive().await;
        };
        tokio::select! {
            output = &mut said => return output.unwrap(),
            () = exchange => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_is_told_to_programs() {
    let broker = Broker::start();
    upload(&broker, "mirror", "route-mirror");
    set(&broker, "audit", "mirror@1", "topic/orders.>", &json!({"to": "topic/audit"}));
    let output = beside_traffic(&broker, &["--json", "--count", "2", "--interval", "3"]).await;
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    let lines = String::from_utf8(output.stdout).unwrap();
    let looks: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(looks.len(), 2, "{lines}");
    for figure in [
        "/messages/published_per_s/topic/accepted",
        "/messages/delivered_per_s/topic/websocket",
        "/latency/delivery/p99_s",
        "/policies/0/calls_per_s",
    ] {
        let number = |look: &Value| look.pointer(figure).and_then(Value::as_f64).unwrap_or(0.0);
        assert!(looks.iter().any(|look| number(look) > 0.0), "{figure} in {lines}");
    }
    for look in looks {
        assert!(look["interval_s"].as_f64().unwrap() >= 1.0, "{look}");
        assert!(look["process"]["resident_bytes"].as_u64().unwrap() > 1_000_000, "{look}");
        assert_eq!((&look["broker"]["phase"], &look["restarted"]), (&json!("ready"), &json!(false)));
        assert_eq!(look["connections"]["open"]["websocket"], json!(1));
        let policy = &look["policies"][0];
        assert_eq!((&policy["name"], &policy["version"]), (&json!("audit"), &json!("mirror@1")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_is_told_to_people() {
    let broker = Broker::start();
    // It is no terminal, so it is text and comes once.
    let output = beside_traffic(&broker, &["--interval", "5"]).await;
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("ready  up ") && text.contains(&broker.admin), "{text}");
    let row = text.lines().find(|line| line.starts_with("topic")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert!(cells.len() == 6 && cells[1] != "0" && cells[3] != "0" && cells[5] != "-", "{row}");
    assert!(text.contains("there are no policies") && !text.contains('\x1b'), "{text}");
}

#[test]
fn who_may_not_look_is_told_so() {
    let broker = Broker::start();
    for arguments in [["--json"], ["--once"]] {
        let wrong =
            top(&broker.admin, broker.data.path(), &arguments).args(["--token", "wrong"]).output().unwrap();
        let said = String::from_utf8(wrong.stderr).unwrap();
        assert_eq!((wrong.status.code(), wrong.stdout.len()), (Some(1), 0), "{said}");
        assert!(said.contains("admin token is missing or wrong"), "{said}");
    }
    let gone = top("127.0.0.1:1", broker.data.path(), &["--once"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8(gone.stderr).unwrap().contains("is the broker running?"));
    // In a terminal, too, and before anything is drawn.
    let mut terminal = Terminal::open(24, 80);
    let child = terminal.run(top(&broker.admin, broker.data.path(), &["--token", "wrong"]));
    assert_eq!(terminal.end(child), Some(1));
    assert!(
        terminal.said().contains("admin token is missing or wrong") && !terminal.said().contains("\x1b[")
    );
}

#[test]
fn the_screen_is_taken_and_given_back() {
    let broker = Broker::start();
    for end in ["q", "\x03", "TERM", "HUP", "INT", "QUIT"] {
        let mut terminal = Terminal::open(24, 80);
        let child = terminal.run(top(&broker.admin, broker.data.path(), &["--interval", "0.2"]));
        terminal
            .shows("the figures", |rows| rows[0].starts_with("ready  up ") && rows[4].starts_with("KIND "));
        assert!(terminal.is_raw() && terminal.said().contains("\x1b[?1049h"));
        terminal.type_in("?");
        terminal.shows("the help", |rows| rows[2].starts_with("q, Ctrl-C"));
        terminal.type_in("x2");
        terminal.shows("the policies", |rows| rows[4] == "there are no policies");
        terminal.type_in("3");
        terminal.shows("the sessions", |rows| rows[4].starts_with("USER "));
        terminal.type_in("1");
        terminal.resize(10, 40);
        terminal
            .shows("a small screen", |rows| rows[2].starts_with("KIND ") && rows[9].starts_with(" Overview"));
        if end.len() > 1 {
            terminal.signal(&child, end);
        } else {
            terminal.type_in(end);
        }
        assert_eq!(terminal.end(child), Some(0), "{end:?}");
        assert!(!terminal.is_raw(), "{end:?}");
        let said = terminal.said();
        assert!(said.contains("\x1b[?1049l") && said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l"), "{end:?}");
    }
}

#[test]
fn there_are_no_colours_where_none_are_wanted() {
    let broker = Broker::start();
    let coloured = |value: &str| {
        let mut command = top(&broker.admin, broker.data.path(), &["--interval", "0.2"]);
        command.env("NO_COLOR", value);
        let mut terminal = Terminal::open(24, 80);
        let child = terminal.run(command);
        terminal.shows("the figures", |rows| rows[0].starts_with("ready  up "));
        terminal.type_in("q");
        assert_eq!(terminal.end(child), Some(0));
        terminal.said().contains("\x1b[38;5;")
    };
    assert!(!coloured("1"));
    assert!(coloured(""));
}

#[test]
fn a_broker_that_goes_and_comes_back_is_followed() {
    let mut broker = Broker::start();
    let way = Way::to(&broker.admin);
    let mut terminal = Terminal::open(24, 80);
    let child = terminal.run(top(&way.address, broker.data.path(), &["--interval", "0.2"]));
    terminal.shows("the figures", |rows| rows[0].starts_with("ready  up ") && !is_gone(rows));
    broker.signal("KILL");
    terminal.shows("that it is gone", is_gone);
    broker.restart();
    way.lead_to(&broker.admin);
    terminal.shows("that it is back", |rows| rows[0].starts_with("ready  up ") && !is_gone(rows));
    terminal.type_in("q");
    assert_eq!(terminal.end(child), Some(0));
}

fn is_gone(rows: &[String]) -> bool {
    rows.iter().any(|row| row.starts_with("NO FIGURES for "))
}

/// One address for a broker that gets another port with each start.
struct Way {
    address: String,
    target: Arc<Mutex<String>>,
}

impl Way {
    fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = Self {
            address: listener.local_addr().unwrap().to_string(),
            target: Arc::new(Mutex::new(target.to_owned())),
        };
        let target = Arc::clone(&way.target);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(broker) = TcpStream::connect(&*target.lock().unwrap()) else { continue };
                for (from, to) in [(&client, &broker), (&broker, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || pass(from, to));
                }
            }
        });
        way
    }

    fn lead_to(&self, target: &str) {
        target.clone_into(&mut self.target.lock().unwrap());
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    _ = to.shutdown(std::net::Shutdown::Both);
}
