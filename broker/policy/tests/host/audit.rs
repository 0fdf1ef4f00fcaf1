//! Every change is one event of the target `audit` with who, what, from, to and generation.

use crate::guests::Guest;
use crate::{document, host};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, OnceLock};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

pub(crate) type Line = BTreeMap<String, String>;

/// The audit lines of all tests of this process.
static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// Installs the recorder, once, before anything is logged: what a callsite met first is remembered.
pub(crate) fn record() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(Recorder).unwrap());
}

struct Recorder;

struct Fields(Line);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "audit"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Line::new());
        event.record(&mut fields);
        LINES.lock().unwrap().push(fields.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The lines about one policy, as far as they are there.
pub(crate) fn about(policy: &str) -> Vec<String> {
    let lines = LINES.lock().unwrap();
    let lines = lines.iter().filter(|line| line["name"] == policy);
    lines.map(|line| ["who", "what", "from", "to"].map(|field| line[field].clone()).join(" | ")).collect()
}

/// The first automatic rollback of this version.
pub(crate) fn rollback_of(from: &str) -> Line {
    let lines = LINES.lock().unwrap();
    let mut lines = lines.iter().filter(|line| line["what"] == "automatic rollback");
    lines.find(|line| line["from"] == from).unwrap().clone()
}

/// The keys in which the documents before and behind a change of a policy differ, and whether its digests do.
#[test]
fn a_change_of_the_document_alone_is_seen() {
    let host = host(1);
    host.upload("p", &Guest::default().build(), "test").unwrap();
    let put = |more| host.put_policy("keys", document("p@1", &["topic/a"], more), "test").unwrap();
    put(json!({ "config": { "v": 1 } }));
    put(json!({ "config": { "v": 2 }, "order": 5 }));
    host.rollback("keys", None, "test").unwrap();
    put(json!({ "config": { "v": 2 }, "order": 5, "canary_percent": 5 }));
    host.rollback("keys", None, "test").unwrap();
    host.remove_policy("keys", "test").unwrap();
    let lines = LINES.lock().unwrap();
    let lines: Vec<&Line> = lines.iter().filter(|line| line["name"] == "keys").collect();
    let keys: Vec<_> = lines.iter().map(|line| line.get("changed").map(String::as_str)).collect();
    let all = Some("canary_percent config order");
    assert_eq!(keys, [None, Some("config order"), Some("config order"), all, all, None]);
    let digests = |name: &str| lines.iter().map(|line| line.get(name)).collect::<Vec<_>>();
    let [from, to] = ["from_document", "to_document"].map(digests);
    assert_eq!((from[0], to[5]), (None, None));
    assert_eq!(from[1..3], [to[0], to[1]]);
    assert_eq!((to[2], from[4], from[5]), (to[0], to[3], to[0]), "back to what it was");
    assert!(
        to[0] != to[1]
            && to[1] != to[3]
            && to[..5].iter().all(|digest| digest.is_some_and(|d| d.len() == 64))
    );
    assert!(digests("to_digest")[..5].iter().all(|digest| *digest == digests("to_digest")[0]));
}

/// A PUT of what is active already only drops the candidate, and says which.
#[test]
fn a_candidate_that_is_dropped_by_a_put_is_named() {
    let host = host(1);
    host.upload("p", &Guest::default().build(), "test").unwrap();
    let put = |more| host.put_policy("dropped", document("p@1", &["topic/a"], more), "test").unwrap();
    put(json!({}));
    put(json!({ "canary_percent": 5, "order": 7 }));
    put(json!({}));
    assert_eq!(about("dropped")[2], "test | policy put | p@1 (canary 5 %) | p@1");
    let lines = LINES.lock().unwrap();
    let lines: Vec<&Line> = lines.iter().filter(|line| line["name"] == "dropped").collect();
    assert_eq!(lines[2]["changed"], "canary_percent order");
    assert_eq!(lines[2]["from_document"], lines[1]["to_document"]);
}

#[test]
fn changes_are_audited_and_failures_are_not() {
    let host = host(1);
    host.upload("p", &Guest::default().build(), "ann").unwrap();
    host.upload("p", b"nothing", "ann").unwrap_err();
    host.put_policy("x", document("p", &["topic/a"], json!({})), "ben").unwrap();
    host.put_policy("x", document("q", &["topic/a"], json!({})), "ben").unwrap_err();
    host.put_policy("x", document("p", &["topic/b"], json!({ "mode": "off" })), "ben").unwrap();
    host.rollback("x", None, "cleo").unwrap();
    host.remove_policy("x", "dan").unwrap();
    host.remove_plugin("p", "dan").unwrap();
    let show = |line: &Line| {
        let field = |name: &str| line[name].clone();
        [field("who"), field("what"), field("name"), field("from"), field("to"), field("generation")]
            .join(" | ")
    };
    let lines = LINES.lock().unwrap();
    let of_this_test = lines.iter().filter(|line| line["who"] != "test");
    let lines: Vec<String> = of_this_test.map(show).collect();
    assert_eq!(
        lines,
        [
            "ann | plugin upload | p | 0 | 1 | 0",
            "ben | policy put | x |  | p@1 | 1",
            "ben | policy put | x | p@1 | p@1 (off) | 2",
            "cleo | policy rollback | x | p@1 (off) | p@1 | 3",
            "dan | policy remove | x | p@1 |  | 4",
            "dan | plugin remove | p | 1 | 0 | 4",
        ]
    );
}
