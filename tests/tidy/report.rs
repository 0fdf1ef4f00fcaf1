//! What a rule found: one line per finding, each naming the file and what to do about it.

use std::fmt::Display;

/// The findings of one rule; none means that the rule holds.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<String>);

impl Findings {
    /// `place` is a path, with `:line` where there is one.
    pub(crate) fn add(&mut self, place: impl Display, message: impl Display) {
        self.0.push(format!("{place}: {message}"));
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Fails the test with every finding, not only the first.
    #[track_caller]
    pub(crate) fn assert_none(&self) {
        assert!(self.0.is_empty(), "{} finding(s):\n  {}", self.0.len(), self.0.join("\n  "));
    }

    /// For the rules' own tests: exactly one finding, which contains `part`.
    #[track_caller]
    pub(crate) fn assert_one(&self, part: &str) {
        assert!(
            self.0.len() == 1 && self.0[0].contains(part),
            "expected one finding with {part:?}: {:?}",
            self.0
        );
    }
}

#[test]
#[should_panic(expected = "2 finding(s):\n  a.rs:3: first\n  b.rs: second")]
fn a_failure_shows_every_finding() {
    let mut findings = Findings::default();
    findings.add("a.rs:3", "first");
    findings.add("b.rs", "second");
    findings.assert_none();
}
