//! How a Rust file looks: its opening, its length, and nothing left for later.
//!
//! The words the rules look for are put together from parts, so that this file passes its own rules.

use crate::report::Findings;

/// Lines of code a file may have; its `mod tests` is not counted.
const LINES_MAX: usize = 500;

/// Words that need an issue number on the same line: `(#123)`.
const NUMBERED: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// What a file may not contain, and what to do instead.
const FORBIDDEN: [(&str, &str); 3] = [
    (concat!("to", "do!("), "write it, or leave the feature out"),
    (concat!("#[ig", "nore"), "mend or remove the test; long tests go to tests/long"),
    (concat!("unbounded", "_channel("), "every queue has a bound and a named overflow"),
];

/// Rule: a file opens with what it is.
pub(crate) fn missing_opening(path: &str, text: &str) -> Findings {
    let mut findings = Findings::default();
    let generated = text.lines().take(3).any(|line| line.contains(concat!("@gene", "rated")));
    let opening = text.lines().next().and_then(|line| line.strip_prefix("//!"));
    if !generated && opening.is_none_or(|words| words.trim().len() < 20) {
        findings
            .add(path, "open with `//!`: what the file is, its invariants, what is deliberately not here");
    }
    findings
}

/// Rule: a file is at most [`LINES_MAX`] lines; files under a `tests` folder are not counted.
pub(crate) fn too_long(path: &str, text: &str) -> Findings {
    let mut findings = Findings::default();
    let is_test = path.split('/').any(|part| part == "tests" || part == "tests.rs");
    let count = lines_without_tests(text);
    if !is_test && count > LINES_MAX {
        findings.add(
            path,
            format!("{count} lines without its tests, {LINES_MAX} is the limit: split it by topic"),
        );
    }
    findings
}

/// Lines outside every top-level `#[cfg(test)] mod … { … }`.
fn lines_without_tests(text: &str) -> usize {
    let mut count = 0;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let opens_tests = line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod "));
        if opens_tests && lines.peek().is_some_and(|next| next.ends_with('{')) {
            // rustfmt closes a top-level module with the only brace in the first column.
            lines.by_ref().find(|line| *line == "}");
        } else {
            count += 1;
        }
    }
    count
}

/// Rule: nothing is left for later.
pub(crate) fn leftovers(path: &str, text: &str) -> Findings {
    let mut findings = Findings::default();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", index + 1);
        for word in NUMBERED.iter().filter(|word| has_word(line, word) && !has_issue_number(line)) {
            findings.add(&place, format!("{word} without an issue number; write `{word}(#123)` or do it"));
        }
        for (mark, instead) in FORBIDDEN.iter().filter(|(mark, _)| line.contains(mark)) {
            findings.add(&place, format!("`{mark}` is not allowed: {instead}"));
        }
    }
    findings
}

/// Whether `word` stands in `text` between characters that no name is made of.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    text.match_indices(word).any(|(start, _)| {
        !text[..start].ends_with(is_name) && !text[start + word.len()..].starts_with(is_name)
    })
}

fn has_issue_number(line: &str) -> bool {
    line.split('#').skip(1).any(|rest| rest.starts_with(|character: char| character.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_empty_opening_is_found() {
        missing_opening("a.rs", "//! Reads the tree once per test.\n").assert_none();
        missing_opening("a.rs", "use std::fs;\n//! Too late to be seen by a reader.\n")
            .assert_one("a.rs: open with");
        missing_opening("a.rs", "//!\n").assert_one("open with");
        missing_opening("a.rs", "").assert_one("open with");
        missing_opening("a.rs", concat!("// @gene", "rated by wit-bindgen\n")).assert_none();
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_are_not_counted() {
        let code = "x();\n".repeat(LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    y();\n".repeat(900));
        too_long("src/a.rs", &format!("{code}{tests}")).assert_none();
        too_long("src/a.rs", &format!("{code}{tests}z();\n")).assert_one("501 lines");
        too_long("src/a.rs", &code.repeat(2)).assert_one("1000 lines");
        too_long("src/tests/a.rs", &code.repeat(2)).assert_none();
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_hides_nothing() {
        let text = format!("#[cfg(test)]\nmod tests;\n{}", "x();\n".repeat(LINES_MAX));
        too_long("src/a.rs", &text).assert_one("502 lines");
    }

    #[test]
    fn later_without_a_number_is_found() {
        for word in NUMBERED {
            leftovers("a.rs", &format!("// fine\n// {word}: later\n")).assert_one("a.rs:2");
            leftovers("a.rs", &format!("// {word}(#12): later\n")).assert_none();
            leftovers("a.rs", &format!("let MY_{word}S = 1;\n")).assert_none();
        }
    }

    #[test]
    fn every_forbidden_mark_is_found() {
        for (mark, instead) in FORBIDDEN {
            leftovers("a.rs", &format!("    {mark}\n")).assert_one(instead);
        }
        leftovers("a.rs", concat!("#[ig", "nore = \"slow\"]\n")).assert_one("tests/long");
    }
}
