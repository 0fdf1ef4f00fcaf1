//! Rules as configuration and tokens write them: patterns with variables, and words for actions.

use waspmq_core::access::{Action, Rule, Template};
use waspmq_core::limits;

/// Parses all rules of a configuration or a token; the problem names the rule by its number from 1.
pub(super) fn parse<'a>(
    rules: impl Iterator<Item = (&'a [String], &'a [String])>,
) -> Result<Vec<Rule>, String> {
    let (mut parsed, mut patterns_left) = (Vec::new(), limits::ACCESS_PATTERNS_MAX);
    for (number, (patterns, allow)) in (1..).zip(rules) {
        if number > limits::ACCESS_RULES_MAX {
            return Err(format!("more than {} rules", limits::ACCESS_RULES_MAX));
        }
        let Some(left) = patterns_left.checked_sub(patterns.len()) else {
            return Err(format!("more than {} patterns in all rules", limits::ACCESS_PATTERNS_MAX));
        };
        patterns_left = left;
        parsed.push(rule(patterns, allow).map_err(|problem| format!("rule {number}: {problem}"))?);
    }
    Ok(parsed)
}

fn rule(patterns: &[String], allow: &[String]) -> Result<Rule, String> {
    if patterns.is_empty() || allow.is_empty() {
        return Err("`match` and `allow` each need an entry".to_owned());
    }
    let template = |text: &String| Template::parse(text).map_err(|error| format!("match {text:?}: {error}"));
    let action = |word: &String| {
        let words = Action::ALL.map(Action::as_str).join(", ");
        Action::parse(word).ok_or_else(|| format!("allow {word:?}: there are {words}"))
    };
    Ok(Rule {
        patterns: patterns.iter().map(template).collect::<Result<_, _>>()?,
        allow: allow.iter().map(action).collect::<Result<_, _>>()?,
    })
}
