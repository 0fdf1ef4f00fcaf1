//! The plugin kit: new projects, checks, vectors and benches on the command line, and the templates' plugins in a broker.

use crate::harness::{Broker, Peer};
use crate::levels::{publish, with};
use crate::policies::plugins;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn waspmq(arguments: &[&str]) -> (i32, String, String) {
    ended(&Command::new(env!("CARGO_BIN_EXE_waspmq")).args(arguments).output().unwrap())
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// Where `cargo xtask plugins` leaves what it made of the templates.
fn templates() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_waspmq")).ancestors().nth(2).unwrap().join("templates")
}

fn template(name: &str) -> String {
    let path = templates().join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is not there; run `cargo xtask plugins`", path.display());
    path.to_str().unwrap().to_owned()
}

/// A new project in a folder of its own, and that folder.
fn project(language: &str, hook: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders").to_str().unwrap().to_owned();
    let (code, out, error) =
        waspmq(&["plugin", "new", "orders", "--lang", language, "--hook", hook, "--dir", &path]);
    assert_eq!(code, 0, "{error}");
    assert!(out.lines().all(|file| Path::new(file).is_file()), "{out}");
    (folder, path)
}

#[test]
fn a_new_project_is_complete_and_written_once() {
    for language in ["rust", "c", "zig", "assemblyscript", "javascript", "python"] {
        let (_folder, path) = project(language, "routing");
        for file in ["README.md", "plugin.toml", "vectors.toml", "wit/policy.wit"] {
            assert!(Path::new(&path).join(file).is_file(), "{language}: no {file}");
        }
        let readme = std::fs::read_to_string(Path::new(&path).join("README.md")).unwrap();
        std::fs::write(Path::new(&path).join("README.md"), "mine").unwrap();
        let (code, _, error) = waspmq(&["plugin", "new", "orders", "--lang", language, "--dir", &path]);
        assert!(code == 1 && error.contains("nothing was written"), "{code} {error}");
        assert_eq!(std::fs::read_to_string(Path::new(&path).join("README.md")).unwrap(), "mine");
        assert!(readme.starts_with("# orders\n"), "{readme}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders").to_str().unwrap().to_owned();
    let (code, out, _) = waspmq(&["plugin", "new", "orders", "--lang", "c", "--dir", &path, "--json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    let files = found["files"].as_array().unwrap();
    assert!(code == 0 && !files.is_empty(), "{out}");
    assert!(files.iter().all(|file| Path::new(file.as_str().unwrap()).is_file()), "{out}");
    let (code, _, error) = waspmq(&["plugin", "new", "../orders", "--lang", "c"]);
    assert!(code == 2 && error.contains("is not a name for a plugin"), "{code} {error}");
}

#[test]
fn a_missing_tool_is_named_with_where_to_get_it() {
    let cases = [
        ("rust", "`cargo`", "rustup.rs"),
        ("c", "`zig` or `python3 -m ziglang`", "pip install ziglang"),
        ("zig", "`zig` or `python3 -m ziglang`", "pip install ziglang"),
        ("assemblyscript", "`asc`", "npm ci"),
        ("javascript", "`componentize-js`", "npm ci"),
        ("python", "`componentize-py`", "pip install -r requirements.txt"),
    ];
    for (language, tool, fix) in cases {
        let (folder, path) = project(language, "ack");
        let mut command = Command::new(env!("CARGO_BIN_EXE_waspmq"));
        let output = command.args(["plugin", "build", &path]).env("PATH", folder.path()).output();
        let (code, _, error) = ended(&output.unwrap());
        assert!(code == 1 && error.contains(tool) && error.contains(fix), "{code} {error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let (code, _, error) = waspmq(&["plugin", "build", empty.path().to_str().unwrap()]);
    assert!(code == 2 && error.contains("there is no plugin.toml"), "{code} {error}");
}

/// A module that leaves everything as configured, as a tool leaves it that knows nothing of components.
const BARE: &str = r#"(module
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "configure") (param i32 i32) (result i32) (i32.const 64))
    (func (export "self_test") (result i32) (i32.const 64))
    (func (export "overflow") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0)))"#;

#[test]
fn a_build_makes_a_component_of_what_the_tool_leaves() {
    let (_folder, path) = project("rust", "overflow");
    let file = Path::new(&path).join("plugin.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let with_tool = |source: &str| {
        let output = "output = \"target/wasm32-unknown-unknown/release/policy.wasm\"";
        let arguments = "arguments = [\"build\", \"--release\", \"--target\", \"wasm32-unknown-unknown\", \"--target-dir\", \"target\"]";
        assert!(text.contains(output) && text.contains(arguments), "{text}");
        let copies = format!("arguments = [{source:?}, \"made.wasm\"]");
        let text = text.replace("[[\"cargo\"]]", "[[\"cp\"]]").replace(arguments, &copies);
        std::fs::write(&file, text.replace(output, "output = \"made.wasm\"")).unwrap();
        waspmq(&["plugin", "build", &path])
    };
    std::fs::write(Path::new(&path).join("bare.wasm"), wat::parse_str(BARE).unwrap()).unwrap();
    let (code, out, error) = with_tool("bare.wasm");
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("orders.wasm: ") && out.ends_with(", lane core, made a component\n"), "{out}");
    let (code, out, error) = with_tool(&template("rust-overflow"));
    assert_eq!(code, 0, "{error}");
    assert!(out.ends_with(", lane core\n"), "{out}");
    let built = std::fs::read(Path::new(&path).join("orders.wasm")).unwrap();
    assert_eq!(built, std::fs::read(template("rust-overflow")).unwrap());
    let (code, _, error) = with_tool("plugin.toml");
    assert!(
        code == 1 && error.contains("cannot be made a component: it is not WebAssembly"),
        "{code} {error}"
    );
    let (code, _, error) = with_tool("no-such-file");
    assert!(code == 1 && error.contains("`cp no-such-file made.wasm` failed"), "{code} {error}");
}

#[test]
fn a_check_says_what_a_broker_would_make_of_a_file() {
    let file = template("rust-routing");
    let (code, out, error) = waspmq(&["plugin", "check", &file]);
    assert_eq!(code, 0, "{error}");
    for line in
        ["contract          waspmq:policy@0.1.0", "hooks             routing", "lane              core"]
    {
        assert!(out.contains(line), "{out}");
    }
    assert!(out.contains("header") && out.contains("not configured"), "{out}");
    let config = r#"{"header":"region","to":"topic/orders."}"#;
    let (code, out, _) = waspmq(&["plugin", "check", &file, "--config", config, "--json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["lane"], &found["hooks"]), (0, &json!("core"), &json!(["routing"])), "{out}");

    let (code, _, error) = waspmq(&["plugin", "check", &file, "--config", "{}"]);
    assert!(code == 1 && error.contains("does not take its configuration"), "{code} {error}");
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.wasm").to_str().unwrap().to_owned();
    for (bytes, expected) in
        [(&b"text"[..], "this is not WebAssembly"), (b"\0asm\x01\0\0\0", "this is a core module")]
    {
        std::fs::write(&bad, bytes).unwrap();
        let (code, _, error) = waspmq(&["plugin", "check", &bad]);
        assert!(code == 1 && error.contains(expected), "{code} {error}");
    }
    assert_eq!(waspmq(&["plugin", "check", "no-such-file.wasm"]).0, 2);
}

#[test]
fn vectors_are_put_to_a_component_and_deviations_are_shown() {
    let (_folder, path) = project("rust", "routing");
    let (file, vectors) = (template("rust-routing"), format!("{path}/vectors.toml"));
    let test = |more: &[&str]| waspmq(&[&["plugin", "test", &file, "--vectors", &vectors], more].concat());
    let (code, out, error) = test(&[]);
    assert_eq!((code, out.lines().last()), (0, Some("9 vectors, 0 not as expected")), "{out}{error}");
    assert!(out.lines().next().unwrap().contains("(routing, fuel "), "{out}");
    assert_eq!(test(&[]).1, out, "the same answers and the same fuel each time");
    let (code, out, _) = test(&["--only", "too large"]);
    assert_eq!((code, out.lines().count()), (0, 2), "{out}");
    assert_eq!(test(&["--only", "no such vector"]).0, 2);
    assert_eq!(test(&["--config", "@no-such-file"]).0, 2);

    let text = std::fs::read_to_string(&vectors).unwrap();
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        std::fs::write(&vectors, text.replacen(from, to, 1)).unwrap();
        test(&[])
    };
    let (code, out, error) = change("redirect = \"topic/orders.eu\"", "redirect = \"topic/orders.us\"");
    assert!(code == 1 && error.contains("1 of 9 vectors are not as expected"), "{code} {error}");
    let expected =
        "     route.redirect\n       expected \"topic/orders.us\"\n       found    \"topic/orders.eu\"\n";
    assert!(out.starts_with("FAIL a region") && out.contains(expected), "{out}");
    let (code, out, _) = change("max_fuel = ", "max_fuel = 1 # ");
    assert!(code == 1 && out.contains("     fuel\n       expected 1\n"), "{code} {out}");
    let (code, _, error) = change("to = \"topic/orders\"", "to = \"orders\"");
    assert!(code == 2 && error.contains("message.to"), "{code} {error}");
    let (code, _, error) = change("[config]", "[configuration]");
    assert!(code == 2 && error.contains("unknown field `configuration`"), "{code} {error}");
}

#[test]
fn a_vector_is_put_with_those_it_continues_and_without_those_that_continue_it() {
    let (_folder, path) = project("rust", "admission");
    let (file, vectors) = (template("rust-admission"), format!("{path}/vectors.toml"));
    let (code, out, _) = waspmq(&["plugin", "test", &file, "--vectors", &vectors, "--only", "beyond"]);
    assert_eq!((code, out.lines().last()), (0, Some("2 vectors, 0 not as expected")), "{out}");
}

#[test]
fn templates_decide_as_their_vectors_say() {
    for (language, hook) in made() {
        let name = format!("{language}-{hook}");
        let vectors = templates().join(&name).join("vectors.toml");
        let memory_mb = memory_mb(&language).to_string();
        let (file, vectors) = (template(&name), vectors.to_str().unwrap());
        let (code, out, error) =
            waspmq(&["plugin", "test", &file, "--vectors", vectors, "--memory-mb", &memory_mb]);
        assert_eq!(code, 0, "{name}: {out}{error}");
    }
}

/// Of those in `made` what is compiled in seconds, engines and interpreters are not.
fn quick(hook: &str) -> Vec<String> {
    let is_quick = |language: &str| !["javascript", "python"].contains(&language);
    let made = made().into_iter().filter(|(language, of)| of == hook && is_quick(language));
    made.map(|(language, _)| format!("{language}-{hook}")).collect()
}

#[test]
fn templates_step_over_what_a_configuration_has_that_they_do_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"another": vec!["\"] }"; 4_000], "header": "region", "to": "topic/orders."});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let config = format!("@{}/config.json", folder.path().display());
    for name in quick("routing") {
        let (code, _, error) = waspmq(&["plugin", "check", &template(&name), "--config", &config]);
        let is_refused = name.starts_with("rust-");
        assert_eq!(code, i32::from(is_refused), "{name}: {error}");
        assert!(!is_refused || error.contains("unknown field `another`"), "{name}: {error}");
    }
}

#[test]
fn a_bench_measures_every_question_beside_a_bare_call() {
    let (_folder, path) = project("rust", "admission");
    let (file, vectors) = (template("rust-admission"), format!("{path}/vectors.toml"));
    let (code, out, error) =
        waspmq(&["plugin", "bench", &file, "--vectors", &vectors, "--rounds", "2", "--json"]);
    assert_eq!(code, 0, "{error}");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert!(found["bare_ns"].as_f64().unwrap() > 0.0, "{out}");
    let questions = found["questions"].as_array().unwrap();
    assert!(questions.len() >= 2, "{out}");
    for question in questions {
        assert!(
            question["median_ns"].as_f64().unwrap() > 0.0 && question["p99_ns"].as_u64() > Some(0),
            "{out}"
        );
    }
}

#[test]
fn the_shipped_plugins_decide_as_their_vectors_say() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    let mut count = 0;
    for entry in std::fs::read_dir(&sources).unwrap() {
        let folder = entry.unwrap().path();
        let (vectors, name) = (folder.join("vectors.toml"), folder.file_name().unwrap().to_str().unwrap());
        if !vectors.is_file() {
            continue;
        }
        let file = plugins().join(format!("{name}.wasm"));
        let [file, vectors] = [&file, &vectors].map(|path| path.to_str().unwrap());
        let (code, out, error) = waspmq(&["plugin", "test", file, "--vectors", vectors]);
        assert_eq!(code, 0, "{name}: {out}{error}");
        count += 1;
    }
    assert!(count > 0, "no plugin in {} has vectors", sources.display());
}

/// What was made of the templates: languages and hooks.
fn made() -> Vec<(String, String)> {
    let list = templates().join("components.txt");
    let text = std::fs::read_to_string(&list)
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask plugins`", list.display()));
    let names = text.lines().map(|name| name.split_once('-').unwrap());
    names.map(|(language, hook)| (language.to_owned(), hook.to_owned())).collect()
}

/// Pushes a template's plugin as its README says; answers what the broker made of it.
fn push(broker: &Broker, name: &str) -> Value {
    let (file, token) = (template(name), broker.token());
    let arguments = ["plugin", "push", &file, "--admin", &broker.admin, "--token", &token, "--json"];
    // An engine takes a debug build minutes to compile. The broker goes on with what it does not get done in time, and an
    // upload of the same bytes waits for it and gives the same revision.
    let mut answer = waspmq(&arguments);
    for _ in 0..UPLOADS_MAX {
        if !answer.2.contains("not done within") {
            break;
        }
        answer = waspmq(&arguments);
    }
    let (code, out, error) = answer;
    assert_eq!(code, 0, "{name}: {error}");
    serde_json::from_str(&out).unwrap()
}

/// Times that one component is uploaded until the broker is done with it.
const UPLOADS_MAX: usize = 4;

/// What the README of a language's template says of its policy's memory: that of the interpreter is more than the default.
fn memory_mb(language: &str) -> u32 {
    if language == "python" { 32 } else { 16 }
}

/// Puts a policy for one topic in place. It may take its time and all of its worker.
fn put(broker: &Broker, (language, hook): (&str, &str), config: &Value) -> String {
    let name = format!("{language}-{hook}");
    let topic = format!("topic/{name}");
    let limits = json!({"memory_mb": memory_mb(language), "deadline_ms": 100, "cpu_share": 1.0});
    let document =
        json!({"hook": hook, "plugin": name, "match": [topic], "config": config, "limits": limits});
    let (status, body) = broker.put_json(&format!("/v1/policies/{name}"), &document);
    assert!(status < 300, "{name}: {status} {body}");
    topic
}

#[tokio::test]
async fn plugins_of_all_templates_decide_in_a_broker() {
    let broker = Broker::start();
    let made = made();
    assert!(made.iter().any(|(language, _)| language == "rust"), "{made:?}");
    for (language, hook) in &made {
        let name = format!("{language}-{hook}");
        let revision = push(&broker, &name);
        // Behind the push, which takes a debug build longer for an engine than a silent connection lives.
        let (mut alice, mut bob) = (broker.connect("alice").await, broker.connect("bob").await);
        let lane = if language == "python" { "component" } else { "core" };
        assert_eq!((&revision["lane"], &revision["hooks"]), (&json!(lane), &json!([hook])), "{revision}");
        match hook.as_str() {
            "routing" => route(&broker, language, [&mut alice, &mut bob]).await,
            "ack" => acknowledge(&broker, language, [&mut alice, &mut bob]).await,
            "admission" => admit(&broker, language, &mut alice).await,
            _ => overflow(&broker, language, [&mut alice, &mut bob]).await,
        }
        let (_, policy) = broker.admin("GET", &format!("/v1/policies/{name}"), None);
        assert_eq!(policy["failures"], json!(0), "{name}: {policy}");
        assert!(broker.admin("DELETE", &format!("/v1/policies/{name}"), None).0 < 300);
    }
}

async fn route(broker: &Broker, language: &str, [alice, bob]: [&mut Peer; 2]) {
    let name = format!("{language}-routing");
    let config = json!({"header": "region", "to": format!("topic/{name}.")});
    let topic = put(broker, (language, "routing"), &config);
    bob.ask_ok(json!({"type": "subscribe", "ref": 1, "to": format!("topic/{name}.eu")})).await;
    let frame = with(publish(2, &topic, name.as_str(), "accepted"), json!({"headers": {"region": "eu"}}));
    let receipt = alice.ask(frame).await;
    assert_eq!(receipt["type"], "receipt", "{name}: {receipt}");
    assert_eq!(bob.expect_message(name.as_str()).await["to"], format!("topic/{name}.eu"));
}

async fn acknowledge(broker: &Broker, language: &str, [alice, bob]: [&mut Peer; 2]) {
    let topic = put(broker, (language, "ack"), &json!({"attempts": 3, "timeout_ms": 60_000}));
    let urgent = |reference| with(publish(reference, &topic, "urgent", "accepted"), json!({"priority": 9}));
    // Nobody is there to acknowledge, so the level that the policy asks for cannot be reached.
    let answer = alice.ask(urgent(2)).await;
    assert_eq!(answer["name"], "no_recipients", "{language}: {answer}");
    let frame = with(publish(3, &topic, 1, "accepted"), json!({"priority": 1}));
    assert_eq!(alice.ask(frame).await["type"], "receipt", "{language}");

    bob.ask_ok(json!({"type": "subscribe", "ref": 1, "to": topic})).await;
    alice.send(&urgent(4)).await;
    let message = bob.expect_message("urgent").await;
    bob.ask_ok(json!({"type": "nack", "ref": 2, "id": message["id"], "reason": "busy", "retry_ms": 10}))
        .await;
    let message = bob.expect_message("urgent").await;
    assert_eq!(message["attempt"], json!(2), "{language}: {message}");
    bob.ack(&message).await;
    alice.expect_receipt(4, "delivered").await;
    let (_, policy) = broker.admin("GET", &format!("/v1/policies/{language}-ack"), None);
    assert_eq!(policy["calls"], json!(4), "three plans and what to do about the nack: {policy}");
}

async fn admit(broker: &Broker, language: &str, alice: &mut Peer) {
    let topic = put(broker, (language, "admission"), &json!({"per_second": 1, "burst": 1}));
    assert_eq!(alice.ask(publish(2, &topic, 1, "accepted")).await["type"], "receipt");
    let refusal = alice.ask(publish(3, &topic, 2, "accepted")).await;
    assert_eq!((&refusal["code"], &refusal["retry_ms"]), (&json!(1522), &json!(1000)), "{refusal}");
}

/// Messages of this size that the kernel and the outbound queue do not hold.
const LARGE_BYTES: usize = 60_000;
const LARGE_MAX: u64 = 400;

async fn overflow(broker: &Broker, language: &str, [alice, slow]: [&mut Peer; 2]) {
    let topic = put(broker, (language, "overflow"), &json!({"urgent": 7}));
    slow.ask_ok(json!({"type": "subscribe", "ref": 1, "to": topic})).await;
    let conflated = "waspmq_slow_consumers_total{action=\"conflate\"}";
    let before = broker.metric(conflated).unwrap_or(0.0);
    let frame = with(publish(2, &topic, "x".repeat(LARGE_BYTES), "accepted"), json!({"key": "k"}));
    for _ in 0..LARGE_MAX {
        assert_eq!(alice.ask(frame.clone()).await["type"], "receipt", "{language}");
    }
    broker.eventually("the policy's action", |broker| broker.metric(conflated).unwrap_or(0.0) > before);
    let (_, policy) = broker.admin("GET", &format!("/v1/policies/{language}-overflow"), None);
    assert!(policy["calls"].as_u64() > Some(0), "{policy}");
}
