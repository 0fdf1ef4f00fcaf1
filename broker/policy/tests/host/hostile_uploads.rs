//! Uploads that are broken, too new, or expensive to look at: all are refused with a reason, and none holds up a worker.

use crate::guests::{Guest, built};
use crate::{decide, document, host, now, outcome};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use waspmq_policy::{Host, Unfit, limits};

fn refused(host: &Host, component: &[u8]) -> String {
    host.upload("p", component, "test").unwrap_err().to_string()
}

/// A component as text, wherever it ends and whichever byte is another one.
#[test]
fn what_is_cut_or_damaged_is_refused() {
    let host = host(1);
    let whole = built("guest-decide");
    let step = whole.len() / 50;
    for end in (0..whole.len()).step_by(step).chain([1, 4, 7, 8, 9, whole.len() - 1]) {
        match host.upload("p", &whole[..end], "test") {
            Err(unfit) => assert!(!unfit.to_string().is_empty() && host.plugins().is_empty(), "{end}"),
            // Behind the last section that means anything there are some for people.
            Ok(_) => {
                assert_eq!(whole[end], 0, "what is missing begins with a custom section");
                host.remove_plugin("p", "test").unwrap();
            }
        }
    }
    let small = Guest::default().build();
    for at in (8..small.len()).step_by(23) {
        let mut damaged = small.clone();
        damaged[at] ^= 0x81;
        // Some bytes are parts of texts and numbers, where another value is as good; what is taken then serves.
        if host.upload("p", &damaged, "test").is_ok() {
            host.remove_plugin("p", "test").unwrap();
        }
    }
    assert_eq!(host.upload("p", &small, "test").unwrap().name, "p");
    let nested = r#"(component (component (core module (func (export "route")))))"#;
    assert!(refused(&host, &wat::parse_str(nested).unwrap()).contains("does not export `configure`"));
}

/// Only the version that the broker has is taken, older and newer ones by name.
#[test]
fn another_version_of_the_contract_is_refused_by_name() {
    let host = host(1);
    for version in ["0.0.9", "0.1.1", "0.2.0", "1.0.0", "0.1.0-rc.1"] {
        for (from, interface) in
            [("waspmq:policy/types@0.1.0", "types"), ("waspmq:policy/host@0.1.0", "host")]
        {
            let asked = format!("waspmq:policy/{interface}@{version}");
            let guest = Guest { edits: vec![(from, &*asked.clone().leak())], ..Guest::default() };
            let unfit = host.upload("p", &guest.build(), "test").unwrap_err();
            assert_eq!(unfit, Unfit::UnknownImport { import: asked }, "{unfit}");
        }
    }
    // A function that only a later version has, and a case that only a later version answers.
    let later = [
        (
            r#"(export "header" (func (param "name" string) (result (option string))))"#,
            r#"(export "header" (func (param "name" string) (result (option string)))) (export "later" (func))"#,
        ),
        (r#"(case "drop" string)"#, r#"(case "drop" string) (case "later")"#),
    ];
    let [function, case] = later.map(|edit| Guest { edits: vec![edit], ..Guest::default() }.build());
    assert!(refused(&host, &function).contains("imports `waspmq:policy/host@0.1.0#later`"));
    assert!(refused(&host, &case).contains("exports `route` with another type"));
    assert!(host.plugins().is_empty());
}

/// More than is set aside for an instance.
#[test]
fn a_component_of_many_parts_is_refused() {
    let host = host(1);
    let parts = |count: usize, part: &str| {
        let modules =
            format!("(core module $part {part}) {}", "(core instance (instantiate $part)) ".repeat(count));
        let modules = format!("(core instance $libc (instantiate $libc)) {modules}");
        let edits = vec![("(core instance $libc (instantiate $libc))", &*modules.leak())];
        Guest { edits, ..Guest::default() }.build()
    };
    // The guest has two, and each of the others costs its own.
    let most = limits::CORE_INSTANCES_MAX - 3;
    assert_eq!(host.upload("p", &parts(most, ""), "test").unwrap().lane, "component");
    let reason = refused(&host, &parts(limits::CORE_INSTANCES_MAX, ""));
    assert!(reason.contains("core module instances, which exceeds the configured maximum of 64"), "{reason}");
    let reason = refused(&host, &parts(limits::TABLES_PER_COMPONENT + 1, "(table 1 funcref)"));
    assert!(reason.contains("tables"), "{reason}");
    let reason = refused(&host, &parts(1, "(memory 1)"));
    assert!(reason.contains("memories"), "{reason}");
    let reason = refused(&host, &parts(1, "(table 20001 funcref)"));
    assert!(reason.contains("20001") || reason.contains("20000"), "{reason}");
}

/// What compiling takes grows faster than a function does, so that one function may not have all bytes of an upload.
#[test]
fn a_function_that_is_too_large_is_refused_before_it_is_compiled() {
    let host = host(1);
    let with = |nops: usize| {
        let function = format!("(func {})\n    (func (export \"configure\")", "nop ".repeat(nops));
        let edits = vec![("    (func (export \"configure\")", &*function.leak())];
        Guest { edits, ..Guest::default() }.build()
    };
    // Behind the instructions there are the list of locals and the end.
    let most = limits::FUNCTION_BYTES_MAX - 2;
    host.upload("p", &with(most), "test").unwrap();
    let unfit = host.upload("p", &with(most + 1), "test").unwrap_err();
    assert_eq!(unfit, Unfit::FunctionTooLarge { bytes: limits::FUNCTION_BYTES_MAX + 1 });
    assert_eq!(
        unfit.to_string(),
        "the component has a function of 524289 bytes, which takes too long to compile; the limit is 524288"
    );
}

/// A component whose text is large and whose code takes long to compile.
fn heavy(functions: usize) -> Vec<u8> {
    let mut body = String::new();
    for at in 0..2_000 {
        body.push_str(&format!(
            "(local.set {} (i32.xor (i32.mul (local.get {}) (i32.const {at})) (i32.load (local.get {}))))",
            at % 50,
            (at * 7) % 50,
            (at * 13) % 50
        ));
        if at % 10 == 0 {
            body.push_str(&format!("(if (local.get {}) (then (local.set 0 (i32.const {at}))))", at % 50));
        }
    }
    let locals = "(local i32) ".repeat(50);
    let functions: String = (0..functions).map(|_| format!("(func {locals} {body})")).collect();
    let edits = vec![(
        "    (func (export \"configure\")",
        &*format!("{functions}\n    (func (export \"configure\")").leak(),
    )];
    Guest { edits, ..Guest::default() }.build()
}

#[test]
fn what_is_slow_to_compile_does_not_hold_up_workers() {
    let host = host(1);
    host.upload("good", &Guest::answering(1, &[], ""), "test").unwrap();
    let whole = json!({ "limits": { "cpu_share": 1.0 } });
    host.put_policy("good", document("good", &["topic/>"], whole), "test").unwrap();
    let component = heavy(10);
    let is_compiled = AtomicBool::new(false);
    let (calls, took) = std::thread::scope(|scope| {
        let upload = scope.spawn(|| {
            let started = now();
            let revision = host.upload("heavy", &component, "test");
            is_compiled.store(true, Relaxed);
            (revision, started.elapsed())
        });
        let mut routing = host.worker(0);
        let mut calls = 0u64;
        while !is_compiled.load(Relaxed) {
            decide(&mut routing, "topic/a");
            calls += 1;
        }
        let (revision, took) = upload.join().unwrap();
        revision.unwrap();
        (calls, took)
    });
    println!("{} bytes took {took:?}, {calls} calls meanwhile", component.len());
    assert_eq!(outcome(&host, "good", "ok"), calls, "{:?}", host.policy("good").unwrap().outcomes);
    // A worker that waited for the upload would have been asked once or twice.
    assert!(took > Duration::from_millis(20) && calls > 1_000, "{calls} calls in {took:?}");
}
