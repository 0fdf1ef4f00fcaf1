//! One rule: a test of a header's value, and what is done where it holds.

use serde::Deserialize;
use std::collections::BTreeMap;
use waspmq_plugin_common::{List, Target, Text};

const VALUES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 1024;
const SETS_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;

type Values = List<Text<VALUE_BYTES_MAX>, VALUES_MAX>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    header: Text<NAME_BYTES_MAX>,
    present: Option<bool>,
    equals: Option<Values>,
    prefix: Option<Values>,
    min: Option<f64>,
    max: Option<f64>,
    #[serde(default)]
    not: bool,
    #[serde(default)]
    set: Option<BTreeMap<String, String>>,
    drop: Option<Text<1024>>,
    to: Option<Target>,
    deliver: Option<bool>,
}

/// What a rule does with a message, beside setting headers.
#[derive(Debug)]
pub(crate) enum Then<'a> {
    GoOn,
    Drop(&'a str),
    Deliver,
    Redirect(&'a Target),
}

impl Rule {
    /// The error begins with the key in the rule.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_range = self.min.is_some() || self.max.is_some();
        let tests = [self.present.is_some(), self.equals.is_some(), self.prefix.is_some(), is_range];
        if count(&tests) != 1 {
            return Err(
                ": a rule has one of \"present\", \"equals\", \"prefix\", and \"min\" or \"max\"".to_owned()
            );
        }
        if self.min.zip(self.max).is_some_and(|(min, max)| max < min) {
            return Err(".max: less than \"min\", so that no number is in between".to_owned());
        }
        if self.deliver == Some(false) {
            return Err(".deliver: only true has a meaning".to_owned());
        }
        match count(&[self.drop.is_some(), self.to.is_some(), self.deliver.is_some()]) {
            0 if self.set.is_none() => {
                Err(": a rule does something: \"drop\", \"to\", \"deliver\" or \"set\"".to_owned())
            }
            0 | 1 => self.set.as_ref().map_or(Ok(()), check_set),
            _ => Err(": a rule has at most one of \"drop\", \"to\" and \"deliver\"".to_owned()),
        }
    }

    pub(crate) fn header(&self) -> &str {
        &self.header
    }

    /// Whether the test holds for the header's value, none where it is not there.
    pub(crate) fn holds(&self, value: Option<&str>) -> bool {
        self.test(value) != self.not
    }

    fn test(&self, value: Option<&str>) -> bool {
        if let Some(present) = self.present {
            return value.is_some() == present;
        }
        let Some(value) = value else { return false };
        if let Some(values) = &self.equals {
            return values.iter().any(|expected| &**expected == value);
        }
        if let Some(prefixes) = &self.prefix {
            return prefixes.iter().any(|prefix| value.starts_with(&**prefix));
        }
        // What is no number is in no range, and so is what is written as "NaN".
        let number = value.parse::<f64>().ok().filter(|number| !number.is_nan());
        let is_in = |number: f64| {
            self.min.is_none_or(|min| number >= min) && self.max.is_none_or(|max| number <= max)
        };
        number.is_some_and(is_in)
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = (&str, &str)> {
        self.set.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(crate) fn then(&self) -> Then<'_> {
        match (&self.drop, &self.to, self.deliver) {
            (Some(reason), ..) => Then::Drop(reason),
            (None, Some(to), _) => Then::Redirect(to),
            (None, None, Some(_)) => Then::Deliver,
            (None, None, None) => Then::GoOn,
        }
    }
}

fn count(facts: &[bool]) -> usize {
    facts.iter().filter(|fact| **fact).count()
}

fn check_set(set: &BTreeMap<String, String>) -> Result<(), String> {
    if set.is_empty() || set.len() > SETS_MAX {
        return Err(format!(".set: 1 to {SETS_MAX} headers are expected, not {}", set.len()));
    }
    for (name, value) in set {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!(".set: a header's name has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len()));
        }
        if value.len() > VALUE_BYTES_MAX {
            let len = value.len();
            return Err(format!(".set.{name}: a value has at most {VALUE_BYTES_MAX} bytes, not {len}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_values() {
        let check = |test: &str, value: Option<&str>, expected: bool| {
            let text = format!(r#"{{"header":"h","deliver":true,{test}}}"#);
            let rule: Rule = waspmq_plugin_common::read(&text).unwrap();
            rule.check().unwrap();
            assert_eq!(rule.holds(value), expected, "{test} {value:?}");
        };
        check(r#""present":true"#, Some(""), true);
        check(r#""present":true"#, None, false);
        check(r#""present":false"#, None, true);
        check(r#""equals":["a","b"]"#, Some("b"), true);
        check(r#""equals":["a","b"]"#, Some("ab"), false);
        check(r#""equals":["a"]"#, None, false);
        check(r#""equals":["a"],"not":true"#, None, true);
        check(r#""prefix":["eu-","us"]"#, Some("us-1"), true);
        check(r#""prefix":["eu-"]"#, Some("eu"), false);
        check(r#""min":1,"max":2.5"#, Some("2.5"), true);
        check(r#""min":1,"max":2.5"#, Some("2.6"), false);
        check(r#""min":1"#, Some("1e3"), true);
        check(r#""max":-1"#, Some("-1"), true);
        check(r#""min":1"#, Some("many"), false);
        check(r#""min":1"#, Some("NaN"), false);
        check(r#""min":1,"not":true"#, Some("many"), true);
    }
}
