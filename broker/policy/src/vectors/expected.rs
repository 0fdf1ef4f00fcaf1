//! Whether a component could answer what a vector expects: what no decision is written as would deviate whatever is decided, or
//! never.

use crate::hook::Hook;
use serde_json::{Map, Value};

/// How the decisions of a question are written.
struct Words {
    plain: &'static [&'static str],
    /// Tables by their key, with the keys inside of them; none: it is no table.
    tables: &'static [(&'static str, &'static [&'static str])],
    /// Whether one table has several of the keys.
    is_plan: bool,
}

/// The keys that stand beside a route.
pub(super) const VERDICT: [&str; 3] = ["route", "set_headers", "cache"];
const ROUTING: Words = Words {
    plain: &["continue", "deliver"],
    tables: &[("redirect", &[]), ("fan_out", &[]), ("pick", &["version", "index"]), ("drop", &[])],
    is_plan: false,
};
const PLAN: Words = Words {
    plain: &["continue"],
    tables: &[
        ("level", &[]),
        ("quorum", &[]),
        ("timeout_ms", &[]),
        ("attempts", &[]),
        ("initial_ms", &[]),
        ("max_ms", &[]),
        ("jitter_percent", &[]),
        ("exhausted", &[]),
    ],
    is_plan: true,
};
const FAILURE: Words =
    Words { plain: &["continue", "give-up"], tables: &[("retry_ms", &[]), ("wait_ms", &[])], is_plan: false };
const ADMISSION: Words =
    Words { plain: &["continue", "accept"], tables: &[("refuse", &["reason", "retry_ms"])], is_plan: false };
const OVERFLOW: Words = Words {
    plain: &["continue", "drop-oldest", "drop-newest", "conflate", "spill", "close"],
    tables: &[],
    is_plan: false,
};
const COMPRESSION: Words = Words {
    plain: &["continue", "none", "lz4", "dictionary"],
    tables: &[("zstd", &[]), ("dictionary", &[]), ("deflate", &[])],
    is_plan: false,
};

/// What is wrong with the expectation of a vector for this hook; `is_failure` says that it is asked about a failed attempt.
pub(super) fn check(hook: Hook, is_failure: bool, expected: &Value) -> Result<(), String> {
    let words = match hook {
        Hook::Routing => ROUTING,
        Hook::Ack if is_failure => FAILURE,
        Hook::Ack => PLAN,
        Hook::Admission => ADMISSION,
        Hook::Overflow => OVERFLOW,
        Hook::Compression => COMPRESSION,
    };
    let Value::Object(table) = expected else { return words.check(expected) };
    if table.is_empty() {
        return Err("expect: an empty table is no decision".to_owned());
    }
    if let Some(key) = ["failed", "configure"].into_iter().find(|key| table.contains_key(*key)) {
        let is_text = table.get(key).is_some_and(Value::is_string);
        let says_no_more = table.len() == 1 && is_text;
        return says_no_more
            .then_some(())
            .ok_or_else(|| format!("expect: `{key}` is a text and stands alone"));
    }
    match hook {
        Hook::Routing if VERDICT.iter().any(|key| table.contains_key(*key)) => {
            has_only(table, &VERDICT, "a verdict")?;
            table.get("route").map_or(Ok(()), |route| words.check(route))
        }
        Hook::Compression => {
            let mut codec = table.clone();
            codec.remove("cache");
            if codec.is_empty() { Ok(()) } else { words.check(&Value::Object(codec)) }
        }
        _ => words.check(expected),
    }
}

impl Words {
    fn check(&self, decision: &Value) -> Result<(), String> {
        let is_one = match decision {
            Value::String(word) => self.plain.contains(&word.as_str()),
            Value::Object(table) => {
                let is_known = table.keys().all(|key| self.tables.iter().any(|(known, _)| known == key));
                is_known && (table.len() == 1 || self.is_plan)
            }
            _ => false,
        };
        if !is_one {
            return Err(format!("expect: {decision} is none of {}", self.list()));
        }
        let inside = |(key, keys): &(&str, &[&str])| match decision.get(*key) {
            Some(Value::Object(table)) => has_only(table, keys, &format!("`{key}`")),
            Some(_) if !keys.is_empty() => Err(format!("expect: `{key}` is a table")),
            _ => Ok(()),
        };
        self.tables.iter().try_for_each(inside)
    }

    fn list(&self) -> String {
        let plain = self.plain.iter().map(|word| format!("{word:?}"));
        let tables = self.tables.iter().map(|(key, _)| format!("{{ {key} = … }}"));
        plain.chain(tables).collect::<Vec<_>>().join(", ")
    }
}

fn has_only(table: &Map<String, Value>, known: &[&str], of: &str) -> Result<(), String> {
    let stranger = table.keys().find(|key| !known.contains(&key.as_str()));
    stranger.map_or(Ok(()), |key| Err(format!("expect: {of} has no `{key}`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_can_be_answered_is_taken() {
        let good = |hook, is_failure, expected: &[Value]| {
            for expected in expected {
                assert_eq!(check(hook, is_failure, expected), Ok(()), "{hook:?} {expected}");
            }
        };
        let any = [json!("continue"), json!({"failed": "trap"}), json!({"configure": ""})];
        for hook in [Hook::Routing, Hook::Ack, Hook::Admission, Hook::Overflow, Hook::Compression] {
            good(hook, false, &any);
        }
        let verdict = json!({"route": {"drop": "why"}, "set_headers": {"a": "b"}, "cache": "never"});
        let pick = json!({"pick": {"version": 1, "index": 0}});
        good(Hook::Routing, false, &[json!("deliver"), json!({"fan_out": []}), pick, verdict]);
        good(Hook::Ack, false, &[json!({"level": "stored", "attempts": 2, "exhausted": "drop"})]);
        good(Hook::Ack, true, &[json!("give-up"), json!({"retry_ms": 1})]);
        good(Hook::Admission, false, &[json!("accept"), json!({"refuse": {}})]);
        good(Hook::Overflow, false, &[json!("spill")]);
        let codecs = [json!("none"), json!("dictionary"), json!({"dictionary": "a"}), json!({"zstd": -7})];
        good(Hook::Compression, false, &codecs);
        good(
            Hook::Compression,
            false,
            &[json!({"deflate": 1, "cache": "address"}), json!({"cache": "never"})],
        );
    }

    #[test]
    fn what_nothing_answers_is_refused() {
        let bad = |hook, is_failure, expected: Value, part: &str| {
            let error = check(hook, is_failure, &expected).unwrap_err();
            assert!(error.starts_with("expect: ") && error.contains(part), "{expected}: {error}");
        };
        let admission = r#""continu" is none of "continue", "accept", { refuse = … }"#;
        bad(Hook::Admission, false, json!("continu"), admission);
        bad(Hook::Routing, false, json!({"redirct": "topic/a"}), "{ redirect = … }");
        bad(Hook::Routing, false, json!({"route": {"redirct": "topic/a"}}), "{ redirect = … }");
        bad(Hook::Routing, false, json!({"drop": "a", "redirect": "topic/a"}), "is none of");
        bad(Hook::Routing, false, json!({"route": "deliver", "headers": {}}), "a verdict has no `headers`");
        bad(Hook::Routing, false, json!({"pick": {"member": 1}}), "`pick` has no `member`");
        bad(Hook::Routing, false, json!({"pick": 1}), "`pick` is a table");
        bad(Hook::Routing, false, json!({}), "empty");
        bad(Hook::Routing, false, json!({"failed": "trap", "route": "deliver"}), "stands alone");
        bad(Hook::Ack, false, json!("give-up"), "{ level = … }");
        bad(Hook::Ack, true, json!({"attempts": 3}), "{ retry_ms = … }");
        bad(Hook::Compression, false, json!({"zstd-dict": "a"}), "{ dictionary = … }");
        bad(Hook::Overflow, false, json!(["spill"]), "\"spill\"");
    }
}
