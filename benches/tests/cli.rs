//! The tool from outside: exit codes, tables and JSON lines, against its own relay as a child process. What the
//! figures are is not checked, only that they are there.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::path::Path;
use std::process::{Command, Output};

fn bench(results: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(arguments).arg("--results").arg(results).output().expect("the binary is built")
}

fn lines(results: &Path, scenario: &str) -> Vec<serde_json::Value> {
    let entries = std::fs::read_dir(results).expect("results were written");
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let path =
        entries.map(|entry| entry.unwrap().path()).find(|path| name(path).starts_with(scenario)).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

#[test]
fn fanout_measures_each_size_and_repetition() {
    let folder = tempfile::tempdir().unwrap();
    let quick = ["fanout", "--servers", "relay", "--subs", "1,8", "--seconds", "0.1", "--warm-up", "0.02"];
    let output = bench(folder.path(), &[quick.as_slice(), &["--repetitions", "2"]].concat());
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("relay us/del"), "{output:?}");
    let lines = lines(folder.path(), "fanout");
    let seen: Vec<_> = lines
        .iter()
        .map(|line| (line["parameters"]["subscribers"].as_u64(), line["repetition"].as_u64()))
        .collect();
    assert_eq!(
        seen,
        [(1, 1), (1, 2), (8, 1), (8, 2)].map(|(subs, repetition)| (Some(subs), Some(repetition)))
    );
    for line in lines {
        assert!(line["sample"]["server_us_per_delivery"].as_f64() > Some(0.0), "{line}");
        assert_eq!(line["sample"]["lost"], 0);
        assert!(line["commit"].is_string() && line["machine"]["cpu"].is_string() && line["date"].is_string());
    }
}

#[test]
fn direct_reports_latency() {
    let folder = tempfile::tempdir().unwrap();
    let quick = ["direct", "--servers", "relay", "--pairs", "5", "--seconds", "0.1", "--repetitions", "1"];
    let output = bench(folder.path(), &[quick.as_slice(), &["--rate", "1000", "--warm-up", "0.02"]].concat());
    assert!(output.status.success(), "{output:?}");
    let latency = lines(folder.path(), "direct")[0]["sample"]["latency"].clone();
    assert!(latency["p999_us"].as_f64() >= latency["p50_us"].as_f64(), "{latency}");
    assert!(latency["p50_us"].as_f64() > Some(0.0), "{latency}");
}

#[test]
fn idle_holds_its_connections() {
    let folder = tempfile::tempdir().unwrap();
    let quick =
        ["idle", "--servers", "relay", "--connections", "50", "--seconds", "0.1", "--repetitions", "1"];
    let output = bench(folder.path(), &quick);
    assert!(output.status.success(), "{output:?}");
    let sample = lines(folder.path(), "idle")[0]["sample"].clone();
    assert_eq!((sample["connections"].as_u64(), sample["disconnected"].as_u64()), (Some(50), Some(0)));
    assert!(sample["server_us_per_accept"].as_f64() > Some(0.0), "{sample}");
}

#[test]
fn a_broker_that_does_not_start_is_an_error_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(
        folder.path(),
        &["fanout", "--servers", "broker", "--broker", "/nowhere/waspmq", "--subs", "1"],
    );
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("broker") && said.contains("/nowhere/waspmq"), "{said}");
}

#[test]
fn figures_out_of_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), &["fanout", "--payload", "3"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--payload"), "{output:?}");
}

#[test]
fn compression_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        let output =
            bench(folder.path(), &[&["compression", "--broker", "/nowhere/waspmq"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let lines = folder.path().join("lines");
    std::fs::write(&lines, "{\"a\":1}\n").unwrap();
    let few = said(&["--payload", lines.to_str().unwrap()]);
    assert!(few.contains("1 lines with a JSON value, 164 are needed"), "{few}");
    assert!(said(&["--window", "0"]).contains("--window"));
    let absent = said(&["--subjects", "zstd-dict", "--subs", "1"]);
    assert!(absent.contains("zstd-dict, repetition 1") && absent.contains("/nowhere/waspmq"), "{absent}");
}

#[test]
fn the_group_commit_reference_measures_each_repetition() {
    let folder = tempfile::tempdir().unwrap();
    let quick = ["fsync", "--seconds", "0.1", "--warm-up", "0.02", "--publishers", "8", "--window", "2"];
    let output = bench(folder.path(), &[quick.as_slice(), &["--repetitions", "2"]].concat());
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("fsyncs/s"), "{output:?}");
    let lines = lines(folder.path(), "fsync");
    assert_eq!(lines.len(), 2);
    for line in lines {
        let sample = &line["sample"];
        assert!(sample["fsyncs_per_s"].as_f64() > Some(0.0), "{line}");
        assert!(sample["batch"]["max"].as_u64() <= Some(16), "{line}");
        assert!(sample["commit"]["p99_us"].as_f64() >= sample["commit"]["p50_us"].as_f64(), "{line}");
    }
}

#[test]
fn stored_runs_both_references_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let quick = ["stored", "--subjects", "fsync,fsync-relay", "--seconds", "0.1", "--warm-up", "0.02"];
    let few = ["--publishers", "8", "--window", "2", "--repetitions", "2", "--relay-threads", "3"];
    let output = bench(folder.path(), &[quick.as_slice(), &few].concat());
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for ratio in ["broker over fsync: -", "broker over fsync-relay: -", "broker-online over fsync-relay: -"] {
        assert!(said.contains(&format!("messages/s, {ratio}")), "no broker was measured: {said}");
    }
    let between =
        said.lines().find_map(|line| line.strip_prefix("messages/s, fsync-relay over fsync: ")).unwrap();
    assert!(between.contains('(') && between.contains('-'), "a median and a range: {between}");
    let lines = lines(folder.path(), "stored");
    let order: Vec<_> = lines.iter().map(|line| line["server"].as_str().unwrap()).collect();
    assert_eq!(order, ["fsync", "fsync-relay", "fsync-relay", "fsync"]);
    for line in &lines[1..3] {
        let sample = &line["sample"];
        assert_eq!((sample["lost"].as_u64(), sample["duplicated"].as_u64()), (Some(0), Some(0)), "{line}");
        assert!(sample["deliveries_per_s"].as_f64() > Some(0.0), "{line}");
        assert!(sample["server_us_per_delivery"].as_f64() > Some(0.0), "{line}");
        assert!(sample["journal_commits"]["count"].as_u64() > Some(0), "{line}");
        assert_eq!(
            (line["profile"].as_str(), line["parameters"]["relay_threads"].as_u64()),
            (Some("binary"), Some(3))
        );
    }
}

#[test]
fn help_names_both_references_and_what_there_is_to_measure() {
    let folder = tempfile::tempdir().unwrap();
    let help = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_bench")).args(arguments).arg("--help").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = help(&[]);
    assert!(all.contains("  fsync ") && all.contains("  fsync-relay "), "{all}");
    let stored = help(&["stored"]);
    assert!(stored.contains("fsync-relay") && stored.contains("--relay-threads"), "{stored}");
    let output = bench(folder.path(), &["stored", "--relay-threads", "65"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--relay-threads"), "{output:?}");
}

#[test]
fn a_window_of_nothing_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for scenario in ["fsync", "stored", "delivered"] {
        let output = bench(folder.path(), &[scenario, "--window", "0"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--window"), "{output:?}");
    }
}
