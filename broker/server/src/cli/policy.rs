//! `waspmq policy`: which plugin or which rules decide which messages.

mod describe;

use super::api::{Access, Api};
use super::capture;
use super::failure::Failure;
use super::output;
use super::{explain, rules};
use anyhow::Context;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use describe::describe;
use serde_json::{Map, Value};
use std::path::PathBuf;
use waspmq_policy::Strict;

/// Bind plugins or rules to addresses, try new versions, and take a change back
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  waspmq policy set audit --plugin route-mirror@1 --match 'topic/orders.>' \\
    --config '{\"to\":\"topic/audit\"}'
  waspmq policy set audit --rules rules.toml --match 'topic/>'
  waspmq policy rules check rules.toml --hook routing
  waspmq policy show audit
  waspmq policy shadow audit --plugin route-mirror@2
  waspmq policy canary audit 10 --plugin route-mirror@2
  waspmq policy activate audit
  waspmq policy rollback audit
  waspmq policy explain 0196f0c2a4b1000001000000000000a7
  waspmq policy audit --limit 20
  waspmq policy capture --match 'topic/orders.>' --seconds 60 --out orders.jsonl")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make or replace a policy; it decides from the next message on, and the one before is kept
    Set(Set),
    /// Ask a version behind the active one and compare them; it decides nothing
    Shadow(Tried),
    /// Let a version decide for a share of the senders
    Canary {
        /// The policy's name
        name: String,
        /// The share, 1 to 99
        #[arg(value_parser = clap::value_parser!(u8).range(1..=99))]
        percent: u8,
        #[command(flatten)]
        changes: Changes,
    },
    /// Let the shadow or canary decide for everybody
    Activate(Step),
    /// All policies
    List,
    /// One policy: what it is, and how it does
    Show {
        /// The policy's name
        name: String,
    },
    /// Drop the shadow or canary; without one go back to what the policy was before its last change
    Rollback(Step),
    /// Remove a policy
    Rm {
        /// The policy's name
        name: String,
    },
    Rules(rules::Arguments),
    /// Which policies decided what about a message, and in how many nanoseconds
    Explain {
        /// The message's id, from its receipt
        id: String,
    },
    /// Who changed what, the newest last; not only policies
    Audit(Audit),
    /// Take down what policies are asked in live traffic, for `waspmq plugin replay`
    Capture(capture::Arguments),
}

#[derive(Debug, Args)]
struct Step {
    /// The policy's name
    name: String,
    /// Only when the policy is of this generation still, as `show` said
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
}

#[derive(Debug, Args)]
struct Audit {
    /// Only lines behind this number; without it the last ones
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Lines at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("decider").args(["plugin", "rules"]).required(true))]
struct Set {
    /// The policy's name; one that exists gets another version
    name: String,
    /// What it decides; the plugin has to have this hook
    #[arg(long, value_enum, default_value_t = Hook::Routing)]
    hook: Hook,
    /// `name@revision`, or `name` for its latest revision
    #[arg(long)]
    plugin: Option<String>,
    /// Rules instead of a plugin: a file of TOML with `[[rules]]`, or of JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "lane", "deadline_ms", "memory_mb"])]
    rules: Option<PathBuf>,
    /// A pattern of addresses whose messages are decided; may be given several times
    #[arg(long = "match", value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// The plugin's configuration: a JSON object, or `@file` with one
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// Lower runs first
    #[arg(long, allow_negative_numbers = true)]
    order: Option<i32>,
    /// Whether it decides
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// With mode `active`: decide for this share of senders only, 1 to 99
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    canary: Option<u8>,
    /// What happens to messages when the plugin fails: `open` as if it had passed them on, `closed` refused, `builtin` no
    /// further policy is asked, `previous` the version before is
    #[arg(long, value_enum)]
    on_failure: Option<OnFailure>,
    /// The broker is not ready while the policy does not serve
    #[arg(long)]
    required: bool,
    /// CPU time of one decision, in milliseconds
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u32>,
    /// Memory of each instance, in MiB
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u32>,
    /// How calls reach the plugin: `auto` directly where its component allows it, `component` never
    #[arg(long, value_enum)]
    lane: Option<Lane>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Lane {
    Auto,
    Component,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Hook {
    Routing,
    Ack,
    Admission,
    Overflow,
    Compression,
}

impl From<Hook> for waspmq_policy::Hook {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Routing => Self::Routing,
            Hook::Ack => Self::Ack,
            Hook::Admission => Self::Admission,
            Hook::Overflow => Self::Overflow,
            Hook::Compression => Self::Compression,
        }
    }
}

/// A version to try: the active one's document, with another plugin or configuration.
#[derive(Debug, Args)]
struct Tried {
    /// The policy's name
    name: String,
    #[command(flatten)]
    changes: Changes,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group = ArgGroup::new("decider").args(["plugin", "rules"]).required(true))]
struct Changes {
    /// `name@revision`, or `name` for its latest revision
    #[arg(long)]
    plugin: Option<String>,
    /// Rules instead of a plugin: a file of TOML with `[[rules]]`, or of JSON
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    rules: Option<PathBuf>,
    /// The plugin's configuration, when it is another one: a JSON object, or `@file` with one
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Active,
    Shadow,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnFailure {
    Open,
    Closed,
    Builtin,
    Previous,
}

impl Step {
    fn take(&self, api: &Api, step: &str) -> anyhow::Result<Value> {
        let generation = self.generation.map(|generation| generation.to_string());
        let query: Vec<_> = generation.iter().map(|seen| ("generation", seen.as_str())).collect();
        api.post_query(&["policies", &self.name, step], &query)
    }
}

impl Changes {
    /// The document of the active version, or of what is tried while there is none, with these changes.
    fn document(&self, state: &Value, mode: &str, percent: Option<u8>) -> Result<Value, Failure> {
        let known = [state.get("document"), state.pointer("/candidate/document")];
        let known = known.into_iter().flatten().find_map(Value::as_object);
        let mut document = known.cloned().unwrap_or_default();
        if let Some(plugin) = &self.plugin {
            document.remove("rules");
            document.insert("plugin".to_owned(), plugin.as_str().into());
        }
        if let Some(path) = &self.rules {
            document.retain(|key, _| !["plugin", "config", "lane"].contains(&key.as_str()));
            document.insert("rules".to_owned(), rules::read(path, hook_of(&document)?)?.0.into());
        }
        document.insert("mode".to_owned(), mode.into());
        document.remove("canary_percent");
        if let Some(percent) = percent {
            document.insert("canary_percent".to_owned(), percent.into());
        }
        if let Some(config) = &self.config {
            document.insert("config".to_owned(), parse_config(config)?.into());
        }
        Ok(Value::Object(document))
    }
}

/// The hook that a document names.
fn hook_of(document: &Map<String, Value>) -> anyhow::Result<waspmq_policy::Hook> {
    let hook = document.get("hook").cloned().context("there is no version whose hook it could have")?;
    serde_json::from_value(hook).context("the broker has a hook that this program does not know")
}

impl Set {
    /// The document of the admin API; what is not given is left to the API's defaults.
    fn document(&self) -> Result<Value, Failure> {
        let mut document = Map::new();
        let word =
            |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
        document.insert("hook".to_owned(), word(self.hook.to_possible_value()).into());
        if let Some(plugin) = &self.plugin {
            document.insert("plugin".to_owned(), plugin.as_str().into());
        }
        if let Some(path) = &self.rules {
            document.insert("rules".to_owned(), rules::read(path, self.hook.into())?.0.into());
        }
        document.insert("match".to_owned(), self.patterns.clone().into());
        if let Some(config) = &self.config {
            document.insert("config".to_owned(), parse_config(config)?.into());
        }
        if let Some(order) = self.order {
            document.insert("order".to_owned(), order.into());
        }
        if let Some(mode) = self.mode.and_then(|mode| word(mode.to_possible_value())) {
            document.insert("mode".to_owned(), mode.into());
        }
        if let Some(on_failure) = self.on_failure.and_then(|choice| word(choice.to_possible_value())) {
            document.insert("on_failure".to_owned(), on_failure.into());
        }
        if let Some(lane) = self.lane.and_then(|lane| word(lane.to_possible_value())) {
            document.insert("lane".to_owned(), lane.into());
        }
        if let Some(percent) = self.canary {
            document.insert("canary_percent".to_owned(), percent.into());
        }
        if self.required {
            document.insert("required".to_owned(), true.into());
        }
        let limits = [("deadline_ms", self.deadline_ms), ("memory_mb", self.memory_mb)];
        let limits: Map<String, Value> =
            limits.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect();
        if !limits.is_empty() {
            document.insert("limits".to_owned(), limits.into());
        }
        Ok(Value::Object(document))
    }
}

/// A JSON object, or `@file` with one.
pub(super) fn parse_config(text: &str) -> Result<Map<String, Value>, Failure> {
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::Usage(format!("cannot read {path}: {error}")))?,
        None => text.to_owned(),
    };
    match serde_json::from_str(&text) {
        Ok(Strict(Value::Object(config))) => Ok(config),
        Ok(_) => Err(Failure::Usage("--config must be a JSON object".to_owned())),
        Err(error) => Err(Failure::Usage(format!("--config is not JSON: {error}"))),
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    // The document is checked before anybody is asked for a token.
    let document = match &arguments.command {
        Command::Set(set) => Some(set.document()?),
        Command::Rules(checked) => return rules::run(checked, arguments.access.json),
        _ => None,
    };
    let api = arguments.access.open()?;
    let state = match &arguments.command {
        Command::Set(set) => api.put(&["policies", &set.name], document.as_ref())?,
        Command::Shadow(Tried { name, changes }) => {
            let document = changes.document(&api.get(&["policies", name])?, "shadow", None)?;
            api.put(&["policies", name], Some(&document))?
        }
        Command::Canary { name, percent, changes } => {
            let document = changes.document(&api.get(&["policies", name])?, "active", Some(*percent))?;
            api.put(&["policies", name], Some(&document))?
        }
        Command::Activate(step) => step.take(&api, "promote")?,
        Command::List => return list(&api.get(&["policies"])?, arguments.access.json),
        Command::Show { name } => api.get(&["policies", name])?,
        Command::Rollback(step) => step.take(&api, "rollback")?,
        Command::Rm { name } => {
            api.delete(&["policies", name])?;
            return Ok(());
        }
        Command::Explain { id } => return explain::run(&api, id, arguments.access.json),
        Command::Audit(audit) => return changes(&api, audit, arguments.access.json),
        Command::Rules(_) => return Ok(()),
        Command::Capture(capture) => return capture::run(&api, capture, arguments.access.json),
    };
    if arguments.access.json {
        return Ok(output::json(&state)?);
    }
    Ok(output::line(format_args!("{}", describe(&state)))?)
}

fn changes(api: &Api, audit: &Audit, as_json: bool) -> Result<(), Failure> {
    let after = audit.after.map(|after| after.to_string());
    let query: Vec<_> = after.iter().map(|after| ("after", after.as_str())).collect();
    let changes = api.get_pages(&["audit"], &query, "changes", audit.limit)?;
    if as_json {
        return Ok(output::json(&changes)?);
    }
    for change in changes.as_array().into_iter().flatten() {
        output::line(format_args!("{}", change_line(change)))?;
    }
    Ok(())
}

/// A line of the audit log for people.
fn change_line(change: &Value) -> String {
    let field = |name: &str| output::cell(change.get(name).unwrap_or_default());
    let time = output::time(change.get("unix_ms").unwrap_or_default());
    let or_nothing = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let (from, to) = (or_nothing(field("from")), or_nothing(field("to")));
    let [seq, generation, who, what, name] = ["seq", "generation", "who", "what", "name"].map(field);
    let details = change.get("details").and_then(Value::as_object).into_iter().flatten();
    let details: Vec<String> = details.map(|(name, value)| detail(name, &output::cell(value))).collect();
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
    output::printable(&format!(
        "{seq} {time} generation {generation}, {who}: {what} {name}, {from} -> {to}{details}"
    ))
}

/// One of a change's details; of a digest its first eight digits.
fn detail(name: &str, value: &str) -> String {
    let is_digest = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = value.get(..8).filter(|_| is_digest).unwrap_or(value);
    format!("{name} {value}")
}

fn list(document: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return Ok(output::json(document)?);
    }
    let headings = [
        "NAME",
        "VERSION",
        "MATCH",
        "ORDER",
        "STATE",
        "CANDIDATE",
        "BREAKER",
        "TAKEN BACK",
        "GENERATION",
        "CALLS",
        "FAILURES",
    ];
    let columns = [
        "/name",
        "/version",
        "/document/match",
        "/document/order",
        "/state",
        "/candidate/version",
        "/breaker",
        "/last_rollback/from",
        "/generation",
        "/calls",
        "/failures",
    ];
    let rows = output::rows(document.get("policies").unwrap_or_default(), &columns);
    output::line(format_args!("{}", output::table(&headings, &rows)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(config: Option<&str>) -> Set {
        Set {
            name: "audit".to_owned(),
            hook: Hook::Routing,
            plugin: Some("p@1".to_owned()),
            rules: None,
            patterns: vec!["topic/a".to_owned(), "all".to_owned()],
            config: config.map(str::to_owned),
            order: Some(-1),
            mode: Some(Mode::Off),
            canary: None,
            on_failure: Some(OnFailure::Closed),
            required: true,
            deadline_ms: Some(5),
            memory_mb: None,
            lane: Some(Lane::Component),
        }
    }

    #[test]
    fn the_document_is_what_was_asked_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"to": "topic/b"}"#).unwrap();
        let from_file = format!("@{}", file.path().display());
        for config in [r#"{"to":"topic/b"}"#, &from_file] {
            let document = set(Some(config)).document().unwrap();
            let expected = json!({
                "hook": "routing", "plugin": "p@1", "match": ["topic/a", "all"], "config": {"to": "topic/b"},
                "order": -1, "mode": "off", "on_failure": "closed", "required": true,
                "limits": {"deadline_ms": 5}, "lane": "component",
            });
            assert_eq!(document, expected);
            assert!(serde_json::from_value::<waspmq_policy::PolicyDocument>(document).is_ok());
        }
        assert_eq!(set(None).document().unwrap().get("config"), None);
    }

    #[test]
    fn what_is_tried_is_the_active_version_with_changes() {
        let changes = Changes { plugin: Some("p@2".to_owned()), rules: None, config: None };
        let active =
            json!({"document": {"plugin": "p@1", "match": ["all"], "canary_percent": 3}, "candidate": null});
        let expected = json!({"plugin": "p@2", "match": ["all"], "mode": "shadow"});
        assert_eq!(changes.document(&active, "shadow", None).unwrap(), expected);
        let only_tried =
            json!({"document": null, "candidate": {"document": {"plugin": "p@1", "match": ["all"]}}});
        let expected = json!({"plugin": "p@2", "match": ["all"], "mode": "active", "canary_percent": 9});
        assert_eq!(changes.document(&only_tried, "active", Some(9)).unwrap(), expected);
    }

    #[test]
    fn rules_take_the_place_of_a_plugin_and_the_other_way_round() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[[rules]]\nthen = 'deliver'\n").unwrap();
        let rules = Some(file.path().to_owned());
        let set = Set {
            plugin: None,
            rules: rules.clone(),
            config: None,
            lane: None,
            deadline_ms: None,
            ..set(None)
        };
        let document = set.document().unwrap();
        assert_eq!((&document["rules"], document.get("plugin")), (&json!([{"then": "deliver"}]), None));
        assert!(serde_json::from_value::<waspmq_policy::PolicyDocument>(document).is_ok());
        let by_plugin =
            json!({"hook": "routing", "plugin": "p@1", "config": {"a": 1}, "lane": "auto", "order": 7});
        let to_rules = Changes { plugin: None, rules: rules.clone(), config: None };
        let by_rules = to_rules.document(&json!({ "document": by_plugin }), "shadow", None).unwrap();
        let expected =
            json!({"hook": "routing", "rules": [{"then": "deliver"}], "order": 7, "mode": "shadow"});
        assert_eq!(by_rules, expected);
        let back = Changes { plugin: Some("p".to_owned()), rules: None, config: None };
        let expected = json!({"hook": "routing", "plugin": "p", "order": 7, "mode": "shadow"});
        assert_eq!(back.document(&json!({ "document": by_rules }), "shadow", None).unwrap(), expected);
        let of_ack = json!({"document": {"hook": "ack", "plugin": "p"}});
        let other = to_rules.document(&of_ack, "shadow", None);
        assert!(matches!(other, Err(Failure::Failed(error)) if error.to_string().contains("rules[0].then")));
        let nobody = Changes { plugin: None, rules, config: None }.document(&json!({}), "shadow", None);
        assert!(nobody.is_err(), "there is no hook to check them for");
    }

    #[test]
    fn a_configuration_is_an_object() {
        for wrong in ["", "[1]", "{", "3"] {
            assert!(matches!(parse_config(wrong), Err(Failure::Usage(_))), "{wrong:?}");
        }
        assert!(matches!(parse_config("@/nowhere"), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_change_is_a_line() {
        let change = json!({
            "seq": 7, "unix_ms": 1_790_000_000_000_u64, "who": "admin 127.0.0.1:5", "what": "policy put", "name": "a\n",
            "from": "", "to": "p@1", "generation": 3
        });
        let expected = "7 2026-09-21T14:13:20Z generation 3, admin 127.0.0.1:5: policy put a\\n, - -> p@1";
        assert_eq!(change_line(&change), expected);
        let rollback = json!({
            "seq": 8, "unix_ms": 1_790_000_000_000_u64, "who": "broker", "what": "automatic rollback", "name": "a",
            "from": "p@1", "to": "p@1", "generation": 4, "details": {
                "changed": "config order", "from_digest": "0123456789abcdef".repeat(4), "reason": "failures",
                "detail": "6 of 100 calls failed",
            },
        });
        let line = change_line(&rollback);
        let (_, details) = line.split_once("p@1 -> p@1 ").unwrap();
        let expected =
            "(changed config order, detail 6 of 100 calls failed, from_digest 01234567, reason failures)";
        assert_eq!(details, expected);
    }
}
