//! Filters messages by their headers: rules in an order, each with a test of one header and what is done where it holds.
//!
//! A rule that sets headers lets the next rules go on, which see what was set; the first one that drops, redirects or delivers
//! ends it. Where none does the next policy is asked.

mod rule;

use rule::{Rule, Then};
use serde::Deserialize;
use waspmq_plugin_common::{List, read};
use waspmq_plugin_sdk::{Message, Policy, Routing, Verdict, export_policy, host};

const RULES_MAX: usize = 64;

/// `{"rules": [{"header": "tenant", "present": false, "drop": "a tenant is missing"}]}`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterHeaders {
    rules: List<Rule, RULES_MAX>,
}

impl Policy for FilterHeaders {
    fn configure(config: &str) -> Result<Self, String> {
        let filter: Self = read(config)?;
        for (index, rule) in filter.rules.iter().enumerate() {
            rule.check().map_err(|fault| format!("rules[{index}]{fault}"))?;
        }
        Ok(filter)
    }
}

impl Routing for FilterHeaders {
    fn route(&mut self, message: &Message) -> Verdict {
        self.decide(&message.address, host::headers())
    }
}

export_policy!(FilterHeaders: routing);

impl FilterHeaders {
    fn decide(&self, address: &str, mut headers: Vec<(String, String)>) -> Verdict {
        let mut set = Vec::new();
        for rule in self.rules.iter() {
            let value = headers.iter().find(|(name, _)| name == rule.header());
            if !rule.holds(value.map(|(_, value)| value.as_str())) {
                continue;
            }
            for (name, value) in rule.sets() {
                put(&mut headers, name, value);
                put(&mut set, name, value);
            }
            let verdict = match rule.then() {
                Then::GoOn => continue,
                Then::Drop(reason) => Verdict::refuse(reason),
                Then::Deliver => Verdict::deliver(),
                Then::Redirect(to) => match to.of(address) {
                    Some(to) => Verdict::redirect(to),
                    // There is no such address, so the rule does not lead anywhere.
                    None => continue,
                },
            };
            return Verdict { set_headers: set, ..verdict };
        }
        Verdict { set_headers: set, ..Verdict::pass() }
    }
}

/// Replaces the header of that name, or adds it.
fn put(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    match headers.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => headers.push((name.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waspmq_plugin_sdk::Route;

    fn decide(rules: &str, headers: &[(&str, &str)]) -> Verdict {
        let filter = FilterHeaders::configure(&format!(r#"{{"rules":[{rules}]}}"#)).unwrap();
        let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        filter.decide("topic/orders.1", headers)
    }

    #[test]
    fn the_first_rule_that_ends_it_counts() {
        let rules = r#"{"header":"tenant","present":false,"drop":"a tenant is missing"},
            {"header":"env","equals":["test","dev"],"to":"topic/test.{name}"},
            {"header":"env","prefix":["te"],"drop":"not reached"},
            {"header":"trusted","present":true,"deliver":true}"#;
        let route = |headers: &[(&str, &str)]| decide(rules, headers).route;
        assert!(matches!(route(&[]), Route::Drop(reason) if reason == "a tenant is missing"));
        let to = route(&[("tenant", "a"), ("env", "test")]);
        assert!(matches!(to, Route::Redirect(to) if to == "topic/test.orders.1"));
        assert!(matches!(route(&[("tenant", "a"), ("env", "tell"), ("trusted", "")]), Route::Drop(_)));
        assert!(matches!(route(&[("tenant", "a"), ("trusted", "")]), Route::Deliver));
        assert!(matches!(route(&[("tenant", "a"), ("env", "prod")]), Route::Continue));
    }

    #[test]
    fn what_is_set_is_seen_by_later_rules_and_kept() {
        let rules = r#"{"header":"amount","min":1000,"set":{"size":"large","checked":"no"}},
            {"header":"size","equals":["large"],"set":{"checked":"yes"},"to":"topic/large"}"#;
        let verdict = decide(rules, &[("amount", "5000"), ("size", "small")]);
        assert!(matches!(verdict.route, Route::Redirect(to) if to == "topic/large"));
        let set =
            [("size", "large"), ("checked", "yes")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut found = verdict.set_headers;
        found.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(found, set);
        let verdict = decide(rules, &[("amount", "5"), ("size", "small")]);
        assert!(matches!(verdict.route, Route::Continue) && verdict.set_headers.is_empty());
    }

    #[test]
    fn a_target_that_is_no_address_leads_nowhere() {
        let filter = r#"{"rules":[{"header":"x","present":true,"to":"topic/a.{name}"}]}"#;
        let filter = FilterHeaders::configure(filter).unwrap();
        let verdict = filter.decide("all", vec![("x".to_owned(), String::new())]);
        assert!(matches!(verdict.route, Route::Continue));
    }

    #[test]
    fn configuration_is_checked() {
        let check = |rule: &str, expected: &str| {
            let good = r#"{"header":"a","present":true,"deliver":true}"#;
            let error = FilterHeaders::configure(&format!(r#"{{"rules":[{good},{rule}]}}"#)).unwrap_err();
            assert!(error.contains(expected), "{rule}: {error}");
        };
        check(r#"{"present":true,"deliver":true}"#, "rules[1]: missing field `header`");
        check(r#"{"header":"a","deliver":true}"#, "rules[1]: a rule has one of \"present\"");
        check(r#"{"header":"a","present":true,"min":1,"deliver":true}"#, "rules[1]: a rule has one of");
        check(r#"{"header":"a","present":true}"#, "rules[1]: a rule does something");
        check(r#"{"header":"a","present":true,"deliver":false}"#, "rules[1].deliver: only true");
        check(
            r#"{"header":"a","present":true,"deliver":true,"drop":"x"}"#,
            "rules[1]: a rule has at most one",
        );
        check(r#"{"header":"a","present":true,"drop":""}"#, "rules[1].drop: a text of 1 to 1024");
        check(r#"{"header":"a","min":3,"max":2,"drop":"x"}"#, "rules[1].max: less than \"min\"");
        check(r#"{"header":"a","equals":[],"drop":"x"}"#, "rules[1].equals: a list of 1 to 64");
        check(r#"{"header":"a","present":true,"set":{}}"#, "rules[1].set: 1 to 16 headers");
        check(r#"{"header":"a","present":true,"set":{"":"x"}}"#, "rules[1].set: a header's name");
        check(r#"{"header":"a","present":true,"to":"x"}"#, "rules[1].to: an address such as");
        check(r#"{"header":"a","present":1,"to":"all"}"#, "rules[1].present: invalid type");
        check(r#"{"header":"a","like":"x","to":"all"}"#, "unknown field `like`");
        assert!(FilterHeaders::configure("{}").unwrap_err().contains("missing field `rules`"));
    }
}
