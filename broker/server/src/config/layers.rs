//! Defaults, file, environment and flags, overlaid as one TOML table and parsed once.
//!
//! Each key remembers who set it, so that a complaint names the file and line, the variable or the flag.

use super::check::Problem;
use super::error::{ConfigError, Finding, Origin};
use super::{Config, Profile, environment};
use crate::files::open_regular;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// What is read, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// Names and values; those that do not begin with `WASPMQ_` are ignored.
    pub environment: Vec<(String, String)>,
    pub flags: Flags,
}

/// The keys that have a flag of their own.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub data_dir: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// A valid configuration and how it came to be.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// What is legal but probably not meant, one sentence each.
    pub warnings: Vec<String>,
    pub(super) origins: Origins,
}

/// Who set a key; keys that nobody set are absent.
pub(super) type Origins = BTreeMap<String, Origin>;

/// Reads and checks the configuration, with the files that it names.
///
/// # Errors
/// It cannot be read or is not valid; the error has everything that is wrong.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let problems = |config: &Config| config.problems().into_iter().chain(config.file_problems()).collect();
    checked(sources, |path| File::open(path), problems)
}

/// As [`load`], for a broker that runs: what is made of files, the certificate and access, is checked when it is made, so that
/// one that cannot be used does not keep the other from being replaced. A configuration from a pipe is not read again.
///
/// # Errors
/// It cannot be read or is not valid in itself.
pub fn reload(sources: &Sources) -> Result<Loaded, ConfigError> {
    checked(sources, open_regular, Config::problems)
}

fn checked(
    sources: &Sources,
    open: fn(&Path) -> io::Result<File>,
    check: impl Fn(&Config) -> Vec<Problem>,
) -> Result<Loaded, ConfigError> {
    let layers = collect(sources, open)?;
    let config = layers.parse()?;
    let findings: Vec<_> = check(&config).into_iter().map(|problem| layers.finding_of(problem)).collect();
    if !findings.is_empty() {
        return Err(ConfigError::Invalid(findings));
    }
    Ok(Loaded { warnings: config.warnings(), config, origins: layers.origins })
}

/// The keys that somebody set.
#[derive(Debug, Default)]
struct Layers {
    set: BTreeMap<String, Value>,
    origins: Origins,
    /// Where the file has the entries of its lists and their keys, as in `address[0]` and `address[0].level`.
    entries: Origins,
}

fn collect(sources: &Sources, open: fn(&Path) -> io::Result<File>) -> Result<Layers, ConfigError> {
    let mut layers = Layers::default();
    if let Some(path) = &sources.file {
        let text = open(path)
            .and_then(io::read_to_string)
            .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        layers.add_file(path, &text)?;
    }
    let known = known_keys();
    for (name, text) in &sources.environment {
        if let Some(key) = environment::key(name) {
            let like = known.get(&key).cloned().unwrap_or_else(|| Value::String(String::new()));
            layers.set(key, environment::value(text, &like), Origin::Variable(name.clone()));
        }
    }
    let Flags { data_dir, listen, admin } = &sources.flags;
    let text = |address: &SocketAddr| Value::String(address.to_string());
    if let Some(path) = data_dir {
        let path = Value::String(path.to_string_lossy().into_owned());
        layers.set("data_dir".to_owned(), path, Origin::Flag("--data-dir"));
    }
    if let Some(address) = listen {
        layers.set("listen".to_owned(), text(address), Origin::Flag("--listen"));
    }
    if let Some(address) = admin {
        layers.set("admin.listen".to_owned(), text(address), Origin::Flag("--admin"));
    }
    layers.refuse_unknown(&known)?;
    Ok(layers)
}

impl Layers {
    fn set(&mut self, key: String, value: Value, origin: Origin) {
        self.origins.insert(key.clone(), origin);
        self.set.insert(key, value);
    }

    fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
            ConfigError::Syntax { path: path.to_owned(), line, column, message: error.message().to_owned() }
        })?;
        // The spans say where a key was written, the second parse what its value is.
        let values: Table = text.parse().unwrap_or_default();
        let mut lines = BTreeMap::new();
        key_lines(table.get_ref(), "", text, &mut lines);
        let at = |line| Origin::File { path: path.to_owned(), line };
        for (key, value) in flatten(&values) {
            let line = lines.get(&key).copied().unwrap_or(1);
            self.set(key, value, at(line));
        }
        // What stands in a list has a line, too; as a whole the list is set like any other key.
        let entries = lines.into_iter().filter(|(key, _)| key.contains('['));
        self.entries = entries.map(|(key, line)| (key, at(line))).collect();
        Ok(())
    }

    fn refuse_unknown(&self, known: &BTreeMap<String, Value>) -> Result<(), ConfigError> {
        let findings: Vec<_> = self
            .set
            .keys()
            .filter(|key| !known.contains_key(*key))
            .map(|key| self.finding(key, unknown_problem(key, known)))
            .collect();
        if findings.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(findings)) }
    }

    /// Lays the keys over the defaults of their profile and gives each its type.
    fn parse(&self) -> Result<Config, ConfigError> {
        let profile = match self.set.get("profile") {
            None => Profile::default(),
            Some(value) => value.clone().try_into().map_err(|error: toml::de::Error| {
                ConfigError::Invalid(vec![self.finding("profile", error.message().to_owned())])
            })?,
        };
        let mut table = table_of(&Config::preset(profile));
        for (key, value) in &self.set {
            insert(&mut table, key, value.clone());
        }
        serde_path_to_error::deserialize(table).map_err(|error| {
            let path = error.path().to_string();
            let (key, within) = path.split_once('[').unwrap_or((&path, ""));
            let message = error.inner().message();
            let message = if is_secret(key) { without_value(message) } else { message.to_owned() };
            let problem = format!("{}{message}{}", entry_of(within), unit_hint(&path));
            ConfigError::Invalid(vec![Finding {
                origin: self.origin_within(key, &path),
                ..self.finding(key, problem)
            }])
        })
    }

    fn finding(&self, key: &str, problem: String) -> Finding {
        let origin = self.origins.get(key).cloned().unwrap_or(Origin::Preset);
        Finding { origin, key: key.to_owned(), problem }
    }

    /// Where it was written what is wrong in a list: the key of an entry, else the entry, else the list.
    fn origin_within(&self, key: &str, path: &str) -> Origin {
        let entry = path.find(']').and_then(|end| path.get(..=end)).unwrap_or(path);
        let list = self.origins.get(key).cloned().unwrap_or(Origin::Preset);
        match list {
            Origin::File { .. } => {
                self.entries.get(path).or_else(|| self.entries.get(entry)).cloned().unwrap_or(list)
            }
            other => other,
        }
    }

    fn finding_of(&self, (path, problem): Problem) -> Finding {
        let key = path.split_once('[').map_or(&*path, |(key, _)| key);
        Finding { origin: self.origin_within(key, &path), ..self.finding(key, problem) }
    }
}

/// Every key there is, with a value of its type.
pub(super) fn known_keys() -> BTreeMap<String, Value> {
    let mut full = Config::default();
    full.admin.token = Some(String::new());
    full.access.issuer = Some(String::new());
    full.access.audience = Some(String::new());
    full.tls.certificate = Some(PathBuf::new());
    full.tls.key = Some(PathBuf::new());
    flatten(&table_of(&full)).into_iter().collect()
}

/// The configuration as TOML's own types.
#[expect(clippy::expect_used, reason = "a configuration is strings, numbers and lists under string keys")]
fn table_of(config: &Config) -> Table {
    Table::try_from(config).expect("every field has a TOML form")
}

/// Leaves with their dotted keys. An empty table is a leaf, so that it is not lost.
fn flatten(table: &Table) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                leaves
                    .extend(flatten(inner).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            // A section without keys says nothing, unless there is no such section.
            Value::Table(_) if is_section(name) => {}
            value => leaves.push((name.clone(), value.clone())),
        }
    }
    leaves
}

fn is_section(name: &str) -> bool {
    ["admin", "access", "tls", "quic", "limits", "compression", "policy", "store", "log"].contains(&name)
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                insert(inner, rest, value);
            }
        }
    }
}

fn key_lines(table: &DeTable<'_>, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        lines.insert(key.clone(), line_and_column(text, name.span().start).0);
        match value.get_ref() {
            DeValue::Table(inner) => key_lines(inner, &format!("{key}."), text, lines),
            DeValue::Array(entries) => {
                for (index, entry) in entries.iter().enumerate() {
                    let key = format!("{key}[{index}]");
                    lines.insert(key.clone(), line_and_column(text, entry.span().start).0);
                    if let DeValue::Table(inner) = entry.get_ref() {
                        key_lines(inner, &format!("{key}."), text, lines);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Both from 1.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |index| index + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn unknown_problem(key: &str, known: &BTreeMap<String, Value>) -> String {
    if is_section(key) {
        let variable = key.to_ascii_uppercase();
        return format!(
            "is a section and has no value: its keys stand below [{key}], or are WASPMQ_{variable}__<KEY>"
        );
    }
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    let in_section = |other: &&String| other.rsplit_once('.').map_or("", |(section, _)| section) == section;
    let near = known.keys().filter(in_section).find(|other| stem(other) == stem(key));
    match near {
        Some(near) => format!("unknown key; did you mean `{near}`?"),
        None => {
            let others: Vec<_> = known.keys().filter(in_section).map(String::as_str).collect();
            match (others.is_empty(), section) {
                (true, _) => format!("unknown section `{section}`"),
                (false, "") => {
                    format!("unknown key; there are {} and sections, see docs/CONFIG.md", others.join(", "))
                }
                (false, _) => format!("unknown key; there are {}", others.join(", ")),
            }
        }
    }
}

/// A key without its unit, so that `heartbeat_s` finds `heartbeat_ms`.
fn stem(key: &str) -> &str {
    const UNITS: [&str; 9] = ["_ms", "_s", "_secs", "_seconds", "_bytes", "_kb", "_mb", "_kib", "_mib"];
    UNITS.iter().find_map(|unit| key.strip_suffix(unit)).unwrap_or(key)
}

/// Whether what the key is set to is told to nobody, whatever is wrong with it.
fn is_secret(key: &str) -> bool {
    ["admin.token", "access.keys"].contains(&key)
}

/// What the parser complains about, without the value that it quotes. What it says of fields has none.
fn without_value(message: &str) -> String {
    if ["missing field", "unknown field", "duplicate field"].iter().any(|of| message.starts_with(of)) {
        return message.to_owned();
    }
    // A value may hold anything; what was expected comes last and is our own.
    let expected = message.rsplit_once("expected ").map_or("something else", |(_, expected)| expected);
    format!("expected {expected}; what is there is not shown")
}

/// Which entry of a list, counted from 1, from what follows the bracket of its path.
fn entry_of(within: &str) -> String {
    let index = within.split_once(']').and_then(|(index, _)| index.parse::<usize>().ok());
    index.map_or_else(String::new, |index| format!("entry {}: ", index.saturating_add(1)))
}

fn unit_hint(key: &str) -> &'static str {
    if key.ends_with("_ms") {
        "; the unit is milliseconds, written as a whole number"
    } else if key.contains("_bytes") {
        "; the unit is bytes, written as a whole number"
    } else {
        ""
    }
}
