//! What is expected held against what was answered.
//!
//! Of an object only what is named is compared, but for the headers that a verdict sets, which are all there is.

use super::expected::VERDICT;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Something that is not as expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deviation {
    /// Where, such as `route.redirect`; empty for the whole answer.
    pub at: String,
    pub expected: Value,
    /// Null: there is no such thing in the answer.
    pub found: Value,
}

/// What is expected of a verdict, in full. An object without any of a whole one's keys is its route.
pub(super) fn verdict(expected: &Value) -> Value {
    let is_whole = |object: &Map<String, Value>| {
        VERDICT.iter().any(|key| object.contains_key(*key)) || object.contains_key("failed")
    };
    let mut whole = match expected {
        Value::Object(object) if is_whole(object) => object.clone(),
        route => Map::from_iter([("route".to_owned(), route.clone())]),
    };
    if !whole.contains_key("failed") {
        whole.entry("set_headers").or_insert_with(|| json!({}));
    }
    Value::Object(whole)
}

/// Everything in which an answer deviates.
pub(super) fn compare(expected: &Value, found: &Value) -> Vec<Deviation> {
    let mut deviations = Vec::new();
    walk("", (expected, found), &mut deviations);
    deviations
}

fn walk(at: &str, (expected, found): (&Value, &Value), deviations: &mut Vec<Deviation>) {
    let place = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    let (Value::Object(wanted), Value::Object(answered)) = (expected, found) else {
        if expected != found {
            deviations.push(Deviation {
                at: at.to_owned(),
                expected: expected.clone(),
                found: found.clone(),
            });
        }
        return;
    };
    for (key, value) in wanted {
        walk(&place(key), (value, answered.get(key).unwrap_or(&Value::Null)), deviations);
    }
    if at == "set_headers" {
        let more = answered.iter().filter(|(key, _)| !wanted.contains_key(*key));
        deviations.extend(more.map(|(key, value)| Deviation {
            at: place(key),
            expected: Value::Null,
            found: value.clone(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: &Value, found: &Value, deviations: &[(&str, Value, Value)]) {
        let deviations: Vec<_> = deviations
            .iter()
            .map(|(at, expected, found)| Deviation {
                at: (*at).to_owned(),
                expected: expected.clone(),
                found: found.clone(),
            })
            .collect();
        assert_eq!(compare(expected, found), deviations, "{expected} {found}");
    }

    #[test]
    fn a_short_verdict_means_a_whole_one() {
        let none = json!({});
        assert_eq!(verdict(&json!("continue")), json!({ "route": "continue", "set_headers": none }));
        let redirect = json!({ "redirect": "topic/a" });
        assert_eq!(verdict(&redirect), json!({ "route": redirect, "set_headers": none }));
        let headers = json!({ "set_headers": { "a": "b" } });
        assert_eq!(verdict(&headers), headers);
        assert_eq!(
            verdict(&json!({ "cache": "address" })),
            json!({ "cache": "address", "set_headers": none })
        );
        assert_eq!(verdict(&json!({ "failed": "trap" })), json!({ "failed": "trap" }));
    }

    #[test]
    fn what_is_not_named_is_not_compared_but_headers_are() {
        let found =
            json!({ "route": { "redirect": "topic/b" }, "set_headers": { "a": "1" }, "cache": "never" });
        check(&json!({ "set_headers": { "a": "1" } }), &found, &[]);
        check(
            &verdict(&json!({ "redirect": "topic/b" })),
            &found,
            &[("set_headers.a", Value::Null, json!("1"))],
        );
        let other = json!({ "route": { "redirect": "topic/a" }, "set_headers": { "a": "2", "b": "3" } });
        let expected = [
            ("route.redirect", json!("topic/a"), json!("topic/b")),
            ("set_headers.a", json!("2"), json!("1")),
            ("set_headers.b", json!("3"), Value::Null),
        ];
        check(&other, &found, &expected);
        check(
            &json!({ "route": "deliver" }),
            &found,
            &[("route", json!("deliver"), json!({ "redirect": "topic/b" }))],
        );
        check(&json!({ "rout": "deliver" }), &found, &[("rout", json!("deliver"), Value::Null)]);
        check(&json!("spill"), &json!("close"), &[("", json!("spill"), json!("close"))]);
        check(
            &json!({ "fan_out": ["a"] }),
            &json!({ "fan_out": ["a", "b"] }),
            &[("fan_out", json!(["a"]), json!(["a", "b"]))],
        );
    }
}
