//! What documents promise: links that resolve, names that the code has, no path of somebody's machine.

use crate::report::Findings;
use crate::sources::has_word;

/// The commands that a newcomer needs; the README shows each by itself, ready to be copied.
const README_COMMANDS: [&str; 2] = ["cargo xtask demo", "cargo xtask test"];

/// Folders that exist on one machine only. Put together from parts: this file is looked at, too.
const MACHINE_FOLDERS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Use", "rs/")];

/// Rule: no absolute path of one machine. Part of a longer path or address (`x/y`, `example.org/y`) is none.
pub(crate) fn machine_paths(path: &str, text: &str) -> Findings {
    let mut findings = Findings::default();
    for (index, line) in text.lines().enumerate() {
        let is_path_part = |character: char| character.is_alphanumeric() || "._-~})>*".contains(character);
        let mut marks = MACHINE_FOLDERS.iter().flat_map(|folder| line.match_indices(folder));
        if let Some((_, folder)) = marks.find(|(start, _)| !line[..*start].ends_with(is_path_part)) {
            findings
                .add(format!("{path}:{}", index + 1), format!("names a path of one machine (`{folder}`)"));
        }
    }
    findings
}

/// Rule: a relative link leads to a file or folder of the repository. `exists` takes a path from the root.
pub(crate) fn broken_links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Findings {
    let mut findings = Findings::default();
    for (line, link) in links(text) {
        let target = link.split('#').next().unwrap_or_default();
        let is_address = link.contains("://") || link.starts_with("mailto:");
        if is_address || target.is_empty() {
            continue;
        }
        if !resolve(path, target).is_some_and(|resolved| exists(&resolved)) {
            findings.add(format!("{path}:{line}"), format!("the link to `{link}` leads nowhere"));
        }
    }
    findings
}

/// The targets of `[text](target)` and `[label]: target` outside code, with their line numbers.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Every second piece is inline code; links around such a piece keep their closing part outside of it.
        for piece in line.split('`').step_by(2) {
            let targets = piece.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
            found.extend(targets.map(|target| (index + 1, target)));
        }
        if let Some((_, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            found.push((index + 1, target.trim()));
        }
    }
    found
}

/// A link's path from the root; `None` where it leaves the repository.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<_> = from.split('/').collect();
    parts.pop();
    if link.starts_with('/') {
        parts.clear();
    }
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Rule: each command stands alone on a line of a code block, or in backquotes.
pub(crate) fn missing_commands(path: &str, text: &str) -> Findings {
    let mut findings = Findings::default();
    for command in README_COMMANDS {
        let is_command = |line: &str| line.split('#').next().is_some_and(|part| part.trim() == command);
        if !text.lines().any(is_command) && !text.contains(&format!("`{command}`")) {
            findings.add(path, format!("`{command}` is not shown by itself"));
        }
    }
    findings
}

/// The names of a source file's public constants.
pub(crate) fn constants(source: &str) -> Vec<String> {
    let names = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    names.map(str::to_owned).collect()
}

/// The field names of every `struct` that refuses unknown fields: that is what makes it part of a configuration.
pub(crate) fn config_keys(source: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut strict = false;
    let mut inside = false;
    for line in source.lines().map(str::trim) {
        if inside {
            inside = !line.starts_with('}');
            keys.extend(field_name(line).map(str::to_owned));
        } else if line.contains("deny_unknown_fields") {
            strict = true;
        } else if strict && !line.starts_with("#[") && !line.starts_with("//") {
            inside = has_word(line, "struct") && line.ends_with('{');
            strict = false;
        }
    }
    keys
}

/// `name` of `pub(crate) name: Type,`.
fn field_name(line: &str) -> Option<&str> {
    let declaration = line.strip_prefix("pub")?;
    let declaration = declaration
        .strip_prefix("(crate)")
        .or_else(|| declaration.strip_prefix("(super)"))
        .unwrap_or(declaration);
    let (name, _) = declaration.trim_start().split_once(':')?;
    name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_').then_some(name)
}

/// Rule: every name stands in the document. No names at all means that they were looked for in the wrong place.
pub(crate) fn undocumented(path: &str, kind: &str, text: &str, names: &[String]) -> Findings {
    let mut findings = Findings::default();
    if text.is_empty() {
        findings.add(path, "is missing or empty");
        return findings;
    }
    if names.is_empty() {
        findings.add(path, format!("no {kind} was found in the sources, so nothing was compared"));
    }
    for name in names.iter().filter(|name| !has_word(text, name)) {
        findings.add(path, format!("the {kind} `{name}` is not in this document"));
    }
    findings
}

/// Rule: the table of error numbers has exactly the code's rows, which open with `| 1400 | \`invalid_frame\` |`. A row
/// that says `retired` keeps a number that the code no longer has, so that it is not given out again.
pub(crate) fn wrong_numbers(path: &str, text: &str, known: &[(u16, &str)]) -> Findings {
    let mut findings = Findings::default();
    let rows: Vec<_> = text.lines().filter_map(numbered_row).collect();
    for (number, name) in known {
        if rows.iter().filter(|row| row.0 == *number).count() != 1 || !rows.contains(&(*number, name)) {
            findings
                .add(path, format!("must have one row for {number}, opening with: | {number} | `{name}` |"));
        }
    }
    for (number, name) in rows.iter().filter(|row| !known.iter().any(|code| code.0 == row.0)) {
        if !text.lines().any(|line| numbered_row(line) == Some((*number, name)) && has_word(line, "retired"))
        {
            findings.add(path, format!("{number} `{name}` is not in the code; mark it as retired"));
        }
    }
    findings
}

/// Number and name of a table row that begins with both.
fn numbered_row(line: &str) -> Option<(u16, &str)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    Some((cells.next()?.parse().ok()?, cells.next()?.trim_matches('`')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_one_machine_is_found() {
        for folder in MACHINE_FOLDERS {
            machine_paths("a.md", &format!("fine\nsee `{folder}x`\n")).assert_one("a.md:2");
            machine_paths("a.md", &format!("{folder}x")).assert_one("a.md:1");
            machine_paths("a.md", &format!("file://{folder}x")).assert_one("a.md:1");
            machine_paths("a.md", &format!("https://example.org{folder}x and ~{folder}x and a{folder}b"))
                .assert_none();
        }
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let exists = |path: &str| ["docs/adr", "docs/PROTOCOL.md", "README.md"].contains(&path);
        let check = |text: &str| broken_links("docs/CONFIG.md", text, exists);
        check("[a](PROTOCOL.md#frames) [b](../README.md) [c](adr/) [d](#here) [e](https://example.org/x)\n")
            .assert_none();
        check("text\n[a](PROTOCOLS.md)\n").assert_one("docs/CONFIG.md:2: the link to `PROTOCOLS.md`");
        check("[`code`](nowhere.md)\n").assert_one("nowhere.md");
        check("[a]: gone.md\n").assert_one("gone.md");
        check("[a](../../outside.md)\n").assert_one("outside.md");
        check("[a](/README.md \"title\")\n").assert_none();
        check("```\n[a](in-code.md)\n```\nand `[a](in-code.md)`\n").assert_none();
    }

    #[test]
    fn a_missing_command_is_found() {
        let text = "Run `cargo xtask test` or\n\n```\ncargo xtask demo   # two minutes\n```\n";
        missing_commands("README.md", text).assert_none();
        missing_commands("README.md", &text.replace("demo", "demonstrate")).assert_one("cargo xtask demo");
        missing_commands("README.md", &text.replace(" test`", " test --fast`"))
            .assert_one("cargo xtask test");
    }

    #[test]
    fn an_undocumented_name_is_found() {
        let limits = constants(
            "//! Limits.\npub const SHARD_COUNT: usize = 64;\nconst PRIVATE: u8 = 1;\npub const KEY_MAX: u8 = 2;\n",
        );
        assert_eq!(limits, ["SHARD_COUNT", "KEY_MAX"]);
        undocumented("docs/CONFIG.md", "limit", "SHARD_COUNT and KEY_MAX", &limits).assert_none();
        undocumented("docs/CONFIG.md", "limit", "SHARD_COUNT and KEY_MAXIMUM", &limits)
            .assert_one("`KEY_MAX`");
        undocumented("docs/CONFIG.md", "limit", "", &limits).assert_one("missing or empty");
        undocumented("docs/CONFIG.md", "limit", "text", &[]).assert_one("nothing was compared");
    }

    #[test]
    fn keys_are_the_fields_of_strict_structs() {
        let source = "
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
/// The listener.
pub struct Listen {
    /// Where.
    pub(crate) address: SocketAddr,
    #[serde(default)]
    pub allow_anonymous: bool,
}
pub struct Effective {
    pub derived: u8,
}
";
        assert_eq!(config_keys(source), ["address", "allow_anonymous"]);
    }

    #[test]
    fn error_numbers_and_their_table_are_compared_both_ways() {
        let known = [(1400, "invalid_frame"), (4000, "drain")];
        let table =
            "| number | name |\n| --- | --- |\n| 1400 | `invalid_frame` | no |\n| 4000 | `drain` | yes |\n";
        let check = |text: &str| wrong_numbers("docs/ERRORS.md", text, &known);
        check(table).assert_none();
        check(&table.replace("| 4000 |", "| 4001 | `old` | retired |\n| 4000 |")).assert_none();
        check(&table.replace("| 4000 |", "| 4001 | `old` | no |\n| 4000 |"))
            .assert_one("4001 `old` is not in the code");
        check(&table.replace("`drain`", "`drained`")).assert_one("opening with: | 4000 | `drain` |");
        check(&format!("{table}| 1400 | `other` | no |\n")).assert_one("one row for 1400");
    }
}
