//! Which environment variables are configuration, and what they say.
//!
//! `WASPMQ_LISTEN` is `listen`, `WASPMQ_LIMITS__HEARTBEAT_MS` is `limits.heartbeat_ms`. A variable that looks
//! like a key but is none is an error, so that a typing mistake does not pass for a default.

use super::error::{ConfigError, Finding, Origin};
use std::ffi::OsString;
use toml::Value;

const PREFIX: &str = "WASPMQ_";

/// Variables that the command line reads; they are no keys.
const RESERVED: [&str; 5] =
    ["WASPMQ_CONFIG", "WASPMQ_URL", "WASPMQ_TOKEN", "WASPMQ_ADMIN_URL", "WASPMQ_ADMIN_TOKEN"];

/// The variables of a process that are text; others are no key's, or an error.
///
/// # Errors
/// A name or a value that is about configuration is not text: ignored, it would leave the broker with a default.
pub fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let (mut texts, mut findings) = (Vec::new(), Vec::new());
    for (name, value) in variables {
        let problem =
            if name.to_str().is_none() { "the name is not UTF-8" } else { "the value is not UTF-8" };
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => texts.push((name, value)),
            (name, _) => {
                let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
                findings.extend(key(&name).map(|key| Finding {
                    origin: Origin::Variable(name),
                    key,
                    problem: problem.to_owned(),
                }));
            }
        }
    }
    if findings.is_empty() { Ok(texts) } else { Err(ConfigError::Invalid(findings)) }
}

/// The key a variable sets, such as `limits.heartbeat_ms`; `None` when it is not about configuration.
pub(super) fn key(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix(PREFIX)?;
    if RESERVED.contains(&variable) || is_service_link(rest) {
        return None;
    }
    Some(rest.to_ascii_lowercase().replace("__", "."))
}

/// Kubernetes sets these in every container for each service of the namespace, one called `waspmq` or
/// `waspmq-admin` included.
fn is_service_link(rest: &str) -> bool {
    !rest.contains("__")
        && (rest == "PORT"
            || rest.ends_with("_PORT")
            || rest.starts_with("PORT_")
            || rest.contains("_PORT_")
            || rest.ends_with("SERVICE_HOST")
            || rest.contains("SERVICE_PORT"))
}

/// A variable's text as a value of the type that `like` has. A list is TOML (`["a", "b"]`) or `a,b`.
pub(super) fn value(text: &str, like: &Value) -> Value {
    let string = || Value::String(text.to_owned());
    let parse = |text: &str| format!("value = {text}").parse::<toml::Table>().ok()?.remove("value");
    match like {
        Value::String(_) => string(),
        Value::Array(_) if !text.trim_start().starts_with('[') => Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|entry| !entry.is_empty())
                .map(|entry| Value::String(entry.to_owned()))
                .collect(),
        ),
        // A text that is not of the type is left as it is, for the parser of the whole to complain about.
        _ => parse(text).unwrap_or_else(string),
    }
}
