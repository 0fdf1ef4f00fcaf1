//! `waspmq bench` as a user runs it: every scenario against a broker, and what it says when it cannot.
//!
//! Nothing here is about speed: a run is short, and its numbers have to add up.

use crate::harness::Broker;
use serde_json::{Value, json};
use std::io::Read;
use std::process::{Command, Output, Stdio};

fn bench(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
    command.arg("bench").args(arguments).args(["--url", url]).env_remove("WASPMQ_TOKEN");
    command
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The result of a run that went as it must.
fn result(broker: &Broker, arguments: &[&str]) -> Value {
    result_at(&broker.url(), arguments)
}

fn result_at(url: &str, arguments: &[&str]) -> Value {
    let output = bench(url, arguments).arg("--json").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {} {text}", told(&output));
    assert_eq!(told(&output), "", "no terminal, no bar");
    assert_eq!(text.lines().count(), 1, "one object");
    serde_json::from_str(&text).unwrap()
}

/// Every message was received once by each of those, or by one of them.
fn adds_up(document: &Value, sent: u64, copies: u64) {
    let messages = &document["messages"];
    assert_eq!(messages["sent"], sent, "{document}");
    assert_eq!(
        (&messages["expected"], &messages["received"]),
        (&json!(sent * copies), &json!(sent * copies))
    );
    for none in
        ["lost", "repeated", "unreadable", "refused", "failed", "unanswered", "overflowed", "withdrawn"]
    {
        assert_eq!(messages[none], 0, "{none}: {document}");
    }
    assert_eq!((&document["problems"], &document["ended"]), (&json!([]), &json!("done")));
    assert_eq!(document["causes"], json!({}));
}

#[test]
fn latency_is_measured_of_every_message_from_when_it_was_due() {
    let broker = Broker::start();
    let arguments =
        ["latency", "--rate", "500", "--messages", "50", "--subscribers", "3", "--warmup", "20ms"];
    let document = result(&broker, &arguments);
    adds_up(&document, 60, 3);
    let (latency, delay) = (&document["latency"], &document["send_delay"]);
    assert_eq!((&latency["samples"], &delay["samples"]), (&json!(150), &json!(50)));
    let figure = |document: &Value, key: &str| document[key].as_f64().unwrap();
    let names = ["min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
    let quantiles = names.map(|name| figure(latency, name));
    assert!(quantiles.is_sorted() && figure(delay, "max_us") <= figure(latency, "max_us"), "{document}");
    assert_eq!(latency["quantiles"].as_array().unwrap().last().unwrap()[2], 150);
    assert!(document["measured"]["behind_percent"].is_number());
    assert!(document["measured"]["sent"] == 50 && document["measured"]["received"] == 150);
    assert_eq!(document["asked"]["rate"], 500.0);
}

#[test]
fn throughput_in_both_profiles_and_over_quic() {
    let broker = Broker::start();
    let quic = format!("quic://{}", broker.address);
    let pinned = broker.fingerprint.clone().unwrap();
    for (url, more) in [
        (broker.url(), &["--profile", "binary"][..]),
        (broker.url(), &["--profile", "json", "--size", "50", "--threads", "1"]),
        (quic, &["--tls-fingerprint", &pinned, "--in-flight", "1"]),
    ] {
        let arguments = ["throughput", "--pairs", "3", "--messages", "200"];
        let document = result_at(&url, &[&arguments[..], more].concat());
        adds_up(&document, 600, 1);
        let messages = &document["messages"];
        assert_eq!((&messages["reordered"], &document["latency"]["samples"]), (&json!(0), &json!(600)));
        let transport = if url.starts_with("quic") { "quic" } else { "websocket" };
        assert_eq!(document["transport"], transport);
    }
}

#[test]
fn fanout_looks_for_the_first_and_the_last_receiver() {
    let broker = Broker::start();
    for pace in [&["--in-flight", "4"][..], &["--rate", "200"]] {
        let arguments = ["fanout", "--subscribers", "12", "--messages", "40"];
        let document = result(&broker, &[&arguments[..], pace].concat());
        adds_up(&document, 40, 12);
        let spread = &document["spread"];
        assert_eq!((&spread["times"]["samples"], &spread["incomplete"]), (&json!(40), &json!(0)));
        assert_eq!(document["send_delay"].is_null(), pace[0] == "--in-flight");
    }
}

#[test]
fn acked_waits_for_receipts_of_each_level() {
    let broker = Broker::start();
    for (level, pace) in [
        ("accepted", &["--in-flight", "8"][..]),
        ("stored", &["--in-flight", "8"]),
        ("delivered", &["--in-flight", "8"]),
        ("delivered", &["--rate", "400"]),
    ] {
        let arguments = ["acked", "--ack", level, "--pairs", "2", "--subscribers", "2", "--messages", "30"];
        let document = result(&broker, &[&arguments[..], pace].concat());
        adds_up(&document, 60, 2);
        assert_eq!(
            (&document["receipts"]["samples"], &document["asked"]["ack"]),
            (&json!(60), &json!(level))
        );
    }
}

#[test]
fn members_of_a_queue_share_every_message() {
    let broker = Broker::start();
    let document = result(&broker, &["queue", "--members", "3", "--messages", "300", "--in-flight", "32"]);
    adds_up(&document, 300, 1);
    let members = document["members"].as_array().unwrap();
    let total: u64 = members.iter().map(|member| member.as_u64().unwrap()).sum();
    assert_eq!((members.len(), total), (3, 300));
}

#[test]
fn connections_are_held_and_the_brokers_memory_is_theirs() {
    let broker = Broker::start();
    let arguments =
        ["connections", "--clients", "40", "--rate", "400", "--hold", "50ms", "--data-dir", "none"];
    let document = result(&broker, &[&arguments[..], &["--admin", &broker.admin]].concat());
    let figure = |key: &str| document[key].as_u64().unwrap();
    assert_eq!(["begun", "opened", "alive", "failed", "lost"].map(figure), [40, 40, 40, 0, 0], "{document}");
    assert_eq!(document["connect"]["samples"], 40);
    let memory = &document["memory"];
    assert_eq!(
        (&memory["sessions_before"], &memory["sessions_after"]),
        (&json!(0), &json!(40)),
        "{document}"
    );

    // The figures of another broker are not those of this one's connections.
    let other = Broker::start();
    let document = result(&broker, &[&arguments[..], &["--admin", &other.admin]].concat());
    assert!(document["memory"].is_null(), "{document}");
    assert!(document["no_memory"].as_str().unwrap().contains("another broker"), "{document}");
}

#[test]
fn people_read_lines_and_runs_do_not_meet() {
    let broker = Broker::start();
    let start = || {
        let mut command = bench(&broker.url(), &["latency", "--messages", "300", "--rate", "600"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for run in [start(), start()] {
        let output = run.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}{}", told(&output));
        assert!(text.starts_with("latency: 1 publisher, 1 receiver, 600 messages/s, 128 B\n"), "{text}");
        assert!(text.contains("\nreceived    300 of 300\n") && text.contains("p99.9"), "{text}");
        assert!(!text.contains('\u{1b}'), "no bar: {text}");
    }
}

#[test]
fn a_signal_ends_a_run_early_and_its_result_is_printed() {
    for scenario in [
        &["latency", "--duration", "10m", "--warmup", "0s"][..],
        &["throughput", "--duration", "10m", "--warmup", "0s"],
        &["connections", "--clients", "5", "--hold", "10m"],
    ] {
        let broker = Broker::start();
        let mut command = bench(&broker.url(), scenario);
        let mut run = command.arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        // More than the message that shows whether one may publish.
        broker.eventually("the run's traffic", |broker| {
            let delivered = "waspmq_messages_delivered_total{kind=\"topic\",transport=\"websocket\"}";
            broker.metric("waspmq_sessions") == Some(5.0)
                || broker.metric(delivered).is_some_and(|delivered| delivered > 10.0)
        });
        let killed = Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let mut text = String::new();
        run.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(run.wait().unwrap().code(), Some(0), "{text}");
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["ended"], "interrupted");
        let messages = &document["messages"];
        assert_eq!(messages["received"], messages["expected"], "{document}");
        broker.eventually("the end of the run's sessions", |broker| {
            broker.metric("waspmq_sessions") == Some(0.0)
        });
    }
}

#[test]
fn a_run_whose_broker_is_gone_ends_when_it_is_told_to() {
    for scenario in [
        &["latency", "--rate", "5000"][..],
        &["throughput", "--in-flight", "4096"],
        &["acked", "--in-flight", "4096", "--messages", "1000000000"],
    ] {
        let mut broker = Broker::start();
        let mut command = bench(&broker.url(), scenario);
        let mut run = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        broker.eventually("the run's traffic", |broker| {
            let delivered = "waspmq_messages_delivered_total{kind=\"topic\",transport=\"websocket\"}";
            broker.metric(delivered).is_some_and(|delivered| delivered > 10.0)
        });
        broker.signal("KILL");
        broker.wait();
        // The first ends the sending, the second the waiting for what is on its way, the third that for goodbyes.
        let status = loop {
            if let Some(status) = run.try_wait().unwrap() {
                break status;
            }
            let told = Command::new("kill").args(["-INT", &run.id().to_string()]).status();
            assert!(told.is_ok());
            std::thread::yield_now();
        };
        let mut text = String::new();
        run.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["ended"], "interrupted");
        let (messages, problems) = (&document["messages"], document["problems"].as_array().unwrap());
        let figure = |key: &str| messages[key].as_u64().unwrap();
        assert_eq!(figure("received") + figure("lost"), figure("expected"), "{document}");
        assert_eq!(status.code(), Some(i32::from(!problems.is_empty())), "{document}");
    }
}

#[test]
fn what_cannot_be_run_is_told() {
    let broker = Broker::start();
    let check = |url: &str, arguments: &[&str], code: i32, expected: &str| {
        let output = bench(url, arguments).output().unwrap();
        let text = told(&output);
        assert_eq!(
            (output.status.code(), text.contains(expected)),
            (Some(code), true),
            "{arguments:?}: {text}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    };
    // Nobody listens where a listener has been.
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("ws://{}/ws", listener.local_addr().unwrap())
    };
    for scenario in ["latency", "throughput", "fanout", "acked", "queue", "connections"] {
        check(&gone, &[scenario], 1, "cannot connect to ws://127.0.0.1:");
    }
    let url = broker.url();
    check("http://127.0.0.1:9470/ws", &["latency"], 2, "must begin with ws://");
    check(&url, &["latency", "--size", "10"], 2, "24 bytes");
    check(&url, &["latency", "--size", "40", "--profile", "json"], 2, "50 bytes");
    check(&url, &["acked", "--pairs", "60000"], 2, "120000 clients");
    check(&url, &["latency", "--duration", "1s", "--messages", "5"], 2, "cannot be used with");
    check(&url, &["swim"], 2, "unrecognized subcommand");

    let mut few = Command::new("sh");
    let script = format!("ulimit -n 100; exec \"$0\" bench connections --clients 50 --url {url}");
    let output = few.args(["-c", &script, env!("CARGO_BIN_EXE_waspmq")]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("ulimit -n 164"), "{}", told(&output));
}

/// Whether a receiver is too slow is the machine's affair; what is said of it adds up in any case.
#[test]
fn what_is_dropped_for_slow_receivers_is_what_is_lost() {
    let broker = Broker::start_with(&[
        ("WASPMQ_LIMITS__MAX_MESSAGE_BYTES", "32768"),
        ("WASPMQ_LIMITS__OUTBOUND_BYTES_MAX", "65536"),
        ("WASPMQ_LIMITS__SEND_BUFFER_BYTES", "16384"),
    ]);
    let arguments =
        ["fanout", "--subscribers", "4", "--size", "30000", "--in-flight", "2000", "--messages", "1000"];
    let output = bench(&broker.url(), &arguments).arg("--json").output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figure = |key: &str| document["messages"][key].as_u64().unwrap();
    let (lost, received) = (figure("lost"), figure("received"));
    assert_eq!((figure("sent"), figure("overflowed"), received + lost), (1_000, lost, 4_000), "{document}");
    assert_eq!(
        (output.status.code(), figure("repeated")),
        (Some(i32::from(lost > 0)), 0),
        "{}",
        told(&output)
    );
    assert_eq!(told(&output).contains("dropped for slow receivers"), lost > 0);
}

/// Likewise: what is spilled comes later, so nothing is dropped or lost in any case.
#[test]
fn what_is_spilled_is_waited_for() {
    let broker = Broker::start_with_config(
        r#"
        [[address]]
        match = "topic/bench.>"
        keep = "always"
        overflow = "spill"
        [limits]
        max_message_bytes = 32768
        outbound_bytes_max = 65536
        send_buffer_bytes = 16384
        "#,
    );
    let arguments =
        ["fanout", "--subscribers", "4", "--size", "30000", "--in-flight", "500", "--messages", "300"];
    adds_up(&result(&broker, &arguments), 300, 4);
}

#[test]
fn a_client_that_the_broker_ends_ends_the_run() {
    let of = |scenario: &str, number: u32| {
        let broker = Broker::start();
        let scenario = &[scenario, "--duration", "10m"];
        let mut command = bench(&broker.url(), scenario);
        let run = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        broker.eventually("the run's traffic", |broker| {
            let delivered = "waspmq_messages_delivered_total{kind=\"topic\",transport=\"websocket\"}";
            broker.metric(delivered).is_some_and(|delivered| delivered > 10.0)
        });
        let (_, sessions) = broker.admin("GET", "/v1/sessions", None);
        let is_it = |session: &&Value| session["user"].as_str().unwrap().ends_with(&format!("-{number}"));
        let sessions = sessions["sessions"].as_array().unwrap();
        let id = sessions.iter().find(is_it).unwrap()["id"].as_str().unwrap();
        assert!(broker.admin("DELETE", &format!("/v1/sessions/{id}"), None).0 < 300);
        (broker, run)
    };
    // The publisher is the first client, its receiver the second. All runs wait at once for what does not come.
    let runs = [of("throughput", 0), of("throughput", 1), of("latency", 0), of("latency", 1)];
    for (_broker, run) in runs {
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["ended"], "failed", "{document}");
        let causes = document["causes"].as_object().unwrap();
        assert!(causes.keys().any(|cause| cause.contains("kicked")), "{document}");
    }
}

#[test]
fn refused_messages_are_counted_and_fail_the_run() {
    let limits = [("WASPMQ_LIMITS__PUBLISHES_PER_SECOND", "1"), ("WASPMQ_LIMITS__PUBLISH_BURST", "10")];
    let broker = Broker::start_with(&limits);
    for scenario in [&["throughput"][..], &["latency", "--rate", "1000"], &["acked", "--ack", "accepted"]] {
        let output = bench(&broker.url(), scenario).args(["--messages", "100", "--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{scenario:?}: {}", told(&output));
        assert!(told(&output).contains("messages refused"), "{}", told(&output));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let messages = &document["messages"];
        let figure = |key: &str| messages[key].as_u64().unwrap();
        assert_eq!(figure("sent"), 100);
        assert!(figure("refused") > 0 && figure("received") > 0, "{document}");
        assert_eq!(figure("received") + figure("refused"), 100, "{document}");
        assert_eq!(figure("lost"), 0, "refused is not lost: {document}");
        assert_eq!(document["causes"]["rate_limited (1429)"], messages["refused"], "{document}");
    }
}
