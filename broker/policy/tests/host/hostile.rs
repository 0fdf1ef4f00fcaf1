//! Guests that break the canonical ABI or the broker's bounds: both lanes accept and refuse alike, under the
//! same name, and neither panics.

use crate::guests::{CONTINUE, Guest};
use crate::lanes::{in_utf16, lanes};
use crate::{document, host, message, route};
use serde_json::json;

/// Asks once on each lane; answers the outcome's name.
#[track_caller]
fn outcome(guest: &Guest) -> &'static str {
    let hosts = lanes(&guest.build(), &json!({}));
    let [core, component] = hosts.map(|host| {
        let headers = [("x".to_owned(), "größer".to_owned())];
        let outcome = route(&mut host.worker(0), &message("topic/größe", &headers));
        let state = host.policy("p").unwrap();
        let name = state.outcomes.iter().find(|(_, count)| *count > 0).map(|(name, _)| *name);
        (outcome, name.unwrap(), state.calls, state.counters)
    });
    assert_eq!(core, component);
    assert_eq!(core.2, 1);
    core.1
}

#[track_caller]
fn check(guest: Guest, expected: &str) {
    assert_eq!(outcome(&guest), expected);
}

/// A guest with another allocator, which the cold hooks do not need.
fn allocating(realloc: &'static str) -> Guest {
    let begin = "(local $at i32)";
    Guest { edits: vec![(begin, realloc)], self_test: CONTINUE, ..Guest::default() }
}

/// The verdict's case at 0, its value at 8 and 12, its headers at 24 and 28.
fn answering(case: u8, fields: &[(u32, u32)], data: &str) -> Guest {
    let stores: String = fields
        .iter()
        .map(|(at, value)| format!("(i32.store (i32.const {}) (i32.const {value}))", 2048 + at))
        .collect();
    let route = format!("(i32.store8 (i32.const 2048) (i32.const {case})) {stores} (i32.const 2048)");
    Guest { data: data.to_owned(), route, pages: 8, ..Guest::default() }
}

fn routing(body: &str) -> Guest {
    Guest { route: format!("{body} {CONTINUE}"), ..Guest::default() }
}

/// A guest with a post-return function of `route`.
fn freeing(body: &str) -> Guest {
    let function =
        format!("(func (export \"post-route\") (param i32) {body})\n    (func (export \"route\")\n");
    let edits = vec![
        ("    (func (export \"route\")\n", &*function.leak()),
        (
            "(canon lift (core func $main \"route\")",
            "(canon lift (core func $main \"route\") (post-return (core func $main \"post-route\"))",
        ),
    ];
    Guest { edits, ..Guest::default() }
}

const END: u32 = 2 * 65_536;
const BEYOND: u32 = 0x7fff_fff0;

#[test]
fn allocators() {
    // The first allocations are those of `configure`, so what breaks there is refused when the policy is put.
    check(
        allocating(
            "(local $at i32) (if (i32.eq (local.get $len) (i32.const 5)) (then (return (i32.const 0))))",
        ),
        "ok",
    );
    let when = |body: &str| {
        let text = format!("(local $at i32) (if (i32.eq (local.get $len) (i32.const 5)) (then {body}))");
        allocating(text.leak())
    };
    check(when("(return (i32.const -1))"), "bad_verdict");
    check(when("(return (i32.const 0x7ffffff0))"), "bad_verdict");
    check(when(&format!("(return (i32.const {}))", END - 5)), "ok");
    check(when(&format!("(return (i32.const {}))", END - 4)), "bad_verdict");
    check(when("unreachable"), "trap");
    check(when("(loop $l (br $l))"), "deadline");
    check(when("(if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then unreachable))"), "memory");
    check(when("(drop (memory.grow (i32.const 256)))"), "ok");
    // No bytes are asked for where the key is empty; the pointer has to be good all the same.
    let nothing = "(local $at i32) (if (i32.eqz (local.get $len)) (then (return (i32.const 131073))))";
    check(allocating(nothing), "bad_verdict");
    let nothing = "(local $at i32) (if (i32.eqz (local.get $len)) (then (return (i32.const 131072))))";
    check(allocating(nothing), "ok");
    let odd =
        "(local $at i32) (if (i32.eq (local.get $len) (i32.const 10)) (then (return (i32.const 4097))))";
    check(in_utf16(allocating(odd)), "bad_verdict");
    let even =
        "(local $at i32) (if (i32.eq (local.get $len) (i32.const 10)) (then (return (i32.const 4098))))";
    check(in_utf16(allocating(even)), "ok");
}

#[test]
fn an_allocator_that_fails_for_the_configuration_is_refused_at_the_put() {
    for lane in ["auto", "component"] {
        let host = host(1);
        host.upload("p", &allocating("(local $at i32) unreachable").build(), "test").unwrap();
        let refused = host.put_policy("p", document("p", &["all"], json!({ "lane": lane })), "test");
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("configure failed") && refused.contains("unreachable"), "{refused}");
    }
}

#[test]
fn a_guest_does_not_call_the_broker_while_it_allocates_or_frees() {
    let log = "(call $log (i32.const 1) (i32.const 0) (i32.const 0))";
    let inside = Guest {
        edits: vec![
            ("(export \"header\" (func (param \"name\" string) (result (option string))))", ""),
            ("(core func $header (canon lower (func $host \"header\") (memory (core memory $libc \"memory\")) (realloc (core func $libc \"realloc\"))))", ""),
            ("(import \"host\" \"header\" (func $header (param i32 i32 i32)))", ""),
            ("(export \"header\" (func $header))", ""),
            ("(realloc (core func $libc \"realloc\"))", "(realloc (core func $main \"realloc\"))"),
            (
                "    (func (export \"configure\")",
                "    (func (export \"realloc\") (param i32 i32 i32 i32) (result i32)
                   (if (i32.eq (local.get 3) (i32.const 5)) (then (call $log (i32.const 1) (i32.const 0) (i32.const 0))))
                   (i32.const 8192))
                 (func (export \"configure\")",
            ),
        ],
        ..Guest::default()
    };
    check(inside, "trap");
    check(freeing(log), "trap");
    check(freeing("(call $counter (i32.const 0) (i32.const 0) (i64.const 1))"), "trap");
    check(freeing(""), "ok");
}

#[test]
fn post_return_functions() {
    check(freeing("unreachable"), "trap");
    check(freeing("(loop $l (br $l))"), "deadline");
    check(freeing("(if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then unreachable))"), "memory");
    // The verdict is read before it is freed, and what is wrong with it is found before.
    let wiped = freeing("(memory.fill (i32.const 1024) (i32.const 255) (i32.const 2048))");
    check(wiped, "ok");
    let unread = Guest { route: "(i32.const 1025)".to_owned(), ..freeing("unreachable") };
    check(unread, "bad_verdict");
}

#[test]
fn verdicts_that_cannot_be_read() {
    let text = |at: u32, text: &str| format!("(data (i32.const {at}) \"{text}\")");
    check(Guest { route: "(i32.const 1028)".to_owned(), ..Guest::default() }, "bad_verdict");
    check(Guest { route: format!("(i32.const {})", END - 40), ..Guest::default() }, "ok");
    check(Guest { route: format!("(i32.const {})", END - 32), ..Guest::default() }, "bad_verdict");
    check(Guest { route: "(i32.const -8)".to_owned(), ..Guest::default() }, "bad_verdict");
    check(answering(6, &[], ""), "bad_verdict");
    check(answering(255, &[], ""), "bad_verdict");
    check(answering(0, &[(32, 2)], ""), "ok");
    check(answering(0, &[(32, 3)], ""), "bad_verdict");
    let end = 8 * 65_536;
    check(answering(5, &[(8, end), (12, 0)], ""), "ok");
    check(answering(5, &[(8, end + 1), (12, 0)], ""), "bad_verdict");
    check(answering(5, &[(8, BEYOND), (12, 1)], ""), "bad_verdict");
    check(answering(5, &[(8, 512), (12, u32::MAX)], ""), "bad_verdict");
    check(answering(5, &[(8, u32::MAX), (12, u32::MAX)], ""), "bad_verdict");
    check(answering(5, &[(8, 512), (12, 2)], &text(512, "\\c3\\28")), "bad_verdict");
    check(answering(5, &[(8, 512), (12, 3)], &text(512, "\\ed\\a0\\80")), "bad_verdict");
    check(answering(5, &[(8, 512), (12, 2)], &text(512, "\\c3\\9f")), "ok");
    check(answering(5, &[(8, 512), (12, 1)], &text(512, "\\c3\\9f")), "bad_verdict");
    // Lists: out of step, too long, of too many bytes, with a bad item.
    check(answering(3, &[(8, 514), (12, 1)], ""), "bad_verdict");
    check(answering(3, &[(8, 514), (12, 0)], ""), "bad_verdict");
    check(answering(3, &[(8, end), (12, 0)], ""), "bad_verdict");
    check(answering(3, &[(8, end + 4), (12, 0)], ""), "bad_verdict");
    check(answering(3, &[(8, 512), (12, 0x2000_0000)], ""), "bad_verdict");
    check(answering(3, &[(8, 512), (12, 10_922)], ""), "bad_verdict");
    check(answering(3, &[(8, 512), (12, 10_923)], ""), "bad_verdict");
    check(answering(0, &[(24, 512), (28, u32::MAX)], ""), "bad_verdict");
    check(answering(0, &[(24, 514), (28, 1)], ""), "bad_verdict");
    // A list without items has to lie where one could be, whatever lane reads the verdict, and however.
    for case in [0, 1, 4] {
        check(answering(case, &[(24, BEYOND), (28, 0)], ""), "bad_verdict");
        check(answering(case, &[(24, end), (28, 0)], ""), "ok");
        check(answering(case, &[(24, end + 4), (28, 0)], ""), "bad_verdict");
        check(answering(case, &[(24, 514), (28, 0)], ""), "bad_verdict");
        check(answering(case, &[(24, 512), (28, 0), (32, 0xffff_ff01)], ""), "ok");
        check(answering(case, &[(24, 512), (28, 0), (32, 0x0000_01ff)], ""), "bad_verdict");
    }
    check(answering(0, &[(24, 512), (28, 1)], &text(512, "\\00\\00\\00\\80\\01\\00\\00\\00")), "bad_verdict");
    // Many views of one large string: what they take in the broker is bounded.
    let item = "\\00\\40\\00\\00\\00\\10\\00\\00";
    check(answering(3, &[(8, 512), (12, 60)], &text(512, &item.repeat(60))), "bad_verdict");
    check(answering(3, &[(8, 512), (12, 64)], &text(512, &item.repeat(64))), "bad_verdict");
    check(answering(5, &[(8, 8192), (12, 256 * 1024)], ""), "bad_verdict");
    check(answering(5, &[(8, 8192), (12, 256 * 1024 + 1)], ""), "bad_verdict");
}

#[test]
fn verdicts_in_utf16_that_cannot_be_read() {
    let text = |at: u32, text: &str| format!("(data (i32.const {at}) \"{text}\")");
    let check = |guest, expected| check(in_utf16(guest), expected);
    check(answering(5, &[(8, 512), (12, 2)], &text(512, "\\3d\\d8\\00\\de")), "ok");
    check(answering(5, &[(8, 512), (12, 1)], &text(512, "\\3d\\d8\\00\\de")), "bad_verdict");
    check(answering(5, &[(8, 512), (12, 1)], &text(512, "\\00\\de")), "bad_verdict");
    check(answering(5, &[(8, 513), (12, 1)], ""), "bad_verdict");
    check(answering(5, &[(8, 513), (12, 0)], ""), "bad_verdict");
    check(answering(5, &[(8, 512), (12, 0x8000_0001)], ""), "bad_verdict");
    check(answering(5, &[(8, 8192), (12, 131_073)], ""), "bad_verdict");
}

#[test]
fn calls_of_the_broker_with_bad_arguments() {
    check(routing("(call $log (i32.const 3) (i32.const 0) (i32.const 0))"), "ok");
    check(routing("(call $log (i32.const 4) (i32.const 0) (i32.const 0))"), "bad_verdict");
    check(routing("(call $log (i32.const 1) (i32.const 0x7ffffff0) (i32.const 1))"), "bad_verdict");
    check(routing("(call $log (i32.const 1) (i32.const 131073) (i32.const 0))"), "bad_verdict");
    check(routing("(call $log (i32.const 1) (i32.const 0) (i32.const 131073))"), "bad_verdict");
    check(routing("(call $counter (i32.const 0x7ffffff0) (i32.const 1) (i64.const 1))"), "bad_verdict");
    let invalid = |body: &str| Guest { data: "(data (i32.const 512) \"\\ff\")".to_owned(), ..routing(body) };
    check(invalid("(call $counter (i32.const 512) (i32.const 1) (i64.const 1))"), "bad_verdict");
    check(invalid("(call $log (i32.const 1) (i32.const 512) (i32.const 1))"), "bad_verdict");
    check(invalid("(call $header (i32.const 512) (i32.const 1) (i32.const 2048))"), "bad_verdict");
    let name = |body: &str| Guest { data: "(data (i32.const 512) \"x\")".to_owned(), ..routing(body) };
    check(name("(call $header (i32.const 512) (i32.const 1) (i32.const 2048))"), "ok");
    check(name("(call $header (i32.const 512) (i32.const 1) (i32.const 2050))"), "bad_verdict");
    check(name("(call $header (i32.const 512) (i32.const 1) (i32.const -4))"), "bad_verdict");
    check(name("(call $header (i32.const 512) (i32.const 1) (i32.const 131060))"), "ok");
    check(name("(call $header (i32.const 512) (i32.const 1) (i32.const 131064))"), "bad_verdict");
    check(name("(call $header (i32.const 513) (i32.const 1) (i32.const 131060))"), "ok");
    // One call that hands over more than a call may, to a log that would cut it.
    let large = Guest { pages: 8, ..routing("(call $log (i32.const 1) (i32.const 0) (i32.const 262145))") };
    check(large, "bad_verdict");
    check(routing("(loop $l (call $log (i32.const 1) (i32.const 0) (i32.const 1)) (br $l))"), "deadline");
}

/// A guest that imports three of the functions that keep values.
fn keeping(body: &str) -> Guest {
    let edits = vec![
        (
            "(export \"counter\" (func (param \"name\" string) (param \"delta\" u64)))",
            "(export \"counter\" (func (param \"name\" string) (param \"delta\" u64)))
             (export \"kv-get\" (func (param \"key\" string) (result (option (list u8)))))
             (export \"kv-add\" (func (param \"key\" string) (param \"delta\" s64) (param \"ttl-ms\" u64) (result (option s64))))
             (export \"kv-compare-and-set\" (func (param \"key\" string) (param \"expected\" (option (list u8)))
               (param \"value\" (list u8)) (param \"ttl-ms\" u64) (result bool)))",
        ),
        (
            "  (core func $counter (canon lower",
            "  (core func $get (canon lower (func $host \"kv-get\") (memory (core memory $libc \"memory\")) (realloc (core func $libc \"realloc\"))))
             (core func $add (canon lower (func $host \"kv-add\") (memory (core memory $libc \"memory\"))))
             (core func $cas (canon lower (func $host \"kv-compare-and-set\") (memory (core memory $libc \"memory\"))))
             (core func $counter (canon lower",
        ),
        (
            "(import \"host\" \"log\" (func $log (param i32 i32 i32)))",
            "(import \"host\" \"log\" (func $log (param i32 i32 i32)))
             (import \"host\" \"get\" (func $get (param i32 i32 i32)))
             (import \"host\" \"add\" (func $add (param i32 i32 i64 i64 i32)))
             (import \"host\" \"cas\" (func $cas (param i32 i32 i32 i32 i32 i32 i32 i64) (result i32)))",
        ),
        (
            "(with \"host\" (instance ",
            "(with \"host\" (instance (export \"get\" (func $get)) (export \"add\" (func $add)) (export \"cas\" (func $cas)) ",
        ),
    ];
    Guest { edits, pages: 8, ..routing(body) }
}

#[test]
fn values_with_bad_arguments() {
    let end = 8 * 65_536;
    // Key, whether a value is expected, that value, the value to set.
    let cas = |[key, key_len]: [u32; 2], some: u32, [at, len]: [u32; 2], [value, value_len]: [u32; 2]| {
        keeping(&format!(
            "(drop (call $cas (i32.const {key}) (i32.const {key_len}) (i32.const {some}) (i32.const {at}) (i32.const {len})
              (i32.const {value}) (i32.const {value_len}) (i64.const 0)))"
        ))
    };
    check(cas([0, 1], 0, [0, 0], [0, 1]), "ok");
    check(cas([0, 1], 0, [BEYOND, BEYOND], [0, 1]), "ok");
    check(cas([0, 1], 1, [BEYOND, 1], [0, 1]), "bad_verdict");
    check(cas([0, 1], 1, [end, 0], [0, 1]), "ok");
    check(cas([0, 1], 1, [end + 1, 0], [0, 1]), "bad_verdict");
    check(cas([0, 1], 2, [0, 0], [0, 1]), "bad_verdict");
    check(cas([0, 1], 0, [0, 0], [BEYOND, 1]), "bad_verdict");
    check(cas([0, 1], 0, [0, 0], [0, u32::MAX]), "bad_verdict");
    check(cas([BEYOND, 1], 0, [0, 0], [0, 1]), "bad_verdict");
    check(cas([0, 1], 0, [0, 0], [8_192, 262_143]), "ok");
    check(cas([0, 1], 0, [0, 0], [8_192, 262_144]), "bad_verdict");
    check(cas([0, 1], 1, [8_192, 200_000], [8_192, 200_000]), "bad_verdict");
    let invalid =
        Guest { data: "(data (i32.const 512) \"\\ff\")".to_owned(), ..cas([512, 1], 0, [0, 0], [0, 1]) };
    check(invalid, "bad_verdict");
    let add = |result: u32| {
        keeping(&format!(
            "(call $add (i32.const 0) (i32.const 1) (i64.const 1) (i64.const 0) (i32.const {result}))"
        ))
    };
    check(add(2_048), "ok");
    check(add(2_052), "bad_verdict");
    check(add(end - 16), "ok");
    check(add(end - 8), "bad_verdict");
    let get = |result: u32| keeping(&format!("(call $get (i32.const 0) (i32.const 1) (i32.const {result}))"));
    check(get(2_048), "ok");
    check(get(2_050), "bad_verdict");
    check(get(end - 12), "ok");
    check(get(end - 8), "bad_verdict");
}

/// A guest that asks what members have in flight.
fn weighing(body: &str) -> Guest {
    let edits = vec![
        (
            "(export \"counter\" (func (param \"name\" string) (param \"delta\" u64)))",
            "(export \"counter\" (func (param \"name\" string) (param \"delta\" u64)))
             (export \"in-flight\" (func (param \"version\" u64) (result (list u32))))",
        ),
        (
            "  (core func $counter (canon lower",
            "  (core func $loads (canon lower (func $host \"in-flight\") (memory (core memory $libc \"memory\")) (realloc (core func $libc \"realloc\"))))
             (core func $counter (canon lower",
        ),
        (
            "(import \"host\" \"log\" (func $log (param i32 i32 i32)))",
            "(import \"host\" \"log\" (func $log (param i32 i32 i32)))
             (import \"host\" \"loads\" (func $loads (param i64 i32)))",
        ),
        ("(with \"host\" (instance ", "(with \"host\" (instance (export \"loads\" (func $loads)) "),
    ];
    Guest { edits, ..routing(body) }
}

#[test]
fn loads_with_bad_arguments() {
    let ask = |version: i64, result: u32| {
        weighing(&format!("(call $loads (i64.const {version}) (i32.const {result}))"))
    };
    for version in [0, 1, 3, 4, -1, i64::MIN] {
        check(ask(version, 2_048), "ok");
        check(ask(version, 2_050), "bad_verdict");
        check(ask(version, END - 8), "ok");
        check(ask(version, END - 4), "bad_verdict");
        check(ask(version, u32::MAX - 3), "bad_verdict");
    }
    // A list of a version that is not there is empty, and so is every one beyond the bound of calls.
    let length = "(i32.load (i32.const 2052))";
    let is = |version: u32, times: u32, expected: u32| {
        weighing(&format!(
            "(loop $l (call $loads (i64.const {version}) (i32.const 2048))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $l (i32.lt_u (local.get $i) (i32.const {times}))))
             (if (i32.ne {length} (i32.const {expected})) (then unreachable))"
        ))
    };
    check(is(3, 1, 15), "ok");
    check(is(4, 1, 0), "ok");
    check(is(3, 1, 0), "trap");
    check(is(3, 64, 15), "ok");
    check(is(3, 65, 0), "ok");
    // 15 counts are asked room for.
    let nowhere =
        "(local $at i32) (if (i32.eq (local.get $len) (i32.const 60)) (then (return (i32.const -4))))";
    let edits = [weighing("").edits, allocating(nowhere).edits].concat();
    check(Guest { edits: edits.clone(), self_test: CONTINUE, ..ask(2, 2_048) }, "ok");
    check(Guest { edits, self_test: CONTINUE, ..ask(3, 2_048) }, "bad_verdict");
}

#[test]
fn guests_that_do_not_come_back() {
    check(routing("(loop $l (br $l))"), "deadline");
    check(routing("unreachable"), "trap");
    check(routing("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), "trap");
    let recursing = Guest {
        edits: vec![(
            "    (func (export \"route\")\n",
            "    (func $deep (param i32) (call $deep (i32.add (local.get 0) (i32.const 1))))\n    (func (export \"route\")\n",
        )],
        ..routing("(call $deep (i32.const 0))")
    };
    check(recursing, "trap");
    check(routing("(if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then unreachable))"), "memory");
    check(routing("(drop (memory.grow (i32.const 65536)))"), "ok");
}

#[test]
fn modules_that_do_not_start_are_refused_at_the_upload() {
    let starting = |body: &str| {
        let function = format!("(func $start {body}) (start $start)\n    (func (export \"configure\")");
        let edits = vec![("    (func (export \"configure\")", &*function.leak())];
        Guest { edits, ..Guest::default() }.build()
    };
    let refused = |body: &str| host(1).upload("p", &starting(body), "test").unwrap_err().to_string();
    assert!(refused("unreachable").contains("failed in instantiate"));
    assert!(refused("(loop $l (br $l))").contains("more than 250 ms of CPU time in instantiate"));
    let speaking = starting("(call $log (i32.const 1) (i32.const 0) (i32.const 0))");
    assert_eq!(host(1).upload("p", &speaking, "test").unwrap().lane, "core");
}
