//! What `waspmq policy show` says of a policy.

use super::super::output;
use serde_json::{Value, json};

/// A policy's state, one fact a line.
pub(super) fn describe(state: &Value) -> String {
    let facts = [
        ("name", "/name"),
        ("state", "/state"),
        ("reason", "/reason"),
        ("version", "/version"),
        ("hook", "/document/hook"),
        ("plugin", "/document/plugin"),
        ("revision", "/revision"),
        ("digest", "/digest"),
        ("match", "/document/match"),
        ("config", "/document/config"),
        ("order", "/document/order"),
        ("mode", "/document/mode"),
        ("on failure", "/document/on_failure"),
        ("lane", "/lane"),
        ("required", "/document/required"),
        ("breaker", "/breaker"),
        ("on probation", "/on_probation"),
        ("generation", "/generation"),
        ("calls", "/calls"),
        ("failures", "/failures"),
        ("p50 (ns)", "/latency/p50_ns"),
        ("p99 (ns)", "/latency/p99_ns"),
        ("candidate", "/candidate/version"),
        ("its mode", "/candidate/document/mode"),
        ("its share (%)", "/candidate/document/canary_percent"),
        ("its config", "/candidate/document/config"),
        ("its breaker", "/candidate/breaker"),
        ("its calls", "/candidate/calls"),
        ("its failures", "/candidate/failures"),
        ("decided alike", "/candidate/differences/same"),
        ("differently", "/candidate/differences/different"),
        ("an example", "/candidate/differences/samples/0"),
        ("previous", "/previous/version"),
        ("previous config", "/previous/document/config"),
        ("taken back", "/last_rollback/from"),
        ("because of", "/last_rollback/reason"),
        ("in figures", "/last_rollback/detail"),
        ("counters", "/counters"),
        ("kept", "/kept"),
        ("over limits", "/exceeded"),
        ("compressed", "/compressed"),
    ];
    let row = |(name, pointer): (&str, &str)| {
        let value = state.pointer(pointer).filter(|value| !says_nothing(value))?;
        Some(format!("{name:16} {}", output::printable(&output::cell(value))))
    };
    let tables = [("rules", "/document/rules"), ("its rules", "/candidate/document/rules")];
    let lines = facts.into_iter().filter_map(row);
    let refused = state.pointer("/refused_versions").and_then(Value::as_array).into_iter().flatten();
    let refused = refused.map(|refused| {
        let [role, version, reason] =
            ["role", "version", "reason"].map(|field| output::cell(&refused[field]));
        let role = format!("refused {role}");
        format!("{role:16} {}", output::printable(&format!("{version}: {reason}")))
    });
    lines
        .chain(refused)
        .chain(tables.into_iter().flat_map(|(name, pointer)| rules_of(state, name, pointer)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Object(fields) => fields.values().all(|value| *value == json!(0)),
        _ => false,
    }
}

/// Rules by their numbers, one a line.
fn rules_of(state: &Value, name: &str, pointer: &str) -> Vec<String> {
    let rules = state.pointer(pointer).and_then(Value::as_array).into_iter().flatten().enumerate();
    rules
        .map(|(number, rule)| {
            format!("{:16} {}", format!("{name}[{number}]"), output::printable(&rule.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_leaves_out_what_is_not_there() {
        let text = describe(&json!({"name": "a\u{7}", "previous": null, "counters": {}, "calls": 3}));
        assert_eq!(text, "name             a\\u{7}\ncalls            3");
        let text =
            describe(&json!({"last_rollback": {"reason": "operator", "detail": ""}, "kept": {"values": 0}}));
        assert_eq!(text, "because of       operator");
        let text = describe(&json!({"kept": {"values": 7, "refused": 0}}));
        assert_eq!(text, "kept             {\"refused\":0,\"values\":7}");
        let refused = [json!({"role": "previous", "version": "p@1", "reason": "it is gone"})];
        let text = describe(&json!({"name": "a", "refused_versions": refused}));
        assert_eq!(text, "name             a\nrefused previous p@1: it is gone");
        let rules = json!([{"then": "continue"}, {"when": {"key": "a\n"}, "then": {"to": "all"}}]);
        let text = describe(&json!({"version": "rules@01234567", "document": { "rules": rules }}));
        let expected = "version          rules@01234567\nrules[0]         {\"then\":\"continue\"}\n\
                        rules[1]         {\"then\":{\"to\":\"all\"},\"when\":{\"key\":\"a\\n\"}}";
        assert_eq!(text, expected);
    }
}
