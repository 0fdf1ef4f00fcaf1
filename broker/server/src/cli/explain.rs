//! `waspmq policy explain`: which policies decided what about a message.

use super::api::Api;
use super::failure::Failure;
use super::output;
use serde_json::Value;

const HEADINGS: [&str; 8] = ["HOOK", "POLICY", "PLUGIN", "VERSION", "GENERATION", "NS", "DECISION", "NOTE"];

pub(super) fn run(api: &Api, id: &str, as_json: bool) -> Result<(), Failure> {
    let explanation = api.get(&["explain", id])?;
    if as_json {
        return Ok(output::json(&explanation)?);
    }
    Ok(output::line(format_args!("{}", describe(&explanation)))?)
}

fn describe(explanation: &Value) -> String {
    let field = |name: &str| cell(explanation, name);
    let decisions = explanation.get("decisions").and_then(Value::as_array);
    let rows: Vec<_> = decisions.into_iter().flatten().map(row).collect();
    let title = output::printable(&format!("{} to {}", field("id"), field("address")));
    let mut text = format!("{title}\n{}", output::table(&HEADINGS, &rows));
    if let Some(left_out) = explanation.get("left_out").and_then(Value::as_u64).filter(|count| *count > 0) {
        text.push_str(&format!("\n{left_out} more were not recorded"));
    }
    for (subject, outcome) in explanation.get("outcome").and_then(Value::as_object).into_iter().flatten() {
        let decision = decision(outcome.get("decision").unwrap_or_default());
        let line = match outcome.get("by").and_then(Value::as_str) {
            Some(policy) => format!("{subject}: {decision}, by {policy}"),
            None => format!("{subject}: {decision}"),
        };
        text.push('\n');
        text.push_str(&output::printable(&line));
    }
    text
}

fn row(of: &Value) -> Vec<String> {
    let is_shadow = of.get("shadow").and_then(Value::as_bool).unwrap_or_default();
    let version = if is_shadow { "shadow".to_owned() } else { cell(of, "version") };
    let said = decision(of.get("decision").unwrap_or_default());
    vec![
        cell(of, "hook"),
        cell(of, "policy"),
        cell(of, "plugin"),
        version,
        cell(of, "generation"),
        time(of),
        said,
        note(of),
    ]
}

/// Nanoseconds, with a tilde where they are an earlier call's.
fn time(of: &Value) -> String {
    let is_of_earlier =
        of.get("ns").is_some_and(Value::is_u64) && of.get("timed") == Some(&Value::Bool(false));
    format!("{}{}", if is_of_earlier { "~" } else { "" }, cell(of, "ns"))
}

/// What is worth saying about a decision beside the decision.
fn note(of: &Value) -> String {
    let mut notes = Vec::new();
    if of.get("cause").is_some() {
        notes.push(format!("attempt {} ended with {}", cell(of, "attempt"), cell(of, "cause")));
    }
    if let Some(audience) = of.get("audience").filter(|audience| !audience.is_null()) {
        let codecs = audience.get("codecs").and_then(Value::as_array).into_iter().flatten();
        let codecs: Vec<&str> = codecs.filter_map(Value::as_str).collect();
        let dictionary = audience.get("dictionary").and_then(Value::as_bool).unwrap_or_default();
        let no = if dictionary { "" } else { "no " };
        notes.push(format!(
            "for {}, {no}dictionary",
            if codecs.is_empty() { "no codec".to_owned() } else { codecs.join("+") }
        ));
    }
    if of.get("cached").and_then(Value::as_bool).unwrap_or_default() {
        notes.push("cached".to_owned());
    }
    if let Some(failed) = of.get("failed").filter(|failed| !failed.is_null()) {
        notes.push(match failed.get("instead").and_then(Value::as_str) {
            Some(instead) => format!("failed ({}), instead: {instead}", cell(failed, "outcome")),
            None => format!("failed ({})", cell(failed, "outcome")),
        });
    }
    notes.join("; ")
}

/// A decision on one line: a verdict without headers is its route alone.
fn decision(value: &Value) -> String {
    match (value.get("route"), value.get("set_headers").and_then(Value::as_object)) {
        (Some(route), Some(headers)) if headers.is_empty() => output::cell(route),
        (Some(route), Some(headers)) => {
            format!("{}, headers {}", output::cell(route), Value::Object(headers.clone()))
        }
        _ => output::cell(value),
    }
}

fn cell(of: &Value, name: &str) -> String {
    output::cell(of.get(name).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_decision_is_a_row_and_every_outcome_a_line() {
        let decided = json!({
            "hook": "routing", "policy": "eu", "plugin": "p@3", "version": "active", "shadow": false, "generation": 17,
            "decision": {"route": {"redirect": "topic/b"}, "set_headers": {}}, "ns": 412, "timed": false, "cached": false, "failed": null
        });
        let failed = json!({
            "hook": "ack", "policy": "a\n", "plugin": "q@1", "version": "candidate", "shadow": true, "generation": 18,
            "decision": null, "ns": null, "timed": false, "cached": false, "failed": {"outcome": "trap", "instead": null},
            "cause": "nack", "attempt": 2
        });
        let text = describe(&json!({
            "id": "01", "address": "topic/a", "decisions": [decided, failed], "left_out": 3,
            "outcome": {"routing": {"by": "eu", "decision": "x"}, "failed": {"by": null, "decision": "no policy decided: configured"}}
        }));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "01 to topic/a");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(lines[2]), r#"routing eu p@3 active 17 ~412 {"redirect":"topic/b"}"#);
        assert_eq!(words(lines[3]), "ack a\\n q@1 shadow 18 - - attempt 2 ended with nack; failed (trap)");
        assert_eq!(
            lines[4..],
            ["3 more were not recorded", "failed: no policy decided: configured", "routing: x, by eu"]
        );
    }

    #[test]
    fn the_audience_of_a_choice_is_noted() {
        let of = |codecs: Value, dictionary: bool| {
            note(&json!({"audience": {"codecs": codecs, "dictionary": dictionary}, "cached": true}))
        };
        assert_eq!(of(json!(["lz4", "zstd"]), false), "for lz4+zstd, no dictionary; cached");
        assert_eq!(of(json!([]), true), "for no codec, dictionary; cached");
    }

    #[test]
    fn a_verdict_with_headers_shows_them() {
        let value = json!({"route": "continue", "set_headers": {"k": "v"}});
        assert_eq!(decision(&value), r#"continue, headers {"k":"v"}"#);
    }
}
