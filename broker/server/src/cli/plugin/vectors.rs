//! `waspmq plugin test`: vectors put to a component, without a broker.

use super::check::{self, Component};
use crate::cli::failure::Failure;
use crate::cli::output;
use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use waspmq_policy::{Deviation, VectorError, VectorResult, Vectors, VectorsRun};

#[derive(Debug, Args)]
#[command(after_help = "\
Each vector is a question and the decision that has to be given: docs/PLUGIN-KIT.md has the
format. Time, chance and everything else that a component may ask for come from the vector, so
answers and fuel (about instructions) are the same each time. What the component logs is shown.
Exit codes: 0 all as expected, 1 some are not, or a broker would not take the component, 2 a file
cannot be used.

Examples:
  waspmq plugin test orders.wasm --vectors vectors.toml
  waspmq plugin test orders.wasm --vectors vectors.toml --only 'a region' --config @live.json")]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    component: Component,
    /// The file with the vectors
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
    /// Only vectors whose names contain this, with those that they continue
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Reads a file of vectors.
pub(super) fn read(path: &Path) -> Result<Vectors, Failure> {
    let unusable = |reason: &dyn std::fmt::Display| Failure::Usage(format!("{}: {reason}", path.display()));
    let text = String::from_utf8(check::read(path)?).map_err(|_| unusable(&"is not text"))?;
    let vectors: Vectors = toml::from_str(&text).map_err(|error| unusable(&error))?;
    vectors.check().map_err(|error| unusable(&error))?;
    Ok(vectors)
}

pub(super) fn run(arguments: &Arguments, as_json: bool) -> Result<(), Failure> {
    let Arguments { component, vectors: path, only } = arguments;
    let vectors = read(path)?;
    let config = component.config()?.unwrap_or_else(|| vectors.config.clone());
    let bytes = component.read()?;
    show_log();
    let failed = |error: VectorError| match error {
        VectorError::Engine(_) => Failure::Failed(error.into()),
        VectorError::Unfit(_) => Failure::Failed(anyhow!("{}: {error}", component.file.display())),
        VectorError::Empty | VectorError::TooMany | VectorError::Vector { .. } => {
            Failure::Usage(format!("{}: {error}", path.display()))
        }
    };
    let mut run = VectorsRun::new(&bytes, config, component.memory_mb).map_err(failed)?;
    let (mut asked, mut deviating) = (0, 0);
    for group in vectors.groups() {
        let wanted = |name: &str| only.as_ref().is_none_or(|only| name.contains(only.as_str()));
        // Those that a wanted one continues are asked before it; what continues the last wanted one is not.
        let Some(last) = group.iter().rposition(|vector| wanted(&vector.name)) else { continue };
        for vector in group.iter().take(last + 1) {
            let result = run.run(vector).map_err(failed)?;
            asked += 1;
            deviating += u32::from(!result.deviations.is_empty());
            show(&result, as_json)?;
        }
    }
    if asked == 0 {
        return Err(Failure::Usage("no vector has a name that contains --only".to_owned()));
    }
    if as_json {
        output::line(format_args!("{}", json!({ "summary": { "vectors": asked, "deviating": deviating } })))?;
    } else {
        output::line(format_args!("{asked} vectors, {deviating} not as expected"))?;
    }
    if deviating > 0 {
        return Err(anyhow!("{deviating} of {asked} vectors are not as expected").into());
    }
    Ok(())
}

/// What a component logs goes to standard error.
fn show_log() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_ansi(false);
    // Only a second one fails, and then the first serves.
    drop(log.with_max_level(tracing::Level::INFO).try_init());
}

fn show(result: &VectorResult, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let document = serde_json::to_value(result)?;
        return Ok(output::line(format_args!("{document}"))?);
    }
    Ok(output::line(format_args!("{}", text(result)))?)
}

/// One line, and for each deviation what was expected and what was found.
fn text(result: &VectorResult) -> String {
    let VectorResult { name, hook, answer, deviations, fuel } = result;
    let fuel = fuel.map_or_else(String::new, |fuel| format!(", fuel {fuel}"));
    let (word, hook, name) =
        (if deviations.is_empty() { "ok  " } else { "FAIL" }, hook.as_str(), output::printable(name));
    let mut text = format!("{word} {name} ({hook}{fuel})");
    for Deviation { at, expected, found } in deviations {
        let at = if at.is_empty() { "answer" } else { at };
        let shown = |value: &Value| match value {
            Value::Null => "nothing".to_owned(),
            value => output::printable(&value.to_string()),
        };
        let at = output::printable(at);
        text +=
            &format!("\n     {at}\n       expected {}\n       found    {}", shown(expected), shown(found));
    }
    if deviations.len() > 1 {
        text += &format!("\n     the whole answer: {}", output::printable(&answer.to_string()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deviation_shows_both_sides() {
        let deviation = |at: &str, expected, found| Deviation { at: at.to_owned(), expected, found };
        let mut result = VectorResult {
            name: "a\nb".to_owned(),
            hook: waspmq_policy::Hook::Routing,
            answer: json!({ "route": "deliver" }),
            deviations: Vec::new(),
            fuel: Some(7),
        };
        assert_eq!(text(&result), "ok   a\\nb (routing, fuel 7)");
        result.deviations.push(deviation("route", json!("continue"), json!("deliver")));
        let expected = "FAIL a\\nb (routing, fuel 7)\n     route\n       expected \"continue\"\n       found    \"deliver\"";
        assert_eq!(text(&result), expected);
        result.deviations.push(deviation("set_headers.a", json!("1"), Value::Null));
        assert!(text(&result).ends_with("found    nothing\n     the whole answer: {\"route\":\"deliver\"}"));
    }

    #[test]
    fn the_line_of_a_mistake_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.toml");
        let check = |text: &str, expected: &str| {
            std::fs::write(&path, text).unwrap();
            match read(&path) {
                Err(Failure::Usage(said)) => assert!(said.contains(expected), "{text}: {said}"),
                other => panic!("{text}: {other:?}"),
            }
        };
        check("[[vector]]\nname = \"a\"\n", "missing field `expect`");
        check("[[vector]]\nname = \"a\"\nexpect = 1\nmessage = { too = \"all\" }", "line 4");
        check("[[vectors]]\n", "unknown field `vectors`");
        check("config = 1\n", "line 1");
        check("", "there is no [[vector]]");
    }
}
