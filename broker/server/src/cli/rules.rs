//! Files of rules, and checking them without a broker.
//!
//! A file is TOML with `[[rules]]`, or JSON: a list of rules, or an object with `rules`. Faults of a TOML file are told
//! with their lines; JSON has none once it is parsed.

use super::failure::Failure;
use super::output;
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use waspmq_policy::{BadRule, CheckedRules, Hook, Strict, check_rules};

/// Check rules without a broker
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is wrong with a file of rules, each fault with its line where the file is TOML
    Check {
        /// TOML with `[[rules]]`, or JSON
        file: PathBuf,
        /// The hook that the rules are for
        #[arg(long, value_enum)]
        hook: super::policy::Hook,
    },
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let Command::Check { file, hook } = &arguments.command;
    let (_, checked) = read(file, (*hook).into())?;
    let CheckedRules { count, version, digest } = checked;
    if as_json {
        return Ok(output::json(&json!({ "rules": count, "version": version, "digest": digest }))?);
    }
    let hook = Hook::from(*hook).as_str();
    Ok(output::line(format_args!("{version}: rules {count}, hook {hook}"))?)
}

/// Reads rules and checks them for a hook.
pub(super) fn read(path: &Path, hook: Hook) -> Result<(Vec<Value>, CheckedRules), Failure> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let rules = if is_json { parse_json(&text) } else { parse_toml(&text) };
    let rules = rules.map_err(|fault| anyhow!("{}{fault}", path.display()))?;
    match check_rules(hook, &rules) {
        Ok(checked) => Ok((rules, checked)),
        Err(faults) => {
            let place = |bad: &BadRule| if is_json { None } else { line_of(&text, &bad.path) };
            let tell = |bad: &BadRule| match place(bad) {
                Some(line) => format!("{}:{line}: {bad}", path.display()),
                None => format!("{}: {bad}", path.display()),
            };
            Err(anyhow!("{}", faults.iter().map(tell).collect::<Vec<_>>().join("\n")).into())
        }
    }
}

/// The fault begins with its line and column, where it has one.
fn parse_json(text: &str) -> Result<Vec<Value>, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let Strict(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.into_inner());
        let list = if path.starts_with('[') { "rules" } else { "" };
        match error.is_data() {
            true => format!(":{}:{}: {list}{path}: {error}", error.line(), error.column()),
            false => not_json(&error),
        }
    })?;
    json.end().map_err(|error| not_json(&error))?;
    rules_of(value)
}

fn not_json(error: &serde_json::Error) -> String {
    format!(":{}:{}: it is not JSON: {error}", error.line(), error.column())
}

fn parse_toml(text: &str) -> Result<Vec<Value>, String> {
    let value = toml::from_str(text).map_err(|error| {
        let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
        format!(":{line}:{column}: it is not TOML: {}", error.message())
    })?;
    rules_of(value)
}

fn rules_of(value: Value) -> Result<Vec<Value>, String> {
    let mut value = value;
    if let Some(other) = value.as_object().and_then(|all| all.keys().find(|key| *key != "rules")) {
        return Err(format!(": {other:?} is not a key of a file of rules, which has only `rules`"));
    }
    let rules = value.get_mut("rules").map(Value::take).unwrap_or(value);
    match rules {
        Value::Array(rules) => Ok(rules),
        _ => Err(": it has no list `rules`".to_owned()),
    }
}

/// The line of the deepest part of a path such as `rules[3].then.to` that the file has.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut found = None;
    in_table(table.get_ref(), path, &mut found);
    found.map(|span: Range<usize>| line_and_column(text, span.start).0)
}

/// Notes where the next part of the path is, and goes on below it. A key may have dots of its own, so it is looked for
/// among those that are there.
fn in_table(table: &DeTable<'_>, path: &str, found: &mut Option<Range<usize>>) {
    for (key, value) in table {
        let Some(rest) = path.strip_prefix(&**key.get_ref()) else { continue };
        if rest.is_empty() || rest.starts_with(['.', '[']) {
            *found = Some(key.span());
            return in_value(value, rest, found);
        }
    }
}

fn in_value(value: &Spanned<DeValue<'_>>, path: &str, found: &mut Option<Range<usize>>) {
    match value.get_ref() {
        DeValue::Table(table) => in_table(table, path.strip_prefix('.').unwrap_or(path), found),
        DeValue::Array(items) => {
            let index = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let Some((index, rest)) = index else { return };
            let item = index.parse::<usize>().ok().and_then(|index| items.get(index));
            if let Some(item) = item {
                *found = Some(item.span());
                in_value(item, rest, found);
            }
        }
        _ => {}
    }
}

/// Both from 1.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |index| index + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
# Orders of robots go to the audit, too.
[[rules]]
when.address = "topic/orders.>"
when.sender = ["bot-*"]
then.mirror = "topic/audit"

[[rules]]
when = { header = { "x-debug" = true } }
then = "deliver"
"#;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    /// What is said about a file, without its folder.
    fn fault(name: &str, text: &str, hook: Hook) -> String {
        let (folder, path) = file(name, text);
        let Err(Failure::Failed(error)) = read(&path, hook) else { panic!("{text} is good") };
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let (_folder, path) = file("r.toml", GOOD);
        let (rules, checked) = read(&path, Hook::Routing).unwrap();
        assert_eq!(checked.count, 2);
        for document in [json!({ "rules": rules }), Value::Array(rules)] {
            let (_folder, path) = file("r.json", &document.to_string());
            assert_eq!(read(&path, Hook::Routing).unwrap().1, checked);
        }
    }

    #[test]
    fn faults_have_lines() {
        let check = |from: &str, to: &str, expected: &str| {
            assert!(GOOD.contains(from));
            let said = fault("r.toml", &GOOD.replace(from, to), Hook::Routing);
            assert!(said.starts_with(expected), "{said}");
        };
        check("then.mirror", "then.copy", "r.toml:6: rules[0].then.copy: unknown field `copy`");
        check("\"topic/audit\"", "\"audit\"", "r.toml:6: rules[0].then.mirror: \"audit\" is not an address");
        check("\"deliver\"", "\"devour\"", "r.toml:10: rules[1].then: \"devour\" is none of");
        check("true", "3", "r.toml:9: rules[1].when.header.x-debug: must be a text");
        check("then = \"deliver\"", "", "r.toml:8: rules[1]: missing field `then`");
        check("[[rules]]\nwhen =", "[[rules]\nwhen =", "r.toml:8:");
        check("[[rules]]\nwhen =", "[other]\nwhen =", "r.toml: \"other\" is not a key of a file of rules");
        let dots = "[[rules]]\nwhen.header.'a.b' = 'x'\nwhen.header.'a' = 1\nthen = 'deliver'\n";
        assert!(fault("r.toml", dots, Hook::Routing).starts_with("r.toml:3: rules[0].when.header.a: must"));
        let both = "[[rules]]\nthen = 'x'\n[[rules]]\nthen = 'y'\n";
        let said = fault("r.toml", both, Hook::Overflow);
        let lines: Vec<_> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(lines, ["r.toml:2:", "r.toml:4:"], "{said}");
    }

    /// What people copy has to work.
    #[test]
    fn the_examples_of_the_page_are_good_rules() {
        let page = include_str!("../../../../docs/RULES.md");
        let blocks = |kind: &str| -> Vec<&str> {
            let opening = format!("```{kind}\n");
            let starts = page.split(opening.as_str()).skip(1);
            starts.map(|block| block.split("```").next().unwrap()).collect()
        };
        let hooks = [Hook::Routing, Hook::Ack, Hook::Overflow, Hook::Compression];
        let examples = blocks("toml");
        assert_eq!(examples.len(), hooks.len());
        for (text, hook) in examples.iter().zip(hooks) {
            let (_folder, path) = file("r.toml", text);
            assert!(read(&path, hook).is_ok(), "{text}");
        }
        let (_folder, path) = file("r.toml", examples[0]);
        let document: waspmq_policy::PolicyDocument = serde_json::from_str(blocks("json")[0]).unwrap();
        let same = check_rules(document.hook, &document.rules.unwrap()).unwrap();
        assert_eq!(same.count, read(&path, Hook::Routing).unwrap().1.count);
        for row in page.lines().filter(|line| line.starts_with("| `{") || line.starts_with("| `\"")) {
            let codes = row.split(" | ").next().unwrap().split('`').skip(1).step_by(2);
            let thens: Vec<Value> = codes.filter_map(|code| serde_json::from_str(code).ok()).collect();
            assert!(!thens.is_empty(), "{row}");
            for then in thens {
                let on = json!({ "on": { "timeout": then } });
                let fits = |hook: Hook, then: &Value| check_rules(hook, &[json!({ "then": then })]).is_ok();
                let codec = json!({ "codec": then });
                let any = Hook::ALL.iter().any(|hook| fits(*hook, &then))
                    || fits(Hook::Ack, &on)
                    || fits(Hook::Compression, &codec);
                assert!(any, "{then} of {row}");
            }
        }
    }

    #[test]
    fn json_is_told_apart_and_has_no_lines() {
        let bad = fault("r.JSON", "[{\"then\": \"x\"}]", Hook::Ack);
        assert!(bad.starts_with("r.JSON: rules[0].then: \"x\" is none of"), "{bad}");
        assert!(fault("r.json", "[\n", Hook::Ack).starts_with("r.json:2:0: it is not JSON"));
        let twice = fault("r.json", r#"[{"then": "accept", "then": "continue"}]"#, Hook::Admission);
        assert!(twice.starts_with("r.json:1:28: rules[0].then: duplicate key `then`"), "{twice}");
        let twice = fault("r.json", r#"{"rules": [], "rules": []}"#, Hook::Admission);
        assert!(twice.contains(": rules: duplicate key `rules`"), "{twice}");
        assert!(fault("r.json", "[] []", Hook::Ack).starts_with("r.json:1:4: it is not JSON"));
        assert_eq!(fault("r.json", "3", Hook::Ack), "r.json: it has no list `rules`");
        assert!(fault("r.toml", "", Hook::Ack).starts_with("r.toml: it has no list `rules`"));
        assert!(matches!(read(Path::new("/nowhere"), Hook::Ack), Err(Failure::Failed(_))));
    }
}
