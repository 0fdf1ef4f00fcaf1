//! Vectors put to components: what a component asks for comes from the vector, and what it takes is the same each time.

use crate::guests::{Guest, built};
use serde_json::{Value, json};
use waspmq_policy::limits::MEMORY_MB_DEFAULT;
use waspmq_policy::{Bench, Deviation, VectorError, VectorResult, Vectors, VectorsRun, inspect};

fn read(vectors: &Value) -> Vectors {
    serde_json::from_value(json!({ "vector": vectors })).unwrap()
}

fn run(component: &[u8], vectors: &Value) -> Vec<VectorResult> {
    let vectors = read(vectors);
    let mut run = VectorsRun::new(component, vectors.config.clone(), MEMORY_MB_DEFAULT).unwrap();
    vectors.vectors.iter().map(|vector| run.run(vector).unwrap()).collect()
}

/// What is wrong with one vector.
fn refused(run: &mut VectorsRun, vector: &Value) -> String {
    match run.run(&read(&json!([vector])).vectors[0]) {
        Err(VectorError::Vector { reason, .. }) => reason,
        other => panic!("{vector}: {other:?}"),
    }
}

/// A question to the guest that does what a header says, and what it has to say.
fn done(commands: &str, call: u32, answers: &str, more: Value) -> Value {
    let mut vector = json!({
        "name": commands, "hook": "routing", "message": { "to": "topic/a", "headers": { "do": commands } },
        "expect": { "route": "continue", "set_headers": { "call": call.to_string(), "done": answers } },
    });
    let Value::Object(more) = more else { panic!("keys") };
    vector.as_object_mut().unwrap().extend(more);
    vector
}

#[test]
fn everything_a_component_asks_for_comes_from_the_vector() {
    let vectors = json!([
        done("now", 1, "1790000000000", json!({})),
        done("now", 1, "1500", json!({ "now": 1000, "after_ms": 500 })),
        done(
            "online alice; online bob; group eng; group ops",
            1,
            "true; false; 3; 0",
            json!({ "online": ["alice"], "groups": { "eng": 3 } })
        ),
        done("set k v 1000; get k; take b 2 1 2; take b 1 1 2", 1, "true; v; true; false", json!({})),
        done("get k; take b 1 1 2", 2, "v; false", json!({ "continues": true })),
        done("get k; take b 1 1 2", 3, "none; true", json!({ "continues": true, "after_ms": 1000 })),
        done("get k; take b 2 1 2", 1, "none; true", json!({})),
        done("take b 1 1 3", 4, "false", json!({ "repeat": 4 })),
    ]);
    for result in run(&built("guest-decide"), &vectors) {
        assert_eq!(result.deviations, [], "{}", result.name);
    }
    let random = |seed: u64| {
        let vector = done("random; random", 1, "", json!({ "seed": seed, "expect": { "cache": "never" } }));
        run(&built("guest-decide"), &json!([vector]))[0].answer["set_headers"]["done"].clone()
    };
    assert_eq!(random(1), random(1));
    assert_ne!(random(1), random(2));
}

#[test]
fn the_same_question_takes_the_same_fuel_and_a_longer_one_more() {
    let fuel = |name: &str, lane_edits: &[(&'static str, &'static str)], loops: u32| {
        let route = format!(
            "(local.set $i (i32.const {loops})) (loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1))))) (i32.const 1024)"
        );
        let component = Guest { route, edits: lane_edits.to_vec(), ..Guest::default() }.build();
        let vector =
            json!([{ "name": name, "message": { "to": "topic/a" }, "expect": "continue", "repeat": 3 }]);
        let result = run(&component, &vector).remove(0);
        assert_eq!(result.deviations, []);
        result.fuel.unwrap()
    };
    let (short, long) = (fuel("short", &[], 10), fuel("long", &[], 1_010));
    assert_eq!(short, fuel("short again", &[], 10));
    assert!((4_000..8_000).contains(&(long - short)), "{short} {long}");
    let decide = |name: &str| {
        let vector = json!([{
            "name": name, "hook": "admission", "message": { "to": "topic/a", "payload": "x" }, "expect": "continue",
            "max_fuel": 1,
        }]);
        run(&built("guest-decide"), &vector).remove(0)
    };
    let (first, second) = (decide("a"), decide("a"));
    assert_eq!(first, second);
    let fuel = first.fuel.unwrap();
    let expected = Deviation { at: "fuel".to_owned(), expected: json!(1), found: json!(fuel) };
    assert_eq!(first.deviations, [expected]);
}

#[test]
fn all_hooks_are_asked_with_what_is_left_out_completed() {
    let config = json!({
        "ack": { "level": "delivered", "attempts": 3, "on_nack": { "retry-ms": 7 } }, "overflow": "spill",
        "admission": { "amount": 1, "per_second": 1, "burst": 1, "retry_ms": 9 }, "compression": { "codec": { "zstd": 3 } },
    });
    let message = json!({ "from": "alice", "to": "user/bob", "payload_json": { "a": [1] } });
    let vectors = json!([
        { "name": "plan", "hook": "ack", "config": config, "message": message,
          "expect": { "level": "delivered", "attempts": 3 } },
        { "name": "configured", "hook": "ack", "config": config,
          "message": { "to": "user/bob", "configured": { "timeout_ms": 77, "quorum": { "count": 2 } } },
          "expect": { "timeout_ms": 77, "quorum": "count(2)" } },
        { "name": "nack", "config": config, "failure": { "to": "user/bob", "recipient": "user/bob", "cause": "nack" },
          "expect": { "retry_ms": 7 } },
        { "name": "lost", "config": config, "failure": { "to": "user/bob", "cause": "connection-lost" },
          "expect": "continue" },
        { "name": "full", "config": config, "overflow": { "to": "topic/a", "recipient": "bob//1" }, "expect": "spill" },
        { "name": "admit", "hook": "admission", "config": config, "message": message, "expect": "accept" },
        { "name": "refuse", "hook": "admission", "continues": true, "message": message,
          "expect": { "refuse": { "retry_ms": 9 } } },
        { "name": "choose", "hook": "compression", "config": config, "message": message,
          "audience": { "codecs": ["zstd"] }, "expect": { "zstd": 3 } },
        { "name": "not configured", "hook": "routing", "config": { "colour": 1 }, "message": message,
          "expect": { "configure": "unknown field `colour`" } },
    ]);
    for result in run(&built("guest-decide"), &vectors) {
        assert_eq!(result.deviations, [], "{}: {}", result.name, result.answer);
    }
}

#[test]
fn failures_are_answers_and_the_next_vector_has_a_new_instance() {
    let trap = json!({ "name": "trap", "message": { "to": "all" }, "expect": { "failed": "trap" } });
    let results = run(&Guest::routing("unreachable"), &json!([trap, trap]));
    for result in &results {
        assert_eq!(
            (&result.answer, result.fuel, result.deviations.len()),
            (&json!({ "failed": "trap" }), None, 0)
        );
    }
    let refuses = Guest {
        configure: "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.const 1024)",
        ..Guest::default()
    };
    let vector = json!([{ "name": "a", "message": { "to": "all" }, "expect": "continue" }]);
    let result = run(&refuses.build(), &vector).remove(0);
    let refusal = json!("configure answered: ");
    let expected =
        Deviation { at: String::new(), expected: json!("continue"), found: json!({ "configure": refusal }) };
    assert_eq!(result.deviations, [expected]);
}

#[test]
fn vectors_that_cannot_be_put_say_why() {
    // Making one takes most of the time, so all are put to one; the first has no vector before it.
    let mut run = VectorsRun::new(&built("guest-decide"), serde_json::Map::new(), MEMORY_MB_DEFAULT).unwrap();
    let mut check = |more: Value, expected: &str| {
        let mut vector = json!({ "name": "a", "expect": "continue" });
        let Value::Object(more) = more else { panic!("keys") };
        vector.as_object_mut().unwrap().extend(more);
        let reason = refused(&mut run, &vector);
        assert!(reason.contains(expected), "{vector}: {reason}");
    };
    let message = json!({ "to": "topic/a" });
    check(json!({ "message": message, "hook": "ack", "continues": true }), "there is no vector before it");
    check(json!({}), "here is nothing");
    check(json!({ "message": message, "overflow": {} }), "here is message and overflow");
    check(json!({ "message": message }), "say which of the component's hooks");
    check(json!({ "message": message, "hook": "overflow" }), "the hook overflow is asked with");
    check(json!({ "overflow": { "to": "topic/a" }, "hook": "ack" }), "the component has none to answer this");
    check(json!({ "message": { "to": "topics/a" }, "hook": "ack" }), "message.to");
    check(
        json!({ "message": { "to": "all", "size": 1, "payload": "a" }, "hook": "ack" }),
        "message: has one of",
    );
    check(json!({ "message": { "to": "all", "payload_b64": "?" }, "hook": "ack" }), "message.payload_b64");
    let configured = json!({ "to": "all", "configured": { "timeout": 1 } });
    check(json!({ "message": configured, "hook": "ack" }), "message.configured: there is no `timeout`");
    check(json!({ "failure": { "cause": "boredom" } }), "failure.cause: unknown variant `boredom`");
    check(json!({ "overflow": { "to": "all", "configured": "panic" } }), "there is no such action");
    check(json!({ "message": message, "hook": "ack", "repeat": 0 }), "repeat: must be 1 to");
    let queues = json!([{ "pattern": "topic/a", "queue": "a b", "version": 1 }]);
    check(json!({ "message": message, "hook": "ack", "queues": queues }), "queues: ");
    let queues = json!([{ "pattern": "topic/a", "queue": "w", "version": 1, "members": ["u/d/1"], "in_flight": [1, 2] }]);
    check(json!({ "message": message, "hook": "ack", "queues": queues }), "in_flight has a number for each");
    let audience = json!({ "codecs": ["rot13"] });
    check(
        json!({ "message": message, "hook": "compression", "audience": audience }),
        "\"rot13\" is none of lz4, zstd",
    );
    check(
        json!({ "message": message, "hook": "admission", "expect": "continu" }),
        "expect: \"continu\" is none of",
    );
    check(json!({ "message": message, "hook": "routing", "expect": {} }), "expect: an empty table");
    assert!(matches!(VectorsRun::new(b"text", serde_json::Map::new(), 16), Err(VectorError::Unfit(_))));
}

#[test]
fn queues_are_told_before_and_between_questions() {
    let hash = built("route-consistent-hash");
    let queue = |version: u64, members: &[&str]| json!([{ "pattern": "topic/jobs", "queue": "w", "version": version, "members": members }]);
    let config = json!({ "queue": "w" });
    let message = json!({ "from": "alice", "to": "topic/jobs", "key": "k" });
    let pick = |version: u64| json!({ "pick": { "version": version, "index": 0 } });
    let vectors = json!([
        { "name": "one", "config": config, "queues": queue(4, &["u/d/1"]), "message": message, "expect": pick(4) },
        { "name": "another", "continues": true, "queues": queue(5, &["u/d/2"]), "message": message, "expect": pick(5) },
        { "name": "none", "config": config, "message": message, "expect": "continue" },
    ]);
    for result in run(&hash, &vectors) {
        assert_eq!(result.deviations, [], "{}: {}", result.name, result.answer);
    }
}

#[test]
fn an_inspection_is_that_of_an_upload() {
    let found = inspect(&built("guest-decide"), None, MEMORY_MB_DEFAULT).unwrap();
    assert_eq!((found.lane, found.hooks.len(), found.lane_reason), ("core", 5, None));
    assert!(found.imports.iter().any(|name| name == "kv-add") && found.memory_bytes >= 65_536);
    let config = json!({ "colour": 1 });
    let error =
        inspect(&built("guest-decide"), config.as_object(), MEMORY_MB_DEFAULT).unwrap_err().to_string();
    assert!(error.contains("hook routing: configure answered: unknown field `colour`"), "{error}");
    let large = Guest { pages: 20 * 16, ..Guest::default() }.build();
    assert!(inspect(&large, None, MEMORY_MB_DEFAULT).is_err());
}

#[test]
fn a_bench_asks_what_has_an_answer_and_no_configuration_of_its_own() {
    let vectors = json!([
        { "name": "asked", "hook": "admission", "message": { "to": "all" }, "expect": "continue" },
        { "name": "its own", "hook": "admission", "config": {}, "message": { "to": "all" }, "expect": "continue" },
        { "name": "fails", "hook": "admission", "message": { "to": "all" }, "expect": { "failed": "trap" } },
        { "name": "and this", "overflow": { "to": "all" }, "expect": "continue" },
    ]);
    let empty = serde_json::Map::new();
    let mut bench = Bench::new(&built("guest-decide"), &read(&vectors), &empty, MEMORY_MB_DEFAULT).unwrap();
    bench.round().unwrap();
    bench.round().unwrap();
    let measured = bench.measured();
    assert_eq!(measured.iter().map(|of| of.name.as_str()).collect::<Vec<_>>(), ["asked", "and this"]);
    assert!(measured.iter().all(|of| of.median_ns > 0.0 && of.of_bare > 0.0) && bench.bare_ns() > 0.0);
    let trap = read(&json!([{ "name": "a", "message": { "to": "all" }, "expect": "continue" }]));
    let error =
        Bench::new(&Guest::routing("unreachable"), &trap, &empty, MEMORY_MB_DEFAULT).unwrap_err().to_string();
    assert!(error.contains("\"a\": trap: "), "{error}");
}
