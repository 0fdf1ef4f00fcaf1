//! Rules as configuration and tokens write them: patterns with variables, and words for actions.

use waspmq_core::access::{Action, Rule, Template};
use waspmq_core::limits;

/// What is wrong with a list of rules.
#[derive(Debug)]
pub(super) struct Problem {
    /// Which rule, from 0.
    pub(super) rule: usize,
    /// Which of its keys.
    pub(super) key: &'static str,
    /// In words, with the rule's number from 1.
    pub(super) problem: String,
}

/// Parses all rules of a configuration or a token.
pub(super) fn parse<'a>(
    rules: impl Iterator<Item = (&'a [String], &'a [String])>,
) -> Result<Vec<Rule>, Problem> {
    let (mut parsed, mut patterns_left) = (Vec::new(), limits::ACCESS_PATTERNS_MAX);
    for (index, (patterns, allow)) in rules.enumerate() {
        let of_match = |problem| Problem { rule: index, key: "match", problem };
        if index >= limits::ACCESS_RULES_MAX {
            return Err(of_match(format!("more than {} rules", limits::ACCESS_RULES_MAX)));
        }
        let Some(left) = patterns_left.checked_sub(patterns.len()) else {
            return Err(of_match(format!("more than {} patterns in all rules", limits::ACCESS_PATTERNS_MAX)));
        };
        patterns_left = left;
        let rule = rule(patterns, allow);
        parsed.push(rule.map_err(|(key, problem)| {
            let problem = format!("rule {}: {problem}", index + 1);
            Problem { rule: index, key, problem }
        })?);
    }
    Ok(parsed)
}

fn rule(patterns: &[String], allow: &[String]) -> Result<Rule, (&'static str, String)> {
    for (key, list) in [("match", patterns), ("allow", allow)] {
        if list.is_empty() {
            return Err((key, "`match` and `allow` each need an entry".to_owned()));
        }
    }
    let template =
        |text: &String| Template::parse(text).map_err(|error| ("match", format!("match {text:?}: {error}")));
    let action = |word: &String| {
        let words = Action::ALL.map(Action::as_str).join(", ");
        Action::parse(word).ok_or_else(|| ("allow", format!("allow {word:?}: there are {words}")))
    };
    Ok(Rule {
        patterns: patterns.iter().map(template).collect::<Result<_, _>>()?,
        allow: allow.iter().map(action).collect::<Result<_, _>>()?,
    })
}
