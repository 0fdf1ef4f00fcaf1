//! What `/metrics` says: OpenMetrics text, read into numbers by name and labels.
//!
//! Whoever answers may be another version or another program: lines that are none of the format are passed over, and nothing
//! that stands in one can do harm. What is read is bounded by the answer, which whoever asks bounds.

use std::collections::{BTreeMap, HashMap};

/// One scrape.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    families: HashMap<String, BTreeMap<Labels, f64>>,
}

/// Names and values of labels, sorted by name, so that the same series is found again however it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels(Vec<(String, String)>);

impl Labels {
    /// The value of a label; a label that is not there is empty.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

impl Exposition {
    pub(super) fn parse(text: &str) -> Self {
        let mut families: HashMap<String, BTreeMap<Labels, f64>> = HashMap::new();
        for (name, labels, value) in text.lines().filter_map(sample) {
            families.entry(name.to_owned()).or_default().insert(labels, value);
        }
        Self { families }
    }

    /// The series of a name, in the order of their labels.
    pub(super) fn series(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.families.get(name).into_iter().flatten().map(|(labels, value)| (labels, *value))
    }

    /// One series' value.
    pub(super) fn get(&self, name: &str, labels: &Labels) -> Option<f64> {
        self.families.get(name)?.get(labels).copied()
    }

    /// The sum of all series of a name; none where there is none, or no number.
    pub(super) fn total(&self, name: &str) -> Option<f64> {
        let sum: f64 = self.families.get(name)?.values().sum();
        sum.is_finite().then_some(sum)
    }

    /// The values of a name by one of its labels, added up over the others.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.series(name).filter(|(_, value)| value.is_finite()) {
            *sums.entry(labels.get(label).to_owned()).or_insert(0.0) += value;
        }
        sums
    }
}

/// A gauge of things that are counted; what is below 0 is none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast saturates at both ends")]
pub(super) fn whole(value: f64) -> u64 {
    value as u64
}

/// `name{label="value",…} value`, with a timestamp or an exemplar behind it that are not looked at. None of a comment, or of
/// what is no sample.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::default(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// The labels behind an opening brace, and what comes behind the closing one.
fn labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(behind) = rest.strip_prefix('}') {
            found.sort();
            return Some((Labels(found), behind));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, behind) = unquoted(quoted)?;
        found.push((name.to_owned(), value));
        rest = behind;
    }
}

/// A label's value behind its opening quote, with `\\`, `\"` and `\n` taken for what they stand for, and what comes behind the
/// closing quote.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (end, '"') => return Some((value, text.get(end + 1..)?)),
            (_, '\\') => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            (_, other) => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(labels: &Labels) -> Vec<(&str, &str)> {
        labels.0.iter().map(|(name, value)| (&**name, &**value)).collect()
    }

    #[test]
    fn samples_have_a_name_labels_and_a_number() {
        let check = |line: &str, name: &str, expected: &[(&str, &str)], value: f64| {
            let found = sample(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((found.0, pairs(&found.1).as_slice()), (name, expected), "{line}");
            assert!(found.2 == value || found.2.is_nan() && value.is_nan(), "{line}: {}", found.2);
        };
        check("up 1", "up", &[], 1.0);
        check("up_total 1.5e3", "up_total", &[], 1_500.0);
        check("up{} 1", "up", &[], 1.0);
        check("up{b=\"2\",a=\"1\"} 7", "up", &[("a", "1"), ("b", "2")], 7.0);
        check("up{a=\"1\", b=\"2\",} 7", "up", &[("a", "1"), ("b", "2")], 7.0);
        check(r#"up{a="x\"y\\z\n}{ ,b=\"",b=""} 7"#, "up", &[("a", "x\"y\\z\n}{ ,b=\""), ("b", "")], 7.0);
        check("up{a=\"größer 🐝\"} 7", "up", &[("a", "größer 🐝")], 7.0);
        check("up_bucket{le=\"+Inf\"} 3 # {id=\"1\"} 0.5 1.0", "up_bucket", &[("le", "+Inf")], 3.0);
        check("up 3 1790000000.123", "up", &[], 3.0);
        check("up NaN", "up", &[], f64::NAN);
        check("up +Inf", "up", &[], f64::INFINITY);
        check("up -Inf", "up", &[], f64::NEG_INFINITY);
    }

    #[test]
    fn what_is_no_sample_is_passed_over() {
        for line in [
            "",
            " ",
            " up 1",
            "# TYPE up gauge",
            "# EOF",
            "#EOF",
            "up",
            "up ",
            "up one",
            "up{",
            "up{a",
            "up{a=1} 1",
            "up{a=\"1} 1",
            "up{a=\"1\\",
            "up{a=\"1\" 1",
            "up{a=\"1\"}",
            "<html>",
            "{\"type\": \"urn\"}",
        ] {
            assert_eq!(sample(line), None, "{line}");
        }
    }

    #[test]
    fn series_are_found_by_name_and_labels() {
        let text = "# TYPE up gauge\nup{a=\"1\",b=\"x\"} 1\nup{b=\"y\",a=\"1\"} 2\nup{a=\"2\",b=\"x\"} NaN\ndown 4\n# EOF\n";
        let exposition = Exposition::parse(text);
        assert_eq!(exposition.by("up", "a"), BTreeMap::from([("1".to_owned(), 3.0)]));
        assert_eq!(exposition.by("up", "nothing"), BTreeMap::from([(String::new(), 3.0)]));
        assert_eq!((exposition.total("down"), exposition.total("up")), (Some(4.0), None));
        assert_eq!(exposition.total("gone"), None);
        let other_order = sample("up{b=\"y\",a=\"1\"} 0").unwrap().1;
        assert_eq!(exposition.get("up", &other_order), Some(2.0));
        assert_eq!(exposition.series("up").count(), 3);
    }
}
